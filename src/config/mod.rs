//! The configuration model: what the program needs to know, independent of how it was typed.
//!
//! Every field is required: each dialect (a folder in `dialects`) decides each value, so a new field breaks the build
//! of every dialect until it does. No parsing, no defaults and no dialect's name here; invalid values were rejected
//! before.

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
    /// At least one. Each has its own listeners, clients and active upstream.
    pub services: Vec<Service>,
    /// Where operators control the first service.
    pub control: Control,
    pub log: Log,
    /// One line per closed client, in the format of web servers. The file is opened for appending and reopened together
    /// with the log.
    pub access_log: Option<PathBuf>,
    pub process: Process,
}

/// Listeners, upstreams and limits.
#[derive(Clone, Debug)]
pub struct Service {
    /// Part of the names of the listener threads.
    pub name: String,
    pub listeners: Vec<Endpoint>,
    pub network: Network,
    /// At least one; the first is active at the start. A switchover goes to the next one, and from the last back to the
    /// first.
    pub upstreams: Vec<Upstream>,
    /// The values that an operator can change while the service runs.
    pub settings: Settings,
    /// Run when the last client has left the old upstream; the switchover succeeds only if it exits with 0.
    pub script: Option<PathBuf>,
    /// What happens to a client when every backend that could take it is at its limit.
    pub when_full: WhenFull,
    /// How often a client is offered to all backends before it is rejected.
    pub retry: RetryPolicy,
    /// Seed of the random choices: the same seed gives the same choices.
    pub seed: u64,
    /// Maximum number of dials in progress. It limits how fast released clients fill a backend's accept queue, and what
    /// an unresponsive backend ties up.
    pub max_dials: usize,
    /// Time for clients to finish after the program was told to stop; [`AS_LONG_AS_IT_TAKES`]: no limit.
    pub grace: Duration,
}

/// Every socket holds this many bytes before anybody reads them.
pub const MOST_FIRST_BYTES: usize = 32 * 1024;

/// A hundred years.
pub const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Options of a service's sockets; they do not influence decisions about clients.
#[derive(Clone, Debug)]
pub struct Network {
    /// The length passed to `listen(2)`; `i32::MAX` selects the system's maximum.
    pub backlog: i32,
    /// Threads that accept on each listener; at least one.
    pub accept_threads: usize,
    /// Several processes may listen on one address; the system distributes new clients over them.
    pub share_port: bool,
    /// Interval of retries if a listener cannot be bound; `None`: an error at the start.
    pub bind_retry: Option<Duration>,
    /// A client counts as arrived once it has sent this many bytes, which are relayed like all others; at most
    /// [`MOST_FIRST_BYTES`].
    pub first_bytes: usize,
    /// Source address of connections to backends.
    pub source: Option<Source>,
    /// Time limit of one dial, over all addresses of a name; [`AS_LONG_AS_IT_TAKES`] leaves the limit to the system.
    pub connect_timeout: Duration,
    /// How a backend without an address at the start is treated.
    pub unresolved: OnUnresolved,
    /// A connection that has been silent this long is probed; `None`: never.
    pub keepalive: Option<Duration>,
    /// A client is closed after this time without a byte in either direction.
    pub idle_timeout: Option<Duration>,
    /// Show all transferred bytes on standard output.
    pub show_bytes: bool,
}

impl Network {
    /// Plain sockets, for programs that bring their own servers (the demo, a test). Dialects decide each value
    /// themselves.
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

/// How a backend without an address at the start is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnresolved {
    /// An error: the program does not start.
    Error,
    /// It is unreachable until its name has an address. Also used for an endpoint that is malformed
    /// ([`Endpoint::Malformed`]).
    Unreachable,
}

impl Service {
    /// All backends, upstream by upstream. The core's ids count in this order.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.upstreams.iter().flat_map(Upstream::backends)
    }

    /// Whether a choice depends on the traffic of connections that are still open.
    pub fn goes_by_flow(&self) -> bool {
        self.upstreams.iter().flat_map(|upstream| &upstream.groups).any(|group| match group.policy {
            Policy::Least(weights) => weights.bytes > 0 || weights.time > 0,
            Policy::RoundRobin | Policy::InOrder | Policy::ClientHash => false,
        })
    }
}

/// The values that an operator can change while the service runs. `settings` has their ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Maximum duration of a switchover, including its script. Zero makes every switchover fail at once.
    pub switch_max_time: Duration,
    /// A client that arrives while this many are held makes a running switchover fail.
    pub max_queued: u32,
    /// Maximum number of clients assigned at once; `None`: no limit.
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

/// Where and how operators control the program.
#[derive(Clone, Debug)]
pub struct Control {
    /// Listeners of the control protocol, TCP or Unix.
    pub listeners: Vec<Endpoint>,
    /// Read commands from the terminal, if there is one.
    pub console: bool,
    pub words: Commands,
    /// Directory shared by the Unix sockets of several instances. If it is missing it is created, writable for
    /// everybody.
    pub directory: Option<PathBuf>,
}

/// The set of control commands and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands {
    /// Commands that move the service from one upstream to the next: `switch`, `stats`, `set`. Available until the
    /// program ends.
    Switchover,
    /// Commands that show and change the backends of the first upstream, group by group: `show`, `disable`, `create`.
    /// Available only while clients are accepted, because a new instance may then take over the address and the
    /// socket's name.
    Backends {
        /// Used by a group that is switched to hashing the client's address.
        hash_failover: Failover,
    },
}
