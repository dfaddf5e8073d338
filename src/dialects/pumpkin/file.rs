//! Interprets a configuration file: options, mappings, and a warning for each line that is ignored.

use std::fmt;

use super::ini::{Ini, IniEntry, IniMistake, Section};
use crate::endpoint::{Endpoint, bare_host, split_port};
use crate::settings;

/// The result of parsing a file.
#[derive(Debug)]
pub struct ParsedFile {
    pub options: PumpkinOptions,
    pub mappings: Vec<Mapping>,
    /// Each has its line number.
    pub warnings: Vec<String>,
}

/// `[options]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PumpkinOptions {
    /// Look names up once, before anything starts.
    pub pre_resolve_workers: bool,
    /// Initial size of a relay buffer in bytes, within [`BUFFERS`].
    pub buffer_size: usize,
    /// Fail at the start if a port cannot be bound, instead of retrying.
    pub strict_start: bool,
    /// See `Settings::thread_pairs`.
    pub thread_pairs: usize,
}

/// One line of `[mappings]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub local: Endpoint,
    /// At least one.
    pub workers: Vec<Endpoint>,
}

/// Why a file is rejected.
#[derive(Debug, PartialEq, Eq)]
pub enum FileError {
    Malformed(IniMistake),
    NoMappings,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Malformed(mistake) => write!(f, "{mistake}"),
            FileError::NoMappings => f.write_str("there is no [mappings] section: see --help-config"),
        }
    }
}

impl Default for PumpkinOptions {
    fn default() -> PumpkinOptions {
        PumpkinOptions {
            pre_resolve_workers: true,
            buffer_size: 4096,
            strict_start: false,
            thread_pairs: settings::THREAD_PAIRS,
        }
    }
}

/// Allowed buffer sizes in bytes, as in all dialects.
const BUFFERS: [usize; 2] = [1024, 65_536];
/// As in the original, a shorter host counts as a mistake.
const SHORTEST_HOST: usize = 3;

/// Parses a file's text. `look_up` returns the address of a name, and is called only if the file asks for it.
///
/// # Errors
/// When the text is malformed or has no mappings.
pub fn read(text: &str, look_up: impl Fn(&Endpoint) -> Option<Endpoint>) -> Result<ParsedFile, FileError> {
    let ini = Ini::parse(text).map_err(FileError::Malformed)?;
    let mut warnings = Vec::new();
    for section in ini.sections().iter().filter(|section| !["options", "mappings"].contains(&&*section.name)) {
        warnings.push(format!("line {}: unknown section [{}], ignored", section.line, section.name));
    }
    let options =
        ini.section("options").map_or_else(PumpkinOptions::default, |section| options(section, &mut warnings));
    let section = ini.section("mappings").ok_or(FileError::NoMappings)?;
    let resolve = |worker: Endpoint| match options.pre_resolve_workers {
        true => look_up(&worker),
        false => Some(worker),
    };
    let mappings = section.entries.iter().filter_map(|entry| mapping(entry, &resolve, &mut warnings)).collect();
    Ok(ParsedFile { options, mappings, warnings })
}

fn options(section: &Section, warnings: &mut Vec<String>) -> PumpkinOptions {
    let mut options = PumpkinOptions::default();
    for IniEntry { key, value, line } in &section.entries {
        match key.as_str() {
            "pre_resolve_workers" => yes_or_no(section, key, &mut options.pre_resolve_workers, warnings),
            "strict_start" => yes_or_no(section, key, &mut options.strict_start, warnings),
            "buffer_size" => buffer_size(value, *line, &mut options.buffer_size, warnings),
            "thread_pairs" => match settings::thread_pairs(value) {
                Ok(pairs) => options.thread_pairs = pairs,
                Err(words) => {
                    let (words, used) = (one_line(&words), options.thread_pairs);
                    warnings.push(format!("line {line}: thread_pairs {words}; {used} is used"));
                }
            },
            _ => warnings.push(format!("line {line}: unknown key '{key}' in [options], ignored")),
        }
    }
    if !section.entries.iter().any(|entry| entry.key == "buffer_size") {
        let size = options.buffer_size;
        warnings.push(format!("Error parsing [options]: buffer_size is missing; {size} is used"));
    }
    options
}

