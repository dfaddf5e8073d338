//! What each event of a client's life does. [`State::move_to`] is the only function that moves a client, and it keeps
//! every count. Whether another client can be served afterwards is decided by `settle`.

use super::msg::{
    Action, BackendId, ClientHash, ClientId, ClientNote, CloseReason, DialFailure, Failure, Note, TimerId, Traffic,
};
use super::{Client, Life, Mutation, Place, State};

impl State {
    pub(super) fn arrived(&mut self, client: ClientId, hash: ClientHash, out: &mut Vec<Action>) {
        if self.clients.contains_key(&client) {
            return;
        }
        match self.life {
            Life::Running | Life::Stopping(_) => {}
            Life::Closing(_) | Life::Over => return self.reject(client, CloseReason::Shutdown, out),
        }
        if self.clients.len() >= self.rules.max_clients {
            return self.reject(client, CloseReason::NoRoom, out);
        }
        let queue_is_full = self.held.len() >= self.settings.max_queued as usize;
        self.clients.insert(client, Client::new(hash));
        self.held.insert(client);
        out.push(Action::Note(Note::Client(client, ClientNote::Arrived)));
        if queue_is_full && self.switching() {
            self.fail(Failure::QueueFull, out);
        }
    }

    pub(super) fn hung_up(&mut self, client: ClientId, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Held) if self.drops_the_hung_up() => self.reject(client, CloseReason::HungUp, out),
            Some(Place::Held | Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) | None => {}
        }
    }

    fn drops_the_hung_up(&self) -> bool {
        !self.broken(Mutation::KeepTheHungUp)
    }

    pub(super) fn connected(&mut self, client: ClientId, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Dialling(backend)) => {
                self.move_to(client, Some(Place::Open(backend)));
                out.push(Action::Note(Note::Client(client, ClientNote::Connected)));
                self.pool.connected(backend);
                self.backend_is_back(backend, out);
            }
            Some(Place::Held | Place::Open(_) | Place::Ending(_)) | None => {}
        }
    }

    /// Puts the client back at its old place in the queue. While the gate is shut it waits there for the outcome.
    /// Otherwise `settle` offers it to the next backend, or ends its round when all have refused it.
    pub(super) fn dial_failed(&mut self, client: ClientId, failure: DialFailure, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Dialling(backend)) => {
                out.push(Action::Note(Note::Client(client, ClientNote::DialFailed(backend, failure))));
                match failure {
                    DialFailure::Local => return self.reject(client, CloseReason::NoRoom, out),
                    DialFailure::Cancelled => {}
                    DialFailure::Backend => {
                        self.tried(client, backend);
                        self.backend_failed(backend, out);
                    }
                    DialFailure::NoPort => {
                        self.tried(client, backend);
                        self.pool.dial_failed(backend);
                    }
                }
                self.requeue(client, out);
                if self.closing() {
                    self.reject(client, CloseReason::Shutdown, out);
                }
            }
            Some(Place::Held | Place::Open(_) | Place::Ending(_)) | None => {}
        }
    }

    /// Puts the client back at its old place in the queue.
    fn requeue(&mut self, client: ClientId, out: &mut Vec<Action>) {
        if self.switching() && self.broken(Mutation::ForgetTheRefused) {
            return self.move_to(client, None);
        }
        self.move_to(client, Some(Place::Held));
        out.push(Action::Note(Note::Client(client, ClientNote::Requeued)));
    }

    /// The client does not get this backend again in this round.
    fn tried(&mut self, client: ClientId, backend: BackendId) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.tried.push(backend);
        }
    }

    pub(super) fn dismissible(&mut self, client: ClientId, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Open(backend)) => {
                self.move_to(client, Some(Place::Ending(backend)));
                if self.switching() {
                    out.push(Action::CloseGracefully(client));
                }
            }
            Some(Place::Held | Place::Dialling(_) | Place::Ending(_)) | None => {}
        }
    }

    /// The client is still uploading: a switchover waits for it as for any open connection.
    pub(super) fn resumed(&mut self, client: ClientId) {
        match self.place(client) {
            Some(Place::Ending(backend)) if self.waits_for_uploads() => {
                self.move_to(client, Some(Place::Open(backend)))
            }
            Some(Place::Held | Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) | None => {}
        }
    }

    fn waits_for_uploads(&self) -> bool {
        !self.broken(Mutation::CutTheUpload)
    }

    /// Adds the traffic since the last report to the backend's counters.
    pub(super) fn flowed(&mut self, id: ClientId, traffic: Traffic) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match client.place {
            Place::Dialling(backend) | Place::Open(backend) | Place::Ending(backend) => {
                let more = client.traffic.advance(traffic);
                self.pool.flowed(backend, more);
            }
            Place::Held => {}
        }
    }

    pub(super) fn closed(&mut self, client: ClientId, why: CloseReason, traffic: Traffic, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) => {
                self.flowed(client, traffic);
                self.move_to(client, None);
                out.push(Action::Note(Note::Client(client, ClientNote::Ended(why))));
            }
            Some(Place::Held) | None => {}
        }
    }

    /// Every backend has refused this client: it pauses before the next round, or is rejected if this was its last.
    pub(super) fn round_failed(&mut self, id: ClientId, out: &mut Vec<Action>) {
        let retry = self.rules.retry;
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.rounds += 1;
        if client.rounds >= retry.most {
            return self.reject(id, CloseReason::NoBackend, out);
        }
        client.tried.clear();
        out.push(Action::Note(Note::Client(id, ClientNote::Paused)));
        let timer = self.arm(retry.pause, out);
        self.pauses.insert(timer, id);
        if let Some(client) = self.clients.get_mut(&id) {
            client.pause = Some(timer);
        }
    }

    pub(super) fn pause_timer(&mut self, timer: TimerId) {
        let client = self.pauses.remove(&timer).and_then(|id| self.clients.get_mut(&id));
        if let Some(client) = client {
            client.pause = None;
        }
    }

    /// After the service has moved, the refusals of the old upstream's backends no longer count.
    pub(super) fn forget_failures(&mut self) {
        for client in self.clients.values_mut() {
            client.tried.clear();
            (client.rounds, client.pause) = (0, None);
        }
        self.returned.clear();
        self.pauses.clear();
    }

    /// Closes a client that has no backend.
    pub(super) fn reject(&mut self, client: ClientId, why: CloseReason, out: &mut Vec<Action>) {
        self.move_to(client, None);
        out.push(Action::Reject(client, why));
        out.push(Action::Note(Note::Client(client, ClientNote::Ended(why))));
    }

    pub(super) fn place(&self, client: ClientId) -> Option<Place> {
        self.clients.get(&client).map(|client| client.place)
    }

    /// The only function that moves a client. `None` removes it.
    pub(super) fn move_to(&mut self, id: ClientId, to: Option<Place>) {
        match self.place(id) {
            None => {}
            Some(Place::Held) => {
                self.held.remove(&id);
                self.returned.remove(&id);
                if let Some(timer) = self.clients.get_mut(&id).and_then(|client| client.pause.take()) {
                    self.pauses.remove(&timer);
                }
            }
            Some(Place::Dialling(backend)) => {
                self.dialling -= 1;
                self.assigned -= 1;
                self.pool.release(backend);
            }
            Some(Place::Open(backend) | Place::Ending(backend)) => {
                self.assigned -= 1;
                self.pool.release(backend);
            }
        }
        let Some(place) = to else {
            self.clients.remove(&id);
            return;
        };
        match place {
            Place::Held => {
                self.held.insert(id);
                if self.clients.get(&id).is_some_and(|client| !client.tried.is_empty()) {
                    self.returned.insert(id);
                }
            }
            Place::Dialling(backend) => {
                self.dialling += 1;
                self.assigned += 1;
                self.pool.assign(backend);
            }
            Place::Open(backend) | Place::Ending(backend) => {
                self.assigned += 1;
                self.pool.assign(backend);
            }
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.place = place;
        }
    }
}

impl Client {
    /// A client that has just arrived.
    fn new(hash: ClientHash) -> Client {
        let traffic = Traffic::default();
        Client { place: Place::Held, hash, tried: Vec::new(), rounds: 0, pause: None, traffic }
    }
}

impl Traffic {
    /// Takes over a later report and returns what it adds. A stale report adds nothing.
    fn advance(&mut self, to: Traffic) -> Traffic {
        let more = Traffic {
            up: to.up.saturating_sub(self.up),
            down: to.down.saturating_sub(self.down),
            time: to.time.saturating_sub(self.time),
        };
        self.up += more.up;
        self.down += more.down;
        self.time += more.time;
        more
    }
}
