//! Options as getopt(3) reads them: bundled (`-df`), with values attached (`-b127.0.0.1`) or separate, before, between
//! or after the other words; `--` ends them.

use std::ffi::OsString;

use crate::endpoint::bare_host;
use crate::settings;

/// The parsed options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalanceOptions {
    /// `-a`
    pub autodisable: bool,
    /// `-b`
    pub bind: Option<String>,
    /// `-B`
    pub source: Option<String>,
    /// `-c`
    pub command: Option<String>,
    /// `-d`
    pub trace: bool,
    /// `-f`
    pub foreground: bool,
    /// `-H`
    pub hash_failover: bool,
    /// `-i`
    pub shell: bool,
    /// `-p`
    pub show_bytes: bool,
    /// `-t`, in seconds
    pub connect_timeout: Option<u32>,
    /// `-T`, in seconds
    pub idle_timeout: Option<u32>,
    /// `-6`
    pub dual_stack: bool,
    /// `--thread_pairs`
    pub thread_pairs: Option<usize>,
    /// Everything else, in order: the port and the destinations.
    pub words: Vec<String>,
}

/// Why the options do not start a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BalanceOptionError {
    /// `--help`
    Help,
    /// `--version`
    Version,
    /// Explains the mistake.
    Wrong(String),
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// When they ask for help or the version, or are wrong.
pub fn read(arguments: &[OsString]) -> Result<BalanceOptions, BalanceOptionError> {
    let mut options = BalanceOptions::default();
    let mut rest = arguments.iter().map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--help" => return Err(BalanceOptionError::Help),
            "--version" => return Err(BalanceOptionError::Version),
            "--thread_pairs" => options.thread_pairs = Some(thread_pairs(rest.next())?),
            "--" => options.words.extend(rest.by_ref()),
            long if long.starts_with("--thread_pairs=") => {
                options.thread_pairs = Some(thread_pairs(long.split_once('=').map(|(_, value)| value.to_owned()))?);
            }
            bundle if bundle.starts_with('-') && bundle.len() > 1 => options.bundle(&bundle[1..], &mut rest)?,
            _ => options.words.push(argument),
        }
    }
    Ok(options)
}

impl BalanceOptions {
    /// Parses the letters of one argument. The value of an option is the rest of the argument, or else the next
    /// argument.
    fn bundle(&mut self, letters: &str, rest: &mut impl Iterator<Item = String>) -> Result<(), BalanceOptionError> {
        for (at, letter) in letters.char_indices() {
            match letter {
                'a' => self.autodisable = true,
                'd' => self.trace = true,
                'f' => self.foreground = true,
                'H' => self.hash_failover = true,
                'i' => self.shell = true,
                // It chose where the state is kept, which no longer matters.
                'M' => {}
                'p' => self.show_bytes = true,
                '6' => self.dual_stack = true,
                'b' | 'B' | 'c' | 't' | 'T' => {
                    let attached = &letters[at + 1..];
                    let value = if attached.is_empty() { rest.next() } else { Some(attached.to_owned()) };
                    let value = value.ok_or_else(|| BalanceOptionError::Wrong(format!("-{letter} needs a value")))?;
                    return self.value(letter, value);
                }
                _ => return Err(BalanceOptionError::Wrong(format!("there is no option -{letter}"))),
            }
        }
        Ok(())
    }

    fn value(&mut self, letter: char, value: String) -> Result<(), BalanceOptionError> {
        match letter {
            'b' => self.bind = Some(host('b', value)?),
            'B' => self.source = Some(host('B', value)?),
            'c' => self.command = Some(value),
            't' => self.connect_timeout = Some(seconds('t', &value)?),
            _ => self.idle_timeout = Some(seconds('T', &value)?),
        }
        Ok(())
    }
}

fn thread_pairs(value: Option<String>) -> Result<usize, BalanceOptionError> {
    let value = value.ok_or_else(|| BalanceOptionError::Wrong("--thread_pairs needs a value".to_owned()))?;
    settings::thread_pairs(&value).map_err(|words| BalanceOptionError::Wrong(format!("--thread_pairs {words}")))
}

/// An address or a name; IPv6 with or without brackets.
fn host(letter: char, value: String) -> Result<String, BalanceOptionError> {
    let host = bare_host(&value).map(str::to_owned);
    host.ok_or_else(|| BalanceOptionError::Wrong(format!("-{letter}: '{value}' is neither an address nor a name")))
}

