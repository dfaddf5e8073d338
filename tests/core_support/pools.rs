//! Small pools, tried exhaustively: under every policy and failover nobody is given a backend that is disabled, full or
//! has refused it, every enabled one is reached, counters are conserved, who failed comes back, and when all have
//! failed they are tried all the same.
//!
//! A dial may fail because the backend refused, which is remembered, or for want of a local port, which is not: where
//! there is a memory these are states of their own. Without one (the models of `tests/model.rs`) both lead to the same
//! state.

use std::time::Duration;

use cbpx::config::{Failover, FailurePolicy, Policy, RetryPolicy, Weights, WhenFull};
use cbpx::core::msg::{
    Action, BackendId, BackendNote, Change, ClientId, ClientNote, CloseReason, Command, DialFailure, EndpointId, Event,
    GroupId, Note, UpstreamId,
};

use super::{SMALL, holds};
use crate::core_support::{Choice, Habit, Shape, TURNS, hash_of};
use crate::search::{Bounds, Model};

const FAILED_FOR: FailurePolicy = FailurePolicy::AvoidFor(Duration::from_secs(7));
const PROBE_EVERY: FailurePolicy = FailurePolicy::UntilProbed { every: Some(Duration::from_secs(11)) };
const TWICE: RetryPolicy = RetryPolicy { most: 2, pause: Duration::from_millis(50) };

/// A group of one client each, a second group behind it.
const TRIO: Shape = &[&[&[Some(1), Some(1)], &[Some(1)]]];
/// The same without limits, one after the other.
const LIST: Shape = &[&[&[None, None]]];
/// A group nobody is in yet, and one to wait for.
const ROOMY: Shape = &[&[&[], &[Some(1), None]]];
/// Two sets of two.
const SETS: Shape = &[&[&[Some(1), None]], &[&[None], &[None]]];

const POLICIES: [Policy; 6] = [
    Policy::RoundRobin,
    Policy::InOrder,
    Policy::ClientHash,
    Policy::Least(Weights { connections: 1, bytes: 0, time: 0 }),
    Policy::Least(Weights { connections: 0, bytes: 1, time: 0 }),
    Policy::Least(Weights { connections: 2, bytes: 1, time: 1 }),
];
const FAILOVERS: [Failover; 3] = [Failover::WithinGroup, Failover::RandomOther, Failover::NextGroup];

const B0: BackendId = BackendId(0);
const B1: BackendId = BackendId(1);
const B2: BackendId = BackendId(2);
const FIRST: GroupId = GroupId { upstream: UpstreamId(0), index: 0 };
const MISSING: GroupId = GroupId { upstream: UpstreamId(0), index: 2 };
const THERE: EndpointId = EndpointId(3);

const NO_SWITCH: Bounds = Bounds { arrivals: 3, switches: 0, commands: 1 };

fn pool(shape: Shape, habit: Habit) -> Choice {
    Choice { shape, habit, script: false, max_queued: 3, ..SMALL.choice }
}

/// Everything can be probed, one backend has a limit and one is disabled: for the broken rules.
#[cfg(feature = "mutation")]
pub const PROBED: Model = Model {
    choice: Choice {
        shape: &[&[&[Some(1), None, None]]],
        habit: Habit { failure_policy: PROBE_EVERY, disabled: &[2], ..TURNS },
        script: false,
        ..SMALL.choice
    },
    bounds: NO_SWITCH,
    commands: &[],
};

#[test]
fn every_policy_reaches_everybody_and_nobody_it_may_not() {
    let commands = &[Command::Change(Change::Disable(B0)), Command::Change(Change::Limit(B1, Some(2)))];
    let (mut states, bounds) = (0, Bounds { arrivals: 2, ..NO_SWITCH });
    for policy in POLICIES {
        for failover in FAILOVERS {
            let habit = Habit { policy, failover, failure_policy: FAILED_FOR, when_full: WhenFull::Close, ..TURNS };
            let model = Model { choice: pool(TRIO, habit), bounds, commands };
            let report = holds(&model, None);
            report.evidence.assert_reached(&["backend 0", "backend 1", "backend 2", "NoBackend", "BackendBack"]);
            states += report.states;
        }
    }
    assert_eq!(states, 956_314, "the number of states has changed");
}

#[test]
fn a_client_that_waits_for_a_full_backend_lets_the_others_pass() {
    let commands = &[
        Command::Change(Change::Disable(B1)),
        Command::Change(Change::Enable(B1)),
        Command::Change(Change::Limit(B0, None)),
    ];
    let bounds = Bounds { arrivals: 4, ..NO_SWITCH };
    let report = holds(&Model { choice: pool(&[&[&[Some(1), None]]], TURNS), bounds, commands }, Some(36_849));
    report.evidence.assert_reached(&["backend 0", "backend 1", "NoBackend"]);
}

