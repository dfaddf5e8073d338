//! A witness who believes nothing: it keeps the engine's side (who is held, dialled, connected; timers, script,
//! tickets) from what the core was told and what it decided, never by asking the core, and says which promise a
//! decision broke.
//!
//! For every event it works out what must be decided now (`Due`); every decision must be due, or be one of the few that
//! are free and then obey the rules in `judge`; and when all are read nothing may be left due. So a decision that is
//! missing, doubled, too early or made up is found at the event that brought it.

use std::collections::BTreeMap;
use std::time::Duration;

use cbpx::config::Settings;
use cbpx::core::msg::{
    Action, Answer, BackendId, ClientHash, ClientId, ClientNote, CloseReason, Command, DialFailure, Event, Failure,
    Note, Outcome, RequestId, ScriptEnd, ServiceNote, TimerId, UpstreamId,
};

use super::Rules;
pub use super::account::{Client, Life, Place, Switch, Told};
use super::judge::{is_harmless, rule};
use super::stock::Stock;

/// The engine's side of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Witness {
    /// Everybody who arrived and has not ended.
    pub clients: BTreeMap<ClientId, Client>,
    pub stock: Stock,
    pub active: UpstreamId,
    pub settings: Settings,
    /// The gate is shut while this is there.
    pub switch: Option<Switch>,
    pub life: Life,
    /// Until this fires, a second Ctrl-C stops the program.
    pub second: Option<TimerId>,
    /// The queue was above its limit after the last event.
    pub over_limit: bool,
    /// No timer and no run had this number yet.
    pub next_timer: u64,
    pub next_run: u64,
}

/// The promise that was broken, and by what.
#[derive(Debug)]
pub struct Broken(pub String);

pub type Verdict = Result<(), Broken>;

/// What one event still obliges the core to decide.
pub struct Due<'a> {
    actions: &'a [Action],
    pub owed: Vec<Action>,
    /// How the running switchover must end now.
    pub outcome: Option<Outcome>,
    /// The drain was told to be complete.
    pub drained: bool,
    /// The queue was told to be above its limit.
    pub warned: bool,
    /// The program must end now.
    pub exit: bool,
}

const SECOND_INTERRUPT: Duration = Duration::from_secs(5);
/// `quit force` is promised to take two seconds at most.
const CLOSING: Duration = Duration::from_secs(1);
/// The end of a killed script is awaited this long.
const UNDOING: Duration = Duration::from_secs(4);

impl Witness {
    pub fn new(rules: &Rules, settings: Settings) -> Witness {
        Witness {
            clients: BTreeMap::new(),
            stock: Stock::new(rules),
            active: UpstreamId(0),
            settings,
            switch: None,
            life: Life::Running,
            second: None,
            over_limit: false,
            next_timer: 0,
            next_run: 0,
        }
    }

    /// Judges what was decided upon an event.
    pub fn observe(&mut self, rules: &Rules, event: Event, actions: &[Action]) -> Verdict {
        let was_over = self.life == Life::Over;
        let mut due = Due { actions, owed: Vec::new(), outcome: None, drained: false, warned: false, exit: false };
        self.happened(rules, event, &mut due)?;
        self.move_on(&mut due);
        for &action in actions {
            rule(was_over || self.life != Life::Over, "nothing follows Exit", action)?;
            rule(!was_over || is_harmless(action), "after Exit there is only Refuse, Answer and Note", action)?;
            match due.owed.iter().position(|owed| *owed == action) {
                Some(at) => drop(due.owed.remove(at)),
                None => self.judge(rules, action, &mut due)?,
            }
        }
        rule(due.owed.is_empty(), "this had to be decided", &due.owed)?;
        rule(due.outcome.is_none(), "the switchover had to end", due.outcome)?;
        rule(!due.exit || self.life == Life::Over, "the last timer ends the program", event)?;
        self.at_rest(rules, due.warned)
    }

