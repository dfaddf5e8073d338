//! The command line of fproxy V0.41: `cbpx fproxy`, or a link of that name. `options` parses the options, `address` the
//! addresses. Where the original leaves behaviour open, this module decides, and the help says so.

mod address;
pub mod log_format;
mod options;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use self::options::{FAILED_FOR, FproxyOptionError, FproxyOptions, MOST_FIRST_BYTES, Strategy};
use super::{BALANCER_SETTINGS, NO_CONTROL, Parsed, Usage};
use crate::config::{
    AS_LONG_AS_IT_TAKES, Backend, Config, Failover, FailurePolicy, Group, Log, LogStyle, LogTarget, Network, OnHangup,
    OnInterrupt, OnUnresolved, Policy, Process, RetryPolicy, Service, Settings, Statuses, Upstream, Weights, WhenFull,
};
use crate::endpoint::Endpoint;
use crate::settings;

const NAME: &str = "fproxy";
const ACCESS_LOG: &str = "/var/log/fproxy.log";
const ERROR_LOG: &str = "/var/log/fproxy.err";
const PID_FILE: &str = "/var/run/fproxy.pid";

/// Parses the arguments, which begin with the program's name.
///
/// # Errors
/// Explains what is wrong with them.
pub fn parse(arguments: &[OsString]) -> Result<Parsed, Usage> {
    match options::read(arguments.get(1..).unwrap_or_default()) {
        Ok(options) => {
            let config = Box::new(config(&options).map_err(|words| usage(&words))?);
            Ok(Parsed::Serve { config, warnings: warnings(&options) })
        }
        Err(FproxyOptionError::Help) => Ok(Parsed::Print(help())),
        Err(FproxyOptionError::Version) => {
            let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
            Ok(Parsed::Print(format!("{NAME} V0.41 as {name} {version}\n")))
        }
        Err(FproxyOptionError::Wrong(words)) => Err(usage(&words)),
    }
}

fn usage(words: &str) -> Usage {
    Usage::new(format!("{NAME}: {words}"))
}

fn help() -> String {
    format!(
        "\
Spreads TCP connections over servers by their load so far: the command line of
fproxy V0.41 on the engine of cbpx.

usage: fproxy [-oFILE] [-eFILE] [-pFILE] [-f] [-yN] [-tSEC] [-gSEC] [-s0...-s4]
              [--access_log FILE] [--share] [--thread_pairs N]
              CLUSTER[:PORT]... -- BACKEND[:PORT]...
       fproxy -h

  CLUSTER    where to listen: an IPv4 or IPv6 address, a name, or the path of a
             Unix socket (with a '/' in it)
  BACKEND    a server, in the same notation; kinds may be mixed. The default
             port is {port}; IPv6 with a port: [ADDR]:PORT

  -oFILE     access log: one line per closed client
             (default {ACCESS_LOG})
  -eFILE     error log (default {ERROR_LOG})
  -pFILE     pid file (default {PID_FILE})
  -f, -d     stay in the foreground: no access log, error log or pid file;
             errors go to standard error
  -yN        connect to a server once the client has sent N bytes, at most
             {MOST_FIRST_BYTES} (default 0: at once)
  -tSEC      close a connection after SEC seconds without a byte in either
             direction (default 0: never)
  -gSEC      after a failed connect, use a server again after SEC seconds
             (default {FAILED_FOR})
  -s0        choose servers in turn (round robin)
  -s1        choose the server with the fewest connections so far
  -s2        choose the server with the fewest bytes in and out so far
  -s3        choose the server with the least connection time so far
  -s4        all three in equal parts (the default)
  --access_log FILE
             access log in the foreground, too; in the background it goes before
             -o
  --share    other instances with --share may listen on the same addresses: a
             restart without a gap. Not Unix sockets
  --thread_pairs N
             at most N clients at once have a pair of threads of their own; the
             others share threads (default {pairs})
  -h, --help, --version

If an option is repeated, the last one counts.
A server that refuses, or does not answer within {connect} seconds, has failed.
The client gets another server and only sees a delay. When all have failed they
are still tried, and the client is closed if none accepts it. A server that
returns starts with the least load of the others. A peer that has ended its
sending can still receive.
SIGHUP reopens both logs. After SIGTERM, SIGQUIT or SIGINT it accepts no more
clients and exits when all connections have ended, without a time limit; a
second signal resets them.
Errors at the start are reported before it leaves the terminal.
Exit status: 0 started, or ended when told to; 1 could not start or go on; 2
usage.
",
        port = address::PORT,
        connect = CONNECT_TIMEOUT.as_secs(),
        pairs = settings::THREAD_PAIRS,
    )
}

/// Warns about files that are named but not written.
fn warnings(options: &FproxyOptions) -> Vec<String> {
    let given = [("-o", &options.access_log), ("-e", &options.error_log), ("-p", &options.pid_file)]
        .into_iter()
        .filter_map(|(letter, path)| {
            path.as_ref().map(|path| format!("{letter}{} is not written in the foreground", path.display()))
        });
    given.filter(|_| options.foreground).collect()
}

