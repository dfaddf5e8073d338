//! What is remembered about a backend: whether an operator lets it be used, and whether it has failed. When somebody
//! looks again is arranged by `core::backends`, which has the timers.

use super::{Load, Pool};
use crate::config::FailurePolicy;
use crate::core::msg::{BackendId, TimerId};

/// What the last attempts say about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing is known against it.
    Up,
    /// It is passed over while there is another.
    Failed,
}

/// What may change a backend's health without a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    Nothing,
    /// This timer, upon which the failure is forgotten or a probe begins.
    Timer(TimerId),
    /// The end of a probe.
    Probe,
}

impl Pool {
    /// What a failed dial of this backend is remembered as.
    pub fn failure_policy(&self, id: BackendId) -> FailurePolicy {
        self.group(self.members[id.0].group).failure_policy
    }

    pub fn awaited(&self, id: BackendId) -> Awaited {
        self.members[id.0].awaited
    }

    pub fn set_awaited(&mut self, id: BackendId, awaited: Awaited) {
        self.members[id.0].awaited = awaited;
    }

    /// Whose timer this is.
    pub fn awaiting(&self, timer: TimerId) -> Option<BackendId> {
        self.ids().find(|id| self.awaited(*id) == Awaited::Timer(timer))
    }

    pub fn is_enabled(&self, id: BackendId) -> bool {
        self.members[id.0].enabled
    }

    pub fn health(&self, id: BackendId) -> Health {
        self.members[id.0].health
    }

    /// The backend has failed. Whether that is new.
    pub fn fail(&mut self, id: BackendId) -> bool {
        let member = &mut self.members[id.0];
        let new = member.enabled && member.health == Health::Up;
        if new {
            member.health = Health::Failed;
        }
        new
    }

    /// The failure is over. Whether there was one.
    pub fn recover(&mut self, id: BackendId) -> bool {
        let failed = self.health(id) == Health::Failed;
        if failed {
            self.catch_up(id);
            self.members[id.0].health = Health::Up;
        }
        failed
    }

    /// Whether it was enabled. What was known about its health is forgotten, and nothing is awaited any more.
    pub fn disable(&mut self, id: BackendId) -> bool {
        let member = &mut self.members[id.0];
        (member.health, member.awaited) = (Health::Up, Awaited::Nothing);
        std::mem::replace(&mut member.enabled, false)
    }

    /// Whether it was disabled.
    pub fn enable(&mut self, id: BackendId) -> bool {
        let disabled = !self.is_enabled(id);
        if disabled {
            self.catch_up(id);
            self.members[id.0].enabled = true;
        }
        disabled
    }

    /// A backend that comes back starts with what the others have had at least: else it would get every client until it
    /// had caught up with the time it was away.
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
