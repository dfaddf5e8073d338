//! The part of the configuration that concerns the process as a whole, and its log.

use std::path::PathBuf;
use std::time::Duration;

/// What concerns the process as a whole.
#[derive(Clone, Debug)]
pub struct Process {
    /// The program's name on standard error and for the system's logger.
    pub name: String,
    /// Leave the terminal once everything is bound and checked.
    pub background: bool,
    /// Path of the pid file: written once everything is bound and checked, removed at the end.
    pub pid_file: Option<PathBuf>,
    /// Where a CPU profile of the run is written at its end.
    pub cpu_profile: Option<PathBuf>,
    pub on_hangup: OnHangup,
    pub on_interrupt: OnInterrupt,
    /// Interval at which the counters of all backends are logged.
    pub tally: Option<Duration>,
    pub statuses: Statuses,
}

impl Process {
    /// A process in the foreground, for programs that bring their own servers.
    pub fn plain() -> Process {
        Process {
            name: env!("CARGO_PKG_NAME").to_owned(),
            background: false,
            pid_file: None,
            cpu_profile: None,
            on_hangup: OnHangup::Reopen,
            on_interrupt: OnInterrupt::Ask,
            tally: None,
            statuses: Statuses { resolve: 1, listen: 1, other: 1 },
        }
    }
}

/// What SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHangup {
    /// Reopen the log files.
    Reopen,
    /// The same as SIGTERM.
    Stop,
}

/// What SIGINT means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// Abort a running switchover; otherwise end the program if no client is connected, or at the second signal. In a
    /// process with several services, the same as SIGTERM.
    Ask,
    /// The same as SIGTERM.
    Stop,
}

/// Exit statuses of a program that could not start, by cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// A name has no address.
    pub resolve: u8,
    /// An address cannot be listened on.
    pub listen: u8,
    /// Anything else.
    pub other: u8,
}

/// Target, level and format of the log.
#[derive(Clone, Debug)]
pub struct Log {
    pub target: LogTarget,
    pub level: log::LevelFilter,
    pub style: LogStyle,
    /// Mode of a new log file, as for chmod(2), less the umask.
    pub mode: u32,
}

/// The format and wording of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    /// `2026-11-21 02:07:22,331 INFO    [thread    ] (module) [L:114] text`
    Origin,
    /// `2026/11/21 02:07:22 text`
    Slashes,
    /// `[ Sat Nov 21 02:20:24 2026 ] text`
    Brackets,
    /// `[Sat Nov 21 02:20:24 2026] [error] text`, the format of web servers
    Web,
    /// `text`
    Bare,
}

/// Where log lines go.
#[derive(Clone, Debug)]
pub enum LogTarget {
    /// Opened for appending, reopened on SIGHUP.
    File(PathBuf),
    /// Standard error.
    StandardError,
    /// Warnings and errors to standard error, all else to standard output.
    BothStandards,
    /// The system's logger; the time is omitted because the logger adds it.
    Syslog,
    /// No log: for a proxy inside another program (the demo, a test).
    Nowhere,
}
