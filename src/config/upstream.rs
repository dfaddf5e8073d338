//! Whom clients may be sent to: backends in groups, groups in upstreams, and by which rules one of them is chosen. The
//! rules themselves are in `core::pool`.

use std::fmt;
use std::time::Duration;

use crate::endpoint::Endpoint;

/// What becomes of a client when each backend that could take it is at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// It waits, and those behind it whom somebody else can take go first.
    Wait,
    /// It is closed at once.
    Close,
}

/// How often a client is offered to all backends. Between two rounds it is held, and dropped when it has hung up.
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
    /// One that has no backends is passed over.
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

/// In which order a group offers its backends to a client. Those that are disabled or full, and those that refused
/// this client already, are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// The next one after the last one chosen.
    RoundRobin,
    /// As they are listed: the first one that can be used has all the load.
    InOrder,
    /// By the client's address: the same client gets the same backend. Who comes to a backend that fails is spread over
    /// the others; nobody else moves.
    ClientHash,
    /// Who has had the least so far; of those who had the same, the next one after the last one chosen.
    Least(Weights),
}

/// What "least" means. Each measure is taken as the backend's share of what its group has had, times its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weights {
    /// Of the number of dials so far.
    pub connections: u32,
    /// Of the bytes passed on so far, both ways together.
    pub bytes: u32,
    /// Of the time of all connections so far.
    pub time: u32,
}

/// Where a client goes when the backend it was given has refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failover {
    /// To the next one of the same group, and when there is none to the next group.
    WithinGroup,
    /// To a random other one of the same group, and when there is none to the next group.
    RandomOther,
    /// To the next group. A group that goes by the client's address has then exactly one backend for each client, and
    /// is passed over also when that one is disabled or full.
    NextGroup,
}

/// What a failed dial is remembered as. A backend that has *failed* is passed over as long as another one, of whatever
/// group, can take the client; when there is none it is tried all the same, and a connection brings it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailurePolicy {
    /// Nothing: the next client is offered it as before.
    Ignore,
    /// Failed for so long.
    AvoidFor(Duration),
    /// Failed until a probe (a connection that is closed again) succeeds. All are probed at the start, then one that
    /// has failed each time so much time has passed; `None` is never again.
    UntilProbed { every: Option<Duration> },
    /// Disabled until an operator enables it.
    Disable,
}

/// One endpoint clients are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub endpoint: Endpoint,
    /// The most clients it may have at once; `None` is no limit.
    pub limit: Option<u32>,
    /// Whether it takes clients at the start. An operator may change that.
    pub enabled: bool,
}

impl Upstream {
    /// The upstream that is one backend without a limit of its own.
    pub fn single(endpoint: Endpoint) -> Upstream {
        Upstream { groups: vec![Group::sharing(vec![endpoint], FailurePolicy::Ignore)] }
    }

    /// All backends, group by group.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.groups.iter().flat_map(|group| &group.backends)
    }

    /// Whether it is certainly the same servers, to be tried in the same order.
    pub fn is_same_as(&self, other: &Upstream) -> bool {
        let all_in = |these: &Group, those: &Group| {
            let known = |one: &Backend| those.backends.iter().any(|other| one.endpoint.is_same_place(&other.endpoint));
            these.backends.iter().all(known)
        };
        let pairs = || self.groups.iter().zip(&other.groups);
        self.groups.len() == other.groups.len() && pairs().all(|(one, other)| all_in(one, other) && all_in(other, one))
    }

    /// Those that are certainly backends of the other one, too.
    pub fn shared_with<'a>(&'a self, other: &Upstream) -> impl Iterator<Item = &'a Endpoint> {
        let others: Vec<_> = other.backends().map(|backend| backend.endpoint.clone()).collect();
        let is_shared = move |one: &&Endpoint| others.iter().any(|other| one.is_same_place(other));
        self.backends().map(|backend| &backend.endpoint).filter(is_shared)
    }

    /// The first backend: what a script, which has room for one address, is given.
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
    /// The group whose backends take turns, without limits.
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
