//! Where a command writes its answer, and how its waiting is interrupted. The same for a socket and for the console.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

/// One command's view of whoever asked.
pub struct Terminal<'a> {
    out: &'a mut dyn Write,
    stop: StopSignal<'a>,
    /// Set by `prompt`.
    pub keep_open: bool,
    /// Set by `quit`, when it is about to happen.
    pub ending: bool,
    /// Set by whatever ends the session, also at a prompt.
    pub leaving: bool,
}

/// What ends a command that would repeat for ever.
#[derive(Clone, Copy)]
pub enum StopSignal<'a> {
    /// The session: disconnected when the program ends.
    Session(&'a Receiver<()>),
    /// Ctrl-C at the console.
    CtrlC(&'a Interrupts),
}

/// Ctrl-C, for as long as a command at the console wants it for itself.
#[derive(Clone, Debug, Default)]
pub struct Interrupts(Arc<Mutex<Option<Sender<()>>>>);

impl Interrupts {
    /// Interrupts the console's repeating command. False when there is none: then Ctrl-C means the program.
    pub fn interrupt(&self) -> bool {
        // Dropping the sender is the message.
        self.0.lock().take().is_some()
    }
}

impl<'a> Terminal<'a> {
    pub fn new(out: &'a mut dyn Write, stop: StopSignal<'a>) -> Terminal<'a> {
        Terminal { out, stop, keep_open: false, ending: false, leaving: false }
    }

    /// Writes one line, at once.
    ///
    /// # Errors
    /// When nobody can read it any more.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(format!("{text}\n").as_bytes())?;
        self.out.flush()
    }

    /// Waits until operators are listened to no more; false when that takes longer.
    pub fn closes_within(&self, limit: Duration) -> bool {
        match self.stop {
            StopSignal::Session(closing) => closing.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected),
            // The console is there until the end.
            StopSignal::CtrlC(_) => true,
        }
    }

    /// Runs `step` every `interval` until it says `false`, fails, or is interrupted; the first time at once.
    ///
    /// # Errors
    /// What `step` fails with.
    pub fn repeat(
        &mut self,
        interval: Duration,
        mut step: impl FnMut(&mut Terminal<'a>) -> io::Result<bool>,
    ) -> io::Result<()> {
        let own;
        let stopped = match self.stop {
            StopSignal::Session(closing) => closing,
            StopSignal::CtrlC(interrupts) => {
                let (sender, receiver) = bounded(0);
                *interrupts.0.lock() = Some(sender);
                own = receiver;
                &own
            }
        };
        let mut result = Ok(());
        loop {
            match step(self) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
            match stopped.recv_timeout(interval) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let StopSignal::CtrlC(interrupts) = self.stop {
            interrupts.0.lock().take();
        }
        result
    }
}