fn yes_or_no(section: &Section, key: &str, option: &mut bool, warnings: &mut Vec<String>) {
    let Some(IniEntry { value, line, .. }) = section.entries.iter().find(|entry| entry.key == key) else { return };
    match value.to_lowercase().as_str() {
        "1" | "true" => *option = true,
        "0" | "false" => *option = false,
        _ => {
            let value = one_line(value);
            let used = u8::from(*option);
            warnings.push(format!("line {line}: {key} must be 1, true, 0 or false (given: {value}); {used} is used"));
        }
    }
}

fn buffer_size(value: &str, line: usize, size: &mut usize, warnings: &mut Vec<String>) {
    let [least, most] = BUFFERS;
    match value.parse::<u128>() {
        Ok(given @ 1..) => {
            *size = usize::try_from(given).unwrap_or(most).clamp(least, most);
            if given != *size as u128 {
                let used = *size;
                warnings.push(format!(
                    "line {line}: buffer_size must be between {least} and {most} bytes (given: {value}); {used} is used"
                ));
            }
        }
        Ok(0) | Err(_) => {
            let (value, used) = (one_line(value), *size);
            warnings.push(format!(
                "line {line}: buffer_size must be a number of bytes above 0 (given: {value}); {used} is used"
            ));
        }
    }
}

/// Returns `None` and adds a warning if the mapping cannot be used.
fn mapping(
    entry: &IniEntry,
    resolve: &impl Fn(Endpoint) -> Option<Endpoint>,
    warnings: &mut Vec<String>,
) -> Option<Mapping> {
    let IniEntry { key, value, line } = entry;
    let local = match local(key) {
        Ok(local) => local,
        Err(why) => {
            warnings.push(format!("Skipping {why} (line {line})"));
            return None;
        }
    };
    let mut workers = Vec::new();
    for text in value.split([',', '\n']).map(str::trim).filter(|text| !text.is_empty()) {
        match worker(text).and_then(|worker| {
            let host = worker.host_and_port().0;
            resolve(worker).ok_or_else(|| format!("Worker, could not resolve {host}"))
        }) {
            Ok(worker) => workers.push(worker),
            Err(why) => warnings.push(format!("Skipping {why} (line {line})")),
        }
    }
    if workers.is_empty() {
        warnings.push(format!("Skipping, no workers defined for {key} (line {line})"));
        return None;
    }
    Some(Mapping { local, workers })
}

/// `PORT` or `ADDR:PORT`. For port 0 the system chooses one.
fn local(key: &str) -> Result<Endpoint, String> {
    let invalid = || format!("Invalid mapping: {key}");
    let (host, port) = match split_port(key) {
        Ok((host, Some(port))) => (bare_host(host).ok_or_else(invalid)?, port),
        Ok((port, None)) if !port.contains(':') => ("0.0.0.0", port),
        Ok((_, None)) | Err(_) => return Err(invalid()),
    };
    match number(port) {
        Some(port) => Ok(Endpoint::tcp(host, port)),
        None => Err(format!("Invalid mapping, cannot convert port: {key}")),
    }
}

