//! The command line of balance 3.54: `cbpx balance`, or a link of that name. `channels` parses the destinations,
//! `options` the options; `client` implements `-i` and `-c`, which talk to a running instance.

mod channels;
mod client;
pub mod control;
pub mod log_format;
mod options;
mod reports;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use self::channels::{ChannelDefaults, ChannelError};
use self::client::{InstanceCommand, InstanceSocket};
pub use self::client::{InstanceError, InstanceRequest};
use self::options::{BalanceOptionError, BalanceOptions};
use super::{BALANCER_SETTINGS, Parsed, Usage};
use crate::config::{
    AS_LONG_AS_IT_TAKES, Commands, Config, Control, Failover, FailurePolicy, Log, LogStyle, LogTarget, Network,
    OnHangup, OnInterrupt, OnUnresolved, Process, RetryPolicy, Service, Settings, Statuses, WhenFull,
};
use crate::endpoint::Endpoint;

/// Exit statuses, from sysexits.h.
const USAGE: u8 = 64;
const BAD_ADDRESS: u8 = 65;
const UNAVAILABLE: u8 = 69;
const SYSTEM: u8 = 71;

/// Directory of the control sockets, unless the environment overrides it.
const DIRECTORY: &str = "/var/run/balance";
const DIRECTORY_VARIABLE: &str = "BALANCE_RUNDIR";

const SYNOPSIS: &str = "\
usage: balance [-b ADDR] [-B ADDR] [-t SEC] [-T SEC] [-adfpHM6]
               [--thread_pairs N]
               PORT [HOST[:PORT[:MAXC]]] [!|%] ...
       balance [-b ADDR] -i [-d] [-M] PORT
       balance [-b ADDR] -c COMMAND [-d] [-M] PORT";

const HELP: &str = "\
Spreads TCP connections over servers: the command line of balance 3.54 on the
engine of cbpx.

  PORT       port to listen on, or the name of a service
  HOST[:PORT[:MAXC]]
             a server with at most MAXC connections; PORT is by default the port
             listened on, MAXC unlimited (0); IPv6 in brackets: [::1]:80
  !          the servers before it take turns; those after it are used only if
             none before it is available
  %          the same, but the client's address selects the server

  -a         disable a server that cannot be connected to, until an operator
             enables it
  -b ADDR    listen on ADDR (default 0.0.0.0); repeat it with -i and -c
  -B ADDR    connect to servers from ADDR
  -c COMMAND send one command to the running instance
  -d         log on standard error which server is tried, and the result
  -f         stay in the foreground
  -H         a % group tries its other servers before the next group
  -i         send commands to the running instance, one after the other; `help`
             lists them
  -M         accepted and ignored: it selected where the state was kept
  -p         show all transferred bytes on standard output (with -f)
  -t SEC     give up connecting to a server after SEC seconds (default 5)
  -T SEC     close a connection after SEC seconds without a byte in either
             direction (default: never)
  -6         listen on ::, for IPv6 and IPv4
  --thread_pairs N
             at most N clients at once have a pair of threads of their own; the
             others share threads (default 256)

If an option is repeated, the last one counts.
Limits: 16 groups, 63 servers and separators on the command line, 64 servers in
a group.
After SIGTERM, SIGINT or SIGHUP it accepts no more clients and exits when all
connections have ended; a second signal resets them.
-i and -c use the Unix socket balance.PORT.ADDR.sock in /var/run/balance, or in
$BALANCE_RUNDIR.
Exit status: 0 started, or the command was carried out; 64 usage; 65 a server
has no address; 69 an empty group, too many groups, or no running instance; 71
the address cannot be listened on, or the system refused something else.
";

