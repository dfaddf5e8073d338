//! What the core is told and what it decides: ids, events, actions, commands, answers and notes. Plain data.
//!
//! Events have happened, actions are to be done, notes tell what was decided. Endings are enums that carry their
//! reason to the last door; words for people are made at the edge (`observe`, `control`).

mod note;

use std::time::Duration;

pub use self::note::{BackendNote, ClientNote, Note, ServiceNote};
use crate::config::{Failover, Policy, Setting, Settings};

/// A client. Ids are given in order of arrival, so that comparing ids compares arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What a client's address hashes to (`pool::hash`): the same for the same client, also after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientHash(pub u64);

/// A backend of the service, counted through all upstreams and groups in the order of the configuration, and then in
/// the order in which more were created. Never used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub usize);

/// An upstream: its index in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub usize);

/// A group: its index among the groups of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    pub upstream: UpstreamId,
    pub index: usize,
}

/// A place to connect to that the engine knows and the core does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub usize);

/// A question that is owed exactly one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A timer. Never used twice, never cancelled: one that no longer matters is ignored when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(pub u64);

/// One run of the switch script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// What has happened. Stale and unknown ids are harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The engine is ready to carry out actions. First, if it comes at all.
    Started,
    /// A listener accepted a client. Its id is greater than any before.
    Arrived(ClientId, ClientHash),
    /// A client that we were not serving yet has left.
    HungUp(ClientId),
    /// A dial succeeded: from now on bytes move.
    Connected(ClientId),
    /// A dial ended without a connection; no byte of the client was read.
    DialFailed(ClientId, DialFailure),
    /// Only the end of an open connection is still to come: the backend has ended, its last byte was delivered and the
    /// client has sent nothing since; or one side has failed, and the other is given the rest of what that one had
    /// sent.
    Dismissible(ClientId),
    /// The client has sent something after its backend's end: its connection is open as it was before `Dismissible`.
    Resumed(ClientId),
    /// What an open client's connection has had until now. Optional: `Closed` tells the same at the end.
    Flowed(ClientId, Traffic),
    /// An assigned client is gone and so is its backend connection, which had this much in all.
    Closed(ClientId, CloseReason, Traffic),
    /// A probe has ended.
    Probed(BackendId, ProbeEnd),
    /// The script's process has ended or never began.
    ScriptEnded(RunId, ScriptEnd),
    /// A timer armed with [`Action::Arm`] has run out.
    Fired(TimerId),
    /// Somebody asks for something and will be answered.
    Asked(RequestId, Command),
}

/// Why a dial ended without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialFailure {
    /// The backend refused, could not be reached, or did not answer in time.
    Backend,
    /// This process had no descriptor or memory for it.
    Local,
    /// This machine had no port left for one more connection to the backend. Others may have one for another backend;
    /// and nothing is known against this one, so that nothing is remembered.
    NoPort,
    /// We cancelled it (see [`Action::CancelDial`]).
    Cancelled,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeEnd {
    /// The backend took the connection, which was closed again.
    Reached,
    /// It refused, could not be reached or did not answer in time, or there was nothing here to try it with.
    Failed,
}

/// What a connection has had since it was made. Only grows: a smaller report is an old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// Bytes passed on from the client to the backend.
    pub up: u64,
    /// Bytes passed on from the backend to the client.
    pub down: u64,
    pub time: Duration,
}

/// How a script's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScriptEnd {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It could not be started; the system's error number.
    NotStarted(i32),
}

/// What an operator, a signal or the program itself asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Move the service to its next upstream.
    Switch,
    /// Undo the running switchover.
    Abort,
    /// Change one setting (its range has been checked).
    Set(Setting),
    /// Change the backends.
    Change(Change),
    /// End if nobody is connected or held.
    Quit,
    /// End now, whoever is connected.
    QuitForce,
    /// Ctrl-C: undo the running switchover; else end if idle; a second one soon after is `Stop`.
    Interrupt,
    /// SIGTERM: accept nobody else, let clients finish within the grace period, end. A second one is `QuitForce`.
    Stop,
}

/// What may be changed about backends while the service runs. Clients that are connected stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give it clients again.
    Enable(BackendId),
    /// Give it no more clients.
    Disable(BackendId),
    /// A new one at the end of this group, disabled, without a limit.
    Create(GroupId, EndpointId),
    /// Let it be somewhere else. Only while it is disabled.
    SetEndpoint(BackendId, EndpointId),
    /// The most clients it may have at once.
    Limit(BackendId, Option<u32>),
    /// Count from zero again.
    Reset(BackendId),
    /// How a group chooses.
    Policy(GroupId, Policy, Failover),
}

/// Why a [`Change`] has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unchanged {
    NoSuchBackend,
    NoSuchGroup,
    AlreadyEnabled,
    AlreadyDisabled,
    /// To `SetEndpoint`.
    NotDisabled,
}

