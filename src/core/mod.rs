//! The decisions: which clients are held, dialled, rejected or reset, and when the service moves to another upstream.
//! One pure state machine without sockets, clock, threads or logs: events in, actions out. Every event is accepted in
//! every state: no event, however stale or unexpected, panics or is an error.
//!
//! A client is in exactly one place: held, dialling, open or ending. `State::move_to` is the only function that moves
//! one. `settle` runs at the end of every event and does what the new state allows: completes a drain, serves the
//! queue, ends the program. So the core never polls.
//!
//! In debug builds `check` asserts after every event the promises that concern the core. `tests/model.rs` and
//! `tests/sim.rs` check them again from outside.

mod backends;
#[cfg(debug_assertions)]
mod check;
mod clients;
mod life;
pub mod msg;
mod mutation;
pub mod pool;
mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use self::life::Life;
use self::msg::{
    Action, BackendId, BackendView, ClientHash, ClientId, ClientNote, CloseReason, Event, Note, ServiceNote, TimerId,
    Traffic, UpstreamId, View,
};
pub use self::mutation::Mutation;
use self::pool::{Choice, Criteria, Pool};
use self::switch::Gate;
use crate::config::{RetryPolicy, Service, Settings, WhenFull};

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
    /// Superset of the held clients that a backend has refused.
    returned: BTreeSet<ClientId>,
    /// The clients that pause between two rounds, each by the timer that ends its pause.
    pauses: BTreeMap<TimerId, ClientId>,
    /// A backend has failed or recovered during this event. Always false between two events.
    health_changed: bool,
    /// Number of clients that are dialling, and of all assigned clients. `dialling <= assigned`.
    dialling: usize,
    assigned: usize,
    /// The queue is above its limit, and a note has said so.
    warned: bool,
    /// Set by an ignored Ctrl-C. Until this timer fires, another Ctrl-C stops the program.
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
    when_full: WhenFull,
    retry: RetryPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    place: Place,
    hash: ClientHash,
    /// Backends of the active upstream that refused this client in this round.
    tried: Vec<BackendId>,
    /// Number of rounds in which every backend has refused it.
    rounds: u32,
    /// The timer that ends its pause before the next round.
    pause: Option<TimerId>,
    /// The bytes and the time reported so far for its connection.
    traffic: Traffic,
}

/// Where a client is. In every place but `Held` it is assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Held,
    Dialling(BackendId),
    Open(BackendId),
    /// Open, but a switchover need not wait for it: only its end is still to be reported.
    Ending(BackendId),
}

impl State {
    /// A service at its start: no clients, the gate open, the first upstream active. `max_clients` is the number of
    /// clients for which the process has descriptors.
    pub fn new(service: &Service, max_clients: usize) -> State {
        State {
            rules: Rules {
                script: service.script.is_some(),
                grace: service.grace,
                max_dials: service.max_dials.max(1),
                max_clients,
                when_full: service.when_full,
                retry: service.retry,
            },
            settings: service.settings,
            pool: Pool::new(service),
            active: UpstreamId(0),
            gate: Gate::Open,
            life: Life::Running,
            clients: BTreeMap::new(),
            held: BTreeSet::new(),
            returned: BTreeSet::new(),
            pauses: BTreeMap::new(),
            health_changed: false,
            dialling: 0,
            assigned: 0,
            warned: false,
            interrupted: None,
            next_timer: 0,
            next_run: 0,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }

    /// The only entry point: applies the event and appends the resulting actions, in order.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        #[cfg(debug_assertions)]
        let (before, first) = (self.snapshot(), out.len());
        match event {
            Event::Started => self.started(out),
            Event::Arrived(client, hash) => self.arrived(client, hash, out),
            Event::HungUp(client) => self.hung_up(client, out),
            Event::Connected(client) => self.connected(client, out),
            Event::DialFailed(client, failure) => self.dial_failed(client, failure, out),
            Event::Dismissible(client) => self.dismissible(client, out),
            Event::Resumed(client) => self.resumed(client),
            Event::Flowed(client, traffic) => self.flowed(client, traffic),
            Event::Closed(client, why, traffic) => self.closed(client, why, traffic, out),
            Event::Probed(backend, end) => self.probed(backend, end, out),
            Event::ScriptEnded(run, end) => self.script_ended(run, end, out),
            Event::Fired(timer) => self.fired(timer, out),
            Event::Asked(request, command) => self.asked(request, command, out),
        }
        self.redial(out);
        self.settle(out);
        #[cfg(debug_assertions)]
        self.check(&before, &out[first..]);
    }

