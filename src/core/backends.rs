//! What happens to a backend: it fails, is probed, recovers, or is changed by an operator. Clients that are dialling a
//! failed backend are moved to another. Whether a held client can be served afterwards is decided by `settle`.
//!
//! At most one thing is pending for each backend, a timer or a probe. The result of an earlier one is stale and
//! ignored.

use super::msg::{
    Action, Answer, BackendId, BackendNote, Change, GroupId, Note, ProbeEnd, ServiceNote, TimerId, Unchanged,
};
use super::pool::{Awaited, Choice, Health};
use super::{Mutation, Place, State};
use crate::config::FailurePolicy;

impl State {
    /// The engine is ready: probes for the first time all backends that are to be probed.
    pub(super) fn started(&mut self, out: &mut Vec<Action>) {
        for id in self.pool.ids() {
            match self.pool.failure_policy(id) {
                FailurePolicy::UntilProbed { .. } if self.pool.is_enabled(id) => self.probe(id, out),
                FailurePolicy::Ignore
                | FailurePolicy::AvoidFor(_)
                | FailurePolicy::UntilProbed { .. }
                | FailurePolicy::Disable => {}
            }
        }
    }

    /// A dial to this backend, or a probe of it, failed.
    pub(super) fn backend_failed(&mut self, id: BackendId, out: &mut Vec<Action>) {
        self.pool.dial_failed(id);
        match self.pool.failure_policy(id) {
            FailurePolicy::Ignore => {}
            FailurePolicy::Disable => {
                if self.pool.disable(id) {
                    out.push(Action::Note(Note::Backend(id, BackendNote::Disabled)));
                }
            }
            FailurePolicy::AvoidFor(_) | FailurePolicy::UntilProbed { .. } => {
                if self.pool.fail(id) {
                    out.push(Action::Note(Note::Backend(id, BackendNote::Failed)));
                    self.health_changed = true;
                    self.schedule_recheck(id, out);
                }
            }
        }
    }

    /// A dial to this backend, or a probe of it, succeeded, or the time for which it is avoided is over.
    pub(super) fn backend_is_back(&mut self, id: BackendId, out: &mut Vec<Action>) {
        if self.pool.recover(id) {
            out.push(Action::Note(Note::Backend(id, BackendNote::Back)));
            self.health_changed = true;
            match self.pool.awaited(id) {
                Awaited::Timer(_) => self.pool.set_awaited(id, Awaited::Nothing),
                Awaited::Nothing | Awaited::Probe => {}
            }
        }
    }

    /// Runs after an event in which a backend has failed or recovered. Cancels each dial to a failed backend if another
    /// backend that has not failed can take the client, which then goes there. So a backend that never answers delays
    /// nobody after the first failure is known. Clients without a better choice keep trying.
    pub(super) fn redial(&mut self, out: &mut Vec<Action>) {
        let health_changed = std::mem::take(&mut self.health_changed);
        if !health_changed || !self.may_redial() {
            return;
        }
        for (id, client) in &self.clients {
            if let Place::Dialling(backend) = client.place
                && self.pool.health(backend) == Health::Failed
                && let Choice::Backend(other) = self.pool.choose(self.active, &client.criteria())
                && self.pool.health(other) == Health::Up
            {
                out.push(Action::CancelDial(*id));
            }
        }
    }

    fn may_redial(&self) -> bool {
        !self.switching() && !self.closing() && !self.broken(Mutation::WaitForTheFailed)
    }

    /// Arms the timer for the next check of a failed backend, unless a probe is pending, which will report.
    fn schedule_recheck(&mut self, id: BackendId, out: &mut Vec<Action>) {
        let after = match self.pool.failure_policy(id) {
            FailurePolicy::AvoidFor(time) => Some(time),
            FailurePolicy::UntilProbed { every } => every,
            FailurePolicy::Ignore | FailurePolicy::Disable => None,
        };
        if let (Some(after), Awaited::Nothing, false) = (after, self.pool.awaited(id), self.closing()) {
            let timer = self.arm(after, out);
            self.pool.set_awaited(id, Awaited::Timer(timer));
        }
    }

    fn probes_the_failed(&self) -> bool {
        !self.broken(Mutation::ForgetTheProbe)
    }

    fn probe(&mut self, id: BackendId, out: &mut Vec<Action>) {
        self.pool.set_awaited(id, Awaited::Probe);
        out.push(Action::Probe(id));
    }

    /// Ignored if the backend is not being probed, or if the program is ending.
    pub(super) fn probed(&mut self, id: BackendId, end: ProbeEnd, out: &mut Vec<Action>) {
        if self.closing() || !self.pool.has(id) || self.pool.awaited(id) != Awaited::Probe {
            return;
        }
        self.pool.set_awaited(id, Awaited::Nothing);
        match end {
            ProbeEnd::Reached => self.backend_is_back(id, out),
            ProbeEnd::Failed => {
                self.backend_failed(id, out);
                if self.pool.health(id) == Health::Failed {
                    self.schedule_recheck(id, out);
                }
            }
        }
    }

    pub(super) fn pool_timer(&mut self, timer: TimerId, out: &mut Vec<Action>) {
        let Some(id) = self.pool.awaiting(timer) else { return };
        self.pool.set_awaited(id, Awaited::Nothing);
        if self.closing() {
            return;
        }
        match self.pool.failure_policy(id) {
            FailurePolicy::AvoidFor(_) => self.backend_is_back(id, out),
            FailurePolicy::UntilProbed { .. } if self.probes_the_failed() => self.probe(id, out),
            FailurePolicy::UntilProbed { .. } | FailurePolicy::Ignore | FailurePolicy::Disable => {}
        }
    }

    /// Carries out a change by an operator, or returns why it had no effect.
    pub(super) fn change(&mut self, change: Change, out: &mut Vec<Action>) -> Answer {
        if self.closing() {
            return Answer::TooLate;
        }
        let unknown = match change {
            Change::Enable(id)
            | Change::Disable(id)
            | Change::SetEndpoint(id, _)
            | Change::Limit(id, _)
            | Change::Reset(id) => (!self.pool.has(id)).then_some(Unchanged::NoSuchBackend),
            Change::Create(group, _) | Change::Policy(group, ..) => self.lacks(group),
        };
        if let Some(unknown) = unknown {
            return Answer::Unchanged(unknown);
        }
        let mut answer = Answer::Changed;
        match change {
            Change::Enable(id) => {
                if !self.pool.enable(id) {
                    return Answer::Unchanged(Unchanged::AlreadyEnabled);
                }
            }
            Change::Disable(id) => {
                if !self.pool.disable(id) {
                    return Answer::Unchanged(Unchanged::AlreadyDisabled);
                }
            }
            Change::Create(group, endpoint) => {
                let id = self.pool.create(group);
                out.push(Action::SetEndpoint(id, endpoint));
                answer = Answer::Created(id);
            }
            Change::SetEndpoint(id, _) if self.pool.is_enabled(id) => {
                return Answer::Unchanged(Unchanged::NotDisabled);
            }
            Change::SetEndpoint(id, endpoint) => out.push(Action::SetEndpoint(id, endpoint)),
            Change::Limit(id, limit) => self.pool.set_limit(id, limit),
            Change::Reset(id) => self.pool.reset(id),
            Change::Policy(group, policy, failover) => self.pool.set_policy(group, policy, failover),
        }
        out.push(Action::Note(Note::Service(ServiceNote::PoolChanged(change))));
        answer
    }

    fn lacks(&self, group: GroupId) -> Option<Unchanged> {
        (!self.pool.has_group(group)).then_some(Unchanged::NoSuchGroup)
    }
}
