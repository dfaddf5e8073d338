//! Clients that have not sent enough yet to count as arrived. One thread with one epoll set waits for all of them, so a
//! waiting client costs no thread. What they send stays in their sockets until it is relayed. A client that hangs up,
//! or sends nothing for the idle timeout, is closed. When the service stops, all of them are closed. The core does not
//! know of these clients.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::epoll::EventFlags;

use super::dispatcher::Dispatcher;
use super::messages::{AcceptedClient, Report};
use crate::core::msg::CloseReason;
use crate::net::{Deadlines, Events, Poller};
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
    /// The thread is woken for the first deadline and for the end.
    poller: Poller,
    clients: Mutex<WaitingClients>,
}

#[derive(Default)]
struct WaitingClients {
    waiting: HashMap<u64, WaitingClient>,
    next: u64,
    /// When to look at which client: one deadline for each. A client knows when a byte came last.
    deadlines: Deadlines<u64>,
    closed: bool,
}

struct WaitingClient {
    accepted: AcceptedClient,
    /// Bytes that have arrived so far, and when the last ones did.
    heard: usize,
    stirred: Instant,
}

/// Maximum number of events taken at once.
const BATCH: usize = 64;

impl FirstBytes {
    /// # Errors
    /// When there is no descriptor or thread.
    pub fn start(
        first_bytes: usize,
        idle_timeout: Option<Duration>,
        dispatcher: &Dispatcher,
    ) -> io::Result<FirstBytes> {
        let first_bytes = FirstBytesHandle(Arc::new(FirstBytesInner {
            first_bytes,
            idle_timeout,
            poller: Poller::new()?,
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
        self.first_bytes.0.poller.wake();
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
        if let Err(e) = inner.poller.add(&client.accepted.stream, id, events) {
            log::warn!("cannot wait for what {} sends: {}", client.accepted.peer, e);
            return Some(client.leave(CloseReason::NoRoom));
        }
        let first = clients.deadlines.is_empty();
        if let Some(limit) = inner.idle_timeout {
            clients.deadlines.set(client.stirred + limit, id);
            if first {
                inner.poller.wake();
            }
        }
        clients.waiting.insert(id, client);
        None
    }

    fn run(&self, dispatcher: &Dispatcher) {
        let mut events = Events::new(BATCH);
        let mut reports = Vec::new();
        while !self.0.clients.lock().closed {
            let next = self.0.clients.lock().next_deadline();
            if let Err(e) = self.0.poller.wait(&mut events, next) {
                return dispatcher.fail(e);
            }
            let mut clients = self.0.clients.lock();
            for (id, flags) in events.iter() {
                reports.extend(self.look(id, flags, &mut clients));
            }
            self.expire(&mut clients, &mut reports);
            drop(clients);
            dispatcher.tell(&mut reports);
        }
    }

    /// Something has happened to this client: it has sent something, or left.
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
        self.0.poller.remove(&client.accepted.stream);
        Some(Report::Accepted(client.accepted))
    }

    /// Closes whoever has been idle for too long.
    fn expire(&self, clients: &mut WaitingClients, reports: &mut Vec<Report>) {
        let (Some(limit), now) = (self.0.idle_timeout, Instant::now()) else { return };
        while let Some(id) = clients.deadlines.due(now) {
            let Some(client) = clients.waiting.get(&id) else { continue };
            let due = client.stirred + limit;
            if due > now {
                clients.deadlines.set(due, id);
            } else if let Some(client) = clients.waiting.remove(&id) {
                reports.push(client.leave(CloseReason::Idle));
            }
        }
    }
}

impl WaitingClients {
    /// When the first of those who still wait is to be looked at.
    fn next_deadline(&mut self) -> Option<Instant> {
        let waiting = &self.waiting;
        self.deadlines.next_awaited(waiting.len(), |id, _| waiting.contains_key(&id))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A service with a long idle timeout kept a deadline for each client until its time had come, however soon the
    /// client had arrived or left.
    #[test]
    fn clients_that_wait_no_longer_leave_no_deadline_behind() {
        let (mut clients, now) = (WaitingClients::default(), Instant::now());
        for id in 0..10 {
            clients.deadlines.set(now + Duration::from_secs(3600), id);
        }
        assert_eq!(clients.next_deadline(), None);
        assert!(clients.deadlines.is_empty());
    }
}
