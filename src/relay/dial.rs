//! The connection attempt of one client to its backend: the addresses of the backend's name are tried in turn, within
//! one time limit. Never blocks: the owner of a dial watches its socket and the clock, and calls [`Dial::step`] after
//! an event on either.
//!
//! [`Dial::begin`] starts the first connect at once, so that connects start in the order in which clients were released
//! (promise 3). A dial does not read a byte of the client.

use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::core::msg::DialFailure;
use crate::endpoint::{Address, Source};
use crate::net::errno::{is, is_shortage};
use crate::net::{Own, Stream, StreamOptions, has_way_to};

/// A dial in progress.
#[derive(Debug)]
pub struct Dial {
    addresses: Arc<[Address]>,
    /// Index of the address being tried.
    at: usize,
    /// The time limit for all addresses together.
    deadline: Instant,
    dial_options: DialOptions,
    current: DialState,
}

/// The options of a service's dials.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// The time limit for all addresses of a name together.
    pub timeout: Duration,
    /// The source address of connections; `None` lets the system choose.
    pub source: Option<Source>,
    pub tuning: StreamOptions,
    /// The addresses of this process, to which no client is connected.
    pub own: Own,
}

/// The state of the address being tried.
#[derive(Debug)]
enum DialState {
    Connecting {
        stream: Stream,
        until: Instant,
    },
    /// The queue of a Unix listener is full. The connect is tried again at this time.
    Full {
        again: Instant,
    },
    /// This address has failed.
    Failed(io::Error),
}

/// Why [`Dial::step`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The socket is connected or has failed.
    Stirred,
    /// The dial has just been started, or the time it waited for is over.
    Clock,
}

/// The progress of a dial.
#[derive(Debug)]
pub enum DialProgress {
    /// No change: wait for the socket, at most until this time.
    Waits(Instant),
    /// The same, but on another socket than before, if there is one ([`Dial::stream`]).
    WaitsAnew(Instant),
    Connected(Stream, Address),
    /// All addresses have failed. The error is that of the last one.
    Failed(io::Error),
}

/// The pause before a connect to a Unix listener with a full queue is tried again. It has to be polled: a connect that
/// does not block fails when the queue is full, and no event follows when it is not full any more.
const FULL: Duration = Duration::from_millis(5);

