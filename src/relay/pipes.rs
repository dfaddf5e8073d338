//! Pipes for splice(2), which are reused. A pipe in the pool is always empty: a pipe dropped with bytes in it is
//! closed. When no pipe is available, bytes are copied; that is not reported.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::net::Stream;

/// The pipes of one thread.
#[derive(Debug)]
pub struct Pipes {
    idle: Vec<Pipe>,
    /// Number of pipes that all threads together may still open. Each takes two descriptors.
    left: Arc<AtomicUsize>,
    /// A pipe was taken since the last `tidy`.
    used: bool,
}

/// A pipe and the number of bytes in it.
#[derive(Debug)]
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    /// Bytes in the pipe. May exceed the pipe's size, which the system counts in pages.
    held: usize,
}

/// Requested size in bytes. It stays at 64 KiB if the user's limit for pipe memory is reached (pipe(7)).
pub const SIZE: usize = 256 * 1024;
/// Number of idle pipes that are kept for their next use.
const KEPT: usize = 8;

impl Pipes {
    pub fn new(left: Arc<AtomicUsize>) -> Pipes {
        Pipes { idle: Vec::new(), left, used: false }
    }

    /// An empty pipe, if one is available.
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

    /// Whether idle pipes hold descriptors.
    pub fn are_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Closes the idle pipes, if none was taken since the last call.
    pub fn tidy(&mut self) {
        if !std::mem::take(&mut self.used) {
            self.close_idle();
        }
    }

    /// Returns a pipe that is not needed any more.
    pub fn give_back(&mut self, pipe: Pipe) {
        if pipe.held == 0 && self.idle.len() < KEPT {
            self.idle.push(pipe);
        } else {
            self.left.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the idle pipes.
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

    /// Number of bytes that were read and not written yet.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves what has arrived into the pipe, which must be empty: a full one would look like a socket with nothing to
    /// read. 0 may be the end, or an urgent byte.
    ///
    /// # Errors
    /// The error of splice(2).
    pub fn fill(&mut self, from: &Stream) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a pipe is filled when it is empty");
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let length = splice(from, None, &self.into, None, SIZE, flags)?;
        self.held = length;
        Ok(length)
    }

    /// Moves bytes from the pipe to the socket, as many as there is room for.
    ///
    /// # Errors
    /// The error of splice(2).
    pub fn drain(&mut self, to: &Stream) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let length = splice(&self.out, None, to, None, self.held, flags)?;
        self.held -= length.min(self.held);
        Ok(length)
    }
}
