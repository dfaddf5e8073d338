//! A client and its backend, connected: two threads, one direction each.
//!
//! Half-close is passed on as half-close: that direction ends and the other runs on. A failure of one side aborts both,
//! so that the other sees a reset and never a truncated stream that looks complete (promise 1). The pair is over when
//! its last holder lets go of it: the sockets are closed first, then the end is reported, once, also after a panic.

mod copy;

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use self::copy::{End, copy};
use super::inbox::{Ending, Message, Outlet};
use crate::core::msg::{ClientId, Why};
use crate::net::Stream;

/// A client that sends nothing for this long after its backend has ended is closed. Connection pools keep such dead
/// connections for hours, and each would keep a switchover from completing.
const LINGER: Duration = Duration::from_secs(5);

/// Both connections of a granted client and what its two threads share.
#[derive(Debug)]
pub struct Pair {
    id: ClientId,
    /// `None` only while the pair is dropped.
    sockets: Option<(Stream, Arc<Stream>)>,
    up: AtomicU64,
    down: AtomicU64,
    course: Mutex<Course>,
    /// The client's direction has ended, or there is a reason to end.
    changed: Condvar,
    outlet: Outlet,
}

/// How far the pair has come.
#[derive(Debug, Default)]
struct Course {
    /// The client's direction has ended.
    up_ended: bool,
    down_ended: bool,
    /// A failure has aborted both sockets: nothing is waited for any more.
    aborted: bool,
    /// The first failure wins over everything, the first end in order over later ones.
    why: Option<(Why, Option<io::Error>)>,
}

impl Pair {
    pub fn new(id: ClientId, client: Stream, backend: Arc<Stream>, outlet: Outlet) -> Pair {
        Pair {
            id,
            sockets: Some((client, backend)),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            course: Mutex::default(),
            changed: Condvar::new(),
            outlet,
        }
    }

    /// The client again, if nothing has begun: the pair is dissolved without a report.
    pub fn dissolve(mut self) -> Option<Stream> {
        self.sockets.take().map(|(client, _)| client)
    }

    /// The client's direction, on the calling thread, until it ends.
    pub fn run_up(self: Arc<Pair>, initial: &AtomicUsize) {
        let _guard = AbortOnPanic(&self);
        let Some((client, backend)) = &self.sockets else { return };
        match copy(client, backend, &self.up, initial) {
            End::Eof => {
                self.has_ended(Why::ClientEnded);
                match backend.end_writing() {
                    Ok(()) => self.end(|course| course.up_ended = true),
                    // A backend that had ended and gone is not harmed; one that reset the connection lost bytes.
                    Err(e) => self.abort(Why::BackendFailed, Some(e)),
                }
            }
            End::ReadFailed(e) => self.abort(Why::ClientFailed, Some(e)),
            End::WriteFailed(e) => self.abort(Why::BackendFailed, Some(e)),
        }
    }

    /// The backend's direction, likewise; then, if the client may still send, watches that it does.
    pub fn run_down(self: Arc<Pair>, initial: &AtomicUsize) {
        let _guard = AbortOnPanic(&self);
        let Some((client, backend)) = &self.sockets else { return };
        match copy(backend, client, &self.down, initial) {
            End::Eof => {
                self.has_ended(Why::BackendEnded);
                match client.end_writing() {
                    Ok(()) => {
                        self.end(|course| course.down_ended = true);
                        self.linger();
                    }
                    Err(e) => self.abort(Why::ClientFailed, Some(e)),
                }
            }
            End::ReadFailed(e) => self.abort(Why::BackendFailed, Some(e)),
            End::WriteFailed(e) => self.abort(Why::ClientFailed, Some(e)),
        }
    }

    /// Both sides see the connection fail, and both threads wake up.
    pub fn abort(&self, why: Why, cause: Option<io::Error>) {
        let mut course = self.course.lock();
        course.aborted = true;
        if course.why.as_ref().is_none_or(|(first, _)| yields(*first, why)) {
            course.why = Some((why, cause));
        }
        drop(course);
        if let Some((client, backend)) = &self.sockets {
            client.abort();
            backend.abort();
        }
        self.changed.notify_all();
    }

    /// Ends the client's direction in order: it is read as ended from now on.
    pub fn dismiss(&self, why: Why) {
        let mut course = self.course.lock();
        if course.up_ended {
            return;
        }
        // The reason is replaced: that the backend ended first is why there is something to dismiss.
        match &mut course.why {
            Some((Why::BackendEnded, _)) | None => course.why = Some((why, None)),
            Some(_) => {}
        }
        if let Some((client, _)) = &self.sockets {
            client.shutdown(Shutdown::Read);
        }
    }

    /// One side has ended in order. The first one gives the reason; it is noted before the other side can answer to it.
    fn has_ended(&self, why: Why) {
        self.course.lock().why.get_or_insert((why, None));
    }

    /// One direction has ended in order: its last byte and its end were passed on.
    fn end(&self, mark: impl FnOnce(&mut Course)) {
        mark(&mut self.course.lock());
        self.changed.notify_all();
    }

    /// Reports that only the client may still send, and closes it once it has sent nothing for a while.
    fn linger(&self) {
        let Some((client, _)) = &self.sockets else { return };
        let mut course = self.course.lock();
        if course.up_ended {
            return;
        }
        self.outlet.send(Message::BackendEnded(self.id));
        let mut seen = self.up.load(Ordering::Relaxed);
        while !course.up_ended && !course.aborted {
            let timed_out = self.changed.wait_for(&mut course, LINGER).timed_out();
            let now = self.up.load(Ordering::Relaxed);
            // A client whose bytes wait for a slow backend has sent something.
            if timed_out && now == seen && !client.has_unread_bytes() {
                drop(course);
                return self.dismiss(Why::Lingered);
            }
            if timed_out {
                seen = now;
            }
        }
    }
}

/// Whether an end in order, told so far, turns out to have been a failure: a half-closed connection is not done before
/// the other half is. A backend that had ended is not at fault when it takes no more bytes.
fn yields(first: Why, failure: Why) -> bool {
    match first {
        Why::ClientEnded => true,
        Why::BackendEnded | Why::Lingered | Why::Dismissed => failure != Why::BackendFailed,
        Why::ClientFailed | Why::BackendFailed | Why::Cut | Why::Panicked => false,
        // Never told of a pair.
        Why::HungUp | Why::NoBackend | Why::Full | Why::NoRoom | Why::Shutdown => false,
    }
}

/// A thread that panics takes its client's connections with it, and nothing else.
struct AbortOnPanic<'a>(&'a Pair);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort(Why::Panicked, None);
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let Some(sockets) = self.sockets.take() else { return };
        drop(sockets);
        let (why, cause) = self.course.get_mut().why.take().unwrap_or((Why::Panicked, None));
        let (up, down) = (*self.up.get_mut(), *self.down.get_mut());
        self.outlet.send(Message::Closed(self.id, Ending { why, up, down, cause }));
    }
}
