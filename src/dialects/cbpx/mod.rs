//! The cbpx command line.

pub mod log_format;
mod upstream;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::{Parsed, Usage, refused};
use crate::config::{
    Commands, Config, Control, Log, LogStyle, LogTarget, Network, OnHangup, OnInterrupt, OnUnresolved, Process,
    RetryPolicy, Service, Setting, Settings, Statuses, Upstream, WhenFull,
};
use crate::endpoint::{Endpoint, bare_host};
use crate::settings::{self, SettingRow};

/// The arguments as typed. They are all checked later, so that one run reports every mistake.
#[derive(Debug, Parser)]
#[command(
    name = "cbpx",
    version,
    rename_all = "snake_case",
    infer_long_args = true,
    disable_help_subcommand = true,
    args_override_self = true,
    term_width = super::COLUMNS,
    override_usage = "cbpx -p PORT -a HOST:PORT -s HOST:PORT -t SEC -c N -o N [OPTIONS]",
    about = "A TCP proxy that moves all of its clients to another server without one of them noticing",
    after_help = super::other_uses()
)]
struct CbpxArguments {
    /// Port to listen on
    #[arg(short, long, value_name = "PORT", allow_negative_numbers = true)]
    port: Option<String>,
    /// Server that clients use at first. Several share the clients: A,B. Servers after a `!` are used only if all
    /// before it are down: A,B!C
    #[arg(short, long, value_name = "HOST:PORT")]
    active: Option<String>,
    /// Server that `switch` moves the clients to; several as for -a
    #[arg(short, long, value_name = "HOST:PORT")]
    standby: Option<String>,
    /// Longest duration of a switch, including its script, in seconds
    #[arg(short = 't', long, value_name = "SEC", allow_negative_numbers = true)]
    switch_max_time: Option<String>,
    /// A switch fails when a client arrives while N are held
    #[arg(short = 'c', long, value_name = "N", allow_negative_numbers = true)]
    max_queued_conns: Option<String>,
    /// Maximum number of clients connected at once; others wait; 0: no limit
    #[arg(short = 'o', long, value_name = "N", allow_negative_numbers = true)]
    max_open_conns: Option<String>,
    /// Port for remote control; without it, commands are read from the terminal
    #[arg(aliases = ["rc", "rc_"], short, long, value_name = "PORT", allow_negative_numbers = true)]
    rc_port: Option<String>,
    /// Length of the listen queue [default: 4096]
    #[arg(short = 'b', long, value_name = "N", allow_negative_numbers = true)]
    listen_backlog: Option<String>,
    /// Initial size of a relay buffer, in bytes [default: 2048]
    #[arg(short, long, value_name = "BYTES", allow_negative_numbers = true)]
    net_buffer_size: Option<String>,
    /// At most so many clients at once have a pair of threads of their own; the others share threads [default: 256]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    thread_pairs: Option<String>,
    /// Interval of the progress rows of `switch`, in seconds [default: 0.1]
    #[arg(short = 'w', long, value_name = "SEC", allow_negative_numbers = true)]
    switch_loop_wait: Option<String>,
    /// Log file, opened for appending; SIGHUP reopens it [default: cbpx.log]
    #[arg(short = 'f', long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// DEBUG, INFO, WARNING or ERROR [default: INFO]
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Program that a switch runs after the last client has left; the switch succeeds if it exits with 0. It gets the
    /// first server of each list
    #[arg(short = 'x', long, value_name = "SCRIPT")]
    switch_script: Option<PathBuf>,
    /// Address to listen on; `::` takes IPv4 and IPv6 [default: 0.0.0.0]
    #[arg(long, value_name = "ADDR")]
    bind: Option<String>,
    /// Address for remote control [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    rc_bind: Option<String>,
    /// Unix socket for remote control, mode 0600
    #[arg(long, value_name = "PATH")]
    rc_socket: Option<PathBuf>,
    /// Longest time for connecting to a server, in seconds [default: 5]
    #[arg(long, value_name = "SEC", allow_negative_numbers = true)]
    connect_timeout: Option<String>,
    /// Time for clients to finish after SIGTERM, in seconds [default: 6]
    #[arg(long, value_name = "SEC", allow_negative_numbers = true)]
    grace: Option<String>,
    /// Probe a connection after SEC seconds of silence, to detect peers that have vanished; 0: never [default: 60]
    #[arg(long, value_name = "SEC", allow_negative_numbers = true)]
    keepalive: Option<String>,
    /// Threads that accept clients [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    listeners: Option<String>,
    /// Write one line per closed client, in the format of web servers; SIGHUP reopens the file
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// The original ignored surplus words silently; cbpx warns about them
    #[arg(hide = true)]
    surplus: Vec<String>,
}

