//! The engine's side of every client: its socket while it is held, its leash while it is granted, and the facts that
//! are told when it ends. Decides nothing: each method carries out one action or takes note of one event.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::dial::{Attempt, Failed, blame};
use super::inbox::{Ending, Message, Outlet};
use super::leash::{Leash, Over};
use super::relay::Pair;
use super::room::Room;
use super::watch::Watch;
use super::workers::Workers;
use crate::core::msg::{ClientId, DialFailure, Traffic, Why};
use crate::endpoint::Address;
use crate::net::Stream;
use crate::observe::journal::Facts;

/// All clients, held and granted.
pub struct Clients {
    /// Each client here has a place; so has each that is still on its way from a listener.
    room: Room,
    table: HashMap<ClientId, Record>,
    /// Clients that came into the queue during this event: watched after it, if they are still there.
    unwatched: Vec<ClientId>,
    next: u64,
    held: usize,
}

struct Record {
    seat: Seat,
    facts: Facts,
}

enum Seat {
    Held { stream: Stream, watched: bool },
    Granted(Arc<Leash>),
    Gone,
}

/// What a client's dial needs to know.
pub struct Grant {
    pub addresses: Arc<[Address]>,
    pub timeout: Duration,
    pub buffer_size: Arc<AtomicUsize>,
}

impl Clients {
    pub fn new(room: Room) -> Clients {
        Clients { room, table: HashMap::new(), unwatched: Vec::new(), next: 0, held: 0 }
    }

    /// A new client, held. Ids are given in the order of this call.
    pub fn admit(&mut self, stream: Stream, peer: Address) -> ClientId {
        let id = ClientId(self.next);
        self.next += 1;
        let facts = Facts::new(peer, Instant::now());
        self.table.insert(id, Record { seat: Seat::Held { stream, watched: false }, facts });
        self.held += 1;
        self.unwatched.push(id);
        id
    }

    /// Whether a held client that stirred has left. One that was reset is gone. One that ended its sending side without
    /// having sent a byte has asked for nothing and never will: it has hung up. With bytes waiting it is a request whose
    /// answer is awaited, and stays.
    pub fn has_left(&mut self, client: ClientId, gone: bool, watch: &Watch) -> bool {
        let Some(Record { seat: Seat::Held { stream, watched: true }, .. }) = self.table.get(&client) else {
            return false;
        };
        if gone || !stream.has_unread_bytes() {
            return true;
        }
        watch.rearm(client, stream);
        false
    }

    /// Watches those who were not served at once.
    pub fn watch_new(&mut self, watch: &Watch) {
        for client in self.unwatched.drain(..) {
            if let Some(Record { seat: Seat::Held { stream, watched }, .. }) = self.table.get_mut(&client) {
                match watch.add(client, stream) {
                    Ok(()) => *watched = true,
                    Err(e) => log::warn!("client {}: cannot be watched while it is held: {e}", client.0),
                }
            }
        }
    }

    /// Begins to connect, and hands the client to a thread of its own.
    pub fn dial(&mut self, id: ClientId, grant: Grant, watch: &Watch, workers: &Workers, outlet: &Outlet) {
        let Some(record) = self.table.get_mut(&id) else { return };
        let seat = std::mem::replace(&mut record.seat, Seat::Gone);
        let Seat::Held { stream, watched } = seat else {
            record.seat = seat;
            return;
        };
        self.held -= 1;
        record.facts.granted = Some(Instant::now());
        if watched {
            watch.remove(&stream);
            // What the watch has to tell may still be on its way.
            if stream.has_hung_up() {
                let ending = Ending { why: Why::HungUp, up: 0, down: 0, cause: None };
                return outlet.send(Message::Closed(id, ending));
            }
        }
        // First, so that a client for whom there is no thread costs the backend nothing.
        let claimed = match workers.claim() {
            Ok(claimed) => claimed,
            Err(cause) => {
                let failure = DialFailure::Local;
                return outlet.send(Message::Refused { client: id, stream, failure, cause });
            }
        };
        let attempt = Attempt::begin(grant.addresses, grant.timeout);
        let leash = Arc::new(Leash::new(attempt.stream()));
        record.seat = Seat::Granted(Arc::clone(&leash));
        let (own, outlet) = (workers.clone(), outlet.clone());
        claimed.run(format!("client-{}", id.0), move || {
            Client { id, leash, workers: own, outlet, buffer_size: grant.buffer_size }.serve(stream, attempt);
        });
    }

    /// A dial came to nothing: the client is held again.
    pub fn take_back(&mut self, client: ClientId, stream: Stream, cause: io::Error) {
        if let Some(record) = self.table.get_mut(&client) {
            record.seat = Seat::Held { stream, watched: false };
            record.facts.cause = Some(cause);
            self.held += 1;
            self.unwatched.push(client);
        }
    }

