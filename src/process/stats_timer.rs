//! Logs the counters of all backends at an interval.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::engine::messages::{CoordinatorHandle, Message};
use crate::threads;

/// The timer's thread. Dropping it ends and joins it.
pub struct StatsTimer {
    // Dropped first, which ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StatsTimer {
    /// Notifies each of these services at every interval.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(every: Duration, handles: Vec<CoordinatorHandle>) -> io::Result<StatsTimer> {
        let (stop, stopped) = bounded::<()>(0);
        let thread = threads::spawn("tally", move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                handles.iter().for_each(|handle| handle.send(Message::Tally));
            }
        })?;
        Ok(StatsTimer { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for StatsTimer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
