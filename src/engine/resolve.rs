//! The addresses of the backends' names: resolved at the start, then again every 30 s and when asked, on a thread of
//! their own. A refresh that fails keeps the last good addresses and is logged once. Never asked on the data path.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select_biased, unbounded};
use parking_lot::RwLock;

use crate::core::msg::{BackendId, EndpointId};
use crate::endpoint::{Address, Endpoint};
use crate::threads;

/// How often names are asked for again.
const REFRESH: Duration = Duration::from_secs(30);
/// How long a switchover waits for fresh addresses before it starts with the ones it has.
const PATIENCE: Duration = Duration::from_secs(1);

/// The current addresses of every backend. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// All endpoints that were ever used, indexed by `EndpointId`. Never becomes shorter.
    known: RwLock<Vec<Arc<Entry>>>,
    /// Indexed by backend: where it is.
    places: RwLock<Vec<EndpointId>>,
}

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    current: RwLock<Arc<[Address]>>,
    /// Its last refresh failed, and that has been told.
    failed: AtomicBool,
}

/// The thread that asks again; none is started when every backend is an address already.
#[derive(Debug)]
pub struct Resolver {
    requests: Option<Sender<Sender<()>>>,
    /// The thread ends when it is dropped. Requests cannot tell it that: whoever may ask has a sender of those, and keeps
    /// it to the end of the program.
    stop: Option<Sender<()>>,
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
            Ok(found) => Ok(Entry::new(endpoint, found)),
            Err(cause) => Err(Unresolved { endpoint: endpoint.clone(), cause }),
        };
        Ok(Addresses::of_entries(endpoints.map(entry).collect::<Result<Vec<_>, _>>()?))
    }

    /// Asks for all of them. One that has no address cannot be dialled until a refresh has found one.
    pub fn resolve_what_can_be<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Addresses {
        let entry = |endpoint: &Endpoint| {
            let found = endpoint.resolve().unwrap_or_else(|cause| {
                log::warn!("cannot resolve backend {endpoint}: {cause}; it counts as one that cannot be reached");
                Vec::new()
            });
            Entry::new(endpoint, found)
        };
        Addresses::of_entries(endpoints.map(entry).collect())
    }

    fn of_entries(known: Vec<Arc<Entry>>) -> Addresses {
        let places = (0..known.len()).map(EndpointId).collect();
        Addresses(Arc::new(Inner { known: RwLock::new(known), places: RwLock::new(places) }))
    }

    /// Asks for one more endpoint, which a backend may be assigned to then. May block as long as the resolver does.
    ///
    /// # Errors
    /// When it has no address.
    pub fn learn(&self, endpoint: &Endpoint) -> io::Result<EndpointId> {
        let found = endpoint.resolve()?;
        let mut known = self.0.known.write();
        let at = known.iter().position(|entry| entry.endpoint == *endpoint).unwrap_or(known.len());
        match known.get(at) {
            Some(entry) => *entry.current.write() = found.into(),
            None => known.push(Entry::new(endpoint, found)),
        }
        Ok(EndpointId(at))
    }

    /// From now on this backend is there. Returns where, unless nobody has learned of that.
    pub fn assign(&self, backend: BackendId, to: EndpointId) -> Option<Endpoint> {
        let endpoint = self.0.known.read().get(to.0).map(|entry| entry.endpoint.clone())?;
        let mut places = self.0.places.write();
        match places.get_mut(backend.0) {
            Some(place) => *place = to,
            // Backends are created one after the other.
            None => places.push(to),
        }
        Some(endpoint)
    }

    /// Where a backend is; `None` for an id that does not exist.
    pub fn endpoint_of(&self, backend: BackendId) -> Option<Endpoint> {
        self.entry(backend).map(|entry| entry.endpoint.clone())
    }

    /// The addresses of one backend; empty for an id that does not exist.
    pub fn of(&self, backend: BackendId) -> Arc<[Address]> {
        let found = self.entry(backend).map(|entry| Arc::clone(&entry.current.read()));
        found.unwrap_or_else(|| Arc::new([]))
    }

    fn entry(&self, backend: BackendId) -> Option<Arc<Entry>> {
        let place = *self.0.places.read().get(backend.0)?;
        self.0.known.read().get(place.0).map(Arc::clone)
    }

    fn has_names(&self) -> bool {
        self.0.known.read().iter().any(|entry| entry.endpoint.is_name())
    }

    /// Asks for all names again.
    fn refresh(&self) {
        let known = self.0.known.read().clone();
        for entry in known.iter().filter(|entry| entry.endpoint.is_name()) {
            match entry.endpoint.resolve() {
                Ok(found) => {
                    if **entry.current.read() != *found {
                        let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
                        log::info!("backend {} is now at {}", entry.endpoint, shown.join(", "));
                        *entry.current.write() = found.into();
                    }
                    entry.failed.store(false, Ordering::Relaxed);
                }
                Err(e) => {
                    if !entry.failed.swap(true, Ordering::Relaxed) {
                        log::warn!("cannot resolve backend {}: {e}; its last addresses stay in use", entry.endpoint);
                    }
                }
            }
        }
    }
}

impl Entry {
    fn new(endpoint: &Endpoint, found: Vec<Address>) -> Arc<Entry> {
        let failed = AtomicBool::new(found.is_empty());
        Arc::new(Entry { endpoint: endpoint.clone(), current: RwLock::new(found.into()), failed })
    }
}

impl Resolver {
    /// Starts asking again from time to time, if there is a name to ask for.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(addresses: &Addresses) -> io::Result<Resolver> {
        if !addresses.has_names() {
            return Ok(Resolver { requests: None, stop: None, thread: None, ended: never() });
        }
        let (requests, inbox) = unbounded::<Sender<()>>();
        let (stop, stopped) = bounded::<()>(0);
        let (running, ended) = bounded::<()>(0);
        let addresses = addresses.clone();
        let thread = threads::spawn("resolver", move || {
            let _running = running;
            loop {
                let asker = select_biased! {
                    recv(stopped) -> _ => return,
                    // Never disconnected before it is stopped.
                    recv(inbox) -> asker => asker.ok(),
                    default(REFRESH) => None,
                };
                addresses.refresh();
                // Whoever asked may have stopped waiting.
                asker.map(|asker| asker.try_send(()));
            }
        })?;
        Ok(Resolver { requests: Some(requests), stop: Some(stop), thread: Some(thread), ended })
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
        self.stop = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_without_an_address_has_one_once_a_refresh_has_found_it() {
        let here = Endpoint::tcp("localhost", 9);
        let addresses = Addresses::of_entries(vec![Entry::new(&here, Vec::new())]);
        assert!(addresses.of(BackendId(0)).is_empty() && addresses.has_names());
        addresses.refresh();
        assert_eq!(*addresses.of(BackendId(0)), *here.resolve().unwrap());
    }

    #[test]
    fn what_has_no_address_is_an_error_or_a_backend_without_one() {
        let endpoints =
            [Endpoint::tcp("127.0.0.1", 9), Endpoint::tcp("nosuch.invalid", 9), Endpoint::Malformed("x".to_owned())];
        assert_eq!(Addresses::resolve(endpoints.iter()).unwrap_err().endpoint, endpoints[1]);
        let addresses = Addresses::resolve_what_can_be(endpoints.iter());
        assert_eq!([0, 1, 2].map(|number| addresses.of(BackendId(number)).len()), [1, 0, 0]);
    }
}
