//! Formats durations as Go does: `0s`, `350ms`, `1.83s`, `1h2m3.5s`. Rounded to the millisecond; shorter durations to
//! the nanosecond.

use std::fmt;
use std::time::Duration;

/// `Display` writes the Go form.
#[derive(Clone, Copy, Debug)]
pub struct GoDuration(pub Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.subsec_nanos();
        match (self.0.as_secs(), nanoseconds) {
            (0, 0) => f.write_str("0s"),
            (0, 1..1_000) => write!(f, "{nanoseconds}ns"),
            (0, 1_000..1_000_000) => write!(f, "{}µs", Thousandths(nanoseconds.into())),
            (0, _) => write!(f, "{}ms", nanoseconds / 1_000_000),
            (seconds, _) => {
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                write!(f, "{}s", Thousandths(seconds % 60 * 1000 + u64::from(nanoseconds / 1_000_000)))
            }
        }
    }
}

/// A number of thousandths, shown without trailing zeros.
struct Thousandths(u64);

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1000, self.0 % 1000);
        match format!("{part:03}").trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            part => write!(f, "{whole}.{part}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_000, "1µs"),
            (1_500, "1.5µs"),
            (999_999, "999.999µs"),
            (350_000_000, "350ms"),
            (350_999_999, "350ms"),
            (1_000_000_000, "1s"),
            (1_830_400_000, "1.83s"),
            (1_003_000_000, "1.003s"),
            (59_999_999_999, "59.999s"),
            (60_000_000_000, "1m0s"),
            (900_000_000_000, "15m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
            (360_000_000_000_000, "100h0m0s"),
        ] {
            assert_eq!(GoDuration(Duration::from_nanos(nanoseconds)).to_string(), text);
        }
    }
}
