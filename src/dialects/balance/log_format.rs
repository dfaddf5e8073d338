//! balance's log, for a user who watches standard error: failures, and with `-d` the channel tried for each client and
//! the result.

use std::io;
use std::time::Instant;

use log::{debug, warn};

use crate::core::msg::{BackendId, BackendNote, ClientId, ClientNote, CloseReason, DialFailure};
use crate::observe::log_format::{LogContext, LogFormat, ProcessEvent, TARGET};
use crate::observe::words::system_words;
use crate::rate_limit::RateLimit;

/// The log format.
#[derive(Debug, Default)]
pub struct BalanceLog {
    no_port: RateLimit,
}

impl LogFormat for BalanceLog {
    fn client(&mut self, _: ClientId, note: ClientNote, context: &LogContext<'_>) {
        match note {
            ClientNote::Assigned(backend) => debug!(target: TARGET, "trying {} ...", place(context, backend)),
            ClientNote::Connected => {
                let connected = context.info.and_then(|info| info.connected.as_ref());
                let to = connected.map(|(_, address)| format!(" to {address}")).unwrap_or_default();
                let client = context.info.map(|info| info.peer.to_string()).unwrap_or_default();
                debug!(target: TARGET, "connected{to} for {client}");
            }
            ClientNote::DialFailed(backend, failure) => match failure {
                DialFailure::Backend => {
                    debug!(target: TARGET, "{}: {}", place(context, backend), cause(context));
                }
                DialFailure::NoPort => {
                    if let Some(more) = self.no_port.turn(Instant::now()) {
                        warn!(target: TARGET, "{}: {}{more}", place(context, backend), cause(context));
                    }
                }
                DialFailure::Local => warn!(target: TARGET, "cannot serve a client: {}", cause(context)),
                DialFailure::Cancelled => debug!(target: TARGET, "{}: cancelled", place(context, backend)),
            },
            ClientNote::Ended(why) => ended(why, context),
            ClientNote::Arrived | ClientNote::Requeued | ClientNote::Paused => {}
        }
    }

    fn backend(&mut self, backend: BackendId, note: BackendNote, context: &LogContext<'_>) {
        match note {
            BackendNote::Disabled => {
                warn!(target: TARGET, "{} has failed and is disabled", place(context, backend));
            }
            BackendNote::Failed | BackendNote::Back => {}
        }
    }

    fn process_event(&mut self, process_event: &ProcessEvent<'_>) {
        if let ProcessEvent::Ignored { name } = process_event {
            warn!(target: TARGET, "signal ignored: {name}");
        }
    }
}

fn place(context: &LogContext<'_>, backend: BackendId) -> String {
    match context.place(backend) {
        Some(place) => format!("group {} channel {}", place.group.index, place.number),
        None => context.backend(backend).to_owned(),
    }
}

/// Why the last dial failed.
fn cause(context: &LogContext<'_>) -> String {
    match context.info.and_then(|info| info.cause.as_ref()) {
        Some(cause) if cause.kind() == io::ErrorKind::TimedOut => "timeout".to_owned(),
        Some(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        Some(cause) => system_words(cause),
        None => "no connection".to_owned(),
    }
}

fn ended(why: CloseReason, context: &LogContext<'_>) {
    let peer = context.info.map(|info| info.peer.to_string()).unwrap_or_default();
    match why {
        CloseReason::NoBackend | CloseReason::Full => debug!(target: TARGET, "client {peer} closed: {why}"),
        CloseReason::NoRoom | CloseReason::Panicked | CloseReason::Idle => {
            warn!(target: TARGET, "client {peer} closed: {why}")
        }
        CloseReason::HungUp
        | CloseReason::Shutdown
        | CloseReason::ClientEnded
        | CloseReason::BackendEnded
        | CloseReason::Lingered
        | CloseReason::ClosedForSwitch
        | CloseReason::ClientFailed
        | CloseReason::BackendFailed
        | CloseReason::Terminated => {}
    }
}