/// Parses the arguments, which begin with the program's name.
///
/// # Errors
/// Explains what is wrong with them.
pub fn parse(arguments: &[OsString]) -> Result<Parsed, Usage> {
    let options = match options::read(arguments.get(1..).unwrap_or_default()) {
        Ok(options) => options,
        Err(BalanceOptionError::Help) => return Ok(Parsed::Print(format!("{SYNOPSIS}\n\n{HELP}"))),
        Err(BalanceOptionError::Version) => {
            let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
            return Ok(Parsed::Print(format!("balance 3.54 as {name} {version}\n")));
        }
        Err(BalanceOptionError::Wrong(words)) => return Err(usage(&words)),
    };
    let Some((port, destinations)) = options.words.split_first() else {
        return Err(usage("PORT is missing"));
    };
    let Some(port) = channels::port(port) else {
        return Err(refusal(
            USAGE,
            &format!("invalid port '{port}': neither a port number (1 to 65535) nor the name of a service"),
        ));
    };
    let directory = env::var_os(DIRECTORY_VARIABLE).filter(|path| !path.is_empty());
    let directory = directory.map_or_else(|| PathBuf::from(DIRECTORY), PathBuf::from);
    let rendezvous = InstanceSocket { directory, port, bind: options.bind.clone() };
    let wish = match (&options.command, options.shell) {
        (Some(command), _) if command.contains(['\n', '\r']) => {
            return Err(refusal(USAGE, "-c takes one command, on one line"));
        }
        (Some(command), _) => InstanceCommand::Command(command.clone()),
        (None, true) => InstanceCommand::Shell,
        (None, false) => {
            let (config, warnings) = serve(&options, port, destinations, &rendezvous)?;
            return Ok(Parsed::Serve { config: Box::new(config), warnings });
        }
    };
    Ok(Parsed::Instance(InstanceRequest { at: rendezvous, wish, trace: options.trace }))
}

fn usage(words: &str) -> Usage {
    Usage { words: format!("balance: {words}\n{SYNOPSIS}\ntry 'balance --help'"), status: USAGE }
}

fn refusal(status: u8, words: &str) -> Usage {
    Usage { words: format!("balance: {words}"), status }
}

fn unusable(why: &ChannelError) -> Usage {
    match why {
        ChannelError::TooMany(number) => {
            refusal(USAGE, &format!("too many destinations: at most 63, separators included (given: {number})"))
        }
        ChannelError::TooManyGroups(number) => {
            refusal(UNAVAILABLE, &format!("too many groups: at most {} (given: {number})", channels::GROUPS))
        }
        ChannelError::EmptyGroup(number) => refusal(UNAVAILABLE, &format!("group {number} is empty")),
        ChannelError::Address(word) => refusal(BAD_ADDRESS, &format!("unknown or invalid address [{word}]")),
        ChannelError::Limit(word, limit) => {
            let range = format!("between 0 (no limit) and {} connections", u32::MAX);
            refusal(USAGE, &format!("'{word}': MAXC must be {range} (given: {limit})"))
        }
    }
}

/// The system's maximum: listen(2) caps larger values.
const BACKLOG: i32 = i32::MAX;
const CONNECT_TIMEOUT: u32 = 5;
/// The original had one process per client, so no client waited for another's dial.
const MAX_DIALS: usize = 4096;
/// Frees a server's connection slot after its peer has vanished.
const KEEPALIVE: Duration = Duration::from_secs(60);

