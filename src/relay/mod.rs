//! The relay: carries each assigned client's bytes, from its dial to its end.
//!
//! [`Relay::serve`] takes a client and returns a [`ClientHandle`]. None of its methods blocks. What happens to the
//! client is reported to a [`Reporter`]. A client can be carried in two ways, which behave the same and differ only in
//! speed:
//!
//! 1. `threads`: a pair of blocking threads of its own, for the first `Settings::thread_pairs` clients. Messages
//!    between client and backend have the least delay, the kernel schedules the threads fairly, and an operator sees in
//!    `top` or a debugger what each client does.
//! 2. `shared`: a few threads that wait for events carry all other clients. With many busy clients this costs less CPU,
//!    because one thread serves many of them without a thread switch.
//!
//! In reading order: `report` (what goes in and out), `dial` (the connection attempt), `closing` (how a connection
//! ends), `reason` (how its end is told), `direction` (one direction), `peer` (one socket), `pipes` (for splice);
//! `threads`; `shared`, and `pair` (two directions that one shared thread moves).

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

/// The configuration of the relay threads.
#[derive(Clone)]
pub struct RelayConfig {
    /// Number of pipes for bulk transfers that all threads together may still open.
    pub pipes: Arc<AtomicUsize>,
    /// See `Settings::net_buffer_size`.
    pub first_size: Arc<AtomicUsize>,
    /// See `Network::idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// Shows all relayed bytes.
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

/// The relay's threads. Dropping it resets the remaining clients and joins the threads.
pub struct RunningRelay {
    _pairs: threads::RunningPairs,
    _shared: shared::SharedThreads,
}

/// A client that is being served. Dropping it has no effect on the client, whose end is reported.
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
    /// Creates a relay with this many shared threads, which are not started yet. The number of thread pairs is limited
    /// by `wanted`, which may change, and by `room`.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn new(threads: usize, wanted: Arc<AtomicUsize>, room: usize, config: RelayConfig) -> io::Result<Relay> {
        let pairs = Pairs::new(wanted, room, config.clone());
        Ok(Relay(Arc::new(RelayInner { pairs, shared: Shared::new(threads)?, config })))
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// If the system has no thread or descriptor left.
    pub fn start(&self, reporter: &Arc<dyn Reporter>) -> io::Result<RunningRelay> {
        let shared = self.0.shared.start(reporter, &self.0.config)?;
        Ok(RunningRelay { _pairs: self.0.pairs.start(reporter), _shared: shared })
    }

    /// Has a pair of threads, or else a shared thread, wait for the dial and then relay.
    pub fn serve(&self, job: Job) -> ClientHandle {
        ClientHandle(match self.0.pairs.serve(job) {
            Ok(place) => HandleKind::Threads(place),
            Err(job) => HandleKind::Shared(self.0.shared.serve(job)),
        })
    }
}

impl ClientHandle {
    /// Cancels the dial, unless it has succeeded.
    pub fn cancel_dial(&self) {
        match &self.0 {
            HandleKind::Threads(place) => place.cancel_dial(),
            HandleKind::Shared(place) => place.cancel_dial(),
        }
    }

    /// Closes a connection whose backend has ended: see `Action::CloseGracefully`.
    pub fn close_gracefully(&self) {
        match &self.0 {
            HandleKind::Threads(place) => place.close_gracefully(),
            HandleKind::Shared(place) => place.close_gracefully(),
        }
    }

    /// Resets both sides at once: see `Action::Reset`.
    pub fn reset(&self) {
        match &self.0 {
            HandleKind::Threads(place) => place.reset(),
            HandleKind::Shared(place) => place.reset(),
        }
    }
}
