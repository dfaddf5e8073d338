//! A thread that does something at regular intervals, until it says that this is enough or is told to stop.

use std::io;
use std::ops::ControlFlow;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// The thread. Dropping it ends and joins it; an `act` that has begun is waited for.
#[derive(Debug)]
pub struct Repeating {
    // Dropped first: the thread ends when it is.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Repeating {
    /// Starts to call `act`, the first time after one interval, until it breaks.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(
        name: &str,
        interval: Duration,
        mut act: impl FnMut() -> ControlFlow<()> + Send + 'static,
    ) -> io::Result<Repeating> {
        let (stop, stopped) = bounded::<()>(0);
        let thread = super::spawn(name, move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) && act().is_continue() {}
        })?;
        Ok(Repeating { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{TryRecvError, unbounded};

    use super::*;

    #[test]
    fn it_acts_until_it_has_had_enough() {
        let (turns, seen) = unbounded();
        let mut left = 3;
        let _repeating = Repeating::start("test", Duration::from_millis(1), move || {
            left -= 1;
            turns.send(left).ok();
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // Ends when the thread has dropped its sender.
        assert_eq!(seen.iter().collect::<Vec<i32>>(), [2, 1, 0]);
    }

    #[test]
    fn dropping_it_ends_and_joins_a_thread_that_waits_for_its_turn() {
        let (turns, seen) = unbounded::<()>();
        let repeating = Repeating::start("test", Duration::from_secs(3600), move || {
            turns.send(()).ok();
            ControlFlow::Continue(())
        });
        drop(repeating.expect("a thread"));
        assert_eq!(seen.try_recv(), Err(TryRecvError::Disconnected));
    }
}
