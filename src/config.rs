//! The one configuration model: what the program needs to know, and nothing about how it was typed.
//!
//! Every field is required: a dialect (a file in `cli`) decides each value, so that a new field stops every dialect's
//! build until it has been thought about. No parsing, no defaults and no dialect's name here; values that could be
//! wrong were refused before they got here.

mod process;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use self::process::{Log, LogStyle, LogTarget, OnHangup, OnInterrupt, Process, Statuses};
use crate::endpoint::Endpoint;

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
    /// How often a client is offered to all backends before it is turned away.
    pub rounds: Rounds,
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
    pub source: Option<IpAddr>,
    /// How long one dial may take, all addresses of a name together; [`AS_LONG_AS_IT_TAKES`] is as long as the system's.
    pub connect_timeout: Duration,
    /// What a backend means that has no address at the start.
    pub unresolved: Unresolved,
    /// A connection that has been silent for so long is probed; `None` is never.
    pub keepalive: Option<Duration>,
    /// A client is closed when no byte has passed either way for so long.
    pub idle_timeout: Option<Duration>,
    /// Everything that passes is shown on standard output.
    pub show_bytes: bool,
}

impl Network {
    /// Sockets as they come: for programs that bring their own servers (the demo, a test). A dialect decides each value.
    pub fn plain() -> Network {
        Network {
            backlog: 512,
            accept_threads: 1,
            share_port: false,
            bind_retry: None,
            first_bytes: 0,
            source: None,
            connect_timeout: Duration::from_secs(5),
            unresolved: Unresolved::Error,
            keepalive: None,
            idle_timeout: None,
            show_bytes: false,
        }
    }
}

/// What a backend means that has no address at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
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
pub struct Rounds {
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
    pub memory: Memory,
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
    /// To the next group. A group that goes by the client's address has then exactly one backend for each client, and is
    /// passed over also when that one is disabled or full.
    NextGroup,
}

/// What a failed dial is remembered as. A backend that has *failed* is passed over as long as another one, of whatever
/// group, can take the client; when there is none it is tried all the same, and a connection brings it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// Nothing: the next client is offered it as before.
    Nothing,
    /// Failed for so long.
    For(Duration),
    /// Failed until a probe (a connection that is closed again) succeeds. All are probed at the start, then one that has
    /// failed each time so much time has passed; `None` is never again.
    UntilProbed { every: Option<Duration> },
    /// Disabled until an operator enables it.
    Disabled,
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
        Upstream { groups: vec![Group::sharing(vec![endpoint], Memory::Nothing)] }
    }

    /// All backends, group by group.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.groups.iter().flat_map(|group| &group.backends)
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
    pub fn sharing(endpoints: Vec<Endpoint>, memory: Memory) -> Group {
        let backend = |endpoint| Backend { endpoint, limit: None, enabled: true };
        Group {
            policy: Policy::RoundRobin,
            failover: Failover::WithinGroup,
            memory,
            backends: endpoints.into_iter().map(backend).collect(),
        }
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
