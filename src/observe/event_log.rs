//! Processes the core's notes: keeps data about clients and backends, updates the statistics, and passes the notes to
//! the log format.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::access::AccessLogger;
use super::log_format::{LogContext, LogFormat, ProcessEvent};
use super::stats::Stats;
use crate::config::{LogStyle, Service};
use crate::core::msg::{Action, BackendId, BackendView, Change, GroupId, Note, UpstreamId, View};
use crate::dialects;
use crate::endpoint::{Address, Endpoint};

/// Data about a client, for the log.
#[derive(Debug)]
pub struct ConnectionInfo {
    pub peer: Address,
    pub accepted: Instant,
    pub assigned: Option<Instant>,
    pub connected: Option<(Instant, Address)>,
    /// Bytes relayed to the backend and to the client.
    pub up: u64,
    pub down: u64,
    /// The system's error of the last failure.
    pub cause: Option<io::Error>,
}

impl ConnectionInfo {
    pub fn new(peer: Address, accepted: Instant) -> ConnectionInfo {
        ConnectionInfo { peer, accepted, assigned: None, connected: None, up: 0, down: 0, cause: None }
    }

    /// Time since the connection to the backend was made.
    pub fn connected_for(&self) -> Duration {
        self.connected.as_ref().map_or(Duration::ZERO, |(at, _)| at.elapsed())
    }
}

/// The position of a backend in its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendPosition {
    pub group: GroupId,
    /// Position within the group, from 0.
    pub number: usize,
}

fn places(service: &Service) -> Vec<BackendPosition> {
    let groups = service.upstreams.iter().enumerate().flat_map(|(upstream, config)| {
        let id = move |index| GroupId { upstream: UpstreamId(upstream), index };
        config.groups.iter().enumerate().map(move |(index, group)| (id(index), group.backends.len()))
    });
    groups.flat_map(|(group, length)| (0..length).map(move |number| BackendPosition { group, number })).collect()
}

/// Receives the notes.
pub struct EventLog {
    service: Service,
    stats: Stats,
    log_format: Box<dyn LogFormat>,
    /// Set if there is an access log.
    access_logger: Option<AccessLogger>,
    /// Current endpoints of the backends, by `BackendId`.
    names: Vec<String>,
    /// Positions of the backends, by `BackendId`.
    places: Vec<BackendPosition>,
    /// Failed backends, and when they failed.
    failed: BTreeMap<BackendId, Instant>,
}

impl EventLog {
    pub fn new(service: &Service, style: LogStyle, access_logger: Option<AccessLogger>, stats: Stats) -> EventLog {
        let names = service.backends().map(|backend| backend.endpoint.to_string()).collect();
        let (places, log_format) = (places(service), dialects::log_format(style));
        EventLog { service: service.clone(), stats, log_format, access_logger, names, places, failed: BTreeMap::new() }
    }

    /// Records a new or changed endpoint of a backend.
    pub fn name_backend(&mut self, backend: BackendId, endpoint: &Endpoint) {
        match self.names.get_mut(backend.0) {
            Some(name) => *name = endpoint.to_string(),
            None => self.names.push(endpoint.to_string()),
        }
    }

    /// Publishes the situation after an event.
    pub fn publish(&self, view: View, actions: &[Action]) {
        self.stats.publish(view, actions);
    }

    /// Processes one decision. `info` is about its client.
    pub fn note(&mut self, note: Note, info: Option<&ConnectionInfo>) {
        let context = LogContext {
            info,
            names: &self.names,
            places: &self.places,
            failed: &self.failed,
            service: &self.service,
            stats: &self.stats,
        };
        self.log_format.note(note, &context);
        match note {
            Note::PoolChanged(Change::Create(group, _)) => {
                let number = self.places.iter().filter(|place| place.group == group).count();
                self.places.push(BackendPosition { group, number });
            }
            Note::BackendFailed(backend) => drop(self.failed.insert(backend, Instant::now())),
            Note::BackendBack(backend) | Note::PoolChanged(Change::Disable(backend)) => {
                self.failed.remove(&backend);
            }
            Note::Ended(_, why) => {
                if let (Some(access_logger), Some(info)) = (&self.access_logger, info) {
                    access_logger.gone(why, info);
                }
            }
            Note::PoolChanged(
                Change::Enable(_) | Change::SetEndpoint(..) | Change::Limit(..) | Change::Reset(_) | Change::Policy(..),
            )
            | Note::SwitchStarted { .. }
            | Note::Drained
            | Note::SwitchEnded { .. }
            | Note::BackendDisabled(_)
            | Note::QueueOverLimit { .. }
            | Note::SettingChanged
            | Note::Stopping { .. }
            | Note::InterruptIgnored { .. }
            | Note::Arrived(_)
            | Note::Requeued(_)
            | Note::Paused(_)
            | Note::Assigned(..)
            | Note::Connected(_)
            | Note::DialFailed(..) => {}
        }
    }

    /// Logs all backends in their current state, in list order.
    pub fn tally(&mut self, views: &[BackendView]) {
        let name = |view: &BackendView| self.names.get(view.id.0).map_or("", String::as_str);
        let backends: Vec<_> = views.iter().map(|view| (name(view), *view)).collect();
        self.log_format.process_event(&ProcessEvent::Tally { backends: &backends });
    }

    /// Logs the result of a probe.
    pub fn probed(&mut self, backend: BackendId, result: &io::Result<()>) {
        let context = LogContext {
            info: None,
            names: &self.names,
            places: &self.places,
            failed: &self.failed,
            service: &self.service,
            stats: &self.stats,
        };
        self.log_format.probed(backend, result, &context);
    }
}
