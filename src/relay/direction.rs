//! One direction of a pair. Every byte read is written, in order, or the failure of the writing side is reported
//! (promise 1). Blocks only in a read, and only if the peer is set up for that. Does not handle timeouts, count clients
//! or decide when the pair is over.
//!
//! A read goes into a buffer that all clients of a thread share and is written from there at once, so an idle client
//! has no buffer of its own. Only what the other side has no room for is kept, and nothing more is read until that is
//! written. The first reads are small. The size grows while reads come back full. After some full reads of the largest
//! size the bytes move by splice(2) through a pipe, uncopied, until transfers become small again.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::peer::Peer;
use super::pipes::{self, Pipe, Pipes};
use crate::core::msg::PeerRole;
use crate::observe::dump::DumpHandle;

/// A direction's progress.
#[derive(Debug)]
pub struct Direction {
    sender: PeerRole,
    /// Bytes passed on.
    pub moved: u64,
    pending: Pending,
    /// Size of the next read in bytes; 0 before the first.
    size: usize,
    /// Number of consecutive full reads of the largest size.
    full: u8,
}

/// Bytes that were read and not written yet.
#[derive(Debug, Default)]
enum Pending {
    #[default]
    Nothing,
    Bytes {
        bytes: Vec<u8>,
        sent: usize,
    },
    Piped(Pipe),
}

/// The resources of one thread, shared by all its directions.
#[derive(Debug)]
pub struct Resources {
    /// The buffer of all reads; as long as the largest read so far.
    scratch: Vec<u8>,
    pub pipes: Pipes,
    /// Size of the first read in bytes.
    pub first_size: usize,
    /// See `Network::idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// Shows all relayed bytes. Bytes are then always copied, never spliced.
    pub display: Option<DumpHandle>,
    /// What another thread is told of each read before the bytes are passed on.
    pub taken: Option<Taken>,
}

/// What is noted when bytes have been read and are about to be passed on.
#[derive(Debug)]
pub enum Taken {
    /// How many bytes there were in all.
    Count(Arc<AtomicU64>),
    /// How many bytes of the other direction had been taken by then.
    Other { count: Arc<AtomicU64>, answered: Arc<AtomicU64> },
}

/// How far a direction, a pair of them or a whole connection has come after a turn. `E`: what is told at its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<E> {
    /// It waits for an event.
    Waits,
    /// It could continue, but its turn is over.
    Yields,
    /// There will be no other turn.
    Ended(E),
}

/// Which side ended a direction.
#[derive(Debug)]
pub enum RelayError {
    Reading(io::Error),
    Writing(io::Error),
}

/// The largest read that is copied, and the most that is kept for a side that does not read. Larger reads gained
/// nothing measurable: by then bytes are spliced.
const LARGEST: usize = 64 * 1024;
/// A thread may keep this much memory for an idle client.
const SMALL: usize = 4 * 1024;
/// After this many full reads a bulk transfer is assumed.
const SETTLED: u8 = 3;
/// A splice of fewer bytes costs more than a copy. Then bytes are copied again.
const FEW: usize = 8 * 1024;
/// The most that one direction moves in a turn while others wait: about 0.1 ms of work.
const TURN: usize = 512 * 1024;

impl Resources {
    /// `pipes`: number of pipes that may still be opened.
    pub fn new(pipes: Arc<AtomicUsize>, idle_timeout: Option<Duration>, display: Option<DumpHandle>) -> Resources {
        Resources { scratch: Vec::new(), pipes: Pipes::new(pipes), first_size: 1, idle_timeout, display, taken: None }
    }

    /// Whether more memory is held than an idle client may cost.
    pub fn hold_much(&self) -> bool {
        self.scratch.len() > SMALL.max(self.first_size) || self.pipes.are_idle()
    }

    /// Whether the next read needs memory to be allocated first.
    pub fn have_no_buffer(&self) -> bool {
        self.scratch.is_empty()
    }

    /// Allocates the buffer for one read.
    fn grow(&mut self, size: usize) -> io::Result<()> {
        if let Some(more @ 1..) = size.checked_sub(self.scratch.len()) {
            self.scratch.try_reserve_exact(more).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            self.scratch.resize(size, 0);
        }
        Ok(())
    }
}

