//! The rules: what the core may decide freely, and what must hold when it has decided. One sentence each.

use std::fmt::Debug;

use cbpx::config::WhenFull;
use cbpx::core::State;
use cbpx::core::msg::{
    Action, Answer, BackendId, ClientId, ClientNote, CloseReason, Note, Outcome, ServiceNote, UpstreamId, View,
};

use super::Rules;
use super::stock::Standing;
use super::witness::{Broken, Client, Due, Life, Place, Verdict, Witness};

impl Witness {
    /// Judges a decision that no event made necessary by itself.
    pub fn judge(&mut self, rules: &Rules, action: Action, due: &mut Due) -> Verdict {
        match action {
            Action::Note(Note::Client(client, ClientNote::Assigned(backend))) => {
                self.granting(rules, client, backend, due)
            }
            Action::Reject(client, why @ (CloseReason::NoBackend | CloseReason::Full)) => {
                self.giving_up(rules, client, why, due)
            }
            Action::Note(Note::Client(client, ClientNote::Paused)) => self.pausing(rules, client, due),
            Action::Note(Note::Service(ServiceNote::Drained)) => {
                let draining = self.switch.is_some_and(|switch| switch.script.is_none());
                rule(draining && !due.drained, "only a switchover drains, and once", action)?;
                due.drained = true;
                rule(self.assigned() == 0, "drained means that nobody is assigned", &self.clients)
            }
            Action::RunScript { run, from, to, deadline } => {
                let Some(switch) = self.switch.as_mut() else {
                    return Err(Broken("only a switchover runs the script".to_owned()));
                };
                rule(rules.script && switch.script.is_none(), "the script runs once, if there is one", action)?;
                rule(due.drained, "the script runs when the drain is complete", action)?;
                rule((from, to) == (self.active, switch.to), "the script is told where it goes", action)?;
                rule(deadline == switch.deadline, "the script has the switchover's deadline", action)?;
                rule(run.0 >= self.next_run, "a run is never used twice", action)?;
                self.next_run = run.0 + 1;
                switch.script = Some(run);
                Ok(())
            }
            Action::Note(Note::Service(ServiceNote::SwitchEnded { from, to, outcome })) => {
                self.switch_ended(rules, from, to, outcome, due)
            }
            Action::Note(Note::Service(ServiceNote::QueueOverLimit { held, limit })) => {
                let told = (self.held().count(), self.settings.max_queued);
                rule((held, limit) == told, "the warning tells the queue and its limit", told)?;
                rule(!due.warned, "one warning is enough", action)?;
                due.warned = true;
                Ok(())
            }
            Action::Exit => {
                let finished = match self.life {
                    Life::Running | Life::Over => false,
                    Life::Stopping(_) | Life::Closing(_) => self.clients.is_empty() && self.switch.is_none(),
                };
                rule(finished || due.exit, "the program ends when told to and nobody is there", &self.clients)?;
                rule(due.owed.is_empty(), "all is decided before Exit", &due.owed)?;
                self.life = Life::Over;
                Ok(())
            }
            Action::Dial(..)
            | Action::CancelDial(_)
            | Action::Reject(..)
            | Action::CloseGracefully(_)
            | Action::Reset(_)
            | Action::Probe(_)
            | Action::SetEndpoint(..)
            | Action::Arm(..)
            | Action::KillScript(_)
            | Action::Answer(..)
            | Action::StopListening
            | Action::Note(
                Note::Client(
                    _,
                    ClientNote::Arrived
                    | ClientNote::Connected
                    | ClientNote::DialFailed(..)
                    | ClientNote::Requeued
                    | ClientNote::Ended(_),
                )
                | Note::Backend(..)
                | Note::Service(
                    ServiceNote::PoolChanged(_)
                    | ServiceNote::SwitchStarted { .. }
                    | ServiceNote::SettingChanged
                    | ServiceNote::Stopping { .. }
                    | ServiceNote::InterruptIgnored { .. },
                ),
            ) => Err(Broken(format!("nothing called for {action:?}"))),
        }
    }

