//! Lets the log tell of all backends every so often.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::engine::messages::{CoordinatorHandle, Message};
use crate::threads;

/// The thread that keeps the time. Dropping it ends and joins it.
pub struct StatsTimer {
    // Dropped first: the thread ends when it is.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StatsTimer {
    /// Tells each of these services that it is time, every so often.
    ///
    /// # Errors
    /// When there is no thread.
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
