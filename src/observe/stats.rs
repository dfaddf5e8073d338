//! The counters for `stats`: published after each event, readable from any thread.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::core::msg::{Action, ClientNote, Note, ServiceNote, UpstreamId, View};

/// The current situation. Cheap to clone; all clones share the data.
#[derive(Clone, Debug)]
pub struct Stats(Arc<Mutex<StatsInner>>);

#[derive(Debug)]
struct StatsInner {
    view: View,
    names: Vec<String>,
    /// Start of the first second.
    epoch: Instant,
    queued: Rate,
    dequeued: Rate,
    total: u64,
    switch_started: Option<Instant>,
}

/// A consistent snapshot for `stats`.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub view: View,
    /// The active upstream as configured.
    pub active: String,
    /// Seconds since the running switchover began.
    pub switch_time: Option<f64>,
    /// Clients that entered the queue, and clients that left it for a backend, in the last full second.
    pub queued_per_second: u64,
    pub dequeued_per_second: u64,
    /// Clients accepted so far.
    pub total: u64,
}

impl Stats {
    pub fn new(view: View, names: Vec<String>) -> Stats {
        Stats(Arc::new(Mutex::new(StatsInner {
            view,
            names,
            epoch: Instant::now(),
            queued: Rate::default(),
            dequeued: Rate::default(),
            total: 0,
            switch_started: None,
        })))
    }

    /// Records the situation after an event, and counts its decisions.
    pub fn publish(&self, view: View, actions: &[Action]) {
        let now = Instant::now();
        let mut inner = self.0.lock();
        inner.view = view;
        let second = now.duration_since(inner.epoch).as_secs();
        for action in actions {
            match action {
                Action::Note(Note::Client(_, ClientNote::Arrived)) => {
                    inner.total += 1;
                    inner.queued.count(second);
                }
                Action::Note(Note::Client(_, ClientNote::Assigned(_))) => inner.dequeued.count(second),
                Action::Note(Note::Service(ServiceNote::SwitchStarted { .. })) => inner.switch_started = Some(now),
                Action::Note(Note::Service(ServiceNote::SwitchEnded { .. })) => inner.switch_started = None,
                Action::Note(_)
                | Action::Dial(..)
                | Action::CancelDial(_)
                | Action::Reject(..)
                | Action::CloseGracefully(_)
                | Action::Reset(_)
                | Action::Probe(_)
                | Action::SetEndpoint(..)
                | Action::Arm(..)
                | Action::RunScript { .. }
                | Action::KillScript(_)
                | Action::Answer(..)
                | Action::StopListening
                | Action::Exit => {}
            }
        }
    }

    pub fn read(&self) -> Snapshot {
        let now = Instant::now();
        let inner = self.0.lock();
        let second = now.duration_since(inner.epoch).as_secs();
        Snapshot {
            view: inner.view,
            active: inner.name(inner.view.active),
            switch_time: inner.switch_started.map(|started| now.duration_since(started).as_secs_f64()),
            queued_per_second: inner.queued.last_full(second),
            dequeued_per_second: inner.dequeued.last_full(second),
            total: inner.total,
        }
    }

    /// An upstream as configured.
    pub fn name(&self, upstream: UpstreamId) -> String {
        self.0.lock().name(upstream)
    }
}

impl StatsInner {
    fn name(&self, upstream: UpstreamId) -> String {
        self.names.get(upstream.0).cloned().unwrap_or_default()
    }
}

/// Events per second without a timer: counts the current second and keeps the previous one.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    second: u64,
    running: u64,
    before: u64,
}

impl Rate {
    fn count(&mut self, second: u64) {
        self.advance(second);
        self.running += 1;
    }

    fn last_full(mut self, second: u64) -> u64 {
        self.advance(second);
        self.before
    }

    fn advance(&mut self, second: u64) {
        if second == self.second {
            return;
        }
        self.before = if second == self.second + 1 { self.running } else { 0 };
        self.running = 0;
        self.second = second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_full_second_and_falls_to_zero_one_later() {
        let mut rate = Rate::default();
        (0..3).for_each(|_| rate.count(7));
        assert_eq!([7, 8, 9].map(|second| rate.last_full(second)), [0, 3, 0]);
        rate.count(8);
        assert_eq!([8, 9, 10].map(|second| rate.last_full(second)), [3, 1, 0]);
    }
}
