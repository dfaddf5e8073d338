//! A client and its backend, connected: two directions.
//!
//! Half-close is passed on as half-close: that direction ends and the other runs on. A failure of one side aborts both,
//! so that the other sees a reset and never a truncated stream that looks complete (promise 1); so does a pair that is
//! dropped before its end. Knows nothing of events, other clients or the core: its owner gives it turns and reports.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::epoll::EventFlags;

use super::side::Side;
use super::way::{Failed, Pause, Tools, Way};
use crate::core::msg::Why;
use crate::engine::inbox::{Ending, Flow};
use crate::net::Stream;
use crate::observe::dump::Sender;

/// Both connections of a granted client.
#[derive(Debug)]
pub struct Pair {
    client: Side,
    backend: Side,
    /// From the client to the backend.
    up: Way,
    down: Way,
    /// Where others read how much has been passed on.
    flow: Arc<Flow>,
    /// That direction has ended: its last byte and its end were passed on.
    up_ended: bool,
    down_ended: bool,
    /// The first failure wins over everything, the first end in order over later ones.
    why: Option<(Why, Option<io::Error>)>,
    /// Both sockets are to be closed, or have been aborted.
    over: bool,
}

/// Which socket an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Client,
    Backend,
}

/// What is to be done about a pair after its turn.
#[derive(Debug)]
pub enum Turn {
    /// Wait for an event.
    Waits,
    /// Give it another turn when others have had theirs.
    Yields,
    /// Both directions have ended, or both sockets were aborted: close them and report.
    Over(Ending),
}

