//! Short connections: connect, one request, its answer, close; several at once, each followed by the next.
//!
//! The client closes, so its address and port stay in TIME_WAIT for a minute (on loopback Linux reuses them after a
//! second). Both sides of the proxy avoid running out of ports: clients rotate over 64 destinations in 127.0.0.0/24,
//! and every proxy reaches the server by its own address.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::load::{Clock, Errors, MESSAGE, PATIENCE, Poll, Sample, message, room};
use crate::peers::Proxy;

const DESTINATIONS: usize = 64;
/// A peer that fails this often has no result in this round.
const TOO_MANY: u64 = 1000;
/// The proxy's work after the last close counts as its CPU time.
const AFTERMATH: Duration = Duration::from_millis(50);

struct Request {
    socket: Socket,
    sent: [u8; MESSAGE],
    /// False while the connection does not stand yet.
    under_way: bool,
    got: usize,
}

/// Connections made and answered within `length`, with `at_once` in progress at any time.
pub fn measure(proxy: &Proxy, at_once: usize, length: Duration) -> io::Result<Sample> {
    let (poll, mut events) = (Poll::new()?, room());
    let mut slots: Vec<Option<Request>> = (0..at_once).map(|_| None).collect();
    let (mut errors, mut begun, mut done, mut timed) = (Errors::default(), 0, 0, 0);
    let clock = Clock::start(proxy)?;
    let mut last = Instant::now();
    let mut finished: Vec<usize> = (0..at_once).collect();
    loop {
        let go_on = clock.elapsed() < length && errors.number < TOO_MANY;
        for at in finished.drain(..) {
            // Closes the connection.
            slots[at] = None;
            if go_on {
                begun += 1;
                match Request::begin(proxy.port, begun, &poll, at) {
                    Ok(request) => slots[at] = Some(request),
                    Err(e) => return Err(io::Error::new(e.kind(), format!("cannot begin to connect: {e}"))),
                }
            }
        }
        if slots.iter().all(Option::is_none) {
            break;
        }
        if last.elapsed() > PATIENCE {
            slots.iter().flatten().for_each(|_| errors.count("no answer"));
            break;
        }
        for (at, _) in poll.wait(PATIENCE, &mut events)? {
            last = Instant::now();
            let Some(request) = &mut slots[at] else { continue };
            match request.step(&poll, at) {
                Ok(false) => continue,
                Ok(true) => {
                    done += 1;
                    timed += u64::from(go_on);
                }
                Err(e) => errors.count(e),
            }
            finished.push(at);
        }
    }
    thread::sleep(AFTERMATH);
    clock.sample(timed, length, done, errors)
}

impl Request {
    fn begin(port: u16, number: usize, poll: &Poll, at: usize) -> io::Result<Request> {
        let to = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + (number % DESTINATIONS) as u8), port));
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        match socket.connect(&to.into()) {
            Err(e) if e.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(e),
            _ => {}
        }
        let mut request = Request { socket, sent: message(number), under_way: false, got: 0 };
        // On loopback the connection is usually established by now.
        let what = if request.send().unwrap_or(false) { EventFlags::IN } else { EventFlags::OUT };
        poll.add(&request.socket, at, what)?;
        Ok(request)
    }

    /// False when the connection does not stand yet.
    fn send(&mut self) -> io::Result<bool> {
        match self.socket.write(&self.sent) {
            Ok(MESSAGE) => self.under_way = true,
            Ok(_) => return Err(io::Error::other("no room for a message")),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        Ok(self.under_way)
    }

    /// Whether the answer is complete.
    fn step(&mut self, poll: &Poll, at: usize) -> io::Result<bool> {
        if !self.under_way {
            if self.send()? {
                poll.change(&self.socket, at, EventFlags::IN)?;
            }
            return Ok(false);
        }
        let mut bytes = [0; MESSAGE];
        let length = match self.socket.read(&mut bytes[self.got..]) {
            Ok(0) => return Err(io::Error::other("closed without an answer")),
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        };
        let end = self.got + length;
        if bytes[self.got..end] != self.sent[self.got..end] {
            return Err(io::Error::other("a wrong answer"));
        }
        self.got = end;
        Ok(end == MESSAGE)
    }
}
