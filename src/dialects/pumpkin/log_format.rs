//! PumpkinLB's log: each listener, each worker that refuses a client, and the worker tried next.

use std::collections::BTreeMap;
use std::io;

use log::{error, info, warn};

use crate::config::Service;
use crate::core::msg::{BackendId, ClientId, CloseReason, DialFailure, Note};
use crate::observe::log_format::{LogContext, LogFormat, ProcessEvent, TARGET};
use crate::observe::words::system_words;

/// The log format.
#[derive(Debug, Default)]
pub struct PumpkinLog {
    /// The worker that refused each client, until the client is assigned another.
    refused: BTreeMap<ClientId, BackendId>,
}

impl LogFormat for PumpkinLog {
    fn note(&mut self, note: Note, context: &LogContext<'_>) {
        match note {
            Note::DialFailed(client, backend, DialFailure::Backend | DialFailure::NoPort) => {
                let cause = cause(context);
                error!(target: TARGET, "Could not connect to worker {}{cause}", context.backend(backend));
                self.refused.insert(client, backend);
            }
            Note::DialFailed(_, _, DialFailure::Local) => {
                error!(target: TARGET, "Could not serve {}{}", peer(context), cause(context));
            }
            Note::Assigned(client, backend) => {
                if let Some(before) = self.refused.remove(&client) {
                    let (before, now) = (context.backend(before), context.backend(backend));
                    warn!(target: TARGET, "Found a failure to connect to worker");
                    warn!(target: TARGET, "Retrying request from {} from {before} on {now}", peer(context));
                }
            }
            Note::Ended(client, why) => {
                self.refused.remove(&client);
                ended(why, context);
            }
            Note::Stopping { assigned: 0, held: 0 } => {}
            Note::Stopping { assigned, held } => {
                info!(target: TARGET, "waiting for {} clients to finish; another signal resets them", assigned + held);
            }
            // This dialect has no switches, limits or changes. A cancelled dial is not a refusal, and served clients
            // are not logged.
            Note::DialFailed(_, _, DialFailure::Cancelled)
            | Note::Arrived(_)
            | Note::Requeued(_)
            | Note::Paused(_)
            | Note::Connected(_)
            | Note::BackendFailed(_)
            | Note::BackendBack(_)
            | Note::BackendDisabled(_)
            | Note::PoolChanged(_)
            | Note::QueueOverLimit { .. }
            | Note::SwitchStarted { .. }
            | Note::Drained
            | Note::SwitchEnded { .. }
            | Note::SettingChanged
            | Note::InterruptIgnored { .. } => {}
        }
    }

    fn probed(&mut self, _: BackendId, _: &io::Result<()>, _: &LogContext<'_>) {}

    fn process_event(&mut self, process_event: &ProcessEvent<'_>) {
        match process_event {
            ProcessEvent::Starting { services } => {
                if let Some(service) = services.first() {
                    let size = service.settings.net_buffer_size;
                    info!(target: TARGET, "Configured buffer size = {size} bytes");
                }
            }
            ProcessEvent::Listening { service, at } => {
                info!(target: TARGET, "Starting up listener on {at} with mappings: {}", workers(service));
            }
            ProcessEvent::BindFailed { at, cause, again, .. } => {
                let (cause, again) = (system_words(cause), again.as_secs_f64());
                error!(target: TARGET, "Failed to bind to {at}. \"{cause}\" Retrying in {again} seconds.");
            }
            ProcessEvent::Started { .. } | ProcessEvent::Tally { .. } | ProcessEvent::Reopening => {}
            ProcessEvent::Signal { .. } => info!(target: TARGET, "Caught signal, shutting down listeners..."),
            ProcessEvent::Ignored { name } => info!(target: TARGET, "Ignored signal {name}"),
            ProcessEvent::Ended => info!(target: TARGET, "exiting..."),
        }
    }
}

fn workers(service: &Service) -> String {
    service.backends().map(|backend| backend.endpoint.to_string()).collect::<Vec<_>>().join(", ")
}

fn peer(context: &LogContext<'_>) -> String {
    context.info.map(|info| info.peer.to_string()).unwrap_or_default()
}

/// Why the last dial failed.
fn cause(context: &LogContext<'_>) -> String {
    let cause = context.info.and_then(|info| info.cause.as_ref());
    cause.map(|cause| format!(": {}", system_words(cause))).unwrap_or_default()
}

fn ended(why: CloseReason, context: &LogContext<'_>) {
    match why {
        CloseReason::NoBackend
        | CloseReason::NoRoom
        | CloseReason::Full
        | CloseReason::Terminated
        | CloseReason::Shutdown => {
            warn!(target: TARGET, "Closed {}: {why}", peer(context));
        }
        CloseReason::Panicked => error!(target: TARGET, "Closed {}: {why}", peer(context)),
        CloseReason::HungUp
        | CloseReason::ClientEnded
        | CloseReason::BackendEnded
        | CloseReason::Lingered
        | CloseReason::ClosedForSwitch
        | CloseReason::ClientFailed
        | CloseReason::BackendFailed
        | CloseReason::Idle => {}
    }
}
