//! From the words that were typed to what is to be done. Pure: no socket or clock, and no file but one that is a dialect's
//! configuration; a dialect ends where `Config` begins.

pub mod balance;
pub mod cbpx;
pub mod ctl;
mod fallback;
mod fproxy;
mod pumpkin;
mod upstream;

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::Config;
use crate::control::is_command;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run a proxy. `warnings` are for standard error.
    Serve { config: Box<Config>, warnings: Vec<String> },
    /// Talk to a running one.
    Ctl(ctl::Request),
    /// Talk to a running one whose words are those of backends.
    Instance(balance::Request),
    /// Show the main job.
    Demo(crate::demo::Options),
    /// Help or version, for standard output.
    Print(String),
    /// Words for standard error, and the exit status that goes with them: for dialects that end so.
    Tell { text: String, status: u8 },
}

/// Another program's command line: `cbpx NAME ...`, or a link to cbpx under one of the old names.
struct Dialect {
    name: &'static str,
    links: &'static [&'static str],
    /// For the help.
    about: &'static str,
    /// Given all that was typed for it, the name first.
    parse: fn(&[OsString]) -> Result<Invocation, Usage>,
}

const DIALECTS: &[Dialect] = &[
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

/// Reads a whole command line, program name first.
///
/// # Errors
/// What is wrong with it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Usage> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let program = arguments.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    let linked = DIALECTS.iter().find(|dialect| program.is_some_and(|name| dialect.links.contains(&name)));
    if let Some(dialect) = linked {
        return (dialect.parse)(&arguments);
    }
    let first = arguments.get(1).and_then(|word| word.to_str());
    if let Some(dialect) = DIALECTS.iter().find(|dialect| first == Some(dialect.name)) {
        return (dialect.parse)(&arguments[1..]);
    }
    match first {
        Some("ctl") => ctl::parse(&arguments[1..]),
        Some("demo") => crate::demo::parse(&arguments[1..]),
        Some(word) if is_command(word) => {
            Err(Usage::new(format!("cbpx: '{word}' is a command for a running cbpx: did you mean 'cbpx ctl {word}'?")))
        }
        Some(_) | None => cbpx::parse(&arguments),
    }
}

/// Width of every help text: it is the same whatever the terminal, and fits the narrowest that is usual.
pub(crate) const COLUMNS: usize = 80;

/// What clap says when it does not return values: help and version are for standard output, all else is a usage error.
pub(crate) fn refused(error: &clap::Error, command: &clap::Command) -> Result<Invocation, Usage> {
    if let Some(words) = ambiguous(error, command) {
        return Err(Usage::new(words));
    }
    let text = error.render().to_string();
    if error.use_stderr() { Err(Usage::new(text.trim_end().to_owned())) } else { Ok(Invocation::Print(text)) }
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
