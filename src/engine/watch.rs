//! Watches held clients for hang-up: one thread, one epoll set, no periodic work and no cost per waiting client.
//!
//! A client that resets its connection, or a Unix client that closes it, is gone. A client that ends its sending side
//! is reported once; `clients` knows whether it had sent something, and decides what that means.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::epoll::EventFlags;

use super::dispatcher::Dispatcher;
use super::messages::Report;
use crate::core::msg::ClientId;
use crate::net::{Events, Poller, Stream};
use crate::threads;

/// The set of watched clients. Cheap to clone; all clones share the same set.
#[derive(Clone, Debug)]
pub struct WatchSet(Arc<Poller>);

/// The thread that watches. Dropping it stops and joins it.
#[derive(Debug)]
pub struct Watch {
    watched: WatchSet,
    thread: Option<JoinHandle<()>>,
}

/// Maximum number of events taken at once.
const BATCH: usize = 64;

impl Watch {
    /// Starts to report to `dispatcher`.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(watched: &WatchSet, dispatcher: Dispatcher) -> io::Result<Watch> {
        let own = watched.clone();
        let thread = threads::spawn("watch", move || run(&own.0, &dispatcher))?;
        Ok(Watch { watched: watched.clone(), thread: Some(thread) })
    }
}

impl WatchSet {
    /// # Errors
    /// When there is no descriptor.
    pub fn new() -> io::Result<WatchSet> {
        Ok(WatchSet(Arc::new(Poller::new()?)))
    }

    /// Reports the next event on this client's socket, once.
    ///
    /// # Errors
    /// If the system is short of memory. The client is then not watched, which at worst costs a dial for a client that
    /// has left.
    pub fn add(&self, client: ClientId, stream: &Stream) -> io::Result<()> {
        self.0.add(stream, client.0, EventFlags::RDHUP | EventFlags::ONESHOT)
    }

    /// Reports when this client, which has ended its sending side, is gone for good.
    pub fn rearm(&self, client: ClientId, stream: &Stream) {
        // Errors and hang-ups are always reported. A failure leaves the client unwatched, see `add`.
        self.0.modify(stream, client.0, EventFlags::ONESHOT).ok();
    }

    /// Stops watching this client.
    pub fn remove(&self, stream: &Stream) {
        self.0.remove(stream);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.0.wake();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Works until it is woken.
fn run(poller: &Poller, dispatcher: &Dispatcher) {
    let mut events = Events::new(BATCH);
    let mut reports = Vec::new();
    loop {
        if let Err(e) = poller.wait(&mut events, None) {
            // Clients are then served unwatched.
            return log::error!("cannot watch held clients: {e}");
        }
        if events.has_wake_up() {
            return;
        }
        reports.extend(events.iter().map(|(client, flags)| Report::Stirred {
            client: ClientId(client),
            gone: flags.intersects(EventFlags::HUP | EventFlags::ERR),
        }));
        dispatcher.tell(&mut reports);
    }
}
