//! The words of the log. Each style of log has a voice: it is told what was decided and what has happened to the program,
//! and writes the lines that the scripts and eyes used to that style look for. Decides nothing.

mod bare;
mod brackets;
mod go;
pub mod origin;
mod slashes;
mod web;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::journal::{Facts, Place};
use super::stats::Board;
use crate::config::{LogStyle, Service};
use crate::core::msg::{BackendId, BackendView, Note, UpstreamId};
use crate::endpoint::{Address, Endpoint};

/// Lines of a voice have this target: in styles other than [`LogStyle::Origin`] nobody else's are written, except
/// warnings and errors.
pub const TARGET: &str = concat!(env!("CARGO_PKG_NAME"), "::voice");

/// Finds the words.
pub trait Voice: Send {
    /// The core has decided something.
    fn note(&mut self, note: Note, scene: &Scene<'_>);
    /// A probe has ended; why it failed.
    fn probed(&mut self, backend: BackendId, result: &io::Result<()>, scene: &Scene<'_>);
    /// Something has happened to the program.
    fn moment(&mut self, moment: &Moment<'_>);
}

/// What a voice may want to know beside the note itself.
pub struct Scene<'a> {
    /// Of the client the note is about.
    pub facts: Option<&'a Facts>,
    /// Of all backends, by `BackendId`.
    pub names: &'a [String],
    /// Likewise.
    pub places: &'a [Place],
    /// Backends that have failed, and when; as it was before the note.
    pub failed: &'a BTreeMap<BackendId, Instant>,
    /// As it was configured.
    pub service: &'a Service,
    pub board: &'a Board,
}

impl Scene<'_> {
    /// A backend, as it was configured or assigned since.
    pub fn backend(&self, backend: BackendId) -> &str {
        self.names.get(backend.0).map_or("", String::as_str)
    }

    /// The group of a backend, and its number there.
    pub fn place(&self, backend: BackendId) -> Option<Place> {
        self.places.get(backend.0).copied()
    }

    /// An upstream, as it was configured.
    pub fn upstream(&self, upstream: UpstreamId) -> String {
        self.board.name(upstream)
    }
}

/// Something that happens to the program as a whole, in order of life.
#[derive(Debug)]
pub enum Moment<'a> {
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

/// The voice of a style.
pub fn of(style: LogStyle) -> Box<dyn Voice> {
    match style {
        LogStyle::Origin => Box::<origin::Origin>::default(),
        LogStyle::Slashes => Box::<slashes::Slashes>::default(),
        LogStyle::Brackets => Box::<brackets::Brackets>::default(),
        LogStyle::Web => Box::<web::Web>::default(),
        LogStyle::Bare => Box::new(bare::Bare::default()),
    }
}
