//! The words of the program's own log. Every line about a client carries its id and address, so that one `grep` shows a
//! connection's life.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use super::{Moment, Scene, Voice};
use crate::core::msg::{BackendId, BackendView, Change, DialFailure, Note, Outcome, ScriptEnd, Totals, Why};
use crate::observe::journal::Facts;
use crate::observe::words::system_words;
use crate::seldom::Seldom;

/// The voice.
#[derive(Debug, Default)]
pub struct Origin {
    /// Lines that tell of a shortage.
    not_served: Seldom,
    no_port: Seldom,
    closed: Seldom,
}

impl Voice for Origin {
    fn note(&mut self, note: Note, scene: &Scene<'_>) {
        match note {
            Note::SwitchStarted { from, to, timeout, max_queued, .. } => info!(
                "Starting switch: {} -> {}, timeout: {:.2} s, {max_queued} connections buffer",
                scene.upstream(from),
                scene.upstream(to),
                timeout.as_secs_f64()
            ),
            Note::Drained => info!("all connections closed"),
            Note::SwitchEnded { from, to, outcome } => match outcome {
                Outcome::Moved { .. } => info!("{outcome}; active: {}", scene.upstream(to)),
                Outcome::Failed(_) => warn!("{outcome}; active: {}", scene.upstream(from)),
            },
            Note::BackendFailed(backend) => {
                warn!("backend {} has failed: it is passed over where there is another", scene.backend(backend));
            }
            Note::BackendBack(backend) => {
                let since = scene.failed.get(&backend);
                let downtime = since.map(|at| seconds(at.elapsed())).unwrap_or_default();
                info!("backend {} is back, downtime: {downtime}", scene.backend(backend));
            }
            Note::BackendDisabled(backend) => {
                warn!("backend {} has failed and is disabled until somebody enables it", scene.backend(backend));
            }
            Note::PoolChanged(change) => changed(change, scene),
            Note::QueueOverLimit { held, limit } => {
                warn!("{held} clients in the queue, above the limit of {limit} at which a switch would fail");
            }
            Note::SettingChanged => {}
            Note::Stopping { granted, held } => info!("stopping: {granted} clients connected, {held} held"),
            Note::InterruptIgnored { granted, held } => {
                warn!("ctrl-c: staying for {granted} clients connected and {held} held; again within 5 s to stop");
            }
            Note::Arrived(client) => {
                client_line(client.0, scene.facts, |facts| format!("accepted from {}", facts.peer))
            }
            Note::Requeued(client) => client_line(client.0, scene.facts, |_| "back in the queue".to_owned()),
            Note::Paused(client) => {
                client_line(client.0, scene.facts, |_| "refused by all, will be offered again".to_owned())
            }
            Note::Granted(client, backend) => {
                client_line(client.0, scene.facts, |facts| {
                    format!("dials {} after {} held", scene.backend(backend), seconds(facts.accepted.elapsed()))
                });
            }
            Note::Connected(client) => {
                client_line(client.0, scene.facts, |facts| match (&facts.connected, facts.granted) {
                    (Some((at, address)), Some(granted)) => {
                        format!("connected to {address} after {}", seconds(at.duration_since(granted)))
                    }
                    (Some(_) | None, _) => "connected".to_owned(),
                })
            }
            Note::DialFailed(client, backend, failure) => self.dial_failed(client.0, backend, failure, scene),
            Note::Ended(client, why) => self.ended(client.0, why, scene.facts),
        }
    }

    fn probed(&mut self, backend: BackendId, result: &io::Result<()>, scene: &Scene<'_>) {
        match result {
            Ok(()) => debug!("probe: backend {} takes connections", scene.backend(backend)),
            Err(cause) => {
                debug!("probe: cannot connect to backend {}: {}", scene.backend(backend), system_words(cause));
            }
        }
    }

    fn moment(&mut self, moment: &Moment<'_>) {
        let name = env!("CARGO_PKG_NAME");
        match moment {
            Moment::Starting { services } => debug!("{name} starting: {} services", services.len()),
            Moment::Listening { service, at } => debug!("service {}: listening on {at}", service.name),
            Moment::Started { listening, room } => {
                let listening = listening.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                info!("{name} {} started: listening on {listening}, room for {room}", env!("CARGO_PKG_VERSION"));
            }
            Moment::BindFailed { service, at, cause, again } => warn!(
                "service {}: cannot listen on {at}: {}; tried again in {}",
                service.name,
                system_words(cause),
                seconds(*again)
            ),
            Moment::Tally { backends } => backends.iter().for_each(|(name, backend)| tally(name, backend)),
            Moment::Reopening => info!("SIGHUP: opening the log files again"),
            Moment::Signal { name } => info!("signal received: {name}"),
            Moment::Ignored { name } => info!("signal ignored: {name}"),
            Moment::Ended => info!("{name} ended"),
        }
    }
}

