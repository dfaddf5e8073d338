//! Binds listeners and resolves backends before anything starts.

use super::StartError;
use crate::config::{OnUnresolved, Service};
use crate::core::msg::BackendId;
use crate::endpoint::{Address, Endpoint};
use crate::engine::queue;
use crate::engine::resolve::Addresses;
use crate::net::acceptor;
use crate::net::{Listener, Own};
use crate::observe::log_format::{LogFormat, ProcessEvent};

/// A service's listeners.
pub struct BoundListeners {
    pub listeners: Vec<Listener>,
    /// Listeners that could not be bound and are to be retried.
    pub later: Vec<Endpoint>,
}

impl BoundListeners {
    /// Binds all listeners of a service.
    ///
    /// # Errors
    /// A listener that cannot be bound, unless it is to be retried.
    pub fn bind(service: &Service, log_format: &mut dyn LogFormat) -> Result<BoundListeners, StartError> {
        let mut bound = BoundListeners { listeners: Vec::new(), later: Vec::new() };
        for at in &service.listeners {
            match (acceptor::bind(at, queue(&service.network)), service.network.bind_retry) {
                (Ok(listeners), _) => bound.listeners.extend(listeners),
                (Err(error), Some(again)) => {
                    log_format.process_event(&ProcessEvent::BindFailed { service, at, cause: error.cause(), again });
                    bound.later.push(at.clone());
                }
                (Err(error), None) => {
                    return Err(StartError::of_bind(at, error, |at, cause| StartError::Listen { at, cause }));
                }
            }
        }
        if bound.listeners.is_empty() && bound.later.is_empty() {
            return Err(StartError::NowhereToListen);
        }
        Ok(bound)
    }

    /// The bound addresses, with the ports the system chose.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().filter_map(|listener| listener.address().ok()).collect()
    }

    /// The current and later addresses of the listeners, which backends must not have.
    pub fn own(&self) -> Own {
        // A listener without an address cannot be dialled either.
        let later = self.later.iter().flat_map(|at| at.resolve_own().unwrap_or_default());
        Own::new(self.addresses().into_iter().chain(later))
    }

    /// The addresses of all backends. None may be one of these listeners or of the control listeners.
    ///
    /// # Errors
    /// The first backend that cannot be used.
    pub fn resolve_backends(&self, service: &Service, control: &[Address]) -> Result<Addresses, StartError> {
        let own = self.own().and(control);
        let endpoints = service.backends().map(|backend| &backend.endpoint);
        let addresses = match service.network.unresolved {
            OnUnresolved::Unreachable => Addresses::resolve_what_can_be(endpoints, own.clone()),
            OnUnresolved::Error => Addresses::resolve(endpoints, own.clone()).map_err(|e| {
                let active = service.upstreams.first();
                let is_active =
                    active.is_some_and(|active| active.backends().any(|backend| backend.endpoint == e.endpoint));
                let role = if is_active { "active" } else { "standby" };
                StartError::Resolve { role, backend: e.endpoint, cause: e.cause }
            })?,
        };
        match leading_to(&own, service, &addresses) {
            Some(backend) => Err(StartError::Loop { backend: backend.clone() }),
            None => Ok(addresses),
        }
    }
}

/// The first backend of a service that leads to one of these listeners.
fn leading_to<'a>(own: &Own, service: &'a Service, addresses: &Addresses) -> Option<&'a Endpoint> {
    let leads = |number: usize| addresses.of(BackendId(number)).iter().any(|address| own.has(address));
    service.backends().enumerate().find(|(number, _)| leads(*number)).map(|(_, backend)| &backend.endpoint)
}

/// A service may use a listener of another service as its backend. If that leads back to the first service, a client
/// would loop until the capacity is exhausted.
///
/// # Errors
/// A backend on such a loop.
pub fn refuse_circles(
    services: &[Service],
    bound: &[BoundListeners],
    addresses: &[Addresses],
) -> Result<(), StartError> {
    let own: Vec<_> = bound.iter().map(BoundListeners::own).collect();
    let nexts = |from: usize| {
        let (service, addresses) = (&services[from], &addresses[from]);
        (0..own.len()).filter_map(|to| Some((to, leading_to(&own[to], service, addresses)?)))
    };
    let ways: Vec<Vec<_>> = (0..services.len()).map(|from| nexts(from).collect()).collect();
    for start in 0..services.len() {
        let (mut seen, mut waiting) = (vec![false; services.len()], vec![start]);
        while let Some(at) = waiting.pop() {
            for (to, backend) in &ways[at] {
                if *to == start {
                    return Err(StartError::Loop { backend: (*backend).clone() });
                }
                if !std::mem::replace(&mut seen[*to], true) {
                    waiting.push(*to);
                }
            }
        }
    }
    Ok(())
}

/// Servers of two upstreams that share an address now, although their names differ. This may be a mistake, or a state
/// that the name server will change: so it is a warning, and the program starts.
pub fn shared_now(service: &Service, addresses: &Addresses) -> Vec<(Endpoint, Endpoint)> {
    let upstreams = service.upstreams.iter().enumerate();
    let of = upstreams.flat_map(|(upstream, config)| config.backends().map(move |backend| (upstream, backend)));
    let all: Vec<_> = of.enumerate().collect();
    let mut shared = Vec::new();
    for (number, (upstream, backend)) in &all {
        for (other_number, (other_upstream, other)) in &all {
            let meet = || {
                let others = addresses.of(BackendId(*other_number));
                addresses.of(BackendId(*number)).iter().any(|address| others.contains(address))
            };
            if upstream < other_upstream && !backend.endpoint.is_same_place(&other.endpoint) && meet() {
                shared.push((backend.endpoint.clone(), other.endpoint.clone()));
            }
        }
    }
    shared
}
