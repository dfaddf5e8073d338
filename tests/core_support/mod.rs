//! What `tests/model.rs` and `tests/sim.rs` share: services to try, and the witness that judges every decision.

pub mod account;
pub mod events;
pub mod evidence;
mod judge;
pub mod mix;
pub mod mutations;
pub mod witness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use cbpx::config::{Backend, Group, Policy, Service, Settings, Upstream};
use cbpx::core::State;
use cbpx::core::msg::{Action, BackendId, Event, UpstreamId};
use cbpx::endpoint::Endpoint;

/// The limits of the backends of each upstream, group by group.
pub type Shape = &'static [&'static [&'static [Option<u32>]]];

/// One backend in each of two upstreams: what an operator of cbpx has.
pub const PLAIN: Shape = &[&[&[None]], &[&[None]]];

/// The part of a service that never changes, as the witness sees it.
pub struct Rules {
    /// Backends by upstream and group.
    pub backends: Vec<Vec<Vec<BackendId>>>,
    /// Indexed by backend.
    pub limits: Vec<Option<u32>>,
    pub script: bool,
    pub grace: Duration,
    pub max_dials: usize,
    pub max_clients: usize,
}

/// What a test chooses about a service.
#[derive(Clone, Copy)]
pub struct Choice {
    pub shape: Shape,
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
        let mut limits = Vec::new();
        let mut numbered = |group: &&[Option<u32>]| -> Vec<BackendId> {
            let first = limits.len();
            limits.extend_from_slice(group);
            (first..limits.len()).map(BackendId).collect()
        };
        let backends = self.shape.iter().map(|groups| groups.iter().map(&mut numbered).collect()).collect();
        Rules {
            backends,
            limits,
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
        }
    }

    fn service(&self) -> Service {
        let backend = |limit: &Option<u32>| Backend { endpoint: Endpoint::tcp("h", 1), limit: *limit };
        let group = |limits: &&[Option<u32>]| Group {
            policy: Policy::RoundRobin,
            backends: limits.iter().map(backend).collect(),
        };
        Service {
            name: "test".to_owned(),
            listeners: Vec::new(),
            backlog: 1,
            accept_threads: 1,
            keepalive: None,
            upstreams: self
                .shape
                .iter()
                .map(|groups| Upstream { groups: groups.iter().map(group).collect() })
                .collect(),
            settings: self.settings(),
            script: self.script.then(|| "/promote".into()),
            connect_timeout: Duration::from_secs(5),
            max_dials: self.max_dials,
            grace: GRACE,
        }
    }
}

impl Rules {
    pub fn next(&self, active: UpstreamId) -> UpstreamId {
        UpstreamId((active.0 + 1) % self.backends.len())
    }

    /// All backends of an upstream.
    pub fn of(&self, upstream: UpstreamId) -> impl Iterator<Item = BackendId> {
        self.backends[upstream.0].iter().flatten().copied()
    }
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