#[test]
fn who_failed_comes_back_by_time_or_probe_and_who_was_refused_by_all_is_offered_to_all_again() {
    let habit = Habit { policy: Policy::InOrder, failure_policy: FAILED_FOR, retry: TWICE, ..TURNS };
    let bounds = Bounds { arrivals: 2, ..NO_SWITCH };
    let report = holds(&Model { choice: pool(LIST, habit), bounds, commands: &[] }, Some(15_223));
    report.evidence.assert_reached(&["BackendFailed", "BackendBack", "CancelDial", "Paused", "NoBackend", "NoPort"]);

    let commands = &[Command::Change(Change::Disable(B0)), Command::Stop, Command::QuitForce];
    let habit = Habit { policy: Policy::InOrder, failure_policy: PROBE_EVERY, ..TURNS };
    let report = holds(&Model { choice: pool(LIST, habit), bounds, commands }, Some(177_974));
    report.evidence.assert_reached(&["BackendFailed", "BackendBack", "CancelDial", "Probe", "NoBackend", "Exit"]);
}

#[test]
fn an_operator_changes_backends_within_the_rules() {
    const COMMANDS: &[Command] = &[
        Command::Change(Change::Enable(B0)),
        Command::Change(Change::Disable(B0)),
        Command::Change(Change::SetEndpoint(B0, THERE)),
        Command::Change(Change::Create(FIRST, THERE)),
        Command::Change(Change::Enable(B2)),
        Command::Change(Change::Reset(B1)),
        Command::Change(Change::Limit(B1, Some(1))),
        Command::Change(Change::Policy(FIRST, Policy::InOrder, Failover::NextGroup)),
        Command::Change(Change::Create(MISSING, THERE)),
    ];
    let habit = Habit { failure_policy: FailurePolicy::Disable, disabled: &[0], ..TURNS };
    let bounds = Bounds { arrivals: 2, switches: 0, commands: 3 };
    let report = holds(&Model { choice: pool(ROOMY, habit), bounds, commands: COMMANDS }, Some(12_893));
    report.evidence.assert_reached(&[
        "Created",
        "Assign",
        "Changed",
        "NoSuchBackend",
        "NoSuchGroup",
        "AlreadyEnabled",
        "AlreadyDisabled",
        "NotDisabled",
        "BackendDisabled",
        "backend 2",
    ]);
}

#[test]
fn a_switchover_moves_between_two_sets_whatever_has_failed() {
    let habit = Habit { failure_policy: FAILED_FOR, ..TURNS };
    let bounds = Bounds { arrivals: 2, switches: 1, commands: 0 };
    let report = holds(&Model { choice: pool(SETS, habit), bounds, commands: &[] }, Some(31_623));
    report.evidence.assert_reached(&["Moved without script", "backend 2", "backend 3", "BackendBack", "Timeout"]);
}

#[test]
fn who_waits_for_a_backend_that_has_failed_moves_on_when_there_is_another() {
    let habit = Habit { policy: Policy::InOrder, failure_policy: PROBE_EVERY, ..TURNS };
    let mut core = pool(LIST, habit).core();
    let mut tell = |event| {
        let mut actions = Vec::new();
        core.handle(event, &mut actions);
        actions
    };
    let [first, second, third] = [0, 1, 2].map(ClientId);
    for client in [first, second, third] {
        assert!(tell(Event::Arrived(client, hash_of(client))).contains(&Action::Dial(client, B0)));
    }
    // The first to find out takes the others along.
    let actions = tell(Event::DialFailed(first, DialFailure::Backend));
    assert!(
        actions.contains(&Action::CancelDial(second)) && actions.contains(&Action::CancelDial(third)),
        "{actions:?}"
    );
    assert!(tell(Event::DialFailed(second, DialFailure::Cancelled)).contains(&Action::Dial(second, B1)));
    // There is nobody else for the third when both have failed: it is tried there all the same, and not cancelled
    // again.
    let actions = tell(Event::DialFailed(second, DialFailure::Backend));
    assert!(actions.contains(&Action::Note(Note::Backend(B1, BackendNote::Failed))), "{actions:?}");
    let actions = tell(Event::DialFailed(third, DialFailure::Cancelled));
    assert!(actions.contains(&Action::Dial(third, B0)), "{actions:?}");
    // Until one of them works again.
    let actions = tell(Event::Connected(first));
    assert!(actions.contains(&Action::Note(Note::Backend(B1, BackendNote::Back))), "{actions:?}");
    assert!(actions.contains(&Action::CancelDial(third)), "{actions:?}");
}

#[test]
fn when_all_have_failed_they_are_tried_all_the_same() {
    let habit = Habit { policy: Policy::InOrder, failure_policy: PROBE_EVERY, ..TURNS };
    let mut core = pool(LIST, habit).core();
    for client in [ClientId(0), ClientId(1)] {
        let mut actions = Vec::new();
        core.handle(Event::Arrived(client, hash_of(client)), &mut actions);
        for _ in 0..2 {
            core.handle(Event::DialFailed(client, DialFailure::Backend), &mut actions);
        }
        let dialled = |backend| actions.contains(&Action::Dial(client, backend));
        assert!(dialled(B0) && dialled(B1), "{actions:?}");
        assert_eq!(
            actions.last(),
            Some(&Action::Note(Note::Client(client, ClientNote::Ended(CloseReason::NoBackend))))
        );
        assert!(core.backends().all(|backend| backend.failed));
    }
    let mut actions = Vec::new();
    core.handle(Event::Arrived(ClientId(2), hash_of(ClientId(2))), &mut actions);
    core.handle(Event::Connected(ClientId(2)), &mut actions);
    assert!(
        actions.contains(&Action::Note(Note::Backend(B0, BackendNote::Back))),
        "a connection brings it back: {actions:?}"
    );
}
