//! One direction of a pair. Every byte read is written, in order, or the writing side's failure is reported (promise
//! 1). Never waits; does not time out, count clients or decide when the pair is over: see `pair`.
//!
//! A read goes into a buffer that all clients of a thread share, and is written from there at once: a client at rest
//! has no buffer at all. Only what the other side has no room for is kept, and nothing more is read until it has gone.
//! The first reads are small; the size grows while reads come back full, and after some full reads of the largest size
//! the bytes move by splice(2) through a pipe, uncopied, until they become few again.

use std::io;
use std::mem;
use std::time::Duration;

use super::peer::Peer;
use super::pipes::{self, Pipe, Pipes};
use crate::observe::dump::{DumpHandle, DumpSource};

/// A direction's progress.
#[derive(Debug)]
pub struct Direction {
    sender: DumpSource,
    /// Bytes passed on.
    pub moved: u64,
    pending: Pending,
    /// The next read's size; 0 before the first.
    size: usize,
    /// Reads of the largest size that came back full, one after the other.
    full: u8,
}

/// What was read and not yet written.
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

/// What one relay thread's directions work with.
#[derive(Debug)]
pub struct Resources {
    /// As long as the largest read.
    scratch: Box<[u8]>,
    pub pipes: Pipes,
    /// The first read's size, in bytes.
    pub first_size: usize,
    /// See `Network::idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// Where everything that passes is shown. It is copied then, whatever its amount.
    pub display: Option<DumpHandle>,
}

/// Why a direction stopped where it is. No byte is lost between the sides: what was read was written or is kept.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// For an event.
    Waits,
    /// It has had its turn and could go on: others first.
    Yields,
    /// The reading side ended its stream, and everything it sent was passed on.
    Ended,
}

/// Which side ended a direction.
#[derive(Debug)]
pub enum RelayError {
    Reading(io::Error),
    Writing(io::Error),
}

/// The largest read that is copied; also the most that is kept for a side that does not read. Larger ones gained
/// nothing measurable: by then bytes are spliced.
const LARGEST: usize = 64 * 1024;
/// So many full reads show that more is to come.
const SETTLED: u8 = 3;
/// A splice that moves less than this is dearer than a copy: back to copying.
const FEW: usize = 8 * 1024;
/// What one direction may move while others wait: about a tenth of a millisecond's work.
const TURN: usize = 512 * 1024;

impl Resources {
    /// `pipes` bounds how many are open at once.
    pub fn new(pipes: usize, idle_timeout: Option<Duration>, display: Option<DumpHandle>) -> Resources {
        let scratch = vec![0; LARGEST].into_boxed_slice();
        Resources { scratch, pipes: Pipes::new(pipes), first_size: 1, idle_timeout, display }
    }
}

impl Direction {
    /// What this one sends.
    pub fn from(sender: DumpSource) -> Direction {
        Direction { sender, moved: 0, pending: Pending::Nothing, size: 0, full: 0 }
    }

    /// Moves bytes until there are none, there is no room, or the turn is over.
    ///
    /// # Errors
    /// Which side failed. The bytes kept are lost with the connection, which the caller makes visible.
    pub fn advance(
        &mut self,
        from: &mut Peer,
        to: &mut Peer,
        resources: &mut Resources,
    ) -> Result<Progress, RelayError> {
        let limit = self.moved + TURN as u64;
        loop {
            if !self.unload(to, resources)? {
                return Ok(Progress::Waits);
            }
            if !from.readable {
                return Ok(Progress::Waits);
            }
            if self.moved >= limit {
                return Ok(Progress::Yields);
            }
            if self.load(from, to, resources)? == ReadOutcome::End {
                return Ok(Progress::Ended);
            }
        }
    }

    /// Whether the other side keeps this direction from reading on.
    pub fn is_stuck(&self) -> bool {
        match self.pending {
            Pending::Nothing => false,
            Pending::Bytes { .. } | Pending::Piped(_) => true,
        }
    }

    /// Lets go of what it holds.
    pub fn clear(&mut self, resources: &mut Resources) {
        match mem::take(&mut self.pending) {
            Pending::Nothing | Pending::Bytes { .. } => {}
            Pending::Piped(pipe) => resources.pipes.give_back(pipe),
        }
    }

    /// Writes what is kept; false when not all of it could be.
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

    /// Reads once and passes on what the other side takes.
    fn load(&mut self, from: &mut Peer, to: &mut Peer, resources: &mut Resources) -> Result<ReadOutcome, RelayError> {
        if self.full >= SETTLED
            && resources.display.is_none()
            && from.can_splice_to(to)
            && let Some(pipe) = resources.pipes.take()
        {
            return self.splice(from, pipe, resources);
        }
        self.copy(from, to, resources)
    }

    fn copy(&mut self, from: &mut Peer, to: &mut Peer, resources: &mut Resources) -> Result<ReadOutcome, RelayError> {
        self.size = self.size.max(resources.first_size);
        let buffer = &mut resources.scratch[..self.size];
        let read = from.read(buffer);
        if let Some(display) = &resources.display {
            match &read {
                Ok(Some(0)) => display.end(self.sender),
                Ok(Some(length)) => display.bytes(self.sender, &buffer[..*length]),
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
                if length < FEW {
                    self.full = 0;
                    self.size = resources.first_size;
                }
                self.pending = Pending::Piped(pipe);
            }
            // The end, or an urgent byte: a read tells.
            Ok(Some(_)) => {
                self.full = 0;
                resources.pipes.give_back(pipe);
            }
            Ok(None) => resources.pipes.give_back(pipe),
            Err(e) => {
                resources.pipes.give_back(pipe);
                // Where sockets cannot be spliced; the peer's own failures have other names, and a read tells them too.
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

/// A write that is said to have moved nothing would be repeated for ever.
fn some(written: io::Result<Option<usize>>) -> Result<Option<usize>, RelayError> {
    match written {
        Ok(Some(0)) => Err(RelayError::Writing(io::ErrorKind::WriteZero.into())),
        Ok(written) => Ok(written),
        Err(e) => Err(RelayError::Writing(e)),
    }
}

/// A copy of what could not be written yet. Without memory for it this client's connection fails, and no other.
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
