//! Bulk transfer in one direction. At the end the client ends its sending and waits until the server has returned its
//! byte count (see `server`): time and CPU time include all of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use crate::load::{Clock, Errors, PATIENCE, Poll, Sample, room};
use crate::peers::Proxy;
use crate::server::{CHUNK, SINK, SOURCE, some};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Down,
    Up,
}

struct Flow {
    stream: TcpStream,
    way: Way,
    /// Bytes sent, including the first one, which selects the mode.
    sent: u64,
    received: u64,
    /// The last bytes received: finally, the server's count.
    tail: [u8; 8],
}

pub fn measure(proxy: &Proxy, way: Way, connections: usize, length: Duration) -> io::Result<Sample> {
    let (poll, mut events) = (Poll::new()?, room());
    let mut flows = Vec::with_capacity(connections);
    for at in 0..connections {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port))?;
        stream.set_nonblocking(true)?;
        let what = match way {
            Way::Down => EventFlags::IN,
            Way::Up => EventFlags::IN | EventFlags::OUT,
        };
        poll.add(&stream, at, what)?;
        flows.push(Some(Flow { stream, way, sent: 0, received: 0, tail: [0; 8] }));
    }
    let mut buffer = vec![0; CHUNK];
    let mut errors = Errors::default();
    let clock = Clock::start(proxy)?;
    for flow in flows.iter_mut().flatten() {
        buffer[0] = if way == Way::Down { SOURCE } else { SINK };
        flow.sent = flow.stream.write(&buffer[..1])? as u64;
    }
    let (mut bytes, mut last, mut ending) = (0, Instant::now(), false);
    while flows.iter().any(Option::is_some) {
        if !ending && clock.elapsed() >= length {
            ending = true;
            for (at, flow) in flows.iter().enumerate() {
                let Some(flow) = flow else { continue };
                flow.stream.shutdown(Shutdown::Write)?;
                poll.change(&flow.stream, at, EventFlags::IN)?;
            }
        }
        if last.elapsed() > PATIENCE {
            flows.iter().flatten().for_each(|_| errors.count("nothing moved any more"));
            break;
        }
        for (at, flags) in poll.wait(length, &mut events)? {
            last = Instant::now();
            let Some(flow) = &mut flows[at] else { continue };
            match flow.step(flags, &mut buffer) {
                Ok(false) => continue,
                Ok(true) if ending => match flow.check() {
                    Ok(moved) => bytes += moved,
                    Err(e) => errors.count(e),
                },
                Ok(true) => errors.count("ended too early"),
                Err(e) => errors.count(e),
            }
            flows[at] = None;
        }
    }
    let time = clock.elapsed();
    clock.sample(bytes, time, bytes, errors)
}

impl Flow {
    /// Whether the server has closed.
    fn step(&mut self, flags: EventFlags, buffer: &mut [u8]) -> io::Result<bool> {
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.sent += some(self.stream.write(buffer))? as u64;
            return Ok(false);
        }
        let length = match self.stream.read(buffer) {
            Ok(0) => return Ok(true),
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        };
        self.received += length as u64;
        let new = length.min(self.tail.len());
        self.tail.rotate_left(new);
        let keep = self.tail.len() - new;
        self.tail[keep..].copy_from_slice(&buffer[length - new..length]);
        Ok(false)
    }

    /// The number of bytes moved, if it matches the server's count.
    fn check(&self) -> io::Result<u64> {
        let moved = match self.way {
            Way::Down => self.received.saturating_sub(8),
            Way::Up => self.sent,
        };
        let told = u64::from_be_bytes(self.tail);
        if self.received >= 8 && told == moved {
            Ok(moved)
        } else {
            Err(io::Error::other(format!("{moved} bytes here, {told} at the server")))
        }
    }
}