    pub fn held(&self) -> impl Iterator<Item = ClientId> {
        self.clients.iter().filter(|(_, client)| client.place == Place::Held).map(|(&id, _)| id)
    }

    pub fn assigned(&self) -> usize {
        self.clients.len() - self.held().count()
    }

    /// Takes down what has happened and what must be decided upon it.
    fn happened(&mut self, rules: &Rules, event: Event, due: &mut Due) -> Verdict {
        match event {
            Event::Started => self.started(rules, due),
            Event::Arrived(id, hash) => return self.arrived(rules, id, hash, due),
            Event::HungUp(id) => {
                if self.place(id) == Some(Place::Held) {
                    self.turn_away(id, CloseReason::HungUp, due);
                }
            }
            Event::Connected(id) => {
                if let Some(Place::Dialling(backend)) = self.place(id) {
                    self.put(id, Place::Open(backend));
                    due.note(Note::Client(id, ClientNote::Connected));
                    self.stock.connected(backend);
                    self.back(backend, due);
                }
            }
            Event::DialFailed(id, failure) => {
                if let Some(Place::Dialling(backend)) = self.place(id) {
                    return self.refused(rules, id, backend, failure, due);
                }
            }
            Event::Dismissible(id) => self.dismissible(id, due),
            Event::Resumed(id) => self.resumed(id),
            Event::Flowed(id, traffic) => self.flowed(id, traffic),
            Event::Closed(id, why, traffic) => match self.place(id) {
                Some(Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) => {
                    self.flowed(id, traffic);
                    self.clients.remove(&id);
                    due.note(Note::Client(id, ClientNote::Ended(why)));
                }
                Some(Place::Held) | None => {}
            },
            Event::Probed(id, end) => return self.probed(rules, id, end, due),
            Event::ScriptEnded(run, end) => {
                if self.switch.is_some_and(|switch| switch.script == Some(run)) {
                    let undoing = self.switch.and_then(|switch| switch.undoing);
                    due.outcome = Some(match (undoing, end) {
                        (Some((failure, _)), _) => Outcome::Failed(failure),
                        (None, ScriptEnd::Exited(0)) => Outcome::Moved { script: true },
                        (None, end) => Outcome::Failed(Failure::Script(end)),
                    });
                }
            }
            Event::Fired(timer) => return self.fired(rules, timer, due),
            Event::Asked(request, command) => return self.asked(rules, request, command, due),
        }
        Ok(())
    }

    fn arrived(&mut self, rules: &Rules, id: ClientId, hash: ClientHash, due: &mut Due) -> Verdict {
        if self.clients.contains_key(&id) {
            return Ok(());
        }
        let full = self.held().count() >= self.settings.max_queued as usize;
        let room = self.clients.len() < rules.max_clients;
        match self.life {
            Life::Running | Life::Stopping(_) if room => {
                self.clients.insert(id, Client::new(hash));
                due.note(Note::Client(id, ClientNote::Arrived));
                if full {
                    self.undo(Failure::QueueFull, due)?;
                }
            }
            Life::Running | Life::Stopping(_) => self.turn_away(id, CloseReason::NoRoom, due),
            Life::Closing(_) | Life::Over => self.turn_away(id, CloseReason::Shutdown, due),
        }
        Ok(())
    }

    fn refused(
        &mut self,
        rules: &Rules,
        id: ClientId,
        backend: BackendId,
        failure: DialFailure,
        due: &mut Due,
    ) -> Verdict {
        due.note(Note::Client(id, ClientNote::DialFailed(backend, failure)));
        match failure {
            DialFailure::Local => {
                self.turn_away(id, CloseReason::NoRoom, due);
                return Ok(());
            }
            DialFailure::Backend => self.failure(rules, backend, due)?,
            DialFailure::NoPort => self.stock.of(backend).totals.0.errors += 1,
            DialFailure::Cancelled => {}
        }
        due.note(Note::Client(id, ClientNote::Requeued));
        match self.life {
            Life::Running | Life::Stopping(_) => {
                self.put(id, Place::Held);
                if matches!(failure, DialFailure::Backend | DialFailure::NoPort) {
                    self.clients.entry(id).and_modify(|client| client.tried.push(backend));
                }
            }
            Life::Closing(_) | Life::Over => self.turn_away(id, CloseReason::Shutdown, due),
        }
        Ok(())
    }

