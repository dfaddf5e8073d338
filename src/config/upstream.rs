//! Where clients may be sent: backends in groups, groups in upstreams, and the rules for choosing one. `core::pool`
//! implements the rules.

use std::fmt;
use std::time::Duration;

use crate::endpoint::Endpoint;

/// What happens to a client when every backend that could take it is at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// It waits. Clients behind it that another backend can take are served first.
    Wait,
    /// It is closed at once.
    Close,
}

/// How often a client is offered to all backends. Between two rounds it is held, and dropped if it hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// At least one.
    pub most: u32,
    /// How long the client waits between two rounds.
    pub pause: Duration,
}

/// An ordered list of groups, tried in turn for each client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// A group without backends is skipped.
    pub groups: Vec<Group>,
}

/// Backends that share the load under one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub policy: Policy,
    pub failover: Failover,
    pub failure_policy: FailurePolicy,
    pub backends: Vec<Backend>,
}

/// The order in which a group offers its backends to a client. Backends that are disabled, full, or have refused this
/// client are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// In turn, beginning after the one chosen last.
    RoundRobin,
    /// As listed: the first usable backend takes all the load.
    InOrder,
    /// By a hash of the client's address: the same client gets the same backend. When a backend fails its clients are
    /// spread over the others; no other client moves.
    ClientHash,
    /// The least loaded backend so far; among equals, the next one after the one chosen last.
    Least(Weights),
}

/// Weights of the load measures. Each measure is the backend's share of its group's total, times its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weights {
    /// Weight of the number of dials so far.
    pub connections: u32,
    /// Weight of the bytes relayed so far, in both directions.
    pub bytes: u32,
    /// Weight of the total duration of connections so far.
    pub time: u32,
}

/// Where a client goes when the backend assigned to it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failover {
    /// To the next backend of the group; if there is none, to the next group.
    WithinGroup,
    /// To another backend of the group, chosen at random; if there is none, to the next group.
    RandomOther,
    /// To the next group. A hash group then has exactly one backend for each client, and is skipped also if that
    /// backend is disabled or full.
    NextGroup,
}

/// What a failed dial is remembered as. A backend that has *failed* is passed over as long as another one, of whatever
/// group, can take the client; when there is none it is tried all the same, and a connection brings it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailurePolicy {
    /// Nothing: the backend is offered as before.
    Ignore,
    /// It counts as failed for this long.
    AvoidFor(Duration),
    /// It counts as failed until a probe (a connection that is closed at once) succeeds. All backends are probed at the
    /// start; failed ones are probed again at this interval; `None`: never again.
    UntilProbed { every: Option<Duration> },
    /// It is disabled until an operator enables it.
    Disable,
}

/// One endpoint that clients are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub endpoint: Endpoint,
    /// Maximum number of clients at once; `None`: no limit.
    pub limit: Option<u32>,
    /// Whether it is enabled at the start. An operator can change that.
    pub enabled: bool,
}

impl Upstream {
    /// An upstream of one backend without a limit.
    pub fn single(endpoint: Endpoint) -> Upstream {
        Upstream { groups: vec![Group::sharing(vec![endpoint], FailurePolicy::Ignore)] }
    }

    /// All backends, group by group.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.groups.iter().flat_map(|group| &group.backends)
    }

    /// Whether both are certainly the same servers in the same order.
    pub fn is_same_as(&self, other: &Upstream) -> bool {
        let all_in = |these: &Group, those: &Group| {
            let known = |one: &Backend| those.backends.iter().any(|other| one.endpoint.is_same_place(&other.endpoint));
            these.backends.iter().all(known)
        };
        let pairs = || self.groups.iter().zip(&other.groups);
        self.groups.len() == other.groups.len() && pairs().all(|(one, other)| all_in(one, other) && all_in(other, one))
    }

    /// Backends that are certainly also in the other upstream.
    pub fn shared_with<'a>(&'a self, other: &Upstream) -> impl Iterator<Item = &'a Endpoint> {
        let others: Vec<_> = other.backends().map(|backend| backend.endpoint.clone()).collect();
        let is_shared = move |one: &&Endpoint| others.iter().any(|other| one.is_same_place(other));
        self.backends().map(|backend| &backend.endpoint).filter(is_shared)
    }

    /// The first backend: the one whose address a script gets.
    pub fn first(&self) -> Option<&Endpoint> {
        self.backends().next().map(|backend| &backend.endpoint)
    }
}

/// Backends separated by `,` and groups by `!`, without a space.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, group) in self.groups.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { "!" })?;
            for (number, backend) in group.backends.iter().enumerate() {
                write!(f, "{}{}", if number == 0 { "" } else { "," }, backend.endpoint)?;
            }
        }
        Ok(())
    }
}

impl Group {
    /// A group of backends without limits that are used in turn.
    pub fn sharing(endpoints: Vec<Endpoint>, failure_policy: FailurePolicy) -> Group {
        let backend = |endpoint| Backend { endpoint, limit: None, enabled: true };
        Group {
            policy: Policy::RoundRobin,
            failover: Failover::WithinGroup,
            failure_policy,
            backends: endpoints.into_iter().map(backend).collect(),
        }
    }
}
