//! Tells the core's notes to the log and to the board. Every line about a client carries its id and address, so that
//! one `grep` shows a connection's life.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use super::stats::Board;
use super::words::system_words;
use crate::config::Service;
use crate::core::msg::{Action, BackendId, Change, DialFailure, Note, Outcome, ScriptEnd, UpstreamId, View, Why};
use crate::endpoint::{Address, Endpoint};

/// What is known about a client, for the log.
#[derive(Debug)]
pub struct Facts {
    pub peer: Address,
    pub accepted: Instant,
    pub granted: Option<Instant>,
    pub connected: Option<(Instant, Address)>,
    /// Bytes passed on to the backend and to the client.
    pub up: u64,
    pub down: u64,
    /// The system's word for the last thing that failed.
    pub cause: Option<io::Error>,
}

impl Facts {
    pub fn new(peer: Address, accepted: Instant) -> Facts {
        Facts { peer, accepted, granted: None, connected: None, up: 0, down: 0, cause: None }
    }

    /// Since the backend took the connection.
    pub fn connected_for(&self) -> Duration {
        self.connected.as_ref().map_or(Duration::ZERO, |(at, _)| at.elapsed())
    }

    fn cause(&self) -> String {
        self.cause.as_ref().map(|cause| format!(": {}", system_words(cause))).unwrap_or_default()
    }
}

/// Where notes go.
#[derive(Debug)]
pub struct Journal {
    board: Board,
    /// Backends as configured or assigned since, by `BackendId`.
    names: Vec<String>,
    /// Backends that have failed, and when.
    failed: BTreeMap<BackendId, Instant>,
    /// Lines that tell of a shortage.
    not_served: Seldom,
    closed: Seldom,
}

/// A kind of line that comes in thousands when it comes: one a second is written, with how many were left out before it.
#[derive(Debug, Default)]
struct Seldom {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// What is to be added to the line, if it is time for one.
    fn turn(&mut self, now: Instant) -> Option<String> {
        if self.last.is_some_and(|last| now.duration_since(last) < Seldom::INTERVAL) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.left_out) {
            0 => Some(String::new()),
            number => Some(format!(" ({number} more like this since the line before)")),
        }
    }
}

impl Journal {
    pub fn new(service: &Service, board: Board) -> Journal {
        let names = service.backends().map(|backend| backend.endpoint.to_string()).collect();
        Journal { board, names, failed: BTreeMap::new(), not_served: Seldom::default(), closed: Seldom::default() }
    }

    /// A backend is somewhere else now, or new.
    pub fn name_backend(&mut self, backend: BackendId, endpoint: &Endpoint) {
        match self.names.get_mut(backend.0) {
            Some(name) => *name = endpoint.to_string(),
            None => self.names.push(endpoint.to_string()),
        }
    }

    /// The situation after an event.
    pub fn publish(&self, view: View, actions: &[Action]) {
        self.board.publish(view, actions);
    }

    /// An upstream, as it was configured.
    pub fn name(&self, upstream: UpstreamId) -> String {
        self.board.name(upstream)
    }

    /// One decision. `facts` are those of the client it is about.
    pub fn note(&mut self, note: Note, facts: Option<&Facts>) {
        match note {
            Note::SwitchStarted { from, to, timeout, max_queued, .. } => info!(
                "Starting switch: {} -> {}, timeout: {:.2} s, {max_queued} connections buffer",
                self.name(from),
                self.name(to),
                timeout.as_secs_f64()
            ),
            Note::Drained => info!("all connections closed"),
            Note::SwitchEnded { from, to, outcome } => match outcome {
                Outcome::Moved { .. } => info!("{outcome}; active: {}", self.name(to)),
                Outcome::Failed(_) => warn!("{outcome}; active: {}", self.name(from)),
            },
            Note::BackendFailed(backend) => {
                self.failed.insert(backend, Instant::now());
                warn!("backend {} has failed: it is passed over where there is another", self.backend(backend));
            }
            Note::BackendBack(backend) => {
                let since = self.failed.remove(&backend);
                let downtime = since.map(|at| seconds(at.elapsed())).unwrap_or_default();
                info!("backend {} is back, downtime: {downtime}", self.backend(backend));
            }
            Note::BackendDisabled(backend) => {
                warn!("backend {} has failed and is disabled until somebody enables it", self.backend(backend));
            }
            Note::PoolChanged(change) => self.changed(change),
            Note::QueueOverLimit { held, limit } => {
                warn!("{held} clients in the queue, above the limit of {limit} at which a switch would fail");
            }
            Note::SettingChanged => {}
            Note::Stopping { granted, held } => info!("stopping: {granted} clients connected, {held} held"),
            Note::InterruptIgnored { granted, held } => {
                warn!("ctrl-c: staying for {granted} clients connected and {held} held; again within 5 s to stop");
            }
            Note::Arrived(client) => self.client(client.0, facts, |facts| format!("accepted from {}", facts.peer)),
            Note::Requeued(client) => self.client(client.0, facts, |_| "back in the queue".to_owned()),
            Note::Paused(client) => {
                self.client(client.0, facts, |_| "refused by all, will be offered again".to_owned())
            }
            Note::Granted(client, backend) => {
                self.client(client.0, facts, |facts| {
                    format!("dials {} after {} held", self.backend(backend), seconds(facts.accepted.elapsed()))
                });
            }
            Note::Connected(client) => self.client(client.0, facts, |facts| match (&facts.connected, facts.granted) {
                (Some((at, address)), Some(granted)) => {
                    format!("connected to {address} after {}", seconds(at.duration_since(granted)))
                }
                (Some(_) | None, _) => "connected".to_owned(),
            }),
            Note::DialFailed(client, backend, failure) => self.dial_failed(client.0, backend, failure, facts),
            Note::Ended(client, why) => self.ended(client.0, why, facts),
        }
    }

