//! The five settings that may change while the program runs: one row each with its name, type and range. The command
//! line checks its values against the same rows, so that nothing is accepted at the start that would break later.

use std::fmt;
use std::time::Duration;

use crate::config::{Setting, Settings};

/// One setting.
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    /// The least and the greatest value `set` takes, both included.
    pub range: [f64; 2],
    /// The same at the start, where programs in the field use more than `set` allows.
    pub range_at_start: [f64; 2],
    make: fn(f64) -> Setting,
    show: fn(&Settings) -> String,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Float,
    Int,
}

/// All of them, in the order in which they are listed.
pub const ROWS: &[Row] = &[
    Row {
        name: "switch_max_time",
        kind: Kind::Float,
        range: [0.0, 10.0],
        range_at_start: [0.0, 3600.0],
        make: |value| Setting::SwitchMaxTime(Duration::from_secs_f64(value)),
        show: |settings| format!("{:.2} s", settings.switch_max_time.as_secs_f64()),
    },
    Row {
        name: "max_queued_conns",
        kind: Kind::Int,
        range: [10.0, 10_000.0],
        range_at_start: [1.0, 10_000.0],
        make: |value| Setting::MaxQueued(value as u32),
        show: |settings| settings.max_queued.to_string(),
    },
    Row {
        name: "max_open_conns",
        kind: Kind::Int,
        // The original refused 0, so that a throttle could not be lifted again.
        range: [10.0, 65_536.0],
        range_at_start: [0.0, 65_536.0],
        make: |value| Setting::MaxOpen(if value == 0.0 { None } else { Some(value as u32) }),
        show: |settings| settings.max_open.unwrap_or(0).to_string(),
    },
    Row {
        name: "switch_loop_wait",
        kind: Kind::Float,
        range: [0.1, 1.0],
        range_at_start: [0.1, 10.0],
        make: |value| Setting::SwitchLoopWait(Duration::from_secs_f64(value)),
        show: |settings| format!("{:.2} s", settings.switch_loop_wait.as_secs_f64()),
    },
    Row {
        name: "net_buffer_size",
        kind: Kind::Int,
        range: [1024.0, 65_536.0],
        range_at_start: [1024.0, 65_536.0],
        make: |value| Setting::NetBufferSize(value as usize),
        show: |settings| format!("{} bytes", settings.net_buffer_size),
    },
];

/// Why a value was not taken. `Display` is the reply's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    OutOfRange { name: &'static str, low: String, high: String },
    WrongType { value: String, name: &'static str, kind: &'static str },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::OutOfRange { name, low, high } => write!(f, "{name} must be between {low} and {high}"),
            Refusal::WrongType { value, name, kind } => write!(f, "{value} for '{name}' must be of {kind}"),
        }
    }
}

impl Refusal {
    /// For those who may not remember what they gave: a command line in a file.
    pub fn with_the_value(&self, given: &str) -> String {
        match self {
            Refusal::OutOfRange { .. } => format!("{self} (given: {given})"),
            Refusal::WrongType { .. } => self.to_string(),
        }
    }
}

/// The row of a name.
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

impl Row {
    /// A value as `set` takes it. A throttle of 0 is none, and lifts one.
    ///
    /// # Errors
    /// When it is no number of the row's kind, or outside the range.
    pub fn parse(&'static self, text: &str) -> Result<Setting, Refusal> {
        let value = self.number(text)?;
        if value == 0.0 && self.name == "max_open_conns" {
            return Ok((self.make)(value));
        }
        self.within(value, self.range)
    }

    /// A value as the command line takes it. There a negative throttle is none, too.
    ///
    /// # Errors
    /// Like `parse`.
    pub fn parse_at_start(&'static self, text: &str) -> Result<Setting, Refusal> {
        let value = self.number(text)?;
        let value = if self.name == "max_open_conns" { value.max(0.0) } else { value };
        self.within(value, self.range_at_start)
    }

    /// The current value, as `set` lists it.
    pub fn show(&self, settings: &Settings) -> String {
        (self.show)(settings)
    }

    fn number(&'static self, text: &str) -> Result<f64, Refusal> {
        let (number, kind) = match self.kind {
            Kind::Float => (text.parse::<f64>().ok(), "float"),
            Kind::Int => (text.parse::<i64>().ok().map(|value| value as f64), "int"),
        };
        number.ok_or_else(|| Refusal::WrongType { value: text.to_owned(), name: self.name, kind })
    }

    /// Not-a-number is within no range.
    fn within(&'static self, value: f64, [low, high]: [f64; 2]) -> Result<Setting, Refusal> {
        if (low..=high).contains(&value) {
            return Ok((self.make)(value));
        }
        Err(Refusal::OutOfRange { name: self.name, low: low.to_string(), high: high.to_string() })
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
                assert_eq!(refusal, format!("{} must be between {low} and {high}", row.name));
            }
        }
    }

    #[test]
    fn what_is_no_number_of_the_kind_is_named() {
        assert_eq!(said("max_queued_conns", "12.5"), "12.5 for 'max_queued_conns' must be of int");
        assert_eq!(said("max_queued_conns", "0x20"), "0x20 for 'max_queued_conns' must be of int");
        assert_eq!(said("switch_max_time", "abc"), "abc for 'switch_max_time' must be of float");
        assert_eq!(said("switch_loop_wait", "nan"), "switch_loop_wait must be between 0.1 and 1");
        assert_eq!(said("switch_max_time", "inf"), "switch_max_time must be between 0 and 10");
    }

    #[test]
    fn numbers_are_taken_in_every_spelling_and_a_throttle_of_0_is_none() {
        assert_eq!(said("switch_max_time", "1e0"), "SwitchMaxTime(1s)");
        assert_eq!(said("max_queued_conns", "020"), "MaxQueued(20)");
        assert_eq!(said("max_open_conns", "0"), "MaxOpen(None)");
        assert_eq!(said("max_open_conns", "9"), "max_open_conns must be between 10 and 65536");
    }
}