    fn granting(&mut self, rules: &Rules, id: ClientId, backend: BackendId, due: &mut Due) -> Verdict {
        rule(self.switch.is_none(), "while the gate is shut nobody is dialled", id)?;
        rule(!self.closing(), "nobody is served when all are being cut", id)?;
        rule(self.place(id) == Some(Place::Held), "only a held client is assigned a backend", id)?;
        let passed = self.first_held(|held| *held < id, |standing| standing == Standing::Servable);
        rule(passed.is_none(), "whoever arrived first and can be served is served first", (id, passed))?;
        rule(self.has_room(rules), "nobody is assigned beyond the throttle or the dial limit", self.assigned())?;
        let known = self.stock.backends.get(backend.0);
        let upstream = known.map(|backend| backend.group.upstream);
        rule(upstream == Some(self.active), "clients go to the active upstream", backend)?;
        let choices = self.choices(id);
        let words = "the first group with room serves, by its policy, nobody twice, none disabled or beyond its limit";
        rule(choices.contains(&backend), words, (id, backend, &choices, known))?;
        let dialling = due.owed.iter().any(|owed| matches!(owed, Action::Dial(..)));
        rule(!dialling, "who is assigned is dialled before the next is assigned", id)?;
        self.given(id, backend);
        self.put(id, Place::Dialling(backend));
        due.owed.push(Action::Dial(id, backend));
        Ok(())
    }

    fn giving_up(&mut self, rules: &Rules, id: ClientId, why: CloseReason, due: &mut Due) -> Verdict {
        rule(self.switch.is_none(), "while the gate is shut everybody waits for the outcome", id)?;
        rule(self.place(id) == Some(Place::Held), "only a held client is refused", id)?;
        rule(self.clients[&id].pause.is_none(), "who pauses is left alone", id)?;
        if why == CloseReason::Full {
            let full = self.choices(id).is_empty() && !self.tried_all(id);
            rule(rules.habit.when_full == WhenFull::Close, "who cannot be served yet waits, if it may", id)?;
            rule(full, "a client is given up when all it may have are full", id)?;
        } else {
            let last = self.clients[&id].rounds + 1 >= rules.habit.retry.most;
            rule(last && self.tried_all(id), "a client is given up when every backend has refused it", id)?;
        }
        self.clients.remove(&id);
        due.note(Note::Client(id, ClientNote::Ended(why)));
        Ok(())
    }

    fn pausing(&mut self, rules: &Rules, id: ClientId, due: &mut Due) -> Verdict {
        rule(self.switch.is_none(), "while the gate is shut everybody waits for the outcome", id)?;
        rule(self.place(id) == Some(Place::Held), "only a held client pauses", id)?;
        let (client, retry) = (&self.clients[&id], rules.habit.retry);
        rule(client.pause.is_none() && client.rounds + 1 < retry.most, "there is another round", client)?;
        rule(self.tried_all(id), "a round ends when every backend has refused the client", id)?;
        let pause = Some(self.armed(retry.pause, due)?);
        self.clients.entry(id).and_modify(|client| {
            client.tried.clear();
            (client.rounds, client.pause) = (client.rounds + 1, pause);
        });
        Ok(())
    }

    fn switch_ended(
        &mut self,
        rules: &Rules,
        from: UpstreamId,
        to: UpstreamId,
        outcome: Outcome,
        due: &mut Due,
    ) -> Verdict {
        let Some(switch) = self.switch else { return Err(Broken("no switchover was running".to_owned())) };
        let idle = due.drained && !rules.script;
        let must = due.outcome.take().or(idle.then_some(Outcome::Moved { script: false }));
        rule(must == Some(outcome), "the first reason decides the outcome", (must, outcome))?;
        rule((from, to) == (self.active, switch.to), "the end names what the start named", (from, to))?;
        let running = due.owed.iter().any(|owed| matches!(owed, Action::KillScript(_)));
        rule(!running, "the script is killed before the gate opens", outcome)?;
        if let Outcome::Moved { .. } = outcome {
            rule(self.assigned() == 0, "the upstream changes when nobody is assigned", &self.clients)?;
            self.active = to;
            for client in self.clients.values_mut() {
                client.tried.clear();
                (client.rounds, client.pause) = (0, None);
            }
        }
        self.switch = None;
        due.owed.push(Action::Answer(switch.request, Answer::Switched(outcome)));
        Ok(())
    }

