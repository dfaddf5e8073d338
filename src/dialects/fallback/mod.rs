//! The command line of tcp_fallback: each client goes to the first backend of a list that accepts connections.
//!
//! Flags, defaults and exit statuses are those of the original. A flag that no longer has a meaning is accepted, and
//! the help says so.

mod duration;
mod flags;
mod go_duration;
pub mod log_format;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::flags::{Flag, FlagValue, ParsedFlags};
use super::{BALANCER_SETTINGS, NO_CONTROL, Parsed, Usage};
use crate::config::{
    AS_LONG_AS_IT_TAKES, Backend, Config, Failover, FailurePolicy, Group, Log, LogStyle, LogTarget, Network, OnHangup,
    OnInterrupt, OnUnresolved, Policy, Process, RetryPolicy, Service, Settings, Statuses, Upstream, WhenFull,
};
use crate::endpoint::Endpoint;
use crate::settings;

/// The arguments as typed; 0 means none.
#[derive(Debug)]
struct FallbackArguments {
    timeout: Duration,
    probe_delay: Duration,
    stats: Duration,
    grace: Duration,
    logfile: Option<PathBuf>,
    syslog: bool,
    quiet: bool,
    debug: bool,
    cpuprofile: Option<PathBuf>,
    thread_pairs: usize,
}

impl Default for FallbackArguments {
    fn default() -> FallbackArguments {
        FallbackArguments {
            timeout: Duration::from_secs(5),
            probe_delay: Duration::from_secs(30),
            stats: Duration::from_secs(15 * 60),
            grace: Duration::ZERO,
            logfile: None,
            syslog: false,
            quiet: false,
            debug: false,
            cpuprofile: None,
            thread_pairs: settings::THREAD_PAIRS,
        }
    }
}

/// A test compares these defaults with those of [`FallbackArguments`].
const FLAGS: &[Flag<FallbackArguments>] = &[
    Flag {
        name: "timeout",
        takes: FlagValue::Value("DURATION"),
        default: "5s",
        about: "Longest time for connecting to a backend, for clients and probes; 0s: the system's limit.",
        store: |typed, value| time(value, Duration::ZERO).map(|time| typed.timeout = time),
    },
    Flag {
        name: "probe-delay",
        takes: FlagValue::Value("DURATION"),
        default: "30s",
        about: "Interval at which a failed backend is probed; 0s: never.",
        store: |typed, value| time(value, SHORTEST).map(|time| typed.probe_delay = time),
    },
    Flag {
        name: "stats",
        takes: FlagValue::Value("DURATION"),
        default: "15m0s",
        about: "Interval of the STATS lines in the log; 0s: none.",
        store: |typed, value| time(value, SHORTEST).map(|time| typed.stats = time),
    },
    Flag {
        name: "grace",
        takes: FlagValue::Value("DURATION"),
        default: "0s",
        about: "Time for clients to finish after SIGINT or SIGTERM; 0s: no limit. No more clients are accepted, and the \
                address is free at once. Another signal resets the clients. (New; the original did so at once.)",
        store: |typed, value| time(value, Duration::ZERO).map(|time| typed.grace = time),
    },
    Flag {
        name: "logfile",
        takes: FlagValue::Value("FILE"),
        default: "",
        about: "Log to the end of this file (created with mode 0640) instead of standard error. SIGHUP reopens it; \
                without this flag SIGHUP ends the program.",
        store: |typed, value| {
            typed.logfile = file(value);
            Ok(())
        },
    },
    Flag {
        name: "syslog",
        takes: FlagValue::Nothing,
        default: "",
        about: "Log to the system's logger, without the time, which it adds itself. Overrides -logfile.",
        store: |typed, value| flags::boolean(value).map(|on| typed.syslog = on),
    },
    Flag {
        name: "quiet",
        takes: FlagValue::Nothing,
        default: "",
        about: "Log nothing. Overrides -syslog and -logfile.",
        store: |typed, value| flags::boolean(value).map(|on| typed.quiet = on),
    },
    Flag {
        name: "debug",
        takes: FlagValue::Nothing,
        default: "",
        about: "Log details, in lines that begin with DEBUG.",
        store: |typed, value| flags::boolean(value).map(|on| typed.debug = on),
    },
    Flag {
        name: "thread_pairs",
        takes: FlagValue::Value("N"),
        default: "256",
        about: "At most N clients at once have a pair of threads of their own; the others share threads. 0 to 65536. (New.)",
        store: |typed, value| settings::thread_pairs(&value.to_string_lossy()).map(|pairs| typed.thread_pairs = pairs),
    },
    Flag {
        name: "maxthreads",
        takes: FlagValue::Value("N"),
        default: "4",
        about: "Accepted, and changes nothing: see -thread_pairs.",
        store: |_, value| flags::integer(value).map(drop),
    },
    Flag {
        name: "cpuprofile",
        takes: FlagValue::Value("FILE"),
        default: "",
        about: "Write a CPU profile of the run to this file at its end, for `go tool pprof`.",
        store: |typed, value| {
            typed.cpuprofile = file(value);
            Ok(())
        },
    },
];

