//! Signals: corrects inherited settings at the start, and receives the signals with a meaning here on a separate
//! thread. No other signal that can be caught ends or stops the proxy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use nix::sys::signal::{SigSet, Signal as Number};
use parking_lot::Mutex;
use signal_hook::consts::{
    SIGABRT, SIGBUS, SIGCHLD, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGSEGV, SIGSTOP, SIGSYS,
    SIGTERM, SIGTRAP, SIGUSR1,
};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

use crate::threads;

/// The signals with a meaning.
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
    /// SIGUSR1.
    User,
    /// SIGCHLD: a child has ended.
    Child,
}

impl Signal {
    /// Its name, as in kill(1).
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Stop => "SIGTERM",
            Signal::Quit => "SIGQUIT",
            Signal::HangUp => "SIGHUP",
            Signal::User => "SIGUSR1",
            Signal::Child => "SIGCHLD",
        }
    }
}

/// Signals whose action is not changed: two that cannot be caught; those that report a fault of the program, which
/// cannot continue; SIGPIPE, which the standard library ignores; and those that [`SignalThread`] receives.
const LEFT_ALONE: [i32; 14] = [
    SIGKILL, SIGSTOP, SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP, SIGABRT, SIGSYS, SIGPIPE, SIGINT, SIGTERM, SIGQUIT,
    SIGHUP,
];
/// The highest signal number on Linux.
const LAST: i32 = 64;

/// Resets the inherited signal mask and an ignored SIGCHLD, with which the system would discard the exit status of
/// children. Call it before any thread is started: threads inherit the mask.
pub fn reset_inherited() {
    // Fails only for a malformed mask.
    SigSet::empty().thread_set_mask().ok();
    ignore(SIGCHLD);
}

/// From now on no signal ends or stops this process, except those meant to and those that report a fault. Call it
/// before any thread is started.
pub fn survive_others() {
    // Unlike an ignored signal, a caught one has its default action again in a child after exec(2).
    (1..=LAST).filter(|number| !LEFT_ALONE.contains(number)).for_each(ignore);
    // Catching SIGTTIN or SIGTTOU would repeat a background access to the terminal forever. With the signal blocked,
    // reading fails and writing works.
    let terminal = [Number::SIGTTIN, Number::SIGTTOU];
    terminal.into_iter().collect::<SigSet>().thread_block().ok();
}

/// Catches a signal and does nothing.
fn ignore(number: i32) {
    // Fails for numbers reserved by the C library, which are never sent.
    flag::register(number, Arc::new(AtomicBool::new(false))).ok();
}

/// The function that handles signals. Two threads may call it at the same time.
type Handler = Arc<Mutex<dyn FnMut(Signal) + Send>>;

/// The current handler of Ctrl-C. `ctrlc` takes only one function in the life of the process, so it calls this one.
static ON_CTRL_C: Mutex<Option<Handler>> = Mutex::new(None);

/// Receives the signals: the thread of `ctrlc` receives SIGINT, the thread `signals` the others, which `ctrlc` cannot
/// tell apart. Dropping it joins the second thread. The first owns nothing and ends with the process. From then on the
/// signals are caught and ignored.
#[derive(Debug)]
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalThread {
    /// Calls `received` for each signal.
    ///
    /// # Errors
    /// If a handler cannot be installed or a thread cannot be started.
    pub fn start(received: impl FnMut(Signal) + Send + 'static) -> io::Result<SignalThread> {
        let handler: Handler = Arc::new(Mutex::new(received));
        let mut signals = Signals::new([SIGCHLD, SIGUSR1, SIGTERM, SIGQUIT, SIGHUP])?;
        let handle = signals.handle();
        let others = Arc::clone(&handler);
        let thread = threads::spawn("signals", move || {
            for signal in signals.forever() {
                others.lock()(match signal {
                    SIGHUP => Signal::HangUp,
                    SIGQUIT => Signal::Quit,
                    SIGUSR1 => Signal::User,
                    SIGCHLD => Signal::Child,
                    // Only these five are registered.
                    _ => Signal::Stop,
                });
            }
        })?;
        let signals = SignalThread { handle, thread: Some(thread) };
        *ON_CTRL_C.lock() = Some(handler);
        catch_ctrl_c()?;
        Ok(signals)
    }
}

/// Installs the handler once in the process. Later calls do nothing.
fn catch_ctrl_c() -> io::Result<()> {
    let caught = ctrlc::set_handler(|| {
        let handler = ON_CTRL_C.lock().clone();
        if let Some(handler) = handler {
            handler.lock()(Signal::Interrupt);
        }
    });
    match caught {
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(e) => Err(io::Error::other(format!("cannot catch Ctrl-C: {e}"))),
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        *ON_CTRL_C.lock() = None;
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
