//! Takes the core's notes: keeps what is known about clients and backends, counts on the board, and lets the log's voice
//! find the words.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::access::Clerk;
use super::stats::Board;
use super::voice::{self, Moment, Scene, Voice};
use crate::config::{LogStyle, Service};
use crate::core::msg::{Action, BackendId, BackendView, Change, GroupId, Note, UpstreamId, View};
use crate::endpoint::{Address, Endpoint};

/// What is known about a client, for the log.
#[derive(Debug)]
pub struct Facts {
    pub peer: Address,
    pub accepted: Instant,
    pub granted: Option<Instant>,
    pub connected: Option<(Instant, Address)>,
    /// Bytes passed on to the backend and to the client.
    pub up: u64,
    pub down: u64,
    /// The system's word for the last thing that failed.
    pub cause: Option<io::Error>,
}

impl Facts {
    pub fn new(peer: Address, accepted: Instant) -> Facts {
        Facts { peer, accepted, granted: None, connected: None, up: 0, down: 0, cause: None }
    }

    /// Since the backend took the connection.
    pub fn connected_for(&self) -> Duration {
        self.connected.as_ref().map_or(Duration::ZERO, |(at, _)| at.elapsed())
    }
}

/// Where a backend is among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub group: GroupId,
    /// Within the group, from 0.
    pub number: usize,
}

fn places(service: &Service) -> Vec<Place> {
    let groups = service.upstreams.iter().enumerate().flat_map(|(upstream, config)| {
        let id = move |index| GroupId { upstream: UpstreamId(upstream), index };
        config.groups.iter().enumerate().map(move |(index, group)| (id(index), group.backends.len()))
    });
    groups.flat_map(|(group, length)| (0..length).map(move |number| Place { group, number })).collect()
}

/// Where notes go.
pub struct Journal {
    service: Service,
    board: Board,
    voice: Box<dyn Voice>,
    /// Of the access log, if there is one.
    clerk: Option<Clerk>,
    /// Backends as configured or assigned since, by `BackendId`.
    names: Vec<String>,
    /// Likewise, the group of each and its number there.
    places: Vec<Place>,
    /// Backends that have failed, and when.
    failed: BTreeMap<BackendId, Instant>,
}

impl Journal {
    pub fn new(service: &Service, style: LogStyle, clerk: Option<Clerk>, board: Board) -> Journal {
        let names = service.backends().map(|backend| backend.endpoint.to_string()).collect();
        let (places, voice) = (places(service), voice::of(style));
        Journal { service: service.clone(), board, voice, clerk, names, places, failed: BTreeMap::new() }
    }

    /// A backend is somewhere else now, or new.
    pub fn name_backend(&mut self, backend: BackendId, endpoint: &Endpoint) {
        match self.names.get_mut(backend.0) {
            Some(name) => *name = endpoint.to_string(),
            None => self.names.push(endpoint.to_string()),
        }
    }

    /// The situation after an event.
    pub fn publish(&self, view: View, actions: &[Action]) {
        self.board.publish(view, actions);
    }

    /// One decision. `facts` are those of the client it is about.
    pub fn note(&mut self, note: Note, facts: Option<&Facts>) {
        let scene = Scene {
            facts,
            names: &self.names,
            places: &self.places,
            failed: &self.failed,
            service: &self.service,
            board: &self.board,
        };
        self.voice.note(note, &scene);
        match note {
            Note::PoolChanged(Change::Create(group, _)) => {
                let number = self.places.iter().filter(|place| place.group == group).count();
                self.places.push(Place { group, number });
            }
            Note::BackendFailed(backend) => drop(self.failed.insert(backend, Instant::now())),
            Note::BackendBack(backend) | Note::PoolChanged(Change::Disable(backend)) => {
                self.failed.remove(&backend);
            }
            Note::Ended(_, why) => {
                if let (Some(clerk), Some(facts)) = (&self.clerk, facts) {
                    clerk.gone(why, facts);
                }
            }
            Note::PoolChanged(
                Change::Enable(_) | Change::Assign(..) | Change::Limit(..) | Change::Reset(_) | Change::Policy(..),
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
            | Note::Granted(..)
            | Note::Connected(_)
            | Note::DialFailed(..) => {}
        }
    }

    /// All backends as they are now, in list order.
    pub fn tally(&mut self, views: &[BackendView]) {
        let name = |view: &BackendView| self.names.get(view.id.0).map_or("", String::as_str);
        let backends: Vec<_> = views.iter().map(|view| (name(view), *view)).collect();
        self.voice.moment(&Moment::Tally { backends: &backends });
    }

    /// How a probe ended.
    pub fn probed(&mut self, backend: BackendId, result: &io::Result<()>) {
        let scene = Scene {
            facts: None,
            names: &self.names,
            places: &self.places,
            failed: &self.failed,
            service: &self.service,
            board: &self.board,
        };
        self.voice.probed(backend, result, &scene);
    }
}
