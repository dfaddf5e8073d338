//! What `tests/model.rs` and `tests/sim.rs` share: services to try, and the witness that judges every decision.

pub mod account;
mod change;
mod ending;
pub mod events;
pub mod evidence;
mod failures;
mod judge;
pub mod mutations;
pub mod stock;
pub mod witness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use cbpx::config::{
    Backend, Failover, FailurePolicy, Group, Network, Policy, RetryPolicy, Service, Settings, Upstream, WhenFull,
};
use cbpx::core::State;
use cbpx::core::msg::{Action, ClientHash, ClientId, Event, Traffic, UpstreamId};
use cbpx::endpoint::Endpoint;

/// The limits of the backends of each upstream, group by group.
pub type Shape = &'static [&'static [&'static [Option<u32>]]];

/// One backend in each of two upstreams: what an operator of cbpx has.
pub const PLAIN: Shape = &[&[&[None]], &[&[None]]];

/// How all groups of a service choose, and what becomes of those who are refused.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    pub policy: Policy,
    pub failover: Failover,
    pub failure_policy: FailurePolicy,
    pub when_full: WhenFull,
    pub retry: RetryPolicy,
    /// Backends that are disabled at the start.
    pub disabled: &'static [usize],
}

/// What an operator of cbpx has.
pub const TURNS: Habit = Habit {
    policy: Policy::RoundRobin,
    failover: Failover::WithinGroup,
    failure_policy: FailurePolicy::Ignore,
    when_full: WhenFull::Wait,
    retry: RetryPolicy { most: 1, pause: Duration::ZERO },
    disabled: &[],
};

/// The part of a service that never changes, as the witness sees it.
pub struct Rules {
    pub shape: Shape,
    pub habit: Habit,
    pub script: bool,
    pub grace: Duration,
    pub max_dials: usize,
    pub max_clients: usize,
}

/// What a test chooses about a service.
#[derive(Clone, Copy)]
pub struct Choice {
    pub shape: Shape,
    pub habit: Habit,
    pub script: bool,
    pub max_open: Option<u32>,
    pub max_queued: u32,
    pub max_dials: usize,
    pub max_clients: usize,
}

impl Choice {
    pub fn core(&self) -> State {
        State::new(&self.service(), self.max_clients)
    }

    pub fn rules(&self) -> Rules {
        Rules {
            shape: self.shape,
            habit: self.habit,
            script: self.script,
            grace: GRACE,
            max_dials: self.max_dials,
            max_clients: self.max_clients,
        }
    }

    pub fn settings(&self) -> Settings {
        Settings {
            switch_max_time: Duration::from_secs(5),
            max_queued: self.max_queued,
            max_open: self.max_open,
            switch_loop_wait: Duration::from_secs(1),
            net_buffer_size: 16384,
            thread_pairs: 256,
        }
    }

    fn service(&self) -> Service {
        let mut number = 0..;
        let mut backend = |limit: &Option<u32>| Backend {
            endpoint: Endpoint::tcp("h", 1),
            limit: *limit,
            enabled: number.next().is_none_or(|number| !self.habit.disabled.contains(&number)),
        };
        let mut group = |limits: &&[Option<u32>]| Group {
            policy: self.habit.policy,
            failover: self.habit.failover,
            failure_policy: self.habit.failure_policy,
            backends: limits.iter().map(&mut backend).collect(),
        };
        let mut upstream = |groups: &&[&[Option<u32>]]| Upstream { groups: groups.iter().map(&mut group).collect() };
        Service {
            name: "test".to_owned(),
            listeners: Vec::new(),
            network: Network::plain(),
            upstreams: self.shape.iter().map(&mut upstream).collect(),
            settings: self.settings(),
            script: self.script.then(|| "/promote".into()),
            max_dials: self.max_dials,
            when_full: self.habit.when_full,
            retry: self.habit.retry,
            seed: 1,
            grace: GRACE,
        }
    }
}

impl Rules {
    pub fn next(&self, active: UpstreamId) -> UpstreamId {
        UpstreamId((active.0 + 1) % self.shape.len())
    }
}

/// The clients of a test come from four addresses.
pub fn hash_of(client: ClientId) -> ClientHash {
    ClientHash(client.0 % 4)
}

/// What a connection had until now, so that each differs from the others.
pub fn traffic_of(client: ClientId) -> Traffic {
    let number = client.0 % 4;
    Traffic { up: 10 + number, down: 100 * number, time: Duration::from_millis(1 + number) }
}

/// Tells the core. The error is the message of the assertion of its own that failed; it makes its assertions last, so
/// the state and the actions are complete even then.
pub fn tell(core: &mut State, event: Event, actions: &mut Vec<Action>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| core.handle(event, actions))).map_err(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        words.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned())).unwrap_or_default()
    })
}

const GRACE: Duration = Duration::from_secs(6);
