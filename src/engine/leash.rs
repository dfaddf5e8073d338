//! The coordinator's hold on a granted client: what it can do to a thread that is blocked in connect, read or write.
//! Stop by closing, not by flag.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::relay::Pair;
use crate::core::msg::Why;
use crate::net::Stream;

/// Held by the coordinator and by the client's thread.
#[derive(Debug)]
pub struct Leash(Mutex<Hold>);

#[derive(Debug)]
enum Hold {
    /// Connecting; nothing of the client has been read. `None` when not even a socket could be had.
    Dialling(Option<Arc<Stream>>),
    /// Both sides are connected. The pair belongs to its threads, not to the leash.
    Paired(Weak<Pair>),
    Over(Over),
}

/// The leash was pulled while dialling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The client waits again.
    CalledOff,
    /// The client is to be closed.
    Cut,
}

impl Leash {
    pub fn new(connecting: Option<Arc<Stream>>) -> Leash {
        Leash(Mutex::new(Hold::Dialling(connecting)))
    }

    /// The dial goes on with another socket.
    ///
    /// # Errors
    /// When the leash has been pulled.
    pub fn retarget(&self, to: &Arc<Stream>) -> Result<(), Over> {
        self.advance(Hold::Dialling(Some(Arc::clone(to))))
    }

    /// The dial has succeeded: from now on it cannot be called off.
    ///
    /// # Errors
    /// When the leash was pulled first.
    pub fn pair(&self, pair: &Arc<Pair>) -> Result<(), Over> {
        self.advance(Hold::Paired(Arc::downgrade(pair)))
    }

    /// Whether the leash has been pulled.
    ///
    /// # Errors
    /// How it was.
    pub fn check(&self) -> Result<(), Over> {
        match &*self.0.lock() {
            Hold::Dialling(_) | Hold::Paired(_) => Ok(()),
            Hold::Over(over) => Err(*over),
        }
    }

    fn advance(&self, to: Hold) -> Result<(), Over> {
        let mut hold = self.0.lock();
        if let Hold::Over(over) = &*hold {
            return Err(*over);
        }
        *hold = to;
        Ok(())
    }

    /// Ends a dial that has not succeeded; later it does nothing.
    pub fn call_off(&self) {
        self.end_dial(Over::CalledOff);
    }

    /// Ends everything at once: both sides see the connection fail.
    pub fn cut(&self) {
        if let Some(pair) = self.end_dial(Over::Cut) {
            pair.abort(Why::Cut, None);
        }
    }

    /// Ends a pair in order whose backend has ended.
    pub fn dismiss(&self) {
        let pair = match &*self.0.lock() {
            Hold::Dialling(_) | Hold::Over(_) => None,
            Hold::Paired(pair) => pair.upgrade(),
        };
        if let Some(pair) = pair {
            pair.dismiss(Why::Dismissed);
        }
    }

    /// Aborts the connecting socket, or returns the pair if it is too late for that.
    fn end_dial(&self, how: Over) -> Option<Arc<Pair>> {
        let mut hold = self.0.lock();
        match &*hold {
            Hold::Dialling(connecting) => {
                if let Some(stream) = connecting {
                    stream.abort();
                }
                *hold = Hold::Over(how);
                None
            }
            Hold::Paired(pair) => pair.upgrade(),
            Hold::Over(Over::CalledOff) => {
                *hold = Hold::Over(how);
                None
            }
            Hold::Over(Over::Cut) => None,
        }
    }
}
