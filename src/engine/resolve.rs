//! The addresses of the backends' names: resolved at the start, then every 30 s and on request, on a thread of their
//! own. If a refresh fails, the last good addresses are kept and the failure is logged once. Dialling a client never
//! waits for the resolver.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select_biased, unbounded};
use parking_lot::RwLock;

use crate::core::msg::{BackendId, EndpointId};
use crate::endpoint::{Address, Endpoint};
use crate::net::Own;
use crate::threads;

/// Interval between two refreshes.
const REFRESH: Duration = Duration::from_secs(30);
/// The longest time that a switchover waits for fresh addresses. After that it starts with those it has.
const PATIENCE: Duration = Duration::from_secs(1);

/// The current addresses of every backend. Cheap to clone; all clones share the same table.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<AddressTable>);

#[derive(Debug)]
struct AddressTable {
    /// All endpoints that were ever used, indexed by `EndpointId`. Never shrinks.
    known: RwLock<Vec<Arc<ResolvedEndpoint>>>,
    /// The endpoint of each backend, indexed by `BackendId`.
    places: RwLock<Vec<EndpointId>>,
    /// The addresses of this process, which no backend may have.
    own: Own,
}

#[derive(Debug)]
struct ResolvedEndpoint {
    endpoint: Endpoint,
    current: RwLock<Arc<[Address]>>,
    /// The last refresh failed, and that was logged.
    failed: AtomicBool,
}

/// The thread that refreshes names. Not started when every backend is given as an address.
#[derive(Debug)]
pub struct Resolver {
    requests: Option<Sender<Sender<()>>>,
    /// Dropping it ends the thread. Disconnecting the request channel would not, because refreshers keep senders of it
    /// until the program ends.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// Why an endpoint cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlearned {
    /// It has no address.
    Unresolved,
    /// This process listens there.
    Own,
}

/// A backend without an address at the start.
#[derive(Debug)]
pub struct ResolveError {
    pub endpoint: Endpoint,
    pub cause: io::Error,
}

