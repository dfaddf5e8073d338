//! The command line and the configuration file of PumpkinLB: the workers of each port are used in turn.
//!
//! A mapping, worker or key that cannot be used causes a warning and is ignored; a file with nothing to listen on is an
//! error. Reads that one file, and looks up names if the file asks for it.

mod file;
mod ini;
pub mod log_format;
mod text;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use self::file::{Mapping, PumpkinOptions};
use super::{BALANCER_SETTINGS, NO_CONTROL, Parsed, Usage};
use crate::config::{
    Backend, Config, Failover, FailurePolicy, Group, Log, LogStyle, LogTarget, Network, OnHangup, OnInterrupt,
    OnUnresolved, Policy, Process, RetryPolicy, Service, Settings, Statuses, Upstream, WhenFull,
};
use crate::endpoint::{Address, Endpoint};
use crate::observe::words::system_words;
use crate::settings;

/// The name in its messages, whatever link started it.
const NAME: &str = "PumpkinLB";
/// The subcommand of `cbpx`.
const SUBCOMMAND: &str = "pumpkin";
/// Exit status when the program cannot start.
const NOT_STARTED: u8 = 1;

/// How long a failed worker is used only if no other is available.
const FORGET_AFTER: Duration = Duration::from_secs(5);
/// Connect timeout per worker; then the client is offered to the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that all workers refused is offered again after each pause, for 30 s.
const ROUNDS: RetryPolicy = RetryPolicy { most: 600, pause: Duration::from_millis(50) };
/// Interval between attempts to bind a port.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Time for connected clients to finish after a signal to stop.
const GRACE: Duration = Duration::from_secs(6);

/// Parses the arguments after the program's name.
///
/// # Errors
/// Explains what is wrong with the arguments or the file.
pub fn parse(arguments: &[OsString]) -> Result<Parsed, Usage> {
    let (name, words) = arguments.split_first().map_or((NAME.into(), arguments), |(name, words)| {
        (Path::new(name).file_name().unwrap_or(name).to_string_lossy(), words)
    });
    let program = if name == SUBCOMMAND { format!("{} {name}", env!("CARGO_PKG_NAME")) } else { name.into_owned() };
    let asked = |flag: &str| words.iter().any(|word| word == flag);
    if asked("--help") {
        return Ok(Parsed::Print(text::help(&program)));
    }
    if asked("--help-config") {
        return Ok(Parsed::Print(text::help_config()));
    }
    if asked("--version") {
        return Ok(Parsed::Print(text::version()));
    }
    let (pairs, words) = thread_pairs(words).map_err(|words| not_started(format!("ERROR: {words}")))?;
    match words {
        [] => Err(not_started(text::usage(&program))),
        [path] => read(Path::new(path), pairs, look_up),
        [..] => Err(not_started(format!("Too many arguments.\n{}", text::usage(&program)))),
    }
}

/// Parses `--thread_pairs N` or `--thread_pairs=N` before the file's name. Also returns the words after it.
fn thread_pairs(words: &[OsString]) -> Result<(Option<usize>, &[OsString]), String> {
    const FLAG: &str = "--thread_pairs";
    let Some((first, rest)) = words.split_first() else { return Ok((None, words)) };
    let first = first.to_string_lossy();
    let (value, rest) = match first.split_once('=') {
        Some((FLAG, value)) => (value.to_owned(), rest),
        None if first == FLAG => match rest.split_first() {
            Some((value, rest)) => (value.to_string_lossy().into_owned(), rest),
            None => return Err(format!("{FLAG} needs a value")),
        },
        Some(_) | None => return Ok((None, words)),
    };
    let pairs = settings::thread_pairs(&value).map_err(|words| format!("{FLAG} {words}"))?;
    Ok((Some(pairs), rest))
}

fn not_started(words: String) -> Usage {
    Usage { words, status: NOT_STARTED }
}