/// Maximum number of dials in progress: enough to fill a link, and a bound on what an unresponsive server ties up. It
/// does not protect a short accept queue, because a connected client need not have been accepted.
const MAX_DIALS: usize = 64;

pub fn parse(arguments: &[OsString]) -> Result<Parsed, Usage> {
    let typed = match CbpxArguments::try_parse_from(arguments) {
        Ok(typed) => typed,
        Err(e) => return refused(&e, &CbpxArguments::command()),
    };
    let config = Box::new(typed.config()?);
    let surplus = typed.surplus.iter().map(|word| format!("'{word}' is ignored: it belongs to no option"));
    let warnings = surplus.chain(shared(&config.services[0].upstreams)).collect();
    Ok(Parsed::Serve { config, warnings })
}

/// Describes a value in messages.
struct Measure<'a> {
    kind: &'a str,
    /// Text after the range, with a space before it.
    unit: &'a str,
    /// A further accepted value. Text after the unit.
    also: &'a str,
}

/// Collects mistakes while values are parsed.
#[derive(Default)]
struct Mistakes {
    missing: Vec<&'static str>,
    wrong: Vec<String>,
}

impl Mistakes {
    /// Records a mistake if a required flag is missing.
    fn required<'a>(&mut self, value: Option<&'a str>, flag: &'static str) -> Option<&'a str> {
        if value.is_none() {
            self.missing.push(flag);
        }
        value
    }

    fn note<T>(&mut self, flag: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|words| self.wrong.push(format!("{flag}: {words}"))).ok()
    }

    fn upstream(&mut self, flag: &'static str, text: Option<&str>) -> Option<Upstream> {
        let text = self.required(text, flag)?;
        self.note(flag, upstream::parse(text))
    }

    fn seconds(&mut self, flag: &str, text: &str, range: [f64; 2]) -> Option<f64> {
        self.within(flag, text, &Measure { kind: "a number of seconds", unit: " seconds", also: "" }, range)
    }

    fn port(&mut self, flag: &str, text: &str, also: &str) -> Option<i64> {
        self.within(flag, text, &Measure { kind: "a port number", unit: "", also }, [1, 65_535])
    }

    /// A whole number of `things` (a plural).
    fn count(&mut self, flag: &str, text: &str, things: &str, range: [i64; 2]) -> Option<i64> {
        let (kind, unit) = (format!("a whole number of {things}"), format!(" {things}"));
        self.within(flag, text, &Measure { kind: &kind, unit: &unit, also: "" }, range)
    }

    /// A value of this kind within the range, both bounds included.
    fn within<T>(&mut self, flag: &str, text: &str, measure: &Measure<'_>, [low, high]: [T; 2]) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Measure { kind, unit, also } = measure;
        let value = text.parse::<T>().map_err(|_| format!("'{text}' is not {kind} (expected {low} to {high}{also})"));
        let within = value.and_then(|value| {
            let fits = (&low..=&high).contains(&&value);
            if fits { Ok(value) } else { Err(format!("must be between {low} and {high}{unit}{also} (given: {text})")) }
        });
        self.note(flag, within)
    }

    fn setting(&mut self, flag: &str, row: Option<&'static SettingRow>, text: &str) -> Option<Setting> {
        let row = row?;
        self.note(flag, row.parse_at_start(text).map_err(|refusal| refusal.at_start(text)))
    }

    fn into_usage(self) -> Usage {
        let mut lines = self.wrong;
        if !self.missing.is_empty() {
            lines.push(format!("missing: {}", self.missing.join(", ")));
        }
        lines.push("try 'cbpx --help'".to_owned());
        Usage::new(format!("cbpx: {}", lines.join("\ncbpx: ")))
    }
}

