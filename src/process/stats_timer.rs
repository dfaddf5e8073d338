//! Logs the counters of all backends at an interval.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::engine::messages::{CoordinatorHandle, Message};
use crate::threads::Repeating;

/// The timer's thread. Dropping it ends and joins it.
pub struct StatsTimer {
    _thread: Repeating,
}

impl StatsTimer {
    /// Notifies each of these services at every interval.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(every: Duration, handles: Vec<CoordinatorHandle>) -> io::Result<StatsTimer> {
        let thread = Repeating::start("tally", every, move || {
            handles.iter().for_each(|handle| handle.send(Message::Tally));
            ControlFlow::Continue(())
        })?;
        Ok(StatsTimer { _thread: thread })
    }
}
