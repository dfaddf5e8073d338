//! Parses flags as Go programs do: `-flag`, `--flag`, `-flag=value`, `-flag value`; a boolean takes a value only after
//! `=`. Flags end at the first word that is not a flag, or at `--`. Knows the syntax only, not the flags.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// The kind of value that a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagValue {
    /// A boolean: no value, or `=true` or `=false`.
    Nothing,
    /// A value, with its name in the help.
    Value(&'static str),
}

/// One flag. `T` collects the values.
pub struct Flag<T> {
    pub name: &'static str,
    pub takes: FlagValue,
    /// As typed; empty: no default.
    pub default: &'static str,
    /// Description for the help.
    pub about: &'static str,
    /// Stores the value. The caller adds the flag's name to the error.
    pub store: fn(&mut T, &OsStr) -> Result<(), String>,
}

/// The result of parsing.
#[derive(Debug, PartialEq, Eq)]
pub enum ParsedFlags<'a> {
    /// `-h` or `-help`.
    Help,
    /// All flags are stored; these words remain.
    Rest(&'a [OsString]),
}

/// Parses all flags.
///
/// # Errors
/// Reports the first mistake.
pub fn read<'a, T>(flags: &[Flag<T>], words: &'a [OsString], into: &mut T) -> Result<ParsedFlags<'a>, String> {
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        let Some(body) = body(word) else { break };
        rest = after;
        if body.is_empty() {
            break;
        }
        let (name, value) = match body.iter().position(|byte| *byte == b'=') {
            Some(at) => (&body[..at], Some(OsStr::from_bytes(&body[at + 1..]))),
            None => (body, None),
        };
        let shown = word.to_string_lossy();
        if name.is_empty() || name.starts_with(b"-") {
            return Err(format!("'{shown}' is not a flag (expected -flag, --flag or -flag=value)"));
        }
        let Some(flag) = flags.iter().find(|flag| flag.name.as_bytes() == name) else {
            return if name == b"h" || name == b"help" {
                Ok(ParsedFlags::Help)
            } else {
                Err(format!("there is no flag -{}", OsStr::from_bytes(name).to_string_lossy()))
            };
        };
        let value = match (flag.takes, value) {
            (_, Some(value)) => value,
            (FlagValue::Nothing, None) => OsStr::new("true"),
            (FlagValue::Value(what), None) => {
                let Some((next, after)) = rest.split_first() else {
                    return Err(format!("-{} needs a value: {what}", flag.name));
                };
                rest = after;
                next
            }
        };
        (flag.store)(into, value).map_err(|words| format!("-{}: {words}", flag.name))?;
    }
    Ok(ParsedFlags::Rest(rest))
}

/// The part after the `-` or `--` of a flag; `None` if the word is not a flag. A lone `-` is not.
fn body(word: &OsStr) -> Option<&[u8]> {
    let one = word.as_bytes().strip_prefix(b"-")?;
    match one.strip_prefix(b"-") {
        Some(two) => Some(two),
        None if one.is_empty() => None,
        None => Some(one),
    }
}

/// Parses a boolean, in every form that Go accepts.
///
/// # Errors
/// Describes a valid one.
pub fn boolean(value: &OsStr) -> Result<bool, String> {
    match value.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err(format!("'{}' is neither true nor false", value.to_string_lossy())),
    }
}

/// Parses an integer, in decimal or with one of Go's prefixes `0x`, `0o`, `0b` and `0`.
///
/// # Errors
/// Describes a valid one.
pub fn integer(value: &OsStr) -> Result<i64, String> {
    let text = value.to_string_lossy();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2), ("0", 8)];
    let prefixed = prefixes.iter().find_map(|(prefix, radix)| Some((lower.strip_prefix(prefix)?, *radix)));
    let (digits, radix) = prefixed.filter(|(digits, _)| !digits.is_empty()).unwrap_or((&lower, 10));
    let plain = digits.starts_with(|c: char| c.is_digit(radix));
    let number = i64::from_str_radix(digits, radix).ok().filter(|_| plain);
    let number = number.ok_or_else(|| format!("'{text}' is not an integer"))?;
    Ok(if negative { -number } else { number })
}

