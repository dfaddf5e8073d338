//! Texts for the core's decisions: the only place for sentences that operators read and scripts look for.

use std::fmt;
use std::io;

use crate::core::msg::{CloseReason, Failure, Outcome, ScriptEnd};

/// `Switch OK!: REASON` or `Switch failed: REASON`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Moved { script: false } => f.write_str("Switch OK!: all connections closed"),
            Outcome::Moved { script: true } => f.write_str("Switch OK!: all connections closed, script returned: 0"),
            Outcome::Failed(failure) => write!(f, "Switch failed: {failure}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout => f.write_str("switch timeout"),
            Failure::QueueFull => f.write_str("connection limit reached"),
            Failure::Script(end) => write!(f, "{end}"),
            Failure::CtrlC => f.write_str("ctrl-c"),
            Failure::Aborted => f.write_str("aborted"),
            Failure::Quit => f.write_str("quit force"),
            Failure::Stopped => f.write_str("program stopped"),
        }
    }
}

impl fmt::Display for ScriptEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScriptEnd::Exited(code) => write!(f, "script exited with code: {code}"),
            ScriptEnd::Signalled(signal) => write!(f, "script terminated by signal: {signal}"),
            ScriptEnd::NotStarted(error) => {
                write!(f, "script exec failed: {}", system_words(&io::Error::from_raw_os_error(*error)))
            }
        }
    }
}

/// Why a client's connection ended. README explains each text.
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::HungUp => "left while it was held",
            CloseReason::NoBackend => "no backend took it",
            CloseReason::Full => "every backend is at its limit",
            CloseReason::NoRoom => "out of descriptors or memory",
            CloseReason::Shutdown => "the program ended while it was held",
            CloseReason::ClientEnded => "done, the client ended first",
            CloseReason::BackendEnded => "done, the backend ended first",
            CloseReason::Lingered => "silent for 5 s after the backend had ended",
            CloseReason::ClosedForSwitch => "the backend had ended and a switch began",
            CloseReason::ClientFailed => "the client failed",
            CloseReason::BackendFailed => "the backend failed",
            CloseReason::Idle => "no byte passed for the idle timeout",
            CloseReason::Terminated => "cut by quit force or at the end of the grace period",
            CloseReason::Panicked => "a defect in cbpx ended it",
        })
    }
}

/// The system's message without the error number that Rust appends.
pub fn system_words(error: &io::Error) -> String {
    let text = error.to_string();
    match (text.find(" (os error "), error.raw_os_error()) {
        (Some(at), Some(_)) => text[..at].to_owned(),
        (Some(_) | None, _) => text,
    }
}
