//! Where everybody and everything stands, in the witness's account.

use cbpx::core::msg::{BackendId, Failure, RunId, Ticket, TimerId, UpstreamId};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub place: Place,
    pub told: Told,
    /// Backends of the active upstream that refused this client.
    pub tried: Vec<BackendId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Held,
    Dialling(BackendId),
    Open(BackendId),
    Ending(BackendId),
}

/// What the engine was last told to do with a granted client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Nothing,
    CallOff,
    Dismiss,
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Switch {
    pub ticket: Ticket,
    pub to: UpstreamId,
    pub deadline: TimerId,
    pub script: Option<RunId>,
    /// The script was killed for this reason; its end is awaited until the timer fires.
    pub undoing: Option<(Failure, TimerId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Running,
    Stopping(TimerId),
    Closing(TimerId),
    Over,
}
