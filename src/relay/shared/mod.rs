//! The shared relay threads: each carries many clients. Starts and stops them, and gives a client to the one that has
//! the fewest.

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

/// The way to all shared threads.
#[derive(Debug)]
pub struct Shared(Vec<WorkerHandle>);

/// One thread, seen from outside.
#[derive(Clone, Debug)]
struct WorkerHandle {
    mailbox: Mailbox,
    /// Clients it has.
    load: Arc<AtomicUsize>,
}

/// The threads. Dropping it resets whoever is left and joins them.
#[derive(Debug)]
pub struct SharedThreads {
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
}

/// A client that a shared thread has. It counts until this is dropped.
#[derive(Debug)]
pub struct SharedPlace {
    client: ClientId,
    worker: WorkerHandle,
}

/// One for each processor, but not more than this: the core behind them is one.
const MOST: usize = 16;
/// A thread is for so many descriptors at least: where there are few, they are for clients.
const WORTH_A_THREAD: u64 = 32 * DESCRIPTORS_EACH;

/// How many relay threads there are on this machine, in a process that may have so many descriptors.
pub fn number(descriptors: u64) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let worth = usize::try_from(descriptors / WORTH_A_THREAD).unwrap_or(MOST);
    processors.min(MOST).min(worth).max(1)
}

impl Shared {
    /// For so many threads, which are not started yet; at least one.
    ///
    /// # Errors
    /// When there is no descriptor.
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

    /// Gives the client to the thread that has the fewest.
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

/// Dropped by a relay thread when it ends. If it panicked, and not on behalf of one client, those it had cannot go on,
/// and new ones must not wait for it.
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
            // Its panic has been reported.
            thread.join().ok();
        }
    }
}
