//! Breadth-first search through everything that can happen to one small service. Each new state is entered once; a
//! violation comes with the shortest history that leads to it.

use std::collections::{HashSet, VecDeque};
use std::fmt::{self, Display, Formatter, Write};
use std::hash::{Hash, Hasher};

use cbpx::core::State;
use cbpx::core::msg::{Action, ClientId, Command, Event, ProbeEnd, RequestId};
use cbpx::core::pool::hash;

use crate::core_support::evidence::Evidence;
use crate::core_support::witness::{Broken, Life, Witness};
use crate::core_support::{Choice, Rules, hash_of, tell};

/// A small service and what may happen to it.
#[derive(Clone, Copy)]
pub struct Model {
    pub choice: Choice,
    pub bounds: Bounds,
    /// Besides `Switch`.
    pub commands: &'static [Command],
}

/// How many of each may still happen. A question that changes nothing costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub arrivals: u8,
    pub switches: u8,
    pub commands: u8,
}

/// Everything was tried.
pub struct Report {
    pub states: usize,
    pub transitions: usize,
    pub evidence: Evidence,
    /// The first failure of an assertion of the core's own, with its history.
    pub alarm: Option<String>,
}

/// A rule was broken, after this history.
#[derive(Debug)]
pub struct Violation {
    pub rule: String,
    pub history: String,
    /// An assertion of the core's own had failed by then.
    pub alarm: Option<String>,
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let alarm = self.alarm.as_ref().map_or(String::new(), |words| format!("\nBy the core itself: {words}"));
        write!(f, "{}\n{}{alarm}", self.rule, self.history)
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Node {
    core: State,
    witness: Witness,
    left: Bounds,
}

struct Search {
    rules: Rules,
    start: State,
    entered: HashSet<u64>,
    /// For each state, the one it was first entered from and the event. The start is its own.
    from: Vec<(usize, Event)>,
    frontier: VecDeque<Node>,
    report: Report,
    actions: Vec<Action>,
}

impl Model {
    /// Tries everything, beginning with this core.
    ///
    /// # Errors
    /// The first violation the witness sees. Alarms of the core's own do not end the search.
    pub fn explore(&self, mut core: State) -> Result<Report, Violation> {
        let mut witness = Witness::new(&self.choice.rules(), self.choice.settings());
        let mut actions = Vec::new();
        core.handle(Event::Started, &mut actions);
        if let Err(Broken(rule)) = witness.observe(&self.choice.rules(), Event::Started, &actions) {
            return Err(Violation { rule, history: format!("Started\n    {actions:?}\n"), alarm: None });
        }
        let start = Node { core: core.clone(), witness, left: self.bounds };
        let mut search = Search {
            rules: self.choice.rules(),
            start: core,
            entered: HashSet::from([fingerprint(&start)]),
            from: vec![(0, Event::HungUp(ClientId(0)))],
            frontier: VecDeque::from([start]),
            report: Report { states: 0, transitions: 0, evidence: Evidence::default(), alarm: None },
            actions: Vec::new(),
        };
        let mut events = Vec::new();
        while let Some(node) = search.frontier.pop_front() {
            let at = search.report.states;
            search.report.states += 1;
            search.meaningless(&node, at)?;
            if at.is_multiple_of(FINISH_EVERY) {
                search.finish(node.clone(), at)?;
            }
            self.enabled(&node, &mut events);
            for &event in &events {
                search.enter(&node, at, event)?;
            }
        }
        Ok(search.report)
    }

