//! Where a service listens and whom it reaches: found before anything starts.

use std::net::SocketAddr;

use super::StartError;
use crate::config::{Service, Unresolved};
use crate::core::msg::BackendId;
use crate::endpoint::{Address, Endpoint};
use crate::engine::queue;
use crate::engine::resolve::Addresses;
use crate::listen;
use crate::net::Listener;
use crate::observe::voice::{Moment, Voice};

/// A service's listeners.
pub struct Bound {
    pub listeners: Vec<Listener>,
    /// Those that could not be bound, and are to be tried again.
    pub later: Vec<Endpoint>,
}

impl Bound {
    /// Binds what can be bound.
    ///
    /// # Errors
    /// What cannot be, unless it is to be tried again.
    pub fn bind(service: &Service, voice: &mut dyn Voice) -> Result<Bound, StartError> {
        let mut bound = Bound { listeners: Vec::new(), later: Vec::new() };
        for at in &service.listeners {
            match (listen::bind(at, queue(&service.network)), service.network.bind_retry) {
                (Ok(listeners), _) => bound.listeners.extend(listeners),
                (Err(error), Some(again)) => {
                    voice.moment(&Moment::BindFailed { service, at, cause: error.cause(), again });
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

    /// Where it listens, with the ports the system chose if it was asked to.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().filter_map(|listener| listener.address().ok()).collect()
    }

    /// The addresses of all backends, none of which may be one of these listeners.
    ///
    /// # Errors
    /// The first backend that cannot be used.
    pub fn resolve_backends(&self, service: &Service) -> Result<Addresses, StartError> {
        let mut own = self.addresses();
        // One without an address cannot be dialled either.
        own.extend(self.later.iter().flat_map(|at| at.resolve_own().unwrap_or_default()));
        let endpoints = service.backends().map(|backend| &backend.endpoint);
        let addresses = match service.network.unresolved {
            Unresolved::Unreachable => Addresses::resolve_what_can_be(endpoints),
            Unresolved::Error => Addresses::resolve(endpoints).map_err(|e| {
                let active = service.upstreams.first();
                let is_active =
                    active.is_some_and(|active| active.backends().any(|backend| backend.endpoint == e.endpoint));
                let role = if is_active { "active" } else { "standby" };
                StartError::Resolve { role, backend: e.endpoint, cause: e.cause }
            })?,
        };
        for (number, backend) in service.backends().enumerate() {
            let reached = addresses.of(BackendId(number));
            if own.iter().any(|own| reached.iter().any(|address| is_same(own, address))) {
                return Err(StartError::Loop { backend: backend.endpoint.clone() });
            }
        }
        Ok(addresses)
    }
}

/// Whether dialling `to` ends at the listener `own`, as far as can be told without asking which addresses this machine
/// has.
fn is_same(own: &Address, to: &Address) -> bool {
    match (own, to) {
        (Address::Tcp(own), Address::Tcp(to)) => {
            let to = SocketAddr::new(to.ip().to_canonical(), to.port());
            let reaches =
                own.ip() == to.ip() || own.ip().is_unspecified() && (to.ip().is_loopback() || to.ip().is_unspecified());
            own.port() == to.port() && reaches
        }
        (Address::Unix(own), Address::Unix(to)) => own == to,
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}