    fn fired(&mut self, rules: &Rules, timer: TimerId, due: &mut Due) -> Verdict {
        self.pool_timer(rules, timer, due);
        if self.second == Some(timer) {
            self.second = None;
        }
        match self.switch {
            Some(Switch { undoing: Some((failure, limit)), .. }) if limit == timer => {
                due.outcome = Some(Outcome::Failed(failure));
            }
            Some(switch) if switch.deadline == timer => self.undo(Failure::Timeout, due)?,
            Some(_) | None => {}
        }
        if self.life == Life::Closing(timer) {
            due.exit = true;
        }
        if self.life == Life::Stopping(timer) { self.close(Failure::Stopped, due) } else { Ok(()) }
    }

    fn asked(&mut self, rules: &Rules, request: RequestId, command: Command, due: &mut Due) -> Verdict {
        let (switching, idle) = (self.switch.is_some(), self.clients.is_empty());
        let (assigned, held) = (self.assigned(), self.held().count());
        let answer = match command {
            Command::Switch if switching => Answer::SwitchRunning,
            Command::Switch if self.life == Life::Running => return self.start_switch(rules, request, due),
            Command::Switch => Answer::TooLate,
            Command::Abort if switching => {
                self.undo(Failure::Aborted, due)?;
                Answer::RollingBack
            }
            Command::Abort => Answer::NoSwitchRunning,
            Command::Set(setting) => {
                self.settings.apply(setting);
                due.note(Note::Service(ServiceNote::SettingChanged));
                Answer::Changed
            }
            Command::Change(change) => self.changed(change, due),
            Command::Quit if switching || !idle => Answer::InUse { assigned, held },
            Command::Quit | Command::QuitForce => {
                self.close(Failure::Quit, due)?;
                Answer::Ending
            }
            Command::Interrupt if switching && self.life == Life::Running => {
                self.undo(Failure::CtrlC, due)?;
                Answer::RollingBack
            }
            Command::Interrupt if self.life == Life::Running && idle => {
                self.close(Failure::CtrlC, due)?;
                Answer::Ending
            }
            Command::Interrupt if self.life == Life::Running && self.second.is_none() => {
                self.second = Some(self.armed(SECOND_INTERRUPT, due)?);
                due.note(Note::Service(ServiceNote::InterruptIgnored { assigned, held }));
                Answer::StillInUse { assigned, held }
            }
            Command::Interrupt | Command::Stop => {
                self.stop(rules, due)?;
                Answer::Ending
            }
        };
        due.owed.push(Action::Answer(request, answer));
        Ok(())
    }

    fn start_switch(&mut self, rules: &Rules, request: RequestId, due: &mut Due) -> Verdict {
        let (from, to) = (self.active, rules.next(self.active));
        let (timeout, max_queued) = (self.settings.switch_max_time, self.settings.max_queued);
        due.note(Note::Service(ServiceNote::SwitchStarted { request, from, to, timeout, max_queued }));
        let deadline = self.armed(timeout, due)?;
        self.switch = Some(Switch { request, to, deadline, script: None, undoing: None });
        if timeout == Duration::ZERO {
            return self.undo(Failure::Timeout, due);
        }
        let orders = self.clients.iter().filter_map(|(&id, client)| match client.place {
            Place::Held | Place::Open(_) => None,
            Place::Dialling(_) => Some((id, Told::CancelDial)),
            Place::Ending(_) => Some((id, Told::CloseGracefully)),
        });
        for (id, told) in orders.collect::<Vec<_>>() {
            self.order(id, told, due);
        }
        Ok(())
    }