    /// All that can happen next.
    fn enabled(&self, node: &Node, events: &mut Vec<Event>) {
        events.clear();
        node.witness.possible(events);
        let may_fail = node.witness.next_timer < PROBES_FAIL_UNTIL;
        events.retain(|event| may_fail || !matches!(event, Event::Probed(_, ProbeEnd::Failed)));
        let left = node.left;
        if left.arrivals > 0 {
            let id = ClientId(u64::from(self.bounds.arrivals - left.arrivals));
            events.push(Event::Arrived(id, hash_of(id)));
        }
        let asked = self.bounds.switches - left.switches + self.bounds.commands - left.commands;
        let request = RequestId(u64::from(asked));
        if left.switches > 0 {
            events.push(Event::Asked(request, Command::Switch));
        }
        if left.commands > 0 {
            events.extend(self.commands.iter().map(|&command| Event::Asked(request, command)));
        }
    }
}

/// A probe may fail while no more timers were armed: each failure arms the next one, without end.
const PROBES_FAIL_UNTIL: u64 = 4;
/// In each state every so many of the stale reports are tried, in the next one others: most states differ in one thing.
const STALE_EVERY: usize = 4;
/// From every so many states everything is let finish: the ways to the end share their states.
const FINISH_EVERY: usize = 16;
/// More events than the longest life of a few clients takes.
const FINISH_WITHIN: usize = 100;

impl Search {
    fn enter(&mut self, node: &Node, at: usize, event: Event) -> Result<(), Violation> {
        let mut next = node.clone();
        self.apply(&mut next, at, &[event])?;
        self.report.transitions += 1;
        self.report.evidence.collect(&self.actions);
        if next == *node {
            return Ok(());
        }
        match event {
            Event::Arrived(..) => next.left.arrivals -= 1,
            Event::Asked(_, Command::Switch) => next.left.switches -= 1,
            Event::Asked(..) => next.left.commands -= 1,
            Event::Started
            | Event::HungUp(_)
            | Event::Connected(_)
            | Event::DialFailed(..)
            | Event::Dismissible(_)
            | Event::Resumed(_)
            | Event::Flowed(..)
            | Event::Closed(..)
            | Event::Probed(..)
            | Event::ScriptEnded(..)
            | Event::Fired(_) => {}
        }
        if self.entered.insert(fingerprint(&next)) {
            self.from.push((at, event));
            self.frontier.push_back(next);
        }
        Ok(())
    }

    /// The last event of those that have led here from state `at`, judged by the witness.
    fn apply(&mut self, node: &mut Node, at: usize, events: &[Event]) -> Result<(), Violation> {
        let Some(&event) = events.last() else { return Ok(()) };
        self.actions.clear();
        if let Err(words) = tell(&mut node.core, event, &mut self.actions)
            && self.report.alarm.is_none()
        {
            let found = self.violation(words, at, events);
            self.report.alarm = Some(found.to_string());
        }
        let verdict = node.witness.observe(&self.rules, event, &self.actions);
        let verdict = verdict.and_then(|()| node.witness.agrees(&node.core));
        verdict.map_err(|Broken(words)| self.violation(words, at, events))
    }

    /// Stale and unknown ids change nothing and decide nothing.
    fn meaningless(&mut self, node: &Node, at: usize) -> Result<(), Violation> {
        let mut events = Vec::new();
        node.witness.meaningless(&mut events);
        let mut core = node.core.clone();
        for &event in events.iter().skip(at % STALE_EVERY).step_by(STALE_EVERY) {
            self.actions.clear();
            let told = tell(&mut core, event, &mut self.actions);
            if told.is_err() || !self.actions.is_empty() || core != node.core {
                let words = format!("a report that means nothing changes nothing: {event:?}");
                return Err(self.violation(words, at, &[event]));
            }
        }
        Ok(())
    }

    /// Whatever the state, when everything outstanding has finished nobody is there and the gate is open.
    fn finish(&mut self, mut node: Node, at: usize) -> Result<(), Violation> {
        let (mut events, mut possible) = (Vec::new(), Vec::new());
        while events.len() < FINISH_WITHIN {
            possible.clear();
            node.witness.possible(&mut possible);
            let Some(&event) = possible.get((at + events.len()) % possible.len().max(1)) else { break };
            events.push(event);
            self.apply(&mut node, at, &events)?;
        }
        let witness = &node.witness;
        let ended = witness.life == Life::Running || witness.life == Life::Over;
        if ended && witness.clients.is_empty() && witness.switch.is_none() {
            return Ok(());
        }
        Err(self.violation(format!("everything comes to rest: {witness:?}"), at, &events))
    }

    /// The whole history: how state `at` was first entered, and what happened then.
    fn violation(&self, rule: String, at: usize, then: &[Event]) -> Violation {
        let (mut at, mut events) = (at, Vec::new());
        while at > 0 {
            events.push(self.from[at].1);
            at = self.from[at].0;
        }
        events.reverse();
        events.extend_from_slice(then);
        let (mut core, mut actions, mut history) = (self.start.clone(), Vec::new(), String::new());
        for event in events {
            actions.clear();
            // A failing assertion of the core's own is what is being reported, or has been.
            drop(tell(&mut core, event, &mut actions));
            write!(history, "{event:?}\n    {actions:?}\n").expect("a string takes everything");
        }
        Violation { rule, history, alarm: self.report.alarm.clone() }
    }
}

/// Two states with the same fingerprint would be taken for one: among a million, less likely than one in ten million.
fn fingerprint(node: &Node) -> u64 {
    let mut hasher = Fingerprint(0);
    node.hash(&mut hasher);
    hasher.finish()
}

/// Fast, and the same number on every machine.
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(number));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = hash::mix(self.0 ^ number);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