/// The one reply to a [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// To `Switch`, when it has ended.
    Switched(Outcome),
    /// To `Switch`, when another one is running.
    SwitchRunning,
    /// To `Abort` and `Interrupt`: the switchover is being undone.
    RollingBack,
    /// To `Abort`: there is none.
    NoSwitchRunning,
    /// To `Set` and `Change`.
    Changed,
    /// To `Change(Create)`.
    Created(BackendId),
    /// To `Change`.
    Unchanged(Unchanged),
    /// To `Quit`: somebody is connected or held, or a switchover is running.
    InUse { assigned: usize, held: usize },
    /// To `Interrupt`, likewise: stays, but the next one within five seconds will stop it.
    StillInUse { assigned: usize, held: usize },
    /// The program is about to end.
    Ending,
    /// To whatever cannot be done any more because the program is about to end.
    TooLate,
}

/// How a switchover ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The service is on the other upstream.
    Moved { script: bool },
    /// The service is where it was.
    Failed(Failure),
}

/// Why a switchover failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// `switch_max_time` ran out.
    Timeout,
    /// A client arrived while `max_queued` were held.
    QueueFull,
    /// The script did not exit with 0.
    Script(ScriptEnd),
    /// SIGINT.
    CtrlC,
    /// `abort`.
    Aborted,
    /// `quit force`.
    Quit,
    /// SIGTERM.
    Stopped,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect this held client to this backend. Ends in `Connected`, `DialFailed` or `Closed`.
    Dial(ClientId, BackendId),
    /// Stop this dial if it has not succeeded yet; ends in `DialFailed(Cancelled)`, or in `Connected` if it was too late.
    CancelDial(ClientId),
    /// Close this held client (or forget it, if it is known to be gone).
    Reject(ClientId, CloseReason),
    /// End this assigned client, which was `Dismissible`. Ends in `Closed`; or, if the client has sent something
    /// meanwhile, in `Resumed`. Its backend sees a reset: the client has not ended its stream.
    CloseGracefully(ClientId),
    /// End this assigned client at once; both sides of a connection see it fail. Ends in `Closed`.
    Reset(ClientId),
    /// Connect to this backend and close the connection again. Ends in `Probed`.
    Probe(BackendId),
    /// From now on this backend is there.
    SetEndpoint(BackendId, EndpointId),
    /// Bring `Fired` after this time.
    Arm(TimerId, Duration),
    /// Start the script; it is killed when `deadline` fires. Ends in `ScriptEnded`.
    RunScript { run: RunId, from: UpstreamId, to: UpstreamId, deadline: TimerId },
    /// Kill the script and all of its process group. Its end is still awaited.
    KillScript(RunId),
    /// Reply to a request.
    Answer(RequestId, Answer),
    /// Tell what was decided.
    Note(Note),
    /// Close the listeners.
    StopListening,
    /// All is done: end the coordinator.
    Exit,
}

/// One side of an assigned client's connection. (To the core both sides are one client; this is for those who carry and
/// show its bytes.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    Client,
    Backend,
}

impl PeerRole {
    pub fn other(self) -> PeerRole {
        match self {
            PeerRole::Client => PeerRole::Backend,
            PeerRole::Backend => PeerRole::Client,
        }
    }
}

/// Why a client is gone. `README.md` explains each to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    // While held.
    /// The client left before it was served.
    HungUp,
    /// No backend of the active upstream took it.
    NoBackend,
    /// Each backend that could take it was at its limit, and it is not to wait for that.
    Full,
    /// The process is at its limit of clients, descriptors or memory.
    NoRoom,
    /// The program ended.
    Shutdown,
    // While assigned: the wholly normal ends first.
    /// Both sides ended, the client first.
    ClientEnded,
    /// Both sides ended, the backend first.
    BackendEnded,
    /// The backend had ended, the client had all its bytes and sent nothing since, for five seconds.
    Lingered,
    /// The same, but a switchover did not wait for the five seconds.
    ClosedForSwitch,
    /// The client reset the connection or could not be reached any more.
    ClientFailed,
    /// The backend reset the connection or could not be reached any more.
    BackendFailed,
    /// No byte has passed either way for the idle timeout.
    Idle,
    /// `quit force`, or the end of the grace period.
    Terminated,
    /// A defect in this program ended it.
    Panicked,
}

/// What the core looks like from outside: enough for `stats`, `set` and the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub active: UpstreamId,
    /// Clients waiting for a backend.
    pub held: usize,
    /// Clients that have been given a backend, connected yet or not.
    pub assigned: usize,
    pub switching: bool,
    pub settings: Settings,
}

/// What one backend looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendView {
    pub id: BackendId,
    pub group: GroupId,
    /// Its place in the group.
    pub number: usize,
    /// The group's.
    pub policy: Policy,
    pub enabled: bool,
    pub failed: bool,
    pub limit: Option<u32>,
    /// Clients it has now, connected yet or not.
    pub assigned: u32,
    pub totals: Totals,
}

/// What a backend has had since the start, or since an operator reset it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Dials begun.
    pub attempts: u64,
    /// Dials that succeeded.
    pub connections: u64,
    /// Dials and probes that failed.
    pub errors: u64,
    /// Bytes passed on from clients to the backend.
    pub up: u64,
    /// Bytes passed on from the backend to clients.
    pub down: u64,
    /// Of all connections together.
    pub time: Duration,
}
