//! Watches held clients for hang-up: one thread, one epoll set, no periodic work and no cost per waiting client.
//!
//! A client that resets its connection, or a Unix client that closes it, is gone. A client that ends its sending side
//! is reported once; `clients` knows whether it had sent something, and decides what that means.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::dispatcher::Dispatcher;
use super::messages::Report;
use crate::core::msg::ClientId;
use crate::net::Stream;
use crate::threads;

/// The set of watched clients. Cheap to clone; all clones share the same set.
#[derive(Clone, Debug)]
pub struct WatchSet(Arc<OwnedFd>);

/// The thread that watches. Dropping it stops and joins it.
#[derive(Debug)]
pub struct Watch {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// The number that stands for `stop` among the clients' ids, which are counted from 0 and never get here.
const STOP: u64 = u64::MAX;

impl Watch {
    /// Starts to report to `dispatcher`.
    ///
    /// # Errors
    /// When there is no descriptor or thread.
    pub fn start(watched: &WatchSet, dispatcher: Dispatcher) -> io::Result<Watch> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&*watched.0, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let own = watched.clone();
        let thread = threads::spawn("watch", move || run(&own.0, &dispatcher))?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

impl WatchSet {
    /// # Errors
    /// When there is no descriptor.
    pub fn new() -> io::Result<WatchSet> {
        Ok(WatchSet(Arc::new(epoll::create(CreateFlags::CLOEXEC)?)))
    }

    /// Reports the next event on this client's socket, once.
    ///
    /// # Errors
    /// If the system is short of memory. The client is then not watched, which at worst costs a dial for a client that
    /// has left.
    pub fn add(&self, client: ClientId, stream: &Stream) -> io::Result<()> {
        let events = EventFlags::RDHUP | EventFlags::ONESHOT;
        Ok(epoll::add(&*self.0, stream, EventData::new_u64(client.0), events)?)
    }

    /// Reports when this client, which has ended its sending side, is gone for good.
    pub fn rearm(&self, client: ClientId, stream: &Stream) {
        // Errors and hang-ups are always reported. A failure leaves the client unwatched, see `add`.
        epoll::modify(&*self.0, stream, EventData::new_u64(client.0), EventFlags::ONESHOT).ok();
    }

    /// Stops watching this client.
    pub fn remove(&self, stream: &Stream) {
        // Fails for one that could not be added.
        epoll::delete(&*self.0, stream).ok();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Writing eight bytes to an empty event counter cannot block or fail.
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn run(set: &OwnedFd, dispatcher: &Dispatcher) {
    let mut events = Vec::with_capacity(64);
    let mut reports = Vec::new();
    loop {
        events.clear();
        match epoll::wait(set, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            // Only a defect here (a wrong descriptor) gets this far; clients are then served unwatched.
            Err(e) => return log::error!("cannot watch held clients: {}", io::Error::from(e)),
        }
        for event in &events {
            if event.data.u64() == STOP {
                return;
            }
            let client = ClientId(event.data.u64());
            let gone = { event.flags }.intersects(EventFlags::HUP | EventFlags::ERR);
            reports.push(Report::Stirred { client, gone });
        }
        dispatcher.tell(&mut reports);
    }
}
