//! Retries to bind the listeners that could not be bound at the start, at regular intervals on a thread of its own,
//! while the rest of the service runs. Each failure is logged.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use super::messages::{CoordinatorHandle, Message};
use super::queue;
use crate::config::Service;
use crate::endpoint::Endpoint;
use crate::net::acceptor::bind;
use crate::observe::log_format::{LogFormat, ProcessEvent};
use crate::threads::Repeating;

/// The thread. Dropping it ends and joins it.
pub struct Rebind {
    _thread: Repeating,
}

impl Rebind {
    /// Starts to retry these listeners of this service, until all are bound.
    ///
    /// # Errors
    /// If the system has no thread.
    pub fn start(
        places: Vec<Endpoint>,
        every: Duration,
        service: Service,
        log_format: Box<dyn LogFormat>,
        handle: CoordinatorHandle,
    ) -> io::Result<Rebind> {
        let mut retry = BindRetry { places, every, service, handle, log_format };
        Ok(Rebind { _thread: Repeating::start("bind-retry", every, move || retry.run())? })
    }
}

struct BindRetry {
    /// The endpoints that are not bound yet.
    places: Vec<Endpoint>,
    every: Duration,
    service: Service,
    handle: CoordinatorHandle,
    log_format: Box<dyn LogFormat>,
}

impl BindRetry {
    /// Tries each endpoint once. Breaks when all are bound.
    fn run(&mut self) -> ControlFlow<()> {
        for at in std::mem::take(&mut self.places) {
            match bind(&at, queue(&self.service.network)) {
                Ok(listeners) => {
                    for listener in listeners {
                        if let Ok(at) = listener.address() {
                            self.log_format.process_event(&ProcessEvent::Listening { service: &self.service, at: &at });
                        }
                        self.handle.send(Message::Bound(listener));
                    }
                }
                Err(failed) => {
                    let (service, cause, again) = (&self.service, failed.cause(), self.every);
                    self.log_format.process_event(&ProcessEvent::BindFailed { service, at: &at, cause, again });
                    self.places.push(at);
                }
            }
        }
        if self.places.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
