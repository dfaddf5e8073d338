//! The promises that concern the core, as assertions: on the state after every event, and on the decisions that led to
//! it. Debug builds only. A failure names the broken rule.

use std::collections::BTreeMap;

use super::msg::{Action, Answer, BackendId, ClientId, Note, Outcome, RequestId, ServiceNote, UpstreamId};
use super::pool::{Choice, Health};
use super::switch::{Gate, SwitchStage};
use super::{Place, State};
use crate::config::WhenFull;

/// With at most this many clients, every count is checked after every event.
const RECOUNT_UP_TO: usize = 256;

/// The state before the event, for comparison.
pub(super) struct Before {
    active: UpstreamId,
    assigned: usize,
    shut: bool,
    request: Option<RequestId>,
}

impl State {
    pub(super) fn snapshot(&self) -> Before {
        let request = match self.gate {
            Gate::Open => None,
            Gate::Shut(running) => Some(running.request),
        };
        Before { active: self.active, assigned: self.assigned, shut: self.switching(), request }
    }

    /// Asserts every rule.
    ///
    /// # Panics
    /// If a rule is broken, which is a defect in the core.
    pub(super) fn check(&self, before: &Before, actions: &[Action]) {
        // Recounting takes time proportional to the number of clients. That is too slow after every event of a release
        // of thousands, and small populations find the same defects.
        if self.clients.len() <= RECOUNT_UP_TO {
            self.check_counts();
        }
        assert!(!self.health_changed, "a backend's health changed and no dial under way was looked at again");
        self.check_service();
        self.check_choices(actions);
        self.check_switchover(before, actions);
        self.check_order(actions);
        self.check_answers(before, actions);
    }

    /// The counters equal a recount.
    fn check_counts(&self) {
        let mut held = 0;
        let mut dialling = 0;
        let mut per_backend: BTreeMap<BackendId, u32> = BTreeMap::new();
        for (id, client) in &self.clients {
            match client.place {
                Place::Held => {
                    held += 1;
                    assert!(self.held.contains(id), "{id:?} is held but not in the queue");
                }
                Place::Dialling(backend) => {
                    dialling += 1;
                    *per_backend.entry(backend).or_default() += 1;
                }
                Place::Open(backend) | Place::Ending(backend) => *per_backend.entry(backend).or_default() += 1,
            }
        }
        assert!(self.returned.is_subset(&self.held), "somebody is back in the queue who is not in it");
        for (timer, id) in &self.pauses {
            let pause = self.clients.get(id).and_then(|client| client.pause);
            assert!(self.held.contains(id) && pause == Some(*timer), "{timer:?} ends nobody's pause");
        }
        for id in &self.held {
            let refused = self.clients.get(id).is_some_and(|client| !client.tried.is_empty());
            assert!(!refused || self.returned.contains(id), "{id:?} would not be looked at");
        }
        assert_eq!(held, self.held.len(), "the queue holds somebody who is not held");
        assert_eq!(dialling, self.dialling, "dialling clients are miscounted");
        assert_eq!(held + self.assigned, self.clients.len(), "assigned clients are miscounted");
        for (backend, load) in self.pool.assigned_counts() {
            assert_eq!(load, per_backend.get(&backend).copied().unwrap_or(0), "{backend:?} is miscounted");
        }
    }

    /// No client that can be served is held, and no limit is exceeded.
    fn check_service(&self) {
        assert!(self.clients.len() <= self.rules.max_clients, "more clients than descriptors");
        if self.switching() || self.held.is_empty() || self.closing() || !self.has_room() {
            return;
        }
        for id in self.held.iter().take(RECOUNT_UP_TO) {
            match (self.choose(*id), self.rules.when_full) {
                (None, _) | (Some(Choice::Full), WhenFull::Wait) => {}
                (Some(Choice::Full), WhenFull::Close) | (Some(Choice::Backend(_) | Choice::Exhausted), _) => {
                    panic!("the gate is open, there is room and {id:?} is held")
                }
            }
        }
    }

