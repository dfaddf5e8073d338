//! The one configuration model: what the program needs to know, and nothing about how it was typed.
//!
//! Every field is required: a dialect (a file in `cli`) decides each value, so that a new field stops every dialect's
//! build until it has been thought about. No parsing, no defaults and no dialect's name here; values that could be
//! wrong were refused before they got here.

use std::path::PathBuf;
use std::time::Duration;

use crate::endpoint::Endpoint;

/// Everything one process runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one. Each has listeners, clients and an active upstream of its own.
    pub services: Vec<Service>,
    /// Where operators may talk to the first service.
    pub control: Control,
    pub log: Log,
}

/// Listeners, the upstreams its clients may be sent to, and its limits.
#[derive(Clone, Debug)]
pub struct Service {
    /// Names the listener threads.
    pub name: String,
    pub listeners: Vec<Endpoint>,
    /// The length given to `listen(2)`.
    pub backlog: i32,
    /// Threads that accept on each listener; at least one.
    pub accept_threads: usize,
    /// A connection that has been silent for so long is probed; `None` is never.
    pub keepalive: Option<Duration>,
    /// At least one; the one at index 0 is active at the start. A switchover goes from the active one to the next,
    /// and from the last one back to the first.
    pub upstreams: Vec<Upstream>,
    /// The values an operator may change while the service runs.
    pub settings: Settings,
    /// Started when the last client has left the old upstream; exit 0 lets the switchover succeed.
    pub script: Option<PathBuf>,
    /// How long one dial may take, all addresses of a name together.
    pub connect_timeout: Duration,
    /// How many dials may be under way at once. Bounds what a release of many held clients asks of a backend's accept
    /// queue, and what a backend that never answers can tie up.
    pub max_dials: usize,
    /// How long clients may go on after the program was told to stop.
    pub grace: Duration,
}

impl Service {
    /// All backends, upstream by upstream: the core's ids count them in this order.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.upstreams.iter().flat_map(Upstream::backends)
    }
}

/// An ordered list of groups, tried in turn for each client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// At least one.
    pub groups: Vec<Group>,
}

/// Backends that share the load under one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub policy: Policy,
    /// At least one.
    pub backends: Vec<Backend>,
}

/// How a group chooses among its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The next one after the last one chosen.
    RoundRobin,
}

/// One endpoint clients are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub endpoint: Endpoint,
    /// The most clients it may have at once; `None` is no limit.
    pub limit: Option<u32>,
}

impl Upstream {
    /// The upstream that is one backend without a limit of its own.
    pub fn single(endpoint: Endpoint) -> Upstream {
        let backends = vec![Backend { endpoint, limit: None }];
        Upstream { groups: vec![Group { policy: Policy::RoundRobin, backends }] }
    }

    /// All backends, group by group.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.groups.iter().flat_map(|group| &group.backends)
    }

    /// The first backend: what a row or a script with room for one address is given.
    pub fn first(&self) -> Option<&Endpoint> {
        self.backends().next().map(|backend| &backend.endpoint)
    }
}

/// The values an operator may change while the service runs. The ranges are in `settings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How long a switchover may take, script included. Zero makes each one fail at once.
    pub switch_max_time: Duration,
    /// A client that arrives while so many are held ends a running switchover.
    pub max_queued: u32,
    /// The most clients granted a backend at once; `None` is no throttle.
    pub max_open: Option<u32>,
    /// Interval of the progress rows of `switch`.
    pub switch_loop_wait: Duration,
    /// Initial size of a relay buffer, in bytes.
    pub net_buffer_size: usize,
}

/// One changed value of [`Settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    SwitchMaxTime(Duration),
    MaxQueued(u32),
    MaxOpen(Option<u32>),
    SwitchLoopWait(Duration),
    NetBufferSize(usize),
}

impl Settings {
    /// Stores one changed value.
    pub fn apply(&mut self, setting: Setting) {
        match setting {
            Setting::SwitchMaxTime(value) => self.switch_max_time = value,
            Setting::MaxQueued(value) => self.max_queued = value,
            Setting::MaxOpen(value) => self.max_open = value,
            Setting::SwitchLoopWait(value) => self.switch_loop_wait = value,
            Setting::NetBufferSize(value) => self.net_buffer_size = value,
        }
    }
}

/// Where operators may talk to the program.
#[derive(Clone, Debug)]
pub struct Control {
    /// Listeners of the control protocol, TCP or Unix.
    pub listeners: Vec<Endpoint>,
    /// Read commands from the terminal, when there is one.
    pub console: bool,
}

/// Where log lines go, and which.
#[derive(Clone, Debug)]
pub struct Log {
    pub target: LogTarget,
    pub level: log::LevelFilter,
}

/// Where log lines go.
#[derive(Clone, Debug)]
pub enum LogTarget {
    /// Appended to, reopened on SIGHUP.
    File(PathBuf),
    /// Nowhere: for a proxy inside another program (the demo, a test).
    Nowhere,
}
