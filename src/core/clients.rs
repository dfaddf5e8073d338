//! What becomes of a client at each event of its life. [`State::move_to`] is the only function that moves one, and keeps
//! every count; whether somebody else can be served now is left to `settle`.

use super::msg::{Action, ClientId, DialFailure, Failure, Note, Why};
use super::{Client, Life, Mutation, Place, State};

impl State {
    pub(super) fn arrived(&mut self, client: ClientId, out: &mut Vec<Action>) {
        if self.clients.contains_key(&client) {
            return;
        }
        match self.life {
            Life::Running | Life::Stopping(_) => {}
            Life::Closing(_) | Life::Over => return self.turn_away(client, Why::Shutdown, out),
        }
        if self.clients.len() >= self.rules.max_clients {
            return self.turn_away(client, Why::NoRoom, out);
        }
        let queue_is_full = self.held.len() >= self.settings.max_queued as usize;
        self.move_to(client, Some(Place::Held));
        out.push(Action::Note(Note::Arrived(client)));
        if queue_is_full && self.switching() {
            self.fail(Failure::QueueFull, out);
        }
    }

    pub(super) fn hung_up(&mut self, client: ClientId, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Held) if self.broken(Mutation::KeepTheHungUp) => {}
            Some(Place::Held) => self.turn_away(client, Why::HungUp, out),
            Some(Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) | None => {}
        }
    }

    pub(super) fn connected(&mut self, client: ClientId, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Dialling(backend)) => {
                self.move_to(client, Some(Place::Open(backend)));
                out.push(Action::Note(Note::Connected(client)));
            }
            Some(Place::Held | Place::Open(_) | Place::Ending(_)) | None => {}
        }
    }

    /// The client goes back to its old place in the queue. If the gate is shut it waits there for the outcome; if not,
    /// `settle` offers it to the next backend or, when all have refused it, turns it away.
    pub(super) fn refused(&mut self, client: ClientId, failure: DialFailure, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Dialling(backend)) => {
                out.push(Action::Note(Note::DialFailed(client, backend, failure)));
                match failure {
                    DialFailure::Local => return self.turn_away(client, Why::NoRoom, out),
                    DialFailure::CalledOff => {}
                    DialFailure::Backend => {
                        if let Some(client) = self.clients.get_mut(&client) {
                            client.tried.push(backend);
                        }
                    }
                }
                if self.broken(Mutation::ForgetTheRefused) && self.switching() {
                    self.move_to(client, None);
                    return;
                }
                self.move_to(client, Some(Place::Held));
                out.push(Action::Note(Note::Requeued(client)));
                if self.closing() {
                    self.turn_away(client, Why::Shutdown, out);
                }
            }
            Some(Place::Held | Place::Open(_) | Place::Ending(_)) | None => {}
        }
    }

    pub(super) fn backend_ended(&mut self, client: ClientId, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Open(backend)) => {
                self.move_to(client, Some(Place::Ending(backend)));
                if self.switching() {
                    out.push(Action::Dismiss(client));
                }
            }
            Some(Place::Held | Place::Dialling(_) | Place::Ending(_)) | None => {}
        }
    }

    pub(super) fn closed(&mut self, client: ClientId, why: Why, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) => {
                self.move_to(client, None);
                out.push(Action::Note(Note::Ended(client, why)));
            }
            Some(Place::Held) | None => {}
        }
    }

    /// Closes a client that has no backend.
    pub(super) fn turn_away(&mut self, client: ClientId, why: Why, out: &mut Vec<Action>) {
        self.move_to(client, None);
        out.push(Action::Refuse(client, why));
        out.push(Action::Note(Note::Ended(client, why)));
    }

    pub(super) fn place(&self, client: ClientId) -> Option<Place> {
        self.clients.get(&client).map(|client| client.place)
    }

    /// The only function that moves a client. `None` is nowhere: not here yet, or gone.
    pub(super) fn move_to(&mut self, id: ClientId, to: Option<Place>) {
        match self.place(id) {
            None => {}
            Some(Place::Held) => {
                self.held.remove(&id);
            }
            Some(Place::Dialling(backend)) => {
                self.dialling -= 1;
                self.granted -= 1;
                self.pool.release(backend);
            }
            Some(Place::Open(backend) | Place::Ending(backend)) => {
                self.granted -= 1;
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
            }
            Place::Dialling(backend) => {
                self.dialling += 1;
                self.granted += 1;
                self.pool.grant(backend);
            }
            Place::Open(backend) | Place::Ending(backend) => {
                self.granted += 1;
                self.pool.grant(backend);
            }
        }
        self.clients.entry(id).or_insert_with(|| Client { place, tried: Vec::new() }).place = place;
    }
}
