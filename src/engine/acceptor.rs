//! What becomes of clients that a service's listeners accept: there is room or none, and they have arrived, or wait in
//! the first-bytes thread until they have sent something.

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

/// What a service's listeners need. One that is dropped opens no more.
pub struct AcceptorFactory {
    pub dispatcher: Dispatcher,
    pub handle: CoordinatorHandle,
    pub permits: Permits,
    /// Where clients wait that have not sent enough yet.
    pub first_bytes: Option<FirstBytesHandle>,
    /// Threads that accept on each listener.
    pub threads: usize,
    /// Of these threads.
    pub name: String,
}

impl AcceptorFactory {
    /// Begins to accept.
    ///
    /// # Errors
    /// When there is no thread.
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

/// One accepting thread's.
struct ClientAcceptor {
    dispatcher: Dispatcher,
    handle: CoordinatorHandle,
    permits: Permits,
    first_bytes: Option<FirstBytesHandle>,
    /// Empty between two clients.
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