    fn stop(&mut self, rules: &Rules, due: &mut Due) -> Verdict {
        match self.life {
            Life::Running => {
                self.undo(Failure::Stopped, due)?;
                self.life = Life::Stopping(self.armed(rules.grace, due)?);
                due.owed.push(Action::StopListening);
                due.note(Note::Service(ServiceNote::Stopping { assigned: self.assigned(), held: self.held().count() }));
                Ok(())
            }
            Life::Stopping(_) => self.close(Failure::Stopped, due),
            Life::Closing(_) | Life::Over => Ok(()),
        }
    }

    fn close(&mut self, failure: Failure, due: &mut Due) -> Verdict {
        match self.life {
            Life::Running => due.owed.push(Action::StopListening),
            Life::Stopping(_) => {}
            Life::Closing(_) | Life::Over => return Ok(()),
        }
        // Nothing is waited for any more.
        if let Some(switch) = self.switch {
            let undoing = switch.undoing.map(|(first, _)| first);
            due.outcome = Some(Outcome::Failed(undoing.unwrap_or(failure)));
            due.owed.extend(switch.script.filter(|_| undoing.is_none()).map(Action::KillScript));
        }
        self.life = Life::Closing(self.armed(CLOSING, due)?);
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            match self.place(id) {
                Some(Place::Held) | None => self.turn_away(id, CloseReason::Shutdown, due),
                Some(Place::Dialling(_) | Place::Open(_) | Place::Ending(_)) => self.order(id, Told::Cut, due),
            }
        }
        Ok(())
    }

    /// A running switchover must end in this failure: now, or when its script has ended, which must be killed.
    fn undo(&mut self, failure: Failure, due: &mut Due) -> Verdict {
        match self.switch {
            Some(Switch { script: None, .. }) => due.outcome = Some(Outcome::Failed(failure)),
            Some(mut switch @ Switch { script: Some(run), undoing: None, .. }) => {
                due.owed.push(Action::KillScript(run));
                switch.undoing = Some((failure, self.armed(UNDOING, due)?));
                self.switch = Some(switch);
            }
            Some(Switch { undoing: Some(_), .. }) | None => {}
        }
        Ok(())
    }

    /// The next timer armed for this time upon this event.
    pub fn armed(&mut self, after: Duration, due: &mut Due) -> Result<TimerId, Broken> {
        let timer = due.actions.iter().find_map(|action| {
            let Action::Arm(timer, given) = action else { return None };
            (*given == after && timer.0 >= self.next_timer).then_some(*timer)
        });
        let timer = timer.ok_or_else(|| Broken(format!("a timer had to be armed for {after:?}")))?;
        self.next_timer = timer.0 + 1;
        due.owed.push(Action::Arm(timer, after));
        Ok(timer)
    }

    /// Notes that this client is closed without a backend.
    pub fn turn_away(&mut self, id: ClientId, why: CloseReason, due: &mut Due) {
        self.clients.remove(&id);
        due.owed.push(Action::Reject(id, why));
        due.note(Note::Client(id, ClientNote::Ended(why)));
    }

    pub fn order(&mut self, id: ClientId, told: Told, due: &mut Due) {
        due.owed.extend(match told {
            Told::Nothing => None,
            Told::CancelDial => Some(Action::CancelDial(id)),
            Told::CloseGracefully => Some(Action::CloseGracefully(id)),
            Told::Cut => Some(Action::Reset(id)),
        });
        self.clients.entry(id).and_modify(|client| client.told = told);
    }

    /// Moves a client. A cut holds for all places the client may still come to; any other order only for the place it
    /// was given in.
    pub fn put(&mut self, id: ClientId, place: Place) {
        self.clients.entry(id).and_modify(|client| {
            client.place = place;
            client.told = if client.told == Told::Cut { Told::Cut } else { Told::Nothing };
        });
    }

    pub fn place(&self, id: ClientId) -> Option<Place> {
        self.clients.get(&id).map(|client| client.place)
    }
}

impl Due<'_> {
    pub fn note(&mut self, note: Note) {
        self.owed.push(Action::Note(note));
    }
}