    pub fn connected(&mut self, client: ClientId, address: Address) {
        if let Some(record) = self.table.get_mut(&client) {
            record.facts.connected = Some((Instant::now(), address));
            record.facts.cause = None;
        }
    }

    /// Returns what its connection has had.
    pub fn ended(&mut self, client: ClientId, ending: Ending) -> Traffic {
        let Some(record) = self.table.get_mut(&client) else { return Traffic::default() };
        (record.facts.up, record.facts.down) = (ending.up, ending.down);
        record.facts.cause = ending.cause;
        let time = record.facts.connected.as_ref().map_or(Duration::ZERO, |(at, _)| at.elapsed());
        Traffic { up: ending.up, down: ending.down, time }
    }

    /// Closes a held client.
    pub fn refuse(&mut self, client: ClientId, watch: &Watch) {
        if let Some(record) = self.table.get_mut(&client)
            && let Seat::Held { stream, watched } = std::mem::replace(&mut record.seat, Seat::Gone)
        {
            self.held -= 1;
            if watched {
                watch.remove(&stream);
            }
        }
    }

    /// Lets `act` pull a granted client's leash.
    pub fn leash(&self, client: ClientId, act: impl FnOnce(&Leash)) {
        if let Some(Record { seat: Seat::Granted(leash), .. }) = self.table.get(&client) {
            act(leash);
        }
    }

    pub fn facts(&self, client: ClientId) -> Option<&Facts> {
        self.table.get(&client).map(|record| &record.facts)
    }

    /// A client that is gone and has been told of.
    pub fn forget(&mut self, client: ClientId) {
        if self.table.remove(&client).is_some() {
            self.room.leave();
        }
    }

    pub fn held(&self) -> usize {
        self.held
    }
}

/// Clients do not outlive the coordinator, also not when it panics: nobody could end them any more.
impl Drop for Clients {
    fn drop(&mut self) {
        for record in self.table.values() {
            if let Seat::Granted(leash) = &record.seat {
                leash.cut();
            }
        }
    }
}

/// One granted client, on its thread.
struct Client {
    id: ClientId,
    leash: Arc<Leash>,
    workers: Workers,
    outlet: Outlet,
    buffer_size: Arc<AtomicUsize>,
}

impl Client {
    /// Waits for the backend, then passes on what the client sends until it ends. Reports exactly one of: refused (the
    /// client's socket goes back), or closed.
    fn serve(self, stream: Stream, attempt: Attempt) {
        let unpaired = Unpaired { id: self.id, outlet: &self.outlet };
        let (backend, address) = match attempt.finish(&self.leash) {
            Ok(connected) => connected,
            Err(Failed::Error(cause)) => return unpaired.refused(stream, blame(&cause), cause),
            Err(Failed::Over(over)) => return unpaired.over(stream, over),
        };
        // Both threads, or none: nothing has been read yet, so the client can still be given back.
        let second = match self.workers.claim() {
            Ok(second) => second,
            Err(cause) => return unpaired.refused(stream, DialFailure::Local, cause),
        };
        let pair = Arc::new(Pair::new(self.id, stream, backend, self.outlet.clone()));
        if let Err(over) = self.leash.pair(&pair) {
            // Nobody else has seen this pair.
            let stream = Arc::into_inner(pair).and_then(Pair::dissolve);
            return stream.map_or((), |stream| unpaired.over(stream, over));
        }
        std::mem::forget(unpaired);
        self.outlet.send(Message::Connected(self.id, address));
        let (down, buffer_size) = (Arc::clone(&pair), Arc::clone(&self.buffer_size));
        second.run(format!("backend-{}", self.id.0), move || down.run_down(&buffer_size));
        pair.run_up(&self.buffer_size);
    }
}

/// Until there is a pair that reports its own end: whoever drops this has panicked, and the client is gone.
struct Unpaired<'a> {
    id: ClientId,
    outlet: &'a Outlet,
}

impl Unpaired<'_> {
    fn refused(self, stream: Stream, failure: DialFailure, cause: io::Error) {
        self.outlet.send(Message::Refused { client: self.id, stream, failure, cause });
        std::mem::forget(self);
    }

    fn over(self, stream: Stream, over: Over) {
        match over {
            Over::CalledOff => {
                let cause = io::Error::other("called off by a switchover");
                self.refused(stream, DialFailure::CalledOff, cause);
            }
            Over::Cut => {
                drop(stream);
                self.outlet.send(Message::Closed(self.id, Ending { why: Why::Cut, up: 0, down: 0, cause: None }));
                std::mem::forget(self);
            }
        }
    }
}

impl Drop for Unpaired<'_> {
    fn drop(&mut self) {
        let ending = Ending { why: Why::Panicked, up: 0, down: 0, cause: None };
        self.outlet.send(Message::Closed(self.id, ending));
    }
}
