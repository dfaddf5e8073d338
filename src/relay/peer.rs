//! One end of a pair: a socket, and what is known about it. What a call finds out (nothing to read, no room) is kept
//! here, so that nobody asks the system twice. When something changes, events tell (shared threads), or the owner finds
//! out by trying and polling (threads of a client's own).

use std::io::{self, ErrorKind};
use std::mem;
use std::sync::Arc;

use rustix::event::epoll::EventFlags;

use crate::net::Stream;

/// A socket that is read or written.
#[derive(Debug)]
pub struct Peer {
    pub stream: Arc<Stream>,
    /// There may be something to read, an end or an error included.
    pub readable: bool,
    /// There may be room for what is written.
    pub writable: bool,
    /// The peer has ended its stream or failed: whatever is read, the end is still to come, and no event will tell.
    closing: bool,
    /// An event has told that the connection has failed. A read tells why, if anybody reads.
    failed: bool,
    /// It is known to have failed, and only read on: see [`Peer::drain`].
    draining: bool,
    /// A read may stop before the end of what has arrived: not to be taken for the last one. True of Unix sockets, and
    /// of TCP from the first urgent byte (MSG_OOB) on, at whose place the system interrupts a read.
    choppy: bool,
    /// Bytes may be spliced from and to here.
    spliceable: bool,
    /// A read waits until something has arrived. Writes never wait.
    pub waits: bool,
    /// How it is found out whether there is something to read.
    source: Source,
    /// Calls that have no flag for it do not wait either.
    nonblocking: bool,
    /// It has failed, or both its streams have ended: a poll tells nothing new.
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Events,
    /// `told`: a poll said so, after the last read.
    Trial {
        told: bool,
    },
}

/// Each change is told once ("edge-triggered"), so that a connection costs no call beyond its reads and writes.
pub const EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::PRI).union(EventFlags::ET);

impl Peer {
    /// A socket that never waits, registered for [`EVENTS`]. Until the first event there is nothing to read.
    pub fn new(stream: Stream) -> Peer {
        Peer { readable: false, source: Source::Events, ..Peer::by_trial(Arc::new(stream), true) }
    }

    /// One whose state is found out by reading and writing. Another thread may use the same socket the other way.
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

    /// A poll has said that there is something to read.
    pub fn tell_readable(&mut self) {
        self.readable = true;
        self.source = Source::Trial { told: true };
    }

    /// Nothing is read before a poll has said that there is something.
    pub fn leave_to_poll(&mut self) {
        self.readable &= self.source == Source::Trial { told: true };
    }

    /// Whether splice(2), which has no flag against waiting in a socket, would not wait here. If that is not known, it
    /// is left to a poll.
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

    /// Whether writes by splice(2) wait, and with that the reads of another thread.
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        if self.source != Source::Events && self.nonblocking != nonblocking {
            self.stream.set_nonblocking(nonblocking);
            self.nonblocking = nonblocking;
        }
    }

    /// A poll has said that nothing more is to be expected.
    pub fn note_over(&mut self) {
        self.over = true;
    }

    /// Whether there is nothing to poll for.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// A splice has stopped at something: the end, or an urgent byte.
    pub fn note_stop(&mut self) {
        self.choppy = true;
    }

    /// Takes note of an event.
    pub fn note(&mut self, events: EventFlags) {
        let ended = events.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.closing |= ended;
        self.choppy |= events.contains(EventFlags::PRI);
        self.readable |= ended || events.intersects(EventFlags::IN | EventFlags::PRI);
        self.writable |= events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        self.failed |= events.contains(EventFlags::ERR);
    }

    /// Why the connection has failed, if it has: for whoever does not read from it, or not now. Told once.
    pub fn failure(&mut self) -> Option<io::Error> {
        if !mem::take(&mut self.failed) {
            return None;
        }
        // A socket that cannot be asked has not been reported as failed by its peer.
        self.stream.connection_error().unwrap_or_default()
    }

    /// It is known to have failed: it is read on to the end of what has arrived, which no event will tell. That end is
    /// a failure: the system tells of one once (a write may have heard of it), and of an end in order afterwards.
    pub fn drain(&mut self) {
        (self.closing, self.readable, self.draining) = (true, true, true);
    }

    /// Reads once. `None` when there is nothing at the moment; 0 is the end.
    ///
    /// # Errors
    /// The peer has failed.
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
            // All there was: what comes later is told by an event.
            self.readable = false;
        }
        Ok(length)
    }

    /// Writes once. `None` when there is no room at the moment.
    ///
    /// # Errors
    /// The peer has failed.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        self.track_write(|peer| peer.stream.write_now(bytes))
    }

    /// Something that reads from the socket.
    pub fn track_read<T>(&mut self, read: impl FnMut(&Peer) -> io::Result<T>) -> io::Result<Option<T>> {
        let read = self.at_once(read);
        self.readable &= !matches!(read, Ok(None));
        read
    }

    /// Something that writes to the socket.
    pub fn track_write<T>(&mut self, write: impl FnMut(&Peer) -> io::Result<T>) -> io::Result<Option<T>> {
        let written = self.at_once(write);
        self.writable &= !matches!(written, Ok(None));
        written
    }

    /// Whether bytes can be spliced to `to`: not from a stream with urgent bytes, at which splice(2) stops for good.
    pub fn can_splice_to(&self, to: &Peer) -> bool {
        self.spliceable && to.spliceable && !self.choppy
    }

    /// The system has refused to.
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
