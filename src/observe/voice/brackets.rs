//! The words of PumpkinLB's log: a listener for each mapping, and every worker that does not take a client, with who is
//! tried instead.

use std::collections::BTreeMap;
use std::io;

use log::{error, info, warn};

use super::{Moment, Scene, TARGET, Voice};
use crate::config::Service;
use crate::core::msg::{BackendId, ClientId, DialFailure, Note, Why};
use crate::observe::words::system_words;

/// The voice.
#[derive(Debug, Default)]
pub struct Brackets {
    /// The worker that has refused a client, until it is given the next.
    refused: BTreeMap<ClientId, BackendId>,
}

impl Voice for Brackets {
    fn note(&mut self, note: Note, scene: &Scene<'_>) {
        match note {
            Note::DialFailed(client, backend, DialFailure::Backend | DialFailure::NoPort) => {
                let cause = cause(scene);
                error!(target: TARGET, "Could not connect to worker {}{cause}", scene.backend(backend));
                self.refused.insert(client, backend);
            }
            Note::DialFailed(_, _, DialFailure::Local) => {
                error!(target: TARGET, "Could not serve {}{}", peer(scene), cause(scene));
            }
            Note::Granted(client, backend) => {
                if let Some(before) = self.refused.remove(&client) {
                    let (before, now) = (scene.backend(before), scene.backend(backend));
                    warn!(target: TARGET, "Found a failure to connect to worker");
                    warn!(target: TARGET, "Retrying request from {} from {before} on {now}", peer(scene));
                }
            }
            Note::Ended(client, why) => {
                self.refused.remove(&client);
                ended(why, scene);
            }
            Note::Stopping { granted: 0, held: 0 } => {}
            Note::Stopping { granted, held } => {
                info!(target: TARGET, "waiting for {} clients to finish; another signal cuts them", granted + held);
            }
            // Nobody switches, limits, disables or changes anything in a program with this voice; a client whose dial
            // was called off has not been refused; and clients that are served are not told of.
            Note::DialFailed(_, _, DialFailure::CalledOff)
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

    fn probed(&mut self, _: BackendId, _: &io::Result<()>, _: &Scene<'_>) {}

    fn moment(&mut self, moment: &Moment<'_>) {
        match moment {
            Moment::Starting { services } => {
                if let Some(service) = services.first() {
                    let size = service.settings.net_buffer_size;
                    info!(target: TARGET, "Configured buffer size = {size} bytes");
                }
            }
            Moment::Listening { service, at } => {
                info!(target: TARGET, "Starting up listener on {at} with mappings: {}", workers(service));
            }
            Moment::BindFailed { at, cause, again, .. } => {
                let (cause, again) = (system_words(cause), again.as_secs_f64());
                error!(target: TARGET, "Failed to bind to {at}. \"{cause}\" Retrying in {again} seconds.");
            }
            Moment::Started { .. } | Moment::Tally { .. } | Moment::Reopening => {}
            Moment::Signal { .. } => info!(target: TARGET, "Caught signal, shutting down listeners..."),
            Moment::Ignored { name } => info!(target: TARGET, "Ignored signal {name}"),
            Moment::Ended => info!(target: TARGET, "exiting..."),
        }
    }
}

fn workers(service: &Service) -> String {
    service.backends().map(|backend| backend.endpoint.to_string()).collect::<Vec<_>>().join(", ")
}

fn peer(scene: &Scene<'_>) -> String {
    scene.facts.map(|facts| facts.peer.to_string()).unwrap_or_default()
}

/// Why the last dial failed.
fn cause(scene: &Scene<'_>) -> String {
    let cause = scene.facts.and_then(|facts| facts.cause.as_ref());
    cause.map(|cause| format!(": {}", system_words(cause))).unwrap_or_default()
}

fn ended(why: Why, scene: &Scene<'_>) {
    match why {
        Why::NoBackend | Why::NoRoom | Why::Full | Why::Cut | Why::Shutdown => {
            warn!(target: TARGET, "Closed {}: {why}", peer(scene));
        }
        Why::Panicked => error!(target: TARGET, "Closed {}: {why}", peer(scene)),
        Why::HungUp
        | Why::ClientEnded
        | Why::BackendEnded
        | Why::Lingered
        | Why::Dismissed
        | Why::ClientFailed
        | Why::BackendFailed
        | Why::Idle => {}
    }
}
