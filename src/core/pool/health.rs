//! What is remembered about a backend: whether an operator has enabled it, and whether it has failed. `core::backends`
//! has the timers and decides when a failed backend is checked again.

use super::{Load, Pool};
use crate::config::FailurePolicy;
use crate::core::msg::{BackendId, TimerId};

/// The result of the last dials and probes of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// No failure is known.
    Up,
    /// It has failed: it is used only if no other is available.
    Failed,
}

/// The event that will next change or check a backend's health without a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    Nothing,
    /// This timer. When it fires, the failure is forgotten or a probe starts.
    Timer(TimerId),
    /// The end of a probe.
    Probe,
}

impl Pool {
    /// How a failed dial to this backend is remembered.
    pub fn failure_policy(&self, id: BackendId) -> FailurePolicy {
        self.group(self.members[id.0].group).failure_policy
    }

    pub fn awaited(&self, id: BackendId) -> Awaited {
        self.members[id.0].awaited
    }

    pub fn set_awaited(&mut self, id: BackendId, awaited: Awaited) {
        self.members[id.0].awaited = awaited;
    }

    /// The backend that waits for this timer.
    pub fn awaiting(&self, timer: TimerId) -> Option<BackendId> {
        self.ids().find(|id| self.awaited(*id) == Awaited::Timer(timer))
    }

    pub fn is_enabled(&self, id: BackendId) -> bool {
        self.members[id.0].enabled
    }

    pub fn health(&self, id: BackendId) -> Health {
        self.members[id.0].health
    }

    /// Marks the backend as failed. Returns whether that is new.
    pub fn fail(&mut self, id: BackendId) -> bool {
        let member = &mut self.members[id.0];
        let new = member.enabled && member.health == Health::Up;
        if new {
            member.health = Health::Failed;
        }
        new
    }

    /// Marks the backend as recovered. Returns whether it had failed.
    pub fn recover(&mut self, id: BackendId) -> bool {
        let failed = self.health(id) == Health::Failed;
        if failed {
            self.catch_up(id);
            self.members[id.0].health = Health::Up;
        }
        failed
    }

    /// Disables the backend and forgets its health. A pending timer or probe is ignored. Returns whether it was
    /// enabled.
    pub fn disable(&mut self, id: BackendId) -> bool {
        let member = &mut self.members[id.0];
        (member.health, member.awaited) = (Health::Up, Awaited::Nothing);
        std::mem::replace(&mut member.enabled, false)
    }

    /// Enables the backend. Returns whether it was disabled.
    pub fn enable(&mut self, id: BackendId) -> bool {
        let disabled = !self.is_enabled(id);
        if disabled {
            self.catch_up(id);
            self.members[id.0].enabled = true;
        }
        disabled
    }

    /// Raises the load of a returning backend to the smallest load of the others. Without this it would get every
    /// client until it had made up for the time it was away.
    fn catch_up(&mut self, id: BackendId) {
        let serves = |other: &BackendId| {
            let member = &self.members[other.0];
            *other != id && member.enabled && member.health == Health::Up
        };
        let others = self.group(self.members[id.0].group).members.iter().copied().filter(serves);
        let least = others.map(|other| self.members[other.0].load).reduce(Load::least);
        if let Some(least) = least {
            self.members[id.0].load = self.members[id.0].load.most(least);
        }
    }
}
