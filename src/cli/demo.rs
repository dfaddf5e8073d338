//! `cbpx demo`: its options.

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

use super::{Invocation, Usage};
use crate::dialects::{COLUMNS, refused};

/// The parsed options.
#[derive(Clone, Debug, Parser, PartialEq, Eq)]
#[command(
    name = "cbpx demo",
    bin_name = "cbpx demo",
    args_override_self = true,
    term_width = COLUMNS,
    about = "Shows switches under load: two servers, 55 clients and a proxy in one process",
    after_help = "It shows a switch that works, one that fails, and the same move without cbpx. It\n\
                  takes eight seconds, needs nothing but this program, and leaves nothing behind.\n\
                  Exit status: 0 no client of cbpx saw an error or reached the wrong server,\n\
                  1 otherwise, 2 usage."
)]
pub struct DemoOptions {
    /// Go on after the verdict, for a second terminal, until Ctrl-C
    #[arg(long)]
    pub stay: bool,
}

/// Parses the words after `cbpx`, beginning with `demo`.
///
/// # Errors
/// Explains what is wrong with them.
pub fn parse(arguments: &[OsString]) -> Result<Invocation, Usage> {
    match DemoOptions::try_parse_from(arguments) {
        Ok(options) => Ok(Invocation::Demo(options)),
        Err(e) => refused(&e, &DemoOptions::command()).map(Invocation::from),
    }
}
