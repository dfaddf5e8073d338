//! Where a command writes its answer, and how its waits are interrupted: the same for a socket and the console.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

/// A command's connection to its operator.
pub struct Terminal<'a> {
    out: &'a mut dyn Write,
    stop: StopSignal<'a>,
    /// Set by `prompt`.
    pub keep_open: bool,
    /// Set by `quit` when the program is about to end.
    pub ending: bool,
    /// Set by a command that ends the session, also at a prompt.
    pub leaving: bool,
}

/// Interrupts a command that repeats.
#[derive(Clone, Copy)]
pub enum StopSignal<'a> {
    /// A session: disconnected when the program ends.
    Session(&'a Receiver<()>),
    /// Ctrl-C at the console.
    CtrlC(&'a Interrupts),
}

/// Directs Ctrl-C to a repeating command of the console.
#[derive(Clone, Debug, Default)]
pub struct Interrupts(Arc<Mutex<Option<Sender<()>>>>);

impl Interrupts {
    /// Interrupts the console's repeating command. Returns false if there is none: then Ctrl-C is meant for the
    /// program.
    pub fn interrupt(&self) -> bool {
        // Dropping the sender is the signal.
        self.0.lock().take().is_some()
    }
}

impl<'a> Terminal<'a> {
    pub fn new(out: &'a mut dyn Write, stop: StopSignal<'a>) -> Terminal<'a> {
        Terminal { out, stop, keep_open: false, ending: false, leaving: false }
    }

    /// Writes one line and flushes it.
    ///
    /// # Errors
    /// When the peer cannot be written to any more.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(format!("{text}\n").as_bytes())?;
        self.out.flush()
    }

    /// Waits until control has closed; false if it takes longer than `limit`.
    pub fn closes_within(&self, limit: Duration) -> bool {
        match self.stop {
            StopSignal::Session(closing) => closing.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected),
            // The console stays open until the end.
            StopSignal::CtrlC(_) => true,
        }
    }

    /// Runs `step` now and then every `interval`, until it returns `false`, fails, or is interrupted.
    ///
    /// # Errors
    /// The error of `step`.
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
