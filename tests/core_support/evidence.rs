//! Evidence that something was reached: how often each answer, outcome and reason was decided.

use std::collections::BTreeMap;

use cbpx::core::msg::{
    Action, Answer, BackendId, BackendNote, ClientNote, CloseReason, DialFailure, Failure, Note, Outcome, ScriptEnd,
    ServiceNote, Unchanged,
};

/// Counts by name.
#[derive(Default, Debug)]
pub struct Evidence(pub BTreeMap<&'static str, u64>);

/// Everything the core may answer, every reason it may give, and its rarer decisions.
pub const REACHABLE: [&str; 30] = [
    "Moved by script",
    "Moved without script",
    "Timeout",
    "QueueFull",
    "Script exited",
    "Script signalled",
    "Script not started",
    "CtrlC",
    "Aborted",
    "Quit",
    "Stopped",
    "HungUp",
    "NoBackend",
    "NoRoom",
    "Shutdown",
    "Switched",
    "SwitchRunning",
    "Undone",
    "NoSwitchRunning",
    "Changed",
    "InUse",
    "StillInUse",
    "Ending",
    "TooLate",
    "CancelDial",
    "CloseGracefully",
    "Reset",
    "KillScript",
    "QueueOverLimit",
    "Exit",
];

impl Evidence {
    pub fn collect(&mut self, actions: &[Action]) {
        for action in actions {
            let name = match action {
                Action::Answer(_, answer) => name_of_answer(*answer),
                Action::Note(Note::Service(ServiceNote::SwitchEnded { outcome, .. })) => name_of_outcome(*outcome),
                Action::Reject(_, why) => name_of_refusal(*why),
                Action::Note(Note::Service(ServiceNote::QueueOverLimit { .. })) => "QueueOverLimit",
                Action::CancelDial(_) => "CancelDial",
                Action::CloseGracefully(_) => "CloseGracefully",
                Action::Reset(_) => "Reset",
                Action::KillScript(_) => "KillScript",
                Action::Exit => "Exit",
                Action::Probe(_) => "Probe",
                Action::SetEndpoint(..) => "Assign",
                Action::Note(Note::Client(_, ClientNote::Assigned(backend))) => name_of_backend(*backend),
                Action::Note(Note::Client(_, ClientNote::Paused)) => "Paused",
                Action::Note(Note::Client(_, ClientNote::DialFailed(_, DialFailure::NoPort))) => "NoPort",
                Action::Note(Note::Backend(_, BackendNote::Failed)) => "BackendFailed",
                Action::Note(Note::Backend(_, BackendNote::Back)) => "BackendBack",
                Action::Note(Note::Backend(_, BackendNote::Disabled)) => "BackendDisabled",
                Action::Dial(..)
                | Action::Arm(..)
                | Action::RunScript { .. }
                | Action::Note(_)
                | Action::StopListening => continue,
            };
            *self.0.entry(name).or_default() += 1;
        }
    }

    /// # Panics
    /// When one of `names` was never reached.
    pub fn assert_reached(&self, names: &[&str]) {
        for name in names {
            assert!(self.0.contains_key(name), "{name} was never reached: {self:?}");
        }
    }
}

fn name_of_answer(answer: Answer) -> &'static str {
    match answer {
        Answer::Switched(_) => "Switched",
        Answer::SwitchRunning => "SwitchRunning",
        Answer::RollingBack => "Undone",
        Answer::NoSwitchRunning => "NoSwitchRunning",
        Answer::Changed => "Changed",
        Answer::Created(_) => "Created",
        Answer::Unchanged(reason) => name_of_reason(reason),
        Answer::InUse { .. } => "InUse",
        Answer::StillInUse { .. } => "StillInUse",
        Answer::Ending => "Ending",
        Answer::TooLate => "TooLate",
    }
}

/// Small pools have four at most.
fn name_of_backend(backend: BackendId) -> &'static str {
    ["backend 0", "backend 1", "backend 2", "backend 3"].get(backend.0).copied().unwrap_or("another backend")
}

fn name_of_reason(reason: Unchanged) -> &'static str {
    match reason {
        Unchanged::NoSuchBackend => "NoSuchBackend",
        Unchanged::NoSuchGroup => "NoSuchGroup",
        Unchanged::AlreadyEnabled => "AlreadyEnabled",
        Unchanged::AlreadyDisabled => "AlreadyDisabled",
        Unchanged::NotDisabled => "NotDisabled",
    }
}

fn name_of_outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Moved { script: true } => "Moved by script",
        Outcome::Moved { script: false } => "Moved without script",
        Outcome::Failed(Failure::Timeout) => "Timeout",
        Outcome::Failed(Failure::QueueFull) => "QueueFull",
        Outcome::Failed(Failure::Script(ScriptEnd::Exited(_))) => "Script exited",
        Outcome::Failed(Failure::Script(ScriptEnd::Signalled(_))) => "Script signalled",
        Outcome::Failed(Failure::Script(ScriptEnd::NotStarted(_))) => "Script not started",
        Outcome::Failed(Failure::CtrlC) => "CtrlC",
        Outcome::Failed(Failure::Aborted) => "Aborted",
        Outcome::Failed(Failure::Quit) => "Quit",
        Outcome::Failed(Failure::Stopped) => "Stopped",
    }
}

/// The core refuses for five reasons; the others come from the engine.
fn name_of_refusal(why: CloseReason) -> &'static str {
    match why {
        CloseReason::HungUp => "HungUp",
        CloseReason::NoBackend => "NoBackend",
        CloseReason::Full => "Full",
        CloseReason::NoRoom => "NoRoom",
        CloseReason::Shutdown => "Shutdown",
        CloseReason::ClientEnded
        | CloseReason::BackendEnded
        | CloseReason::Lingered
        | CloseReason::ClosedForSwitch
        | CloseReason::ClientFailed
        | CloseReason::BackendFailed
        | CloseReason::Idle
        | CloseReason::Terminated
        | CloseReason::Panicked => "refused for a reason of the engine's",
    }
}
