//! The relay: carries each assigned client's bytes, from its dial to its end.
//!
//! [`Relay::serve`] takes a client and returns a [`ClientHandle`]; none of its methods waits. What becomes of the
//! client is told to a [`Reporter`]. There are two ways to carry a client, and nobody outside can tell them apart but
//! by their speed:
//!
//! 1. `threads`: a pair of blocking threads of its own, for the first `Settings::thread_pairs` clients. One client and
//!    its backend exchange messages with the least delay, the kernel shares the processors out, and an operator sees in
//!    `top` or a debugger what each client does.
//! 2. `shared`: a few threads that wait for events carry everybody else. Many clients that are busy at once cost less
//!    that way, because a thread that has work for many is seldom changed for another.
//!
//! In reading order: `report` (what goes in and out), `closing` (how a connection ends), `reason` (how its end is
//! told), `direction` (one direction), `peer` (one socket), `pipes` (for splice); `threads`; `shared` (starts and stops
//! the shared threads), `worker` (one of them: events, turns, reports), `mailbox` (what it is told),
//! `connection` (one client: dialling, then a pair), `pair` (two directions).

mod closing;
pub mod dial;
pub mod direction;
mod pair;
pub mod peer;
mod pipes;
mod reason;
mod report;
mod shared;
mod threads;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

pub use self::report::{ByteCounters, CloseSummary, Job, Report, Reporter};
use self::shared::Shared;
pub use self::shared::number;
use self::threads::Pairs;
use crate::net;
use crate::observe::dump::DumpHandle;

/// What the threads work by.
#[derive(Clone)]
pub struct RelayConfig {
    /// Pipes for bulk transfers that may still be opened, by all threads together.
    pub pipes: Arc<AtomicUsize>,
    /// See `Settings::net_buffer_size`.
    pub first_size: Arc<AtomicUsize>,
    /// See `Network::idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// Where everything that passes is shown.
    pub display: Option<DumpHandle>,
}

/// Serves clients. Cheap to clone.
#[derive(Clone)]
pub struct Relay(Arc<RelayInner>);

struct RelayInner {
    pairs: Arc<Pairs>,
    shared: Shared,
    config: RelayConfig,
}

/// The relay's threads. Dropping it resets whoever is left and joins them.
pub struct RunningRelay {
    _pairs: threads::RunningPairs,
    _shared: shared::SharedThreads,
}

/// A client that is being served. Its end is reported; dropping this changes nothing for the client.
#[derive(Debug)]
pub struct ClientHandle(HandleKind);

#[derive(Debug)]
enum HandleKind {
    Threads(threads::PairPlace),
    Shared(shared::SharedPlace),
}

/// Descriptors that a shared thread needs of its own.
pub const DESCRIPTORS_EACH: u64 = net::DESCRIPTORS_EACH;
/// Descriptors that a pair of threads needs of its own.
pub const DESCRIPTORS_OF_A_PAIR: u64 = threads::DESCRIPTORS_EACH;

impl Relay {
    /// With so many shared threads, which are not started yet. There are `wanted` pairs of threads at most, as long as
    /// that is not more than `room`.
    ///
    /// # Errors
    /// When there is no descriptor.
    pub fn new(threads: usize, wanted: Arc<AtomicUsize>, room: usize, config: RelayConfig) -> io::Result<Relay> {
        let pairs = Pairs::new(wanted, room, config.clone());
        Ok(Relay(Arc::new(RelayInner { pairs, shared: Shared::new(threads)?, config })))
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// When there is no thread or descriptor.
    pub fn start(&self, reporter: &Arc<dyn Reporter>) -> io::Result<RunningRelay> {
        let shared = self.0.shared.start(reporter, &self.0.config)?;
        Ok(RunningRelay { _pairs: self.0.pairs.start(reporter), _shared: shared })
    }

    /// Waits for the dial, then relays.
    pub fn serve(&self, job: Job) -> ClientHandle {
        ClientHandle(match self.0.pairs.serve(job) {
            Ok(place) => HandleKind::Threads(place),
            Err(job) => HandleKind::Shared(self.0.shared.serve(job)),
        })
    }
}

impl ClientHandle {
    /// Ends the dial, unless it has succeeded.
    pub fn cancel_dial(&self) {
        match &self.0 {
            HandleKind::Threads(place) => place.cancel_dial(),
            HandleKind::Shared(place) => place.cancel_dial(),
        }
    }

    /// Ends a connection in order whose backend has ended.
    pub fn close_gracefully(&self) {
        match &self.0 {
            HandleKind::Threads(place) => place.close_gracefully(),
            HandleKind::Shared(place) => place.close_gracefully(),
        }
    }

    /// Ends it at once: see `Action::Cut`.
    pub fn reset(&self) {
        match &self.0 {
            HandleKind::Threads(place) => place.reset(),
            HandleKind::Shared(place) => place.reset(),
        }
    }
}
