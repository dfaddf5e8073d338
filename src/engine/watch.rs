//! Watches held clients for hang-up: one thread, one epoll set, no periodic work and no cost per waiting client.
//!
//! A client that resets, or a Unix client that closes, is gone. One that ends its sending side is reported once; what
//! that means is decided by who knows whether it had sent anything (see `coordinator`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::inbox::{Message, Outlet};
use crate::core::msg::ClientId;
use crate::net::Stream;
use crate::threads;

/// The set of watched clients. Dropping it ends and joins its thread.
#[derive(Debug)]
pub struct Watch {
    set: Arc<OwnedFd>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// The number that stands for `stop` among the clients' ids, which are counted from 0 and never get here.
const STOP: u64 = u64::MAX;

impl Watch {
    /// Starts watching.
    ///
    /// # Errors
    /// When there is no descriptor or thread.
    pub fn start(outlet: Outlet) -> io::Result<Watch> {
        let set = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&*set, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let own = Arc::clone(&set);
        let thread = threads::spawn("watch", move || run(&own, &outlet))?;
        Ok(Watch { set, stop, thread: Some(thread) })
    }

    /// Reports once when this client stirs.
    ///
    /// # Errors
    /// When the system is short of memory. The client is then not watched, which costs a dial later and nothing else.
    pub fn add(&self, client: ClientId, stream: &Stream) -> io::Result<()> {
        let events = EventFlags::RDHUP | EventFlags::ONESHOT;
        Ok(epoll::add(&*self.set, stream, EventData::new_u64(client.0), events)?)
    }

    /// Reports when this client, which has ended its sending side, is gone altogether.
    pub fn rearm(&self, client: ClientId, stream: &Stream) {
        // Errors and hang-ups are always reported. A failure leaves the client unwatched, see `add`.
        epoll::modify(&*self.set, stream, EventData::new_u64(client.0), EventFlags::ONESHOT).ok();
    }

    /// No longer.
    pub fn remove(&self, stream: &Stream) {
        // Fails for one that could not be added.
        epoll::delete(&*self.set, stream).ok();
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

fn run(set: &OwnedFd, outlet: &Outlet) {
    let mut events = Vec::with_capacity(64);
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
            outlet.send(Message::Stirred { client, gone });
        }
    }
}
