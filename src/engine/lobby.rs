//! Clients that have not sent enough yet to count as arrived: one thread, one epoll set, and no cost for one that waits.
//! What they send stays in their sockets and is passed on like everything else. One that hangs up, or sends nothing for
//! the idle timeout, is closed; so is everybody when the service stops. The core does not know of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::dispatch::Dispatcher;
use super::inbox::{Report, Visitor};
use crate::core::msg::Why;
use crate::threads;

/// The thread, and everybody who waits. Dropping it closes them and joins it.
pub struct Lobby {
    entrance: Entrance,
    dispatcher: Dispatcher,
    thread: Option<JoinHandle<()>>,
}

/// Where clients come in. Cheap to clone.
#[derive(Clone)]
pub struct Entrance(Arc<Inner>);

struct Inner {
    /// So many bytes make an arrival.
    first_bytes: usize,
    idle_timeout: Option<Duration>,
    set: OwnedFd,
    /// Wakes the thread: there is a first deadline, or the end.
    bell: OwnedFd,
    guests: Mutex<Guests>,
}

#[derive(Default)]
struct Guests {
    waiting: HashMap<u64, Guest>,
    next: u64,
    /// When which guest is to be looked at. Never cancelled: a guest knows when a byte came last.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    closed: bool,
}

struct Guest {
    visitor: Visitor,
    /// Bytes that have come so far, and when the last ones did.
    heard: usize,
    stirred: Instant,
}

/// Stands for the bell among the guests, who are counted from 0.
const BELL: u64 = u64::MAX;

impl Lobby {
    /// # Errors
    /// When there is no descriptor or thread.
    pub fn start(first_bytes: usize, idle_timeout: Option<Duration>, dispatcher: &Dispatcher) -> io::Result<Lobby> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        // Told once for each ring, so that nobody has to read it.
        epoll::add(&set, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        let entrance = Entrance(Arc::new(Inner { first_bytes, idle_timeout, set, bell, guests: Mutex::default() }));
        let (own, dispatcher) = (entrance.clone(), dispatcher.clone());
        let reports_to = dispatcher.clone();
        let thread = threads::spawn("lobby", move || own.run(&reports_to))?;
        Ok(Lobby { entrance, dispatcher, thread: Some(thread) })
    }

    pub fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }
}

impl Drop for Lobby {
    fn drop(&mut self) {
        let guests = {
            let mut guests = self.entrance.0.guests.lock();
            guests.closed = true;
            std::mem::take(&mut guests.waiting)
        };
        self.entrance.ring();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        self.dispatcher.tell(&mut guests.into_values().map(|guest| guest.leave(Why::Shutdown)).collect());
    }
}

impl Entrance {
    /// One more. Returns what is to be reported at once, if it has not come to wait.
    pub fn enter(&self, visitor: Visitor) -> Option<Report> {
        let inner = &*self.0;
        if visitor.stream.unread_bytes() >= inner.first_bytes {
            return Some(Report::Accepted(visitor));
        }
        let guest = Guest { stirred: visitor.accepted, visitor, heard: 0 };
        let mut guests = inner.guests.lock();
        if guests.closed {
            return Some(guest.leave(Why::Shutdown));
        }
        let id = guests.next;
        guests.next += 1;
        // What has come already is told at once.
        let events = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if let Err(e) = epoll::add(&inner.set, &guest.visitor.stream, EventData::new_u64(id), events) {
            log::warn!("cannot wait for what {} sends: {}", guest.visitor.peer, io::Error::from(e));
            return Some(guest.leave(Why::NoRoom));
        }
        let first = guests.deadlines.is_empty();
        if let Some(limit) = inner.idle_timeout {
            guests.deadlines.push(Reverse((guest.stirred + limit, id)));
            if first {
                self.ring();
            }
        }
        guests.waiting.insert(id, guest);
        None
    }

    fn ring(&self) {
        // Fails when the counter is full: after 2^64 rings.
        rustix::io::write(&self.0.bell, &1_u64.to_ne_bytes()).ok();
    }

    fn run(&self, dispatcher: &Dispatcher) {
        let mut events = Vec::with_capacity(64);
        let mut reports = Vec::new();
        while !self.0.guests.lock().closed {
            events.clear();
            let next = self.0.guests.lock().deadlines.peek().map(|Reverse((at, _))| *at);
            let left = next.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout =
                left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
            match epoll::wait(&self.0.set, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                // Only a defect here (a wrong descriptor) gets this far.
                Err(e) => return dispatcher.failed(e.into()),
            }
            let mut guests = self.0.guests.lock();
            for event in &events {
                reports.extend(self.look(event.data.u64(), event.flags, &mut guests));
            }
            self.expire(&mut guests, &mut reports);
            drop(guests);
            dispatcher.tell(&mut reports);
        }
    }

    /// Something has happened to this guest: it has sent something, or left.
    fn look(&self, id: u64, flags: EventFlags, guests: &mut Guests) -> Option<Report> {
        let guest = guests.waiting.get_mut(&id)?;
        let heard = guest.visitor.stream.unread_bytes();
        let left = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if heard < self.0.first_bytes && !left {
            if heard > guest.heard {
                (guest.heard, guest.stirred) = (heard, Instant::now());
            }
            return None;
        }
        let guest = guests.waiting.remove(&id)?;
        if heard < self.0.first_bytes {
            // It will not send any more.
            return Some(guest.leave(Why::HungUp));
        }
        // Fails only for one that is not in there.
        epoll::delete(&self.0.set, &guest.visitor.stream).ok();
        Some(Report::Accepted(guest.visitor))
    }

    /// Closes whoever has been idle for too long.
    fn expire(&self, guests: &mut Guests, reports: &mut Vec<Report>) {
        let (Some(limit), now) = (self.0.idle_timeout, Instant::now()) else { return };
        while let Some(&Reverse((at, id))) = guests.deadlines.peek()
            && at <= now
        {
            guests.deadlines.pop();
            let Some(guest) = guests.waiting.get(&id) else { continue };
            let due = guest.stirred + limit;
            if due > now {
                guests.deadlines.push(Reverse((due, id)));
            } else if let Some(guest) = guests.waiting.remove(&id) {
                reports.push(guest.leave(Why::Idle));
            }
        }
    }
}

impl Guest {
    /// Closes it.
    fn leave(self, why: Why) -> Report {
        let Visitor { stream, peer, accepted, permit } = self.visitor;
        drop((stream, permit));
        Report::NeverArrived { peer, accepted, why }
    }
}
