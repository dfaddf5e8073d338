//! What the two threads of a client must agree on. Only `connection` changes it, under its lock.

use super::dial::Wish;
use super::sockets::{Sockets, Stopped};
use crate::relay::closing::{Closing, Parting};
use crate::relay::reason::Reason;

/// One connection's state.
#[derive(Debug)]
pub struct State {
    /// What the dispatcher wants of the dial.
    pub wish: Option<Wish>,
    pub connected: bool,
    pub sockets: Option<Sockets>,
    pub closing: Closing,
    pub reason: Reason,
    /// How the connection ends. The last thread carries it out.
    pub parting: Option<Parting>,
    /// Reading was stopped.
    pub stopped: Option<Stopped>,
    /// A switchover asks to close this client if it may.
    pub asked: bool,
    /// The waker is readable: somebody has woken the threads.
    pub woken: bool,
    /// Threads that are at work.
    pub threads: u8,
    /// The last reported value of [`Closing::is_dismissible`].
    pub dismissible: bool,
    /// A thread is about to report a new value.
    pub reporting: bool,
}

impl State {
    /// Dialling, with both threads at work.
    pub fn new() -> State {
        State {
            wish: None,
            connected: false,
            sockets: None,
            closing: Closing::new(),
            reason: Reason::default(),
            parting: None,
            stopped: None,
            asked: false,
            woken: false,
            threads: 2,
            dismissible: false,
            reporting: false,
        }
    }
}
