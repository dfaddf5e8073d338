//! The messages between threads: reports about clients go to the core ([`super::dispatcher`]), messages go to the
//! coordinator, replies go to the requesters. Sending never blocks. Messages to a coordinator that has ended are
//! dropped.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::permits::Permit;
use crate::core::msg::{Action, Answer, BackendId, BackendView, ClientId, CloseReason, Command, RunId, ScriptEnd};
use crate::endpoint::Address;
use crate::net::{Listener, Stream};

/// An event of a client that is not assigned, or of a backend. (For the relay's reports see [`crate::relay::Report`].)
#[derive(Debug)]
pub enum Report {
    Accepted(AcceptedClient),
    /// A client was accepted and closed before it arrived: it got no permit, or it did not send its first bytes.
    NeverArrived {
        peer: Address,
        accepted: Instant,
        why: CloseReason,
    },
    /// The watch saw an event on a held client: it was reset or closed (`gone`), or it ended its sending side.
    Stirred {
        client: ClientId,
        gone: bool,
    },
    /// A probe has ended. The error says why it failed.
    Probed(BackendId, io::Result<()>),
}

/// A client that was accepted.
#[derive(Debug)]
pub struct AcceptedClient {
    pub stream: Stream,
    pub peer: Address,
    pub accepted: Instant,
    /// Given back when the client ends.
    pub permit: Permit,
}

/// A message to the coordinator.
#[derive(Debug)]
pub enum Message {
    /// A decision of the core, its time, and the number of clients held then.
    Decided {
        action: Action,
        at: Instant,
        held: usize,
    },
    ScriptLine(RunId, String),
    ScriptEnded(RunId, ScriptEnd),
    Asked(Command, Sender<Reply>),
    /// A request for the state of the backends.
    Surveyed(Sender<Vec<BackendView>>),
    /// It is time to log the state of all backends.
    Tally,
    /// A listener that could not be bound at the start is now bound.
    Bound(Listener),
    /// A listener has failed for good.
    ListenerFailed(io::Error),
    /// A thread that all clients need has failed.
    Failed(io::Error),
}

/// What a requester receives. For `Switch`: its start, each line of the script and each changed setting as they come.
/// For every command: one answer, last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    SwitchStarted {
        from: String,
        to: String,
        timeout: Duration,
        max_queued: u32,
    },
    ScriptLine(String),
    /// A setting has changed, perhaps the interval of the progress rows.
    SettingChanged,
    Answer(Answer, Option<SwitchTimings>),
}

/// How long each phase of a switchover took, and how many clients were held at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchTimings {
    pub drain: Duration,
    pub script: Duration,
    pub total: Duration,
    pub held: usize,
}

/// Sends to the coordinator.
#[derive(Clone, Debug)]
pub struct CoordinatorHandle(Sender<Message>);

impl CoordinatorHandle {
    /// A new inbox and the handle that sends to it.
    pub fn new() -> (CoordinatorHandle, Receiver<Message>) {
        let (sender, inbox) = unbounded();
        (CoordinatorHandle(sender), inbox)
    }

    /// Sends a message. After the coordinator's end it is dropped.
    pub fn send(&self, message: Message) {
        self.0.send(message).ok();
    }

    /// Requests the current state of the backends. The receiver is disconnected without an answer only if the
    /// coordinator has ended.
    pub fn survey(&self) -> Receiver<Vec<BackendView>> {
        let (sender, views) = bounded(1);
        self.send(Message::Surveyed(sender));
        views
    }

    /// Requests a command. The receiver is disconnected without an answer only if the coordinator has ended.
    pub fn ask(&self, command: Command) -> Receiver<Reply> {
        let (sender, replies) = unbounded();
        self.send(Message::Asked(command, sender));
        replies
    }
}
