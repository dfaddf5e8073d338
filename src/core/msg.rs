//! What the core is told and what it decides: ids, events, actions, commands, answers and notes. Plain data.
//!
//! Events report what has happened, actions say what is to be done, notes record what was decided. Endings are enums
//! and keep their reason until they are logged. The texts for people are written elsewhere (`observe`, `control`).

mod note;

use std::time::Duration;

pub use self::note::{BackendNote, ClientNote, Note, ServiceNote};
use crate::config::{Failover, Policy, Setting, Settings};

/// A client. Ids are given in order of arrival, so that comparing ids compares arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// The hash of a client's address (`pool::hash`): the same for the same client, also after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientHash(pub u64);

/// A backend of the service. Numbered across all upstreams and groups in the order of the configuration; backends
/// created later follow in the order of creation. Never reused.
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

/// An endpoint that the engine knows by this id. The core does not know its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub usize);

/// A request. It gets exactly one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A timer. Never reused and never cancelled: a timer that no longer matters is ignored when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(pub u64);

/// One run of the switch script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// What has happened. Stale and unknown ids are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The engine is ready to carry out actions. Optional; if it is sent, it is the first event.
    Started,
    /// A listener accepted a client. Its id is greater than any before.
    Arrived(ClientId, ClientHash),
    /// A held client closed its connection.
    HungUp(ClientId),
    /// A dial succeeded. From now on bytes are relayed.
    Connected(ClientId),
    /// A dial ended without a connection; no byte of the client was read.
    DialFailed(ClientId, DialFailure),
    /// A switchover need not wait for this open connection. Either the backend has ended, the client has received its
    /// last byte and has sent nothing since; or one side has failed, and the other side is still receiving the rest of
    /// its bytes.
    Dismissible(ClientId),
    /// After its backend's end the client has sent something: its connection counts as open again, as before
    /// `Dismissible`.
    Resumed(ClientId),
    /// The bytes and the time of an open connection until now. Optional, because `Closed` reports the totals.
    Flowed(ClientId, Traffic),
    /// An assigned client and its backend connection are closed. The traffic is the connection's total.
    Closed(ClientId, CloseReason, Traffic),
    /// A probe has ended.
    Probed(BackendId, ProbeEnd),
    /// The script's process has ended, or could not be started.
    ScriptEnded(RunId, ScriptEnd),
    /// A timer armed with [`Action::Arm`] has expired.
    Fired(TimerId),
    /// A command that must be answered.
    Asked(RequestId, Command),
}

/// Why a dial ended without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialFailure {
    /// The backend refused, could not be reached, or did not answer in time.
    Backend,
    /// This process had no descriptor or no memory for the connection.
    Local,
    /// This machine had no local port left for another connection to this backend. It may have one for another backend.
    /// This says nothing about the backend, so the failure is not remembered.
    NoPort,
    /// The core cancelled it (see [`Action::CancelDial`]).
    Cancelled,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeEnd {
    /// The backend accepted the connection, and the probe closed it again.
    Reached,
    /// The backend refused, could not be reached or did not answer in time, or this process had no descriptor for the
    /// probe.
    Failed,
}

/// The totals of a connection since it was made. They only grow: a smaller report is an older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// Bytes relayed from the client to the backend.
    pub up: u64,
    /// Bytes relayed from the backend to the client.
    pub down: u64,
    pub time: Duration,
}

/// How a run of the script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScriptEnd {
    /// It exited with this status (0 to 255).
    Exited(i32),
    /// It was ended by this signal.
    Signalled(i32),
    /// It could not be started. The value is the system's error number.
    NotStarted(i32),
}

/// A request of an operator, of a signal or of the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Move the service to its next upstream.
    Switch,
    /// Roll back the running switchover.
    Abort,
    /// Change one setting (its range has been checked).
    Set(Setting),
    /// Change the backends.
    Change(Change),
    /// End the program if no client is connected or held.
    Quit,
    /// End the program now, even if clients are connected.
    QuitForce,
    /// Ctrl-C: roll back the running switchover. If none runs, end the program if it is idle; if it is not, a second
    /// Ctrl-C within five seconds acts as `Stop`.
    Interrupt,
    /// SIGTERM: accept no more clients, let the others finish within the grace period, then end. A second one acts as
    /// `QuitForce`.
    Stop,
}

/// What an operator may change about backends while the service runs. Connected clients are not affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Assign clients to it again.
    Enable(BackendId),
    /// Assign no more clients to it.
    Disable(BackendId),
    /// Add a backend at the end of this group, disabled and without a limit.
    Create(GroupId, EndpointId),
    /// Change its address; it must be disabled.
    SetEndpoint(BackendId, EndpointId),
    /// Set the most clients it may have at once; `None` means no limit.
    Limit(BackendId, Option<u32>),
    /// Reset its counters.
    Reset(BackendId),
    /// Set how a group chooses its backends.
    Policy(GroupId, Policy, Failover),
}

/// Why a [`Change`] had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unchanged {
    NoSuchBackend,
    NoSuchGroup,
    AlreadyEnabled,
    AlreadyDisabled,
    /// The backend must be disabled for `SetEndpoint`.
    NotDisabled,
}