impl Origin {
    fn dial_failed(&mut self, id: u64, backend: BackendId, failure: DialFailure, scene: &Scene<'_>) {
        let Some(facts) = scene.facts else { return };
        let (peer, cause) = (&facts.peer, cause(facts));
        match failure {
            DialFailure::Backend => {
                error!("client {id} from {peer}: cannot connect to backend {}{cause}", scene.backend(backend));
            }
            DialFailure::NoPort => {
                if let Some(more) = self.no_port.turn(Instant::now()) {
                    let backend = scene.backend(backend);
                    error!("client {id} from {peer}: cannot connect to backend {backend}{cause}{more}");
                }
            }
            DialFailure::Local => {
                if let Some(more) = self.not_served.turn(Instant::now()) {
                    error!("client {id} from {peer}: cannot serve it{cause}{more}");
                }
            }
            DialFailure::CalledOff => debug!("client {id} from {peer}: dial of {}{cause}", scene.backend(backend)),
        }
    }

    fn ended(&mut self, id: u64, why: Why, facts: Option<&Facts>) {
        let Some(facts) = facts else { return };
        let level = match why {
            Why::HungUp | Why::ClientEnded | Why::BackendEnded | Why::Lingered | Why::Dismissed | Why::Idle => {
                log::Level::Debug
            }
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
            cause_of(why, facts),
            facts.up,
            facts.down,
            seconds(facts.accepted.elapsed()),
            seconds(facts.granted.map_or_else(|| facts.accepted.elapsed(), |at| at.duration_since(facts.accepted))),
        );
    }
}

fn tally(name: &str, backend: &BackendView) {
    let state = match (backend.enabled, backend.failed) {
        (false, _) => "disabled",
        (true, true) => "failed",
        (true, false) => "good",
    };
    let BackendView { granted, totals, .. } = backend;
    let Totals { connections, errors, up, down, .. } = totals;
    info!(
        "backend {name} is {state}: {granted} clients, {connections} so far, {errors} errors, {up} bytes up, {down} down"
    );
}

fn client_line(id: u64, facts: Option<&Facts>, words: impl FnOnce(&Facts) -> String) {
    if let (true, Some(facts)) = (log::log_enabled!(log::Level::Debug), facts) {
        debug!("client {id} from {}: {}", facts.peer, words(facts));
    }
}

fn changed(change: Change, scene: &Scene<'_>) {
    match change {
        Change::Enable(backend) => info!("backend {} enabled", scene.backend(backend)),
        Change::Disable(backend) => {
            info!("backend {} disabled", scene.backend(backend));
        }
        Change::Create(group, _) => info!("backend created in group {}", group.index),
        Change::Assign(backend, _) => info!("backend {} assigned", scene.backend(backend)),
        Change::Limit(backend, Some(limit)) => info!("backend {}: limit {limit}", scene.backend(backend)),
        Change::Limit(backend, None) => info!("backend {}: no limit", scene.backend(backend)),
        Change::Reset(backend) => info!("backend {}: counters reset", scene.backend(backend)),
        Change::Policy(group, policy, failover) => {
            info!("group {}: {policy:?}, {failover:?}", group.index);
        }
    }
}

/// What failed last, if that is why.
fn cause_of(why: Why, facts: &Facts) -> String {
    match why {
        Why::NoBackend | Why::NoRoom | Why::ClientFailed | Why::BackendFailed => cause(facts),
        Why::HungUp
        | Why::Full
        | Why::Idle
        | Why::Shutdown
        | Why::ClientEnded
        | Why::BackendEnded
        | Why::Lingered
        | Why::Dismissed
        | Why::Cut
        | Why::Panicked => String::new(),
    }
}

fn cause(facts: &Facts) -> String {
    facts.cause.as_ref().map(|cause| format!(": {}", system_words(cause))).unwrap_or_default()
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
