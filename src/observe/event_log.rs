//! Receives the core's notes: records what the log needs about clients and backends, updates the statistics, and passes
//! each note to the log format, which writes the text.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::access::AccessLogger;
use super::log_format::{LogContext, LogFormat, ProcessEvent};
use super::stats::Stats;
use super::words::system_words;
use crate::config::Service;
use crate::core::msg::{
    Action, BackendId, BackendNote, BackendView, Change, ClientNote, GroupId, Note, ServiceNote, UpstreamId, View,
};
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

    /// The last error as the end of a sentence, such as `: connection refused`; empty if there is none.
    pub fn cause_words(&self) -> String {
        self.cause.as_ref().map(|cause| format!(": {}", system_words(cause))).unwrap_or_default()
    }

    /// Time since the backend accepted the connection.
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
    pub fn new(
        service: &Service,
        log_format: Box<dyn LogFormat>,
        access_logger: Option<AccessLogger>,
        stats: Stats,
    ) -> EventLog {
        let names = service.backends().map(|backend| backend.endpoint.to_string()).collect();
        let places = places(service);
        EventLog { service: service.clone(), stats, log_format, access_logger, names, places, failed: BTreeMap::new() }
    }

    /// Records a new or changed endpoint of a backend.
    pub fn name_backend(&mut self, backend: BackendId, endpoint: &Endpoint) {
        match self.names.get_mut(backend.0) {
            Some(name) => *name = endpoint.to_string(),
            None => self.names.push(endpoint.to_string()),
        }
    }

    /// Publishes the state after an event.
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
        match note {
            Note::Client(client, note) => {
                self.log_format.client(client, note, &context);
                if let (ClientNote::Ended(why), Some(access_logger), Some(info)) = (note, &self.access_logger, info) {
                    access_logger.gone(why, info);
                }
            }
            Note::Backend(backend, note) => {
                self.log_format.backend(backend, note, &context);
                match note {
                    BackendNote::Failed => drop(self.failed.insert(backend, Instant::now())),
                    BackendNote::Back => drop(self.failed.remove(&backend)),
                    BackendNote::Disabled => {}
                }
            }
            Note::Service(note) => {
                self.log_format.service(note, &context);
                if let ServiceNote::PoolChanged(change) = note {
                    self.changed(change);
                }
            }
        }
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Create(group, _) => {
                let number = self.places.iter().filter(|place| place.group == group).count();
                self.places.push(BackendPosition { group, number });
            }
            Change::Disable(backend) => drop(self.failed.remove(&backend)),
            Change::Enable(_) | Change::SetEndpoint(..) | Change::Limit(..) | Change::Reset(_) | Change::Policy(..) => {
            }
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
