//! cbpx's own log. Every line about a client has its id and address, so that one `grep` shows the whole connection.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use crate::core::msg::{BackendId, BackendView, Change, CloseReason, DialFailure, Note, Outcome, ScriptEnd, Totals};
use crate::observe::event_log::ConnectionInfo;
use crate::observe::log_format::{LogContext, LogFormat, ProcessEvent};
use crate::observe::words::system_words;
use crate::rate_limit::RateLimit;

/// The log format.
#[derive(Debug, Default)]
pub struct CbpxLog {
    /// Limits lines about a lack of resources.
    not_served: RateLimit,
    no_port: RateLimit,
    closed: RateLimit,
}

impl LogFormat for CbpxLog {
    fn note(&mut self, note: Note, context: &LogContext<'_>) {
        match note {
            Note::SwitchStarted { from, to, timeout, max_queued, .. } => info!(
                "Starting switch: {} -> {}, timeout: {:.2} s, {max_queued} connections buffer",
                context.upstream(from),
                context.upstream(to),
                timeout.as_secs_f64()
            ),
            Note::Drained => info!("all connections closed"),
            Note::SwitchEnded { from, to, outcome } => match outcome {
                Outcome::Moved { .. } => info!("{outcome}; active: {}", context.upstream(to)),
                Outcome::Failed(_) => warn!("{outcome}; active: {}", context.upstream(from)),
            },
            Note::BackendFailed(backend) => {
                warn!("backend {} has failed: it is used only if no other is available", context.backend(backend));
            }
            Note::BackendBack(backend) => {
                let since = context.failed.get(&backend);
                let downtime = since.map(|at| seconds(at.elapsed())).unwrap_or_default();
                info!("backend {} is back, downtime: {downtime}", context.backend(backend));
            }
            Note::BackendDisabled(backend) => {
                warn!("backend {} has failed and is disabled until an operator enables it", context.backend(backend));
            }
            Note::PoolChanged(change) => changed(change, context),
            Note::QueueOverLimit { held, limit } => {
                warn!("{held} clients in the queue, above the limit of {limit} at which a switch would fail");
            }
            Note::SettingChanged => {}
            Note::Stopping { assigned, held } => info!("stopping: {assigned} clients connected, {held} held"),
            Note::InterruptIgnored { assigned, held } => {
                warn!("ctrl-c: not stopping, {assigned} clients connected, {held} held; again within 5 s to stop");
            }
            Note::Arrived(client) => client_line(client.0, context.info, |info| format!("accepted from {}", info.peer)),
            Note::Requeued(client) => client_line(client.0, context.info, |_| "back in the queue".to_owned()),
            Note::Paused(client) => {
                client_line(client.0, context.info, |_| "refused by all backends, will be offered again".to_owned())
            }
            Note::Assigned(client, backend) => {
                client_line(client.0, context.info, |info| {
                    format!("dials {} after {} held", context.backend(backend), seconds(info.accepted.elapsed()))
                });
            }
            Note::Connected(client) => {
                client_line(client.0, context.info, |info| match (&info.connected, info.assigned) {
                    (Some((at, address)), Some(assigned)) => {
                        format!("connected to {address} after {}", seconds(at.duration_since(assigned)))
                    }
                    (Some(_) | None, _) => "connected".to_owned(),
                })
            }
            Note::DialFailed(client, backend, failure) => self.dial_failed(client.0, backend, failure, context),
            Note::Ended(client, why) => self.ended(client.0, why, context.info),
        }
    }

    fn probed(&mut self, backend: BackendId, result: &io::Result<()>, context: &LogContext<'_>) {
        match result {
            Ok(()) => debug!("probe: backend {} takes connections", context.backend(backend)),
            Err(cause) => {
                debug!("probe: cannot connect to backend {}: {}", context.backend(backend), system_words(cause));
            }
        }
    }

    fn process_event(&mut self, process_event: &ProcessEvent<'_>) {
        let name = env!("CARGO_PKG_NAME");
        match process_event {
            ProcessEvent::Starting { services } => debug!("{name} starting: {} services", services.len()),
            ProcessEvent::Listening { service, at } => debug!("service {}: listening on {at}", service.name),
            ProcessEvent::Started { listening, room } => {
                let listening = listening.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                info!("{name} {} started: listening on {listening}, room for {room}", env!("CARGO_PKG_VERSION"));
            }
            ProcessEvent::BindFailed { service, at, cause, again } => warn!(
                "service {}: cannot listen on {at}: {}; tried again in {}",
                service.name,
                system_words(cause),
                seconds(*again)
            ),
            ProcessEvent::Tally { backends } => backends.iter().for_each(|(name, backend)| tally(name, backend)),
            ProcessEvent::Reopening => info!("SIGHUP: opening the log files again"),
            ProcessEvent::Signal { name } => info!("signal received: {name}"),
            ProcessEvent::Ignored { name } => info!("signal ignored: {name}"),
            ProcessEvent::Ended => info!("{name} ended"),
        }
    }
}

