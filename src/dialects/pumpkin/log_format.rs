//! PumpkinLB's log: each listener, each worker that refuses a client, and the worker tried next.

use std::collections::BTreeMap;

use log::{error, info, warn};

use crate::config::Service;
use crate::core::msg::{BackendId, ClientId, ClientNote, CloseReason, DialFailure, ServiceNote};
use crate::observe::log_format::{LogContext, LogFormat, ProcessEvent, TARGET};
use crate::observe::words::system_words;

/// The log format.
#[derive(Debug, Default)]
pub struct PumpkinLog {
    /// The worker that refused each client, until the client is assigned another.
    refused: BTreeMap<ClientId, BackendId>,
}

impl LogFormat for PumpkinLog {
    fn client(&mut self, client: ClientId, note: ClientNote, context: &LogContext<'_>) {
        match note {
            ClientNote::DialFailed(backend, DialFailure::Backend | DialFailure::NoPort) => {
                let cause = context.cause();
                error!(target: TARGET, "Could not connect to worker {}{cause}", context.backend(backend));
                self.refused.insert(client, backend);
            }
            ClientNote::DialFailed(_, DialFailure::Local) => {
                error!(target: TARGET, "Could not serve {}{}", peer(context), context.cause());
            }
            ClientNote::Assigned(backend) => {
                if let Some(before) = self.refused.remove(&client) {
                    let (before, now) = (context.backend(before), context.backend(backend));
                    warn!(target: TARGET, "Found a failure to connect to worker");
                    warn!(target: TARGET, "Retrying request from {} from {before} on {now}", peer(context));
                }
            }
            ClientNote::Ended(why) => {
                self.refused.remove(&client);
                ended(why, context);
            }
            // The log does not mention clients that are served. A backend whose dial was cancelled has not refused the
            // client.
            ClientNote::DialFailed(_, DialFailure::Cancelled)
            | ClientNote::Arrived
            | ClientNote::Connected
            | ClientNote::Requeued
            | ClientNote::Paused => {}
        }
    }

    /// A program with this log format has no switches and no changes.
    fn service(&mut self, note: ServiceNote, _: &LogContext<'_>) {
        if let ServiceNote::Stopping { assigned, held } = note
            && assigned + held > 0
        {
            info!(target: TARGET, "waiting for {} clients to finish; another signal cuts them", assigned + held);
        }
    }

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
