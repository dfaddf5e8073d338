//! The relay: a few threads carry all assigned clients, each from its dial to its end.
//!
//! In reading order: `worker` (one thread: events, turns, reports), `mailbox` (what it is told), `deadlines`,
//! `connection` (one client: dialling, then a pair), `pair` (two directions), `closing` (how they end), `direction`
//! (one direction), `peer` (one socket), `pipes` (for splice).
//!
//! Why not a thread or two for each client: measured against HAProxy, a pair of blocking threads made .47 (32
//! connections) and .37 (500) of its round trips, half of the CPU spent on changing threads, and 26 KiB for a client at
//! rest; nothing within that design changed it by a tenth. `contrib/bench/relay` repeats the comparison.

mod closing;
pub mod dial;
pub mod direction;
mod pair;
pub mod peer;
mod pipes;
pub mod shared;

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use self::shared::mailbox::{Mailbox, WorkerCommand};
use self::shared::worker::Worker;
use crate::engine::dispatcher::Dispatcher;
use crate::observe::dump::DumpHandle;
use crate::threads;

/// What the threads work by.
#[derive(Clone)]
pub struct RelayConfig {
    /// The most pipes they may have open, all together.
    pub pipes: usize,
    /// See `Settings::net_buffer_size`.
    pub first_size: Arc<AtomicUsize>,
    /// See `Network::idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// Where everything that passes is shown.
    pub display: Option<DumpHandle>,
}

/// The threads. Dropping it cuts whoever is left and joins them.
pub struct RelayThreads {
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
}

/// One for each processor, but not more than this: the core behind them is one.
const MOST: usize = 16;
/// What a thread needs of its own: its events and its waker.
pub const DESCRIPTORS_EACH: u64 = 2;
/// A thread is for so many descriptors at least: where there are few, they are for clients.
const WORTH_A_THREAD: u64 = 64;

/// How many relay threads there are on this machine, in a process that may have so many descriptors.
pub fn number(descriptors: u64) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let worth = usize::try_from(descriptors / WORTH_A_THREAD).unwrap_or(MOST);
    processors.min(MOST).min(worth).max(1)
}

impl RelayThreads {
    /// Starts a thread for each mailbox.
    ///
    /// # Errors
    /// When there is no thread or descriptor.
    pub fn start(mailboxes: Vec<Mailbox>, dispatcher: &Dispatcher, config: &RelayConfig) -> io::Result<RelayThreads> {
        let mut relays = RelayThreads { mailboxes, threads: Vec::new() };
        for (number, mailbox) in relays.mailboxes.iter().enumerate() {
            let share = RelayConfig { pipes: config.pipes / relays.mailboxes.len(), ..config.clone() };
            let worker = Worker::new(mailbox.clone(), dispatcher.clone(), share)?;
            let broken = dispatcher.clone();
            relays.threads.push(threads::spawn(&format!("relay-{number}"), move || {
                let ends = PanicReporter(broken);
                match worker.run() {
                    Ok(()) => std::mem::forget(ends),
                    Err(e) => ends.0.failed(e),
                }
            })?);
        }
        Ok(relays)
    }
}

/// Dropped by a relay thread that ends although nobody told it to: by a panic that was not about one client. Those it
/// had cannot go on, and new ones must not wait for it.
struct PanicReporter(Dispatcher);

impl Drop for PanicReporter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed(io::Error::other("a relay thread panicked"));
        }
    }
}

impl Drop for RelayThreads {
    fn drop(&mut self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(WorkerCommand::Stop));
        for thread in self.threads.drain(..) {
            // What it panicked of has been reported.
            thread.join().ok();
        }
    }
}