impl Direction {
    /// What this one sends.
    pub fn from(sender: PeerRole) -> Direction {
        Direction { sender, moved: 0, pending: Pending::Nothing, size: 0, full: 0 }
    }

    /// Moves bytes until there are none, there is no room, or the turn is over. No byte is lost between the sides: what
    /// was read was written or is kept. Ends when the reading side has ended its stream and everything it sent was
    /// passed on.
    ///
    /// # Errors
    /// Which side failed. The bytes kept are lost with the connection, which the caller makes visible.
    pub fn advance(
        &mut self,
        from: &mut Peer,
        to: &mut Peer,
        resources: &mut Resources,
    ) -> Result<Progress<()>, RelayError> {
        let limit = self.moved + TURN as u64;
        loop {
            match self.step(from, to, resources)? {
                Progress::Yields if self.moved < limit => {}
                pause => return Ok(pause),
            }
        }
    }

    /// Writes what is kept, then reads and writes once.
    ///
    /// # Errors
    /// See `advance`.
    pub fn step(
        &mut self,
        from: &mut Peer,
        to: &mut Peer,
        resources: &mut Resources,
    ) -> Result<Progress<()>, RelayError> {
        if !self.unload(to, resources)? || !from.readable {
            return Ok(Progress::Waits);
        }
        Ok(match self.load(from, to, resources)? {
            ReadOutcome::Some => Progress::Yields,
            ReadOutcome::End => Progress::Ended(()),
        })
    }

    /// Releases what is not needed until more bytes arrive. The next read is a small one.
    pub fn rest(&mut self, resources: &mut Resources) {
        (self.size, self.full) = (0, 0);
        resources.scratch = Vec::new();
        resources.pipes.close_idle();
    }

    fn tell_taken(&self, length: usize, resources: &Resources) {
        match &resources.taken {
            None => {}
            Some(Taken::Count(count)) => count.store(self.moved + length as u64, Ordering::Release),
            Some(Taken::Other { count, answered }) => answered.store(count.load(Ordering::Acquire), Ordering::Relaxed),
        }
    }

    /// Shows in the dump that the stream has ended.
    pub fn show_end(&self, resources: &Resources) {
        if let Some(display) = &resources.display {
            display.end(self.sender);
        }
    }

    /// Shows in the dump that the reading side has failed, if no read has reported it.
    pub fn show_failure(&self, resources: &Resources) {
        if let Some(display) = &resources.display {
            display.failure(self.sender);
        }
    }

    /// Whether kept bytes that the other side does not take keep this direction from reading.
    pub fn is_stuck(&self) -> bool {
        match self.pending {
            Pending::Nothing => false,
            Pending::Bytes { .. } | Pending::Piped(_) => true,
        }
    }

    /// Drops the kept bytes and releases the pipe.
    pub fn clear(&mut self, resources: &mut Resources) {
        match mem::take(&mut self.pending) {
            Pending::Nothing | Pending::Bytes { .. } => {}
            Pending::Piped(pipe) => resources.pipes.give_back(pipe),
        }
    }

    /// Writes what is kept. Returns false if some of it is left.
    fn unload(&mut self, to: &mut Peer, resources: &mut Resources) -> Result<bool, RelayError> {
        loop {
            let written = match &mut self.pending {
                Pending::Nothing => return Ok(true),
                _ if !to.writable => return Ok(false),
                Pending::Bytes { bytes, sent } => {
                    let written = write(to, &bytes[*sent..])?;
                    *sent += written.unwrap_or(0);
                    written
                }
                Pending::Piped(pipe) => some(to.track_write(|to| pipe.drain(&to.stream)))?,
            };
            self.moved += written.unwrap_or(0) as u64;
            let empty = match &self.pending {
                Pending::Nothing => true,
                Pending::Bytes { bytes, sent } => *sent == bytes.len(),
                Pending::Piped(pipe) => pipe.held() == 0,
            };
            if empty {
                self.clear(resources);
            }
        }
    }

