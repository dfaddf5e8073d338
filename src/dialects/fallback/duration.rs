//! Parses Go's durations: numbers with units, concatenated (`300ms`, `1h2m3.5s`). `0` needs no unit.

use std::time::Duration;

/// Units and their nanoseconds. The micro sign exists twice in Unicode.
const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go's maximum: 2^63 - 1 nanoseconds, about 292 years.
const MOST: u128 = i64::MAX as u128;

/// Parses one.
///
/// # Errors
/// Describes a valid duration.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration (a number with a unit: 100ms, 5s, 1m30s, 2h; or 0)");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut nanoseconds = 0_u128;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() && rest != "0" {
        let (part, after) = one(rest).ok_or_else(bad)?;
        nanoseconds = nanoseconds.saturating_add(part);
        // A `0` without a unit must stand alone.
        rest = if after == "0" { return Err(bad()) } else { after };
    }
    if nanoseconds > MOST {
        return Err(format!("must be at most 2562047h (given: {text})"));
    }
    if negative && nanoseconds > 0 {
        return Err(format!("must not be negative (given: {text})"));
    }
    Ok(Duration::new((nanoseconds / 1_000_000_000) as u64, (nanoseconds % 1_000_000_000) as u32))
}

/// The nanoseconds of the first number with its unit, and the rest of the text.
fn one(text: &str) -> Option<(u128, &str)> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let unit = u128::from(*unit);
    // A number that overflows saturates, and is then rejected as too large.
    let whole = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(MOST + 1) };
    // Further digits are worth less than a nanosecond in any unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = fraction.parse::<u128>().unwrap_or(0) * unit / 10_u128.pow(fraction.len() as u32);
    Some((whole.saturating_mul(unit).saturating_add(part), rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_added() {
        for (text, nanoseconds) in [
            ("5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1h2m3.5s", 3_723_500_000_000),
            ("15m0s", 900_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("+2m", 120_000_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("3μs", 3_000),
            ("7ns", 7),
            ("1.9ns", 1),
            ("0s", 0),
            ("0", 0),
            ("-0s", 0),
            ("+0", 0),
            ("1s1s", 2_000_000_000),
            ("0.3333333333333333333333h", 1_199_999_999_999),
            ("2562047h", 9_223_369_200_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_named() {
        for text in [
            "", "5", "5.0", "s", ".s", "-", "+", "1x", "1 s", " 1s", "1s ", "1s5", "1s0", "1e3s", "--1s", "one",
            "0x1s", "00",
        ] {
            let words = parse(text).expect_err(text);
            assert!(words.contains(&format!("'{text}'")) && words.contains("5s"), "{words}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_told_with_the_range() {
        for text in ["2562048h", "99999999999999999999999999999999999999999s", "9223372036854775808ns"] {
            assert!(parse(text).unwrap_err().contains("at most 2562047h"), "{text}");
        }
        assert!(parse("-5s").unwrap_err().contains("negative"));
    }
}
