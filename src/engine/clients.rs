//! The engine's side of every client: its socket while it is held, its relay thread while it is granted, and the facts
//! that are told when it ends. Decides nothing: each method carries out one action or takes note of one event.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::dial::Attempt;
use super::inbox::{Ending, Flow, Visitor};
use super::permits::Permit;
use super::relay::{Mailbox, Order};
use super::watch::Watched;
use crate::core::msg::{ClientId, Event, Traffic, Why};
use crate::endpoint::Address;
use crate::net::Stream;
use crate::observe::journal::Facts;

/// All clients, held and granted.
pub struct Clients {
    table: HashMap<ClientId, Record>,
    watched: Watched,
    relays: Vec<Relay>,
    /// Clients that came into the queue during this event: watched after it, if they are still there.
    unwatched: Vec<ClientId>,
    next: u64,
    held: usize,
}

/// One relay thread, seen from here.
struct Relay {
    mailbox: Mailbox,
    /// Clients it has.
    load: usize,
}

struct Record {
    seat: Seat,
    facts: Facts,
    /// For being here at all.
    _permit: Permit,
}

enum Seat {
    Held {
        stream: Stream,
        watched: bool,
    },
    /// `at`: index of its relay thread.
    Granted {
        at: usize,
        flow: Arc<Flow>,
    },
    Gone,
}

impl Clients {
    /// `relays`: at least one.
    pub fn new(watched: Watched, relays: Vec<Mailbox>) -> Clients {
        let relays = relays.into_iter().map(|mailbox| Relay { mailbox, load: 0 }).collect();
        Clients { table: HashMap::new(), watched, relays, unwatched: Vec::new(), next: 0, held: 0 }
    }

    /// A new client, held. Ids are given in the order of this call.
    pub fn admit(&mut self, visitor: Visitor) -> ClientId {
        let id = self.new_id();
        let Visitor { stream, peer, accepted, permit } = visitor;
        let (seat, facts) = (Seat::Held { stream, watched: false }, Facts::new(peer, accepted));
        self.table.insert(id, Record { seat, facts, _permit: permit });
        self.held += 1;
        self.unwatched.push(id);
        id
    }

    /// For one more client, or one that never arrived.
    pub fn new_id(&mut self) -> ClientId {
        self.next += 1;
        ClientId(self.next - 1)
    }

    /// Whether a held client that stirred has left. One that was reset is gone. One that ended its sending side without
    /// having sent a byte has asked for nothing and never will: it has hung up. With bytes waiting it is a request whose
    /// answer is awaited, and stays.
    pub fn has_left(&mut self, client: ClientId, gone: bool) -> bool {
        let Some(Record { seat: Seat::Held { stream, watched: true }, .. }) = self.table.get(&client) else {
            return false;
        };
        if gone || !stream.has_unread_bytes() {
            return true;
        }
        self.watched.rearm(client, stream);
        false
    }

    /// Watches those who were not served at once.
    pub fn watch_new(&mut self) {
        for client in self.unwatched.drain(..) {
            if let Some(Record { seat: Seat::Held { stream, watched }, .. }) = self.table.get_mut(&client) {
                match self.watched.add(client, stream) {
                    Ok(()) => *watched = true,
                    Err(e) => log::warn!("client {}: cannot be watched while it is held: {e}", client.0),
                }
            }
        }
    }

    /// Begins to connect, and hands the client to a relay thread: the one that has the fewest. Returns what has happened
    /// instead, if it cannot be served any more.
    pub fn dial(&mut self, id: ClientId, begin: impl FnOnce() -> Attempt) -> Option<Event> {
        let record = self.table.get_mut(&id)?;
        let seat = std::mem::replace(&mut record.seat, Seat::Gone);
        let Seat::Held { stream, watched } = seat else {
            record.seat = seat;
            return None;
        };
        self.held -= 1;
        record.facts.granted = Some(Instant::now());
        if watched {
            self.watched.remove(&stream);
            // What the watch has to tell may still be on its way.
            if stream.has_hung_up() {
                return Some(Event::Closed(id, Why::HungUp, Traffic::default()));
            }
        }
        let attempt = Box::new(begin());
        let (at, relay) = self.relays.iter_mut().enumerate().min_by_key(|(_, relay)| relay.load)?;
        relay.load += 1;
        let flow = Arc::new(Flow::default());
        record.seat = Seat::Granted { at, flow: Arc::clone(&flow) };
        relay.mailbox.send(Order::Serve { client: id, stream, attempt, flow });
        None
    }

    /// A dial came to nothing: the client is held again.
    pub fn take_back(&mut self, client: ClientId, stream: Stream, cause: io::Error) {
        self.leave(client, Seat::Held { stream, watched: false });
        if let Some(record) = self.table.get_mut(&client) {
            record.facts.cause = Some(cause);
            record.facts.granted = None;
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

    /// A granted client's sockets are closed. Returns what its connection has had.
    pub fn ended(&mut self, client: ClientId, ending: Ending) -> Traffic {
        self.leave(client, Seat::Gone);
        let Some(record) = self.table.get_mut(&client) else { return Traffic::default() };
        (record.facts.up, record.facts.down) = (ending.up, ending.down);
        record.facts.cause = ending.cause;
        Traffic { up: ending.up, down: ending.down, time: record.facts.connected_for() }
    }

    /// What the connections of all granted clients have had until now.
    pub fn flows(&self) -> impl Iterator<Item = (ClientId, Traffic)> {
        self.table.iter().filter_map(|(client, record)| match &record.seat {
            Seat::Held { .. } | Seat::Gone => None,
            Seat::Granted { flow, .. } => {
                let (up, down) = (flow.up.load(Ordering::Relaxed), flow.down.load(Ordering::Relaxed));
                Some((*client, Traffic { up, down, time: record.facts.connected_for() }))
            }
        })
    }

    /// Closes a held client.
    pub fn refuse(&mut self, client: ClientId) {
        let Some(record) = self.table.get_mut(&client) else { return };
        if let Seat::Held { stream, watched } = &record.seat {
            if *watched {
                self.watched.remove(stream);
            }
            self.held -= 1;
            record.seat = Seat::Gone;
        }
    }

    /// Tells the relay thread of a granted client something.
    pub fn tell(&self, client: ClientId, order: Order) {
        if let Some(Record { seat: Seat::Granted { at, .. }, .. }) = self.table.get(&client)
            && let Some(relay) = self.relays.get(*at)
        {
            relay.mailbox.send(order);
        }
    }

    pub fn facts(&self, client: ClientId) -> Option<&Facts> {
        self.table.get(&client).map(|record| &record.facts)
    }

    /// A client that is gone and has been told of.
    pub fn forget(&mut self, client: ClientId) {
        self.table.remove(&client);
        give_back_memory(&mut self.table);
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// From its relay thread to another seat.
    fn leave(&mut self, client: ClientId, seat: Seat) {
        let Some(record) = self.table.get_mut(&client) else { return };
        if let Seat::Granted { at, .. } = &record.seat
            && let Some(relay) = self.relays.get_mut(*at)
        {
            relay.load -= 1;
            record.seat = seat;
        }
    }
}

/// Memory of many clients is given back when they have left.
pub fn give_back_memory<T>(table: &mut HashMap<ClientId, T>) {
    const FEW: usize = 1024;
    if table.capacity() > FEW && table.len() < table.capacity() / 8 {
        table.shrink_to(FEW.max(table.len() * 2));
    }
}