fn serve(
    options: &BalanceOptions,
    port: u16,
    destinations: &[String],
    rendezvous: &InstanceSocket,
) -> Result<(Config, Vec<String>), Usage> {
    let hash_failover = if options.hash_failover { Failover::WithinGroup } else { Failover::NextGroup };
    let failure_policy = if options.autodisable { FailurePolicy::Disable } else { FailurePolicy::Ignore };
    let common = ChannelDefaults { port, hash_failover, failure_policy };
    let (upstream, warnings) = channels::read(destinations, common).map_err(|why| unusable(&why))?;
    let anywhere = if options.dual_stack { "::" } else { "0.0.0.0" };
    let bind = options.bind.as_deref().unwrap_or(anywhere);
    let config = Config {
        services: vec![Service {
            name: "balance".to_owned(),
            listeners: vec![Endpoint::tcp(bind, port)],
            network: network(options)?,
            upstreams: vec![upstream],
            settings: Settings {
                thread_pairs: options.thread_pairs.unwrap_or(BALANCER_SETTINGS.thread_pairs),
                ..BALANCER_SETTINGS
            },
            script: None,
            when_full: WhenFull::Close,
            retry: RetryPolicy { most: 1, pause: Duration::ZERO },
            seed: 0,
            max_dials: MAX_DIALS,
            grace: AS_LONG_AS_IT_TAKES,
        }],
        control: Control {
            listeners: vec![Endpoint::Unix(rendezvous.socket())],
            console: false,
            words: Commands::Backends { hash_failover },
            directory: Some(rendezvous.directory.clone()),
        },
        log: Log {
            target: LogTarget::StandardError,
            level: if options.trace { log::LevelFilter::Debug } else { log::LevelFilter::Warn },
            mode: 0o666,
            style: LogStyle::Bare,
        },
        access_log: None,
        process: Process {
            name: "balance".to_owned(),
            background: !options.foreground,
            pid_file: None,
            cpu_profile: None,
            on_hangup: OnHangup::Stop,
            on_interrupt: OnInterrupt::Stop,
            tally: None,
            statuses: Statuses { resolve: BAD_ADDRESS, listen: SYSTEM, other: SYSTEM },
        },
    };
    Ok((config, warnings))
}

