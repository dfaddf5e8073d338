//! The six settings that may change while the program runs: one row each with its name, type and range. The command
//! line checks its values against the same rows, so that nothing is accepted at the start that would break later.

use std::fmt;
use std::time::Duration;

use crate::config::{Setting, Settings};

/// One setting.
#[derive(Debug)]
pub struct SettingRow {
    pub name: &'static str,
    pub kind: Kind,
    /// What the value counts, in the plural; the unit in messages.
    pub unit: &'static str,
    /// Smallest and largest value for `set`, both included.
    pub range: [f64; 2],
    /// The range on the command line, which is wider because existing scripts use larger values.
    pub range_at_start: [f64; 2],
    make: fn(f64) -> Setting,
    show: fn(&Settings) -> String,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Float,
    Int,
}

/// The setting for which 0 means no limit.
const THROTTLE: &str = "max_open_conns";

/// All settings, in the order in which `set` lists them.
pub const ROWS: &[SettingRow] = &[
    SettingRow {
        name: "switch_max_time",
        kind: Kind::Float,
        unit: "seconds",
        range: [0.0, 10.0],
        range_at_start: [0.0, 3600.0],
        make: |value| Setting::SwitchMaxTime(Duration::from_secs_f64(value)),
        show: |settings| format!("{:.2} s", settings.switch_max_time.as_secs_f64()),
    },
    SettingRow {
        name: "max_queued_conns",
        kind: Kind::Int,
        unit: "clients",
        range: [10.0, 10_000.0],
        range_at_start: [1.0, 10_000.0],
        make: |value| Setting::MaxQueued(value as u32),
        show: |settings| settings.max_queued.to_string(),
    },
    SettingRow {
        name: THROTTLE,
        kind: Kind::Int,
        unit: "clients",
        // The original refused 0, so that a limit could not be removed.
        range: [10.0, 65_536.0],
        range_at_start: [0.0, 65_536.0],
        make: |value| Setting::MaxOpen(if value == 0.0 { None } else { Some(value as u32) }),
        show: |settings| settings.max_open.unwrap_or(0).to_string(),
    },
    SettingRow {
        name: "switch_loop_wait",
        kind: Kind::Float,
        unit: "seconds",
        range: [0.1, 1.0],
        range_at_start: [0.1, 10.0],
        make: |value| Setting::SwitchLoopWait(Duration::from_secs_f64(value)),
        show: |settings| format!("{:.2} s", settings.switch_loop_wait.as_secs_f64()),
    },
    SettingRow {
        name: "net_buffer_size",
        kind: Kind::Int,
        unit: "bytes",
        range: [1024.0, 65_536.0],
        range_at_start: [1024.0, 65_536.0],
        make: |value| Setting::NetBufferSize(value as usize),
        show: |settings| format!("{} bytes", settings.net_buffer_size),
    },
    SettingRow {
        name: "thread_pairs",
        kind: Kind::Int,
        unit: "pairs of threads",
        range: THREAD_PAIRS_RANGE,
        range_at_start: THREAD_PAIRS_RANGE,
        make: |value| Setting::ThreadPairs(value as usize),
        show: |settings| settings.thread_pairs.to_string(),
    },
];

/// Zero: all clients share threads.
const THREAD_PAIRS_RANGE: [f64; 2] = [0.0, 65_536.0];
/// The default. Beyond a few hundred threads, switching between them costs more than they gain.
pub const THREAD_PAIRS: usize = 256;

/// Why a value was rejected. `Display` is the text of the reply; scripts match its first words.
#[derive(Clone, Debug)]
pub enum SettingError {
    OutOfRange { row: &'static SettingRow, range: [f64; 2] },
    WrongType { value: String, row: &'static SettingRow, range: [f64; 2] },
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingError::OutOfRange { row, range: [low, high] } => {
                write!(f, "{} must be between {low} and {high} {}{}", row.name, row.unit, row.or_no_limit())
            }
            SettingError::WrongType { value, row, .. } => {
                write!(f, "{value} for '{}' must be of {}: {}, without a unit", row.name, row.kind.name(), row.meant())
            }
        }
    }
}

impl SettingError {
    /// The message for a command line. It contains the given value, because the command may be in a file. The caller
    /// adds the flag.
    pub fn at_start(&self, given: &str) -> String {
        match self {
            SettingError::OutOfRange { row, range: [low, high] } => {
                format!("must be between {low} and {high} {}{} (given: {given})", row.unit, row.or_no_limit())
            }
            SettingError::WrongType { value, row, range: [low, high] } => {
                format!("'{value}' is not {} (expected {low} to {high}, without a unit)", row.meant())
            }
        }
    }
}

impl Kind {
    /// The type's name in the reply of `set`, as in the original.
    fn name(self) -> &'static str {
        match self {
            Kind::Float => "float",
            Kind::Int => "int",
        }
    }
}

/// Parses a value of `--thread_pairs`, for a dialect whose other settings have other names.
///
/// # Errors
/// The range and the value; not the option's name.
pub fn thread_pairs(text: &str) -> Result<usize, String> {
    let [low, high] = THREAD_PAIRS_RANGE;
    let number = text.parse::<usize>().ok().filter(|number| (low..=high).contains(&(*number as f64)));
    number.ok_or_else(|| format!("must be between {low} and {high} pairs of threads (given: {text})"))
}

/// The row with this name.
pub fn find(name: &str) -> Option<&'static SettingRow> {
    ROWS.iter().find(|row| row.name == name)
}

