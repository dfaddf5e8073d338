//! Pools of all kinds, and what operators do to them, at random.

use std::time::Duration;

use cbpx::config::{Failover, FailurePolicy, Policy, RetryPolicy, Weights, WhenFull};
use cbpx::core::msg::{BackendId, Change, EndpointId, GroupId, UpstreamId};

use crate::core_support::{Habit, TURNS};
use crate::random::Random;

/// What is only decided where backends have limits, fail and are changed: all of it is reached.
pub const REACHABLE_WITH_POOLS: [&str; 13] = [
    "Full",
    "Paused",
    "Probe",
    "Assign",
    "BackendFailed",
    "BackendBack",
    "BackendDisabled",
    "Created",
    "NoSuchBackend",
    "NoSuchGroup",
    "AlreadyEnabled",
    "AlreadyDisabled",
    "NotDisabled",
];

/// A pool of any kind.
pub fn habit(random: &mut Random) -> Habit {
    let weights =
        Weights { connections: random.below(3) as u32, bytes: random.below(3) as u32, time: random.below(3) as u32 };
    let policies = [Policy::RoundRobin, Policy::InOrder, Policy::ClientHash, Policy::Least(weights)];
    let memories = [
        FailurePolicy::Ignore,
        FailurePolicy::AvoidFor(Duration::from_secs(7)),
        FailurePolicy::UntilProbed { every: Some(Duration::from_secs(11)) },
        FailurePolicy::UntilProbed { every: None },
        FailurePolicy::Disable,
    ];
    let failovers = [Failover::WithinGroup, Failover::RandomOther, Failover::NextGroup];
    Habit {
        policy: random.pick(&policies).unwrap_or(TURNS.policy),
        failover: random.pick(&failovers).unwrap_or(TURNS.failover),
        failure_policy: random.pick(&memories).unwrap_or(TURNS.failure_policy),
        when_full: random.pick(&[WhenFull::Wait, WhenFull::Close]).unwrap_or(TURNS.when_full),
        retry: RetryPolicy { most: 1 + random.below(3) as u32, pause: Duration::from_millis(50) },
        disabled: random.pick(&[&[][..], &[0], &[1, 2]]).unwrap_or(&[]),
    }
}

/// Mostly about backends and groups that there are. There are this many backends.
pub fn change(random: &mut Random, known: usize) -> Change {
    let id = BackendId(random.below(known as u64 + 1) as usize);
    let group = GroupId { upstream: UpstreamId(random.below(2) as usize), index: random.below(3) as usize };
    let endpoint = EndpointId(random.below(5) as usize);
    let Habit { policy, failover, .. } = habit(random);
    let limit = random.pick(&[None, Some(2), Some(20)]).flatten();
    let mut some = vec![
        Change::Enable(id),
        Change::Enable(id),
        Change::Enable(id),
        Change::Disable(id),
        Change::SetEndpoint(id, endpoint),
        Change::Limit(id, limit),
        Change::Reset(id),
        Change::Policy(group, policy, failover),
    ];
    some.extend((known < 12).then_some(Change::Create(group, endpoint)));
    random.pick(&some).unwrap_or(Change::Reset(id))
}
