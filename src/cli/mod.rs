//! Parses the command line: which dialect reads it, and what it asks for. Pure: no socket or clock, and no file except
//! a dialect's configuration.

pub mod ctl;
pub mod demo;

use std::ffi::OsString;
use std::path::Path;

use crate::config::Config;
use crate::control::is_command;
pub use crate::dialects::Usage;
use crate::dialects::{DIALECTS, Parsed, balance, cbpx};

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run a proxy. `warnings` are for standard error.
    Serve { config: Box<Config>, warnings: Vec<String> },
    /// Send a command to a running cbpx.
    Ctl(ctl::CtlRequest),
    /// Talk to a running instance of the balance dialect.
    Instance(balance::InstanceRequest),
    /// Run the demo.
    Demo(demo::DemoOptions),
    /// Help or version, for standard output.
    Print(String),
    /// Text for standard error, and an exit status other than that of a usage error.
    Tell { text: String, status: u8 },
}

impl From<Parsed> for Invocation {
    fn from(parsed: Parsed) -> Invocation {
        match parsed {
            Parsed::Serve { config, warnings } => Invocation::Serve { config, warnings },
            Parsed::Instance(value) => Invocation::Instance(value),
            Parsed::Print(value) => Invocation::Print(value),
            Parsed::Tell { text, status } => Invocation::Tell { text, status },
        }
    }
}

/// Parses a whole command line, which begins with the program's name.
///
/// # Errors
/// Explains what is wrong with it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Usage> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let program = arguments.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    let linked = DIALECTS.iter().find(|dialect| program.is_some_and(|name| dialect.links.contains(&name)));
    if let Some(dialect) = linked {
        return (dialect.parse)(&arguments).map(Invocation::from);
    }
    let first = arguments.get(1).and_then(|word| word.to_str());
    if let Some(dialect) = DIALECTS.iter().find(|dialect| first == Some(dialect.name)) {
        return (dialect.parse)(&arguments[1..]).map(Invocation::from);
    }
    match first {
        Some("ctl") => ctl::parse(&arguments[1..]),
        Some("demo") => demo::parse(&arguments[1..]),
        Some(word) if is_command(word) => {
            Err(Usage::new(format!("cbpx: '{word}' is a command for a running cbpx: did you mean 'cbpx ctl {word}'?")))
        }
        Some(_) | None => cbpx::parse(&arguments).map(Invocation::from),
    }
}
