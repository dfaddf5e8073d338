//! One client's way to a backend: the addresses of its name are tried in turn, within one time limit.
//!
//! The first connect is begun by whoever calls [`Attempt::begin`], so that connects begin in the order in which clients
//! were released (promise 3); the waiting is the worker's. Does not read a byte of the client.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::leash::{Leash, Over};
use crate::core::msg::DialFailure;
use crate::endpoint::Address;
use crate::net::{Stream, wait_until};

/// A dial under way.
#[derive(Debug)]
pub struct Attempt {
    addresses: Arc<[Address]>,
    /// Index of the address being tried; `at < addresses.len()`.
    at: usize,
    deadline: Instant,
    current: io::Result<Arc<Stream>>,
}

/// Why a dial came to nothing.
#[derive(Debug)]
pub enum Failed {
    /// Nobody answered, or there is no descriptor.
    Error(io::Error),
    Over(Over),
}

impl Attempt {
    /// Begins to connect to the first address. Does not wait.
    pub fn begin(addresses: Arc<[Address]>, timeout: Duration) -> Attempt {
        let current = connect(addresses.first());
        Attempt { addresses, at: 0, deadline: Instant::now() + timeout, current }
    }

    /// The socket that is connecting, for the leash.
    pub fn stream(&self) -> Option<Arc<Stream>> {
        self.current.as_ref().ok().map(Arc::clone)
    }

    /// Waits for the connection, going on to the next address when one fails. The time that is left is shared by the
    /// addresses that are left, so that a silent first one leaves some for the second.
    ///
    /// # Errors
    /// The last address's error, or that the leash was pulled.
    pub fn finish(mut self, leash: &Leash) -> Result<(Arc<Stream>, Address), Failed> {
        loop {
            let remaining = (self.addresses.len() - self.at).max(1);
            let left = self.deadline.saturating_duration_since(Instant::now()) / remaining as u32;
            let error = match self.current.and_then(|stream| wait(&stream, left).map(|()| stream)) {
                Ok(stream) => return Ok((stream, self.addresses[self.at].clone())),
                Err(error) => error,
            };
            leash.check().map_err(Failed::Over)?;
            if queue_is_full(&error) && left > FULL {
                std::thread::sleep(FULL);
            } else {
                self.at += 1;
                if self.at >= self.addresses.len() || is_local(&error) {
                    return Err(Failed::Error(error));
                }
            }
            self.current = connect(self.addresses.get(self.at));
            if let Ok(stream) = &self.current {
                leash.retarget(stream).map_err(Failed::Over)?;
            }
        }
    }
}

/// The pause before a Unix listener whose queue was full is tried again. There is nothing to wait for: the system tells
/// a connect that does not block when a queue is full, and nobody when it is not any more.
const FULL: Duration = Duration::from_millis(5);

/// Whose fault a failed dial was.
pub fn blame(error: &io::Error) -> DialFailure {
    if is_local(error) { DialFailure::Local } else { DialFailure::Backend }
}

fn connect(address: Option<&Address>) -> io::Result<Arc<Stream>> {
    let address = address.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
    Stream::begin_connect(address).map(Arc::new)
}

/// Waits until the connection stands.
fn wait(stream: &Stream, limit: Duration) -> io::Result<()> {
    if !wait_until(&mut [PollFd::new(stream, PollFlags::OUT)], Instant::now() + limit)? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within the connect timeout"));
    }
    if let Some(error) = stream.connection_error()? {
        return Err(error);
    }
    // A socket that was aborted while it connected reports no error, but has no peer either.
    if stream.peer().is_none() {
        return Err(io::Error::from(io::ErrorKind::NotConnected));
    }
    // Here, on the client's own thread, rather than in `begin`, on everybody's.
    stream.tune();
    stream.set_blocking()
}

/// Whether a Unix listener had no room at the moment: a TCP connect would have waited by itself.
fn queue_is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AGAIN.raw_os_error())
}

/// Whether this process, not the backend, was short of something.
fn is_local(error: &io::Error) -> bool {
    let local = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.iter().any(|errno| errno.raw_os_error() == code))
}
