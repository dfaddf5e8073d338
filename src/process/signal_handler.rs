//! Maps signals to actions and carries them out.

use std::time::Duration;

use super::complain;
use super::signals::Signal;
use crate::children;
use crate::config::{OnHangup, OnInterrupt, Process};
use crate::control::terminal::Interrupts;
use crate::core::msg::{Answer, Command};
use crate::engine::messages::{CoordinatorHandle, Reply};
use crate::observe::lines::Reopener;
use crate::observe::log_format::{LogFormat, ProcessEvent};

/// Forwards signals as commands to the services.
pub struct SignalHandler {
    /// The coordinators of all services.
    pub handles: Vec<CoordinatorHandle>,
    pub interrupts: Interrupts,
    pub reopeners: Vec<Reopener>,
    pub log_format: Box<dyn LogFormat>,
    pub process: Process,
}

/// Longest wait for the coordinator's answer before the next signal is handled.
const PATIENCE: Duration = Duration::from_secs(1);

impl SignalHandler {
    pub fn handle_signal(&mut self, signal: Signal) {
        let command = match (signal, self.process.on_hangup, self.process.on_interrupt) {
            (Signal::HangUp, OnHangup::Reopen, _) => {
                // First, so that the log line is in the new file.
                self.reopeners.iter().for_each(Reopener::reopen);
                return self.log_format.process_event(&ProcessEvent::Reopening);
            }
            (Signal::Child, ..) => return children::collect_others(),
            (Signal::User, ..) => return self.log_format.process_event(&ProcessEvent::Ignored { name: signal.name() }),
            // While a repeating command runs on the console, Ctrl-C only ends that command.
            (Signal::Interrupt, ..) if self.interrupts.interrupt() => return,
            (Signal::Interrupt, _, OnInterrupt::Ask) if self.handles.len() == 1 => Command::Interrupt,
            (Signal::Interrupt, ..) | (Signal::HangUp, OnHangup::Stop, _) | (Signal::Stop | Signal::Quit, ..) => {
                Command::Stop
            }
        };
        self.log_format.process_event(&ProcessEvent::Signal { name: signal.name() });
        for handle in &self.handles {
            let replies = handle.ask(command);
            // The log has every answer, but a user whose Ctrl-C had no effect must see the reason at once.
            if command == Command::Interrupt
                && let Ok(Reply::Answer(Answer::StillInUse { assigned, held }, _)) = replies.recv_timeout(PATIENCE)
            {
                let name = &self.process.name;
                let words = "Ctrl-C again within 5 s stops it all the same";
                complain(&format!("{name}: clients connected: {assigned}, held: {held}; {words}"));
            }
        }
    }
}
