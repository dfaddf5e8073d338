//! Takes the clients that a service's listeners accept. A client without a permit is closed. The others count as
//! arrived, or first wait in the first-bytes thread until they have sent something.

use std::io;
use std::time::Instant;

use super::dispatcher::Dispatcher;
use super::first_bytes::FirstBytesHandle;
use super::messages::{AcceptedClient, CoordinatorHandle, Message, Report};
use super::permits::Permits;
use crate::core::msg::CloseReason;
use crate::endpoint::Address;
use crate::net::acceptor::{AcceptHandler, Acceptor};
use crate::net::{Listener, Stream};

/// What the acceptors of a service share. After it is dropped, no listener can be opened.
pub struct AcceptorFactory {
    pub dispatcher: Dispatcher,
    pub handle: CoordinatorHandle,
    pub permits: Permits,
    /// Where clients wait until they have sent enough; `None` if the service does not ask for that.
    pub first_bytes: Option<FirstBytesHandle>,
    /// Number of threads that accept on each listener.
    pub threads: usize,
    /// Name of these threads.
    pub name: String,
}

impl AcceptorFactory {
    /// Starts to accept clients on this listener.
    ///
    /// # Errors
    /// If the system has no thread.
    pub fn open(&self, listener: Listener) -> io::Result<Acceptor> {
        let acceptor = || ClientAcceptor {
            dispatcher: self.dispatcher.clone(),
            handle: self.handle.clone(),
            permits: self.permits.clone(),
            first_bytes: self.first_bytes.clone(),
            reports: Vec::new(),
        };
        Acceptor::start(listener, &self.name, self.threads, acceptor)
    }
}

/// The state of one accepting thread.
struct ClientAcceptor {
    dispatcher: Dispatcher,
    handle: CoordinatorHandle,
    permits: Permits,
    first_bytes: Option<FirstBytesHandle>,
    /// Reused for each client; empty in between.
    reports: Vec<Report>,
}

impl AcceptHandler for ClientAcceptor {
    fn accepted(&mut self, stream: Stream, peer: Address) {
        let accepted = Instant::now();
        let report = match (self.permits.take(), &self.first_bytes) {
            (None, _) => {
                drop(stream);
                Some(Report::NeverArrived { peer, accepted, why: CloseReason::NoRoom })
            }
            (Some(permit), None) => Some(Report::Accepted(AcceptedClient { stream, peer, accepted, permit })),
            (Some(permit), Some(first_bytes)) => first_bytes.enter(AcceptedClient { stream, peer, accepted, permit }),
        };
        self.reports.extend(report);
        self.dispatcher.tell(&mut self.reports);
    }

    fn failed(&mut self, cause: io::Error) {
        self.handle.send(Message::ListenerFailed(cause));
    }
}
