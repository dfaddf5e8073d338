//! The rows: what the counters show, looked at forty times a second. Decides nothing.

use std::io;
use std::time::{Duration, Instant};

use super::book::DemoTotals;
use super::screen::{Sample, Screen, ScreenRow};

/// What can be seen at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// The server clients are sent to.
    pub active: &'static str,
    /// Clients that are connected and held; without a proxy nobody knows.
    pub queue: Option<Queue>,
    pub totals: DemoTotals,
}

/// Of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub assigned: usize,
    pub held: usize,
}

/// The row that is growing, and when the next look is due.
#[derive(Debug)]
pub struct Pulse {
    /// When the clients began.
    began: Instant,
    /// The next look at the counters.
    pub next: Instant,
    /// Rows that are complete.
    pub rows: u32,
    row: ScreenRow,
    /// Requests when the last sample and the last row were complete.
    sampled: u64,
    rowed: u64,
    /// Errors when the last sample was complete.
    errors: u64,
}

/// Between two looks at the counters: the width of a bar.
const SAMPLE: Duration = Duration::from_millis(25);
/// A row is half a second.
const SAMPLES_PER_ROW: usize = 20;

impl Pulse {
    /// Time begins.
    pub fn new() -> Pulse {
        let began = Instant::now();
        Pulse { began, next: began + SAMPLE, rows: 0, row: ScreenRow::default(), sampled: 0, rowed: 0, errors: 0 }
    }

    /// Takes the samples that are due. One that is late is several, each with its share, so that time keeps its scale
    /// and a busy machine does not look like a pause.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn sample(&mut self, sight: Sight, screen: &mut Screen) -> io::Result<()> {
        let totals = sight.totals;
        (self.row.active, self.row.queue) = (sight.active, sight.queue);
        self.row.errors = totals.errors + totals.wrong;
        let held = sight.queue.map_or(0, |queue| queue.held);
        let failed = self.row.errors > std::mem::replace(&mut self.errors, self.row.errors);
        let late = Instant::now().saturating_duration_since(self.next);
        let due = 1 + (late.as_nanos() / SAMPLE.as_nanos()) as u64;
        for share in (1..=due).rev() {
            let answered = (totals.requests - self.sampled) / share;
            self.sampled += answered;
            self.row.samples.push(Sample { answered, held, failed });
            self.row.time = self.next - self.began;
            self.next += SAMPLE;
            let so_far = SAMPLE * self.row.samples.len() as u32;
            self.row.per_second = ((self.sampled - self.rowed) as f64 / so_far.as_secs_f64()) as u64;
            if self.row.samples.len() == SAMPLES_PER_ROW {
                screen.row(&self.row)?;
                self.rows += 1;
                self.rowed = self.sampled;
                self.row.samples.clear();
            }
        }
        if self.row.samples.is_empty() { Ok(()) } else { screen.growing_row(&self.row) }
    }
}
