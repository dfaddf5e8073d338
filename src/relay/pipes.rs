//! Pipes for splice(2), used again. A pipe in the pool is empty: one that was dropped with bytes in it is closed, never
//! kept. When there is none to be had, nobody is told: bytes are copied then.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::net::Stream;

/// What one thread has.
#[derive(Debug)]
pub struct Pipes {
    idle: Vec<Pipe>,
    /// How many more may be opened, by all threads together; each takes two descriptors.
    left: Arc<AtomicUsize>,
    /// One was taken since `tidy`.
    used: bool,
}

/// A pipe, and what is known to be in it.
#[derive(Debug)]
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    /// Bytes in it. Not bounded by the pipe's size, which counts pages.
    held: usize,
}

/// Asked for; where the user's share of pipe memory is used up (pipe(7)) it stays at 64 KiB.
pub const SIZE: usize = 256 * 1024;
/// Pipes that wait for their next use.
const KEPT: usize = 8;

impl Pipes {
    pub fn new(left: Arc<AtomicUsize>) -> Pipes {
        Pipes { idle: Vec::new(), left, used: false }
    }

    /// An empty pipe, if there is one to be had.
    pub fn take(&mut self) -> Option<Pipe> {
        self.used = true;
        self.idle.pop().or_else(|| {
            let fewer = |left: usize| left.checked_sub(1);
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).ok()?;
            let made = Pipe::new();
            if made.is_err() {
                self.left.fetch_add(1, Ordering::Relaxed);
            }
            made.ok()
        })
    }

    /// Whether descriptors are held for nobody.
    pub fn are_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Closes what waits, if nothing was needed since this was called last.
    pub fn tidy(&mut self) {
        if !std::mem::take(&mut self.used) {
            self.close_idle();
        }
    }

    /// It is not needed any more.
    pub fn give_back(&mut self, pipe: Pipe) {
        if pipe.held == 0 && self.idle.len() < KEPT {
            self.idle.push(pipe);
        } else {
            self.left.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes what waits.
    pub fn close_idle(&mut self) {
        let number = self.idle.len();
        self.idle.clear();
        self.left.fetch_add(number, Ordering::Relaxed);
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.close_idle();
    }
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&into, SIZE).ok();
        Ok(Pipe { out, into, held: 0 })
    }

    /// Bytes that were read and not yet written.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves what has arrived into the pipe, which must be empty: a full one would look like a socket with nothing to
    /// read. 0 may be the end, or an urgent byte.
    ///
    /// # Errors
    /// What splice(2) says.
    pub fn fill(&mut self, from: &Stream) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a pipe is filled when it is empty");
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let length = splice(from, None, &self.into, None, SIZE, flags)?;
        self.held = length;
        Ok(length)
    }

    /// Moves bytes on, as many as there is room for.
    ///
    /// # Errors
    /// What splice(2) says.
    pub fn drain(&mut self, to: &Stream) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let length = splice(&self.out, None, to, None, self.held, flags)?;
        self.held -= length.min(self.held);
        Ok(length)
    }
}
