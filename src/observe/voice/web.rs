//! The words of an error log beside an access log: what has gone wrong, and when the program started, was told something and
//! ended. What becomes of each client is in the access log.

use std::io;
use std::time::Instant;

use log::{error, info, warn};

use super::{Moment, Scene, TARGET, Voice};
use crate::core::msg::{BackendId, DialFailure, Note, Why};
use crate::observe::words::system_words;
use crate::seldom::Seldom;

/// The voice.
#[derive(Debug, Default)]
pub struct Web {
    /// Lines that come for every client when they come.
    refused: Seldom,
    unserved: Seldom,
    closed: Seldom,
    failed: Seldom,
}

impl Voice for Web {
    fn note(&mut self, note: Note, scene: &Scene<'_>) {
        match note {
            Note::DialFailed(_, backend, failure) => self.dial_failed(backend, failure, scene),
            Note::BackendFailed(backend) => warn!(
                target: TARGET,
                "backend {} has failed and is passed over while there is another",
                scene.backend(backend)
            ),
            Note::BackendBack(backend) => {
                warn!(target: TARGET, "backend {} is used again", scene.backend(backend));
            }
            Note::BackendDisabled(backend) => {
                warn!(target: TARGET, "backend {} has failed and is disabled", scene.backend(backend));
            }
            Note::Ended(_, why) => self.ended(why, scene),
            Note::Stopping { granted, held } => {
                info!(target: TARGET, "stopping: waiting for {} clients", granted + held);
            }
            // What happens to a client before it leaves; and switches and changes, which nobody asks a program with this
            // voice for.
            Note::Arrived(_)
            | Note::Requeued(_)
            | Note::Paused(_)
            | Note::Granted(..)
            | Note::Connected(_)
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
        let name = env!("CARGO_PKG_NAME");
        match moment {
            Moment::Starting { .. } | Moment::Listening { .. } => {}
            Moment::BindFailed { at, cause, .. } => {
                error!(target: TARGET, "cannot listen on {at}: {}", system_words(cause));
            }
            // Nobody asks a program with this voice for one.
            Moment::Tally { .. } => {}
            Moment::Started { listening, room } => {
                let listening = listening.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let version = env!("CARGO_PKG_VERSION");
                info!(target: TARGET, "{name} {version} started: listening on {listening}, room for {room}");
            }
            Moment::Reopening => info!(target: TARGET, "SIGHUP: opening the log files again"),
            Moment::Signal { name } => info!(target: TARGET, "signal received: {name}"),
            Moment::Ignored { name } => warn!(target: TARGET, "signal ignored: {name}"),
            Moment::Ended => info!(target: TARGET, "{name} ended"),
        }
    }
}

impl Web {
    fn dial_failed(&mut self, backend: BackendId, failure: DialFailure, scene: &Scene<'_>) {
        let (client, cause) = (client(scene), cause(scene));
        match failure {
            DialFailure::Backend | DialFailure::NoPort => {
                if let Some(more) = self.refused.turn(Instant::now()) {
                    error!(target: TARGET, "{client}cannot connect to backend {}{cause}{more}", scene.backend(backend));
                }
            }
            DialFailure::Local => {
                if let Some(more) = self.unserved.turn(Instant::now()) {
                    error!(target: TARGET, "{client}cannot serve it{cause}{more}");
                }
            }
            DialFailure::CalledOff => {}
        }
    }

    fn ended(&mut self, why: Why, scene: &Scene<'_>) {
        let client = client(scene);
        match why {
            Why::NoBackend | Why::Full | Why::NoRoom | Why::Shutdown | Why::Cut => {
                if let Some(more) = self.closed.turn(Instant::now()) {
                    error!(target: TARGET, "{client}closed: {why}{more}");
                }
            }
            Why::BackendFailed => {
                if let Some(more) = self.failed.turn(Instant::now()) {
                    warn!(target: TARGET, "{client}closed: {why}{}{more}", cause(scene));
                }
            }
            Why::Panicked => error!(target: TARGET, "{client}closed: {why}"),
            // Everyday things, which the access log has.
            Why::HungUp
            | Why::ClientEnded
            | Why::BackendEnded
            | Why::Lingered
            | Why::Dismissed
            | Why::ClientFailed
            | Why::Idle => {}
        }
    }
}

/// Whom a line is about, as web servers put it.
fn client(scene: &Scene<'_>) -> String {
    scene.facts.map(|facts| format!("[client {}] ", facts.peer)).unwrap_or_default()
}

/// The system's word for what failed last.
fn cause(scene: &Scene<'_>) -> String {
    let cause = scene.facts.and_then(|facts| facts.cause.as_ref());
    cause.map(|cause| format!(": {}", system_words(cause))).unwrap_or_default()
}
