//! Timers by time of day. Nothing is ever cancelled: the core ignores what no longer matters.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::core::msg::TimerId;

/// All armed timers.
#[derive(Debug, Default)]
pub struct Timers {
    armed: BinaryHeap<Reverse<(Instant, TimerId)>>,
}

impl Timers {
    pub fn arm(&mut self, timer: TimerId, at: Instant) {
        self.armed.push(Reverse((at, timer)));
    }

    /// When the next one fires.
    pub fn next(&self) -> Option<Instant> {
        self.armed.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out one that is due; it is consumed.
    pub fn due(&mut self, now: Instant) -> Option<TimerId> {
        match self.next() {
            Some(at) if at <= now => self.armed.pop().map(|Reverse((_, timer))| timer),
            Some(_) | None => None,
        }
    }

    /// How long until this timer fires; zero if it is not armed any more.
    pub fn left(&self, timer: TimerId) -> Duration {
        let found = self.armed.iter().find(|Reverse((_, armed))| *armed == timer);
        found.map_or(Duration::ZERO, |Reverse((at, _))| at.saturating_duration_since(Instant::now()))
    }
}