impl Addresses {
    /// Resolves all endpoints. Endpoints that are learned later must not be one of `own`.
    ///
    /// # Errors
    /// The first endpoint that has no address.
    pub fn resolve<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, own: Own) -> Result<Addresses, ResolveError> {
        let entry = |endpoint: &Endpoint| match endpoint.resolve() {
            Ok(found) => Ok(ResolvedEndpoint::new(endpoint, found)),
            Err(cause) => Err(ResolveError { endpoint: endpoint.clone(), cause }),
        };
        Ok(Addresses::of_entries(endpoints.map(entry).collect::<Result<Vec<_>, _>>()?, own))
    }

    /// Like `resolve`, but accepts an endpoint without an address. It cannot be dialled until a refresh has found one.
    pub fn resolve_what_can_be<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, own: Own) -> Addresses {
        let entry = |endpoint: &Endpoint| {
            let found = endpoint.resolve().unwrap_or_else(|cause| {
                log::warn!("cannot resolve backend {endpoint}: {cause}; it counts as one that cannot be reached");
                Vec::new()
            });
            ResolvedEndpoint::new(endpoint, found)
        };
        Addresses::of_entries(endpoints.map(entry).collect(), own)
    }

    fn of_entries(known: Vec<Arc<ResolvedEndpoint>>, own: Own) -> Addresses {
        let places = (0..known.len()).map(EndpointId).collect();
        Addresses(Arc::new(AddressTable { known: RwLock::new(known), places: RwLock::new(places), own }))
    }

    /// The addresses of this process, which no backend may have.
    pub fn own(&self) -> Own {
        self.0.own.clone()
    }

    /// Resolves a new endpoint, so that a backend may be given it. Blocks for as long as the resolver does.
    ///
    /// # Errors
    /// If it has no address, or one on which this process listens.
    pub fn learn(&self, endpoint: &Endpoint) -> Result<EndpointId, Unlearned> {
        let found = endpoint.resolve().map_err(|_| Unlearned::Unresolved)?;
        if found.iter().any(|address| self.0.own.has(address)) {
            return Err(Unlearned::Own);
        }
        let mut known = self.0.known.write();
        let at = known.iter().position(|entry| entry.endpoint == *endpoint).unwrap_or(known.len());
        match known.get(at) {
            Some(entry) => *entry.current.write() = found.into(),
            None => known.push(ResolvedEndpoint::new(endpoint, found)),
        }
        Ok(EndpointId(at))
    }

    /// Gives this backend another endpoint. Returns the endpoint, or `None` for an id that was not learned.
    pub fn assign(&self, backend: BackendId, to: EndpointId) -> Option<Endpoint> {
        let endpoint = self.0.known.read().get(to.0).map(|entry| entry.endpoint.clone())?;
        let mut places = self.0.places.write();
        match places.get_mut(backend.0) {
            Some(place) => *place = to,
            // Backends are created in the order of their ids.
            None => places.push(to),
        }
        Some(endpoint)
    }

    /// The endpoint of a backend; `None` for an id that does not exist.
    pub fn endpoint_of(&self, backend: BackendId) -> Option<Endpoint> {
        self.entry(backend).map(|entry| entry.endpoint.clone())
    }

    /// The addresses of one backend; empty for an id that does not exist.
    pub fn of(&self, backend: BackendId) -> Arc<[Address]> {
        let found = self.entry(backend).map(|entry| Arc::clone(&entry.current.read()));
        found.unwrap_or_else(|| Arc::new([]))
    }

    fn entry(&self, backend: BackendId) -> Option<Arc<ResolvedEndpoint>> {
        let place = *self.0.places.read().get(backend.0)?;
        self.0.known.read().get(place.0).map(Arc::clone)
    }

    fn has_names(&self) -> bool {
        self.0.known.read().iter().any(|entry| entry.endpoint.is_name())
    }

    /// Resolves all names again.
    fn refresh(&self) {
        let known = self.0.known.read().clone();
        for entry in known.iter().filter(|entry| entry.endpoint.is_name()) {
            match entry.endpoint.resolve() {
                Ok(found) => {
                    if let Some(shown) = entry.moves_to(found) {
                        log::info!("backend {} is now at {shown}", entry.endpoint);
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

impl ResolvedEndpoint {
    fn new(endpoint: &Endpoint, found: Vec<Address>) -> Arc<ResolvedEndpoint> {
        let failed = AtomicBool::new(found.is_empty());
        Arc::new(ResolvedEndpoint { endpoint: endpoint.clone(), current: RwLock::new(found.into()), failed })
    }

    /// Takes over the addresses in the order in which they were found: a name server that rotates its answers spreads
    /// the load by that. Returns the addresses as text if they differ from before, whatever their order.
    fn moves_to(&self, found: Vec<Address>) -> Option<String> {
        let mut current = self.current.write();
        let all_in = |these: &[Address], those: &[Address]| these.iter().all(|address| those.contains(address));
        let same = all_in(&current, &found) && all_in(&found, &current);
        let shown = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        *current = found.into();
        (!same).then_some(shown)
    }
}

impl Resolver {
    /// Starts the periodic refresh, if a backend is given by name.
    ///
    /// # Errors
    /// If the system has no thread.
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
                let requester = select_biased! {
                    recv(stopped) -> _ => return,
                    // Never disconnected before `stop` is.
                    recv(inbox) -> requester => requester.ok(),
                    default(REFRESH) => None,
                };
                addresses.refresh();
                // The requester may have stopped waiting.
                requester.map(|requester| requester.try_send(()));
            }
        })?;
        Ok(Resolver { requests: Some(requests), stop: Some(stop), thread: Some(thread), ended })
    }

    /// A handle that requests fresh addresses.
    pub fn refresher(&self) -> Refresher {
        Refresher(self.requests.clone())
    }
}

/// Requests fresh addresses, from any thread.
#[derive(Clone, Debug)]
pub struct Refresher(Option<Sender<Sender<()>>>);

impl Refresher {
    /// Waits until all names are refreshed, at most one second: a resolver that hangs must not keep an operator from
    /// switching.
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
        // A call that hangs in the system's library cannot be interrupted, and must not delay the end of the program.
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
        let addresses = Addresses::of_entries(vec![ResolvedEndpoint::new(&here, Vec::new())], Own::default());
        assert!(addresses.of(BackendId(0)).is_empty() && addresses.has_names());
        addresses.refresh();
        assert_eq!(*addresses.of(BackendId(0)), *here.resolve().unwrap());
    }

    #[test]
    fn what_has_no_address_is_an_error_or_a_backend_without_one() {
        let endpoints =
            [Endpoint::tcp("127.0.0.1", 9), Endpoint::tcp("nosuch.invalid", 9), Endpoint::Malformed("x".to_owned())];
        let own = Own::default;
        assert_eq!(Addresses::resolve(endpoints.iter(), own()).unwrap_err().endpoint, endpoints[1]);
        let addresses = Addresses::resolve_what_can_be(endpoints.iter(), own());
        assert_eq!([0, 1, 2].map(|number| addresses.of(BackendId(number)).len()), [1, 0, 0]);
    }

    #[test]
    fn a_name_whose_addresses_change_their_order_has_not_moved() {
        let [a, b, c] = ["10.0.0.1:9", "10.0.0.2:9", "10.0.0.3:9"].map(|text| Address::Tcp(text.parse().unwrap()));
        let entry = ResolvedEndpoint::new(&Endpoint::tcp("h", 9), vec![a.clone(), b.clone()]);
        assert_eq!(entry.moves_to(vec![b.clone(), a.clone()]), None);
        assert_eq!(**entry.current.read(), [b.clone(), a.clone()], "the new order is used");
        assert_eq!(entry.moves_to(vec![b.clone(), c.clone()]).as_deref(), Some("10.0.0.2:9, 10.0.0.3:9"));
        assert_eq!(entry.moves_to(vec![c.clone()]).as_deref(), Some("10.0.0.3:9"), "one address less");
        assert_eq!(entry.moves_to(vec![a, c]).as_deref(), Some("10.0.0.1:9, 10.0.0.3:9"), "one more");
    }

    #[test]
    fn a_place_this_process_listens_on_is_not_learned() {
        let at = |text: &str| Address::Tcp(text.parse().unwrap());
        let addresses = Addresses::of_entries(Vec::new(), Own::new([at("0.0.0.0:9")]));
        for host in ["127.0.0.1", "localhost", "127.1", "::ffff:127.0.0.1", ""] {
            assert_eq!(addresses.learn(&Endpoint::tcp(host, 9)), Err(Unlearned::Own), "{host}");
        }
        assert_eq!(addresses.learn(&Endpoint::Malformed("x".to_owned())), Err(Unlearned::Unresolved));
        assert_eq!(addresses.learn(&Endpoint::tcp("127.0.0.1", 8)), Ok(EndpointId(0)));
    }
}
