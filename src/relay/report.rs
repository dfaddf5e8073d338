//! What the relay is given and what it reports. It knows nothing of who takes its reports: see [`Reporter`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::dial::Dial;
use crate::core::msg::{ClientId, CloseReason, DialFailure};
use crate::endpoint::Address;
use crate::net::Stream;

/// A client to be served: its dial has begun.
#[derive(Debug)]
pub struct Job {
    pub client: ClientId,
    pub stream: Stream,
    pub dial: Box<Dial>,
    /// Where others read how much has been passed on.
    pub flow: Arc<ByteCounters>,
}

/// What becomes of a client that is served. The last report is `DialFailed` or `Closed`.
#[derive(Debug)]
pub enum Report {
    Connected(ClientId, Address),
    /// A dial ended without a connection; the client's socket comes back untouched.
    DialFailed {
        client: ClientId,
        stream: Stream,
        failure: DialFailure,
        cause: io::Error,
    },
    /// Only the end of its connection is still to come.
    Dismissible(ClientId),
    /// Not so: its client has sent something.
    Resumed(ClientId),
    /// Both sockets are closed.
    Closed(ClientId, CloseSummary),
}

/// Takes the relay's reports. It may call any method of [`super::ClientHandle`] before it returns.
pub trait Reporter: Send + Sync {
    /// Takes all reports, in their order.
    fn report(&self, reports: &mut Vec<Report>);

    /// A thread that many clients need cannot go on.
    fn failed(&self, cause: io::Error);
}

/// How many bytes have been passed on so far. Written by the relay only.
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
    /// Bytes passed on from the client to the backend.
    pub up: u64,
    /// Bytes passed on from the backend to the client.
    pub down: u64,
    /// The system's error, when something failed.
    pub cause: Option<io::Error>,
}

impl CloseSummary {
    /// Of a connection about which nothing else is known.
    pub fn of_none(why: CloseReason) -> CloseSummary {
        CloseSummary { why, up: 0, down: 0, cause: None }
    }
}
