//! Options as typed: values are attached to their letter, options may stand anywhere before `--`, and the last one of a
//! repeated option counts.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config;
use crate::settings;

/// The parsed options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FproxyOptions {
    /// `-o`
    pub access_log: Option<PathBuf>,
    /// `-e`
    pub error_log: Option<PathBuf>,
    /// `-p`
    pub pid_file: Option<PathBuf>,
    /// `-f`, `-d`
    pub foreground: bool,
    /// `-y`, in bytes
    pub first_bytes: usize,
    /// `-t`, in seconds; 0: never
    pub idle: u64,
    /// `-g`, in seconds
    pub failed_for: u64,
    /// `-s`
    pub strategy: Strategy,
    /// `--access_log`, also in the foreground
    pub lasting_access_log: Option<PathBuf>,
    /// `--share`
    pub share: bool,
    /// `--thread_pairs`
    pub thread_pairs: usize,
    /// Before `--`: where to listen.
    pub clusters: Vec<String>,
    /// Words after `--`: the backends.
    pub backends: Vec<String>,
}

/// The measure by which a backend is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    RoundRobin,
    Connections,
    Bytes,
    Time,
    Mix,
}

/// Why the options do not start a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FproxyOptionError {
    /// `-h`, `--help`
    Help,
    /// `--version`
    Version,
    /// Explains the mistake.
    Wrong(String),
}

/// A socket is certain to hold this many bytes; it may never hold more.
pub const MOST_FIRST_BYTES: u64 = config::MOST_FIRST_BYTES as u64;
/// One year, in seconds.
pub const MOST_SECONDS: u64 = 31_536_000;
/// Default of `-g`, in seconds.
pub const FAILED_FOR: u64 = 60;

impl Default for FproxyOptions {
    fn default() -> FproxyOptions {
        FproxyOptions {
            access_log: None,
            error_log: None,
            pid_file: None,
            foreground: false,
            first_bytes: 0,
            idle: 0,
            failed_for: FAILED_FOR,
            strategy: Strategy::Mix,
            lasting_access_log: None,
            share: false,
            thread_pairs: settings::THREAD_PAIRS,
            clusters: Vec::new(),
            backends: Vec::new(),
        }
    }
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// When they ask for help or the version, or are wrong.
pub fn read(arguments: &[OsString]) -> Result<FproxyOptions, FproxyOptionError> {
    let mut options = FproxyOptions::default();
    let words = arguments.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let mut words = words.into_iter();
    loop {
        let Some(word) = words.next() else {
            let given = if options.clusters.is_empty() { "" } else { ", and whom to send clients to behind it" };
            return Err(FproxyOptionError::Wrong(format!(
                "where to listen must be followed by '--'{given}; try 'fproxy -h'"
            )));
        };
        match word.strip_prefix('-') {
            Some("-") => break,
            Some("") | None => options.clusters.push(word),
            Some(option) => match option.strip_prefix('-') {
                Some(long) => options.long(long, &mut words)?,
                None => options.short(option)?,
            },
        }
    }
    options.backends = words.collect();
    match (options.clusters.is_empty(), options.backends.is_empty()) {
        (true, _) => Err(FproxyOptionError::Wrong("there is no address to listen on before '--'".to_owned())),
        (false, true) => Err(FproxyOptionError::Wrong("there is no backend after '--'".to_owned())),
        (false, false) => Ok(options),
    }
}

fn text(argument: &OsString) -> Result<String, FproxyOptionError> {
    let text = argument.to_str().map(str::to_owned);
    text.ok_or_else(|| FproxyOptionError::Wrong(format!("'{}' is not UTF-8", argument.to_string_lossy())))
}

impl FproxyOptions {
    /// Parses a letter and the value attached to it.
    fn short(&mut self, option: &str) -> Result<(), FproxyOptionError> {
        let mut letters = option.chars();
        let letter = letters.next().unwrap_or_default();
        let value = letters.as_str();
        match letter {
            'h' if value.is_empty() => return Err(FproxyOptionError::Help),
            'f' | 'd' if value.is_empty() => self.foreground = true,
            'o' => self.access_log = Some(file(letter, value)?),
            'e' => self.error_log = Some(file(letter, value)?),
            'p' => self.pid_file = Some(file(letter, value)?),
            'y' => self.first_bytes = number(letter, value, MOST_FIRST_BYTES, " bytes")? as usize,
            't' => self.idle = number(letter, value, MOST_SECONDS, " seconds")?,
            'g' => self.failed_for = number(letter, value, MOST_SECONDS, " seconds")?,
            's' => {
                self.strategy = match number(letter, value, 4, "")? {
                    0 => Strategy::RoundRobin,
                    1 => Strategy::Connections,
                    2 => Strategy::Bytes,
                    3 => Strategy::Time,
                    // The range check excludes larger values.
                    _ => Strategy::Mix,
                }
            }
            'h' | 'f' | 'd' => {
                return Err(FproxyOptionError::Wrong(format!("-{letter} takes no value (given: '{value}')")));
            }
            _ => return Err(unknown(&format!("-{option}"))),
        }
        Ok(())
    }

