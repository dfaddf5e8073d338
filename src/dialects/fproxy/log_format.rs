//! fproxy's error log: failures, signals, start and end. The access log tells how each client ended.

use std::time::Instant;

use log::{error, info, warn};

use crate::core::msg::{BackendId, BackendNote, ClientId, ClientNote, CloseReason, DialFailure, ServiceNote};
use crate::observe::log_format::{LogContext, LogFormat, ProcessEvent, TARGET};
use crate::observe::words::system_words;
use crate::rate_limit::RateLimit;

/// The log format.
#[derive(Debug, Default)]
pub struct FproxyLog {
    /// Limits lines that a failing backend would cause for every client.
    refused: RateLimit,
    unserved: RateLimit,
    closed: RateLimit,
    failed: RateLimit,
}

impl LogFormat for FproxyLog {
    fn client(&mut self, _: ClientId, note: ClientNote, context: &LogContext<'_>) {
        match note {
            ClientNote::DialFailed(backend, failure) => self.dial_failed(backend, failure, context),
            ClientNote::Ended(why) => self.ended(why, context),
            ClientNote::Arrived
            | ClientNote::Assigned(_)
            | ClientNote::Connected
            | ClientNote::Requeued
            | ClientNote::Paused => {}
        }
    }

    fn backend(&mut self, backend: BackendId, note: BackendNote, context: &LogContext<'_>) {
        match note {
            BackendNote::Failed => warn!(
                target: TARGET,
                "backend {} has failed and is used only if no other is available",
                context.backend(backend)
            ),
            BackendNote::Back => {
                warn!(target: TARGET, "backend {} is used again", context.backend(backend));
            }
            BackendNote::Disabled => {
                warn!(target: TARGET, "backend {} has failed and is disabled", context.backend(backend));
            }
        }
    }

    /// A program with this log format has no switches and no changes.
    fn service(&mut self, note: ServiceNote, _: &LogContext<'_>) {
        if let ServiceNote::Stopping { assigned, held } = note {
            info!(target: TARGET, "stopping: waiting for {} clients", assigned + held);
        }
    }

    fn process_event(&mut self, process_event: &ProcessEvent<'_>) {
        let name = env!("CARGO_PKG_NAME");
        match process_event {
            ProcessEvent::Starting { .. } | ProcessEvent::Listening { .. } => {}
            ProcessEvent::BindFailed { at, cause, .. } => {
                error!(target: TARGET, "cannot listen on {at}: {}", system_words(cause));
            }
            // This dialect does not log these lines.
            ProcessEvent::Tally { .. } => {}
            ProcessEvent::Started { listening, room } => {
                let listening = listening.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let version = env!("CARGO_PKG_VERSION");
                info!(target: TARGET, "{name} {version} started: listening on {listening}, room for {room}");
            }
            ProcessEvent::Reopening => info!(target: TARGET, "SIGHUP: opening the log files again"),
            ProcessEvent::Signal { name } => info!(target: TARGET, "signal received: {name}"),
            ProcessEvent::Ignored { name } => warn!(target: TARGET, "signal ignored: {name}"),
            ProcessEvent::Ended => info!(target: TARGET, "{name} ended"),
        }
    }
}

impl FproxyLog {
    fn dial_failed(&mut self, backend: BackendId, failure: DialFailure, context: &LogContext<'_>) {
        let (client, cause) = (client(context), context.cause());
        match failure {
            DialFailure::Backend | DialFailure::NoPort => {
                if let Some(more) = self.refused.turn(Instant::now()) {
                    error!(target: TARGET, "{client}cannot connect to backend {}{cause}{more}", context.backend(backend));
                }
            }
            DialFailure::Local => {
                if let Some(more) = self.unserved.turn(Instant::now()) {
                    error!(target: TARGET, "{client}cannot serve it{cause}{more}");
                }
            }
            DialFailure::Cancelled => {}
        }
    }

    fn ended(&mut self, why: CloseReason, context: &LogContext<'_>) {
        let client = client(context);
        match why {
            CloseReason::NoBackend
            | CloseReason::Full
            | CloseReason::NoRoom
            | CloseReason::Shutdown
            | CloseReason::Terminated => {
                if let Some(more) = self.closed.turn(Instant::now()) {
                    error!(target: TARGET, "{client}closed: {why}{more}");
                }
            }
            CloseReason::BackendFailed => {
                if let Some(more) = self.failed.turn(Instant::now()) {
                    warn!(target: TARGET, "{client}closed: {why}{}{more}", context.cause());
                }
            }
            CloseReason::Panicked => error!(target: TARGET, "{client}closed: {why}"),
            // Normal endings are in the access log.
            CloseReason::HungUp
            | CloseReason::ClientEnded
            | CloseReason::BackendEnded
            | CloseReason::Lingered
            | CloseReason::ClosedForSwitch
            | CloseReason::ClientFailed
            | CloseReason::Idle => {}
        }
    }
}

/// The client that a line is about, in the format of web servers.
fn client(context: &LogContext<'_>) -> String {
    context.info.map(|info| format!("[client {}] ", info.peer)).unwrap_or_default()
}