fn network(options: &BalanceOptions) -> Result<Network, Usage> {
    let source = match &options.source {
        None => None,
        Some(host) => {
            let unknown = |_| refusal(BAD_ADDRESS, &format!("-B: unknown or invalid address [{host}]"));
            Some(host.parse().map_err(unknown)?)
        }
    };
    let seconds = |number: u32| Duration::from_secs(u64::from(number));
    Ok(Network {
        backlog: BACKLOG,
        accept_threads: 1,
        share_port: false,
        bind_retry: None,
        first_bytes: 0,
        source,
        connect_timeout: seconds(options.connect_timeout.unwrap_or(CONNECT_TIMEOUT)),
        unresolved: OnUnresolved::Error,
        keepalive: Some(KEEPALIVE),
        idle_timeout: options.idle_timeout.map(seconds),
        show_bytes: options.show_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &[&str]) -> Result<Parsed, Usage> {
        let line: Vec<_> = std::iter::once(&"balance").chain(line).map(OsString::from).collect();
        parse(&line)
    }

    fn config(line: &[&str]) -> Config {
        match typed(line) {
            Ok(Parsed::Serve { config, .. }) => *config,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn refused(line: &[&str]) -> (u8, String) {
        let Usage { status, words } = typed(line).expect_err(&line.join(" "));
        (status, words)
    }

    fn request(line: &[&str]) -> InstanceRequest {
        match typed(line) {
            Ok(Parsed::Instance(request)) => request,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn listens_on(line: &[&str]) -> String {
        config(line).services[0].listeners[0].to_string()
    }

    #[test]
    fn without_options_it_listens_on_ipv4_waits_five_seconds_for_a_server_and_goes_to_the_background() {
        let config = config(&["8080", "localhost"]);
        let service = &config.services[0];
        assert_eq!(service.listeners, [Endpoint::tcp("0.0.0.0", 8080)]);
        assert_eq!(service.upstreams[0].backends().count(), 1);
        assert_eq!(service.network.connect_timeout, Duration::from_secs(5));
        assert_eq!((service.network.idle_timeout, service.network.source), (None, None));
        assert!(!service.network.show_bytes && config.process.background);
        assert_eq!(service.when_full, WhenFull::Close);
        assert_eq!(service.grace, AS_LONG_AS_IT_TAKES);
        assert_eq!(config.log.level, log::LevelFilter::Warn);
        assert_eq!(config.control.words, Commands::Backends { hash_failover: Failover::NextGroup });
    }

    #[test]
    fn each_option_reaches_the_configuration() {
        let all = config(&["-adfpH", "-B127.0.0.9", "-t1", "-T2", "-b", "127.0.0.1", "80", "a", "b", "%"]);
        let network = &all.services[0].network;
        assert_eq!(network.connect_timeout, Duration::from_secs(1));
        assert_eq!(network.idle_timeout, Some(Duration::from_secs(2)));
        assert_eq!(network.source, Some("127.0.0.9".parse().unwrap()));
        assert!(network.show_bytes && !all.process.background);
        assert_eq!(all.services[0].upstreams[0].groups[0].failure_policy, FailurePolicy::Disable);
        assert_eq!(all.services[0].upstreams[0].groups[0].failover, Failover::WithinGroup);
        assert_eq!(all.control.words, Commands::Backends { hash_failover: Failover::WithinGroup });
        assert_eq!(all.log.level, log::LevelFilter::Debug);
        assert_eq!(all.services[0].listeners, [Endpoint::tcp("127.0.0.1", 80)]);
    }

    #[test]
    fn it_listens_where_it_is_told() {
        assert_eq!(listens_on(&["-6", "80"]), "[::]:80");
        assert_eq!(listens_on(&["-6", "-b", "::1", "80"]), "[::1]:80");
        assert_eq!(listens_on(&["http"]), "0.0.0.0:80");
        assert_eq!(listens_on(&["99999"]), "0.0.0.0:34463", "modulo 65536");
    }

    #[test]
    fn a_port_alone_is_enough_and_leaves_every_group_empty() {
        let config = config(&["8080"]);
        assert_eq!(config.services[0].upstreams[0].groups.len(), channels::GROUPS);
        assert_eq!(config.services[0].backends().count(), 0);
    }

    #[test]
    fn control_finds_the_instance_by_port_and_address() {
        let named = |line: &[&str]| request(line).at.socket().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(named(&["-i", "http"]), "balance.80.0.0.0.0.sock");
        assert_eq!(named(&["-Mc", "show", "-b", "127.0.0.1", "80"]), "balance.80.127.0.0.1.sock");
        let socket = config(&["-b", "127.0.0.1", "80"]).control.listeners[0].to_string();
        assert!(socket.ends_with("/balance.80.127.0.0.1.sock"), "{socket}");
        assert_eq!(request(&["-i", "80"]).wish, InstanceCommand::Shell);
        assert_eq!(request(&["-d", "-c", "show", "80", "h"]).wish, InstanceCommand::Command("show".to_owned()));
        assert_eq!(refused(&["-c", "show\nkill", "80"]).0, USAGE);
    }

    #[test]
    fn mistakes_have_their_status_and_name_the_value() {
        let many = [&["80"][..], &["h"; 64]].concat();
        let groups = [&["80"][..], &["h", "!"].repeat(17)].concat();
        for (line, status, named) in [
            (&[][..], 64, "PORT is missing"),
            (&["-h"], 64, "usage: balance"),
            (&["-x", "80"], 64, "-x"),
            (&["-t", "0", "80"], 64, "given: 0"),
            (&["-i"], 64, "PORT"),
            (&["nosuchservice"], 64, "invalid port 'nosuchservice'"),
            (&["0"], 64, "invalid port '0'"),
            (&["65536"], 64, "invalid port '65536'"),
            (&many, 64, "too many destinations"),
            (&["80", "h:80:-1"], 64, "given: -1"),
            (&["80", ":81"], 65, "unknown or invalid address [:81]"),
            (&["-B", "nosuch.invalid", "80", "h"], 65, "[nosuch.invalid]"),
            (&["80", "!", "h"], 69, "group 0 is empty"),
            (&groups, 69, "too many groups"),
        ] {
            let (got, words) = refused(line);
            assert_eq!(got, status, "{line:?}: {words}");
            assert!(words.contains(named), "{line:?}: {words}");
            assert!(words.starts_with("balance: "), "{words}");
        }
    }

    #[test]
    fn the_help_names_every_option_and_the_variable() {
        let Ok(Parsed::Print(help)) = typed(&["--help"]) else { panic!("no help") };
        for option in "abBcdfHiMptT6".chars() {
            assert!(help.contains(&format!("\n  -{option} ")), "-{option}");
        }
        assert!(help.contains(DIRECTORY_VARIABLE) && help.contains(DIRECTORY));
    }
}
