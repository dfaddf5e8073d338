//! `cbpx demo`: the main job on two built-in servers, for a person who sees cbpx for the first time. It ends with a
//! verdict based on measurements: errors, requests at the wrong server and waits are what clients and servers observed
//! themselves, with cbpx and without it. The proxy is only the source of the switch's own timings.
//!
//! In reading order: `stage` (temporary directory, switch script, proxy), `servers`, `clients`, `book` (what they
//! observed), `operator` (types `switch`), `bare` (the same without a proxy), `play` (the acts), `pulse` and `screen`
//! (the rows), `verdict`. Uses the proxy only through its sockets and its control port; the rows, however, read its
//! counters directly, forty times a second.

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

use crossbeam_channel::unbounded;

use self::play::{DemoEvent, Play};
use self::stage::DemoStage;
use crate::cli::demo::DemoOptions;
use crate::process::signals::{self, Signal};

/// Plays all acts and returns whether the verdict is good. Then every thread has been joined and the temporary
/// directory removed.
///
/// # Errors
/// When the demo cannot be set up, or standard output cannot be written to.
pub fn run(options: &DemoOptions) -> Result<bool, Box<dyn Error>> {
    let (events, inbox) = unbounded();
    let interrupts = events.clone();
    // Every signal ends the demo in order, because otherwise the temporary directory would be left behind. When the
    // demo is ending anyway, no one receives the event.
    signals::reset_inherited();
    let _signals = signals::SignalThread::start(move |signal| match signal {
        Signal::Interrupt | Signal::Stop | Signal::Quit | Signal::HangUp => {
            drop(interrupts.send(DemoEvent::Interrupted))
        }
        Signal::User | Signal::Child => {}
    })?;
    let stage = DemoStage::set().map_err(|e| format!("cannot set the stage of the demo: {e}"))?;
    Ok(Play::new(&stage, events, inbox).run(options.stay)?)
}
