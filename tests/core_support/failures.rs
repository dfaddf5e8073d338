//! What happens to backends, in the witness's account: they fail, are remembered as failed, probed, and come back; and
//! what each has had.

use cbpx::config::FailurePolicy;
use cbpx::core::msg::{Action, BackendId, BackendNote, ClientId, Note, ProbeEnd, TimerId, Traffic};

use super::Rules;
use super::stock::Awaited;
use super::witness::{Client, Due, Place, Told, Verdict, Witness};

impl Witness {
    pub fn started(&mut self, rules: &Rules, due: &mut Due) {
        if matches!(rules.habit.failure_policy, FailurePolicy::UntilProbed { .. }) {
            for id in (0..self.stock.backends.len()).map(BackendId) {
                if self.stock.of(id).enabled {
                    self.probe(id, due);
                }
            }
        }
    }

    fn probe(&mut self, id: BackendId, due: &mut Due) {
        self.stock.of(id).awaited = Awaited::Probe;
        due.owed.push(Action::Probe(id));
    }

    pub fn failure(&mut self, rules: &Rules, id: BackendId, due: &mut Due) -> Verdict {
        let closing = self.closing();
        let backend = self.stock.of(id);
        backend.totals.0.errors += 1;
        let again = match rules.habit.failure_policy {
            FailurePolicy::Ignore => return Ok(()),
            FailurePolicy::Disable => {
                if std::mem::replace(&mut backend.enabled, false) {
                    due.note(Note::Backend(id, BackendNote::Disabled));
                }
                return Ok(());
            }
            FailurePolicy::AvoidFor(time) => Some(time),
            FailurePolicy::UntilProbed { every } => every,
        };
        if backend.enabled && !std::mem::replace(&mut backend.failed, true) {
            due.note(Note::Backend(id, BackendNote::Failed));
        }
        let waits = backend.failed && backend.awaited == Awaited::Nothing && !closing;
        if let Some(again) = again.filter(|_| waits) {
            self.stock.of(id).awaited = Awaited::Timer(self.armed(again, due)?);
        }
        Ok(())
    }

    /// When a backend has failed or is back, nobody waits for one that has failed who may have another.
    pub fn move_on(&mut self, due: &mut Due) {
        let tells =
            |owed: &Action| matches!(owed, Action::Note(Note::Backend(_, BackendNote::Failed | BackendNote::Back)));
        if !due.owed.iter().any(tells) || self.switch.is_some() || self.closing() {
            return;
        }
        let works = |id: &BackendId| !self.stock.backends[id.0].failed;
        let moves = |(id, client): (&ClientId, &Client)| match client.place {
            Place::Dialling(backend) if !works(&backend) => self.choices(*id).iter().all(works).then_some(*id),
            Place::Dialling(_) | Place::Held | Place::Open(_) | Place::Ending(_) => None,
        };
        let better = |id: &ClientId| !self.choices(*id).is_empty();
        let ids: Vec<_> = self.clients.iter().filter_map(moves).filter(better).collect();
        for id in ids {
            self.order(id, Told::CancelDial, due);
        }
    }

    pub fn back(&mut self, id: BackendId, due: &mut Due) {
        if self.stock.of(id).failed {
            self.stock.credit(id);
            let backend = self.stock.of(id);
            backend.failed = false;
            if let Awaited::Timer(_) = backend.awaited {
                backend.awaited = Awaited::Nothing;
            }
            due.note(Note::Backend(id, BackendNote::Back));
        }
    }

    pub fn probed(&mut self, rules: &Rules, id: BackendId, end: ProbeEnd, due: &mut Due) -> Verdict {
        let awaited = self.stock.backends.get(id.0).is_some_and(|backend| backend.awaited == Awaited::Probe);
        if !awaited || self.closing() {
            return Ok(());
        }
        self.stock.of(id).awaited = Awaited::Nothing;
        match end {
            ProbeEnd::Reached => self.back(id, due),
            ProbeEnd::Failed => self.failure(rules, id, due)?,
        }
        Ok(())
    }

    /// A timer of a backend or of a pause, if it is one.
    pub fn pool_timer(&mut self, rules: &Rules, timer: TimerId, due: &mut Due) {
        for client in self.clients.values_mut().filter(|client| client.pause == Some(timer)) {
            client.pause = None;
        }
        let whose = self.stock.backends.iter().position(|backend| backend.awaited == Awaited::Timer(timer));
        let Some(id) = whose.map(BackendId) else { return };
        self.stock.of(id).awaited = Awaited::Nothing;
        match rules.habit.failure_policy {
            _ if self.closing() => {}
            FailurePolicy::AvoidFor(_) => self.back(id, due),
            FailurePolicy::UntilProbed { .. } => self.probe(id, due),
            FailurePolicy::Ignore | FailurePolicy::Disable => {}
        }
    }
    /// Of a report that is not the first, only what is new counts.
    pub fn flowed(&mut self, id: ClientId, now: Traffic) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(backend) = client.backend() else { return };
        let before = client.traffic;
        let most = |before: u64, now: u64| before.max(now);
        client.traffic =
            Traffic { up: most(before.up, now.up), down: most(before.down, now.down), time: before.time.max(now.time) };
        let after = client.traffic;
        let (up, down, time) = (after.up - before.up, after.down - before.down, after.time - before.time);
        self.stock.flowed(backend, Traffic { up, down, time });
    }
}