fn seconds(letter: char, value: &str) -> Result<u32, BalanceOptionError> {
    let number = value.parse().ok().filter(|number| *number >= 1);
    number.ok_or_else(|| {
        BalanceOptionError::Wrong(format!(
            "-{letter} must be a number of seconds between 1 and {} (given: {value})",
            u32::MAX
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &[&str]) -> Result<BalanceOptions, BalanceOptionError> {
        read(&line.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn wrong(line: &[&str]) -> String {
        match typed(line) {
            Err(BalanceOptionError::Wrong(words)) => words,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn each_option_sets_what_it_is_for_and_nothing_else() {
        let none = BalanceOptions::default();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(typed(&[]).unwrap(), none);
        assert_eq!(typed(&["-a"]).unwrap(), BalanceOptions { autodisable: true, ..none.clone() });
        assert_eq!(typed(&["-d"]).unwrap(), BalanceOptions { trace: true, ..none.clone() });
        assert_eq!(typed(&["-f"]).unwrap(), BalanceOptions { foreground: true, ..none.clone() });
        assert_eq!(typed(&["-H"]).unwrap(), BalanceOptions { hash_failover: true, ..none.clone() });
        assert_eq!(typed(&["-i"]).unwrap(), BalanceOptions { shell: true, ..none.clone() });
        assert_eq!(typed(&["-p"]).unwrap(), BalanceOptions { show_bytes: true, ..none.clone() });
        assert_eq!(typed(&["-6"]).unwrap(), BalanceOptions { dual_stack: true, ..none.clone() });
        assert_eq!(typed(&["-M"]).unwrap(), none, "-M is accepted and means nothing");
        assert_eq!(typed(&["-b", "h"]).unwrap(), BalanceOptions { bind: some("h"), ..none.clone() });
        assert_eq!(typed(&["-B", "h"]).unwrap(), BalanceOptions { source: some("h"), ..none.clone() });
        assert_eq!(typed(&["-c", "show"]).unwrap(), BalanceOptions { command: some("show"), ..none.clone() });
        assert_eq!(typed(&["-t", "3"]).unwrap(), BalanceOptions { connect_timeout: Some(3), ..none.clone() });
        assert_eq!(typed(&["-T", "9"]).unwrap(), BalanceOptions { idle_timeout: Some(9), ..none.clone() });
        for line in [&["--thread_pairs", "7"][..], &["--thread_pairs=7"]] {
            assert_eq!(typed(line).unwrap(), BalanceOptions { thread_pairs: Some(7), ..none.clone() });
        }
    }

    #[test]
    fn options_are_bundled_and_values_attached_or_separate() {
        let apart = typed(&["-d", "-f", "-b", "::1", "-t", "2", "80", "h"]).unwrap();
        for line in [
            &["-dfb", "::1", "-t2", "80", "h"][..],
            &["-df", "-b::1", "-t2", "80", "h"],
            &["-dfb[::1]", "-t2", "80", "h"],
        ] {
            assert_eq!(typed(line).unwrap(), apart, "{line:?}");
        }
        assert_eq!(typed(&["-cdisable 1"]).unwrap().command.as_deref(), Some("disable 1"));
    }

    #[test]
    fn options_may_follow_other_words_up_to_the_double_dash() {
        let options = typed(&["80", "-f", "h", "-t", "1", "--", "-d"]).unwrap();
        assert_eq!(options.words, ["80", "h", "-d"]);
        assert!(options.foreground && !options.trace && options.connect_timeout == Some(1));
        assert_eq!(typed(&["-"]).unwrap().words, ["-"]);
    }

    #[test]
    fn of_a_repeated_option_the_last_one_counts() {
        let options = typed(&["-t5", "-b", "a", "-fB", "c", "-t", "10", "-bb", "-B", "d", "-T1", "-f", "-T2"]).unwrap();
        assert_eq!((options.connect_timeout, options.idle_timeout), (Some(10), Some(2)));
        assert_eq!((options.bind.as_deref(), options.source.as_deref()), (Some("b"), Some("d")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(wrong(&["-h"]).contains("-h"), "there is no -h");
        assert!(wrong(&["-F"]).contains("-F"), "only the small f exists");
        assert!(wrong(&["-dx"]).contains("-x"));
        assert!(wrong(&["-b"]).contains("-b needs a value"));
        assert!(wrong(&["--thread_pairs"]).contains("--thread_pairs needs a value"));
        assert!(
            wrong(&["--thread_pairs=x"])
                .contains("--thread_pairs must be between 0 and 65536 pairs of threads (given: x)")
        );
        for (line, named) in [(["-t", "0"], "-t"), (["-t", "x"], "given: x"), (["-T", "-1"], "-T"), (["-T", ""], "-T")]
        {
            assert!(wrong(&line).contains(named), "{line:?}");
        }
        for value in ["", "a/b", "a b", "[]"] {
            assert!(wrong(&["-b", value]).contains(&format!("'{value}'")), "{value}");
        }
    }

    #[test]
    fn help_and_version_are_asked_for_by_their_long_names() {
        assert_eq!(typed(&["-d", "--help"]), Err(BalanceOptionError::Help));
        assert_eq!(typed(&["--version"]), Err(BalanceOptionError::Version));
    }
}