    /// Reads once and writes what the other side takes.
    fn load(&mut self, from: &mut Peer, to: &mut Peer, resources: &mut Resources) -> Result<ReadOutcome, RelayError> {
        if self.full >= SETTLED && resources.display.is_none() && from.can_splice_to(to) {
            if !from.is_ready_to_splice() {
                return Ok(ReadOutcome::Some);
            }
            if let Some(pipe) = resources.pipes.take() {
                to.set_nonblocking(true);
                return self.splice(from, pipe, resources);
            }
        }
        to.set_nonblocking(false);
        self.copy(from, to, resources)
    }

    fn copy(&mut self, from: &mut Peer, to: &mut Peer, resources: &mut Resources) -> Result<ReadOutcome, RelayError> {
        self.size = self.size.max(resources.first_size);
        resources.grow(self.size).map_err(RelayError::Reading)?;
        let buffer = &mut resources.scratch[..self.size];
        let read = from.read(buffer);
        if let Some(display) = &resources.display {
            match &read {
                Ok(Some(length @ 1..)) => display.bytes(self.sender, &buffer[..*length]),
                // The owner knows whether this is an end or a failure.
                Ok(Some(0)) => {}
                Ok(None) => {}
                Err(_) => display.failure(self.sender),
            }
        }
        let length = match read {
            Ok(Some(0)) => return Ok(ReadOutcome::End),
            Ok(Some(length)) => length,
            Ok(None) => return Ok(ReadOutcome::Some),
            Err(e) => return Err(RelayError::Reading(e)),
        };
        self.tell_taken(length, resources);
        self.full = if length == LARGEST { self.full.saturating_add(1) } else { 0 };
        if length == self.size {
            self.size = (self.size * 2).min(LARGEST);
        }
        let mut rest = &resources.scratch[..length];
        while !rest.is_empty() {
            match write(to, rest)? {
                Some(written) => {
                    self.moved += written as u64;
                    rest = &rest[written..];
                }
                None => {
                    self.pending = keep(rest)?;
                    return Ok(ReadOutcome::Some);
                }
            }
        }
        Ok(ReadOutcome::Some)
    }

    /// Leaves the bytes in the pipe for `unload`.
    fn splice(
        &mut self,
        from: &mut Peer,
        mut pipe: Pipe,
        resources: &mut Resources,
    ) -> Result<ReadOutcome, RelayError> {
        let filled = from.track_read(|from| pipe.fill(&from.stream));
        match filled {
            Ok(Some(length)) if length > 0 => {
                self.tell_taken(length, resources);
                if length < FEW {
                    self.full = 0;
                    self.size = resources.first_size;
                }
                self.pending = Pending::Piped(pipe);
            }
            // The end of the stream, or an urgent byte: a read finds out.
            Ok(Some(_)) => {
                self.full = 0;
                from.note_stop();
                resources.pipes.give_back(pipe);
            }
            Ok(None) => resources.pipes.give_back(pipe),
            Err(e) => {
                resources.pipes.give_back(pipe);
                // `InvalidInput`: these sockets cannot be spliced. Failures of the peer have other kinds, and a read
                // reports them too.
                if e.kind() != io::ErrorKind::InvalidInput {
                    return Err(RelayError::Reading(e));
                }
                from.forget_splicing();
            }
        }
        Ok(ReadOutcome::Some)
    }
}

/// Writes once; `None` when there is no room.
fn write(to: &mut Peer, bytes: &[u8]) -> Result<Option<usize>, RelayError> {
    some(to.write(bytes))
}

/// Turns a write of zero bytes into an error, because it would be repeated forever.
fn some(written: io::Result<Option<usize>>) -> Result<Option<usize>, RelayError> {
    match written {
        Ok(Some(0)) => Err(RelayError::Writing(io::ErrorKind::WriteZero.into())),
        Ok(written) => Ok(written),
        Err(e) => Err(RelayError::Writing(e)),
    }
}

/// Copies what could not be written yet. If there is no memory for it, only this client's connection fails.
fn keep(rest: &[u8]) -> Result<Pending, RelayError> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(rest.len()).map_err(|_| RelayError::Writing(io::ErrorKind::OutOfMemory.into()))?;
    bytes.extend_from_slice(rest);
    Ok(Pending::Bytes { bytes, sent: 0 })
}

#[derive(Debug, PartialEq, Eq)]
enum ReadOutcome {
    /// Perhaps nothing.
    Some,
    End,
}

const _: () = assert!(pipes::SIZE <= TURN, "a turn is at least one pipe");
