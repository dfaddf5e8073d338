//! What becomes of clients that a service's listeners accept: there is room or none, and they have arrived, or wait in the
//! lobby until they have sent something.

use std::io;
use std::time::Instant;

use super::dispatch::Dispatcher;
use super::inbox::{Message, Outlet, Report, Visitor};
use super::lobby::Entrance;
use super::permits::Permits;
use crate::core::msg::Why;
use crate::endpoint::Address;
use crate::listen::{Acceptor, Listening};
use crate::net::{Listener, Stream};

/// What a service's listeners need. One that is dropped opens no more.
pub struct Doors {
    pub dispatcher: Dispatcher,
    pub outlet: Outlet,
    pub permits: Permits,
    /// Where clients wait that have not sent enough yet.
    pub entrance: Option<Entrance>,
    /// Threads that accept on each listener.
    pub threads: usize,
    /// Of these threads.
    pub name: String,
}

impl Doors {
    /// Begins to accept.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn open(&self, listener: Listener) -> io::Result<Listening> {
        let door = || Door {
            dispatcher: self.dispatcher.clone(),
            outlet: self.outlet.clone(),
            permits: self.permits.clone(),
            entrance: self.entrance.clone(),
            reports: Vec::new(),
        };
        Listening::start(listener, &self.name, self.threads, door)
    }
}

/// One accepting thread's.
struct Door {
    dispatcher: Dispatcher,
    outlet: Outlet,
    permits: Permits,
    entrance: Option<Entrance>,
    /// Empty between two clients.
    reports: Vec<Report>,
}

impl Acceptor for Door {
    fn accepted(&mut self, stream: Stream, peer: Address) {
        let accepted = Instant::now();
        let report = match (self.permits.take(), &self.entrance) {
            (None, _) => {
                drop(stream);
                Some(Report::NeverArrived { peer, accepted, why: Why::NoRoom })
            }
            (Some(permit), None) => Some(Report::Accepted(Visitor { stream, peer, accepted, permit })),
            (Some(permit), Some(entrance)) => entrance.enter(Visitor { stream, peer, accepted, permit }),
        };
        self.reports.extend(report);
        self.dispatcher.tell(&mut self.reports);
    }

    fn failed(&mut self, cause: io::Error) {
        self.outlet.send(Message::ListenerFailed(cause));
    }
}
