//! cbpx's own log. Every line about a client has its id and address, so that one `grep` shows the whole connection.

use std::io;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use crate::core::msg::{
    BackendId, BackendNote, BackendView, Change, ClientId, ClientNote, CloseReason, DialFailure, Outcome, ServiceNote,
    Totals,
};
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
    fn client(&mut self, client: ClientId, note: ClientNote, context: &LogContext<'_>) {
        let (id, info) = (client.0, context.info);
        match note {
            ClientNote::Arrived => client_line(id, info, |info| format!("accepted from {}", info.peer)),
            ClientNote::Assigned(backend) => client_line(id, info, |info| {
                format!("dials {} after {} held", context.backend(backend), seconds(info.accepted.elapsed()))
            }),
            ClientNote::Connected => client_line(id, info, |info| match (&info.connected, info.assigned) {
                (Some((at, address)), Some(assigned)) => {
                    format!("connected to {address} after {}", seconds(at.duration_since(assigned)))
                }
                (Some(_) | None, _) => "connected".to_owned(),
            }),
            ClientNote::DialFailed(backend, failure) => self.dial_failed(id, backend, failure, context),
            ClientNote::Requeued => client_line(id, info, |_| "back in the queue".to_owned()),
            ClientNote::Paused => client_line(id, info, |_| "refused by all, will be offered again".to_owned()),
            ClientNote::Ended(why) => self.ended(id, why, info),
        }
    }

    fn backend(&mut self, backend: BackendId, note: BackendNote, context: &LogContext<'_>) {
        let name = context.backend(backend);
        match note {
            BackendNote::Failed => warn!("backend {name} has failed: it is passed over where there is another"),
            BackendNote::Back => {
                let since = context.failed.get(&backend);
                let downtime = since.map(|at| seconds(at.elapsed())).unwrap_or_default();
                info!("backend {name} is back, downtime: {downtime}");
            }
            BackendNote::Disabled => warn!("backend {name} has failed and is disabled until somebody enables it"),
        }
    }

    fn service(&mut self, note: ServiceNote, context: &LogContext<'_>) {
        match note {
            ServiceNote::PoolChanged(change) => changed(change, context),
            ServiceNote::QueueOverLimit { held, limit } => {
                warn!("{held} clients in the queue, above the limit of {limit} at which a switch would fail");
            }
            ServiceNote::SwitchStarted { from, to, timeout, max_queued, .. } => info!(
                "Starting switch: {} -> {}, timeout: {:.2} s, {max_queued} connections buffer",
                context.upstream(from),
                context.upstream(to),
                timeout.as_secs_f64()
            ),
            ServiceNote::Drained => info!("all connections closed"),
            ServiceNote::SwitchEnded { from, to, outcome } => match outcome {
                Outcome::Moved { .. } => info!("{outcome}; active: {}", context.upstream(to)),
                Outcome::Failed(_) => warn!("{outcome}; active: {}", context.upstream(from)),
            },
            ServiceNote::SettingChanged => {}
            ServiceNote::Stopping { assigned, held } => info!("stopping: {assigned} clients connected, {held} held"),
            ServiceNote::InterruptIgnored { assigned, held } => {
                warn!("ctrl-c: staying for {assigned} clients connected and {held} held; again within 5 s to stop");
            }
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
        let (peer, cause) = (&info.peer, info.cause_words());
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
            info.cause_words()
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

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
