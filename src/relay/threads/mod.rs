//! Clients with a pair of threads of their own: `client-ID` dials, then copies from the client to the backend, and
//! `backend-ID` copies the other way. A thread blocks in its next read or write, so a message costs two system calls,
//! and the kernel schedules the threads.
//!
//! Both threads are claimed before anything is read from the client. They come from a pool and go back to it. If the
//! limit is reached or no thread is available, [`Pairs::serve`] returns the job.
//!
//! In reading order: `dial`, `sockets`, `state` (what both threads share), `connection` (how it changes, and how the
//! connection ends), `copier` (one direction).
//!
//! A thread that blocks in recv(2) cannot receive messages. To wake it, the reading halves of both sockets are shut
//! down, which no peer sees. The last of the two threads resets or closes the sockets: while another thread waits on a
//! socket the kernel may refuse a reset (EBUSY), and then only an orderly end would be left, which would break promise
//! 1.

mod connection;
mod copier;
mod dial;
mod sockets;
mod state;

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

/// All clients with threads of their own.
pub struct Pairs {
    /// See `Settings::thread_pairs`.
    wanted: Arc<AtomicUsize>,
    /// Number of pairs for which there are descriptors, threads and memory.
    room: usize,
    config: RelayConfig,
    pool: ThreadPool,
    live: Mutex<Live>,
}

struct Live {
    /// Set while the relay runs.
    reporter: Option<Arc<dyn Reporter>>,
    connections: HashMap<ClientId, Arc<Connection>>,
    refusals: RateLimit,
}

/// Clients are served while it exists. Dropping it resets the remaining clients and joins the threads.
pub struct RunningPairs(Arc<Pairs>);

/// A client with threads of its own.
#[derive(Debug)]
pub struct PairPlace(Arc<Connection>);

/// Descriptors that a pair needs beside its sockets: the waker.
pub const DESCRIPTORS_EACH: u64 = 1;

impl Pairs {
    /// `wanted` may change; the number of pairs never exceeds `room`.
    pub fn new(wanted: Arc<AtomicUsize>, room: usize, config: RelayConfig) -> Arc<Pairs> {
        let live = Live { reporter: None, connections: HashMap::new(), refusals: RateLimit::default() };
        Arc::new(Pairs { wanted, room, config, pool: ThreadPool::default(), live: Mutex::new(live) })
    }

    pub fn start(self: &Arc<Pairs>, reporter: &Arc<dyn Reporter>) -> RunningPairs {
        self.live.lock().reporter = Some(Arc::clone(reporter));
        RunningPairs(Arc::clone(self))
    }

    /// Serves a client, or returns the job untouched.
    ///
    /// # Errors
    /// The job, if the limit is reached or no thread or descriptor is available.
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

    /// A client has ended: another may take its pair.
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

/// The work of a pool thread for one client.
#[derive(Clone)]
struct Task {
    pairs: Arc<Pairs>,
    connection: Arc<Connection>,
    client: ClientId,
    reporter: Arc<dyn Reporter>,
}

impl Task {
    /// The first thread: waits for the dial, then copies from the client to the backend. `second` copies the other way.
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
        // Before the report, which may cause this client to be dialled again under the same id.
        drop(second);
        self.pairs.forget(client);
        self.reporter.report(&mut vec![report]);
    }

    fn open(&self, client: Stream, backend: Stream) -> [Copier; 2] {
        let config = &self.pairs.config;
        // With an idle timeout no thread blocks in a read.
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

    /// Copies one direction until the connection's end. The last of the two closes the sockets and reports.
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