/// Reads this file, with `look_up` for the addresses of names. `pairs` overrides the value in the file.
fn read(path: &Path, pairs: Option<usize>, look_up: impl Fn(&Endpoint) -> Option<Endpoint>) -> Result<Parsed, Usage> {
    let shown = path.display();
    let bytes = fs::read(path);
    let bytes = bytes.map_err(|e| not_started(format!("ERROR: cannot read {shown}: {}", system_words(&e))))?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| not_started(format!("ERROR: cannot read {shown}: it is not UTF-8 text")))?;
    let read = file::read(&text, look_up);
    let mut read = read.map_err(|mistake| not_started(format!("ERROR: {shown}: {mistake}")))?;
    read.options.thread_pairs = pairs.unwrap_or(read.options.thread_pairs);
    match config(&read.options, read.mappings) {
        Some(config) => Ok(Parsed::Serve { config: Box::new(config), warnings: read.warnings }),
        None => {
            let mut lines: Vec<_> = read.warnings.iter().map(|words| format!("WARNING: {words}")).collect();
            lines.push(format!("ERROR: no mapping in {shown} can be used: there is nothing to listen on"));
            Err(not_started(lines.join("\n")))
        }
    }
}

/// The address of a name, chosen as in the original: the first IPv4 address, else the first.
fn look_up(worker: &Endpoint) -> Option<Endpoint> {
    let tcp = |address| match address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    };
    let addresses: Vec<_> = worker.resolve().ok()?.into_iter().filter_map(tcp).collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    first.map(|address| Endpoint::from(*address))
}

/// Returns `None` without a mapping.
fn config(options: &PumpkinOptions, mappings: Vec<Mapping>) -> Option<Config> {
    let services: Vec<_> = mappings.into_iter().map(|mapping| service(options, mapping)).collect();
    (!services.is_empty()).then(|| Config {
        services,
        control: NO_CONTROL,
        log: Log {
            target: LogTarget::BothStandards,
            level: log::LevelFilter::Info,
            style: LogStyle::Brackets,
            mode: 0o666,
        },
        access_log: None,
        process: Process {
            name: NAME.to_owned(),
            background: false,
            pid_file: None,
            cpu_profile: None,
            on_hangup: OnHangup::Stop,
            on_interrupt: OnInterrupt::Stop,
            tally: None,
            statuses: Statuses { resolve: NOT_STARTED, listen: NOT_STARTED, other: NOT_STARTED },
        },
    })
}

