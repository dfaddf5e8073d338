//! Few words, for somebody who looks on: what has gone wrong, and with tracing which backend is tried for each client and
//! how that ends.

use std::io;
use std::time::Instant;

use log::{debug, warn};

use super::{Moment, Scene, TARGET, Voice};
use crate::core::msg::{BackendId, DialFailure, Note, Why};
use crate::observe::words::system_words;
use crate::seldom::Seldom;

/// The voice.
#[derive(Debug, Default)]
pub struct Bare {
    no_port: Seldom,
}

impl Voice for Bare {
    fn note(&mut self, note: Note, scene: &Scene<'_>) {
        match note {
            Note::Granted(_, backend) => debug!(target: TARGET, "trying {} ...", place(scene, backend)),
            Note::Connected(_) => {
                let connected = scene.facts.and_then(|facts| facts.connected.as_ref());
                let to = connected.map(|(_, address)| format!(" to {address}")).unwrap_or_default();
                let client = scene.facts.map(|facts| facts.peer.to_string()).unwrap_or_default();
                debug!(target: TARGET, "connected{to} for {client}");
            }
            Note::DialFailed(_, backend, failure) => match failure {
                DialFailure::Backend => {
                    debug!(target: TARGET, "{}: {}", place(scene, backend), cause(scene));
                }
                DialFailure::NoPort => {
                    if let Some(more) = self.no_port.turn(Instant::now()) {
                        warn!(target: TARGET, "{}: {}{more}", place(scene, backend), cause(scene));
                    }
                }
                DialFailure::Local => warn!(target: TARGET, "cannot serve a client: {}", cause(scene)),
                DialFailure::CalledOff => debug!(target: TARGET, "{}: called off", place(scene, backend)),
            },
            Note::BackendDisabled(backend) => {
                warn!(target: TARGET, "{} has failed and is disabled", place(scene, backend));
            }
            Note::Ended(_, why) => ended(why, scene),
            Note::Arrived(_)
            | Note::Requeued(_)
            | Note::Paused(_)
            | Note::BackendFailed(_)
            | Note::BackendBack(_)
            | Note::PoolChanged(_)
            | Note::QueueOverLimit { .. }
            | Note::SwitchStarted { .. }
            | Note::Drained
            | Note::SwitchEnded { .. }
            | Note::SettingChanged
            | Note::Stopping { .. }
            | Note::InterruptIgnored { .. } => {}
        }
    }

    fn probed(&mut self, _: BackendId, _: &io::Result<()>, _: &Scene<'_>) {}

    fn moment(&mut self, moment: &Moment<'_>) {
        if let Moment::Ignored { name } = moment {
            warn!(target: TARGET, "signal ignored: {name}");
        }
    }
}

fn place(scene: &Scene<'_>, backend: BackendId) -> String {
    match scene.place(backend) {
        Some(place) => format!("group {} channel {}", place.group.index, place.number),
        None => scene.backend(backend).to_owned(),
    }
}

/// Why the last dial failed.
fn cause(scene: &Scene<'_>) -> String {
    match scene.facts.and_then(|facts| facts.cause.as_ref()) {
        Some(cause) if cause.kind() == io::ErrorKind::TimedOut => "timeout".to_owned(),
        Some(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        Some(cause) => system_words(cause),
        None => "no connection".to_owned(),
    }
}

fn ended(why: Why, scene: &Scene<'_>) {
    let peer = scene.facts.map(|facts| facts.peer.to_string()).unwrap_or_default();
    match why {
        Why::NoBackend | Why::Full => debug!(target: TARGET, "client {peer} closed: {why}"),
        Why::NoRoom | Why::Panicked | Why::Idle => warn!(target: TARGET, "client {peer} closed: {why}"),
        Why::HungUp
        | Why::Shutdown
        | Why::ClientEnded
        | Why::BackendEnded
        | Why::Lingered
        | Why::Dismissed
        | Why::ClientFailed
        | Why::BackendFailed
        | Why::Cut => {}
    }
}
