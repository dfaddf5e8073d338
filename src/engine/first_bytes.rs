//! Clients that have not sent enough yet to count as arrived. One thread with one epoll set waits for all of them, so a
//! waiting client costs no thread. What they send stays in their sockets until it is relayed. A client that hangs up,
//! or sends nothing for the idle timeout, is closed. When the service stops, all of them are closed. The core does not
//! know of these clients.

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

use super::dispatcher::Dispatcher;
use super::messages::{AcceptedClient, Report};
use crate::core::msg::CloseReason;
use crate::threads;

/// The thread and all waiting clients. Dropping it closes them and joins the thread.
pub struct FirstBytes {
    first_bytes: FirstBytesHandle,
    dispatcher: Dispatcher,
    thread: Option<JoinHandle<()>>,
}

/// Adds clients to those that wait. Cheap to clone.
#[derive(Clone)]
pub struct FirstBytesHandle(Arc<FirstBytesInner>);

struct FirstBytesInner {
    /// A client that has sent this many bytes has arrived.
    first_bytes: usize,
    idle_timeout: Option<Duration>,
    set: OwnedFd,
    /// Wakes the thread: there is a first deadline, or the end.
    waker: OwnedFd,
    clients: Mutex<WaitingClients>,
}

#[derive(Default)]
struct WaitingClients {
    waiting: HashMap<u64, WaitingClient>,
    next: u64,
    /// When which guest is to be looked at. Never cancelled: a guest knows when a byte came last.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    closed: bool,
}

struct WaitingClient {
    accepted: AcceptedClient,
    /// Bytes that have arrived so far, and when the last ones did.
    heard: usize,
    stirred: Instant,
}

/// Stands for the waker among the guests, who are counted from 0.
const WAKER: u64 = u64::MAX;

impl FirstBytes {
    /// # Errors
    /// When there is no descriptor or thread.
    pub fn start(
        first_bytes: usize,
        idle_timeout: Option<Duration>,
        dispatcher: &Dispatcher,
    ) -> io::Result<FirstBytes> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC)?;
        // Told once for each ring, so that nobody has to read it.
        epoll::add(&set, &waker, EventData::new_u64(WAKER), EventFlags::IN | EventFlags::ET)?;
        let first_bytes = FirstBytesHandle(Arc::new(FirstBytesInner {
            first_bytes,
            idle_timeout,
            set,
            waker,
            clients: Mutex::default(),
        }));
        let (own, dispatcher) = (first_bytes.clone(), dispatcher.clone());
        let reports_to = dispatcher.clone();
        let thread = threads::spawn("first-bytes", move || own.run(&reports_to))?;
        Ok(FirstBytes { first_bytes, dispatcher, thread: Some(thread) })
    }

    pub fn first_bytes(&self) -> FirstBytesHandle {
        self.first_bytes.clone()
    }
}

impl Drop for FirstBytes {
    fn drop(&mut self) {
        let clients = {
            let mut clients = self.first_bytes.0.clients.lock();
            clients.closed = true;
            std::mem::take(&mut clients.waiting)
        };
        self.first_bytes.wake();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        self.dispatcher.tell(&mut clients.into_values().map(|client| client.leave(CloseReason::Shutdown)).collect());
    }
}

impl FirstBytesHandle {
    /// One more. Returns what is to be reported at once, if it has not come to wait.
    pub fn enter(&self, accepted: AcceptedClient) -> Option<Report> {
        let inner = &*self.0;
        if accepted.stream.unread_bytes() >= inner.first_bytes {
            return Some(Report::Accepted(accepted));
        }
        let client = WaitingClient { stirred: accepted.accepted, accepted, heard: 0 };
        let mut clients = inner.clients.lock();
        if clients.closed {
            return Some(client.leave(CloseReason::Shutdown));
        }
        let id = clients.next;
        clients.next += 1;
        // What has come already is told at once.
        let events = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if let Err(e) = epoll::add(&inner.set, &client.accepted.stream, EventData::new_u64(id), events) {
            log::warn!("cannot wait for what {} sends: {}", client.accepted.peer, io::Error::from(e));
            return Some(client.leave(CloseReason::NoRoom));
        }
        let first = clients.deadlines.is_empty();
        if let Some(limit) = inner.idle_timeout {
            clients.deadlines.push(Reverse((client.stirred + limit, id)));
            if first {
                self.wake();
            }
        }
        clients.waiting.insert(id, client);
        None
    }

    fn wake(&self) {
        // Fails when the counter is full: after 2^64 wake-ups.
        rustix::io::write(&self.0.waker, &1_u64.to_ne_bytes()).ok();
    }

    fn run(&self, dispatcher: &Dispatcher) {
        let mut events = Vec::with_capacity(64);
        let mut reports = Vec::new();
        while !self.0.clients.lock().closed {
            events.clear();
            let next = self.0.clients.lock().deadlines.peek().map(|Reverse((at, _))| *at);
            let left = next.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout =
                left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
            match epoll::wait(&self.0.set, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                // Only a defect here (a wrong descriptor) gets this far.
                Err(e) => return dispatcher.fail(e.into()),
            }
            let mut clients = self.0.clients.lock();
            for event in &events {
                reports.extend(self.look(event.data.u64(), event.flags, &mut clients));
            }
            self.expire(&mut clients, &mut reports);
            drop(clients);
            dispatcher.tell(&mut reports);
        }
    }

    /// Something has happened to this guest: it has sent something, or left.
    fn look(&self, id: u64, flags: EventFlags, clients: &mut WaitingClients) -> Option<Report> {
        let client = clients.waiting.get_mut(&id)?;
        let heard = client.accepted.stream.unread_bytes();
        let left = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if heard < self.0.first_bytes && !left {
            if heard > client.heard {
                (client.heard, client.stirred) = (heard, Instant::now());
            }
            return None;
        }
        let client = clients.waiting.remove(&id)?;
        if heard < self.0.first_bytes {
            // It will not send any more.
            return Some(client.leave(CloseReason::HungUp));
        }
        // Fails only for one that is not in there.
        epoll::delete(&self.0.set, &client.accepted.stream).ok();
        Some(Report::Accepted(client.accepted))
    }

    /// Closes whoever has been idle for too long.
    fn expire(&self, clients: &mut WaitingClients, reports: &mut Vec<Report>) {
        let (Some(limit), now) = (self.0.idle_timeout, Instant::now()) else { return };
        while let Some(&Reverse((at, id))) = clients.deadlines.peek()
            && at <= now
        {
            clients.deadlines.pop();
            let Some(client) = clients.waiting.get(&id) else { continue };
            let due = client.stirred + limit;
            if due > now {
                clients.deadlines.push(Reverse((due, id)));
            } else if let Some(client) = clients.waiting.remove(&id) {
                reports.push(client.leave(CloseReason::Idle));
            }
        }
    }
}

impl WaitingClient {
    /// Closes it.
    fn leave(self, why: CloseReason) -> Report {
        let AcceptedClient { stream, peer, accepted, permit } = self.accepted;
        drop((stream, permit));
        Report::NeverArrived { peer, accepted, why }
    }
}