/// The system's maximum: listen(2) caps larger values.
const BACKLOG: i32 = i32::MAX;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients that wait for an unresponsive server must not delay the others.
const MAX_DIALS: usize = 4096;
/// Frees the connection of a peer that has vanished.
const KEEPALIVE: Duration = Duration::from_secs(60);

fn config(options: &FproxyOptions) -> Result<Config, String> {
    let listeners = addresses(&options.clusters)?;
    let upstream = Upstream { groups: vec![group(options, addresses(&options.backends)?)] };
    let idle = Duration::from_secs(options.idle);
    let kept = |path: &Option<PathBuf>, usual: &str| path.clone().unwrap_or_else(|| PathBuf::from(usual));
    let background = !options.foreground;
    Ok(Config {
        services: vec![Service {
            name: NAME.to_owned(),
            listeners,
            network: Network {
                backlog: BACKLOG,
                accept_threads: 1,
                share_port: options.share,
                bind_retry: None,
                first_bytes: options.first_bytes,
                source: None,
                connect_timeout: CONNECT_TIMEOUT,
                unresolved: OnUnresolved::Error,
                keepalive: Some(KEEPALIVE),
                idle_timeout: (!idle.is_zero()).then_some(idle),
                show_bytes: false,
            },
            upstreams: vec![upstream],
            settings: Settings { thread_pairs: options.thread_pairs, ..BALANCER_SETTINGS },
            script: None,
            when_full: WhenFull::Wait,
            retry: RetryPolicy { most: 1, pause: Duration::ZERO },
            seed: 0,
            max_dials: MAX_DIALS,
            grace: AS_LONG_AS_IT_TAKES,
        }],
        control: NO_CONTROL,
        log: Log {
            target: if background {
                LogTarget::File(kept(&options.error_log, ERROR_LOG))
            } else {
                LogTarget::StandardError
            },
            level: if background { log::LevelFilter::Info } else { log::LevelFilter::Warn },
            style: LogStyle::Web,
            mode: 0o666,
        },
        access_log: options
            .lasting_access_log
            .clone()
            .or_else(|| background.then(|| kept(&options.access_log, ACCESS_LOG))),
        process: Process {
            name: NAME.to_owned(),
            background,
            pid_file: background.then(|| kept(&options.pid_file, PID_FILE)),
            cpu_profile: None,
            on_hangup: OnHangup::Reopen,
            on_interrupt: OnInterrupt::Stop,
            tally: None,
            statuses: Statuses { resolve: 1, listen: 1, other: 1 },
        },
    })
}

fn addresses(words: &[String]) -> Result<Vec<Endpoint>, String> {
    words.iter().map(|word| address::read(word)).collect()
}

