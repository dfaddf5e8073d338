//! One side of a pair: a socket and what is known about it. The result of a call (nothing to read, no room) is
//! remembered here, so that the system is not asked again. Changes are reported by events (shared threads), or found by
//! trying and polling (threads of a client's own).

use std::io::{self, ErrorKind};
use std::mem;
use std::sync::Arc;

use rustix::event::epoll::EventFlags;

use crate::net::Stream;

/// A socket that is read or written.
#[derive(Debug)]
pub struct Peer {
    pub stream: Arc<Stream>,
    /// There may be something to read, or an end or an error.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The peer has ended its stream or failed. After the bytes that have arrived the end follows, and no event reports
    /// it.
    closing: bool,
    /// An event has reported that the connection failed. A read returns the cause.
    failed: bool,
    /// It has failed, and only the bytes that have arrived are still read: see [`Peer::drain`].
    draining: bool,
    /// A short read does not mean that nothing more has arrived. True of Unix sockets, and of TCP after the first
    /// urgent byte (MSG_OOB), because the system ends a read before such a byte.
    choppy: bool,
    /// splice(2) works on this socket.
    spliceable: bool,
    /// A read blocks until something has arrived. Writes never block.
    pub waits: bool,
    /// How the owner learns that there is something to read.
    source: Source,
    /// The socket is in non-blocking mode, so calls without a flag for that do not block either.
    nonblocking: bool,
    /// It has failed, or both its streams have ended: polling it reports nothing new.
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Events,
    /// `told`: since the last read, a poll has reported something to read.
    Trial {
        told: bool,
    },
}

/// Edge-triggered: each change is reported once, so a connection needs no call beyond its reads and writes.
pub const EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::PRI).union(EventFlags::ET);

impl Peer {
    /// A socket that never blocks and is registered for [`EVENTS`]. Until the first event there is nothing to read.
    pub fn new(stream: Stream) -> Peer {
        Peer { readable: false, source: Source::Events, ..Peer::by_trial(Arc::new(stream), true) }
    }

    /// A socket whose state is found by reading and writing. Another thread may use the same socket for the other
    /// direction.
    pub fn by_trial(stream: Arc<Stream>, nonblocking: bool) -> Peer {
        let is_tcp = stream.is_tcp();
        Peer {
            stream,
            readable: true,
            writable: true,
            closing: false,
            failed: false,
            draining: false,
            choppy: !is_tcp,
            spliceable: is_tcp,
            waits: false,
            source: Source::Trial { told: false },
            nonblocking,
            over: false,
        }
    }

    /// A poll has reported that there is something to read.
    pub fn tell_readable(&mut self) {
        self.readable = true;
        self.source = Source::Trial { told: true };
    }

    /// From now on nothing is read before a poll has reported something.
    pub fn leave_to_poll(&mut self) {
        self.readable &= self.source == Source::Trial { told: true };
    }

    /// Whether splice(2) would not block on this socket. (It has no flag for that.) If that is not known, the next step
    /// is a poll.
    pub fn is_ready_to_splice(&mut self) -> bool {
        match self.source {
            Source::Events => true,
            Source::Trial { told } => {
                self.source = Source::Trial { told: false };
                self.readable &= told;
                told
            }
        }
    }

    /// Sets whether writes by splice(2) block. This applies to the reads of the other thread too.
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        if self.source != Source::Events && self.nonblocking != nonblocking {
            self.stream.set_nonblocking(nonblocking);
            self.nonblocking = nonblocking;
        }
    }

    /// A poll has reported that no further events will come.
    pub fn note_over(&mut self) {
        self.over = true;
    }

    /// Whether polling this socket is useless.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// A splice has stopped at the end or at an urgent byte.
    pub fn note_stop(&mut self) {
        self.choppy = true;
    }

    /// Records an event.
    pub fn note(&mut self, events: EventFlags) {
        let ended = events.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.closing |= ended;
        self.choppy |= events.contains(EventFlags::PRI);
        self.readable |= ended || events.intersects(EventFlags::IN | EventFlags::PRI);
        self.writable |= events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        self.failed |= events.contains(EventFlags::ERR);
    }

    /// The error of a failed connection, for an owner that is not reading from it. Returned once.
    pub fn failure(&mut self) -> Option<io::Error> {
        if !mem::take(&mut self.failed) {
            return None;
        }
        // If the socket cannot be asked, its peer has not reported a failure.
        self.stream.connection_error().unwrap_or_default()
    }

    /// The socket has failed: what has arrived is read to its end, without further events. That end counts as a
    /// failure: the system reports a failure once, perhaps to a write, and an end of stream afterwards.
    pub fn drain(&mut self) {
        (self.closing, self.readable, self.draining) = (true, true, true);
    }

    /// Reads once. `None` means nothing to read at the moment; 0 is the end.
    ///
    /// # Errors
    /// If the peer has failed.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let length = if self.waits {
            self.track_read(|peer| peer.stream.read_waiting(buffer))?
        } else {
            self.track_read(|peer| peer.stream.read_now(buffer))?
        };
        if self.source != Source::Events {
            self.source = Source::Trial { told: false };
        }
        if self.draining && length == Some(0) {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if let Some(length) = length
            && length < buffer.len()
            && !self.waits
            && !self.closing
            && !self.choppy
        {
            // Everything that had arrived was read. An event will report more.
            self.readable = false;
        }
        Ok(length)
    }

    /// Writes once. `None` means no room at the moment.
    ///
    /// # Errors
    /// If the peer has failed.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        self.track_write(|peer| peer.stream.write_now(bytes))
    }

    /// Runs a call that reads from the socket, and records its result.
    pub fn track_read<T>(&mut self, read: impl FnMut(&Peer) -> io::Result<T>) -> io::Result<Option<T>> {
        let read = self.at_once(read);
        self.readable &= !matches!(read, Ok(None));
        read
    }

    /// Runs a call that writes to the socket, and records its result.
    pub fn track_write<T>(&mut self, write: impl FnMut(&Peer) -> io::Result<T>) -> io::Result<Option<T>> {
        let written = self.at_once(write);
        self.writable &= !matches!(written, Ok(None));
        written
    }

    /// Whether bytes can be spliced to `to`. A stream with urgent bytes cannot be: splice(2) never gets past one.
    pub fn can_splice_to(&self, to: &Peer) -> bool {
        self.spliceable && to.spliceable && !self.choppy
    }

    /// The system has refused to splice this socket: never try again.
    pub fn forget_splicing(&mut self) {
        self.spliceable = false;
    }

    fn at_once<T>(&self, mut call: impl FnMut(&Peer) -> io::Result<T>) -> io::Result<Option<T>> {
        loop {
            match call(self) {
                Ok(value) => return Ok(Some(value)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
