//! The log: fern formats and filters, [`super::lines`] passes the lines to a thread that writes them. A full or hanging
//! disk costs lines, which are counted and reported, and never makes a client wait.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use log::Level;

use super::lines::{self, LineWriter, Reopener};
use super::log_format;
use crate::config::{Log, LogStyle, LogTarget};
use crate::threads;

/// A line with the time of its event. The log's thread formats the date, because that may read the time zone's file
/// from a disk that hangs, and needs more stack than other threads have.
struct LogLine {
    at: Timestamp,
    level: Level,
    text: String,
}

/// The running log. Dropping it writes pending lines, if the disk takes less than a second.
pub struct Logging(LineWriter<LogLine>);

/// Opens the log and makes it the process's logger. Returns `None` if nothing is to be logged. `name` is the program's
/// name.
///
/// # Errors
/// When the file cannot be opened, or a thread cannot be started.
pub fn start(log: &Log, name: &str) -> io::Result<Option<Logging>> {
    let Some(target) = LogFile::open(log, name)? else { return Ok(None) };
    let sink = ProcessLogSink { target, style: log.style, mode: log.mode, name: name.to_owned() };
    let hangs = format!("{name}: the log's disk does not answer; log lines are lost");
    let writer = LineWriter::start("log", sink, hangs)?;
    let (line_sender, style) = (writer.line_sender(), log.style);
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
            LogStyle::Web => out.finish(format_args!("[{}] {message}", web_word(record.level()))),
            LogStyle::Slashes | LogStyle::Brackets | LogStyle::Bare => out.finish(format_args!("{message}")),
        })
        .chain(fern::Output::call(move |record| {
            line_sender.put(LogLine { at: Timestamp::now(), level: record.level(), text: record.args().to_string() });
        }));
    // Fails if this process already has a logger (a test, a second proxy in one process): lines then go there.
    dispatch.apply().ok();
    Ok(Some(Logging(writer)))
}

/// Excludes lines of other crates (for example line editing). Styles with their own log format exclude all but its
/// lines, warnings and errors.
fn is_ours(style: LogStyle, about: &log::Metadata<'_>) -> bool {
    let ours = about.target().starts_with(env!("CARGO_PKG_NAME"));
    match style {
        LogStyle::Origin => ours,
        LogStyle::Slashes | LogStyle::Brackets | LogStyle::Web | LogStyle::Bare => {
            ours && (about.target() == log_format::TARGET || about.level() <= Level::Warn)
        }
    }
}

impl Logging {
    pub fn reopener(&self) -> Reopener {
        self.0.reopener()
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

/// The name of the level in web servers' logs.
fn web_word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "notice",
        Level::Debug | Level::Trace => "debug",
    }
}

/// Where lines go.
enum LogFile {
    File(PathBuf, File),
    StandardError,
    BothStandards,
    Syslog(Box<Syslog>),
}

type Syslog = syslog::Logger<syslog::LoggerBackend, syslog::Formatter3164>;

impl LogFile {
    fn open(log: &Log, name: &str) -> io::Result<Option<LogFile>> {
        Ok(match &log.target {
            LogTarget::File(path) => Some(LogFile::File(path.clone(), lines::open(path, log.mode)?)),
            LogTarget::StandardError => Some(LogFile::StandardError),
            LogTarget::BothStandards => Some(LogFile::BothStandards),
            LogTarget::Syslog => Some(LogFile::Syslog(Box::new(syslog(name)?))),
            LogTarget::Nowhere => None,
        })
    }
}

struct ProcessLogSink {
    target: LogFile,
    style: LogStyle,
    mode: u32,
    /// The program's name.
    name: String,
}

impl lines::LineSink<LogLine> for ProcessLogSink {
    fn write(&mut self, line: &LogLine, lost: u64) -> io::Result<()> {
        let LogLine { at, level, text } = line;
        let notice = if lost > 0 { format!("({lost} log lines were lost before this one)\n") } else { String::new() };
        let dated = || format!("{notice}{}\n", dated(self.style, *at, text));
        match &mut self.target {
            LogFile::File(_, file) => lines::write_all(file, dated().as_bytes()),
            LogFile::BothStandards if *level > Level::Warn => lines::write_all(&io::stdout(), dated().as_bytes()),
            LogFile::StandardError | LogFile::BothStandards => lines::write_all(&io::stderr(), dated().as_bytes()),
            LogFile::Syslog(logger) => {
                let line = format!("{notice}{text}");
                let sent = match level {
                    Level::Error => logger.err(&line),
                    Level::Warn => logger.warning(&line),
                    Level::Info => logger.info(&line),
                    Level::Debug | Level::Trace => logger.debug(&line),
                };
                // The logger may have been restarted.
                sent.or_else(|_| {
                    **logger = syslog(&self.name)?;
                    logger.info(&line).map_err(io::Error::other)
                })
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let LogFile::File(path, file) = &mut self.target {
            *file = lines::open(path, self.mode)?;
        }
        Ok(())
    }

    fn complain(&self, words: &str) {
        // Standard error may be closed.
        writeln!(io::stderr(), "{}: {words}", self.name).ok();
    }
}

impl fmt::Display for ProcessLogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            LogFile::File(path, _) => write!(f, "log file {}", path.display()),
            LogFile::StandardError | LogFile::BothStandards => f.write_str("standard error"),
            LogFile::Syslog(_) => f.write_str("syslog"),
        }
    }
}

fn syslog(name: &str) -> io::Result<Syslog> {
    let formatter = syslog::Formatter3164 {
        facility: syslog::Facility::LOG_DAEMON,
        hostname: None,
        process: name.to_owned(),
        pid: std::process::id(),
    };
    syslog::unix(formatter).map_err(io::Error::other)
}

/// A warning for standard error, if the log does not go there or is not open yet.
pub fn warning(style: LogStyle, name: &str, words: &str) -> String {
    match style {
        LogStyle::Brackets => dated(style, Timestamp::now(), &format!("WARNING: {words}")),
        LogStyle::Origin | LogStyle::Slashes | LogStyle::Web | LogStyle::Bare => format!("{name}: warning: {words}"),
    }
}

/// A line with its date in the style's format, in local time.
fn dated(style: LogStyle, at: Timestamp, text: &str) -> String {
    let date = at.to_zoned(TimeZone::system());
    match style {
        LogStyle::Origin => format!("{} {text}", date.strftime("%Y-%m-%d %H:%M:%S,%3f")),
        LogStyle::Slashes => format!("{} {text}", date.strftime("%Y/%m/%d %H:%M:%S")),
        LogStyle::Brackets => format!("[ {} ] {text}", date.strftime("%a %b %d %H:%M:%S %Y")),
        LogStyle::Web => format!("[{}] {text}", date.strftime("%a %b %d %H:%M:%S %Y")),
        LogStyle::Bare => text.to_owned(),
    }
}