    /// Parses a long option with its value after `=`, or in the next word.
    fn long(&mut self, option: &str, rest: &mut impl Iterator<Item = String>) -> Result<(), FproxyOptionError> {
        let (name, attached) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        match (name, &attached) {
            ("help", None) => Err(FproxyOptionError::Help),
            ("version", None) => Err(FproxyOptionError::Version),
            ("share", None) => {
                self.share = true;
                Ok(())
            }
            ("access_log", _) => {
                let value = attached.or_else(|| rest.next()).filter(|value| !value.is_empty() && value != "--");
                let value = value
                    .ok_or_else(|| FproxyOptionError::Wrong("--access_log needs the name of a file".to_owned()))?;
                self.lasting_access_log = Some(PathBuf::from(value));
                Ok(())
            }
            ("thread_pairs", _) => {
                let value = attached.or_else(|| rest.next()).filter(|value| value != "--").unwrap_or_default();
                let number = settings::thread_pairs(&value);
                self.thread_pairs =
                    number.map_err(|words| FproxyOptionError::Wrong(format!("--thread_pairs {words}")))?;
                Ok(())
            }
            ("help" | "version" | "share", Some(value)) => {
                Err(FproxyOptionError::Wrong(format!("--{name} takes no value (given: '{value}')")))
            }
            _ => Err(unknown(&format!("--{option}"))),
        }
    }
}

fn unknown(option: &str) -> FproxyOptionError {
    FproxyOptionError::Wrong(format!("there is no option '{option}'; try 'fproxy -h'"))
}

fn file(letter: char, value: &str) -> Result<PathBuf, FproxyOptionError> {
    if value.is_empty() {
        return Err(FproxyOptionError::Wrong(format!(
            "-{letter} needs the name of a file attached to it: -{letter}FILE"
        )));
    }
    Ok(PathBuf::from(value))
}

/// `unit` follows the range, with a space before it.
fn number(letter: char, value: &str, most: u64, unit: &str) -> Result<u64, FproxyOptionError> {
    if value.is_empty() {
        return Err(FproxyOptionError::Wrong(format!(
            "-{letter} needs a number attached to it, between 0 and {most}{unit}"
        )));
    }
    // `parse` would accept a sign.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse::<u64>().ok().filter(|number| digits && *number <= most);
    number.ok_or_else(|| {
        FproxyOptionError::Wrong(format!("-{letter} must be between 0 and {most}{unit} (given: '{value}')"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<FproxyOptions, FproxyOptionError> {
        read(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn options(line: &str) -> FproxyOptions {
        typed(line).unwrap_or_else(|why| panic!("{line}: {why:?}"))
    }

    #[test]
    fn without_options_all_is_as_documented() {
        let found = options("a b -- c d");
        let clusters = vec!["a".to_owned(), "b".to_owned()];
        let backends = vec!["c".to_owned(), "d".to_owned()];
        assert_eq!(found, FproxyOptions { clusters, backends, ..FproxyOptions::default() });
        assert_eq!((found.failed_for, found.idle, found.first_bytes), (60, 0, 0));
        assert_eq!((found.strategy, found.foreground, found.share), (Strategy::Mix, false, false));
    }

    #[test]
    fn each_letter_takes_what_is_attached_to_it() {
        let found = options("-o/l/a -e/l/e -p/r/p -f -y6 -t30 -g5 -s1 a -- c");
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!((found.access_log, found.error_log, found.pid_file), (path("/l/a"), path("/l/e"), path("/r/p")));
        assert_eq!((found.foreground, found.first_bytes, found.idle, found.failed_for), (true, 6, 30, 5));
        assert_eq!(found.strategy, Strategy::Connections);
        assert!(options("-d a -- c").foreground);
    }

    #[test]
    fn each_strategy_has_its_number() {
        let expected = [Strategy::RoundRobin, Strategy::Connections, Strategy::Bytes, Strategy::Time, Strategy::Mix];
        for (number, strategy) in expected.into_iter().enumerate() {
            assert_eq!(options(&format!("-s{number} a -- c")).strategy, strategy);
        }
    }

    #[test]
    fn long_options_take_their_value_either_way() {
        for line in ["--access_log x --thread_pairs 7 --share a -- c", "a --share --thread_pairs=7 --access_log=x -- c"]
        {
            let found = options(line);
            assert_eq!(found.thread_pairs, 7, "{line}");
            assert_eq!((found.lasting_access_log, found.share), (Some(PathBuf::from("x")), true), "{line}");
            assert_eq!(found.clusters, ["a"], "{line}");
        }
    }

    #[test]
    fn options_may_stand_between_addresses_and_the_last_one_counts() {
        let found = options("a -y1 b -y2 -- c");
        assert_eq!((found.first_bytes, found.clusters.len()), (2, 2));
    }

    #[test]
    fn behind_the_dashes_are_backends_only() {
        assert_eq!(options("a -- -f -y6").backends, ["-f", "-y6"]);
    }

    #[test]
    fn help_and_version_are_asked_for() {
        for (line, expected) in [
            ("-h", FproxyOptionError::Help),
            ("a --help -- c", FproxyOptionError::Help),
            ("--version", FproxyOptionError::Version),
        ] {
            assert_eq!(typed(line).unwrap_err(), expected, "{line}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_value_and_range() {
        for (line, tokens) in [
            ("", &["'--'", "fproxy -h"][..]),
            ("a b", &["must be followed by '--'"]),
            ("-- c", &["no address to listen on"]),
            ("a --", &["no backend after '--'"]),
            ("-y a -- c", &["-y needs a number attached", "0 and 32768 bytes"]),
            ("-y32769 a -- c", &["-y must be between 0 and 32768 bytes", "'32769'"]),
            ("-y+6 a -- c", &["'+6'"]),
            ("-t-1 a -- c", &["-t must be between 0 and 31536000 seconds", "'-1'"]),
            ("-t1.5 a -- c", &["'1.5'"]),
            ("-gx a -- c", &["-g must be", "'x'"]),
            ("-g99999999999999999999 a -- c", &["'99999999999999999999'"]),
            ("-s5 a -- c", &["-s must be between 0 and 4", "'5'"]),
            ("-s a -- c", &["-s needs a number attached"]),
            ("-o a -- c", &["-o needs the name of a file attached to it: -oFILE"]),
            ("-e a -- c", &["-eFILE"]),
            ("-p a -- c", &["-pFILE"]),
            ("-fd a -- c", &["-f takes no value", "'d'"]),
            ("-dx a -- c", &["-d takes no value"]),
            ("-hx a -- c", &["-h takes no value"]),
            ("-x a -- c", &["no option '-x'"]),
            ("--nosuch a -- c", &["no option '--nosuch'"]),
            ("--share=1 a -- c", &["--share takes no value", "'1'"]),
            ("--access_log -- c", &["--access_log needs"]),
            ("--access_log= a -- c", &["--access_log needs"]),
            ("--thread_pairs=65537 a -- c", &["--thread_pairs must be between 0 and 65536", "given: 65537"]),
            ("--thread_pairs -- c", &["--thread_pairs must be"]),
        ] {
            let FproxyOptionError::Wrong(words) = typed(line).unwrap_err() else { panic!("{line}") };
            for token in tokens {
                assert!(words.contains(token), "{line}: no \"{token}\" in: {words}");
            }
            assert!(!words.contains('\n'), "{words}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let Err(FproxyOptionError::Wrong(words)) = read(&[OsString::from_vec(vec![b'a', 0xff])]) else { panic!() };
        assert!(words.contains("is not UTF-8"), "{words}");
    }
}
