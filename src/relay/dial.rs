//! One client's way to a backend: the addresses of its name are tried in turn, within one time limit. Never waits:
//! whoever owns an attempt watches its socket and the clock, and calls [`Dial::step`] when either has something to
//! tell.
//!
//! The first connect is begun by whoever calls [`Dial::begin`], so that connects begin in the order in which clients
//! were released (promise 3). Does not read a byte of the client.

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

/// A dial under way.
#[derive(Debug)]
pub struct Dial {
    addresses: Arc<[Address]>,
    /// Index of the address being tried.
    at: usize,
    /// For all addresses together.
    deadline: Instant,
    dial_options: DialOptions,
    current: DialState,
}

/// How a service's dials are made.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// For all addresses of a name together.
    pub timeout: Duration,
    /// Where connections come from.
    pub source: Option<Source>,
    pub tuning: StreamOptions,
    /// Where nobody is dialled.
    pub own: Own,
}

/// What is going on at the address being tried.
#[derive(Debug)]
enum DialState {
    Connecting {
        stream: Stream,
        until: Instant,
    },
    /// A Unix listener's queue is full: it is tried again then.
    Full {
        again: Instant,
    },
    /// Nothing any more.
    Failed(io::Error),
}

/// What makes somebody call [`Dial::step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The socket is connected or has failed.
    Stirred,
    /// The attempt has just begun, or its time is over.
    Clock,
}

/// How far a dial has come.
#[derive(Debug)]
pub enum DialProgress {
    /// Nothing new: wait for the socket, or until then.
    Waits(Instant),
    /// Likewise, but for another socket than before, if there is one ([`Dial::stream`]).
    WaitsAnew(Instant),
    Connected(Stream, Address),
    /// No address is left; the last one's error.
    Failed(io::Error),
}

/// The pause before a Unix listener whose queue was full is tried again. There is nothing to wait for: the system tells
/// a connect that does not block when a queue is full, and nobody when it is not any more.
const FULL: Duration = Duration::from_millis(5);

impl Dial {
    /// Begins to connect to the first address. What comes of it, the first `step` tells.
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

    /// Goes as far as it can, on to the next address when one has failed. After `Connected` or `Failed` it is over.
    pub fn step(&mut self, wakeup: Wakeup, now: Instant) -> DialProgress {
        let mut anew = false;
        loop {
            let over = DialState::Failed(io::ErrorKind::NotConnected.into());
            let error = match mem::replace(&mut self.current, over) {
                // The cue was about the socket before this one.
                DialState::Connecting { stream, until } if anew => {
                    self.current = DialState::Connecting { stream, until };
                    return DialProgress::WaitsAnew(until);
                }
                DialState::Connecting { stream, until } => match outcome(&stream, wakeup, now >= until) {
                    Ok(true) if stream.meets_itself() => {
                        // The port is free again at once: whoever is to listen there can bind it.
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

    /// Begins with the address at `at`, if there is one. The time that is left is shared by the addresses that are
    /// left, so that a silent first one leaves some for the second.
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

/// Whether the connection stands, or its time is `over`.
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

/// All local ports are in use for connections to one address. For another address the same ports serve again.
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

/// First and last port; IPv6 uses them, too.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// An error of connect(2). The one for a lack of ports is the same as for a lack of an address to come from, where this
/// machine has none of that family.
fn with_ports_named(error: io::Error, address: &Address) -> io::Error {
    match address {
        Address::Tcp(to) if is(&error, Errno::ADDRNOTAVAIL) && has_way_to(*to) => {
            io::Error::new(io::ErrorKind::AddrNotAvailable, NoPort { to: *to })
        }
        Address::Tcp(_) | Address::Unix(_) => error,
    }
}

/// Whether a Unix listener had no room at the moment: a TCP connect would have waited by itself.
fn queue_is_full(error: &io::Error) -> bool {
    is(error, Errno::AGAIN)
}
