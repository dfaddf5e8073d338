//! Commands, and the end of the program. `Stop` lets clients finish within the grace period. `QuitForce`, or the end of
//! that period, resets all clients. `Exit` follows, once.

use std::time::Duration;

use super::State;
use super::msg::{Action, Answer, CloseReason, Command, Failure, Note, RequestId, RunId, ServiceNote, TimerId};

/// The stages of the program, from start to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Running,
    /// Told to stop. Clients may finish until the timer fires.
    Stopping(TimerId),
    /// All clients were reset. The core waits for their last reports until the timer fires.
    Closing(TimerId),
    Over,
}

/// The longest wait for the last reports of clients that were reset.
const CLOSING: Duration = Duration::from_secs(1);
/// Within this time a second Ctrl-C stops the program.
const SECOND_INTERRUPT: Duration = Duration::from_secs(5);

impl State {
    pub(super) fn asked(&mut self, request: RequestId, command: Command, out: &mut Vec<Action>) {
        let answer = match command {
            // Answered when the switchover ends.
            Command::Switch => return self.start_switch(request, out),
            Command::Abort if self.switching() => {
                self.fail(Failure::Aborted, out);
                Answer::RollingBack
            }
            Command::Abort => Answer::NoSwitchRunning,
            Command::Set(setting) => {
                self.settings.apply(setting);
                out.push(Action::Note(Note::Service(ServiceNote::SettingChanged)));
                Answer::Changed
            }
            Command::Change(change) => self.change(change, out),
            Command::Quit if self.switching() || !self.clients.is_empty() => {
                Answer::InUse { assigned: self.assigned, held: self.held.len() }
            }
            Command::Quit | Command::QuitForce => {
                self.close_all(Failure::Quit, out);
                Answer::Ending
            }
            Command::Interrupt => self.interrupt(out),
            Command::Stop => {
                self.stop(out);
                Answer::Ending
            }
        };
        out.push(Action::Answer(request, answer));
    }

    pub(super) fn interrupt(&mut self, out: &mut Vec<Action>) -> Answer {
        let (assigned, held) = (self.assigned, self.held.len());
        match self.life {
            Life::Running if self.switching() => {
                self.fail(Failure::CtrlC, out);
                return Answer::RollingBack;
            }
            Life::Running if self.clients.is_empty() => self.close_all(Failure::CtrlC, out),
            Life::Running if self.interrupted.is_none() => {
                self.interrupted = Some(self.arm(SECOND_INTERRUPT, out));
                out.push(Action::Note(Note::Service(ServiceNote::InterruptIgnored { assigned, held })));
                return Answer::StillInUse { assigned, held };
            }
            Life::Running | Life::Stopping(_) | Life::Closing(_) | Life::Over => self.stop(out),
        }
        Answer::Ending
    }

    pub(super) fn stop(&mut self, out: &mut Vec<Action>) {
        match self.life {
            Life::Running => {
                self.fail(Failure::Stopped, out);
                let timer = self.arm(self.rules.grace, out);
                self.life = Life::Stopping(timer);
                out.push(Action::StopListening);
                out.push(Action::Note(Note::Service(ServiceNote::Stopping {
                    assigned: self.assigned,
                    held: self.held.len(),
                })));
            }
            Life::Stopping(_) => self.close_all(Failure::Stopped, out),
            Life::Closing(_) | Life::Over => {}
        }
    }

    /// Ends the program even if clients are connected. Held clients are rejected, because they could not be served to
    /// their end.
    pub(super) fn close_all(&mut self, failure: Failure, out: &mut Vec<Action>) {
        if self.closing() {
            return;
        }
        let timer = self.arm(CLOSING, out);
        if self.life == Life::Running {
            out.push(Action::StopListening);
        }
        self.life = Life::Closing(timer);
        self.fail(failure, out);
        for client in std::mem::take(&mut self.held) {
            self.reject(client, CloseReason::Shutdown, out);
        }
        out.extend(self.clients.keys().map(|&client| Action::Reset(client)));
    }

    pub(super) fn fired(&mut self, timer: TimerId, out: &mut Vec<Action>) {
        if self.interrupted == Some(timer) {
            self.interrupted = None;
        }
        self.switch_timer(timer, out);
        self.pool_timer(timer, out);
        self.pause_timer(timer);
        match self.life {
            Life::Stopping(grace) if grace == timer => self.close_all(Failure::Stopped, out),
            Life::Closing(limit) if limit == timer => self.exit(out),
            Life::Running | Life::Stopping(_) | Life::Closing(_) | Life::Over => {}
        }
    }

    pub(super) fn exit(&mut self, out: &mut Vec<Action>) {
        self.life = Life::Over;
        out.push(Action::Exit);
    }

    /// The program is ending: no client is served any more.
    pub(super) fn closing(&self) -> bool {
        match self.life {
            Life::Running | Life::Stopping(_) => false,
            Life::Closing(_) | Life::Over => true,
        }
    }

    pub(super) fn arm(&mut self, after: Duration, out: &mut Vec<Action>) -> TimerId {
        let timer = TimerId(self.next_timer);
        self.next_timer += 1;
        out.push(Action::Arm(timer, after));
        timer
    }

    pub(super) fn new_run(&mut self) -> RunId {
        self.next_run += 1;
        RunId(self.next_run)
    }
}
