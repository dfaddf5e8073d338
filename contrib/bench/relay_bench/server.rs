//! The server: echo, source and sink on one port. The first byte from a client selects the mode.
//!
//! A source sends until the client ends its sending, a sink reads until then; both then send their byte count as 8
//! bytes, and close. So every lost byte is detected, and half-close is part of every bulk figure.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Socket, Type};

/// Starts the server instead of a measurement, as the first argument.
pub const WORD: &str = "serve";

pub const ECHO: u8 = b'E';
pub const SOURCE: u8 = b'S';
pub const SINK: u8 = b'K';

/// Bytes per read and write in bulk mode: large enough that the number of system calls does not matter, small enough
/// for the cache.
pub const CHUNK: usize = 256 * 1024;

const LISTENER: u64 = u64::MAX;
const PARENT: u64 = u64::MAX - 1;
/// Number of connections accepted before others are served again.
const ACCEPTS: usize = 64;

struct Client {
    stream: TcpStream,
    work: Work,
}

enum Work {
    /// Nothing has been read yet.
    Unknown,
    Echo,
    Source {
        sent: u64,
    },
    Sink {
        received: u64,
    },
    /// The count is being sent; `sent < 8`.
    Count {
        bytes: [u8; 8],
        sent: usize,
    },
}

enum Next {
    Wait,
    WaitFor(EventFlags),
    Close,
}

/// Prints the port, then serves until standard input ends.
pub fn serve() -> io::Result<()> {
    crate::process::raise_descriptor_limit()?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    println!("{}", listener.local_addr()?.port());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    epoll::add(&epoll, io::stdin(), EventData::new_u64(PARENT), EventFlags::IN)?;
    let mut server = Server { epoll, clients: Vec::new(), free: Vec::new(), buffer: vec![0; CHUNK] };
    let mut events = Vec::with_capacity(256);
    loop {
        match epoll::wait(&server.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in events.drain(..) {
            let (flags, data) = (event.flags, event.data.u64());
            match data {
                LISTENER => server.accept(&listener)?,
                PARENT => return Ok(()),
                at => server.step(at as usize, flags)?,
            }
        }
    }
}

struct Server {
    epoll: OwnedFd,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            let Ok(accepted) = rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) else {
                // The queue is empty, or a client has hung up.
                return Ok(());
            };
            let stream = TcpStream::from(accepted);
            let at = self.free.pop().unwrap_or(self.clients.len());
            epoll::add(&self.epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
            let client = Some(Client { stream, work: Work::Unknown });
            if at == self.clients.len() {
                self.clients.push(client);
            } else {
                self.clients[at] = client;
            }
        }
        Ok(())
    }

    fn step(&mut self, at: usize, flags: EventFlags) -> io::Result<()> {
        let Some(client) = &mut self.clients[at] else { return Ok(()) };
        // A failure affects only this client; the generator counts it.
        match client.step(flags, &mut self.buffer).unwrap_or(Next::Close) {
            Next::Wait => {}
            Next::WaitFor(what) => {
                epoll::modify(&self.epoll, &client.stream, EventData::new_u64(at as u64), what)?;
            }
            Next::Close => {
                self.clients[at] = None;
                self.free.push(at);
            }
        }
        Ok(())
    }
}

impl Client {
    fn step(&mut self, flags: EventFlags, buffer: &mut [u8]) -> io::Result<Next> {
        match &mut self.work {
            Work::Unknown => {
                let length = self.stream.read(&mut buffer[..64])?;
                match buffer[..length].first() {
                    Some(&ECHO) => {
                        self.work = Work::Echo;
                        self.echo(&buffer[..length])
                    }
                    Some(&SOURCE) => {
                        self.work = Work::Source { sent: 0 };
                        Ok(Next::WaitFor(EventFlags::IN | EventFlags::OUT))
                    }
                    Some(&SINK) => {
                        self.work = Work::Sink { received: length as u64 };
                        Ok(Next::Wait)
                    }
                    _ => Ok(Next::Close),
                }
            }
            Work::Echo => match self.stream.read(buffer)? {
                0 => Ok(Next::Close),
                length => self.echo(&buffer[..length]),
            },
            Work::Source { sent } if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) => {
                let sent = *sent;
                if self.stream.read(buffer)? == 0 { Ok(self.count(sent)) } else { Ok(Next::Wait) }
            }
            Work::Source { sent } => {
                *sent += some(self.stream.write(buffer))? as u64;
                Ok(Next::Wait)
            }
            Work::Sink { received } => match self.stream.read(buffer)? {
                0 => {
                    let received = *received;
                    Ok(self.count(received))
                }
                length => {
                    *received += length as u64;
                    Ok(Next::Wait)
                }
            },
            Work::Count { bytes, sent } => {
                *sent += some(self.stream.write(&bytes[*sent..]))?;
                Ok(if *sent < bytes.len() { Next::Wait } else { Next::Close })
            }
        }
    }

    /// A client sends one small message and waits for it: there is always room for it.
    fn echo(&mut self, message: &[u8]) -> io::Result<Next> {
        let written = self.stream.write(message)?;
        Ok(if written == message.len() { Next::Wait } else { Next::Close })
    }

    fn count(&mut self, moved: u64) -> Next {
        self.work = Work::Count { bytes: moved.to_be_bytes(), sent: 0 };
        Next::WaitFor(EventFlags::OUT)
    }
}

/// A full buffer is not an error.
pub fn some(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
