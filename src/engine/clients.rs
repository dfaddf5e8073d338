//! The engine's record of every client: its socket while it is held, its relay handle while it is assigned, and the
//! data that is logged when it ends. Decides nothing: each method carries out one action or records one event.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::messages::AcceptedClient;
use super::permits::Permit;
use super::watch::WatchSet;
use crate::core::msg::{ClientId, CloseReason, Event, Traffic};
use crate::endpoint::Address;
use crate::memory::give_back_memory;
use crate::net::Stream;
use crate::observe::event_log::ConnectionInfo;
use crate::relay::dial::Dial;
use crate::relay::{ByteCounters, ClientHandle, CloseSummary, Job, Relay};

/// All clients, held and assigned.
pub struct Clients {
    table: HashMap<ClientId, ClientRecord>,
    watched: WatchSet,
    relay: Relay,
    /// Clients that entered the queue during this event. Those still held at its end are then watched.
    unwatched: Vec<ClientId>,
    next: u64,
    held: usize,
}

struct ClientRecord {
    socket: SocketState,
    info: ConnectionInfo,
    /// Counts this client in the total capacity until the record is dropped.
    _permit: Permit,
}

enum SocketState {
    Held { stream: Stream, watched: bool },
    Assigned { handle: ClientHandle, flow: Arc<ByteCounters> },
    Gone,
}

impl Clients {
    pub fn new(watched: WatchSet, relay: Relay) -> Clients {
        Clients { table: HashMap::new(), watched, relay, unwatched: Vec::new(), next: 0, held: 0 }
    }

    /// Adds a new client, held. Ids follow the order of these calls.
    pub fn admit(&mut self, accepted: AcceptedClient) -> ClientId {
        let id = self.new_id();
        let AcceptedClient { stream, peer, accepted, permit } = accepted;
        let (socket, info) = (SocketState::Held { stream, watched: false }, ConnectionInfo::new(peer, accepted));
        self.table.insert(id, ClientRecord { socket, info, _permit: permit });
        self.held += 1;
        self.unwatched.push(id);
        id
    }

    /// The next id: for a client that arrives, or for one that ended before it did.
    pub fn new_id(&mut self) -> ClientId {
        self.next += 1;
        ClientId(self.next - 1)
    }

    /// Whether a held client whose socket had an event has hung up. A client that was reset has. A client that ended
    /// its sending side without having sent a byte has too: it can ask for nothing any more. If bytes are waiting they
    /// are a request, and the client stays for its answer.
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

    /// Watches the clients of this event that are still held.
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

    /// Starts the dial and hands the client to the relay. If the client cannot be served any more, returns the event
    /// that says why.
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
            // The watch may not have reported this yet.
            if stream.has_hung_up() {
                return Some(Event::Closed(id, CloseReason::HungUp, Traffic::default()));
            }
        }
        let flow = Arc::new(ByteCounters::default());
        let job = Job { client: id, stream, dial: Box::new(begin()), flow: Arc::clone(&flow) };
        record.socket = SocketState::Assigned { handle: self.relay.serve(job), flow };
        None
    }

    /// A dial failed: the client is held again.
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

    /// An assigned client's sockets are closed. Returns the traffic of its connection.
    pub fn ended(&mut self, client: ClientId, ending: CloseSummary) -> Traffic {
        self.leave(client, SocketState::Gone);
        let Some(record) = self.table.get_mut(&client) else { return Traffic::default() };
        (record.info.up, record.info.down) = (ending.up, ending.down);
        record.info.cause = ending.cause;
        Traffic { up: ending.up, down: ending.down, time: record.info.connected_for() }
    }

    /// The traffic so far of all assigned clients.
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

    /// Calls `act` with the relay handle of a client, if it is assigned.
    pub fn with_handle(&self, client: ClientId, act: impl FnOnce(&ClientHandle)) {
        if let Some(ClientRecord { socket: SocketState::Assigned { handle, .. }, .. }) = self.table.get(&client) {
            act(handle);
        }
    }

    pub fn info(&self, client: ClientId) -> Option<&ConnectionInfo> {
        self.table.get(&client).map(|record| &record.info)
    }

    /// Removes the record of a client whose end has been logged.
    pub fn forget(&mut self, client: ClientId) {
        self.table.remove(&client);
        give_back_memory(&mut self.table);
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes a client back from the relay.
    fn leave(&mut self, client: ClientId, socket: SocketState) {
        if let Some(record) = self.table.get_mut(&client)
            && let SocketState::Assigned { .. } = &record.socket
        {
            record.socket = socket;
        }
    }
}
