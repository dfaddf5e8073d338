//! Limits a frequent kind of log line to one per second, and counts the lines left out.

use std::time::{Duration, Instant};

/// One kind of line. Clones count separately.
#[derive(Clone, Debug, Default)]
pub struct RateLimit {
    last: Option<Instant>,
    left_out: u64,
}

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Returns a suffix for the line if it is to be written.
    pub fn turn(&mut self, now: Instant) -> Option<String> {
        if self.last.is_some_and(|last| now.duration_since(last) < RateLimit::INTERVAL) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.left_out) {
            0 => Some(String::new()),
            number => Some(format!(" ({number} more like this since the previous line)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_thousand_lines_in_a_second_one_is_written_and_the_next_tells_of_the_others() {
        let (mut lines, start) = (RateLimit::default(), Instant::now());
        assert_eq!(lines.turn(start).as_deref(), Some(""));
        (1..1000).for_each(|n| assert_eq!(lines.turn(start + Duration::from_micros(n)), None));
        let told = lines.turn(start + RateLimit::INTERVAL);
        assert_eq!(told.as_deref(), Some(" (999 more like this since the previous line)"));
        assert_eq!(lines.turn(start + 2 * RateLimit::INTERVAL).as_deref(), Some(""));
    }
}
