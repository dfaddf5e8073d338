//! The log format interface. Each style of log implements it: it receives decisions and process events, and writes the
//! lines that scripts and users of that style expect. Decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::event_log::{BackendPosition, ConnectionInfo};
use super::stats::Stats;
use crate::config::Service;
use crate::core::msg::{BackendId, BackendNote, BackendView, ClientId, ClientNote, ServiceNote, UpstreamId};
use crate::endpoint::{Address, Endpoint};

/// The target of all lines that a log format writes. In styles other than [`Origin`](crate::config::LogStyle::Origin)
/// the log has only these lines, and warnings and errors from the rest of the program.
pub const TARGET: &str = concat!(env!("CARGO_PKG_NAME"), "::log_format");

/// Writes the text of log lines. A format that does not implement the method for a group of notes, or for probes, logs
/// nothing about them.
pub trait LogFormat: Send {
    /// The core has decided something about a client.
    fn client(&mut self, _client: ClientId, _note: ClientNote, _context: &LogContext<'_>) {}
    /// The core has decided something about a backend.
    fn backend(&mut self, _backend: BackendId, _note: BackendNote, _context: &LogContext<'_>) {}
    /// The core has decided something about the service as a whole.
    fn service(&mut self, _note: ServiceNote, _context: &LogContext<'_>) {}
    /// A probe has ended. The error says why it failed.
    fn probed(&mut self, _backend: BackendId, _result: &io::Result<()>, _context: &LogContext<'_>) {}
    /// An event of the process.
    fn process_event(&mut self, process_event: &ProcessEvent<'_>);
}

/// Creates log formats for one log. A format remembers what it has logged about its service, so each thread that writes
/// to the log has a format of its own.
pub type NewLogFormat = Box<dyn Fn() -> Box<dyn LogFormat>>;

/// What a log format may need in addition to the note.
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

    /// The client's last error as the end of a sentence, such as `: connection refused`; empty if there is none.
    pub fn cause(&self) -> String {
        self.info.map(ConnectionInfo::cause_words).unwrap_or_default()
    }

    /// An upstream, as it was configured.
    pub fn upstream(&self, upstream: UpstreamId) -> String {
        self.stats.name(upstream)
    }
}

/// An event of the process as a whole, in the order in which they happen.
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
    /// Everything runs. Has the maximum number of clients.
    Started {
        listening: &'a [Address],
        room: &'a str,
    },
    /// All backends of a service by name, in list order. Logged at an interval.
    Tally {
        backends: &'a [(&'a str, BackendView)],
    },
    /// SIGHUP, if it reopens log files.
    Reopening,
    /// A signal by its name, e.g. `SIGTERM`.
    Signal {
        name: &'static str,
    },
    /// A signal that has no effect.
    Ignored {
        name: &'static str,
    },
    Ended,
}