impl SettingRow {
    /// Parses a value for `set`. 0 removes the limit on open connections.
    ///
    /// # Errors
    /// If it is not a number of the row's type, or outside the range.
    pub fn parse(&'static self, text: &str) -> Result<Setting, SettingError> {
        let value = self.number(text, self.range)?;
        if value == 0.0 && self.name == THROTTLE {
            return Ok((self.make)(value));
        }
        self.within(value, self.range)
    }

    /// Parses a value from the command line. There, a negative limit on open connections also means no limit.
    ///
    /// # Errors
    /// The same as for `parse`.
    pub fn parse_at_start(&'static self, text: &str) -> Result<Setting, SettingError> {
        let value = self.number(text, self.range_at_start)?;
        let value = if self.name == THROTTLE { value.max(0.0) } else { value };
        self.within(value, self.range_at_start)
    }

    /// The current value as `set` lists it.
    pub fn show(&self, settings: &Settings) -> String {
        (self.show)(settings)
    }

    /// The expected kind of value, in words.
    fn meant(&self) -> String {
        match self.kind {
            Kind::Float => format!("a number of {}", self.unit),
            Kind::Int => format!("a whole number of {}", self.unit),
        }
    }

    /// For the limit on open connections, 0 is accepted although it is outside the range.
    fn or_no_limit(&self) -> &'static str {
        if self.name == THROTTLE { ", or 0 for no limit" } else { "" }
    }

    /// `range` is used in the message.
    fn number(&'static self, text: &str, range: [f64; 2]) -> Result<f64, SettingError> {
        let number = match self.kind {
            Kind::Float => text.parse::<f64>().ok(),
            Kind::Int => text.parse::<i64>().ok().map(|value| value as f64),
        };
        number.ok_or_else(|| SettingError::WrongType { value: text.to_owned(), row: self, range })
    }

    /// NaN is outside every range.
    fn within(&'static self, value: f64, range: [f64; 2]) -> Result<Setting, SettingError> {
        let [low, high] = range;
        if (low..=high).contains(&value) {
            return Ok((self.make)(value));
        }
        Err(SettingError::OutOfRange { row: self, range })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, text: &str) -> String {
        match find(name).unwrap().parse(text) {
            Ok(setting) => format!("{setting:?}"),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn names_are_unique() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[at + 1..].iter().all(|other| other.name != row.name), "{} twice", row.name);
        }
    }

    #[test]
    fn both_ends_of_every_range_are_taken_and_what_is_beyond_is_not() {
        for row in ROWS {
            let [low, high] = row.range;
            assert!(row.parse(&low.to_string()).is_ok() && row.parse(&high.to_string()).is_ok(), "{}", row.name);
            for beyond in [(low - 1.0).to_string(), (high + 1.0).to_string()] {
                let refusal = row.parse(&beyond).unwrap_err().to_string();
                let expected = format!("{} must be between {low} and {high} {}", row.name, row.unit);
                assert!(refusal.starts_with(&expected), "{refusal}");
            }
        }
    }

    #[test]
    fn a_number_of_thread_pairs_out_of_range_is_told_with_the_range() {
        assert_eq!(["0", "65536"].map(thread_pairs), [Ok(0), Ok(65_536)]);
        for text in ["-1", "65537", "x", "", "1.5", "99999999999999999999"] {
            assert_eq!(
                thread_pairs(text),
                Err(format!("must be between 0 and 65536 pairs of threads (given: {text})"))
            );
        }
    }

    #[test]
    fn what_is_no_number_of_the_kind_is_named() {
        for (name, text, told) in [
            (
                "max_queued_conns",
                "12.5",
                "12.5 for 'max_queued_conns' must be of int: a whole number of clients, without a unit",
            ),
            (
                "max_queued_conns",
                "0x20",
                "0x20 for 'max_queued_conns' must be of int: a whole number of clients, without a unit",
            ),
            (
                "switch_max_time",
                "10s",
                "10s for 'switch_max_time' must be of float: a number of seconds, without a unit",
            ),
            (
                "net_buffer_size",
                "4k",
                "4k for 'net_buffer_size' must be of int: a whole number of bytes, without a unit",
            ),
            ("switch_loop_wait", "nan", "switch_loop_wait must be between 0.1 and 1 seconds"),
            ("switch_max_time", "inf", "switch_max_time must be between 0 and 10 seconds"),
        ] {
            assert_eq!(said(name, text), told);
        }
    }

    #[test]
    fn at_the_start_the_words_have_the_range_of_the_start_and_no_name() {
        let told = |name: &str, text: &str| find(name).unwrap().parse_at_start(text).unwrap_err().at_start(text);
        assert_eq!(
            told("switch_max_time", "10s"),
            "'10s' is not a number of seconds (expected 0 to 3600, without a unit)"
        );
        assert_eq!(told("switch_max_time", "3601"), "must be between 0 and 3600 seconds (given: 3601)");
        assert_eq!(
            told("max_open_conns", "70000"),
            "must be between 0 and 65536 clients, or 0 for no limit (given: 70000)"
        );
    }

    #[test]
    fn numbers_are_taken_in_every_spelling_and_a_throttle_of_0_is_none() {
        assert_eq!(said("switch_max_time", "1e0"), "SwitchMaxTime(1s)");
        assert_eq!(said("max_queued_conns", "020"), "MaxQueued(20)");
        assert_eq!(said("max_open_conns", "0"), "MaxOpen(None)");
        assert_eq!(
            said("max_open_conns", "9"),
            "max_open_conns must be between 10 and 65536 clients, or 0 for no limit"
        );
    }
}
