//! The log: fern formats and filters, a bounded queue takes the lines to a thread that writes them. A disk that is full
//! or hangs costs lines, which are counted and told, and never makes anybody wait.

use std::fmt;
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
use log::Level;

use super::voice;
use super::words::system_words;
use crate::config::{Log, LogStyle, LogTarget};
use crate::threads;

/// Lines that may wait for the disk: some seconds of DEBUG under load.
const QUEUE: usize = 8192;
/// How long the end of the program waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);

enum Entry {
    /// With the time of what it tells. The log's thread makes a date of it: that may read the time zone's file, on a
    /// disk that may hang, and takes more stack than a client's thread has.
    Line(Timestamp, Level, String),
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
    let Some(sink) = Sink::open(&log.target)? else { return Ok(None) };
    let (entries, inbox) = bounded(QUEUE);
    let (running, ended) = bounded::<()>(0);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Writer { sink, style: log.style, lost: Arc::clone(&lost), complained: false };
    let thread = threads::spawn("log", move || {
        let _running = running;
        writer.run(&inbox);
    })?;
    let (sender, style) = (entries.clone(), log.style);
    let dispatch = fern::Dispatch::new()
        .level(log.level)
        .filter(move |about| is_ours(style, about))
        .format(move |out, message, record| match style {
            LogStyle::Origin => threads::with_name(|thread| {
                out.finish(format_args!(
                    "{:<7} [{thread:<10}] ({}) [L:{}] {message}",
                    level_word(record.level()),
                    record.module_path().unwrap_or("?"),
                    record.line().unwrap_or(0),
                ));
            }),
            LogStyle::Slashes | LogStyle::Brackets | LogStyle::Bare => out.finish(format_args!("{message}")),
        })
        .chain(fern::Output::call(move |record| {
            match sender.try_send(Entry::Line(Timestamp::now(), record.level(), record.args().to_string())) {
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

/// Other crates' talk (line editing, for one) is theirs. In styles that have words of their own, only those are written,
/// and what has gone wrong.
fn is_ours(style: LogStyle, about: &log::Metadata<'_>) -> bool {
    let ours = about.target().starts_with(env!("CARGO_PKG_NAME"));
    match style {
        LogStyle::Origin => ours,
        LogStyle::Slashes | LogStyle::Brackets | LogStyle::Bare => {
            ours && (about.target() == voice::TARGET || about.level() <= Level::Warn)
        }
    }
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

fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Where lines end up.
enum Sink {
    File(PathBuf, File),
    StandardError,
    BothStandards,
    Syslog(Box<Syslog>),
}

type Syslog = syslog::Logger<syslog::LoggerBackend, syslog::Formatter3164>;

impl Sink {
    fn open(target: &LogTarget) -> io::Result<Option<Sink>> {
        Ok(match target {
            LogTarget::File(path) => Some(Sink::File(path.clone(), open(path)?)),
            LogTarget::StandardError => Some(Sink::StandardError),
            LogTarget::BothStandards => Some(Sink::BothStandards),
            LogTarget::Syslog => Some(Sink::Syslog(Box::new(syslog()?))),
            LogTarget::Nowhere => None,
        })
    }

    /// One line, its end included.
    fn write(&mut self, level: Level, line: &str) -> io::Result<()> {
        match self {
            Sink::File(_, file) => file.write_all(line.as_bytes()),
            Sink::BothStandards if level > Level::Warn => {
                let mut out = io::stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush())
            }
            Sink::StandardError | Sink::BothStandards => io::stderr().write_all(line.as_bytes()),
            Sink::Syslog(logger) => {
                let line = line.trim_end();
                let sent = match level {
                    Level::Error => logger.err(line),
                    Level::Warn => logger.warning(line),
                    Level::Info => logger.info(line),
                    Level::Debug | Level::Trace => logger.debug(line),
                };
                // The logger may have been started anew.
                sent.or_else(|_| {
                    **logger = syslog()?;
                    logger.info(line).map_err(io::Error::other)
                })
            }
        }
    }
}

/// Its name, for what is said about it.
impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::File(path, _) => write!(f, "log file {}", path.display()),
            Sink::StandardError | Sink::BothStandards => f.write_str("standard error"),
            Sink::Syslog(_) => f.write_str("syslog"),
        }
    }
}

fn syslog() -> io::Result<Syslog> {
    let formatter = syslog::Formatter3164 {
        facility: syslog::Facility::LOG_DAEMON,
        hostname: None,
        process: env!("CARGO_PKG_NAME").to_owned(),
        pid: std::process::id(),
    };
    syslog::unix(formatter).map_err(io::Error::other)
}

struct Writer {
    sink: Sink,
    style: LogStyle,
    /// Lines that found the queue full or the disk unwilling, not told yet.
    lost: Arc<AtomicU64>,
    /// Standard error has been told of this trouble.
    complained: bool,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Entry>) {
        while let Ok(entry) = inbox.recv() {
            match entry {
                Entry::Line(at, level, text) => self.write(at, level, &text),
                Entry::Reopen => self.reopen(),
                Entry::End => return,
            }
        }
    }

    fn write(&mut self, at: Timestamp, level: Level, text: &str) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let notice = if lost > 0 { format!("({lost} log lines were lost before this one)\n") } else { String::new() };
        let line = match &self.sink {
            Sink::Syslog(_) => format!("{notice}{text}\n"),
            Sink::File(..) | Sink::StandardError | Sink::BothStandards => {
                format!("{notice}{}\n", dated(self.style, at, text))
            }
        };
        match self.sink.write(level, &line) {
            Ok(()) => self.complained = false,
            Err(e) => {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                let words = format!("cannot write to {}: {}; lines are lost", self.sink, system_words(&e));
                self.complain(&words);
            }
        }
    }

    fn reopen(&mut self) {
        let Sink::File(path, file) = &mut self.sink else { return };
        match open(path) {
            Ok(opened) => *file = opened,
            Err(e) => {
                let words =
                    format!("cannot reopen log file {}: {}; the old one stays", path.display(), system_words(&e));
                self.complain(&words);
            }
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

/// A line with its date, as its style has it, in local time.
fn dated(style: LogStyle, at: Timestamp, text: &str) -> String {
    let date = at.to_zoned(TimeZone::system());
    match style {
        LogStyle::Origin => format!("{} {text}", date.strftime("%Y-%m-%d %H:%M:%S,%3f")),
        LogStyle::Slashes => format!("{} {text}", date.strftime("%Y/%m/%d %H:%M:%S")),
        LogStyle::Brackets => format!("[ {} ] {text}", date.strftime("%a %b %d %H:%M:%S %Y")),
        LogStyle::Bare => text.to_owned(),
    }
}
