//! What clients and servers observed: the data behind the rows and the verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Cheap to clone; all clones share the data.
#[derive(Clone, Debug, Default)]
pub struct Book(Arc<Mutex<BookInner>>);

#[derive(Debug, Default)]
struct BookInner {
    totals: DemoTotals,
    first_error: Option<String>,
    /// A client was refused a connection.
    refused: bool,
    /// Durations of requests outside a switch; at most [`SAMPLES`].
    ordinary: Vec<Duration>,
    longest_ordinary: Duration,
    /// The switch in progress.
    switch: Option<Window>,
}

/// Enough for a median; `--stay` may run for days.
const SAMPLES: usize = 200_000;

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DemoTotals {
    /// Requests answered in full.
    pub requests: u64,
    /// Requests without a complete answer.
    pub errors: u64,
    /// Requests that reached a server that was not the primary, counted by that server.
    pub wrong: u64,
}

/// From typing `switch` until its answer was complete.
#[derive(Debug)]
struct Window {
    began: Instant,
    ended: Option<Instant>,
    /// Durations of requests that overlapped it.
    waits: Vec<Duration>,
}

/// Longest and median of some durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    pub longest: Duration,
    pub median: Duration,
}

impl Book {
    /// Records an answer to a request sent at `asked`.
    pub fn answered(&self, asked: Instant) {
        let now = Instant::now();
        let wait = now - asked;
        let mut book = self.0.lock();
        book.totals.requests += 1;
        match &mut book.switch {
            Some(switch) if now >= switch.began && switch.ended.is_none_or(|ended| asked <= ended) => {
                switch.waits.push(wait);
            }
            Some(_) | None => {
                book.longest_ordinary = book.longest_ordinary.max(wait);
                if book.ordinary.len() < SAMPLES {
                    book.ordinary.push(wait);
                }
            }
        }
    }

    /// Records a request without a complete answer.
    pub fn failed(&self, because: &str) {
        let mut book = self.0.lock();
        book.totals.errors += 1;
        book.first_error.get_or_insert_with(|| because.to_owned());
    }

    /// Records a refused connection.
    pub fn nobody_listens(&self) {
        self.0.lock().refused = true;
    }

    /// Records a request to a server that was not the primary.
    pub fn reached_wrong_server(&self) {
        self.0.lock().totals.wrong += 1;
    }

    /// To be called just before `switch` is typed.
    pub fn switch_begins(&self) {
        self.0.lock().switch = Some(Window { began: Instant::now(), ended: None, waits: Vec::new() });
    }

    /// To be called when the answer to `switch` is complete. Requests in progress still count as part of the switch.
    pub fn switch_ended(&self) {
        if let Some(switch) = &mut self.0.lock().switch {
            switch.ended = Some(Instant::now());
        }
    }

    /// Durations of requests that overlapped the last switch.
    pub fn switch_waits(&self) -> Waits {
        let mut waits = self.0.lock().switch.as_ref().map(|switch| switch.waits.clone()).unwrap_or_default();
        let longest = waits.iter().max().copied().unwrap_or_default();
        Waits { longest, median: median(&mut waits) }
    }

    /// Durations of all other requests.
    pub fn ordinary_waits(&self) -> Waits {
        let (mut waits, longest) = {
            let book = self.0.lock();
            (book.ordinary.clone(), book.longest_ordinary)
        };
        Waits { longest, median: median(&mut waits) }
    }

    pub fn totals(&self) -> DemoTotals {
        self.0.lock().totals
    }

    /// The cause of the first error.
    pub fn first_error(&self) -> Option<String> {
        self.0.lock().first_error.clone()
    }

    /// Whether a client was ever refused a connection. A proxy refuses none until it has ended.
    pub fn has_refusals(&self) -> bool {
        self.0.lock().refused
    }
}

fn median(waits: &mut [Duration]) -> Duration {
    if waits.is_empty() {
        return Duration::ZERO;
    }
    let middle = waits.len() / 2;
    *waits.select_nth_unstable(middle).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_under_way_during_a_switch_belongs_to_it_and_no_other_does() {
        let book = Book::default();
        let long_ago = Instant::now();
        book.answered(Instant::now());
        book.switch_begins();
        book.answered(long_ago);
        let inside = Instant::now();
        book.answered(inside);
        book.switch_ended();
        book.answered(inside);
        std::thread::sleep(Duration::from_millis(1));
        book.answered(Instant::now());
        let inner = book.0.lock();
        let switch = inner.switch.as_ref().map(|switch| switch.waits.len());
        assert_eq!((switch, inner.ordinary.len(), inner.totals.requests), (Some(3), 2, 5));
    }

    #[test]
    fn the_median_of_nothing_is_nothing() {
        assert_eq!(median(&mut []), Duration::ZERO);
        assert_eq!(median(&mut [3, 1, 2].map(Duration::from_secs)), Duration::from_secs(2));
    }
}
