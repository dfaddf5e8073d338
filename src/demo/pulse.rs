//! The rows: samples the counters forty times a second. Decides nothing.

use std::io;
use std::time::{Duration, Instant};

use super::book::DemoTotals;
use super::screen::{Sample, Screen, ScreenRow};

/// Snapshot of the counters.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// The server clients are sent to.
    pub active: &'static str,
    /// Clients connected and held; unknown without a proxy.
    pub queue: Option<Queue>,
    pub totals: DemoTotals,
}

/// The proxy's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub assigned: usize,
    pub held: usize,
}

/// The unfinished row, and the time of the next sample.
#[derive(Debug)]
pub struct Pulse {
    /// When the clients started.
    began: Instant,
    /// When the next sample is due.
    pub next: Instant,
    /// Number of complete rows.
    pub rows: u32,
    row: ScreenRow,
    /// Number of requests at the last sample and at the last row.
    sampled: u64,
    rowed: u64,
    /// Number of errors at the last sample.
    errors: u64,
}

/// Time between two samples; each is one bar.
const SAMPLE: Duration = Duration::from_millis(25);
/// A row lasts half a second.
const SAMPLES_PER_ROW: usize = 20;

impl Pulse {
    /// Starts the clock.
    pub fn new() -> Pulse {
        let began = Instant::now();
        Pulse { began, next: began + SAMPLE, rows: 0, row: ScreenRow::default(), sampled: 0, rowed: 0, errors: 0 }
    }

    /// Takes the samples that are due. A late sample counts as several, each with its share, so that the time axis
    /// keeps its scale and a busy machine does not look like a pause.
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
