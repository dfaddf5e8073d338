//! The rows: what the proxy's and the clients' counters show, looked at forty times a second. Decides nothing.

use std::io;
use std::time::{Duration, Instant};

use super::screen::{Row, Sample, Screen};
use super::stage::Stage;

/// The row that is growing, and when the next look is due.
#[derive(Debug)]
pub struct Pulse {
    /// When the clients began.
    began: Instant,
    /// The next look at the counters.
    pub next: Instant,
    /// Rows that are complete.
    pub rows: u32,
    row: Row,
    /// Requests when the last sample and the last row were complete.
    sampled: u64,
    rowed: u64,
}

/// Between two looks at the counters: the width of a bar.
const SAMPLE: Duration = Duration::from_millis(25);
/// A row is half a second.
const SAMPLES_PER_ROW: usize = 20;

impl Pulse {
    /// Time begins.
    pub fn new() -> Pulse {
        let began = Instant::now();
        Pulse { began, next: began + SAMPLE, rows: 0, row: Row::default(), sampled: 0, rowed: 0 }
    }

    /// Takes the samples that are due. One that is late is several, each with its share, so that time keeps its scale
    /// and a busy machine does not look like a pause.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn sample(&mut self, stage: &Stage, screen: &mut Screen) -> io::Result<()> {
        let totals = stage.book.totals();
        let now = stage.proxy.desk().board.read();
        self.row.active = stage.name_of(&now.active);
        (self.row.granted, self.row.held) = (now.view.granted, now.view.held);
        self.row.errors = totals.errors + totals.wrong;
        let late = Instant::now().saturating_duration_since(self.next);
        let due = 1 + (late.as_nanos() / SAMPLE.as_nanos()) as u64;
        for share in (1..=due).rev() {
            let answered = (totals.requests - self.sampled) / share;
            self.sampled += answered;
            self.row.samples.push(Sample { answered, held: now.view.held });
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
