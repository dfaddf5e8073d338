//! Random histories of large services, judged by the same witness as `tests/model.rs`: hundreds of clients, timers that
//! fire early, late and twice, reports about nobody. At the end of each everything drains to zero.
//!
//! Every message names the seed and the step. `SEED=7 cargo test --test sim -- --nocapture` replays one with its whole
//! trace; `SEEDS=5000` tries more. In debug builds the core's own assertions run as well, on purpose.

mod core_support;
#[path = "core_support/kinds.rs"]
mod kinds;
#[path = "core_support/random.rs"]
mod random;

use std::env;
use std::time::Duration;

use cbpx::config::Setting;
use cbpx::core::State;
use cbpx::core::msg::{
    Action, BackendId, ClientId, ClientNote, CloseReason, Command, Event, Note, ProbeEnd, RequestId, RunId, TimerId,
    Traffic,
};

use core_support::events::{SCRIPT_ENDS, about};
use core_support::evidence::{Evidence, REACHABLE};
use core_support::stock::Awaited;
use core_support::witness::{Broken, Client, Life, Place, Witness};
use core_support::{Choice, PLAIN, Rules, Shape, TURNS, hash_of, tell, traffic_of};
use kinds::{REACHABLE_WITH_POOLS, change, habit};
use random::Random;

/// Seeds and events of one run of all tests: 600,000 events, each twice. Every other seed has what an operator of cbpx
/// has; the others have pools of all kinds.
const SEEDS: u64 = 400;
const STEPS: usize = 1_500;

const SHAPES: [Shape; 6] = [
    PLAIN,
    &[&[&[Some(20), None, Some(5)]], &[&[None]]],
    &[&[&[Some(3), Some(4)], &[Some(10)], &[None]], &[&[Some(40), Some(40)]]],
    &[&[&[None]], &[&[None, None]], &[&[Some(30)], &[Some(30)]]],
    &[&[&[Some(8)]], &[&[Some(8)]]],
    &[&[&[], &[Some(2), Some(3), None, Some(9)]], &[&[Some(30), None], &[], &[Some(1)]]],
];

/// Every event with what was decided upon it.
type Trace = Vec<(Event, Vec<Action>)>;

/// One history, and the engine's side that the witness does not keep: time, and every timer ever armed.
struct Run {
    seed: u64,
    random: Random,
    manner: Manner,
    rules: Rules,
    core: State,
    witness: Witness,
    now: Duration,
    /// Armed and not fired, with the time each is due.
    timers: Vec<(Duration, TimerId)>,
    clients: u64,
    ended: u64,
    requests: u64,
    trace: Trace,
    found: Found,
}

/// How much happens of what, in a hundred events.
struct Manner {
    arrivals: u64,
    reports: u64,
    time: u64,
    commands: u64,
    noise: u64,
    /// Of a hundred dials, this many succeed.
    luck: u64,
    /// How many events a rush hour has.
    season: usize,
    /// The longest time between two events that are told apart by time, in milliseconds.
    tick: u64,
}

/// What a run has reached.
#[derive(Default)]
struct Found {
    evidence: Evidence,
    most_held: usize,
    most_assigned: usize,
    /// The first failure of an assertion of the core's own.
    alarm: Option<String>,
}

impl Run {
    fn new(seed: u64, break_a_rule: impl Fn(&mut State)) -> Run {
        let mut random = Random::new(seed);
        let choice = Choice {
            shape: random.pick(&SHAPES).unwrap_or(PLAIN),
            habit: if seed.is_multiple_of(2) { TURNS } else { habit(&mut random) },
            script: random.chance(70),
            max_open: random.pick(&[None, None, Some(1), Some(7), Some(200)]).flatten(),
            max_queued: random.pick(&[5, 150, 400]).unwrap_or(150),
            max_dials: random.pick(&[1, 4, 64]).unwrap_or(4),
            max_clients: random.pick(&[30, 120, 400]).unwrap_or(120),
        };
        let manner = Manner {
            arrivals: 15 + random.below(25),
            reports: random.pick(&[15, 30, 90]).unwrap_or(30),
            time: random.below(15),
            commands: 1 + random.below(8),
            noise: random.below(15),
            luck: random.pick(&[99, 90, 50]).unwrap_or(90),
            season: random.pick(&[40, 150, 400]).unwrap_or(150),
            tick: random.pick(&[50, 300, 1_500]).unwrap_or(300),
        };
        let mut core = choice.core();
        break_a_rule(&mut core);
        Run {
            seed,
            random,
            manner,
            rules: choice.rules(),
            core,
            witness: Witness::new(&choice.rules(), choice.settings()),
            now: Duration::ZERO,
            timers: Vec::new(),
            clients: 0,
            ended: 0,
            requests: 0,
            trace: Vec::new(),
            found: Found::default(),
        }
    }