/// Help on all flags, for a terminal of 80 columns.
pub fn help<T>(flags: &[Flag<T>]) -> String {
    let mut text = String::new();
    for flag in flags {
        let value = match flag.takes {
            FlagValue::Nothing => String::new(),
            FlagValue::Value(what) => format!(" {what}"),
        };
        let default = if flag.default.is_empty() { String::new() } else { format!(" [default: {}]", flag.default) };
        text += &format!("  -{}{value}{default}\n", flag.name);
        let mut line = String::from("       ");
        for word in flag.about.split(' ') {
            if line.len() + 1 + word.len() > 80 {
                text += &(line + "\n");
                line = String::from("       ");
            }
            line += &format!(" {word}");
        }
        text += &(line + "\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Got {
        on: Option<bool>,
        value: Option<OsString>,
    }

    const FLAGS: &[Flag<Got>] = &[
        Flag {
            name: "on",
            takes: FlagValue::Nothing,
            default: "",
            about: "whether",
            store: |got, value| boolean(value).map(|on| got.on = Some(on)),
        },
        Flag {
            name: "value",
            takes: FlagValue::Value("TEXT"),
            default: "x",
            about: "what",
            store: |got, value| {
                got.value = Some(value.to_owned());
                Ok(())
            },
        },
    ];

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    /// Checks what a line stores, and which words remain.
    fn reads(line: &str, on: Option<bool>, value: Option<&str>, rest: &str) {
        let (typed, mut got) = (words(line), Got::default());
        let asked = read(FLAGS, &typed, &mut got).unwrap_or_else(|words| panic!("{line}: {words}"));
        assert_eq!(asked, ParsedFlags::Rest(&words(rest)), "{line}");
        assert_eq!(got, Got { on, value: value.map(OsString::from) }, "{line}");
    }

    #[test]
    fn every_form_is_read() {
        reads("-on", Some(true), None, "");
        reads("--on", Some(true), None, "");
        reads("-on=false", Some(false), None, "");
        reads("--on=T a", Some(true), None, "a");
        reads("-value a", None, Some("a"), "");
        reads("--value=a=b", None, Some("a=b"), "");
        reads("-value=", None, Some(""), "");
        reads("-value -on b", None, Some("-on"), "b");
        reads("-value a -value b", None, Some("b"), "");
    }

    #[test]
    fn a_boolean_takes_no_word_for_its_value() {
        reads("-on false", Some(true), None, "false");
    }

    #[test]
    fn flags_end_at_the_first_other_word_or_at_two_dashes() {
        reads("a -on", None, None, "a -on");
        reads("-on -- -on", Some(true), None, "-on");
        reads("- -on", None, None, "- -on");
        reads("", None, None, "");
    }

    #[test]
    fn help_is_asked_for_in_four_ways_and_by_its_first_word() {
        for line in ["-h", "--h", "-help", "--help", "-on -h -nosuch"] {
            assert_eq!(read(FLAGS, &words(line), &mut Got::default()), Ok(ParsedFlags::Help), "{line}");
        }
    }

    #[test]
    fn a_mistake_names_the_flag_and_the_value() {
        for (line, tokens) in [
            ("-nosuch=1", &["-nosuch"][..]),
            ("-o", &["-o"]),
            ("---on", &["'---on'"]),
            ("-=1", &["'-=1'"]),
            ("--=1", &["'--=1'"]),
            ("-value", &["-value", "TEXT"]),
            ("-on=yes", &["-on", "'yes'"]),
            ("-on=", &["-on", "''"]),
        ] {
            let told = read(FLAGS, &words(line), &mut Got::default()).expect_err(line);
            assert!(tokens.iter().all(|token| told.contains(token)), "{line}: {told}");
        }
    }

    #[test]
    fn integers_have_gos_prefixes() {
        for (text, number) in
            [("4", 4), ("-3", -3), ("+5", 5), ("0", 0), ("0x10", 16), ("0B11", 3), ("0o17", 15), ("017", 15)]
        {
            assert_eq!(integer(OsStr::new(text)), Ok(number), "{text}");
        }
        for text in ["", "four", "1.5", "0x", "--1", "0x-1", "99999999999999999999", "08"] {
            assert!(integer(OsStr::new(text)).unwrap_err().contains(&format!("'{text}'")));
        }
    }

    #[test]
    fn the_help_has_each_flag_with_its_value_and_default() {
        let text = help(FLAGS);
        assert_eq!(text, "  -on\n        whether\n  -value TEXT [default: x]\n        what\n");
    }
}
