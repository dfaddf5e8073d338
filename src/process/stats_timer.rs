//! Lets the log tell of all backends every so often.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::engine::messages::{CoordinatorHandle, Message};
use crate::threads::Repeating;

/// The thread that keeps the time. Dropping it ends and joins it.
pub struct StatsTimer {
    _thread: Repeating,
}

impl StatsTimer {
    /// Tells each of these services that it is time, every so often.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(every: Duration, handles: Vec<CoordinatorHandle>) -> io::Result<StatsTimer> {
        let thread = Repeating::start("tally", every, move || {
            handles.iter().for_each(|handle| handle.send(Message::Tally));
            ControlFlow::Continue(())
        })?;
        Ok(StatsTimer { _thread: thread })
    }
}
