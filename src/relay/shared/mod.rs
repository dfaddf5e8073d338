//! The shared relay threads: each carries many clients. Starts and stops them, and gives each client to the thread with
//! the fewest clients.
//!
//! In reading order: `worker` (one thread: events, turns, reports), `mailbox` (what it is told), `connection` (one
//! client: dialling, then a pair).

pub mod connection;
pub mod mailbox;
pub mod worker;

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use self::mailbox::{Mailbox, WorkerCommand};
use self::worker::Worker;
use super::report::{Job, Reporter};
use super::{DESCRIPTORS_EACH, RelayConfig};
use crate::core::msg::ClientId;
use crate::threads;

/// All shared threads.
#[derive(Debug)]
pub struct Shared(Vec<WorkerHandle>);

/// One thread, seen from outside.
#[derive(Clone, Debug)]
struct WorkerHandle {
    mailbox: Mailbox,
    /// Number of its clients.
    load: Arc<AtomicUsize>,
}

/// The threads. Dropping it resets the remaining clients and joins the threads.
#[derive(Debug)]
pub struct SharedThreads {
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
}

/// A client on a shared thread. It counts towards that thread's load until this is dropped.
#[derive(Debug)]
pub struct SharedPlace {
    client: ClientId,
    worker: WorkerHandle,
}

/// There is one thread per processor, but not more than this: they share one core, behind one lock.
const MOST: usize = 16;
/// Start one thread per this many descriptors: where descriptors are scarce, clients need them.
const WORTH_A_THREAD: u64 = 32 * DESCRIPTORS_EACH;

/// Number of relay threads for this machine, in a process with this limit of descriptors.
pub fn number(descriptors: u64) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let worth = usize::try_from(descriptors / WORTH_A_THREAD).unwrap_or(MOST);
    processors.min(MOST).min(worth).max(1)
}

impl Shared {
    /// Prepares this many threads, at least one, without starting them.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn new(threads: usize) -> io::Result<Shared> {
        let worker = |_| Ok(WorkerHandle { mailbox: Mailbox::new()?, load: Arc::default() });
        Ok(Shared((0..threads.max(1)).map(worker).collect::<io::Result<_>>()?))
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(&self, reporter: &Arc<dyn Reporter>, config: &RelayConfig) -> io::Result<SharedThreads> {
        let mailboxes = self.0.iter().map(|worker| worker.mailbox.clone()).collect();
        let mut running = SharedThreads { mailboxes, threads: Vec::new() };
        for (number, worker) in self.0.iter().enumerate() {
            let worker = Worker::new(worker.mailbox.clone(), Arc::clone(reporter), config.clone());
            let broken = Broken(Arc::clone(reporter));
            running.threads.push(threads::spawn(&format!("relay-{number}"), move || {
                if let Err(e) = worker.run() {
                    broken.0.failed(e);
                }
            })?);
        }
        Ok(running)
    }

    /// Gives the client to the thread with the fewest clients.
    pub fn serve(&self, job: Job) -> SharedPlace {
        let least = self.0.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed));
        let worker = least.expect("there is at least one").clone();
        worker.load.fetch_add(1, Ordering::Relaxed);
        let client = job.client;
        worker.mailbox.send(WorkerCommand::Serve(job));
        SharedPlace { client, worker }
    }
}

impl SharedPlace {
    pub fn cancel_dial(&self) {
        self.worker.mailbox.send(WorkerCommand::CancelDial(self.client));
    }

    pub fn close_gracefully(&self) {
        self.worker.mailbox.send(WorkerCommand::CloseGracefully(self.client));
    }

    pub fn reset(&self) {
        self.worker.mailbox.send(WorkerCommand::Reset(self.client));
    }
}

impl Drop for SharedPlace {
    fn drop(&mut self) {
        self.worker.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Dropped by a relay thread when it ends. If the thread panicked (outside the work for one client), its clients cannot
/// continue and new ones must not wait for it, so this reports the failure.
struct Broken(Arc<dyn Reporter>);

impl Drop for Broken {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed(io::Error::other("a relay thread panicked"));
        }
    }
}

impl Drop for SharedThreads {
    fn drop(&mut self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(WorkerCommand::Stop));
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported already.
            thread.join().ok();
        }
    }
}