impl CbpxLog {
    fn dial_failed(&mut self, id: u64, backend: BackendId, failure: DialFailure, context: &LogContext<'_>) {
        let Some(info) = context.info else { return };
        let (peer, cause) = (&info.peer, cause(info));
        match failure {
            DialFailure::Backend => {
                error!("client {id} from {peer}: cannot connect to backend {}{cause}", context.backend(backend));
            }
            DialFailure::NoPort => {
                if let Some(more) = self.no_port.turn(Instant::now()) {
                    let backend = context.backend(backend);
                    error!("client {id} from {peer}: cannot connect to backend {backend}{cause}{more}");
                }
            }
            DialFailure::Local => {
                if let Some(more) = self.not_served.turn(Instant::now()) {
                    error!("client {id} from {peer}: cannot serve it{cause}{more}");
                }
            }
            DialFailure::Cancelled => debug!("client {id} from {peer}: dial of {}{cause}", context.backend(backend)),
        }
    }

    fn ended(&mut self, id: u64, why: CloseReason, info: Option<&ConnectionInfo>) {
        let Some(info) = info else { return };
        let level = match why {
            CloseReason::HungUp
            | CloseReason::ClientEnded
            | CloseReason::BackendEnded
            | CloseReason::Lingered
            | CloseReason::ClosedForSwitch
            | CloseReason::Idle => log::Level::Debug,
            CloseReason::NoBackend
            | CloseReason::Full
            | CloseReason::NoRoom
            | CloseReason::Shutdown
            | CloseReason::ClientFailed
            | CloseReason::BackendFailed
            | CloseReason::Terminated => log::Level::Warn,
            CloseReason::Panicked => log::Level::Error,
        };
        let mut more = String::new();
        if why == CloseReason::NoRoom {
            let Some(left_out) = self.closed.turn(Instant::now()) else { return };
            more = left_out;
        }
        log::log!(
            level,
            "client {id} from {}: closed: {why}{}{more}; {} bytes up, {} down, {} in all, {} held",
            info.peer,
            cause_of(why, info),
            info.up,
            info.down,
            seconds(info.accepted.elapsed()),
            seconds(info.assigned.map_or_else(|| info.accepted.elapsed(), |at| at.duration_since(info.accepted))),
        );
    }
}

fn tally(name: &str, backend: &BackendView) {
    let state = match (backend.enabled, backend.failed) {
        (false, _) => "disabled",
        (true, true) => "failed",
        (true, false) => "good",
    };
    let BackendView { assigned, totals, .. } = backend;
    let Totals { connections, errors, up, down, .. } = totals;
    info!(
        "backend {name} is {state}: {assigned} clients, {connections} so far, {errors} errors, {up} bytes up, {down} down"
    );
}

fn client_line(id: u64, info: Option<&ConnectionInfo>, words: impl FnOnce(&ConnectionInfo) -> String) {
    if let (true, Some(info)) = (log::log_enabled!(log::Level::Debug), info) {
        debug!("client {id} from {}: {}", info.peer, words(info));
    }
}

fn changed(change: Change, context: &LogContext<'_>) {
    match change {
        Change::Enable(backend) => info!("backend {} enabled", context.backend(backend)),
        Change::Disable(backend) => {
            info!("backend {} disabled", context.backend(backend));
        }
        Change::Create(group, _) => info!("backend created in group {}", group.index),
        Change::SetEndpoint(backend, _) => info!("backend {} assigned", context.backend(backend)),
        Change::Limit(backend, Some(limit)) => info!("backend {}: limit {limit}", context.backend(backend)),
        Change::Limit(backend, None) => info!("backend {}: no limit", context.backend(backend)),
        Change::Reset(backend) => info!("backend {}: counters reset", context.backend(backend)),
        Change::Policy(group, policy, failover) => {
            info!("group {}: {policy:?}, {failover:?}", group.index);
        }
    }
}

/// The last error, if the connection ended because of it.
fn cause_of(why: CloseReason, info: &ConnectionInfo) -> String {
    match why {
        CloseReason::NoBackend | CloseReason::NoRoom | CloseReason::ClientFailed | CloseReason::BackendFailed => {
            cause(info)
        }
        CloseReason::HungUp
        | CloseReason::Full
        | CloseReason::Idle
        | CloseReason::Shutdown
        | CloseReason::ClientEnded
        | CloseReason::BackendEnded
        | CloseReason::Lingered
        | CloseReason::ClosedForSwitch
        | CloseReason::Terminated
        | CloseReason::Panicked => String::new(),
    }
}

fn cause(info: &ConnectionInfo) -> String {
    info.cause.as_ref().map(|cause| format!(": {}", system_words(cause))).unwrap_or_default()
}

/// Logs the command line of the script, which is about to start.
pub fn script_started(script: &Path, arguments: &[String]) {
    info!("running switch script: {} {}", script.display(), arguments.join(" "));
}

/// Logs a line of the script's output.
pub fn script_line(line: &str) {
    info!("script: {line}");
}

/// Logs the script's exit, also if it was killed.
pub fn script_ended(end: ScriptEnd) {
    match end {
        ScriptEnd::Exited(0) => info!("switch script returned: 0"),
        ScriptEnd::Exited(_) | ScriptEnd::Signalled(_) | ScriptEnd::NotStarted(_) => error!("switch {end}"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
