//! The addresses of the backends' names: resolved at the start, then again every 30 s and when asked, on a thread of
//! their own. A refresh that fails keeps the last good addresses and is logged once. Never asked on the data path.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, unbounded};
use parking_lot::RwLock;

use crate::core::msg::BackendId;
use crate::endpoint::{Address, Endpoint};
use crate::threads;

/// How often names are asked for again.
const REFRESH: Duration = Duration::from_secs(30);
/// How long a switchover waits for fresh addresses before it starts with the ones it has.
const PATIENCE: Duration = Duration::from_secs(1);

/// The current addresses of every backend.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    current: RwLock<Arc<[Address]>>,
}

/// The thread that asks again; none is started when every backend is an address already.
#[derive(Debug)]
pub struct Resolver {
    // Dropped first: the thread ends when it is.
    requests: Option<Sender<Sender<()>>>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// A backend without an address at the start.
#[derive(Debug)]
pub struct Unresolved {
    pub endpoint: Endpoint,
    pub cause: io::Error,
}

impl Addresses {
    /// Asks for all of them.
    ///
    /// # Errors
    /// The first backend that has no address.
    pub fn resolve<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Result<Addresses, Unresolved> {
        let entry = |endpoint: &Endpoint| match endpoint.resolve() {
            Ok(found) => Ok(Entry { endpoint: endpoint.clone(), current: RwLock::new(found.into()) }),
            Err(cause) => Err(Unresolved { endpoint: endpoint.clone(), cause }),
        };
        Ok(Addresses(Arc::new(endpoints.map(entry).collect::<Result<_, _>>()?)))
    }

    /// The addresses of one backend; empty for an id that does not exist.
    pub fn of(&self, backend: BackendId) -> Arc<[Address]> {
        self.0.get(backend.0).map_or_else(|| Arc::new([]) as Arc<[Address]>, |entry| Arc::clone(&entry.current.read()))
    }

    /// Asks for all names again; `failed` remembers whose last refresh failed, so that it is told once.
    fn refresh(&self, failed: &mut [bool]) {
        for (entry, failed) in self.0.iter().zip(failed).filter(|(entry, _)| entry.endpoint.is_name()) {
            match entry.endpoint.resolve() {
                Ok(found) => {
                    if **entry.current.read() != *found {
                        let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
                        log::info!("backend {} is now at {}", entry.endpoint, shown.join(", "));
                        *entry.current.write() = found.into();
                    }
                    *failed = false;
                }
                Err(e) if !*failed => {
                    log::warn!("cannot resolve backend {}: {e}; its last addresses stay in use", entry.endpoint);
                    *failed = true;
                }
                Err(_) => {}
            }
        }
    }
}

impl Resolver {
    /// Starts asking again from time to time, if there is a name to ask for.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(addresses: &Addresses) -> io::Result<Resolver> {
        if !addresses.0.iter().any(|entry| entry.endpoint.is_name()) {
            return Ok(Resolver { requests: None, thread: None, ended: never() });
        }
        let (requests, inbox) = unbounded::<Sender<()>>();
        let (running, ended) = bounded::<()>(0);
        let addresses = addresses.clone();
        let thread = threads::spawn("resolver", move || {
            let _running = running;
            let mut failed = vec![false; addresses.0.len()];
            loop {
                let asker = match inbox.recv_timeout(REFRESH) {
                    Ok(asker) => Some(asker),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                addresses.refresh(&mut failed);
                // Whoever asked may have stopped waiting.
                asker.map(|asker| asker.try_send(()));
            }
        })?;
        Ok(Resolver { requests: Some(requests), thread: Some(thread), ended })
    }

    /// Something to wait with for fresh addresses.
    pub fn refresher(&self) -> Refresher {
        Refresher(self.requests.clone())
    }
}

/// Asks for fresh addresses, from any thread.
#[derive(Clone, Debug)]
pub struct Refresher(Option<Sender<Sender<()>>>);

impl Refresher {
    /// Waits until all names have been asked for, but no longer than a second: a resolver that hangs must not keep an
    /// operator from switching.
    pub fn refresh(&self) {
        let Some(requests) = &self.0 else { return };
        let (done, wait) = bounded(1);
        if requests.send(done).is_ok() && wait.recv_timeout(PATIENCE).is_err() {
            log::warn!("the backends' names were not resolved within 1 s; their last addresses stay in use");
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.requests = None;
        let Some(thread) = self.thread.take() else { return };
        // A call that hangs in the system's library cannot be woken, and must not hold up the end of the program.
        match self.ended.recv_timeout(PATIENCE) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                thread.join().ok();
            }
            Err(RecvTimeoutError::Timeout) => log::warn!("the system's resolver hangs; its thread is left behind"),
        }
    }
}