    /// The backend of each dial is enabled, within its limit, and has not refused the client before. It has not failed,
    /// unless no other one was available.
    fn check_choices(&self, actions: &[Action]) {
        for action in actions {
            let Action::Dial(id, backend) = action else { continue };
            assert!(self.pool.is_enabled(*backend), "{backend:?} is disabled and was given {id:?}");
            let limit = self.pool.limit_of(*backend);
            let within = limit.is_none_or(|limit| self.pool.assigned_to(*backend) <= limit);
            assert!(within, "{backend:?} is above its limit");
            let Some(client) = self.clients.get(id) else { continue };
            assert!(!client.tried.contains(backend), "{id:?} was refused by {backend:?} and is sent there again");
            if self.pool.health(*backend) == Health::Failed
                && let Choice::Backend(other) = self.pool.choose(self.active, &client.criteria())
            {
                let better = self.pool.health(other) == Health::Up;
                assert!(!better, "{id:?} was given {backend:?}, which has failed, and there was {other:?}");
            }
        }
    }

    /// The upstream changes only when nobody is assigned. No client is dialled while the gate is shut. No client is
    /// assigned while the script runs.
    fn check_switchover(&self, before: &Before, actions: &[Action]) {
        let mut shut = before.shut;
        let mut dials = 0_usize;
        for action in actions {
            match action {
                Action::Note(Note::Service(ServiceNote::SwitchStarted { .. })) => shut = true,
                Action::Note(Note::Service(ServiceNote::SwitchEnded { .. })) => shut = false,
                Action::Dial(client, backend) => {
                    dials += 1;
                    assert!(!shut, "{client:?} is dialled while the gate is shut");
                    assert_eq!(self.pool.upstream_of(*backend), self.active, "{client:?} goes to the wrong upstream");
                }
                Action::CloseGracefully(client) => {
                    let ending = matches!(self.place(*client), Some(Place::Ending(_)));
                    assert!(shut && ending, "{client:?} is dismissed although it is open, or no switchover runs");
                }
                Action::Reject(..)
                | Action::CancelDial(_)
                | Action::Reset(_)
                | Action::Probe(_)
                | Action::SetEndpoint(..)
                | Action::Arm(..)
                | Action::RunScript { .. }
                | Action::KillScript(_)
                | Action::Answer(..)
                | Action::Note(_)
                | Action::StopListening
                | Action::Exit => {}
            }
        }
        assert_eq!(shut, self.switching(), "the gate moved without a note");
        if let Some(limit) = self.settings.max_open {
            let within = self.assigned <= limit as usize || dials == 0;
            assert!(within, "clients were dialled beyond the throttle");
        }
        if self.active != before.active {
            let moved = |note: &Action| {
                matches!(
                    note,
                    Action::Note(Note::Service(ServiceNote::SwitchEnded { outcome: Outcome::Moved { .. }, .. }))
                )
            };
            assert!(actions.iter().any(moved), "the upstream changed without a successful switchover");
            assert_eq!(self.assigned, dials, "the upstream changed while clients were assigned");
            assert!(before.assigned <= 1, "the upstream changed while several clients were assigned");
        }
        if let Gate::Shut(running) = self.gate {
            match running.stage {
                SwitchStage::Draining => assert!(self.assigned > 0, "drained, and nothing happens"),
                SwitchStage::Scripting(_) | SwitchStage::RollingBack { .. } => {
                    assert_eq!(self.assigned, 0, "the script runs while clients are assigned")
                }
            }
        }
    }

    /// Clients leave the queue oldest first. A held client that arrived before one dialled in this event cannot be
    /// served by any backend now.
    fn check_order(&self, actions: &[Action]) {
        let mut last: Option<ClientId> = None;
        for action in actions {
            if let Action::Dial(client, _) = action {
                assert!(last.is_none_or(|last| last < *client), "{client:?} is dialled after a later one");
                last = Some(*client);
            }
        }
        for waiting in last.iter().flat_map(|last| self.held.range(..last)).take(RECOUNT_UP_TO) {
            let served = matches!(self.choose(*waiting), Some(Choice::Backend(_)));
            assert!(!served, "{waiting:?} waits although {last:?} came later");
        }
    }

    /// A switch is answered exactly once, when it ends.
    fn check_answers(&self, before: &Before, actions: &[Action]) {
        let answers = |request: RequestId| {
            let is_outcome =
                |action: &&Action| matches!(action, Action::Answer(t, Answer::Switched(_)) if *t == request);
            actions.iter().filter(is_outcome).count()
        };
        if let Some(request) = before.request {
            let still_running = self.snapshot().request == Some(request);
            assert_eq!(answers(request), usize::from(!still_running), "a switch is answered once, when it ends");
        }
    }
}