fn group(options: &FproxyOptions, endpoints: Vec<Endpoint>) -> Group {
    let least = |connections, bytes, time| Policy::Least(Weights { connections, bytes, time });
    let policy = match options.strategy {
        Strategy::RoundRobin => Policy::RoundRobin,
        Strategy::Connections => least(1, 0, 0),
        Strategy::Bytes => least(0, 1, 0),
        Strategy::Time => least(0, 0, 1),
        Strategy::Mix => least(1, 1, 1),
    };
    let failure_policy = match options.failed_for {
        0 => FailurePolicy::Ignore,
        seconds => FailurePolicy::AvoidFor(Duration::from_secs(seconds)),
    };
    let backend = |endpoint| Backend { endpoint, limit: None, enabled: true };
    Group {
        policy,
        failover: Failover::WithinGroup,
        failure_policy,
        backends: endpoints.into_iter().map(backend).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Parsed, Usage> {
        parse(&["fproxy"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect::<Vec<_>>())
    }

    fn served(line: &str) -> (Config, Vec<String>) {
        match typed(line) {
            Ok(Parsed::Serve { config, warnings }) => (*config, warnings),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn told(line: &str) -> String {
        match typed(line) {
            Ok(Parsed::Print(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn by_default_it_leaves_the_terminal_and_keeps_its_files_where_they_always_were() {
        let (config, warnings) = served("127.0.0.1 -- 10.0.0.1");
        assert!(warnings.is_empty());
        assert!(config.process.background);
        assert_eq!(config.access_log, Some("/var/log/fproxy.log".into()));
        assert_eq!(config.process.pid_file, Some("/var/run/fproxy.pid".into()));
        assert!(matches!(config.log.target, LogTarget::File(path) if path.as_os_str() == "/var/log/fproxy.err"));
        assert_eq!((config.log.level, config.log.style), (log::LevelFilter::Info, LogStyle::Web));
        let [service] = &config.services[..] else { panic!() };
        assert_eq!(service.listeners, [Endpoint::tcp("127.0.0.1", 80)]);
        assert_eq!(service.upstreams[0].to_string(), "10.0.0.1:80");
        let network = &service.network;
        assert_eq!((network.first_bytes, network.idle_timeout, network.share_port), (0, None, false));
        assert_eq!(service.grace, AS_LONG_AS_IT_TAKES);
        let group = &service.upstreams[0].groups[0];
        assert_eq!(group.failure_policy, FailurePolicy::AvoidFor(Duration::from_secs(60)));
        assert_eq!(group.policy, Policy::Least(Weights { connections: 1, bytes: 1, time: 1 }));
        assert_eq!((config.process.on_hangup, config.process.on_interrupt), (OnHangup::Reopen, OnInterrupt::Stop));
        assert!(config.control.listeners.is_empty() && !config.control.console);
    }

    #[test]
    fn each_option_has_its_place() {
        let (config, _) =
            served("-oa.log -ee.log -pp.pid -y6 -t30 -g5 --share /run/c [::1]:81 -- ::1 /run/b 10.0.0.1:82");
        assert_eq!(config.access_log, Some("a.log".into()));
        assert_eq!(config.process.pid_file, Some("p.pid".into()));
        assert!(matches!(config.log.target, LogTarget::File(path) if path.as_os_str() == "e.log"));
        let service = &config.services[0];
        let network = &service.network;
        assert_eq!((network.first_bytes, network.share_port), (6, true));
        assert_eq!(network.idle_timeout, Some(Duration::from_secs(30)));
        assert_eq!(service.listeners, [Endpoint::Unix("/run/c".into()), Endpoint::tcp("::1", 81)]);
        assert_eq!(service.upstreams[0].to_string(), "[::1]:80,/run/b,10.0.0.1:82");
        assert_eq!(service.upstreams[0].groups[0].failure_policy, FailurePolicy::AvoidFor(Duration::from_secs(5)));
    }

    #[test]
    fn each_strategy_is_a_policy() {
        let policy = |line: &str| served(line).0.services[0].upstreams[0].groups[0].policy;
        let least = |connections, bytes, time| Policy::Least(Weights { connections, bytes, time });
        let expected = [Policy::RoundRobin, least(1, 0, 0), least(0, 1, 0), least(0, 0, 1), least(1, 1, 1)];
        for (number, expected) in expected.into_iter().enumerate() {
            assert_eq!(policy(&format!("-s{number} ::1 -- ::1")), expected);
        }
    }

    #[test]
    fn failed_for_no_time_is_not_failed() {
        assert_eq!(served("-g0 ::1 -- ::1").0.services[0].upstreams[0].groups[0].failure_policy, FailurePolicy::Ignore);
    }

    #[test]
    fn in_the_foreground_no_file_is_written_unless_asked_for_by_its_long_name() {
        for flag in ["-f", "-d"] {
            let (config, warnings) = served(&format!("{flag} ::1 -- ::1"));
            assert!(!config.process.background && warnings.is_empty());
            assert_eq!((config.access_log, config.process.pid_file), (None, None));
            assert!(matches!(config.log.target, LogTarget::StandardError));
            assert_eq!(config.log.level, log::LevelFilter::Warn);
        }
        let (config, warnings) = served("-f -oa -ee -pp --access_log b ::1 -- ::1");
        assert_eq!((config.access_log, config.process.pid_file), (Some("b".into()), None));
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].starts_with("-oa is not written"), "{warnings:?}");
        assert_eq!(served("-oa --access_log b ::1 -- ::1").0.access_log, Some("b".into()));
    }

    #[test]
    fn the_help_names_every_option_and_what_was_undecided() {
        for line in ["-h", "--help"] {
            let help = told(line);
            for token in [
                "-oFILE",
                "-eFILE",
                "-pFILE",
                "-f, -d",
                "-yN",
                "-tSEC",
                "-gSEC",
                "-s0",
                "-s1",
                "-s2",
                "-s3",
                "-s4",
                "--access_log FILE",
                "--share",
                "--thread_pairs N",
                "SIGHUP",
                "SIGTERM",
                "SIGQUIT",
                "Exit status",
                "[ADDR]:PORT",
                "/var/log/fproxy.log",
                "/var/log/fproxy.err",
                "/var/run/fproxy.pid",
                "(default 60)",
                "the client is closed",
            ] {
                assert!(help.contains(token), "no {token} in:\n{help}");
            }
        }
        assert!(told("--version").starts_with("fproxy V0.41 as cbpx "));
    }

    #[test]
    fn a_mistake_is_one_line_that_begins_with_the_name() {
        for (line, token) in [("-y6", "'--'"), ("a:b:c -- d", "'a:b:c'"), ("a -- d:x", "'d:x'")] {
            let Err(Usage { words, status: 2 }) = typed(line) else { panic!("{line}") };
            assert!(words.starts_with("fproxy: ") && words.contains(token) && !words.contains('\n'), "{words}");
        }
    }

    #[test]
    fn what_the_readme_shows_is_understood() {
        let readme = include_str!("../../../README.md");
        let shown = readme.lines().filter_map(|line| line.strip_prefix("    fproxy "));
        let shown: Vec<&str> = shown.map(|line| line.split(" #").next().unwrap_or(line)).collect();
        assert!(shown.len() >= 5, "{shown:?}");
        for line in shown {
            let (config, warnings) = served(line);
            assert!(warnings.is_empty() && config.services[0].backends().count() >= 2, "{line}");
        }
    }
}