/// An empty name means none, as by default.
fn file(value: &OsStr) -> Option<PathBuf> {
    Some(value).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Shorter intervals would leave no time for clients.
const SHORTEST: Duration = Duration::from_millis(1);

/// Parses a duration of at least `least`, or 0 for none.
fn time(value: &OsStr, least: Duration) -> Result<Duration, String> {
    let text = value.to_string_lossy();
    let time = duration::parse(&text)?;
    if !time.is_zero() && time < least {
        return Err(format!("must be 0s or at least {least:?} (given: {text})"));
    }
    Ok(time)
}

/// The name that scripts and the system's logger know, whatever link started it.
const NAME: &str = "tcp_fallback";
/// Exit status when arguments are missing or the program cannot start.
const NOT_STARTED: u8 = 1;

/// Parses the arguments, which begin with the program's name.
///
/// # Errors
/// Explains what is wrong with them, for exit status 2.
pub fn parse(arguments: &[OsString]) -> Result<Parsed, Usage> {
    let called = arguments.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    let program = match called {
        Some(DIALECT) | None => concat!(env!("CARGO_PKG_NAME"), " fallback"),
        Some(link) => link,
    };
    read(program, arguments.get(1..).unwrap_or_default())
}

/// The name of the dialect as a subcommand.
const DIALECT: &str = "fallback";

/// Parses the arguments after `program`, which is what the user typed.
fn read(program: &str, words: &[OsString]) -> Result<Parsed, Usage> {
    let mut typed = FallbackArguments::default();
    let rest = match flags::read(FLAGS, words, &mut typed) {
        Ok(ParsedFlags::Help) => return Ok(Parsed::Tell { text: usage(program), status: 0 }),
        Ok(ParsedFlags::Rest(rest)) => rest,
        Err(mistake) => return Err(Usage::new(format!("{program}: {mistake}\n\n{}", usage(program)))),
    };
    let (Some(local), Some(remotes)) = (rest.first(), rest.get(1..).filter(|remotes| !remotes.is_empty())) else {
        let text = format!("{program}: needs an address to listen on and at least one backend\n\n{}", usage(program));
        return Ok(Parsed::Tell { text, status: NOT_STARTED });
    };
    let local = match Endpoint::parse_own(&local.to_string_lossy()) {
        Ok(local) => local,
        Err(mistake) => {
            return Ok(Parsed::Tell { text: format!("{program}: cannot listen: {mistake}"), status: NOT_STARTED });
        }
    };
    let remotes: Vec<_> = remotes.iter().map(|remote| remote.to_string_lossy()).collect();
    let late = remotes.iter().filter(|remote| remote.starts_with('-'));
    let warnings = late.map(|word| format!("'{word}' is taken for a backend: flags come before addresses")).collect();
    let config = Box::new(typed.config(local, remotes.iter().map(|remote| backend(remote)).collect()));
    Ok(Parsed::Serve { config, warnings })
}

/// Parses a backend. A malformed one counts as unreachable. Without a host it is on this machine.
fn backend(text: &str) -> Backend {
    let endpoint = match text.parse() {
        Ok(endpoint) => endpoint,
        Err(_) if text.starts_with(':') => match format!("localhost{text}").parse() {
            Ok(Endpoint::Tcp { port, .. }) => Endpoint::tcp("", port),
            Ok(Endpoint::Unix(_) | Endpoint::Malformed(_)) | Err(_) => Endpoint::Malformed(text.to_owned()),
        },
        Err(_) => Endpoint::Malformed(text.to_owned()),
    };
    Backend { endpoint, limit: None, enabled: true }
}

fn usage(program: &str) -> String {
    format!(
        "{program} (tcp_fallback ver 0.1; {} {})\n\n\
         Usage: {program} [flags] LOCAL:PORT REMOTE:PORT...\n\n\
         Connects each client of LOCAL:PORT to the first REMOTE of the list that accepts\n\
         connections. :PORT listens on all addresses of this machine. Flags come first,\n\
         as -flag VALUE, -flag=VALUE or with two dashes; if one is repeated, the last one\n\
         counts. A DURATION needs a unit: 100ms, 5s, 1h30m.\n\n{}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        flags::help(FLAGS).trim_end()
    )
}

impl FallbackArguments {
    fn config(self, local: Endpoint, backends: Vec<Backend>) -> Config {
        let some = |time: Duration| (!time.is_zero()).then_some(time);
        let no_longer_than = |time: Duration| some(time).unwrap_or(AS_LONG_AS_IT_TAKES).min(AS_LONG_AS_IT_TAKES);
        Config {
            services: vec![Service {
                name: "fallback".to_owned(),
                listeners: vec![local],
                network: network(no_longer_than(self.timeout)),
                upstreams: vec![Upstream {
                    groups: vec![Group {
                        policy: Policy::InOrder,
                        failover: Failover::WithinGroup,
                        failure_policy: FailurePolicy::UntilProbed { every: some(self.probe_delay) },
                        backends,
                    }],
                }],
                settings: Settings {
                    net_buffer_size: FIRST_BUFFER,
                    thread_pairs: self.thread_pairs,
                    ..BALANCER_SETTINGS
                },
                script: None,
                when_full: WhenFull::Wait,
                retry: RetryPolicy { most: 1, pause: Duration::ZERO },
                seed: 0,
                // Clients that wait for an unresponsive backend must not delay the others.
                max_dials: usize::MAX,
                grace: no_longer_than(self.grace),
            }],
            control: NO_CONTROL,
            process: Process {
                name: NAME.to_owned(),
                background: false,
                pid_file: None,
                cpu_profile: self.cpuprofile.clone(),
                on_hangup: if self.logfile.is_some() { OnHangup::Reopen } else { OnHangup::Stop },
                on_interrupt: OnInterrupt::Stop,
                tally: some(self.stats),
                statuses: Statuses { resolve: NOT_STARTED, listen: NOT_STARTED, other: NOT_STARTED },
            },
            log: self.log(),
            access_log: None,
        }
    }

    fn log(self) -> Log {
        let target = match (self.quiet, self.syslog, self.logfile) {
            (true, ..) => LogTarget::Nowhere,
            (false, true, _) => LogTarget::Syslog,
            (false, false, Some(path)) => LogTarget::File(path),
            (false, false, None) => LogTarget::StandardError,
        };
        let level = if self.debug { log::LevelFilter::Debug } else { log::LevelFilter::Info };
        Log { target, level, style: LogStyle::Slashes, mode: 0o640 }
    }
}

/// First size of a relay buffer, in bytes.
const FIRST_BUFFER: usize = 2048;

fn network(connect_timeout: Duration) -> Network {
    Network {
        // Go uses the system's maximum.
        backlog: i32::MAX,
        accept_threads: 1,
        share_port: false,
        bind_retry: None,
        first_bytes: 0,
        source: None,
        connect_timeout,
        unresolved: OnUnresolved::Unreachable,
        keepalive: Some(Duration::from_secs(60)),
        idle_timeout: None,
        show_bytes: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn read(line: &str) -> Result<Parsed, Usage> {
        super::read("tcp_fallback", &words(line))
    }

    /// Parses a command line that is valid. Returns its configuration and warnings.
    fn runs(line: &str) -> (Config, Vec<String>) {
        match read(line) {
            Ok(Parsed::Serve { config, warnings }) => (*config, warnings),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn config(flags: &str) -> Config {
        let (config, warnings) = runs(&format!("{flags} :1 a:2 b:3"));
        assert!(warnings.is_empty(), "{flags}: {warnings:?}");
        config
    }

    fn tells(line: &str) -> (String, u8) {
        match read(line) {
            Ok(Parsed::Tell { text, status }) => (text, status),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn failure_policy(config: &Config) -> FailurePolicy {
        config.services[0].upstreams[0].groups[0].failure_policy
    }

    #[test]
    fn without_flags_everything_is_as_the_original_has_it() {
        let config = config("");
        let service = &config.services[0];
        assert_eq!(service.listeners, [Endpoint::tcp("", 1)]);
        let group = &service.upstreams[0].groups[0];
        assert_eq!((group.policy, group.failover), (Policy::InOrder, Failover::WithinGroup));
        assert_eq!(service.upstreams[0].to_string(), "a:2,b:3");
        assert!(group.backends.iter().all(|backend| backend.enabled && backend.limit.is_none()));
        assert_eq!(failure_policy(&config), FailurePolicy::UntilProbed { every: Some(Duration::from_secs(30)) });
        assert_eq!(service.network.connect_timeout, Duration::from_secs(5));
        assert_eq!(config.process.tally, Some(Duration::from_secs(900)));
        assert_eq!(service.grace, AS_LONG_AS_IT_TAKES);
        assert!(matches!(config.log.target, LogTarget::StandardError));
        assert_eq!((config.log.level, config.log.style), (log::LevelFilter::Info, LogStyle::Slashes));
        assert_eq!((config.process.on_hangup, config.process.on_interrupt), (OnHangup::Stop, OnInterrupt::Stop));
        assert!(config.control.listeners.is_empty() && !config.control.console);
    }

    #[test]
    fn the_help_tells_the_defaults_that_hold() {
        let line: Vec<String> = FLAGS
            .iter()
            .filter(|flag| !flag.default.is_empty())
            .map(|flag| format!("-{}={}", flag.name, flag.default))
            .collect();
        assert_eq!(line.len(), 6);
        assert_eq!(format!("{:?}", config(&line.join(" "))), format!("{:?}", config("")));
    }

    #[test]
    fn each_duration_is_taken_and_zero_is_none() {
        let set = config("-timeout 1.5s --probe-delay=100ms -stats=1h2m3s -grace 90s");
        assert_eq!(set.services[0].network.connect_timeout, Duration::from_millis(1500));
        assert_eq!(failure_policy(&set), FailurePolicy::UntilProbed { every: Some(Duration::from_millis(100)) });
        assert_eq!(set.process.tally, Some(Duration::from_secs(3723)));
        assert_eq!(set.services[0].grace, Duration::from_secs(90));
        let none = config("-timeout 0s -probe-delay 0s -stats 0 -grace 0s");
        assert_eq!(none.services[0].network.connect_timeout, AS_LONG_AS_IT_TAKES);
        assert_eq!(failure_policy(&none), FailurePolicy::UntilProbed { every: None });
        assert_eq!(none.process.tally, None);
        assert_eq!(none.services[0].grace, AS_LONG_AS_IT_TAKES);
        assert_eq!(config("-timeout 2562047h").services[0].network.connect_timeout, AS_LONG_AS_IT_TAKES);
    }

    #[test]
    fn quiet_beats_syslog_beats_logfile_and_sighup_goes_by_the_logfile() {
        let target = |flags: &str| config(flags).log.target;
        assert!(matches!(target("-quiet -syslog -logfile x"), LogTarget::Nowhere));
        assert!(matches!(target("-syslog -logfile x"), LogTarget::Syslog));
        assert!(
            matches!(target("-logfile x -syslog=false -quiet=0"), LogTarget::File(path) if path.as_os_str() == "x")
        );
        assert!(matches!(target("-logfile="), LogTarget::StandardError));
        assert_eq!(config("-logfile x").process.on_hangup, OnHangup::Reopen);
        assert_eq!(config("-logfile=").process.on_hangup, OnHangup::Stop);
        assert_eq!(config("-debug").log.level, log::LevelFilter::Debug);
        assert_eq!(config("-logfile x").log.mode, 0o640);
    }

    #[test]
    fn a_profile_goes_to_the_last_file_that_is_named_and_an_empty_name_is_none() {
        let profile = |flags: &str| config(flags).process.cpu_profile;
        assert_eq!(profile(""), None);
        assert_eq!(profile("-cpuprofile a --cpuprofile=b"), Some("b".into()));
        assert_eq!(profile("-cpuprofile a -cpuprofile="), None);
    }

    #[test]
    fn what_has_no_meaning_any_more_is_accepted_and_its_value_is_still_checked() {
        let usual = format!("{:?}", config(""));
        assert_eq!(format!("{:?}", config("-maxthreads 16")), usual);
        assert!(read("-maxthreads four :1 a:2").unwrap_err().words.contains("-maxthreads: 'four' is not an integer"));
    }

    #[test]
    fn a_mistake_names_flag_and_value_before_the_usage() {
        for (line, tokens) in [
            ("-timeout 5 :1 a:2", &["-timeout: '5' is not a duration"][..]),
            ("-timeout -5s :1 a:2", &["-timeout: must not be negative (given: -5s)"]),
            ("-probe-delay 1ns :1 a:2", &["-probe-delay: must be 0s or at least 1ms (given: 1ns)"]),
            ("-stats 10us :1 a:2", &["-stats: must be 0s or at least 1ms"]),
            ("-debug=maybe :1 a:2", &["-debug: 'maybe'"]),
            ("-logfile", &["-logfile needs a value: FILE"]),
            ("-nosuch :1 a:2", &["there is no flag -nosuch"]),
        ] {
            let Err(Usage { words, .. }) = read(line) else { panic!("{line} is taken") };
            let (first, usage) = words.split_once("\n\n").unwrap();
            assert!(tokens.iter().all(|token| first.contains(token)) && !first.contains('\n'), "{line}: {first}");
            assert!(usage.contains("Usage: tcp_fallback [flags] LOCAL:PORT REMOTE:PORT..."), "{usage}");
        }
    }

    #[test]
    fn help_is_no_mistake_and_has_every_flag() {
        for line in ["-h", "-help", "--help", "-debug -h :1"] {
            let (text, status) = tells(line);
            assert_eq!(status, 0);
            for flag in FLAGS {
                assert!(text.contains(&format!("\n  -{}", flag.name)), "no -{} in {text}", flag.name);
            }
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }

    #[test]
    fn fewer_than_two_addresses_is_status_1() {
        for line in ["", "-debug", ":1", "-- :1"] {
            let (text, status) = tells(line);
            assert!(status == 1 && text.contains("Usage: "), "{line}: {text}");
        }
    }

    #[test]
    fn where_to_listen_must_be_an_address() {
        for (line, token) in [("5432 a:2", "'5432' has no port"), ("::1:80 a:2", "'::1:80'"), (": a:2", "':'")] {
            let (text, status) = tells(line);
            assert!(status == 1 && text.contains("cannot listen") && text.contains(token), "{line}: {text}");
        }
        for local in ["127.0.0.1:1", "[::1]:1", "localhost:0", ":0", ":postgresql", "[fe80::1%eth0]:80"] {
            runs(&format!("{local} a:2"));
        }
    }

    #[test]
    fn a_backend_that_is_no_address_is_kept_as_it_was_typed() {
        let line = ":1 nowhere a:0 :5432 [::1]:9 host:99999 /run/x.sock : :0";
        let (config, _) = runs(line);
        let shown: Vec<String> = config.services[0].backends().map(|backend| backend.endpoint.to_string()).collect();
        assert_eq!(shown.join(" "), line.strip_prefix(":1 ").unwrap());
        let malformed = |backend: &&Backend| matches!(backend.endpoint, Endpoint::Malformed(_));
        assert_eq!(config.services[0].backends().filter(malformed).count(), 5);
        assert_eq!(config.services[0].backends().nth(2).unwrap().endpoint, Endpoint::tcp("", 5432));
    }

    #[test]
    fn a_flag_behind_the_addresses_is_a_backend_but_not_without_a_warning() {
        let (config, warnings) = runs(":1 a:2 -debug");
        assert_eq!(config.services[0].backends().count(), 2);
        assert!(warnings.len() == 1 && warnings[0].contains("'-debug'"), "{warnings:?}");
    }
}