impl Dial {
    /// Starts to connect to the first address. The first `step` tells the result.
    pub fn begin(addresses: Arc<[Address]>, dial_options: DialOptions) -> Dial {
        let now = Instant::now();
        let current = DialState::Failed(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
        let mut dial = Dial { addresses, at: 0, deadline: now + dial_options.timeout, dial_options, current };
        dial.connect(now);
        dial
    }

    /// The socket that is connecting.
    pub fn stream(&self) -> Option<&Stream> {
        match &self.current {
            DialState::Connecting { stream, .. } => Some(stream),
            DialState::Full { .. } | DialState::Failed(_) => None,
        }
    }

    /// Advances as far as possible, to the next address when one has failed. The dial is over after `Connected` or
    /// `Failed`.
    pub fn step(&mut self, wakeup: Wakeup, now: Instant) -> DialProgress {
        let mut anew = false;
        loop {
            let over = DialState::Failed(io::ErrorKind::NotConnected.into());
            let error = match mem::replace(&mut self.current, over) {
                // The event was for the previous socket.
                DialState::Connecting { stream, until } if anew => {
                    self.current = DialState::Connecting { stream, until };
                    return DialProgress::WaitsAnew(until);
                }
                DialState::Connecting { stream, until } => match outcome(&stream, wakeup, now >= until) {
                    Ok(true) if stream.meets_itself() => {
                        // An abort frees the port at once, so that a server can bind it.
                        stream.abort();
                        let words = "nobody listens there (the connection met itself)";
                        io::Error::new(io::ErrorKind::ConnectionRefused, words)
                    }
                    Ok(true) => {
                        stream.tune(self.dial_options.tuning);
                        return DialProgress::Connected(stream, self.addresses[self.at].clone());
                    }
                    Ok(false) => {
                        self.current = DialState::Connecting { stream, until };
                        return DialProgress::Waits(until);
                    }
                    Err(error) => error,
                },
                DialState::Full { again } if now < again => {
                    self.current = DialState::Full { again };
                    return if anew { DialProgress::WaitsAnew(again) } else { DialProgress::Waits(again) };
                }
                DialState::Full { .. } if now < self.deadline => {
                    self.connect(now);
                    anew = true;
                    continue;
                }
                DialState::Full { .. } => Errno::AGAIN.into(),
                DialState::Failed(error) => error,
            };
            self.at += 1;
            if self.at >= self.addresses.len() || is_shortage(&error) {
                return DialProgress::Failed(error);
            }
            self.connect(now);
            anew = true;
        }
    }

    /// Starts to connect to the address at index `at`, if there is one. The remaining addresses share the remaining
    /// time, so that one that does not answer leaves some for the next.
    fn connect(&mut self, now: Instant) {
        let Some(address) = self.addresses.get(self.at) else { return };
        if self.dial_options.own.has(address) {
            self.current = DialState::Failed(io::Error::other("this proxy listens there itself"));
            return;
        }
        let remaining = self.addresses.len() - self.at;
        self.current = match Stream::begin_connect(address, self.dial_options.source) {
            Ok(stream) => {
                let share = self.deadline.saturating_duration_since(now) / remaining as u32;
                DialState::Connecting { stream, until: now + share }
            }
            Err(e) if queue_is_full(&e) => DialState::Full { again: now + FULL },
            Err(e) => DialState::Failed(with_ports_named(e, address)),
        };
    }
}

/// Whether the connection is established, or its error. `over`: its time has ended.
fn outcome(stream: &Stream, wakeup: Wakeup, over: bool) -> io::Result<bool> {
    if wakeup == Wakeup::Stirred {
        return stream.connection_error()?.map_or(Ok(true), Err);
    }
    if over {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within the connect timeout"));
    }
    Ok(false)
}

/// The end of a dial that a switchover does not wait for.
pub fn cancelled() -> (DialFailure, io::Error) {
    (DialFailure::Cancelled, io::Error::other("cancelled by a switchover"))
}

/// Whose fault a failed dial was.
pub fn blame(error: &io::Error) -> DialFailure {
    let no_port = error.get_ref().is_some_and(|inner| inner.is::<NoPort>());
    match is_shortage(error) {
        true => DialFailure::Local,
        false if no_port => DialFailure::NoPort,
        false => DialFailure::Backend,
    }
}

/// All local ports are in use for connections to one address. Connections to another address can use the same ports.
#[derive(Debug)]
struct NoPort {
    to: SocketAddr,
}

impl fmt::Display for NoPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = std::fs::read_to_string(RANGE).unwrap_or_default();
        let range = range.split_whitespace().collect::<Vec<_>>().join("-");
        write!(
            f,
            "no local port of {range} is left for connections to {} (raise net.ipv4.ip_local_port_range, or use more \
             addresses: of the server, or of this machine to connect from)",
            self.to
        )
    }
}

impl std::error::Error for NoPort {}

/// First and last local port. IPv6 uses the same range.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Names the cause of a connect(2) error. If this machine has an address of that family, EADDRNOTAVAIL means that no
/// port is left.
fn with_ports_named(error: io::Error, address: &Address) -> io::Error {
    match address {
        Address::Tcp(to) if is(&error, Errno::ADDRNOTAVAIL) && has_way_to(*to) => {
            io::Error::new(io::ErrorKind::AddrNotAvailable, NoPort { to: *to })
        }
        Address::Tcp(_) | Address::Unix(_) => error,
    }
}

/// Whether the queue of a Unix listener was full. A TCP connect waits in that case.
fn queue_is_full(error: &io::Error) -> bool {
    is(error, Errno::AGAIN)
}
