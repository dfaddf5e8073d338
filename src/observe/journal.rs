//! Tells the core's notes to the log and to the board. Every line about a client carries its id and address, so that
//! one `grep` shows a connection's life.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use super::stats::Board;
use super::words::system_words;
use crate::config::Service;
use crate::core::msg::{Action, BackendId, DialFailure, Note, Outcome, ScriptEnd, UpstreamId, View, Why};
use crate::endpoint::Address;
use crate::seldom::Seldom;

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

    fn cause(&self) -> String {
        self.cause.as_ref().map(|cause| format!(": {}", system_words(cause))).unwrap_or_default()
    }
}

/// Where notes go.
#[derive(Clone, Debug)]
pub struct Journal {
    board: Board,
    /// As configured, by `BackendId`.
    backends: Vec<String>,
    /// Lines that tell of a shortage.
    not_served: Seldom,
    closed: Seldom,
}

impl Journal {
    pub fn new(service: &Service, board: Board) -> Journal {
        let backends = service.backends().map(|backend| backend.endpoint.to_string()).collect();
        Journal { board, backends, not_served: Seldom::default(), closed: Seldom::default() }
    }

    /// The situation after an event.
    pub fn publish(&self, view: View, actions: &[Action]) {
        self.board.publish(view, actions);
    }

    /// The first endpoint of an upstream.
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
            Why::NoBackend | Why::NoRoom | Why::Shutdown | Why::ClientFailed | Why::BackendFailed | Why::Cut => {
                log::Level::Warn
            }
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

    /// The script is about to be started, with these words.
    pub fn script_started(&self, script: &Path, arguments: &[String]) {
        info!("running switch script: {} {}", script.display(), arguments.join(" "));
    }

    /// A line of the script's output.
    pub fn script_line(&self, line: &str) {
        info!("script: {line}");
    }

    /// Also for a script that was killed.
    pub fn script_ended(&self, end: ScriptEnd) {
        match end {
            ScriptEnd::Exited(0) => info!("switch script returned: 0"),
            ScriptEnd::Exited(_) | ScriptEnd::Signalled(_) | ScriptEnd::NotStarted(_) => error!("switch {end}"),
        }
    }

    fn backend(&self, backend: BackendId) -> &str {
        self.backends.get(backend.0).map_or("", String::as_str)
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
