//! The relay's input and output. The relay does not know who receives its reports: see [`Reporter`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::dial::Dial;
use crate::core::msg::{ClientId, CloseReason, DialFailure};
use crate::endpoint::Address;
use crate::net::Stream;

/// A client to be served. Its dial has been started.
#[derive(Debug)]
pub struct Job {
    pub client: ClientId,
    pub stream: Stream,
    pub dial: Box<Dial>,
    /// Read by other threads: the bytes relayed so far.
    pub flow: Arc<ByteCounters>,
}

/// What happens to a client that is served. The last report is `DialFailed` or `Closed`.
#[derive(Debug)]
pub enum Report {
    Connected(ClientId, Address),
    /// The dial ended without a connection. The client's socket is returned; nothing was read from it.
    DialFailed {
        client: ClientId,
        stream: Stream,
        failure: DialFailure,
        cause: io::Error,
    },
    /// A switchover need not wait for this client: only its end is still to come.
    Dismissible(ClientId),
    /// Revokes `Dismissible`: the client has sent something.
    Resumed(ClientId),
    /// Both sockets are closed.
    Closed(ClientId, CloseSummary),
}

/// Receives the relay's reports. It may call any method of [`super::ClientHandle`] before it returns.
pub trait Reporter: Send + Sync {
    /// Takes all reports, in order, and empties the list.
    fn report(&self, reports: &mut Vec<Report>);

    /// A thread that many clients need has failed.
    fn failed(&self, cause: io::Error);
}

/// The bytes relayed so far. Written by the relay only.
#[derive(Debug, Default)]
pub struct ByteCounters {
    /// From the client to the backend.
    pub up: AtomicU64,
    pub down: AtomicU64,
}

/// How a client's connection ended.
#[derive(Debug)]
pub struct CloseSummary {
    pub why: CloseReason,
    /// Bytes relayed from the client to the backend.
    pub up: u64,
    /// Bytes relayed from the backend to the client.
    pub down: u64,
    /// The system's error, if something failed.
    pub cause: Option<io::Error>,
}

impl CloseSummary {
    /// Of a connection about which nothing else is known.
    pub fn of_none(why: CloseReason) -> CloseSummary {
        CloseSummary { why, up: 0, down: 0, cause: None }
    }
}
