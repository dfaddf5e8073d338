//! The log format interface. Each style of log implements it: it receives decisions and process events, and writes the
//! lines that scripts and users of that style expect. Decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::event_log::{BackendPosition, ConnectionInfo};
use super::stats::Stats;
use crate::config::Service;
use crate::core::msg::{BackendId, BackendView, Note, UpstreamId};
use crate::endpoint::{Address, Endpoint};

/// Target of the lines of log formats. Styles other than [`LogStyle::Origin`] write no lines with other targets, except
/// warnings and errors.
pub const TARGET: &str = concat!(env!("CARGO_PKG_NAME"), "::log_format");

/// Turns events into log lines.
pub trait LogFormat: Send {
    /// Logs a decision of the core.
    fn note(&mut self, note: Note, context: &LogContext<'_>);
    /// Logs the result of a probe.
    fn probed(&mut self, backend: BackendId, result: &io::Result<()>, context: &LogContext<'_>);
    /// Logs an event of the program.
    fn process_event(&mut self, process_event: &ProcessEvent<'_>);
}

/// Data for a log format in addition to the note.
pub struct LogContext<'a> {
    /// The client that the note is about.
    pub info: Option<&'a ConnectionInfo>,
    /// Names of all backends, by `BackendId`.
    pub names: &'a [String],
    /// Positions of all backends, by `BackendId`.
    pub places: &'a [BackendPosition],
    /// Failed backends and when they failed, as of before the note.
    pub failed: &'a BTreeMap<BackendId, Instant>,
    /// The service's configuration.
    pub service: &'a Service,
    pub stats: &'a Stats,
}

impl LogContext<'_> {
    /// A backend's current endpoint.
    pub fn backend(&self, backend: BackendId) -> &str {
        self.names.get(backend.0).map_or("", String::as_str)
    }

    /// A backend's group, and its position there.
    pub fn place(&self, backend: BackendId) -> Option<BackendPosition> {
        self.places.get(backend.0).copied()
    }

    /// An upstream as configured.
    pub fn upstream(&self, upstream: UpstreamId) -> String {
        self.stats.name(upstream)
    }
}

/// An event of the program as a whole, in order of life.
#[derive(Debug)]
pub enum ProcessEvent<'a> {
    /// Before anything is bound.
    Starting {
        services: &'a [Service],
    },
    /// A service's listener is bound.
    Listening {
        service: &'a Service,
        at: &'a Address,
    },
    /// A listener could not be bound, and is tried again after this time.
    BindFailed {
        service: &'a Service,
        at: &'a Endpoint,
        cause: &'a io::Error,
        again: Duration,
    },
    /// Everything is up. Has the maximum number of clients.
    Started {
        listening: &'a [Address],
        room: &'a str,
    },
    /// The backends of a service by name, in list order, at an interval.
    Tally {
        backends: &'a [(&'a str, BackendView)],
    },
    /// SIGHUP, if it reopens the logs.
    Reopening,
    /// A signal by its name, e.g. `SIGTERM`.
    Signal {
        name: &'static str,
    },
    /// A signal without a meaning here.
    Ignored {
        name: &'static str,
    },
    Ended,
}
