//! The words of the log. Each style of log has a log format: it is told what was decided and what has happened to the
//! program, and writes the lines that the scripts and eyes used to that style look for. Decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::event_log::{BackendPosition, ConnectionInfo};
use super::stats::Stats;
use crate::config::Service;
use crate::core::msg::{BackendId, BackendNote, BackendView, ClientId, ClientNote, ServiceNote, UpstreamId};
use crate::endpoint::{Address, Endpoint};

/// Lines of a log format have this target. In styles other than [`Origin`](crate::config::LogStyle::Origin) only these
/// are written, and warnings and errors of the rest of the program.
pub const TARGET: &str = concat!(env!("CARGO_PKG_NAME"), "::log_format");

/// Finds the words. A format says nothing of a group of notes, or of probes, unless it implements the method.
pub trait LogFormat: Send {
    /// The core has decided something about a client.
    fn client(&mut self, _client: ClientId, _note: ClientNote, _context: &LogContext<'_>) {}
    /// The core has decided something about a backend.
    fn backend(&mut self, _backend: BackendId, _note: BackendNote, _context: &LogContext<'_>) {}
    /// The core has decided something about the service as a whole.
    fn service(&mut self, _note: ServiceNote, _context: &LogContext<'_>) {}
    /// A probe has ended; why it failed.
    fn probed(&mut self, _backend: BackendId, _result: &io::Result<()>, _context: &LogContext<'_>) {}
    /// Something has happened to the program.
    fn process_event(&mut self, process_event: &ProcessEvent<'_>);
}

/// What a log format may want to know beside the note itself.
pub struct LogContext<'a> {
    /// Of the client the note is about.
    pub info: Option<&'a ConnectionInfo>,
    /// Of all backends, by `BackendId`.
    pub names: &'a [String],
    /// Likewise.
    pub places: &'a [BackendPosition],
    /// Backends that have failed, and when; as it was before the note.
    pub failed: &'a BTreeMap<BackendId, Instant>,
    /// As it was configured.
    pub service: &'a Service,
    pub stats: &'a Stats,
}

impl LogContext<'_> {
    /// A backend, as it was configured or assigned since.
    pub fn backend(&self, backend: BackendId) -> &str {
        self.names.get(backend.0).map_or("", String::as_str)
    }

    /// The group of a backend, and its number there.
    pub fn place(&self, backend: BackendId) -> Option<BackendPosition> {
        self.places.get(backend.0).copied()
    }

    /// An upstream, as it was configured.
    pub fn upstream(&self, upstream: UpstreamId) -> String {
        self.stats.name(upstream)
    }
}

/// Something that happens to the program as a whole, in order of life.
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
    /// One could not be bound, and is tried again after this time.
    BindFailed {
        service: &'a Service,
        at: &'a Endpoint,
        cause: &'a io::Error,
        again: Duration,
    },
    /// Everything is up; how many clients there is room for.
    Started {
        listening: &'a [Address],
        room: &'a str,
    },
    /// The backends of a service by name, in list order, every so often.
    Tally {
        backends: &'a [(&'a str, BackendView)],
    },
    /// SIGHUP, where it means this.
    Reopening,
    /// By its name, e.g. `SIGTERM`.
    Signal {
        name: &'static str,
    },
    /// A signal that means nothing here.
    Ignored {
        name: &'static str,
    },
    Ended,
}
