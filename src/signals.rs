//! Signals, on a thread of their own: SIGINT, SIGTERM, SIGQUIT and SIGHUP mean different things here.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::threads;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Stop,
    /// SIGQUIT.
    Quit,
    /// SIGHUP.
    HangUp,
}

impl Signal {
    /// As kill(1) has it.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Stop => "SIGTERM",
            Signal::Quit => "SIGQUIT",
            Signal::HangUp => "SIGHUP",
        }
    }
}

/// The thread `signals`. Dropping it joins it; the signals stay caught and are ignored from then on.
#[derive(Debug)]
pub struct Listener {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Calls `received` for each signal.
    ///
    /// # Errors
    /// When handlers or a thread cannot be had.
    pub fn start(mut received: impl FnMut(Signal) + Send + 'static) -> io::Result<Listener> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGHUP])?;
        let handle = signals.handle();
        let thread = threads::spawn("signals", move || {
            for signal in signals.forever() {
                received(match signal {
                    SIGINT => Signal::Interrupt,
                    SIGHUP => Signal::HangUp,
                    SIGQUIT => Signal::Quit,
                    // Only the four are registered.
                    _ => Signal::Stop,
                });
            }
        })?;
        Ok(Listener { handle, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
