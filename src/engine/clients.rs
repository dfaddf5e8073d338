//! The engine's side of every client: its socket while it is held, its relay thread while it is assigned, and the facts
//! that are told when it ends. Decides nothing: each method carries out one action or takes note of one event.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::messages::{AcceptedClient, ByteCounters, CloseSummary};
use super::permits::Permit;
use super::watch::WatchSet;
use crate::core::msg::{ClientId, CloseReason, Event, Traffic};
use crate::endpoint::Address;
pub use crate::memory::give_back_memory;
use crate::net::Stream;
use crate::observe::event_log::ConnectionInfo;
use crate::relay::dial::Dial;
use crate::relay::{Mailbox, WorkerCommand};

/// All clients, held and assigned.
pub struct Clients {
    table: HashMap<ClientId, ClientRecord>,
    watched: WatchSet,
    relays: Vec<RelayThread>,
    /// Clients that came into the queue during this event: watched after it, if they are still there.
    unwatched: Vec<ClientId>,
    next: u64,
    held: usize,
}

/// One relay thread, seen from here.
struct RelayThread {
    mailbox: Mailbox,
    /// Clients it has.
    load: usize,
}

struct ClientRecord {
    socket: SocketState,
    info: ConnectionInfo,
    /// For being here at all.
    _permit: Permit,
}

enum SocketState {
    Held {
        stream: Stream,
        watched: bool,
    },
    /// `at`: index of its relay thread.
    Assigned {
        at: usize,
        flow: Arc<ByteCounters>,
    },
    Gone,
}

impl Clients {
    /// `relays`: at least one.
    pub fn new(watched: WatchSet, relays: Vec<Mailbox>) -> Clients {
        let relays = relays.into_iter().map(|mailbox| RelayThread { mailbox, load: 0 }).collect();
        Clients { table: HashMap::new(), watched, relays, unwatched: Vec::new(), next: 0, held: 0 }
    }

    /// A new client, held. Ids are given in the order of this call.
    pub fn admit(&mut self, accepted: AcceptedClient) -> ClientId {
        let id = self.new_id();
        let AcceptedClient { stream, peer, accepted, permit } = accepted;
        let (socket, info) = (SocketState::Held { stream, watched: false }, ConnectionInfo::new(peer, accepted));
        self.table.insert(id, ClientRecord { socket, info, _permit: permit });
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
    /// having sent a byte has asked for nothing and never will: it has hung up. With bytes waiting it is a request
    /// whose answer is awaited, and stays.
    pub fn has_left(&mut self, client: ClientId, gone: bool) -> bool {
        let Some(ClientRecord { socket: SocketState::Held { stream, watched: true }, .. }) = self.table.get(&client)
        else {
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
            if let Some(ClientRecord { socket: SocketState::Held { stream, watched }, .. }) =
                self.table.get_mut(&client)
            {
                match self.watched.add(client, stream) {
                    Ok(()) => *watched = true,
                    Err(e) => log::warn!("client {}: cannot be watched while it is held: {e}", client.0),
                }
            }
        }
    }

    /// Begins to connect, and hands the client to a relay thread: the one that has the fewest. Returns what has
    /// happened instead, if it cannot be served any more.
    pub fn dial(&mut self, id: ClientId, begin: impl FnOnce() -> Dial) -> Option<Event> {
        let record = self.table.get_mut(&id)?;
        let socket = std::mem::replace(&mut record.socket, SocketState::Gone);
        let SocketState::Held { stream, watched } = socket else {
            record.socket = socket;
            return None;
        };
        self.held -= 1;
        record.info.assigned = Some(Instant::now());
        if watched {
            self.watched.remove(&stream);
            // What the watch has to tell may still be on its way.
            if stream.has_hung_up() {
                return Some(Event::Closed(id, CloseReason::HungUp, Traffic::default()));
            }
        }
        let dial = Box::new(begin());
        let (at, relay) = self.relays.iter_mut().enumerate().min_by_key(|(_, relay)| relay.load)?;
        relay.load += 1;
        let flow = Arc::new(ByteCounters::default());
        record.socket = SocketState::Assigned { at, flow: Arc::clone(&flow) };
        relay.mailbox.send(WorkerCommand::Serve { client: id, stream, dial, flow });
        None
    }

    /// A dial came to nothing: the client is held again.
    pub fn take_back(&mut self, client: ClientId, stream: Stream, cause: io::Error) {
        self.leave(client, SocketState::Held { stream, watched: false });
        if let Some(record) = self.table.get_mut(&client) {
            record.info.cause = Some(cause);
            record.info.assigned = None;
            self.held += 1;
            self.unwatched.push(client);
        }
    }

    pub fn connected(&mut self, client: ClientId, address: Address) {
        if let Some(record) = self.table.get_mut(&client) {
            record.info.connected = Some((Instant::now(), address));
            record.info.cause = None;
        }
    }

    /// An assigned client's sockets are closed. Returns what its connection has had.
    pub fn ended(&mut self, client: ClientId, ending: CloseSummary) -> Traffic {
        self.leave(client, SocketState::Gone);
        let Some(record) = self.table.get_mut(&client) else { return Traffic::default() };
        (record.info.up, record.info.down) = (ending.up, ending.down);
        record.info.cause = ending.cause;
        Traffic { up: ending.up, down: ending.down, time: record.info.connected_for() }
    }

    /// What the connections of all assigned clients have had until now.
    pub fn flows(&self) -> impl Iterator<Item = (ClientId, Traffic)> {
        self.table.iter().filter_map(|(client, record)| match &record.socket {
            SocketState::Held { .. } | SocketState::Gone => None,
            SocketState::Assigned { flow, .. } => {
                let (up, down) = (flow.up.load(Ordering::Relaxed), flow.down.load(Ordering::Relaxed));
                Some((*client, Traffic { up, down, time: record.info.connected_for() }))
            }
        })
    }

    /// Closes a held client.
    pub fn refuse(&mut self, client: ClientId) {
        let Some(record) = self.table.get_mut(&client) else { return };
        if let SocketState::Held { stream, watched } = &record.socket {
            if *watched {
                self.watched.remove(stream);
            }
            self.held -= 1;
            record.socket = SocketState::Gone;
        }
    }

    /// Tells the relay thread of an assigned client something.
    pub fn tell(&self, client: ClientId, command: WorkerCommand) {
        if let Some(ClientRecord { socket: SocketState::Assigned { at, .. }, .. }) = self.table.get(&client)
            && let Some(relay) = self.relays.get(*at)
        {
            relay.mailbox.send(command);
        }
    }

    pub fn info(&self, client: ClientId) -> Option<&ConnectionInfo> {
        self.table.get(&client).map(|record| &record.info)
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
    fn leave(&mut self, client: ClientId, socket: SocketState) {
        let Some(record) = self.table.get_mut(&client) else { return };
        if let SocketState::Assigned { at, .. } = &record.socket
            && let Some(relay) = self.relays.get_mut(*at)
        {
            relay.load -= 1;
            record.socket = socket;
        }
    }
}
