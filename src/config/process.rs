//! The part of the configuration that concerns the process as a whole, and its log.

use std::path::PathBuf;
use std::time::Duration;

/// What concerns the process as a whole.
#[derive(Clone, Debug)]
pub struct Process {
    /// What it is called in what it says on standard error, and to the system's logger.
    pub name: String,
    /// Leave the terminal once everything is bound and checked.
    pub background: bool,
    /// Written once everything is bound and checked, removed at the end.
    pub pid_file: Option<PathBuf>,
    /// A CPU profile of the run is written there at its end.
    pub cpu_profile: Option<PathBuf>,
    pub on_hangup: OnHangup,
    pub on_interrupt: OnInterrupt,
    /// How often the counters of all backends are written to the log.
    pub tally: Option<Duration>,
    pub statuses: Statuses,
}

impl Process {
    /// One in the foreground that ends when it is told to: for programs that bring their own servers.
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
    /// The log files are opened again.
    Reopen,
    /// The same as SIGTERM.
    Stop,
}

/// What SIGINT means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// A running switchover is undone; else the program ends if nobody is connected, or at the second time. In a
    /// process with several services, the same as SIGTERM.
    Ask,
    /// The same as SIGTERM.
    Stop,
}

/// Exit statuses of a program that could not start, by what was in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// A name without an address.
    pub resolve: u8,
    /// An address that cannot be listened on.
    pub listen: u8,
    /// Anything else.
    pub other: u8,
}

/// Where log lines go, which, and what they look like.
#[derive(Clone, Debug)]
pub struct Log {
    pub target: LogTarget,
    pub level: log::LevelFilter,
    pub style: LogStyle,
    /// Of a file that is created for it, as for chmod(2); the umask takes away from it.
    pub mode: u32,
}

/// What a log line looks like, and which words it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    /// `2026-11-21 02:07:22,331 INFO    [thread    ] (module) [L:114] text`
    Origin,
    /// `2026/11/21 02:07:22 text`
    Slashes,
    /// `[ Sat Nov 21 02:20:24 2026 ] text`
    Brackets,
    /// `[Sat Nov 21 02:20:24 2026] [error] text`, as web servers have it
    Web,
    /// `text`
    Bare,
}

/// Where log lines go.
#[derive(Clone, Debug)]
pub enum LogTarget {
    /// Appended to, reopened on SIGHUP.
    File(PathBuf),
    /// Standard error.
    StandardError,
    /// Warnings and errors on standard error, all else on standard output.
    BothStandards,
    /// The system's logger, without the time, which it adds itself.
    Syslog,
    /// Nowhere: for a proxy inside another program (the demo, a test).
    Nowhere,
}