    fn client(&self, id: u64, facts: Option<&Facts>, words: impl FnOnce(&Facts) -> String) {
        if let (true, Some(facts)) = (log::log_enabled!(log::Level::Debug), facts) {
            debug!("client {id} from {}: {}", facts.peer, words(facts));
        }
    }

    fn dial_failed(&mut self, id: u64, backend: BackendId, failure: DialFailure, facts: Option<&Facts>) {
        let Some(facts) = facts else { return };
        let (peer, cause) = (&facts.peer, facts.cause());
        match failure {
            DialFailure::Backend => {
                error!("client {id} from {peer}: cannot connect to backend {}{cause}", self.backend(backend));
            }
            DialFailure::Local => {
                if let Some(more) = self.not_served.turn(Instant::now()) {
                    error!("client {id} from {peer}: cannot serve it{cause}{more}");
                }
            }
            DialFailure::CalledOff => debug!("client {id} from {peer}: dial of {}{cause}", self.backend(backend)),
        }
    }

    fn ended(&mut self, id: u64, why: Why, facts: Option<&Facts>) {
        let Some(facts) = facts else { return };
        let level = match why {
            Why::HungUp | Why::ClientEnded | Why::BackendEnded | Why::Lingered | Why::Dismissed => log::Level::Debug,
            Why::NoBackend
            | Why::Full
            | Why::NoRoom
            | Why::Shutdown
            | Why::ClientFailed
            | Why::BackendFailed
            | Why::Cut => log::Level::Warn,
            Why::Panicked => log::Level::Error,
        };
        let mut more = String::new();
        if why == Why::NoRoom {
            let Some(left_out) = self.closed.turn(Instant::now()) else { return };
            more = left_out;
        }
        log::log!(
            level,
            "client {id} from {}: closed: {why}{}{more}; {} bytes up, {} down, {} in all, {} held",
            facts.peer,
            facts.cause(),
            facts.up,
            facts.down,
            seconds(facts.accepted.elapsed()),
            seconds(facts.granted.map_or_else(|| facts.accepted.elapsed(), |at| at.duration_since(facts.accepted))),
        );
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Enable(backend) => info!("backend {} enabled", self.backend(backend)),
            Change::Disable(backend) => {
                self.failed.remove(&backend);
                info!("backend {} disabled", self.backend(backend));
            }
            Change::Create(group, _) => info!("backend created in group {}", group.index),
            Change::Assign(backend, _) => info!("backend {} assigned", self.backend(backend)),
            Change::Limit(backend, Some(limit)) => info!("backend {}: limit {limit}", self.backend(backend)),
            Change::Limit(backend, None) => info!("backend {}: no limit", self.backend(backend)),
            Change::Reset(backend) => info!("backend {}: counters reset", self.backend(backend)),
            Change::Policy(group, policy, failover) => {
                info!("group {}: {policy:?}, {failover:?}", group.index);
            }
        }
    }

    /// How a probe ended.
    pub fn probed(&self, backend: BackendId, result: &io::Result<()>) {
        match result {
            Ok(()) => debug!("probe: backend {} takes connections", self.backend(backend)),
            Err(cause) => {
                debug!("probe: cannot connect to backend {}: {}", self.backend(backend), system_words(cause));
            }
        }
    }

    fn backend(&self, backend: BackendId) -> &str {
        self.names.get(backend.0).map_or("", String::as_str)
    }
}

/// The script is about to be started, with these words.
pub fn script_started(script: &Path, arguments: &[String]) {
    info!("running switch script: {} {}", script.display(), arguments.join(" "));
}

/// A line of the script's output.
pub fn script_line(line: &str) {
    info!("script: {line}");
}

/// Also for a script that was killed.
pub fn script_ended(end: ScriptEnd) {
    match end {
        ScriptEnd::Exited(0) => info!("switch script returned: 0"),
        ScriptEnd::Exited(_) | ScriptEnd::Signalled(_) | ScriptEnd::NotStarted(_) => error!("switch {end}"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_thousand_lines_in_a_second_one_is_written_and_the_next_tells_of_the_others() {
        let (mut lines, start) = (Seldom::default(), Instant::now());
        assert_eq!(lines.turn(start).as_deref(), Some(""));
        (1..1000).for_each(|n| assert_eq!(lines.turn(start + Duration::from_micros(n)), None));
        let told = lines.turn(start + Seldom::INTERVAL);
        assert_eq!(told.as_deref(), Some(" (999 more like this since the line before)"));
        assert_eq!(lines.turn(start + 2 * Seldom::INTERVAL).as_deref(), Some(""));
    }
}
