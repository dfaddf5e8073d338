//! Which reports mean something in a state, and which do not.

use cbpx::config::Policy;
use cbpx::core::msg::{BackendId, ClientId, Event, ProbeEnd, RunId, ScriptEnd, TimerId, Traffic};

use crate::core_support::events::{SCRIPT_ENDS, about};
use crate::core_support::stock::Awaited;
use crate::core_support::witness::{Life, Place, Witness};
use crate::core_support::{hash_of, traffic_of};

impl Witness {
    /// Every report that means something now, but for arrivals and questions. A timer may fire as soon as it is armed:
    /// time is what happens between two events.
    pub fn possible(&self, reports: &mut Vec<Event>) {
        for (&id, client) in &self.clients {
            client.possible(id, reports);
        }
        if let Some(run) = self.switch.and_then(|switch| switch.script) {
            reports.extend(SCRIPT_ENDS.map(|end| Event::ScriptEnded(run, end)));
        }
        // Where it matters what has been reported so far.
        if self.stock.groups.iter().flatten().any(|group| matches!(group.policy, Policy::Least(_))) {
            let open = self.clients.iter().filter(|(_, client)| matches!(client.place, Place::Open(_)));
            reports.extend(open.map(|(&id, _)| Event::Flowed(id, Traffic { up: 5, ..Traffic::default() })));
        }
        for (at, backend) in self.stock.backends.iter().enumerate() {
            if backend.awaited == Awaited::Probe {
                reports.extend([ProbeEnd::Reached, ProbeEnd::Failed].map(|end| Event::Probed(BackendId(at), end)));
            }
        }
        reports.extend(self.live_timers().map(Event::Fired));
    }

    /// Reports that are too late, too early, doubled or about nobody: each must change nothing.
    pub fn meaningless(&self, reports: &mut Vec<Event>) {
        for (&id, client) in &self.clients {
            reports.push(Event::Arrived(id, hash_of(id)));
            let about = about(id);
            match client.place {
                Place::Held => {
                    reports.extend(&about[1..]);
                    reports.push(Event::Flowed(id, traffic_of(id)));
                }
                Place::Dialling(_) => reports.extend([about[0], about[4], about[5]]),
                Place::Open(_) => {
                    reports.extend(&about[..4]);
                    reports.push(about[5]);
                }
                Place::Ending(_) => reports.extend(&about[..5]),
            }
        }
        reports.extend(about(UNKNOWN));
        reports.push(Event::Flowed(UNKNOWN, traffic_of(UNKNOWN)));
        for (at, backend) in self.stock.backends.iter().enumerate() {
            if backend.awaited != Awaited::Probe || self.closing() {
                reports.push(Event::Probed(BackendId(at), ProbeEnd::Failed));
            }
        }
        reports.push(Event::Probed(BackendId(1 << 40), ProbeEnd::Reached));
        let live = |timer: &u64| self.live_timers().all(|live| live.0 != *timer);
        reports.extend((0..self.next_timer + 1).filter(live).map(|timer| Event::Fired(TimerId(timer))));
        let run = self.switch.and_then(|switch| switch.script).map(|run| run.0);
        let stale = (0..self.next_run + 1).filter(|other| Some(*other) != run);
        reports.extend(stale.map(|run| Event::ScriptEnded(RunId(run), ScriptEnd::Exited(0))));
    }

    /// Timers whose firing means something now; every other one is stale.
    fn live_timers(&self) -> impl Iterator<Item = TimerId> {
        let life = match self.life {
            Life::Running | Life::Over => None,
            Life::Stopping(timer) | Life::Closing(timer) => Some(timer),
        };
        let switch = self.switch.map(|switch| switch.undoing.map_or(switch.deadline, |(_, limit)| limit));
        let waiting = self.stock.backends.iter().filter_map(|backend| match backend.awaited {
            Awaited::Timer(timer) => Some(timer),
            Awaited::Nothing | Awaited::Probe => None,
        });
        let pauses = self.clients.values().filter_map(|client| client.pause);
        switch.into_iter().chain(life).chain(self.second).chain(waiting).chain(pauses)
    }
}

/// A client that never arrived.
const UNKNOWN: ClientId = ClientId(1 << 40);