/// The longest keepalive time that tcp(7) accepts, in seconds.
const MAX_KEEPALIVE: i64 = 32_767;
/// One thread accepts tens of thousands of clients per second, so more are never needed.
const MAX_LISTENERS: i64 = 64;

impl CbpxArguments {
    fn config(&self) -> Result<Config, Usage> {
        let mut mistakes = Mistakes::default();
        // As in the original, port 0 counts as missing.
        let port = self.port.as_deref().filter(|port| port.parse() != Ok(0));
        let port = mistakes.required(port, "-p/--port").map(str::to_owned);
        let port = port.and_then(|port| mistakes.port("-p/--port", &port, ""));
        let active = mistakes.upstream("-a/--active", self.active.as_deref());
        let standby = mistakes.upstream("-s/--standby", self.standby.as_deref());
        if let (Some(active), Some(standby)) = (&active, &standby)
            && active.is_same_as(standby)
        {
            let words = format!("{standby} is also the active server (-a/--active): a switch would move no client");
            mistakes.note("-s/--standby", Err::<(), _>(words));
        }
        let settings = self.settings(&mut mistakes);
        let network = self.network(&mut mistakes);
        let level = mistakes.note("-l/--log_level", log_level(self.log_level.as_deref().unwrap_or("INFO")));
        let grace = mistakes.seconds("--grace", self.grace.as_deref().unwrap_or("6"), [0.0, 86_400.0]);
        let control = self.control(&mut mistakes);
        let bind = self.bind.as_deref().unwrap_or("0.0.0.0");
        let listener = port.and_then(|port| mistakes.note("--bind", host(bind, port)));
        match (listener, active, standby, settings, network, level, grace, control) {
            (
                Some(listener),
                Some(active),
                Some(standby),
                Some(settings),
                Some(network),
                Some(level),
                Some(grace),
                Some(control),
            ) if mistakes.wrong.is_empty() && mistakes.missing.is_empty() => Ok(Config {
                services: vec![Service {
                    name: "cbpx".to_owned(),
                    listeners: vec![listener],
                    network,
                    upstreams: vec![active, standby],
                    settings,
                    script: self.switch_script.clone().filter(|path| !path.as_os_str().is_empty()),
                    max_dials: MAX_DIALS,
                    when_full: WhenFull::Wait,
                    retry: RetryPolicy { most: 1, pause: Duration::ZERO },
                    seed: 0,
                    grace: Duration::from_secs_f64(grace),
                }],
                control,
                log: Log {
                    target: LogTarget::File(self.log_file.clone().unwrap_or_else(|| PathBuf::from("cbpx.log"))),
                    level,
                    style: LogStyle::Origin,
                    mode: 0o666,
                },
                access_log: self.access_log.clone(),
                process: Process {
                    name: "cbpx".to_owned(),
                    background: false,
                    pid_file: None,
                    cpu_profile: None,
                    on_hangup: OnHangup::Reopen,
                    on_interrupt: OnInterrupt::Ask,
                    tally: None,
                    statuses: Statuses { resolve: 1, listen: 1, other: 1 },
                },
            }),
            _ => Err(mistakes.into_usage()),
        }
    }

    /// How the service listens and connects. Mistakes are collected.
    fn network(&self, mistakes: &mut Mistakes) -> Option<Network> {
        let backlog = self.listen_backlog.as_deref().unwrap_or("4096");
        let backlog = mistakes.count("-b/--listen_backlog", backlog, "connections", [1, 65_535]);
        let threads = self.listeners.as_deref().unwrap_or("1");
        let threads = mistakes.count("--listeners", threads, "threads", [1, MAX_LISTENERS]);
        let keepalive = self.keepalive.as_deref().unwrap_or("60");
        let keepalive = mistakes.count("--keepalive", keepalive, "seconds", [0, MAX_KEEPALIVE]);
        let timeout = self.connect_timeout.as_deref().unwrap_or("5");
        let timeout = mistakes.seconds("--connect_timeout", timeout, [0.01, 3600.0]);
        Some(Network {
            backlog: backlog? as i32,
            accept_threads: threads? as usize,
            share_port: false,
            bind_retry: None,
            first_bytes: 0,
            source: None,
            connect_timeout: Duration::from_secs_f64(timeout?),
            unresolved: OnUnresolved::Error,
            keepalive: keepalive.map(|seconds| (seconds > 0).then(|| Duration::from_secs(seconds as u64)))?,
            idle_timeout: None,
            show_bytes: false,
        })
    }

