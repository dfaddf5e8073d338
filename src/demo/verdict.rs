//! The verdict: what all clients and servers observed, with cbpx and without it, compared to the script's own time.
//! Every number is measured.

use std::io;
use std::time::Duration;

use super::bare::Moved;
use super::book::{Book, DemoTotals, Waits};
use super::clients::{LONG, SHORT};
use super::operator::SwitchReport;
use super::screen::{Ink, Screen, fold};

/// Measurements of one act.
#[derive(Clone, Debug)]
pub struct Observations {
    pub name: &'static str,
    pub report: SwitchReport,
    /// The switch had the expected outcome.
    pub as_expected: bool,
    /// Durations of all requests that overlapped the switch.
    pub waits: Waits,
}

impl Observations {
    /// The parts of the longest wait: transactions, script, rest.
    pub fn account(&self) -> String {
        let [drain, script, rest] = self.parts();
        format!("{drain} for running transactions to end, {script} for the script, {rest} for all the rest")
    }

    fn sum(&self) -> String {
        let [drain, script, rest] = self.parts();
        format!(" = {drain:>12} + {script:>7} + {rest:>7}")
    }

    fn parts(&self) -> [String; 3] {
        let SwitchReport { drain, script, .. } = self.report;
        [drain, script, self.waits.longest.saturating_sub(drain + script)].map(milliseconds)
    }
}

/// Measurements of all acts.
#[derive(Clone, Debug)]
pub struct DemoVerdict {
    totals: DemoTotals,
    first_error: Option<String>,
    ordinary: Waits,
    scenes: Vec<Observations>,
    without: Moved,
}

impl DemoVerdict {
    pub fn new(book: &Book, scenes: Vec<Observations>, without: Moved) -> DemoVerdict {
        let (totals, first_error, ordinary) = (book.totals(), book.first_error(), book.ordinary_waits());
        DemoVerdict { totals, first_error, ordinary, scenes, without }
    }

    /// No error with cbpx, no request at the wrong server, and each move had the expected outcome.
    pub fn is_good(&self) -> bool {
        let DemoTotals { requests, errors, wrong } = self.totals;
        requests > 0 && errors == 0 && wrong == 0 && self.as_expected()
    }

    fn as_expected(&self) -> bool {
        self.without.there && self.scenes.iter().all(|scene| scene.as_expected)
    }

    /// # Errors
    /// When standard output cannot be written to.
    pub fn tell(&self, screen: &mut Screen) -> io::Result<()> {
        let counts = |DemoTotals { requests, errors, wrong }: DemoTotals| {
            let count = |bad: u64| {
                let number = format!("{bad:>5}");
                if bad == 0 { number } else { screen.ink(Ink::Red, &number) }
            };
            format!("{} errors, {} at the wrong server, {requests:>6} answers", count(errors), count(wrong))
        };
        let heading = screen.ink(Ink::Bold, "Verdict:");
        let (with, without) = (counts(self.totals), counts(self.without.totals));
        screen.say(&format!("\n{heading} {} clients and their requests\n", SHORT + LONG))?;
        screen.say(&format!("  with cbpx, twice  {with}"))?;
        screen.say(&format!("  without it, once  {without}"))?;
        if let Some(words) = &self.first_error {
            screen.say(&fold(&format!("The first error with cbpx: {words}"), "  "))?;
        }
        let [first, second] = ["waits with cbpx         median  longest", " = transactions +  script +    rest"];
        screen.say(&screen.ink(Ink::Dim, &format!("\n  {first}{second}")))?;
        screen.say(&waits("between the switches", self.ordinary))?;
        for scene in &self.scenes {
            screen.say(&format!("{}{}", waits(scene.name, scene.waits), scene.sum()))?;
        }
        let (ink, words) = match (self.is_good(), self.as_expected()) {
            (true, _) => (Ink::Green, "Good: two switches under load, and all that a client could notice was a wait."),
            (false, true) => (Ink::Red, "Bad: some clients saw errors."),
            (false, false) => (Ink::Red, "Bad: an act did not end as it should have."),
        };
        screen.say(&format!("\n{}", screen.ink(ink, words)))
    }
}

fn waits(name: &str, waits: Waits) -> String {
    format!("  {name:<22} {:>7}  {:>7}", milliseconds(waits.median), milliseconds(waits.longest))
}

/// Shown with one decimal below 10 ms.
pub fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    if milliseconds < 10.0 { format!("{milliseconds:.1} ms") } else { format!("{milliseconds:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(totals: DemoTotals, as_expected: bool, without: Moved) -> bool {
        let waits = Waits::default();
        let scene = Observations { name: "act", report: SwitchReport::default(), as_expected, waits };
        DemoVerdict { totals, first_error: None, ordinary: waits, scenes: vec![scene], without }.is_good()
    }

    #[test]
    fn a_single_error_wrong_server_or_unexpected_end_spoils_the_verdict() {
        let clean = DemoTotals { requests: 9, errors: 0, wrong: 0 };
        let moved = Moved { totals: DemoTotals { errors: 900, ..clean }, there: true };
        assert!(verdict(clean, true, moved), "errors without cbpx are not its own");
        assert!(!verdict(DemoTotals { errors: 1, ..clean }, true, moved));
        assert!(!verdict(DemoTotals { wrong: 1, ..clean }, true, moved));
        assert!(!verdict(clean, false, moved));
        assert!(!verdict(clean, true, Moved { there: false, ..moved }));
        assert!(!verdict(DemoTotals { requests: 0, ..clean }, true, moved), "nobody was there");
    }
}
