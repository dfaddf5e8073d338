//! Everything that can happen to a small service, tried exhaustively: the promises that concern the core hold in every
//! state, every answer and reason is reached, and a rule broken on purpose is noticed. Larger services are the business
//! of `tests/sim.rs`.
//!
//! The number of states is part of each test: a transition that is lost, or a rule that forbids more than it did, shows
//! there although nothing is violated. Who changes a rule on purpose takes the new number from the message. (`Resumed`
//! leads from a state in which a client may be dismissed to one in which it is open: ways, but no states of its own.)

mod core_support;
#[path = "core_support/pools.rs"]
mod pools;
#[path = "core_support/reports.rs"]
mod reports;
#[path = "core_support/search.rs"]
mod search;

use std::time::Duration;

use cbpx::config::Setting;
use cbpx::core::msg::Command;

use core_support::evidence::REACHABLE;
use core_support::{Choice, PLAIN, TURNS};
use search::{Bounds, Model, Report};

/// Two backends of one group (the first takes one client), then one.
const PAIR: core_support::Shape = &[&[&[Some(1), None]], &[&[None]]];
/// A group of one client, a second group for when it is full, then one backend.
const FALLBACK: core_support::Shape = &[&[&[Some(1)], &[Some(1)]], &[&[None]]];
/// Three upstreams: the service goes round.
const ROUND: core_support::Shape = &[&[&[None]], &[&[None]], &[&[None]]];

const COMMANDS: &[Command] = &[
    Command::Abort,
    Command::Quit,
    Command::QuitForce,
    Command::Interrupt,
    Command::Stop,
    Command::Set(Setting::MaxOpen(Some(1))),
    Command::Set(Setting::MaxOpen(None)),
    Command::Set(Setting::MaxQueued(1)),
    Command::Set(Setting::SwitchMaxTime(Duration::ZERO)),
];

/// One backend each, a script, no throttle; `max_queued` is 2.
const SMALL: Model = Model {
    choice: Choice {
        shape: PLAIN,
        habit: TURNS,
        script: true,
        max_open: None,
        max_queued: 2,
        max_dials: 8,
        max_clients: 8,
    },
    bounds: Bounds { arrivals: 3, switches: 2, commands: 1 },
    commands: COMMANDS,
};

/// Tries everything, expects this many states (if it is told) and no violation.
pub fn holds(model: &Model, states: impl Into<Option<usize>>) -> Report {
    let report = model.explore(model.choice.core()).unwrap_or_else(|found| panic!("{found}"));
    println!("{} states, {} transitions: {:?}", report.states, report.transitions, report.evidence);
    if let Some(alarm) = &report.alarm {
        panic!("{alarm}");
    }
    assert_eq!(report.states, states.into().unwrap_or(report.states), "the number of states has changed");
    report
}

#[test]
fn the_promises_hold_for_three_clients_three_switches_and_three_commands() {
    let report = holds(&Model { bounds: Bounds { arrivals: 3, switches: 3, commands: 3 }, ..SMALL }, 1_773_047);
    assert!(report.states >= 1_000_000, "the search is smaller than it should be");
    let scripted: Vec<&str> = REACHABLE.iter().copied().filter(|name| *name != "Moved without script").collect();
    report.evidence.assert_reached(&scripted);
}

#[test]
fn the_promises_hold_without_a_script_under_a_throttle() {
    let choice = Choice { script: false, max_open: Some(1), max_queued: 1, ..SMALL.choice };
    let report = holds(&Model { choice, bounds: Bounds { commands: 2, ..SMALL.bounds }, ..SMALL }, 24_337);
    report.evidence.assert_reached(&["Moved without script", "QueueFull", "QueueOverLimit", "NoBackend"]);
}

#[test]
fn the_promises_hold_for_two_backends_of_one_group() {
    let choice = Choice { shape: PAIR, ..SMALL.choice };
    holds(&Model { choice, bounds: Bounds { switches: 1, ..SMALL.bounds }, ..SMALL }, 122_512);
}

#[test]
fn the_promises_hold_for_two_groups_one_dial_at_a_time_and_few_descriptors() {
    let choice = Choice { shape: FALLBACK, max_dials: 1, max_clients: 2, ..SMALL.choice };
    let report = holds(&Model { choice, bounds: Bounds { commands: 2, ..SMALL.bounds }, ..SMALL }, 154_003);
    report.evidence.assert_reached(&["NoRoom", "NoBackend", "Moved by script"]);
}

#[test]
fn the_promises_hold_for_three_upstreams() {
    let choice = Choice { shape: ROUND, max_queued: 1, ..SMALL.choice };
    holds(&Model { choice, bounds: Bounds { switches: 4, ..SMALL.bounds }, ..SMALL }, 251_221);
}

/// The witness sees each broken rule by itself, whether or not an assertion of the core's own fails first.
#[cfg(feature = "mutation")]
#[test]
fn every_broken_rule_is_noticed() {
    let throttled = Model { choice: Choice { max_open: Some(1), ..SMALL.choice }, ..SMALL };
    let mut alarms = 0;
    for mutation in core_support::mutations::all() {
        let found = [SMALL, throttled, pools::PROBED].iter().find_map(|model| {
            let mut core = model.choice.core();
            core.mutate(mutation);
            model.explore(core).err()
        });
        let Some(found) = found else { panic!("{mutation:?} is not noticed") };
        println!("{mutation:?}: {found}");
        alarms += usize::from(found.alarm.is_some());
    }
    // In debug builds the core itself notices most of them, not later than the witness.
    assert_eq!(alarms, if cfg!(debug_assertions) { 10 } else { 0 });
}