    /// The settings that may change at run time, parsed by the rows that `set` uses.
    fn settings(&self, mistakes: &mut Mistakes) -> Option<Settings> {
        let required = [
            ("-t/--switch_max_time", "switch_max_time", &self.switch_max_time),
            ("-c/--max_queued_conns", "max_queued_conns", &self.max_queued_conns),
            ("-o/--max_open_conns", "max_open_conns", &self.max_open_conns),
        ];
        let optional = [
            ("-w/--switch_loop_wait", "switch_loop_wait", &self.switch_loop_wait),
            ("-n/--net_buffer_size", "net_buffer_size", &self.net_buffer_size),
            ("--thread_pairs", "thread_pairs", &self.thread_pairs),
        ];
        let mut settings = DEFAULTS;
        let mut complete = true;
        for (flag, name, text) in required {
            let text = mistakes.required(text.as_deref(), flag);
            let setting = text.and_then(|text| mistakes.setting(flag, settings::find(name), text));
            complete &= setting.map(|setting| settings.apply(setting)).is_some();
        }
        for (flag, name, text) in optional {
            if let Some(text) = text {
                let setting = mistakes.setting(flag, settings::find(name), text);
                complete &= setting.map(|setting| settings.apply(setting)).is_some();
            }
        }
        complete.then_some(settings)
    }

    fn control(&self, mistakes: &mut Mistakes) -> Option<Control> {
        let mut listeners = Vec::new();
        // As in the original, any value below 1 means no remote control.
        let port = match self.rc_port.as_deref().map(|text| (text, text.parse::<i64>())) {
            None | Some((_, Ok(i64::MIN..=0))) => 0,
            Some((text, Ok(_) | Err(_))) => mistakes.port("-r/--rc_port", text, ", or 0 for the console")?,
        };
        if port > 0 {
            let address = self.rc_bind.as_deref().unwrap_or("127.0.0.1");
            listeners.push(mistakes.note("--rc_bind", host(address, port))?);
        }
        listeners.extend(self.rc_socket.clone().map(Endpoint::Unix));
        Some(Control { listeners, console: port == 0, words: Commands::Switchover, directory: None })
    }
}

/// Warns about servers in both lists. This is allowed, because a list may be replaced server by server; but a switch
/// does not empty such a server.
fn shared(upstreams: &[Upstream]) -> Option<String> {
    let [active, standby] = upstreams else { return None };
    let shared: Vec<_> = active.shared_with(standby).map(ToString::to_string).collect();
    let words = "is in -a and in -s: clients may be sent there before a switch and after it";
    (!shared.is_empty()).then(|| format!("{} {words}", shared.join(", ")))
}

/// Defaults of the optional settings; the required ones are overwritten.
const DEFAULTS: Settings = Settings {
    switch_max_time: Duration::ZERO,
    max_queued: 0,
    max_open: None,
    switch_loop_wait: Duration::from_millis(100),
    net_buffer_size: 2048,
    thread_pairs: settings::THREAD_PAIRS,
};

/// An address or a name to listen on. IPv6 may be in brackets.
fn host(address: &str, port: i64) -> Result<Endpoint, String> {
    let host = bare_host(address).ok_or_else(|| format!("'{address}' is not an address"))?;
    let port = u16::try_from(port).map_err(|_| format!("{port} is not a port"))?;
    Ok(Endpoint::tcp(host, port))
}

fn log_level(text: &str) -> Result<log::LevelFilter, String> {
    match text {
        "DEBUG" => Ok(log::LevelFilter::Debug),
        "INFO" => Ok(log::LevelFilter::Info),
        "WARNING" => Ok(log::LevelFilter::Warn),
        "ERROR" => Ok(log::LevelFilter::Error),
        _ => Err(format!("'{text}' is not one of DEBUG, INFO, WARNING, ERROR")),
    }
}
