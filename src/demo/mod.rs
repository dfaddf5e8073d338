//! `cbpx demo`: the main job on two built-in servers, for a person who sees cbpx for the first time. It ends with a
//! verdict that can be trusted: errors, requests at the wrong server and waits are what clients and servers saw
//! themselves, with cbpx and without it; of the proxy, only the switch's own account of its time is believed.
//!
//! In reading order: `stage` (temporary directory, switch script, proxy), `servers`, `clients`, `book` (what they saw),
//! `operator` (types `switch`), `bare` (the same without a proxy), `play` (the acts), `pulse` and `screen` (the rows),
//! `verdict`. Uses the proxy as anybody would, through its sockets and its control port; only the rows read its counters
//! directly, forty times a second.

mod bare;
mod book;
mod clients;
mod operator;
mod play;
mod pulse;
mod screen;
mod servers;
mod stage;
mod verdict;

use std::error::Error;
use std::ffi::OsString;

use clap::{CommandFactory, Parser};
use crossbeam_channel::unbounded;

use self::play::{Event, Play};
use self::stage::Stage;
use crate::cli::{COLUMNS, Invocation, Usage, refused};
use crate::signals::{self, Signal};

/// What was asked for.
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
pub struct Options {
    /// Go on after the verdict, for a second terminal, until Ctrl-C
    #[arg(long)]
    pub stay: bool,
}

/// Reads the words after `cbpx`, `demo` first.
///
/// # Errors
/// What is wrong with them.
pub fn parse(arguments: &[OsString]) -> Result<Invocation, Usage> {
    match Options::try_parse_from(arguments) {
        Ok(options) => Ok(Invocation::Demo(options)),
        Err(e) => refused(&e, &Options::command()),
    }
}

/// Plays all acts; returns whether the verdict is good. When this returns, every thread has been joined and the
/// temporary directory removed.
///
/// # Errors
/// When the stage cannot be set or standard output cannot be written to.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let (events, inbox) = unbounded();
    let interrupts = events.clone();
    // Whatever the signal, the demo ends in order: a temporary directory would be left behind otherwise. Nobody
    // listens any more when the demo is about to end anyway.
    signals::reset_inherited();
    let _signals = signals::Listener::start(move |signal| match signal {
        Signal::Interrupt | Signal::Stop | Signal::Quit | Signal::HangUp => drop(interrupts.send(Event::Interrupted)),
        Signal::User | Signal::Child => {}
    })?;
    let stage = Stage::set().map_err(|e| format!("cannot set the stage of the demo: {e}"))?;
    Ok(Play::new(&stage, events, inbox).run(options.stay)?)
}