    /// The state that an operator may see.
    pub fn view(&self) -> View {
        View {
            active: self.active,
            held: self.held.len(),
            assigned: self.assigned,
            switching: self.switching(),
            settings: self.settings,
        }
    }

    /// The state of the backends that an operator may see, upstream by upstream, group by group.
    pub fn backends(&self) -> impl Iterator<Item = BackendView> {
        self.pool.views()
    }

    // What the new state allows.

    fn settle(&mut self, out: &mut Vec<Action>) {
        self.complete_drain(out);
        self.serve_queue(out);
        let over = self.held.len() > self.settings.max_queued as usize && !self.switching();
        if over && !self.warned {
            out.push(Action::Note(Note::Service(ServiceNote::QueueOverLimit {
                held: self.held.len(),
                limit: self.settings.max_queued,
            })));
        }
        self.warned = over;
        match self.life {
            Life::Stopping(_) | Life::Closing(_) if self.clients.is_empty() && !self.switching() => self.exit(out),
            Life::Running | Life::Stopping(_) | Life::Closing(_) | Life::Over => {}
        }
    }

    /// Serves the queue while the gate is open and no limit is reached.
    ///
    /// Guaranteed order: a client that can be served is served before all that arrived later. A client cannot be served
    /// while it pauses, or while every backend that is left for it is full. Such a client lets later ones pass, and is
    /// tried again after every event, before them. One pass over the queue is enough, because serving a client frees no
    /// capacity for another.
    fn serve_queue(&mut self, out: &mut Vec<Action>) {
        let alike = self.pool.treats_all_alike(self.active);
        let (mut after, mut newcomers_wait) = (None, false);
        while self.may_serve() {
            let Some(client) = self.next_in_queue(after, newcomers_wait) else { return };
            after = Some(client);
            let choice = self.choose(client);
            match choice {
                None => {}
                Some(Choice::Backend(backend)) => self.assign(client, backend, out),
                Some(Choice::Full) => match self.rules.when_full {
                    WhenFull::Wait => newcomers_wait |= alike && !self.returned.contains(&client),
                    WhenFull::Close => self.reject(client, CloseReason::Full, out),
                },
                Some(Choice::Exhausted) => self.round_failed(client, out),
            }
            if !self.looks_at_the_next(choice) {
                return;
            }
        }
    }

    fn may_serve(&self) -> bool {
        (!self.switching() || self.broken(Mutation::DialWhileShut)) && self.has_room()
    }

    /// The oldest held client after `after`. With `newcomers_wait`, only clients that a backend has refused.
    fn next_in_queue(&self, after: Option<ClientId>, newcomers_wait: bool) -> Option<ClientId> {
        let queue = if newcomers_wait { &self.returned } else { &self.held };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let next = if self.broken(Mutation::NewestFirst) {
            queue.range((Bound::Unbounded, from)).next_back()
        } else {
            queue.range((from, Bound::Unbounded)).next()
        };
        next.copied()
    }

    /// Whether to try the next client in the same event. Always true, except under a mutation.
    fn looks_at_the_next(&self, choice: Option<Choice>) -> bool {
        match choice {
            Some(Choice::Backend(_)) => !self.broken(Mutation::ServeOnlyOne),
            Some(Choice::Full) => !self.broken(Mutation::BlockTheQueue),
            Some(Choice::Exhausted) | None => true,
        }
    }

    /// Chooses a backend for this held client. `None` while the client pauses.
    fn choose(&self, client: ClientId) -> Option<Choice> {
        let client = self.clients.get(&client).filter(|client| client.pause.is_none())?;
        Some(self.pool.choose(self.active, &client.criteria()))
    }

    fn assign(&mut self, id: ClientId, backend: BackendId, out: &mut Vec<Action>) {
        if let Some(client) = self.clients.get(&id) {
            self.pool.take(backend, &client.criteria());
        }
        self.move_to(id, Some(Place::Dialling(backend)));
        out.push(Action::Note(Note::Client(id, ClientNote::Assigned(backend))));
        out.push(Action::Dial(id, backend));
    }

    fn has_room(&self) -> bool {
        !self.throttled() && self.dialling < self.rules.max_dials
    }

    fn throttled(&self) -> bool {
        let reached = self.settings.max_open.is_some_and(|limit| self.assigned >= limit as usize);
        reached && !self.broken(Mutation::IgnoreThrottle)
    }
}

impl Client {
    fn criteria(&self) -> Criteria<'_> {
        Criteria { hash: self.hash, tried: &self.tried, again: self.rounds > 0 || !self.tried.is_empty() }
    }
}
