//! Where everybody and everything stands, in the witness's account.

use cbpx::core::msg::{BackendId, ClientHash, Failure, RequestId, RunId, TimerId, Traffic, UpstreamId};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub place: Place,
    pub told: Told,
    pub hash: ClientHash,
    /// Backends of the active upstream that refused this client in this round.
    pub tried: Vec<BackendId>,
    /// How often everybody has refused it.
    pub rounds: u32,
    /// It is offered to nobody until this fires.
    pub pause: Option<TimerId>,
    /// What of its connection has been reported.
    pub traffic: Traffic,
}

impl Client {
    /// One that has just arrived.
    pub fn new(hash: ClientHash) -> Client {
        let traffic = Traffic::default();
        Client { place: Place::Held, told: Told::Nothing, hash, tried: Vec::new(), rounds: 0, pause: None, traffic }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Held,
    Dialling(BackendId),
    Open(BackendId),
    Ending(BackendId),
}

/// What the engine was last told to do with an assigned client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Nothing,
    CancelDial,
    CloseGracefully,
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Switch {
    pub request: RequestId,
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
