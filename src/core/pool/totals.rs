//! Counters of each backend: once for people, and once for the policies that compare load. The two differ: an operator
//! may reset the first, and a returning backend is credited in the second.

use std::hash::{Hash, Hasher};

use super::Pool;
use crate::config::{Policy, Weights};
use crate::core::msg::{BackendId, Totals, Traffic};

/// Counters for people. No decision depends on them, so two states that differ only here are equal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters(pub Totals);

impl PartialEq for Counters {
    fn eq(&self, _: &Counters) -> bool {
        true
    }
}

impl Eq for Counters {}

impl Hash for Counters {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Counters {
    pub(super) fn add(&mut self, more: Traffic) {
        let totals = &mut self.0;
        totals.up = totals.up.saturating_add(more.up);
        totals.down = totals.down.saturating_add(more.down);
        totals.time = totals.time.saturating_add(more.time);
    }
}

/// The load that [`Policy::Least`] compares; zero under any other policy. Time is in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Load {
    pub connections: u64,
    pub bytes: u64,
    pub time: u64,
}

impl Load {
    pub(super) fn of(traffic: Traffic) -> Load {
        let time = u64::try_from(traffic.time.as_micros()).unwrap_or(u64::MAX);
        Load { connections: 0, bytes: traffic.up.saturating_add(traffic.down), time }
    }

    pub(super) fn plus(self, other: Load) -> Load {
        self.each(other, u64::saturating_add)
    }

    pub(super) fn least(self, other: Load) -> Load {
        self.each(other, u64::min)
    }

    pub(super) fn most(self, other: Load) -> Load {
        self.each(other, u64::max)
    }

    fn each(self, other: Load, what: fn(u64, u64) -> u64) -> Load {
        Load {
            connections: what(self.connections, other.connections),
            bytes: what(self.bytes, other.bytes),
            time: what(self.time, other.time),
        }
    }

    /// The weighted sum of this backend's shares of its group's `sum`, in units of 2^-32 of one weight. A measure whose
    /// sum is zero contributes nothing.
    pub(super) fn share_of(&self, sum: &Load, weights: Weights) -> u128 {
        let share = |own: u64, sum: u64, weight: u32| {
            (u128::from(own) << 32).checked_div(u128::from(sum)).unwrap_or(0) * u128::from(weight)
        };
        share(self.connections, sum.connections, weights.connections)
            + share(self.bytes, sum.bytes, weights.bytes)
            + share(self.time, sum.time, weights.time)
    }
}

impl Pool {
    /// Adds to the load that the policy of its group compares.
    pub(super) fn add_load(&mut self, id: BackendId, more: Load) {
        match self.group(self.members[id.0].group).policy {
            Policy::Least(_) => self.members[id.0].load = self.members[id.0].load.plus(more),
            Policy::RoundRobin | Policy::InOrder | Policy::ClientHash => {}
        }
    }
}