    /// Lives and ends.
    ///
    /// # Errors
    /// The rule that was broken, with seed, step and what led to it.
    fn live(mut self) -> Result<(Found, Trace), String> {
        self.tell(Event::Started)?;
        for step in 0..STEPS {
            let event = self.choose(step);
            self.tell(event)?;
        }
        self.drain()?;
        Ok((self.found, self.trace))
    }

    /// One event, judged.
    fn tell(&mut self, event: Event) -> Result<(), String> {
        let mut actions = Vec::new();
        let told = tell(&mut self.core, event, &mut actions);
        let verdict = self.witness.observe(&self.rules, event, &actions);
        let verdict = verdict.and_then(|()| self.witness.agrees(&self.core));
        for action in &actions {
            match action {
                Action::Arm(timer, after) => self.timers.push((self.now + *after, *timer)),
                Action::Note(Note::Client(_, ClientNote::Ended(_))) => self.ended += 1,
                Action::Dial(..)
                | Action::CancelDial(_)
                | Action::Reject(..)
                | Action::CloseGracefully(_)
                | Action::Reset(_)
                | Action::Probe(_)
                | Action::SetEndpoint(..)
                | Action::RunScript { .. }
                | Action::KillScript(_)
                | Action::Answer(..)
                | Action::Note(_)
                | Action::StopListening
                | Action::Exit => {}
            }
        }
        self.found.evidence.collect(&actions);
        self.found.most_held = self.found.most_held.max(self.witness.held().count());
        self.found.most_assigned = self.found.most_assigned.max(self.witness.assigned());
        self.trace.push((event, actions));
        if let Err(alarm) = told {
            let alarm = self.message(&alarm);
            self.found.alarm.get_or_insert(alarm);
        }
        verdict.map_err(|Broken(words)| self.message(&words))
    }

    /// What happens next: mostly what an engine would report, sometimes what it could not.
    fn choose(&mut self, step: usize) -> Event {
        let Manner { arrivals, reports, time, commands, noise, .. } = self.manner;
        // Rush hours and quiet ones, in turn.
        let arrivals = if (step / self.manner.season).is_multiple_of(2) { arrivals } else { 1 };
        let mut roll = self.random.below(arrivals + reports + time + commands + noise);
        let mut falls = |weight: u64| {
            let yes = roll < weight;
            roll = roll.wrapping_sub(weight);
            yes
        };
        if falls(arrivals) {
            self.clients += 1;
            return self.arrival(ClientId(self.clients));
        }
        if falls(reports) {
            return self.report();
        }
        if falls(time) {
            return self.time();
        }
        if falls(commands) {
            self.requests += 1;
            return Event::Asked(RequestId(self.requests), self.command(step));
        }
        self.noise()
    }

    fn arrival(&self, id: ClientId) -> Event {
        Event::Arrived(id, hash_of(id))
    }

