//! From the words that were typed to what is to be done. Pure: no file, socket or clock; a dialect ends where `Config`
//! begins.

pub mod balance;
pub mod cbpx;
pub mod ctl;
mod fproxy;
mod upstream;

use std::ffi::OsString;
use std::path::Path;

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
}

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

/// Reads the arguments of a dialect, its name first.
type Parse = fn(&[OsString]) -> Result<Invocation, Usage>;

/// The old programs whose command lines are understood: as a subcommand, or when the program is called by this name.
const DIALECTS: &[(&str, Parse)] = &[("balance", balance::parse), ("fproxy", fproxy::parse)];

fn dialect(name: &str) -> Option<Parse> {
    DIALECTS.iter().find(|(known, _)| *known == name).map(|(_, parse)| *parse)
}

/// Reads a whole command line, program name first.
///
/// # Errors
/// What is wrong with it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Usage> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let called = arguments.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    if let Some(parse) = called.and_then(dialect) {
        return parse(&arguments);
    }
    let first = arguments.get(1).and_then(|word| word.to_str());
    if let Some(parse) = first.and_then(dialect) {
        return parse(&arguments[1..]);
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

/// What clap says when it does not return values: help and version are for standard output, all else is a usage error.
pub(crate) fn refused(error: &clap::Error) -> Result<Invocation, Usage> {
    let text = error.render().to_string();
    if error.use_stderr() { Err(Usage::new(text.trim_end().to_owned())) } else { Ok(Invocation::Print(text)) }
}
