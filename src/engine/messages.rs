//! What is told to whom: reports about clients go to the core ([`super::dispatcher`]), messages to the coordinator,
//! replies to those who asked. Sending never waits; when the coordinator has ended, messages to it are dropped.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::permits::Permit;
use crate::core::msg::{Action, Answer, BackendId, BackendView, ClientId, CloseReason, Command, RunId, ScriptEnd};
use crate::endpoint::Address;
use crate::net::{Listener, Stream};
pub use crate::relay::{ByteCounters, CloseSummary};

/// Something that has happened to a client that is not assigned, or to a backend. (What the relay reports: see
/// [`crate::relay::Report`].)
#[derive(Debug)]
pub enum Report {
    Accepted(AcceptedClient),
    /// A client was accepted and is gone before it has arrived: there was no room for it, or it did not send what it is
    /// to send first.
    NeverArrived {
        peer: Address,
        accepted: Instant,
        why: CloseReason,
    },
    /// The watch saw something on a held client: it hung up (`gone`), or it ended its sending side.
    Stirred {
        client: ClientId,
        gone: bool,
    },
    /// A probe has ended; why it failed.
    Probed(BackendId, io::Result<()>),
}

/// A client that was accepted.
#[derive(Debug)]
pub struct AcceptedClient {
    pub stream: Stream,
    pub peer: Address,
    pub accepted: Instant,
    /// Given back when it is gone.
    pub permit: Permit,
}

/// Something the coordinator has to see to.
#[derive(Debug)]
pub enum Message {
    /// The core has decided this; when, and how many clients were held then.
    Decided {
        action: Action,
        at: Instant,
        held: usize,
    },
    ScriptLine(RunId, String),
    ScriptEnded(RunId, ScriptEnd),
    Asked(Command, Sender<Reply>),
    /// Somebody wants to see the backends.
    Surveyed(Sender<Vec<BackendView>>),
    /// It is time to tell of all backends.
    Tally,
    /// A listener that could not be bound at the start is bound now.
    Bound(Listener),
    /// A listener cannot go on.
    ListenerFailed(io::Error),
    /// Something all clients need cannot go on.
    Failed(io::Error),
}

/// What somebody who asked is told: for `Switch` the start, and each line of the script and each changed setting as it
/// comes; for every command one answer, last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    SwitchStarted {
        from: String,
        to: String,
        timeout: Duration,
        max_queued: u32,
    },
    ScriptLine(String),
    /// The interval of the progress rows may be another one now.
    SettingChanged,
    Answer(Answer, Option<SwitchTimings>),
}

/// Where the time of a switchover went, and how many were held when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchTimings {
    pub drain: Duration,
    pub script: Duration,
    pub total: Duration,
    pub held: usize,
}

/// The way to the coordinator.
#[derive(Clone, Debug)]
pub struct CoordinatorHandle(Sender<Message>);

impl CoordinatorHandle {
    /// A new inbox and the way to it.
    pub fn new() -> (CoordinatorHandle, Receiver<Message>) {
        let (sender, inbox) = unbounded();
        (CoordinatorHandle(sender), inbox)
    }

    /// Reports something. After the coordinator's end there is nobody to tell, and the message is dropped.
    pub fn send(&self, message: Message) {
        self.0.send(message).ok();
    }

    /// Asks for the backends as they are now; the receiver is disconnected without them only if the coordinator has
    /// ended.
    pub fn survey(&self) -> Receiver<Vec<BackendView>> {
        let (sender, views) = bounded(1);
        self.send(Message::Surveyed(sender));
        views
    }

    /// Asks for something; the receiver is disconnected without an answer only if the coordinator has ended.
    pub fn ask(&self, command: Command) -> Receiver<Reply> {
        let (sender, replies) = unbounded();
        self.send(Message::Asked(command, sender));
        replies
    }
}
