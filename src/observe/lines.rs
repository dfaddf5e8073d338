//! Writes lines on a separate thread, from a bounded queue. A full or hanging disk costs lines, which are counted and
//! reported, and never makes the sender wait. The sink decides the format of a line and where it goes.
//!
//! Opening does not block either: a pipe without a reader keeps as much as fits into it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr, write};

use super::words::system_words;
use crate::threads;

/// Capacity of the queue in lines: some seconds of DEBUG under load.
const QUEUE: usize = 8192;
/// How long the end of the program waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// The destination of lines. `Display` is its name in messages.
pub trait LineSink<L>: fmt::Display + Send + 'static {
    /// Writes one line, preceded by the number of lost lines if that is not 0.
    ///
    /// # Errors
    /// When the line is lost.
    fn write(&mut self, line: &L, lost: u64) -> io::Result<()>;

    /// Reopens the file, if there is one.
    ///
    /// # Errors
    /// The old file stays in use.
    fn reopen(&mut self) -> io::Result<()>;

    /// Reports a failure; called once per failure.
    fn complain(&self, words: &str);
}

enum LineEntry<L> {
    Line(L),
    Reopen,
    End,
}

/// The thread that writes. Dropping it writes pending lines, if the disk takes less than a second.
#[derive(Debug)]
pub struct LineWriter<L> {
    line_sender: LineSender<L>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    /// Message for standard error if the disk does not answer at the end.
    hangs: String,
}

/// Puts lines into the queue, from any thread. Cheap to clone.
#[derive(Debug)]
pub struct LineSender<L> {
    entries: Sender<LineEntry<L>>,
    /// Number of lost lines not reported yet.
    lost: Arc<AtomicU64>,
}

/// Requests that a file be reopened, from any thread.
pub struct Reopener(Box<dyn Fn() + Send>);

impl Reopener {
    /// To be called after a rotation. If the queue is full because of a slow disk the request is lost, like lines.
    pub fn reopen(&self) {
        (self.0)();
    }
}

impl<L: Send + 'static> LineWriter<L> {
    /// Starts a thread with this name. `hangs` is the message for standard error if the disk does not answer at the
    /// end.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(name: &str, sink: impl LineSink<L>, hangs: String) -> io::Result<LineWriter<L>> {
        let (entries, inbox) = bounded(QUEUE);
        let (running, ended) = bounded::<()>(0);
        let line_sender = LineSender { entries, lost: Arc::default() };
        let line_thread = LineThread { sink, lost: Arc::clone(&line_sender.lost), complained: false };
        let thread = threads::spawn(name, move || {
            let _running = running;
            line_thread.run(&inbox);
        })?;
        Ok(LineWriter { line_sender, ended, thread: Some(thread), hangs })
    }

    pub fn line_sender(&self) -> LineSender<L> {
        self.line_sender.clone()
    }

    pub fn reopener(&self) -> Reopener {
        let line_sender = self.line_sender();
        Reopener(Box::new(move || drop(line_sender.entries.try_send(LineEntry::Reopen))))
    }
}

impl<L> LineSender<L> {
    /// Returns false if the queue is full: then the line is lost, and counted.
    pub fn put(&self, line: L) -> bool {
        let put = self.entries.try_send(LineEntry::Line(line)).is_ok();
        if !put {
            self.lose();
        }
        put
    }

    /// Counts a line that could not be made.
    pub fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

impl<L> Clone for LineSender<L> {
    fn clone(&self) -> LineSender<L> {
        LineSender { entries: self.entries.clone(), lost: Arc::clone(&self.lost) }
    }
}

impl<L> Drop for LineWriter<L> {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        self.line_sender.entries.send_deadline(LineEntry::End, deadline).ok();
        match self.ended.recv_deadline(deadline) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                self.thread.take().map(JoinHandle::join);
            }
            // A write that hangs in the kernel cannot be interrupted.
            Err(RecvTimeoutError::Timeout) => {
                // Standard error may be closed.
                writeln!(io::stderr(), "{}", self.hangs).ok();
            }
        }
    }
}

/// The data of the thread.
struct LineThread<S> {
    sink: S,
    lost: Arc<AtomicU64>,
    /// The current failure has been reported.
    complained: bool,
}

impl<S> LineThread<S> {
    fn run<L>(mut self, inbox: &Receiver<LineEntry<L>>)
    where
        S: LineSink<L>,
    {
        while let Ok(entry) = inbox.recv() {
            match entry {
                LineEntry::Line(line) => self.write(&line),
                LineEntry::Reopen => {
                    if let Err(e) = self.sink.reopen() {
                        let words = system_words(&e);
                        self.complain(&format!("cannot reopen {}: {words}; the old one stays", self.sink));
                    }
                }
                LineEntry::End => return,
            }
        }
    }

    fn write<L>(&mut self, line: &L)
    where
        S: LineSink<L>,
    {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        match self.sink.write(line, lost) {
            Ok(()) => self.complained = false,
            Err(e) => {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                self.complain(&format!("cannot write to {}: {}; lines are lost", self.sink, system_words(&e)));
            }
        }
    }

    fn complain<L>(&mut self, words: &str)
    where
        S: LineSink<L>,
    {
        if !std::mem::replace(&mut self.complained, true) {
            self.sink.complain(words);
        }
    }
}

/// A standard stream that is named like a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    Output,
    Error,
}

impl Standard {
    /// The stream that this path names, if any.
    pub fn of(path: &Path) -> Option<Standard> {
        match path.as_os_str().as_encoded_bytes() {
            b"-" | b"/dev/stdout" | b"/dev/fd/1" | b"/proc/self/fd/1" => Some(Standard::Output),
            b"/dev/stderr" | b"/dev/fd/2" | b"/proc/self/fd/2" => Some(Standard::Error),
            _ => None,
        }
    }

    /// A duplicate of its descriptor. Opening the path instead would fail for a socket, as under systemd, and would
    /// overwrite the output of others in a file.
    fn duplicate(self) -> io::Result<OwnedFd> {
        match self {
            Standard::Output => io::stdout().as_fd().try_clone_to_owned(),
            Standard::Error => io::stderr().as_fd().try_clone_to_owned(),
        }
    }
}

/// Opens a file for lines: for appending, created with this mode (less the umask) if it does not exist. Does not block,
/// not even on a pipe without a reader. Write to it with [`write_all`].
///
/// # Errors
/// The error of open(2), or why the file is not usable.
pub fn open(path: &Path, mode: u32) -> io::Result<File> {
    if let Some(standard) = Standard::of(path) {
        return Ok(standard.duplicate()?.into());
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(mode).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
    let kind = |path: &Path| fs::metadata(path).ok().map(|found| found.file_type());
    if kind(path).is_some_and(|kind| kind.is_fifo()) {
        // With its own reading end, opening succeeds without a reader, and writing does not fail when the last reader
        // leaves.
        options.read(true).create(false);
    }
    let opened = match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => options.read(false).open(path),
        opened => opened,
    };
    opened.map_err(|e| match (e.raw_os_error() == Some(Errno::NXIO.raw_os_error()), kind(path)) {
        (true, Some(kind)) if kind.is_fifo() => io::Error::other("this pipe has no reader"),
        (true, Some(kind)) if kind.is_socket() => io::Error::other("it is a socket"),
        (true | false, _) => e,
    })
}

/// Writes everything, and waits if necessary: also if the descriptor, which other processes may share, is non-blocking.
///
/// # Errors
/// The error of write(2); a part may have been written.
pub fn write_all(out: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(out, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(out, PollFlags::OUT)];
                retry_on_intr(|| poll(&mut fds, None))?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
