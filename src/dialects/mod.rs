//! Command lines, configuration files, logs and control commands of other programs, and of cbpx itself: one folder for
//! each. A dialect ends where `Config` begins; nothing below knows which one was used.

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
    /// Talk to a running one whose words are those of backends.
    Instance(balance::InstanceRequest),
    /// Help or version, for standard output.
    Print(String),
    /// Words for standard error, and the exit status that goes with them: for dialects that end so.
    Tell { text: String, status: u8 },
}

/// Another program's command line: `cbpx NAME ...`, or a link to cbpx under one of the old names.
pub(crate) struct Dialect {
    pub(crate) name: &'static str,
    pub(crate) links: &'static [&'static str],
    /// For the help.
    about: &'static str,
    /// Given all that was typed for it, the name first.
    pub(crate) parse: fn(&[OsString]) -> Result<Parsed, Usage>,
}

pub(crate) const DIALECTS: &[Dialect] = &[
    Dialect {
        name: "balance",
        links: &["balance"],
        about: "as balance 3.54: round robin, hash, fallback groups",
        parse: balance::parse,
    },
    Dialect {
        name: "fallback",
        links: &["tcp_fallback"],
        about: "as tcp_fallback: the first server of a list that works",
        parse: fallback::parse,
    },
    Dialect {
        name: "pumpkin",
        links: &["PumpkinLB.py", "pumpkinlb"],
        about: "as PumpkinLB: servers that take turns, from its file",
        parse: pumpkin::parse,
    },
    Dialect {
        name: "fproxy",
        links: &["fproxy"],
        about: "as fproxy V0.41: whoever has had the least so far",
        parse: fproxy::parse,
    },
];

/// A command line that asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// For standard error.
    pub words: String,
    /// What the program exits with.
    pub status: u8,
}

impl Usage {
    /// The status most programs have for it.
    pub fn new(words: String) -> Usage {
        Usage { words, status: 2 }
    }
}

/// Width of every help text: it is the same whatever the terminal, and fits the narrowest that is usual.
pub(crate) const COLUMNS: usize = 80;

/// What clap says when it does not return values: help and version are for standard output, all else is a usage error.
pub(crate) fn refused(error: &clap::Error, command: &clap::Command) -> Result<Parsed, Usage> {
    if let Some(words) = ambiguous(error, command) {
        return Err(Usage::new(words));
    }
    let text = error.render().to_string();
    if error.use_stderr() { Err(Usage::new(text.trim_end().to_owned())) } else { Ok(Parsed::Print(text)) }
}

/// Of a flag that is the beginning of several: all of these. clap suggests one of them.
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

/// Of a program that nobody controls while it runs.
const NO_CONTROL: Control =
    Control { listeners: Vec::new(), console: false, words: Commands::Switchover, directory: None };

/// Of a program without a standby: it never switches, holds nobody at a gate and limits nobody.
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

/// What else the program can do, for its help.
fn other_uses() -> String {
    let mut uses = vec![
        ("cbpx ctl COMMAND".to_owned(), "talk to a running cbpx; --to tells where it is"),
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

/// The log format of a style.
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
