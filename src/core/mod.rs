//! The decisions: who is held, dialled, refused or cut, and when the service moves. One pure machine without a socket,
//! clock, thread or log: events in, actions out. Total: no event, however stale or strange, panics or is an error.
//!
//! A client is in exactly one place (held, dialling, open, ending; or nowhere), and [`State::move_to`] is the only
//! function that moves one. `settle` runs at the end of every event and does what the new situation allows: completes a
//! drain, serves the queue, ends the program. So nothing is ever polled for.
//!
//! `check` (in debug builds, after every event) asserts the promises that concern the core; `tests/model.rs` and
//! `tests/sim.rs` check them again from outside.

mod check;
pub mod msg;
pub mod pool;
mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::{Service, Settings};
use msg::{
    Action, Answer, BackendId, ClientId, Command, DialFailure, Event, Failure, Note, RunId, Ticket, TimerId,
    UpstreamId, View, Why,
};
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

/// From start to end of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Running,
    /// Told to stop; clients may finish until the timer fires.
    Stopping(TimerId),
    /// Everybody was cut; their last reports are awaited until the timer fires.
    Closing(TimerId),
    Over,
}

/// How long the last reports of cut clients are awaited.
const CLOSING: Duration = Duration::from_secs(1);
/// Within this time a second Ctrl-C stops the program.
const SECOND_INTERRUPT: Duration = Duration::from_secs(5);

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

    // Clients.

    fn arrived(&mut self, client: ClientId, out: &mut Vec<Action>) {
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

    fn hung_up(&mut self, client: ClientId, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Held) => self.turn_away(client, Why::HungUp, out),
            Some(Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) | None => {}
        }
    }

    fn connected(&mut self, client: ClientId, out: &mut Vec<Action>) {
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
    fn refused(&mut self, client: ClientId, failure: DialFailure, out: &mut Vec<Action>) {
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

    fn backend_ended(&mut self, client: ClientId, out: &mut Vec<Action>) {
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

    fn closed(&mut self, client: ClientId, why: Why, out: &mut Vec<Action>) {
        match self.place(client) {
            Some(Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) => {
                self.move_to(client, None);
                out.push(Action::Note(Note::Ended(client, why)));
            }
            Some(Place::Held) | None => {}
        }
    }

    /// Closes a client that has no backend.
    fn turn_away(&mut self, client: ClientId, why: Why, out: &mut Vec<Action>) {
        self.move_to(client, None);
        out.push(Action::Refuse(client, why));
        out.push(Action::Note(Note::Ended(client, why)));
    }

    fn place(&self, client: ClientId) -> Option<Place> {
        self.clients.get(&client).map(|client| client.place)
    }

    /// The only function that moves a client. `None` is nowhere: not here yet, or gone.
    fn move_to(&mut self, id: ClientId, to: Option<Place>) {
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
            Life::Stopping(_) | Life::Closing(_) if self.clients.is_empty() => self.exit(out),
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

    // Commands.

    fn asked(&mut self, ticket: Ticket, command: Command, out: &mut Vec<Action>) {
        let answer = match command {
            // Answered when it ends.
            Command::Switch => return self.start_switch(ticket, out),
            Command::Abort if self.switching() => {
                self.fail(Failure::Aborted, out);
                Answer::Undone
            }
            Command::Abort => Answer::NoSwitchRunning,
            Command::Set(setting) => {
                self.settings.apply(setting);
                out.push(Action::Note(Note::SettingChanged));
                Answer::Changed
            }
            Command::Quit if self.switching() || !self.clients.is_empty() => {
                Answer::InUse { granted: self.granted, held: self.held.len() }
            }
            Command::Quit | Command::QuitForce => {
                self.close_all(Failure::Quit, out);
                Answer::Ending
            }
            Command::Interrupt => self.interrupt(out),
            Command::Stop => {
                self.stop(out);
                Answer::Ending
            }
        };
        out.push(Action::Answer(ticket, answer));
    }

    fn interrupt(&mut self, out: &mut Vec<Action>) -> Answer {
        if self.switching() {
            self.fail(Failure::CtrlC, out);
            return Answer::Undone;
        }
        let (granted, held) = (self.granted, self.held.len());
        match self.life {
            Life::Running if self.clients.is_empty() => self.close_all(Failure::CtrlC, out),
            Life::Running if self.interrupted.is_none() => {
                self.interrupted = Some(self.arm(SECOND_INTERRUPT, out));
                out.push(Action::Note(Note::InterruptIgnored { granted, held }));
                return Answer::StillInUse { granted, held };
            }
            Life::Running | Life::Stopping(_) | Life::Closing(_) | Life::Over => self.stop(out),
        }
        Answer::Ending
    }

    fn stop(&mut self, out: &mut Vec<Action>) {
        match self.life {
            Life::Running => {
                self.fail(Failure::Stopped, out);
                let timer = self.arm(self.rules.grace, out);
                self.life = Life::Stopping(timer);
                out.push(Action::StopListening);
                out.push(Action::Note(Note::Stopping { granted: self.granted, held: self.held.len() }));
            }
            Life::Stopping(_) => self.close_all(Failure::Stopped, out),
            Life::Closing(_) | Life::Over => {}
        }
    }

    /// Ends the program whoever is there. Held clients are not released first: there is nobody to release them to.
    fn close_all(&mut self, failure: Failure, out: &mut Vec<Action>) {
        if self.closing() {
            return;
        }
        let timer = self.arm(CLOSING, out);
        if self.life == Life::Running {
            out.push(Action::StopListening);
        }
        self.life = Life::Closing(timer);
        self.fail(failure, out);
        for client in std::mem::take(&mut self.held) {
            self.turn_away(client, Why::Shutdown, out);
        }
        out.extend(self.clients.keys().map(|&client| Action::Cut(client)));
    }

    fn fired(&mut self, timer: TimerId, out: &mut Vec<Action>) {
        if self.interrupted == Some(timer) {
            self.interrupted = None;
        }
        match self.life {
            Life::Running => self.switch_timer(timer, out),
            Life::Stopping(grace) if grace == timer => self.close_all(Failure::Stopped, out),
            Life::Closing(limit) if limit == timer => self.exit(out),
            Life::Stopping(_) | Life::Closing(_) | Life::Over => {}
        }
    }

    fn exit(&mut self, out: &mut Vec<Action>) {
        self.life = Life::Over;
        out.push(Action::Exit);
    }

    /// Nobody is served any more.
    fn closing(&self) -> bool {
        match self.life {
            Life::Running | Life::Stopping(_) => false,
            Life::Closing(_) | Life::Over => true,
        }
    }

    fn arm(&mut self, after: Duration, out: &mut Vec<Action>) -> TimerId {
        let timer = TimerId(self.next_timer);
        self.next_timer += 1;
        out.push(Action::Arm(timer, after));
        timer
    }

    fn new_run(&mut self) -> RunId {
        self.next_run += 1;
        RunId(self.next_run)
    }
}

/// A rule that can be broken on purpose, so that the tests can prove that they would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Promise 2: clients are dialled although the gate is shut.
    DialWhileShut,
    /// Promise 2: clients that are still connecting do not count for the drain.
    ForgetTheDialling,
    /// Promise 3: a client refused while the gate is shut is forgotten.
    ForgetTheRefused,
    /// Promise 3: the newest held client is served first.
    NewestFirst,
    /// Promise 4: a timed-out switchover moves the service all the same.
    MoveOnTimeout,
    /// Promise 4: the switch is answered twice.
    AnswerTwice,
    /// The throttle is ignored.
    IgnoreThrottle,
}

impl State {
    /// Breaks one rule from now on.
    #[cfg(feature = "mutation")]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
    }

    #[cfg(feature = "mutation")]
    fn broken(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    #[cfg(not(feature = "mutation"))]
    fn broken(&self, _: Mutation) -> bool {
        false
    }
}
