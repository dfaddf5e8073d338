//! What all loads share: their results, and how connections are opened.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;

use crate::peers::Proxy;
use crate::server::ECHO;

pub const MESSAGE: usize = 64;
/// Nothing takes this long on one machine: a peer that is silent for this time has failed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// One measurement.
#[derive(Debug)]
pub struct Sample {
    /// Units of work (trips, connections, bytes) in a second.
    pub rate: f64,
    /// Units of work for which the proxy's process took `cpu`.
    pub work: u64,
    pub cpu: Duration,
    pub errors: Errors,
}

/// The number of connections that failed or lost bytes, and the first error.
#[derive(Debug, Default)]
pub struct Errors {
    pub number: u64,
    pub first: Option<String>,
}

impl Errors {
    pub fn count(&mut self, what: impl ToString) {
        self.number += 1;
        self.first.get_or_insert_with(|| what.to_string());
    }

    pub fn merge(&mut self, other: Errors) {
        self.number += other.number;
        self.first = self.first.take().or(other.first);
    }
}

/// Runs from the first byte of the load until `sample`.
pub struct Clock<'a> {
    proxy: &'a Proxy,
    cpu: Duration,
    start: Instant,
}

impl Clock<'_> {
    pub fn start(proxy: &Proxy) -> io::Result<Clock<'_>> {
        Ok(Clock { proxy, cpu: proxy.cpu()?, start: Instant::now() })
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// `timed` units were done within `time`, and `all` of them until now.
    pub fn sample(self, timed: u64, time: Duration, all: u64, errors: Errors) -> io::Result<Sample> {
        let cpu = self.proxy.cpu()?.saturating_sub(self.cpu);
        let rate = timed as f64 / time.as_secs_f64();
        Ok(Sample { rate, work: all, cpu, errors })
    }
}

/// A set of sockets to wait for.
pub struct Poll(OwnedFd);

impl Poll {
    pub fn new() -> io::Result<Poll> {
        Ok(Poll(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    pub fn add(&self, socket: impl AsFd, at: usize, what: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, EventData::new_u64(at as u64), what)?)
    }

    pub fn change(&self, socket: impl AsFd, at: usize, what: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.0, socket, EventData::new_u64(at as u64), what)?)
    }

    /// Sockets with events; none after `limit`. `events` is the buffer, which may not hold all of them.
    pub fn wait<'e>(
        &self,
        limit: Duration,
        events: &'e mut Vec<Event>,
    ) -> io::Result<impl Iterator<Item = (usize, EventFlags)> + use<'e>> {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        events.clear();
        match epoll::wait(&self.0, spare_capacity(events), Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(events.drain(..).map(|event| {
            let (flags, data) = (event.flags, event.data.u64());
            (data as usize, flags)
        }))
    }
}

/// A buffer for the events of one call.
pub fn room() -> Vec<Event> {
    Vec::with_capacity(256)
}

/// A message to be echoed: no two connections send the same.
pub fn message(of: usize) -> [u8; MESSAGE] {
    let mut message = [0x5a; MESSAGE];
    message[0] = ECHO;
    message[8..16].copy_from_slice(&(of as u64).to_be_bytes());
    message
}

/// Connections that have each made one round trip, which shows that they reach the server. Blocking. Opened in batches,
/// so that no listen queue overflows.
pub fn open(port: u16, connections: usize) -> io::Result<Vec<TcpStream>> {
    const AT_ONCE: usize = 100;
    let mut streams = Vec::with_capacity(connections);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while streams.len() < connections {
        let begun = streams.len();
        for at in begun..connections.min(begun + AT_ONCE) {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&message(at))?;
            streams.push(stream);
        }
        for (at, stream) in streams.iter_mut().enumerate().skip(begun) {
            let mut answer = [0; MESSAGE];
            stream.read_exact(&mut answer)?;
            if answer != message(at) {
                return Err(io::Error::other("a wrong answer"));
            }
        }
    }
    Ok(streams)
}