impl Pair {
    pub fn new(client: Stream, backend: Stream, flow: Arc<Flow>) -> Pair {
        Pair {
            client: Side::new(client),
            backend: Side::new(backend),
            up: Way::from(Sender::Client),
            down: Way::from(Sender::Backend),
            flow,
            up_ended: false,
            down_ended: false,
            why: None,
            over: false,
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, which: Which, events: EventFlags) {
        match which {
            Which::Client => self.client.note(events),
            Which::Backend => self.backend.note(events),
        }
    }

    /// Moves what can be moved, in both directions.
    pub fn turn(&mut self, tools: &mut Tools) -> Turn {
        let (mut up, mut down) = (Pause::Waits, Pause::Waits);
        if !self.up_ended && !self.over {
            let outcome = self.up.advance(&mut self.client, &mut self.backend, tools);
            up = self.after(outcome, Which::Client);
        }
        if !self.down_ended && !self.over {
            let outcome = self.down.advance(&mut self.backend, &mut self.client, tools);
            down = self.after(outcome, Which::Backend);
        }
        self.notice_failures();
        self.flow.up.store(self.up.moved, Ordering::Relaxed);
        self.flow.down.store(self.down.moved, Ordering::Relaxed);
        if self.over || self.up_ended && self.down_ended {
            return Turn::Over(self.end(tools));
        }
        if up == Pause::Yields || down == Pause::Yields { Turn::Yields } else { Turn::Waits }
    }

    /// What follows from a turn of the direction that reads from this side.
    fn after(&mut self, outcome: Result<Pause, Failed>, from: Which) -> Pause {
        let (reading, writing) = match from {
            Which::Client => (Why::ClientFailed, Why::BackendFailed),
            Which::Backend => (Why::BackendFailed, Why::ClientFailed),
        };
        match outcome {
            Ok(Pause::Ended) => {
                let (ended, why, to) = match from {
                    Which::Client => (&mut self.up_ended, Why::ClientEnded, &self.backend),
                    Which::Backend => (&mut self.down_ended, Why::BackendEnded, &self.client),
                };
                *ended = true;
                // The first end gives the reason.
                self.why.get_or_insert((why, None));
                // A side that had ended and gone is not harmed; one that reset the connection lost bytes.
                if let Err(e) = to.stream.end_writing() {
                    self.abort(writing, Some(e));
                }
                Pause::Ended
            }
            Ok(pause @ (Pause::Waits | Pause::Yields)) => pause,
            Err(Failed::Reading(e)) => {
                self.abort(reading, Some(e));
                Pause::Ended
            }
            Err(Failed::Writing(e)) => {
                self.abort(writing, Some(e));
                Pause::Ended
            }
        }
    }

    /// A side that fails while nobody reads it is noticed here: its bytes wait for the other side, or its stream has ended.
    /// Asked after the turn, because the event may be older than that: an end and a failure are often told at once.
    fn notice_failures(&mut self) {
        if (self.up_ended || self.up.is_stuck())
            && !self.over
            && let Some(cause) = self.client.failure()
        {
            self.abort(Why::ClientFailed, Some(cause));
        }
        if (self.down_ended || self.down.is_stuck())
            && !self.over
            && let Some(cause) = self.backend.failure()
        {
            self.abort(Why::BackendFailed, Some(cause));
        }
    }

    /// Breaks the connection off. The next turn is the last.
    pub fn abort(&mut self, why: Why, cause: Option<io::Error>) {
        if self.why.as_ref().is_none_or(|(first, _)| gives_way(*first, why)) {
            self.why = Some((why, cause));
        }
        self.over = true;
        self.break_off();
    }

    /// Each side sees the connection fail, unless both its streams have ended: it has said everything and will get the
    /// rest of what it was sent, from the system, which goes on delivering after the close. (Bytes of its own that nobody
    /// has read make that close a reset.)
    fn break_off(&self) {
        for (stream, was_told) in [(&self.client.stream, self.down_ended), (&self.backend.stream, self.up_ended)] {
            if !(was_told && stream.has_ended()) {
                stream.abort();
            }
        }
    }

    /// Ends the client's direction in order: it is read as ended once its bytes have been passed on.
    pub fn dismiss(&mut self, why: Why) {
        if self.up_ended {
            return;
        }
        // The reason is replaced: that the backend ended first is why there is something to dismiss.
        match &mut self.why {
            Some((Why::BackendEnded, _)) | None => self.why = Some((why, None)),
            Some(_) => {}
        }
        // The end is read now, or told by an event if bytes are read first.
        self.client.stream.shutdown(Shutdown::Read);
        self.client.readable = true;
    }

    /// Ends both sides: in order, unless bytes wait for one that does not read, which sees the connection fail then. The
    /// next turn is the last.
    pub fn expire(&mut self, why: Why) {
        self.why = Some((why, None));
        self.over = true;
        for (side, stuck) in [(&self.client, self.down.is_stuck()), (&self.backend, self.up.is_stuck())] {
            if stuck {
                side.stream.abort();
            } else {
                side.stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Bytes passed on, both ways together.
    pub fn moved(&self) -> u64 {
        self.up.moved + self.down.moved
    }

    /// Whether only the client may still send.
    pub fn is_lingering(&self) -> bool {
        self.down_ended && !self.up_ended
    }

    /// Bytes of the client that were passed on.
    pub fn sent(&self) -> u64 {
        self.up.moved
    }

    /// The same, unless more wait for the backend.
    pub fn heard(&self) -> Option<u64> {
        (!self.up.is_stuck() && !self.client.stream.has_unread_bytes()).then_some(self.up.moved)
    }

    fn end(&mut self, tools: &mut Tools) -> Ending {
        self.over = true;
        self.up.clear(tools);
        self.down.clear(tools);
        let (why, cause) = self.why.take().unwrap_or((Why::Panicked, None));
        Ending { why, up: self.up.moved, down: self.down.moved, cause }
    }
}

/// Whether an end in order, told so far, turns out to have been a failure: a half-closed connection is not done before
/// the other half is. A backend that had ended is not at fault when it takes no more bytes.
fn gives_way(first: Why, failure: Why) -> bool {
    match first {
        Why::ClientEnded => true,
        Why::BackendEnded | Why::Lingered | Why::Dismissed => failure != Why::BackendFailed,
        Why::ClientFailed | Why::BackendFailed | Why::Idle | Why::Cut | Why::Panicked => false,
        // Never told of a pair.
        Why::HungUp | Why::NoBackend | Why::Full | Why::NoRoom | Why::Shutdown => false,
    }
}

/// Nobody was told how it ended, so nobody may take it for complete.
impl Drop for Pair {
    fn drop(&mut self) {
        if !self.over {
            self.break_off();
        }
    }
}
