//! The switchover: hold, drain, run the script, move (or roll back), release. The gate is shut exactly as long as a
//! switchover runs. [`State::finish`] is the only function that opens it: it answers the request, moves the service or
//! leaves it, and opens the gate. The first outcome wins: a later one finds no switchover and is ignored.

use std::time::Duration;

use super::msg::{
    Action, Answer, Failure, Note, Outcome, RequestId, RunId, ScriptEnd, ServiceNote, TimerId, UpstreamId,
};
use super::{Life, Mutation, Place, State};

/// Whether held clients may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Gate {
    Open,
    Shut(Switchover),
}

/// A running switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Switchover {
    pub(super) request: RequestId,
    pub(super) to: UpstreamId,
    pub(super) deadline: TimerId,
    pub(super) stage: SwitchStage,
}

/// What a switchover is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SwitchStage {
    /// For the last assigned client to leave.
    Draining,
    /// For this run of the script to end.
    Scripting(RunId),
    /// For the end of this run, which was killed. Processes that the script left behind may undo its work until then.
    /// The wait ends at the timer `limit` at the latest, and the outcome is fixed already.
    RollingBack { run: RunId, failure: Failure, limit: TimerId },
}

/// The longest wait for the end of a killed script. The engine reports it within three seconds, unless even SIGKILL
/// does not end the process.
const ROLLBACK: Duration = Duration::from_secs(4);

impl State {
    pub(super) fn switching(&self) -> bool {
        match self.gate {
            Gate::Open => false,
            Gate::Shut(_) => true,
        }
    }

    /// Shuts the gate and cancels the pending dials. No byte of those clients has been sent, so they can wait for the
    /// outcome. Otherwise a dead backend would delay the drain for the whole connect timeout.
    pub(super) fn start_switch(&mut self, request: RequestId, out: &mut Vec<Action>) {
        if self.switching() {
            return out.push(Action::Answer(request, Answer::SwitchRunning));
        }
        match self.life {
            Life::Running => {}
            Life::Stopping(_) | Life::Closing(_) | Life::Over => {
                return out.push(Action::Answer(request, Answer::TooLate));
            }
        }
        let to = UpstreamId((self.active.0 + 1) % self.pool.upstreams());
        let timeout = self.settings.switch_max_time;
        out.push(Action::Note(Note::Service(ServiceNote::SwitchStarted {
            request,
            from: self.active,
            to,
            timeout,
            max_queued: self.settings.max_queued,
        })));
        let deadline = self.arm(timeout, out);
        self.gate = Gate::Shut(Switchover { request, to, deadline, stage: SwitchStage::Draining });
        if timeout == Duration::ZERO {
            return self.fail(Failure::Timeout, out);
        }
        for (&client, state) in &self.clients {
            match state.place {
                Place::Held | Place::Open(_) => {}
                Place::Dialling(_) => out.push(Action::CancelDial(client)),
                Place::Ending(_) => out.push(Action::CloseGracefully(client)),
            }
        }
    }

    /// Starts the script, or finishes, once the last assigned client has left. Part of `settle`.
    pub(super) fn complete_drain(&mut self, out: &mut Vec<Action>) {
        let Gate::Shut(mut running) = self.gate else { return };
        match running.stage {
            SwitchStage::Draining if self.is_drained() => {}
            SwitchStage::Draining | SwitchStage::Scripting(_) | SwitchStage::RollingBack { .. } => return,
        }
        out.push(Action::Note(Note::Service(ServiceNote::Drained)));
        if !self.rules.script {
            return self.finish(Outcome::Moved { script: false }, out);
        }
        let run = self.new_run();
        running.stage = SwitchStage::Scripting(run);
        self.gate = Gate::Shut(running);
        out.push(Action::RunScript { run, from: self.active, to: running.to, deadline: running.deadline });
    }

    /// Nobody is assigned. Dialling clients are assigned too.
    fn is_drained(&self) -> bool {
        let left_out = if self.broken(Mutation::ForgetTheDialling) { self.dialling } else { 0 };
        self.assigned == left_out
    }

