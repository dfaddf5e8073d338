//! Round trips on connections that stay: each sends a message, waits until it is back, sends the next.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use crate::load::{Clock, Errors, MESSAGE, PATIENCE, Poll, Sample, message, open, room};
use crate::peers::Proxy;

struct Traveller {
    stream: TcpStream,
    /// What was sent last.
    sent: [u8; MESSAGE],
    /// What has come back of it; `got < MESSAGE`.
    got: usize,
    trips: u64,
}

/// Trips for as long as `length`. Connecting does not count.
pub fn measure(proxy: &Proxy, connections: usize, length: Duration) -> io::Result<Sample> {
    let (poll, mut events) = (Poll::new()?, room());
    let mut travellers = Vec::with_capacity(connections);
    for (at, stream) in open(proxy.port, connections)?.into_iter().enumerate() {
        stream.set_nonblocking(true)?;
        poll.add(&stream, at, EventFlags::IN)?;
        travellers.push(Some(Traveller { stream, sent: message(at), got: 0, trips: 0 }));
    }
    let mut errors = Errors::default();
    let clock = Clock::start(proxy)?;
    for traveller in travellers.iter_mut().flatten() {
        traveller.send()?;
    }
    let (mut trips, mut last) = (0, Instant::now());
    while clock.elapsed() < length && last.elapsed() < PATIENCE {
        for (at, _) in poll.wait(length, &mut events)? {
            last = Instant::now();
            let Some(traveller) = &mut travellers[at] else { continue };
            match traveller.receive() {
                Ok(true) => trips += 1,
                Ok(false) => {}
                Err(e) => {
                    errors.count(e);
                    travellers[at] = None;
                }
            }
        }
    }
    if last.elapsed() >= length.max(PATIENCE) {
        errors.count("nothing came back any more");
    }
    let time = clock.elapsed();
    clock.sample(trips, time, trips, errors)
}

impl Traveller {
    /// One message is under way at a time, so there is always room for it.
    fn send(&mut self) -> io::Result<()> {
        self.trips += 1;
        self.sent[16..24].copy_from_slice(&self.trips.to_be_bytes());
        if self.stream.write(&self.sent)? == MESSAGE { Ok(()) } else { Err(io::Error::other("no room for a message")) }
    }

    /// Whether the message is back; then the next one is under way.
    fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0; MESSAGE];
        let length = match self.stream.read(&mut bytes[self.got..]) {
            Ok(0) => return Err(io::Error::other("closed in the middle of a trip")),
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        };
        let end = self.got + length;
        if bytes[self.got..end] != self.sent[self.got..end] {
            return Err(io::Error::other("wrong bytes came back"));
        }
        self.got = end % MESSAGE;
        if end < MESSAGE {
            return Ok(false);
        }
        self.send()?;
        Ok(true)
    }
}