    /// What must hold when everything that was decided upon an event is known.
    pub fn at_rest(&mut self, rules: &Rules, warned: bool) -> Verdict {
        let (held, limit) = (self.held().count(), self.settings.max_queued as usize);
        rule(self.clients.len() <= rules.max_clients, "no more clients than descriptors", self.clients.len())?;
        match self.switch {
            Some(switch) => {
                let waits = self.assigned() > 0 || switch.script.is_some();
                rule(waits, "a switchover waits for a client or for its script", switch)?;
            }
            None => {
                let waits = |standing| match standing {
                    Standing::Full => rules.habit.when_full == WhenFull::Wait,
                    Standing::Servable | Standing::Refused => false,
                };
                let idle = self.has_room(rules).then(|| self.first_held(|_| true, |standing| !waits(standing)));
                let idle = idle.flatten();
                rule(idle.is_none(), "nobody is held while the gate is open and there is room", (idle, &self.clients))?;
            }
        }
        match self.life {
            Life::Running | Life::Over => {}
            Life::Stopping(_) | Life::Closing(_) => {
                let waits = !self.clients.is_empty() || self.switch.is_some();
                rule(waits, "the program ends when the last client has left", self.life)?;
            }
        }
        let over = held > limit && self.switch.is_none();
        rule(warned == (over && !self.over_limit), "a queue above its limit is told once", held)?;
        self.over_limit = over;
        Ok(())
    }

    /// What an operator is shown is what is.
    pub fn agrees(&self, core: &State) -> Verdict {
        let (held, assigned) = (self.held().count(), self.assigned());
        let (active, switching, settings) = (self.active, self.switch.is_some(), self.settings);
        let (own, view) = (View { active, held, assigned, switching, settings }, core.view());
        rule(own == view, "the view is what happened", (view, own))?;
        self.sees(core.backends())
    }

    fn has_room(&self, rules: &Rules) -> bool {
        let assigned = self.assigned();
        let dialling = self.clients.values().filter(|client| matches!(client.place, Place::Dialling(_))).count();
        dialling < rules.max_dials && self.settings.max_open.is_none_or(|limit| assigned < limit as usize)
    }

    pub fn closing(&self) -> bool {
        match self.life {
            Life::Running | Life::Stopping(_) => false,
            Life::Closing(_) | Life::Over => true,
        }
    }
}

impl Client {
    pub fn backend(&self) -> Option<BackendId> {
        match self.place {
            Place::Held => None,
            Place::Dialling(backend) | Place::Open(backend) | Place::Ending(backend) => Some(backend),
        }
    }
}

/// Breaks off with the rule and what broke it.
pub fn rule(holds: bool, words: &str, by: impl Debug) -> Verdict {
    if holds { Ok(()) } else { Err(Broken(format!("{words}: {by:?}"))) }
}

/// Whether an action may follow Exit: it needs no engine.
pub fn is_harmless(action: Action) -> bool {
    match action {
        Action::Reject(..) | Action::Answer(..) | Action::Note(_) => true,
        Action::Dial(..)
        | Action::CancelDial(_)
        | Action::CloseGracefully(_)
        | Action::Reset(_)
        | Action::Probe(_)
        | Action::SetEndpoint(..)
        | Action::Arm(..)
        | Action::RunScript { .. }
        | Action::KillScript(_)
        | Action::StopListening
        | Action::Exit => false,
    }
}
