//! Command lines, configuration files, logs and control commands of cbpx and of the programs it replaces: one folder
//! each. A dialect ends where `Config` begins; no module below knows which dialect was used.

pub mod balance;
pub mod cbpx;
mod fallback;
mod fproxy;
mod pumpkin;

use std::ffi::OsString;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{Commands, Config, Control, LogStyle, Settings};
use crate::control::session::CommandSet;
use crate::control::table::SwitchoverCommands;
use crate::observe::log_format::LogFormat;
use crate::settings;

/// What a dialect's command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Run a proxy. `warnings` are for standard error.
    Serve { config: Box<Config>, warnings: Vec<String> },
    /// Talk to a running instance of the balance dialect.
    Instance(balance::InstanceRequest),
    /// Help or version, for standard output.
    Print(String),
    /// Text for standard error, and an exit status other than that of a usage error.
    Tell { text: String, status: u8 },
}

/// Another program's command line: `cbpx NAME ...`, or a link to cbpx with one of the names in `links`.
pub(crate) struct Dialect {
    pub(crate) name: &'static str,
    pub(crate) links: &'static [&'static str],
    /// Description for the help.
    about: &'static str,
    /// Gets all its arguments, beginning with the name.
    pub(crate) parse: fn(&[OsString]) -> Result<Parsed, Usage>,
}

pub(crate) const DIALECTS: &[Dialect] = &[
    Dialect {
        name: "balance",
        links: &["balance"],
        about: "act as balance 3.54: round robin, hash, fallback groups",
        parse: balance::parse,
    },
    Dialect {
        name: "fallback",
        links: &["tcp_fallback"],
        about: "act as tcp_fallback: the first server of a list that works",
        parse: fallback::parse,
    },
    Dialect {
        name: "pumpkin",
        links: &["PumpkinLB.py", "pumpkinlb"],
        about: "act as PumpkinLB: round robin, from its configuration file",
        parse: pumpkin::parse,
    },
    Dialect {
        name: "fproxy",
        links: &["fproxy"],
        about: "act as fproxy V0.41: the server with the least load so far",
        parse: fproxy::parse,
    },
];

/// A command line that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Text for standard error.
    pub words: String,
    /// The exit status.
    pub status: u8,
}

impl Usage {
    /// Uses the usual exit status.
    pub fn new(words: String) -> Usage {
        Usage { words, status: 2 }
    }
}

/// Width of every help text, in columns: independent of the terminal, and that of the narrowest in use.
pub(crate) const COLUMNS: usize = 80;

/// Maps clap's other results: help and version go to standard output, all else is a usage error.
pub(crate) fn refused(error: &clap::Error, command: &clap::Command) -> Result<Parsed, Usage> {
    if let Some(words) = ambiguous(error, command) {
        return Err(Usage::new(words));
    }
    let text = error.render().to_string();
    if error.use_stderr() { Err(Usage::new(text.trim_end().to_owned())) } else { Ok(Parsed::Print(text)) }
}

/// Lists every flag that an ambiguous prefix could mean; clap suggests only one.
fn ambiguous(error: &clap::Error, command: &clap::Command) -> Option<String> {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let beginning = typed.strip_prefix("--")?.split('=').next().filter(|name| !name.is_empty())?;
    let flags = command.get_arguments().filter_map(clap::Arg::get_long);
    let found: Vec<_> = flags.filter(|flag| flag.starts_with(beginning)).map(|flag| format!("--{flag}")).collect();
    let (last, others) = found.split_last().filter(|(_, others)| !others.is_empty())?;
    let name = command.get_bin_name().unwrap_or(command.get_name());
    Some(format!("{name}: '--{beginning}' may be {} or {last}\ntry '{name} --help'", others.join(", ")))
}

/// For a program without a control interface.
const NO_CONTROL: Control =
    Control { listeners: Vec::new(), console: false, words: Commands::Switchover, directory: None };

/// For a service without a standby: it never switches and has no limits.
const BALANCER_SETTINGS: Settings = Settings {
    switch_max_time: Duration::ZERO,
    max_queued: u32::MAX,
    max_open: None,
    switch_loop_wait: Duration::from_millis(100),
    net_buffer_size: 16 * 1024,
    thread_pairs: settings::THREAD_PAIRS,
};

/// A number of seconds, for clap.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("'{text}' is not a number of seconds"))
}

/// The other subcommands, for the help.
fn other_uses() -> String {
    let mut uses = vec![
        ("cbpx ctl COMMAND".to_owned(), "send a command to a running cbpx; --to selects it"),
        ("cbpx demo".to_owned(), "see a switch on built-in servers"),
    ];
    uses.extend(DIALECTS.iter().map(|dialect| (format!("cbpx {} ...", dialect.name), dialect.about)));
    let width = uses.iter().map(|(typed, _)| typed.len()).max().unwrap_or_default();
    let lines: Vec<String> = uses.iter().map(|(typed, about)| format!("  {typed:width$}   {about}")).collect();
    format!(
        "Other uses:\n{}\n\n\
         Of a flag that is repeated the last one counts.\n\
         README.md has the commands, a switch step by step, and what it costs.",
        lines.join("\n")
    )
}

/// Creates the log format of a style.
pub fn log_format(style: LogStyle) -> Box<dyn LogFormat> {
    match style {
        LogStyle::Origin => Box::<cbpx::log_format::CbpxLog>::default(),
        LogStyle::Slashes => Box::<fallback::log_format::FallbackLog>::default(),
        LogStyle::Brackets => Box::<pumpkin::log_format::PumpkinLog>::default(),
        LogStyle::Web => Box::<fproxy::log_format::FproxyLog>::default(),
        LogStyle::Bare => Box::new(balance::log_format::BalanceLog::default()),
    }
}

/// The commands of a control session.
pub fn command_set(commands: Commands) -> Box<dyn CommandSet> {
    match commands {
        Commands::Switchover => Box::new(SwitchoverCommands),
        Commands::Backends { hash_failover } => Box::new(balance::control::Channels::new(hash_failover)),
    }
}