/// The only reply to a [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// To `Switch`, when the switchover has ended.
    Switched(Outcome),
    /// To `Switch`, while another switchover runs.
    SwitchRunning,
    /// To `Abort` and `Interrupt`: the switchover is being rolled back.
    RollingBack,
    /// To `Abort`: no switchover runs.
    NoSwitchRunning,
    /// To `Set` and `Change`.
    Changed,
    /// To `Change::Create`.
    Created(BackendId),
    /// To `Change`: it had no effect.
    Unchanged(Unchanged),
    /// To `Quit`: clients are connected or held, or a switchover runs.
    InUse { assigned: usize, held: usize },
    /// To `Interrupt`: clients are connected or held. The next Ctrl-C within five seconds stops the program.
    StillInUse { assigned: usize, held: usize },
    /// The program is about to end.
    Ending,
    /// To a command that cannot be carried out any more because the program is about to end.
    TooLate,
}

/// How a switchover ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The service is on the other upstream. `script`: a script has run.
    Moved { script: bool },
    /// The service is still on its old upstream.
    Failed(Failure),
}

/// Why a switchover failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The time limit, `switch_max_time`, was reached.
    Timeout,
    /// A client arrived while `max_queued` were held.
    QueueFull,
    /// The script could not be started, or did not exit with 0.
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

/// What the engine has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect this held client to this backend. Answered by `Connected`, `DialFailed` or `Closed`.
    Dial(ClientId, BackendId),
    /// Cancel this dial. Answered by `DialFailed(Cancelled)`, or by `Connected` if the dial had succeeded before.
    CancelDial(ClientId),
    /// Close this held client. If it has hung up, only forget it.
    Reject(ClientId, CloseReason),
    /// Close this assigned client, which was reported `Dismissible`. Answered by `Closed`, or by `Resumed` if the
    /// client has sent something meanwhile. The backend sees a reset, because the client has not ended its stream.
    CloseGracefully(ClientId),
    /// Reset this assigned client and its backend connection at once: both sides see the connection fail. Answered by
    /// `Closed`.
    Reset(ClientId),
    /// Connect to this backend and close the connection again. Answered by `Probed`.
    Probe(BackendId),
    /// From now on, connect to this backend at this endpoint.
    SetEndpoint(BackendId, EndpointId),
    /// Send `Fired` after this time.
    Arm(TimerId, Duration),
    /// Start the script. The core kills it when the timer `deadline` fires. Answered by `ScriptEnded`.
    RunScript { run: RunId, from: UpstreamId, to: UpstreamId, deadline: TimerId },
    /// Kill the script with its whole process group. `ScriptEnded` still follows.
    KillScript(RunId),
    /// Reply to a request.
    Answer(RequestId, Answer),
    /// Report a decision to logs, counters and reports.
    Note(Note),
    /// Close the listeners.
    StopListening,
    /// Everything is done: end the coordinator.
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
    /// The client closed its connection before it was served.
    HungUp,
    /// Every backend of the active upstream refused it, in every round.
    NoBackend,
    /// Every backend that was left for it was at its limit, and the service does not let clients wait for that.
    Full,
    /// The process has reached its limit of clients, descriptors or memory.
    NoRoom,
    /// The program ended.
    Shutdown,
    // While assigned. The two normal endings come first.
    /// Both sides ended, the client first.
    ClientEnded,
    /// Both sides ended, the backend first.
    BackendEnded,
    /// The backend had ended and all its bytes were delivered. The client then sent nothing for five seconds.
    Lingered,
    /// Like `Lingered`, but a switchover closed it without waiting for the five seconds.
    ClosedForSwitch,
    /// The client reset the connection or became unreachable.
    ClientFailed,
    /// The backend reset the connection or became unreachable.
    BackendFailed,
    /// No byte has passed in either direction for the idle timeout.
    Idle,
    /// `quit force`, or the end of the grace period.
    Terminated,
    /// A panic in this program, which is a defect, ended it.
    Panicked,
}

/// The state of the core for `stats`, `set` and the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub active: UpstreamId,
    /// Clients that wait for a backend.
    pub held: usize,
    /// Clients that have a backend, connected or still dialling.
    pub assigned: usize,
    pub switching: bool,
    pub settings: Settings,
}

/// The state of one backend for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendView {
    pub id: BackendId,
    pub group: GroupId,
    /// Its index in the group.
    pub number: usize,
    /// The policy of its group.
    pub policy: Policy,
    pub enabled: bool,
    pub failed: bool,
    pub limit: Option<u32>,
    /// Clients it has now, connected or still dialling.
    pub assigned: u32,
    pub totals: Totals,
}

/// The counters of a backend since the start, or since an operator reset them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Dials started.
    pub attempts: u64,
    /// Dials that succeeded.
    pub connections: u64,
    /// Dials and probes that failed.
    pub errors: u64,
    /// Bytes relayed from clients to the backend.
    pub up: u64,
    /// Bytes relayed from the backend to clients.
    pub down: u64,
    /// Sum of the durations of its connections.
    pub time: Duration,
}