fn service(options: &PumpkinOptions, mapping: Mapping) -> Service {
    let backend = |endpoint| Backend { endpoint, limit: None, enabled: true };
    let group = Group {
        policy: Policy::RoundRobin,
        failover: Failover::RandomOther,
        failure_policy: FailurePolicy::AvoidFor(FORGET_AFTER),
        backends: mapping.workers.into_iter().map(backend).collect(),
    };
    let (_, port) = mapping.local.host_and_port();
    Service {
        name: port,
        listeners: vec![mapping.local],
        network: Network {
            backlog: 4096,
            accept_threads: 1,
            share_port: false,
            bind_retry: (!options.strict_start).then_some(BIND_AGAIN),
            first_bytes: 0,
            source: None,
            connect_timeout: CONNECT_TIMEOUT,
            unresolved: OnUnresolved::Unreachable,
            keepalive: Some(Duration::from_secs(60)),
            idle_timeout: None,
            show_bytes: false,
        },
        upstreams: vec![Upstream { groups: vec![group] }],
        settings: Settings {
            net_buffer_size: options.buffer_size,
            thread_pairs: options.thread_pairs,
            ..BALANCER_SETTINGS
        },
        script: None,
        when_full: WhenFull::Wait,
        retry: ROUNDS,
        seed: u64::from(std::process::id()),
        // Clients that wait for an unresponsive worker must not delay the others.
        max_dials: usize::MAX,
        grace: GRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Parsed, Usage> {
        let words = ["/usr/bin/pumpkinlb"].into_iter().chain(line.split_whitespace());
        parse(&words.map(OsString::from).collect::<Vec<_>>())
    }

    fn prints(line: &str) -> String {
        let Ok(Parsed::Print(text)) = run(line) else { panic!("{line} does not print") };
        text
    }

    fn tells(line: &str) -> String {
        let Err(Usage { words, status: 1 }) = run(line) else { panic!("{line} is no error of status 1") };
        words
    }

    /// The configuration of a file with this text; names are not looked up.
    fn of(text: &str) -> Config {
        let read = file::read(text, |worker| Some(worker.clone())).unwrap();
        config(&read.options, read.mappings).unwrap()
    }

    #[test]
    fn help_and_version_are_output() {
        assert!(prints("--help").contains("Usage: pumpkinlb CONFIG"));
        assert!(prints("x --help y").contains("--help-config"));
        for token in [
            "[options]",
            "pre_resolve_workers",
            "buffer_size",
            "strict_start",
            "thread_pairs",
            "[mappings]",
            "ADDR:PORT",
        ] {
            assert!(prints("--help-config").contains(token), "{token}");
        }
        assert!(prints("--version").starts_with("PumpkinLB Version 2.0.0 "));
    }

    #[test]
    fn any_other_number_of_arguments_than_one_is_an_error() {
        assert!(tells("").starts_with("Usage: pumpkinlb CONFIG"));
        assert!(tells("a b").starts_with("Too many arguments.\nUsage: pumpkinlb CONFIG"));
    }

    #[test]
    fn the_number_of_thread_pairs_comes_from_the_flag_or_from_the_file() {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        for line in ["--thread_pairs 7 file", "--thread_pairs=7 file"] {
            assert_eq!(thread_pairs(&words(line)), Ok((Some(7), &words("file")[..])), "{line}");
        }
        assert!(
            tells("--thread_pairs x file")
                .contains("--thread_pairs must be between 0 and 65536 pairs of threads (given: x)")
        );
        assert!(tells("--thread_pairs").contains("--thread_pairs needs a value"));
        let pairs = |text: &str| of(&format!("{text}[mappings]\n80=a-host:1\n")).services[0].settings.thread_pairs;
        assert_eq!((pairs(""), pairs("[options]\nthread_pairs=9\n")), (settings::THREAD_PAIRS, 9));
    }

    #[test]
    fn an_unknown_flag_is_a_file_name() {
        assert_eq!(tells("--nosuch"), "ERROR: cannot read --nosuch: No such file or directory");
        assert_eq!(tells("/"), "ERROR: cannot read /: Is a directory");
    }

    #[test]
    fn every_mapping_is_a_service_with_the_rules_of_the_original() {
        let config = of("[mappings]\n80=a-host:1,b-host:2\n127.0.0.1:81=c-host:3\n");
        let [first, second] = &config.services[..] else { panic!("{config:?}") };
        assert_eq!(first.listeners, [Endpoint::tcp("0.0.0.0", 80)]);
        assert_eq!(second.listeners, [Endpoint::tcp("127.0.0.1", 81)]);
        assert_eq!(first.upstreams[0].to_string(), "a-host:1,b-host:2");
        let group = &first.upstreams[0].groups[0];
        assert_eq!((group.policy, group.failover), (Policy::RoundRobin, Failover::RandomOther));
        assert_eq!(group.failure_policy, FailurePolicy::AvoidFor(FORGET_AFTER));
        assert_eq!(first.retry.pause, Duration::from_millis(50));
        assert_eq!(first.grace, Duration::from_secs(6));
        assert_eq!(first.network.bind_retry, Some(Duration::from_secs(5)));
        assert_eq!(first.settings.net_buffer_size, 4096);
        assert_eq!(config.log.style, LogStyle::Brackets);
        assert_eq!((config.process.on_hangup, config.process.on_interrupt), (OnHangup::Stop, OnInterrupt::Stop));
    }

    #[test]
    fn options_hold_for_every_mapping() {
        let options = "[options]\nbuffer_size=8192\nstrict_start=true\n";
        let config = of(&format!("{options}[mappings]\n80=a-host:1\n81=b-host:1\n"));
        for service in &config.services {
            assert_eq!((service.settings.net_buffer_size, service.network.bind_retry), (8192, None));
        }
    }

    #[test]
    fn a_name_is_looked_up_and_ipv4_comes_first() {
        assert_eq!(look_up(&Endpoint::tcp("localhost", 9)), Some(Endpoint::tcp("127.0.0.1", 9)));
        assert_eq!(look_up(&Endpoint::tcp("::1", 9)), Some(Endpoint::tcp("::1", 9)));
        assert_eq!(look_up(&Endpoint::tcp("nosuch.invalid", 9)), None);
    }
}