    pub(super) fn script_ended(&mut self, ended: RunId, end: ScriptEnd, out: &mut Vec<Action>) {
        let Gate::Shut(running) = self.gate else { return };
        match running.stage {
            SwitchStage::Scripting(run) if run == ended => {}
            SwitchStage::RollingBack { run, failure, .. } if run == ended => {
                return self.finish(Outcome::Failed(failure), out);
            }
            SwitchStage::Draining | SwitchStage::Scripting(_) | SwitchStage::RollingBack { .. } => return,
        }
        let outcome = match end {
            ScriptEnd::Exited(0) => Outcome::Moved { script: true },
            ScriptEnd::Exited(_) | ScriptEnd::Signalled(_) | ScriptEnd::NotStarted(_) => {
                Outcome::Failed(Failure::Script(end))
            }
        };
        self.finish(outcome, out);
    }

    pub(super) fn switch_timer(&mut self, timer: TimerId, out: &mut Vec<Action>) {
        let Gate::Shut(running) = self.gate else { return };
        match running.stage {
            SwitchStage::RollingBack { failure, limit, .. } if limit == timer => {
                self.finish(Outcome::Failed(failure), out)
            }
            SwitchStage::RollingBack { .. } => {}
            SwitchStage::Draining | SwitchStage::Scripting(_) => {
                if self.is_deadline(timer, &running) {
                    self.fail(Failure::Timeout, out);
                }
            }
        }
    }

    fn is_deadline(&self, timer: TimerId, running: &Switchover) -> bool {
        running.deadline == timer || self.broken(Mutation::TakeAnyTimer)
    }

    /// Rolls back the running switchover, if there is one. A running script is killed, and the gate stays shut until it
    /// has ended: no client reaches the old upstream while the script's work there is still being undone. When the
    /// program ends, no client is served any more, so the switchover ends without that wait.
    pub(super) fn fail(&mut self, failure: Failure, out: &mut Vec<Action>) {
        let Gate::Shut(mut running) = self.gate else { return };
        let failure = match running.stage {
            SwitchStage::Draining => return self.finish(Outcome::Failed(failure), out),
            SwitchStage::Scripting(run) => {
                self.kill_script(run, out);
                if !self.closing() {
                    let limit = self.arm(ROLLBACK, out);
                    running.stage = SwitchStage::RollingBack { run, failure, limit };
                    self.gate = Gate::Shut(running);
                }
                failure
            }
            // The first failure is the one that is reported.
            SwitchStage::RollingBack { failure, .. } => failure,
        };
        if self.closing() {
            self.finish(Outcome::Failed(failure), out);
        }
    }

    fn kill_script(&self, run: RunId, out: &mut Vec<Action>) {
        if !self.broken(Mutation::SpareTheScript) {
            out.push(Action::KillScript(run));
        }
    }

    /// The only end of a switchover: answers, moves the service on success, and opens the gate.
    fn finish(&mut self, outcome: Outcome, out: &mut Vec<Action>) {
        let Gate::Shut(running) = self.gate else { return };
        let from = self.active;
        if self.moves_the_service(outcome) {
            self.active = running.to;
            self.forget_failures();
        }
        self.gate = Gate::Open;
        out.push(Action::Note(Note::Service(ServiceNote::SwitchEnded { from, to: running.to, outcome })));
        self.answer_switch(running.request, outcome, out);
    }

    fn moves_the_service(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Moved { .. } => true,
            Outcome::Failed(failure) => failure == Failure::Timeout && self.broken(Mutation::MoveOnTimeout),
        }
    }

    fn answer_switch(&self, request: RequestId, outcome: Outcome, out: &mut Vec<Action>) {
        out.push(Action::Answer(request, Answer::Switched(outcome)));
        if self.broken(Mutation::AnswerTwice) {
            out.push(Action::Answer(request, Answer::Switched(outcome)));
        }
    }
}
