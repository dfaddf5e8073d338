//! From the words that were typed to what is to be done. Pure: no file, socket or clock; a dialect ends where `Config`
//! begins.

pub mod cbpx;
pub mod ctl;
mod upstream;

use std::ffi::OsString;

use crate::config::Config;
use crate::control::is_command;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run a proxy. `warnings` are for standard error.
    Serve { config: Box<Config>, warnings: Vec<String> },
    /// Talk to a running one.
    Ctl(ctl::Request),
    /// Show the main job.
    Demo(crate::demo::Options),
    /// Help or version, for standard output.
    Print(String),
}

/// A command line that asks for nothing: for standard error, exit status 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage(pub String);

/// Reads a whole command line, program name first.
///
/// # Errors
/// What is wrong with it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Usage> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match arguments.get(1).and_then(|word| word.to_str()) {
        Some("ctl") => ctl::parse(&arguments[1..]),
        Some("demo") => crate::demo::parse(&arguments[1..]),
        Some(word) if is_command(word) => {
            Err(Usage(format!("cbpx: '{word}' is a command for a running cbpx: did you mean 'cbpx ctl {word}'?")))
        }
        Some(_) | None => cbpx::parse(&arguments),
    }
}

/// What clap says when it does not return values: help and version are for standard output, all else is a usage error.
pub(crate) fn refused(error: &clap::Error) -> Result<Invocation, Usage> {
    let text = error.render().to_string();
    if error.use_stderr() { Err(Usage(text.trim_end().to_owned())) } else { Ok(Invocation::Print(text)) }
}
