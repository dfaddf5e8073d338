//! Listeners that could not be bound at the start: tried again every so often, on a thread of their own, while the rest
//! of the service runs. Each failure is told.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::messages::{CoordinatorHandle, Message};
use super::queue;
use crate::config::Service;
use crate::endpoint::Endpoint;
use crate::net::acceptor::bind;
use crate::observe::log_format::{LogFormat, ProcessEvent};
use crate::threads;

/// The thread. Dropping it ends and joins it.
pub struct Rebind {
    // Dropped first: the thread ends when it is.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rebind {
    /// Tries again to bind these listeners of this service, until all are bound.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(
        places: Vec<Endpoint>,
        every: Duration,
        service: Service,
        log_format: Box<dyn LogFormat>,
        handle: CoordinatorHandle,
    ) -> io::Result<Rebind> {
        let (stop, stopped) = bounded(0);
        let dial = BindRetry { places, every, service, handle, log_format };
        let thread = threads::spawn("bind-retry", move || dial.run(&stopped))?;
        Ok(Rebind { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Rebind {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct BindRetry {
    /// Not bound yet.
    places: Vec<Endpoint>,
    every: Duration,
    service: Service,
    handle: CoordinatorHandle,
    log_format: Box<dyn LogFormat>,
}

impl BindRetry {
    fn run(mut self, stopped: &Receiver<()>) {
        while !self.places.is_empty() && stopped.recv_timeout(self.every) == Err(RecvTimeoutError::Timeout) {
            for at in std::mem::take(&mut self.places) {
                match bind(&at, queue(&self.service.network)) {
                    Ok(listeners) => {
                        for listener in listeners {
                            if let Ok(at) = listener.address() {
                                self.log_format
                                    .process_event(&ProcessEvent::Listening { service: &self.service, at: &at });
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
        }
    }
}
