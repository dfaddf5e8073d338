//! The log: fern formats and filters, a bounded queue takes the lines to a thread that writes them. A disk that is full
//! or hangs costs lines, which are counted and told, and never makes anybody wait.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::words::system_words;
use crate::config::{Log, LogTarget};
use crate::threads;

/// Lines that may wait for the disk: some seconds of DEBUG under load.
const QUEUE: usize = 8192;
/// How long the end of the program waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);

enum Entry {
    /// With the time of what it tells. The log's thread makes a date of it: that may read the time zone's file, on a
    /// disk that may hang, and takes more stack than a client's thread has.
    Line(Timestamp, String),
    Reopen,
    End,
}

/// The running log. Dropping it writes what is waiting, if the disk allows it within a second.
#[derive(Debug)]
pub struct Logging {
    entries: Sender<Entry>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Asks for the log file to be opened again, from any thread.
#[derive(Clone, Debug)]
pub struct Reopener(Sender<Entry>);

impl Reopener {
    /// After a rotation. If the log is busy with a slow disk the wish is lost with the lines.
    pub fn reopen(&self) {
        self.0.try_send(Entry::Reopen).ok();
    }
}

/// Opens the log and makes it the process's logger. `None` when nothing is to be logged.
///
/// # Errors
/// When the file cannot be opened, or a thread not be started.
pub fn start(log: &Log) -> io::Result<Option<Logging>> {
    let path = match &log.target {
        LogTarget::File(path) => path.clone(),
        LogTarget::Nowhere => return Ok(None),
    };
    let file = open(&path)?;
    let (entries, inbox) = bounded(QUEUE);
    let (running, ended) = bounded::<()>(0);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Writer { path, file, lost: Arc::clone(&lost), complained: false };
    let thread = threads::spawn("log", move || {
        let _running = running;
        writer.run(&inbox);
    })?;
    let sender = entries.clone();
    let dispatch = fern::Dispatch::new()
        .level(log.level)
        // Other crates' talk (line editing, for one) is theirs.
        .filter(|about| about.target().starts_with(env!("CARGO_PKG_NAME")))
        .format(|out, message, record| {
            threads::with_name(|thread| {
                out.finish(format_args!(
                    "{:<7} [{thread:<10}] ({}) [L:{}] {message}",
                    level_word(record.level()),
                    record.module_path().unwrap_or("?"),
                    record.line().unwrap_or(0),
                ));
            });
        })
        .chain(fern::Output::call(move |record| {
            match sender.try_send(Entry::Line(Timestamp::now(), record.args().to_string())) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    // Fails when this process has a logger already (a test, a second proxy in one process): lines then go there.
    dispatch.apply().ok();
    Ok(Some(Logging { entries, ended, thread: Some(thread) }))
}

impl Logging {
    pub fn reopener(&self) -> Reopener {
        Reopener(self.entries.clone())
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        self.entries.send_deadline(Entry::End, deadline).ok();
        match self.ended.recv_deadline(deadline) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                self.thread.take().map(JoinHandle::join);
            }
            // A write that hangs in the kernel cannot be woken.
            Err(RecvTimeoutError::Timeout) => eprintln!("cbpx: the log's disk does not answer; log lines are lost"),
        }
    }
}

fn level_word(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "ERROR",
        log::Level::Warn => "WARNING",
        log::Level::Info => "INFO",
        log::Level::Debug | log::Level::Trace => "DEBUG",
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

struct Writer {
    path: PathBuf,
    file: File,
    /// Lines that found the queue full or the disk unwilling, not told yet.
    lost: Arc<AtomicU64>,
    /// Standard error has been told of this trouble.
    complained: bool,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Entry>) {
        while let Ok(entry) = inbox.recv() {
            match entry {
                Entry::Line(at, text) => {
                    let date = at.to_zoned(TimeZone::system());
                    self.write(&format!("{} {text}", date.strftime("%Y-%m-%d %H:%M:%S,%3f")));
                }
                Entry::Reopen => self.reopen(),
                Entry::End => return,
            }
        }
    }

    fn write(&mut self, line: &str) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let notice = if lost > 0 { format!("({lost} log lines were lost before this one)\n") } else { String::new() };
        match self.file.write_all(format!("{notice}{line}\n").as_bytes()) {
            Ok(()) => self.complained = false,
            Err(e) => {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                self.complain(&format!(
                    "cannot write to log file {}: {}; lines are lost",
                    self.path.display(),
                    system_words(&e)
                ));
            }
        }
    }

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => self.file = file,
            Err(e) => self.complain(&format!(
                "cannot reopen log file {}: {}; the old one stays",
                self.path.display(),
                system_words(&e)
            )),
        }
    }

    /// Once per trouble.
    fn complain(&mut self, words: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            // Nobody may be listening there.
            writeln!(io::stderr(), "cbpx: {words}").ok();
        }
    }
}