    /// Something that is outstanding comes to an end.
    fn report(&mut self) -> Event {
        if let Some(run) = self.witness.switch.and_then(|switch| switch.script)
            && self.random.chance(20)
        {
            let end = self.random.pick(&SCRIPT_ENDS).unwrap_or(SCRIPT_ENDS[0]);
            return Event::ScriptEnded(run, if self.random.chance(50) { SCRIPT_ENDS[0] } else { end });
        }
        let probed = self.witness.stock.backends.iter().position(|backend| backend.awaited == Awaited::Probe);
        if let Some(at) = probed.filter(|_| self.random.chance(10)) {
            let reached = self.random.chance(self.manner.luck);
            return Event::Probed(BackendId(at), if reached { ProbeEnd::Reached } else { ProbeEnd::Failed });
        }
        let assigned = |(id, client): (&ClientId, &Client)| (client.place != Place::Held).then_some(*id);
        let assigned: Vec<ClientId> = self.witness.clients.iter().filter_map(assigned).collect();
        let held: Vec<ClientId> = self.witness.held().collect();
        let of = if assigned.is_empty() || self.random.chance(5) { held } else { assigned };
        let Some(id) = self.random.pick(&of) else { return self.time() };
        let client = &self.witness.clients[&id];
        if matches!(client.place, Place::Dialling(_)) && self.random.chance(self.manner.luck) {
            return Event::Connected(id);
        }
        if client.place != Place::Held && self.random.chance(20) {
            return Event::Flowed(id, self.traffic());
        }
        let mut possible = Vec::new();
        client.possible(id, &mut possible);
        self.random.pick(&possible).unwrap_or(Event::HungUp(id))
    }

    /// Not always more than the last time.
    fn traffic(&mut self) -> Traffic {
        let [up, down, millis] = [9, 9_000, 90].map(|bound| self.random.below(bound));
        Traffic { up, down, time: Duration::from_millis(millis) }
    }

    /// Time passes; the timer that is due first fires, in time or late, or one that is not due fires early.
    fn time(&mut self) -> Event {
        self.now += Duration::from_millis(self.random.below(self.manner.tick));
        let early = self.random.chance(10);
        let due = self.timers.iter().filter(|(at, _)| early || *at <= self.now).map(|(_, timer)| *timer);
        let due: Vec<TimerId> = due.collect();
        match self.random.pick(&due) {
            Some(timer) => self.fire(timer),
            None => self.noise(),
        }
    }

    fn fire(&mut self, timer: TimerId) -> Event {
        self.timers.retain(|(_, armed)| *armed != timer);
        Event::Fired(timer)
    }

    /// Only towards the end one that ends the program.
    fn command(&mut self, step: usize) -> Command {
        let seconds = self.random.pick(&[0, 5, 60, 60]).unwrap_or(5);
        let queued = self.random.pick(&[1, 40, 150, 150]).unwrap_or(40);
        let settings = [
            Setting::SwitchMaxTime(Duration::from_secs(seconds)),
            Setting::MaxQueued(queued),
            Setting::MaxOpen(self.random.pick(&[None, Some(1), Some(10), Some(200)]).flatten()),
            Setting::NetBufferSize(4096),
        ];
        let mut some = vec![Command::Switch, Command::Switch, Command::Switch, Command::Abort];
        some.extend(self.random.pick(&settings).map(Command::Set));
        let known = self.witness.stock.backends.len();
        some.extend([change(&mut self.random, known), change(&mut self.random, known)].map(Command::Change));
        some.extend(self.witness.switch.map(|_| Command::Interrupt));
        some.extend((!self.witness.clients.is_empty()).then_some(Command::Quit));
        if step > STEPS - STEPS / 10 {
            some.extend([Command::Interrupt, Command::Stop, Command::QuitForce]);
        }
        self.random.pick(&some).unwrap_or(Command::Switch)
    }

    /// Any report with any id out of few: stale, unknown, doubled, too early; now and then true by chance.
    fn noise(&mut self) -> Event {
        let id = ClientId((self.clients + 3).saturating_sub(self.random.below(12)));
        let timer = TimerId(self.random.below(self.witness.next_timer + 3));
        let run = RunId(self.random.below(self.witness.next_run + 3));
        let mut any = about(id).to_vec();
        any.extend([Event::Fired(timer), Event::ScriptEnded(run, SCRIPT_ENDS[0])]);
        let backend = BackendId(self.random.below(8) as usize);
        any.extend([Event::Probed(backend, ProbeEnd::Reached), Event::Flowed(id, self.traffic())]);
        // Ids only grow: an arrival may be told twice, but not after the client has ended.
        any.extend(self.witness.clients.contains_key(&id).then(|| self.arrival(id)));
        let event = self.random.pick(&any).unwrap_or(Event::HungUp(id));
        if let Event::Fired(timer) = event { self.fire(timer) } else { event }
    }

