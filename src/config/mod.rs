//! The one configuration model: what the program needs to know, and nothing about how it was typed.
//!
//! Every field is required: a dialect (a file in `cli`) decides each value, so that a new field stops every dialect's
//! build until it has been thought about. No parsing, no defaults and no dialect's name here; values that could be
//! wrong were refused before they got here.

mod process;
mod upstream;

use std::path::PathBuf;
use std::time::Duration;

pub use self::process::{Log, LogStyle, LogTarget, OnHangup, OnInterrupt, Process, Statuses};
pub use self::upstream::{Backend, Failover, FailurePolicy, Group, Policy, RetryPolicy, Upstream, Weights, WhenFull};

use crate::endpoint::{Endpoint, Source};

/// Everything one process runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one. Each has listeners, clients and an active upstream of its own.
    pub services: Vec<Service>,
    /// Where operators may talk to the first service.
    pub control: Control,
    pub log: Log,
    /// One line for each client that has gone, in the layout of web servers; appended to, opened again with the log.
    pub access_log: Option<PathBuf>,
    pub process: Process,
}

/// Listeners, the upstreams its clients may be sent to, and its limits.
#[derive(Clone, Debug)]
pub struct Service {
    /// Names the listener threads.
    pub name: String,
    pub listeners: Vec<Endpoint>,
    pub network: Network,
    /// At least one; the one at index 0 is active at the start. A switchover goes from the active one to the next,
    /// and from the last one back to the first.
    pub upstreams: Vec<Upstream>,
    /// The values an operator may change while the service runs.
    pub settings: Settings,
    /// Started when the last client has left the old upstream; exit 0 lets the switchover succeed.
    pub script: Option<PathBuf>,
    /// What becomes of a client when each backend that could take it is at its limit.
    pub when_full: WhenFull,
    /// How often a client is offered to all backends before it is rejected.
    pub retry: RetryPolicy,
    /// What random choices begin with: the same seed, the same choices.
    pub seed: u64,
    /// How many dials may be under way at once. Bounds what a release of many held clients asks of a backend's accept
    /// queue, and what a backend that never answers can tie up.
    pub max_dials: usize,
    /// How long clients may go on after the program was told to stop; [`AS_LONG_AS_IT_TAKES`] is no limit.
    pub grace: Duration,
}

/// What fits into every socket while nobody reads it.
pub const MOST_FIRST_BYTES: usize = 32 * 1024;

/// A hundred years.
pub const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What concerns a service's sockets, and nothing that is decided about its clients.
#[derive(Clone, Debug)]
pub struct Network {
    /// The length given to `listen(2)`; `i32::MAX` is the system's maximum.
    pub backlog: i32,
    /// Threads that accept on each listener; at least one.
    pub accept_threads: usize,
    /// Several processes may listen on one address, and the system spreads new clients over them.
    pub share_port: bool,
    /// A listener that cannot be bound is tried again so often; `None` is an error at the start.
    pub bind_retry: Option<Duration>,
    /// A client counts as arrived once it has sent so many bytes, which are passed on like all others; at most
    /// [`MOST_FIRST_BYTES`].
    pub first_bytes: usize,
    /// Where connections to backends come from.
    pub source: Option<Source>,
    /// How long one dial may take, all addresses of a name together; [`AS_LONG_AS_IT_TAKES`] is as long as the
    /// system's.
    pub connect_timeout: Duration,
    /// What a backend means that has no address at the start.
    pub unresolved: OnUnresolved,
    /// A connection that has been silent for so long is probed; `None` is never.
    pub keepalive: Option<Duration>,
    /// A client is closed when no byte has passed either way for so long.
    pub idle_timeout: Option<Duration>,
    /// Everything that passes is shown on standard output.
    pub show_bytes: bool,
}

impl Network {
    /// Sockets as they come: for programs that bring their own servers (the demo, a test). A dialect decides each
    /// value.
    pub fn plain() -> Network {
        Network {
            backlog: 4096,
            accept_threads: 1,
            share_port: false,
            bind_retry: None,
            first_bytes: 0,
            source: None,
            connect_timeout: Duration::from_secs(5),
            unresolved: OnUnresolved::Error,
            keepalive: None,
            idle_timeout: None,
            show_bytes: false,
        }
    }
}

/// What a backend means that has no address at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnresolved {
    /// An error: the program does not start.
    Error,
    /// A backend that cannot be reached until its name has an address; also one whose endpoint is none at all
    /// ([`Endpoint::Malformed`]).
    Unreachable,
}

impl Service {
    /// All backends, upstream by upstream: the core's ids count them in this order.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.upstreams.iter().flat_map(Upstream::backends)
    }

    /// Whether a choice depends on what has passed through connections that are still open.
    pub fn goes_by_flow(&self) -> bool {
        self.upstreams.iter().flat_map(|upstream| &upstream.groups).any(|group| match group.policy {
            Policy::Least(weights) => weights.bytes > 0 || weights.time > 0,
            Policy::RoundRobin | Policy::InOrder | Policy::ClientHash => false,
        })
    }
}

/// The values an operator may change while the service runs. The ranges are in `settings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How long a switchover may take, script included. Zero makes each one fail at once.
    pub switch_max_time: Duration,
    /// A client that arrives while so many are held ends a running switchover.
    pub max_queued: u32,
    /// The most clients assigned a backend at once; `None` is no throttle.
    pub max_open: Option<u32>,
    /// Interval of the progress rows of `switch`.
    pub switch_loop_wait: Duration,
    /// Initial size of a relay buffer, in bytes.
    pub net_buffer_size: usize,
    /// The most clients at once that have a pair of threads of their own; the others share threads. Counts for clients
    /// to come.
    pub thread_pairs: usize,
}

/// One changed value of [`Settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    SwitchMaxTime(Duration),
    MaxQueued(u32),
    MaxOpen(Option<u32>),
    SwitchLoopWait(Duration),
    NetBufferSize(usize),
    ThreadPairs(usize),
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
            Setting::ThreadPairs(value) => self.thread_pairs = value,
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
    pub words: Commands,
    /// Where the Unix sockets of several programs lie together: made, for everybody to use, if it is missing.
    pub directory: Option<PathBuf>,
}

/// What operators say, and what they are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands {
    /// The service is moved from one upstream to the next: `switch`, `stats`, `set`. Heard until the program ends.
    Switchover,
    /// The backends of its first upstream are looked at and changed, group by group: `show`, `disable`, `create`. Heard
    /// as long as clients are accepted: then somebody else may take over the address, and the name of its control.
    Backends {
        /// Of a group that is told to go by the client's address from now on.
        hash_failover: Failover,
    },
}
