//! Clients that have a pair of threads of their own: `client-ID` dials, then copies from the client to the backend, and
//! `backend-ID` copies the other way. A thread waits in the read or the write it is about to do, so a message costs two
//! system calls, and the kernel shares the processors out.
//!
//! Both threads are claimed before anything is read of the client. They come from a pool and go back to it. Whoever
//! finds the limit reached, or no thread, is not served here: [`Pairs::serve`] returns the job.
//!
//! In reading order: `dial`, `sockets`, `connection` (what both threads share, and how it ends), `copier` (one
//! direction).
//!
//! A thread in recv(2) cannot be told anything, so whoever wants its attention ends the reading half of both sockets,
//! which no peer sees. The sockets are reset or closed by the last of the two threads, because a reset that the kernel
//! refuses while another thread waits on the socket (EBUSY) would have to be replaced by an orderly end (promise 1).

mod connection;
mod copier;
mod dial;
mod sockets;

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use self::connection::Connection;
use self::copier::Copier;
use self::dial::Dialled;
use super::RelayConfig;
use super::report::{CloseSummary, Job, Report, Reporter};
use crate::core::msg::{ClientId, CloseReason, PeerRole};
use crate::net::Stream;
use crate::rate_limit::RateLimit;
use crate::threads::pool::{ClaimedThread, ThreadPool};

/// All clients that have threads of their own.
pub struct Pairs {
    /// See `Settings::thread_pairs`.
    wanted: Arc<AtomicUsize>,
    /// What there are descriptors and threads for.
    room: usize,
    config: RelayConfig,
    pool: ThreadPool,
    live: Mutex<Live>,
}

struct Live {
    /// From the start to the stop.
    reporter: Option<Arc<dyn Reporter>>,
    connections: HashMap<ClientId, Arc<Connection>>,
    refusals: RateLimit,
}

/// While it exists, clients are served. Dropping it resets whoever is left and joins the threads.
pub struct RunningPairs(Arc<Pairs>);

/// A client that has threads of its own.
#[derive(Debug)]
pub struct PairPlace(Arc<Connection>);

/// What a pair needs beside its sockets: the waker.
pub const DESCRIPTORS_EACH: u64 = 1;

impl Pairs {
    /// `wanted` may change; there are never more than `room`.
    pub fn new(wanted: Arc<AtomicUsize>, room: usize, config: RelayConfig) -> Arc<Pairs> {
        let live = Live { reporter: None, connections: HashMap::new(), refusals: RateLimit::default() };
        Arc::new(Pairs { wanted, room, config, pool: ThreadPool::default(), live: Mutex::new(live) })
    }

    pub fn start(self: &Arc<Pairs>, reporter: &Arc<dyn Reporter>) -> RunningPairs {
        self.live.lock().reporter = Some(Arc::clone(reporter));
        RunningPairs(Arc::clone(self))
    }

    /// Serves a client, or returns it untouched.
    ///
    /// # Errors
    /// The job, when as many are served as there may be, or there is no thread or descriptor for one more.
    pub fn serve(self: &Arc<Pairs>, job: Job) -> Result<PairPlace, Job> {
        let mut live = self.live.lock();
        if live.connections.len() >= self.wanted.load(Ordering::Relaxed).min(self.room) {
            return Err(job);
        }
        let Some(reporter) = live.reporter.clone() else { return Err(job) };
        let client = job.client;
        let claim = || {
            let connection = Connection::new(client, Arc::clone(&job.flow))?;
            Ok::<_, io::Error>((Arc::new(connection), self.pool.claim()?, self.pool.claim()?))
        };
        let (connection, first, second) = match claim() {
            Ok(claimed) => claimed,
            Err(e) => {
                if let Some(others) = live.refusals.turn(Instant::now()) {
                    log::warn!("client {}: no threads of its own, it shares one: {e}{others}", client.0);
                }
                return Err(job);
            }
        };
        live.connections.insert(client, Arc::clone(&connection));
        drop(live);
        let task = Task { pairs: Arc::clone(self), connection: Arc::clone(&connection), client, reporter };
        first.run(format!("client-{}", client.0), move || task.dial(job, second));
        Ok(PairPlace(connection))
    }

    /// There is room for another one.
    fn forget(&self, client: ClientId) {
        self.live.lock().connections.remove(&client);
    }
}

impl PairPlace {
    pub fn cancel_dial(&self) {
        self.0.cancel_dial();
    }

    pub fn close_gracefully(&self) {
        self.0.close_gracefully();
    }

    pub fn reset(&self) {
        self.0.reset();
    }
}

impl Drop for RunningPairs {
    fn drop(&mut self) {
        let connections: Vec<_> = {
            let mut live = self.0.live.lock();
            live.reporter = None;
            live.connections.values().cloned().collect()
        };
        connections.iter().for_each(|connection| connection.reset());
        self.0.pool.join();
    }
}

/// What a thread of the pool does for one client.
#[derive(Clone)]
struct Task {
    pairs: Arc<Pairs>,
    connection: Arc<Connection>,
    client: ClientId,
    reporter: Arc<dyn Reporter>,
}

impl Task {
    /// The first thread: waits for the dial, then copies from the client to the backend. `second` is for the other way.
    fn dial(self, job: Job, second: ClaimedThread) {
        let Job { client, stream, dial, .. } = job;
        let report = match catch_unwind(AssertUnwindSafe(|| self.connection.dial(*dial))) {
            Ok(Dialled::Connected(backend, address)) => {
                let copiers = self.open(stream, backend);
                self.reporter.report(&mut vec![Report::Connected(client, address)]);
                let [first, other] = copiers;
                let task = self.clone();
                second.run(format!("backend-{}", client.0), move || task.copy(other));
                return self.copy(first);
            }
            Ok(Dialled::Failed { failure, cause }) => Report::DialFailed { client, stream, failure, cause },
            Ok(Dialled::Reset) => closed_while_dialling(client, stream, CloseReason::Terminated),
            Err(_) => closed_while_dialling(client, stream, CloseReason::Panicked),
        };
        // The threads are idle, or about to be, when somebody is served in this one's place.
        drop(second);
        self.pairs.forget(client);
        self.reporter.report(&mut vec![report]);
    }

    fn open(&self, client: Stream, backend: Stream) -> [Copier; 2] {
        let config = &self.pairs.config;
        // With a time limit nobody waits in a read.
        let waits = config.idle_timeout.is_none();
        if waits {
            client.set_nonblocking(false);
            backend.set_nonblocking(false);
        }
        let sockets = self.connection.open(client, backend);
        [PeerRole::Client, PeerRole::Backend].map(|from| {
            let connection = Arc::clone(&self.connection);
            Copier::new(connection, Arc::clone(&self.reporter), from, &sockets, config)
        })
    }

    /// One direction, to the connection's end. The last of both closes the sockets and reports.
    fn copy(self, mut copier: Copier) {
        let outcome = catch_unwind(AssertUnwindSafe(|| copier.run()));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.connection.give_up(Some(e)),
            Err(_) => self.connection.give_up(None),
        }
        drop(copier);
        if let Some(ending) = self.connection.leave() {
            self.pairs.forget(self.client);
            self.reporter.report(&mut vec![Report::Closed(self.client, ending)]);
        }
    }
}

fn closed_while_dialling(client: ClientId, stream: Stream, why: CloseReason) -> Report {
    drop(stream);
    Report::Closed(client, CloseSummary::of_none(why))
}
