//! `cbpx demo`: the main job on two built-in servers, for a person who sees cbpx for the first time. It ends with a
//! verdict that can be trusted: errors, requests at the wrong server and waits are what clients and servers saw
//! themselves, with cbpx and without it; of the proxy, only the switch's own account of its time is believed.
//!
//! In reading order: `stage` (temporary directory, switch script, proxy), `servers`, `clients`, `book` (what they saw),
//! `operator` (types `switch`), `bare` (the same without a proxy), `play` (the acts), `pulse` and `screen` (the rows),
//! `verdict`. Uses the proxy as anybody would, through its sockets and its control port; only the rows read its
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

/// Plays all acts; returns whether the verdict is good. When this returns, every thread has been joined and the
/// temporary directory removed.
///
/// # Errors
/// When the stage cannot be set or standard output cannot be written to.
pub fn run(options: &DemoOptions) -> Result<bool, Box<dyn Error>> {
    let (events, inbox) = unbounded();
    let interrupts = events.clone();
    // Whatever the signal, the demo ends in order: a temporary directory would be left behind otherwise. Nobody
    // listens any more when the demo is about to end anyway.
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
