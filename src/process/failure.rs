//! Why the program could not start or continue: act, object and cause, and the exit status.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::{LogStyle, LogTarget, Statuses};
use crate::endpoint::Endpoint;
use crate::net::acceptor::BindError;
use crate::observe::words::system_words;

/// Why the program could not start.
#[derive(Debug)]
pub enum StartError {
    Log {
        target: LogTarget,
        cause: io::Error,
    },
    AccessLog {
        path: PathBuf,
        cause: io::Error,
    },
    Profile {
        path: PathBuf,
        cause: io::Error,
    },
    Resolve {
        role: &'static str,
        backend: Endpoint,
        cause: io::Error,
    },
    ResolveOwn {
        at: Endpoint,
        cause: io::Error,
    },
    Listen {
        at: Endpoint,
        cause: io::Error,
    },
    /// No listener is bound, and none is to be retried.
    NowhereToListen,
    /// A backend is the proxy itself: every client would return as a new one.
    Loop {
        backend: Endpoint,
    },
    Control {
        at: Endpoint,
        cause: io::Error,
    },
    Thread {
        cause: io::Error,
    },
    PidFile {
        path: PathBuf,
        cause: io::Error,
    },
}

impl StartError {
    /// The exit status of the process.
    pub fn status(&self, statuses: &Statuses) -> u8 {
        match self {
            StartError::Resolve { .. } => statuses.resolve,
            StartError::ResolveOwn { .. }
            | StartError::Listen { .. }
            | StartError::NowhereToListen
            | StartError::Control { .. } => statuses.listen,
            StartError::Log { .. }
            | StartError::AccessLog { .. }
            | StartError::Profile { .. }
            | StartError::Loop { .. }
            | StartError::Thread { .. }
            | StartError::PidFile { .. } => statuses.other,
        }
    }

    /// The message in the words that users of this log style look for.
    pub fn words(&self, style: LogStyle) -> String {
        match (self, style) {
            (StartError::Resolve { backend, cause, .. }, LogStyle::Bare) => {
                format!("unknown or invalid address [{}]: {}", backend.host_and_port().0, plain(cause))
            }
            (StartError::ResolveOwn { at, cause }, LogStyle::Bare) => {
                format!("unknown or invalid address [{}]: {}", at.host_and_port().0, plain(cause))
            }
            (StartError::Listen { at, cause }, LogStyle::Bare) => {
                format!("cannot listen on {at}: bind(): {}", system_words(cause))
            }
            (
                StartError::Log { .. }
                | StartError::AccessLog { .. }
                | StartError::Profile { .. }
                | StartError::Loop { .. }
                | StartError::Control { .. }
                | StartError::NowhereToListen
                | StartError::PidFile { .. }
                | StartError::Thread { .. },
                LogStyle::Bare,
            )
            | (_, LogStyle::Origin | LogStyle::Slashes | LogStyle::Brackets | LogStyle::Web) => self.to_string(),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Log { target, cause } => match target {
                LogTarget::File(path) => write!(f, "cannot open log file {}: {}", path.display(), plain(cause)),
                LogTarget::Syslog => write!(f, "cannot log to syslog: {}", plain(cause)),
                LogTarget::StandardError | LogTarget::BothStandards | LogTarget::Nowhere => {
                    write!(f, "cannot start to log: {}", plain(cause))
                }
            },
            StartError::AccessLog { path, cause } => {
                write!(f, "cannot open access log {}: {}", path.display(), plain(cause))
            }
            StartError::Profile { path, cause } => {
                write!(f, "cannot open CPU profile {}: {}", path.display(), plain(cause))
            }
            StartError::Resolve { role, backend, cause } => {
                write!(f, "cannot resolve {role} backend {backend}: {}", plain(cause))
            }
            StartError::ResolveOwn { at, cause } => {
                write!(f, "cannot resolve the address to listen on, {at}: {}", plain(cause))
            }
            StartError::Listen { at, cause } => write!(f, "cannot listen on {at}: {}", plain(cause)),
            StartError::NowhereToListen => f.write_str("there is nothing to listen on"),
            StartError::Loop { backend } => {
                write!(f, "cannot use {backend} as a backend: this proxy listens there itself")
            }
            StartError::Control { at, cause } => {
                write!(f, "cannot listen for remote control on {at}: {}", plain(cause))
            }
            StartError::Thread { cause } => write!(f, "cannot start a thread: {}", plain(cause)),
            StartError::PidFile { path, cause } => {
                write!(f, "cannot write pid file {}: {}", path.display(), plain(cause))
            }
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// From an error of a service's listener or of a control listener.
    pub(super) fn of_bind(
        at: &Endpoint,
        error: BindError,
        taken: impl Fn(Endpoint, io::Error) -> StartError,
    ) -> StartError {
        match error {
            BindError::Resolve(cause) => StartError::ResolveOwn { at: at.clone(), cause },
            BindError::Bind(cause) => taken(at.clone(), cause),
        }
    }
}

/// Why the program failed, and its exit status.
#[derive(Debug)]
pub struct ExitFailure {
    pub status: u8,
    words: String,
}

impl ExitFailure {
    pub(super) fn new(status: u8, why: impl fmt::Display) -> ExitFailure {
        ExitFailure { status, words: why.to_string() }
    }

    /// A failure that another process has reported.
    pub(super) fn told(status: u8) -> ExitFailure {
        ExitFailure { status, words: String::new() }
    }

    /// Whether it has not been reported yet.
    pub fn is_news(&self) -> bool {
        !self.words.is_empty()
    }
}

impl fmt::Display for ExitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for ExitFailure {}

/// The system's message in lower case, as the end of a sentence.
pub(super) fn plain(cause: &io::Error) -> String {
    if cause.kind() == io::ErrorKind::AddrInUse {
        return "address in use".to_owned();
    }
    let words = system_words(cause);
    match words.split_at_checked(1) {
        Some((first, rest)) if rest.starts_with(|c: char| c.is_lowercase()) => first.to_lowercase() + rest,
        Some(_) | None => words,
    }
}