    /// Whatever the state, when everything outstanding has finished nobody is there.
    fn drain(&mut self) -> Result<(), String> {
        let most = self.witness.clients.len() * 20 + 20;
        for _ in 0..most {
            let witness = &self.witness;
            let assigned = witness.clients.iter().find(|(_, client)| client.place != Place::Held);
            let event = match (assigned, witness.switch.and_then(|switch| switch.script)) {
                (Some((&id, client)), _) => match client.place {
                    Place::Held | Place::Dialling(_) => Event::Connected(id),
                    Place::Open(_) => Event::Dismissible(id),
                    Place::Ending(_) => Event::Closed(id, CloseReason::BackendEnded, traffic_of(id)),
                },
                (None, Some(run)) => Event::ScriptEnded(run, SCRIPT_ENDS[0]),
                (None, None) => match self.witness.clients.values().find_map(|client| client.pause) {
                    Some(timer) => Event::Fired(timer),
                    None => break,
                },
            };
            self.tell(event)?;
        }
        if self.witness.life == Life::Running {
            self.requests += 1;
            self.tell(Event::Asked(RequestId(self.requests), Command::Quit))?;
        }
        let (arrived, ended, life) = (self.clients, self.ended, self.witness.life);
        if arrived == ended && life == Life::Over {
            return Ok(());
        }
        Err(self.message(&format!("everybody ends and then the program: {arrived} arrived, {ended} ended, {life:?}")))
    }

    fn message(&self, words: &str) -> String {
        let step = self.trace.len().saturating_sub(1);
        let last = &self.trace[self.trace.len().saturating_sub(6)..];
        let tail: String = last.iter().map(line).collect();
        format!("SEED={} step {step}: {words}\nlast events:\n{tail}", self.seed)
    }
}

fn line((event, actions): &(Event, Vec<Action>)) -> String {
    format!("{event:?}\n    {actions:?}\n")
}

/// A number from the environment, for people.
fn wish(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

#[test]
fn the_promises_hold_in_random_histories() {
    let seeds = match wish("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..wish("SEEDS").unwrap_or(SEEDS),
    };
    let (mut total, mut events) = (Found::default(), 0);
    for seed in seeds {
        let (found, trace) = Run::new(seed, |_| {}).live().unwrap_or_else(|broken| panic!("{broken}"));
        if let Some(alarm) = found.alarm {
            panic!("{alarm}");
        }
        if wish("SEED").is_some() {
            trace.iter().enumerate().for_each(|(step, entry)| print!("{step}: {}", line(entry)));
        }
        let (_, again) = Run::new(seed, |_| {}).live().unwrap_or_else(|broken| panic!("{broken}"));
        assert!(trace == again, "SEED={seed}: the same history was decided differently");
        events += trace.len();
        trace.iter().for_each(|(_, actions)| total.evidence.collect(actions));
        total.most_held = total.most_held.max(found.most_held);
        total.most_assigned = total.most_assigned.max(found.most_assigned);
    }
    println!("{events} events, at most {} held, {} assigned", total.most_held, total.most_assigned);
    println!("{:?}", total.evidence);
    if wish("SEED").is_none() {
        assert!(events >= 100_000, "{events} events are too few");
        assert!(total.most_held >= 100 && total.most_assigned >= 100, "the histories have become too quiet");
        total.evidence.assert_reached(&REACHABLE);
        total.evidence.assert_reached(&REACHABLE_WITH_POOLS);
    }
}

/// The witness sees each broken rule by itself, whether or not an assertion of the core's own fails first.
#[cfg(feature = "mutation")]
#[test]
fn every_broken_rule_is_noticed() {
    for mutation in core_support::mutations::all() {
        let found = (0..SEEDS).find_map(|seed| Run::new(seed, |core| core.mutate(mutation)).live().err());
        let Some(found) = found else { panic!("{mutation:?} is not noticed") };
        println!("{mutation:?}: {found}");
    }
}