/// `HOST:PORT`; IPv6 needs brackets.
fn worker(text: &str) -> Result<Endpoint, String> {
    let invalid = || format!("Invalid Worker {text}");
    let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    let (host, port) = (host.trim(), port.trim());
    if host.chars().count() < SHORTEST_HOST || port.is_empty() {
        return Err(invalid());
    }
    if number(port).is_none_or(|port| port == 0) {
        return Err(format!("worker, could not parse port {port}"));
    }
    match format!("{host}:{port}").parse() {
        Ok(endpoint @ Endpoint::Tcp { .. }) => Ok(endpoint),
        Ok(Endpoint::Unix(_) | Endpoint::Malformed(_)) | Err(_) => Err(invalid()),
    }
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn one_line(value: &str) -> String {
    value.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses it. Names that begin with `x` have no address.
    fn of(text: &str) -> ParsedFile {
        read(text, |worker| Some(worker.clone()).filter(|worker| !worker.to_string().starts_with('x'))).unwrap()
    }

    /// All mappings, as `LOCAL=WORKER,...`.
    fn shown(read: &ParsedFile) -> Vec<String> {
        let workers = |mapping: &Mapping| mapping.workers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        read.mappings.iter().map(|mapping| format!("{}={}", mapping.local, workers(mapping))).collect()
    }

    /// Checks a file with one mapping, in line 2, and its warnings.
    fn one(line: &str, mappings: &[&str], warnings: &[&str]) {
        let read = of(&format!("[mappings]\n{line}\n"));
        assert_eq!(shown(&read), mappings, "{line}");
        assert_eq!(read.warnings, warnings, "{line}");
    }

    fn with_options(options: &str) -> (PumpkinOptions, Vec<String>) {
        let read = of(&format!("[options]\n{options}\n[mappings]\n80=host:1\n"));
        (read.options, read.warnings)
    }

    #[test]
    fn each_form_of_a_mapping_is_taken() {
        one("80=host:1", &["0.0.0.0:80=host:1"], &[]);
        one("80: host:1", &["0.0.0.0:80=host:1"], &[]);
        one("127.0.0.1:80=host:1,10.0.0.1:2", &["127.0.0.1:80=host:1,10.0.0.1:2"], &[]);
        one("LocalHost:80 = host:1", &["localhost:80=host:1"], &[]);
        one("[::1]:80 = [::1]:1", &["[::1]:80=[::1]:1"], &[]);
        one("0 = host:1", &["0.0.0.0:0=host:1"], &[]);
    }

    #[test]
    fn spaces_trailing_commas_and_continued_lines_are_no_workers() {
        one("80 = host:1 ,  other:2, ", &["0.0.0.0:80=host:1,other:2"], &[]);
        one("80 = host:1,\n   other:2\n   third : 3", &["0.0.0.0:80=host:1,other:2,third:3"], &[]);
    }

    #[test]
    fn a_worker_that_cannot_be_used_is_left_out_and_its_neighbours_are_not() {
        for (bad, told) in [
            ("host", "Invalid Worker host"),
            ("ab:1", "Invalid Worker ab:1"),
            ("host:", "Invalid Worker host:"),
            (":80", "Invalid Worker :80"),
            ("::1:80", "Invalid Worker ::1:80"),
            ("/run/x:80", "Invalid Worker /run/x:80"),
            ("host:http", "worker, could not parse port http"),
            ("host:0", "worker, could not parse port 0"),
            ("host:65536", "worker, could not parse port 65536"),
            ("host:+80", "worker, could not parse port +80"),
            ("xhost:80", "Worker, could not resolve xhost"),
        ] {
            let told = format!("Skipping {told} (line 2)");
            for line in [format!("80={bad},good:1,last:2"), format!("80=good:1,{bad},last:2")] {
                one(&line, &["0.0.0.0:80=good:1,last:2"], &[&told]);
            }
            one(&format!("80={bad}"), &[], &[&told, "Skipping, no workers defined for 80 (line 2)"]);
        }
    }

    #[test]
    fn a_mapping_that_cannot_be_used_is_left_out() {
        one("80=", &[], &["Skipping, no workers defined for 80 (line 2)"]);
        one("http=host:1", &[], &["Skipping Invalid mapping, cannot convert port: http (line 2)"]);
        one("127.0.0.1:x=host:1", &[], &["Skipping Invalid mapping, cannot convert port: 127.0.0.1:x (line 2)"]);
        one("70000=host:1", &[], &["Skipping Invalid mapping, cannot convert port: 70000 (line 2)"]);
        for key in [":80", "::1:80", "[nowhere]:80", "a b:80", "/run:80"] {
            one(&format!("{key}=host:1"), &[], &[&format!("Skipping Invalid mapping: {key} (line 2)")]);
        }
    }

    #[test]
    fn names_are_not_asked_for_when_they_are_to_be_later() {
        let read = of("[options]\npre_resolve_workers=0\nbuffer_size=4096\n[mappings]\n80=xhost:1\n");
        assert_eq!((shown(&read), read.warnings), (vec!["0.0.0.0:80=xhost:1".to_owned()], vec![]));
    }

    #[test]
    fn without_options_there_are_defaults_and_nothing_is_said() {
        let read = of("[mappings]\n80=host:1\n");
        assert_eq!(
            read.options,
            PumpkinOptions { pre_resolve_workers: true, buffer_size: 4096, strict_start: false, thread_pairs: 256 }
        );
        assert_eq!(read.warnings, Vec::<String>::new());
    }

    #[test]
    fn yes_and_no_are_taken_in_any_case() {
        for (text, meant) in [("1", true), ("TRUE", true), ("true", true), ("0", false), ("False", false)] {
            let (options, warnings) =
                with_options(&format!("buffer_size=4096\nPre_Resolve_Workers={text}\nstrict_start={text}"));
            assert_eq!((options.pre_resolve_workers, options.strict_start), (meant, meant));
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        let (options, warnings) = with_options("buffer_size=4096\npre_resolve_workers=yes\nstrict_start=");
        assert_eq!((options.pre_resolve_workers, options.strict_start), (true, false));
        let told = "line 3: pre_resolve_workers must be 1, true, 0 or false (given: yes); 1 is used";
        assert!(warnings.len() == 2 && warnings[0] == told, "{warnings:?}");
    }

    #[test]
    fn a_buffer_size_is_taken_within_the_range_and_told_of_beyond() {
        for (text, size, told) in [
            ("4096", 4096, ""),
            ("1024", 1024, ""),
            ("65536", 65_536, ""),
            ("1", 1024, "(given: 1); 1024 is used"),
            ("65537", 65_536, "(given: 65537); 65536 is used"),
            ("99999999999999999999999", 65_536, "65536 is used"),
            ("0", 4096, "line 2: buffer_size must be a number of bytes above 0 (given: 0); 4096 is used"),
            ("-5", 4096, "(given: -5); 4096 is used"),
            ("4k", 4096, "(given: 4k); 4096 is used"),
            ("", 4096, "(given: ); 4096 is used"),
        ] {
            let (options, warnings) = with_options(&format!("buffer_size={text}"));
            assert_eq!(options.buffer_size, size, "{text}");
            assert_eq!(warnings.len(), usize::from(!told.is_empty()), "{text}: {warnings:?}");
            assert!(warnings.iter().all(|words| words.contains(told)), "{text}: {warnings:?}");
        }
        let (options, warnings) = with_options("");
        assert_eq!(options.buffer_size, 4096);
        assert_eq!(warnings, ["Error parsing [options]: buffer_size is missing; 4096 is used"]);
    }

    #[test]
    fn unknown_sections_and_keys_are_told_with_their_line() {
        let read = of("[mappings]\n80=host:1\n[options]\nbuffer_size=4096\nbufer_size=1\n[Mappings]\n81=host:1\n");
        assert_eq!(shown(&read).len(), 1);
        let expected =
            ["line 6: unknown section [Mappings], ignored", "line 5: unknown key 'bufer_size' in [options], ignored"];
        assert_eq!(read.warnings, expected);
    }

    #[test]
    fn without_mappings_or_form_there_is_nothing_to_run() {
        let error = |text: &str| read(text, |worker| Some(worker.clone())).unwrap_err().to_string();
        assert_eq!(error("[options]\n"), "there is no [mappings] section: see --help-config");
        assert_eq!(error("[mappings]\n80=a\n80=b\n"), "line 3: key '80' is in [mappings] already, in line 2");
    }
}
