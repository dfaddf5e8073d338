//! Accepts clients or control sessions and passes them to a handler; does not know what happens to them. An error of
//! one client does not end it: a client that hung up before it was accepted is skipped, and when descriptors run out
//! the newest client is closed and accepting continues.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{ListenOptions, Listener, Stream, errno};
use crate::endpoint::{Address, Endpoint};
use crate::rate_limit::RateLimit;
use crate::threads;

/// Why an endpoint cannot be listened on.
#[derive(Debug)]
pub enum BindError {
    /// It has no address.
    Resolve(io::Error),
    /// One of its addresses cannot be bound.
    Bind(io::Error),
}

impl BindError {
    pub fn cause(&self) -> &io::Error {
        match self {
            BindError::Resolve(cause) | BindError::Bind(cause) => cause,
        }
    }
}

/// Listens on all addresses of an endpoint, or on none; for a name, on all of its addresses that this machine has.
///
/// # Errors
/// The first error.
pub fn bind(at: &Endpoint, queue: ListenOptions) -> Result<Vec<Listener>, BindError> {
    let (mut listeners, mut missing) = (Vec::new(), None);
    for address in at.resolve_own().map_err(BindError::Resolve)? {
        match Listener::bind(&address, queue) {
            Ok(listener) => listeners.push(listener),
            // A name may have addresses of a kind that this machine has not: `localhost`, where there is no IPv6.
            Err(cause) if at.is_name() && errno::is_not_here(&cause) => missing = Some(cause),
            Err(cause) => return Err(BindError::Bind(cause)),
        }
    }
    match missing {
        Some(cause) if listeners.is_empty() => Err(BindError::Bind(cause)),
        Some(_) | None => Ok(listeners),
    }
}

/// Takes over what a listener accepts. Must not wait.
pub trait AcceptHandler: Send + 'static {
    fn accepted(&mut self, stream: Stream, peer: Address);
    /// The listener failed and has stopped.
    fn failed(&mut self, cause: io::Error);
}

/// A listener and its threads. Dropping it stops the listener and joins the threads.
#[derive(Debug)]
pub struct Acceptor {
    listener: Arc<Listener>,
    threads: Vec<JoinHandle<()>>,
}

/// Pause when no descriptor is left even to accept and close a client.
const PAUSE: Duration = Duration::from_millis(100);
/// How long clients in the accept queue can delay the stop of a listener. Its threads need microseconds for each,
/// unless descriptors have run out.
const LAST_CALL: Duration = Duration::from_millis(300);
/// Time for handshakes in progress to complete, if another listener takes over; a handshake takes one round trip.
const HANDSHAKE: Duration = Duration::from_millis(200);

/// Waits until the accept queues are empty, because stopping a listener resets the clients in them. Call it before
/// dropping the acceptors.
pub fn last_call(listening: &[Acceptor]) {
    let others = listening.iter().filter(|one| one.listener.leaves_clients_to_others()).count();
    if others > 0 {
        std::thread::sleep(HANDSHAKE);
    }
    let deadline = Instant::now() + LAST_CALL;
    while listening.iter().any(|one| one.listener.has_waiting()) && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

impl Acceptor {
    /// Starts `threads` threads, each with its own handler. The first has the name `name`; the others have it with a
    /// number appended.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start<A: AcceptHandler>(
        listener: Listener,
        name: &str,
        threads: usize,
        mut acceptor: impl FnMut() -> A,
    ) -> io::Result<Acceptor> {
        let mut listening = Acceptor { listener: Arc::new(listener), threads: Vec::new() };
        for number in 1..=threads {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let (own, mut acceptor) = (Arc::clone(&listening.listener), acceptor());
            listening.threads.push(threads::spawn(&name, move || run(&own, &mut acceptor))?);
        }
        Ok(listening)
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.listener.stop();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Classes of errors of `accept`.
enum AcceptError {
    /// An error of that client or of the network: the next accept may succeed.
    Passing,
    /// The process or the system has no descriptors or memory left.
    Shortage,
    /// The listener was stopped.
    Stopped,
    /// The listener will never work again.
    Fatal,
}

fn judge(error: &io::Error) -> AcceptError {
    if errno::is_passing(error) {
        AcceptError::Passing
    } else if errno::is_shortage(error) {
        AcceptError::Shortage
    } else if errno::is(error, Errno::INVAL) {
        AcceptError::Stopped
    } else {
        AcceptError::Fatal
    }
}

fn run(listener: &Listener, acceptor: &mut impl AcceptHandler) {
    let mut reserve = SpareDescriptor::new();
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                reserve.over();
                acceptor.accepted(stream, peer);
            }
            Err(e) => match judge(&e) {
                AcceptError::Passing => {}
                AcceptError::Shortage => {
                    if let Some((stream, peer)) = reserve.bridge(listener, &e) {
                        acceptor.accepted(stream, peer);
                    }
                }
                AcceptError::Stopped => return,
                AcceptError::Fatal => return acceptor.failed(e),
            },
        }
    }
}

/// A spare descriptor for a shortage: closing it makes it possible to accept and close a client that would otherwise
/// hang in the accept queue.
struct SpareDescriptor {
    spare: Option<File>,
    refusals: RateLimit,
}

impl SpareDescriptor {
    fn new() -> SpareDescriptor {
        SpareDescriptor { spare: File::open("/dev/null").ok(), refusals: RateLimit::default() }
    }

    /// Accepting works again.
    fn over(&mut self) {
        if self.spare.is_none() {
            self.spare = File::open("/dev/null").ok();
        }
    }

    /// Accepts the newest client with the spare descriptor. If a new spare can be opened, the shortage is over and the
    /// client is returned, because the accept may have waited long. Otherwise the client is closed. If even accepting
    /// fails, pauses.
    fn bridge(&mut self, listener: &Listener, cause: &io::Error) -> Option<(Stream, Address)> {
        // A shortage can end and return many times per second, because each closed client frees a descriptor.
        if let Some(more) = self.refusals.turn(Instant::now()) {
            log::error!("cannot accept a client: {cause}; new clients are closed until that is over{more}");
        }
        let had_one = self.spare.take().is_some();
        let accepted = listener.accept();
        self.spare = File::open("/dev/null").ok();
        match accepted {
            Ok(client) if self.spare.is_some() => {
                self.over();
                Some(client)
            }
            Ok(client) => {
                drop(client);
                self.spare = File::open("/dev/null").ok();
                None
            }
            Err(_) => {
                if !had_one {
                    std::thread::sleep(PAUSE);
                }
                None
            }
        }
    }
}
