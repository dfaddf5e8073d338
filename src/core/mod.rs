//! The decisions: who is held, dialled, refused or cut, and when the service moves. One pure machine without a socket,
//! clock, thread or log: events in, actions out. Total: no event, however stale or strange, panics or is an error.
//!
//! A client is in exactly one place (held, dialling, open, ending; or nowhere), and `State::move_to` is the only
//! function that moves one. `settle` runs at the end of every event and does what the new situation allows: completes a
//! drain, serves the queue, ends the program. So nothing is ever polled for.
//!
//! `check` (in debug builds, after every event) asserts the promises that concern the core; `tests/model.rs` and
//! `tests/sim.rs` check them again from outside.

#[cfg(debug_assertions)]
mod check;
mod clients;
mod life;
pub mod msg;
mod mutation;
pub mod pool;
mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::{Service, Settings};
use life::Life;
use msg::{Action, BackendId, ClientId, Event, Note, TimerId, UpstreamId, View, Why};
pub use mutation::Mutation;
use pool::{Pick, Pool};
use switch::Gate;

/// The whole state of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    rules: Rules,
    settings: Settings,
    pool: Pool,
    active: UpstreamId,
    gate: Gate,
    life: Life,
    clients: BTreeMap<ClientId, Client>,
    /// The clients whose place is `Held`. Ids are in order of arrival, so the first is the oldest.
    held: BTreeSet<ClientId>,
    /// How many clients are dialling, and how many of all are granted. `dialling <= granted`.
    dialling: usize,
    granted: usize,
    /// The queue is above its limit and that has been told.
    warned: bool,
    /// After one ignored Ctrl-C: until this fires, the next one stops the program.
    interrupted: Option<TimerId>,
    next_timer: u64,
    next_run: u64,
    #[cfg(feature = "mutation")]
    mutation: Option<Mutation>,
}

/// What does not change while the service runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Rules {
    script: bool,
    grace: Duration,
    max_dials: usize,
    max_clients: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    place: Place,
    /// Backends of the active upstream that refused this client.
    tried: Vec<BackendId>,
}

/// Where a client is. All but `Held` are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Held,
    Dialling(BackendId),
    Open(BackendId),
    /// Open, but the backend has ended and all it sent was passed on.
    Ending(BackendId),
}

impl State {
    /// A service at its start: nobody there, the gate open, the first upstream active. `max_clients` is what the
    /// process has descriptors for.
    pub fn new(service: &Service, max_clients: usize) -> State {
        State {
            rules: Rules {
                script: service.script.is_some(),
                grace: service.grace,
                max_dials: service.max_dials.max(1),
                max_clients,
            },
            settings: service.settings,
            pool: Pool::new(&service.upstreams),
            active: UpstreamId(0),
            gate: Gate::Open,
            life: Life::Running,
            clients: BTreeMap::new(),
            held: BTreeSet::new(),
            dialling: 0,
            granted: 0,
            warned: false,
            interrupted: None,
            next_timer: 0,
            next_run: 0,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }

    /// The one door: takes note of what has happened and appends what is to be done, in order.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        #[cfg(debug_assertions)]
        let (before, first) = (self.snapshot(), out.len());
        match event {
            Event::Arrived(client) => self.arrived(client, out),
            Event::HungUp(client) => self.hung_up(client, out),
            Event::Connected(client) => self.connected(client, out),
            Event::Refused(client, failure) => self.refused(client, failure, out),
            Event::BackendEnded(client) => self.backend_ended(client, out),
            Event::Closed(client, why) => self.closed(client, why, out),
            Event::ScriptEnded(run, end) => self.script_ended(run, end, out),
            Event::Fired(timer) => self.fired(timer, out),
            Event::Asked(ticket, command) => self.asked(ticket, command, out),
        }
        self.settle(out);
        #[cfg(debug_assertions)]
        self.check(&before, &out[first..]);
    }

    /// What an operator may see.
    pub fn view(&self) -> View {
        View {
            active: self.active,
            held: self.held.len(),
            granted: self.granted,
            switching: self.switching(),
            settings: self.settings,
        }
    }

    // What the new situation allows.

    fn settle(&mut self, out: &mut Vec<Action>) {
        self.complete_drain(out);
        self.pump(out);
        let over = self.held.len() > self.settings.max_queued as usize && !self.switching();
        if over && !self.warned {
            out.push(Action::Note(Note::QueueOverLimit { held: self.held.len(), limit: self.settings.max_queued }));
        }
        self.warned = over;
        match self.life {
            Life::Stopping(_) | Life::Closing(_) if self.clients.is_empty() && !self.switching() => self.exit(out),
            Life::Running | Life::Stopping(_) | Life::Closing(_) | Life::Over => {}
        }
    }

    /// Serves the queue, oldest first, while the gate is open and there is room.
    fn pump(&mut self, out: &mut Vec<Action>) {
        while (!self.switching() || self.broken(Mutation::DialWhileShut)) && self.has_room() {
            let next = if self.broken(Mutation::NewestFirst) { self.held.last() } else { self.held.first() };
            let Some(&client) = next else { return };
            let tried = self.clients.get(&client).map_or(&[][..], |client| &client.tried);
            match self.pool.pick(self.active, tried) {
                Pick::Backend(backend) => {
                    self.move_to(client, Some(Place::Dialling(backend)));
                    out.push(Action::Note(Note::Granted(client, backend)));
                    out.push(Action::Dial(client, backend));
                    if self.broken(Mutation::ServeOnlyOne) {
                        return;
                    }
                }
                Pick::Full => return,
                Pick::Nobody => self.turn_away(client, Why::NoBackend, out),
            }
        }
    }

    fn has_room(&self) -> bool {
        let throttled = self.settings.max_open.is_some_and(|limit| self.granted >= limit as usize);
        (!throttled || self.broken(Mutation::IgnoreThrottle)) && self.dialling < self.rules.max_dials
    }
}
