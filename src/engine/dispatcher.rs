//! The core behind one lock. A thread with an event (an acceptor, a relay thread, the watch, the coordinator) takes the
//! lock, lets the core decide, and at once carries out what concerns clients and backends: dials, rejections, resets.
//! So a client's events need no trip to another thread and back. What concerns the service (timers, the script,
//! answers, listeners, the end) is handed to the coordinator in the order of the decisions.
//!
//! Nothing blocks under the lock. Its longest work is a release, which starts 64 connects at once (one millisecond on a
//! machine of 2026). They start under the lock so that connects start in the order in which the core decided them
//! (promise 3).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::clients::Clients;
use super::messages::{CoordinatorHandle, Message, Report};
use super::resolve::Addresses;
use crate::core::State;
use crate::core::msg::{Action, BackendId, BackendView, ClientNote, Event, Note, ProbeEnd, ServiceNote};
use crate::core::pool::hash;
use crate::endpoint::Address;
use crate::observe::event_log::{ConnectionInfo, EventLog};
use crate::relay::dial::{Dial, DialOptions};
use crate::relay::{self, ClientHandle, Reporter};

/// Gives access to the core. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher(Arc<DispatcherShared>);

struct DispatcherShared {
    inner: Mutex<DispatcherInner>,
    handle: CoordinatorHandle,
}

/// The data behind the lock.
pub struct DispatcherInner {
    pub state: State,
    pub clients: Clients,
    pub event_log: EventLog,
    pub addresses: Addresses,
    pub dial_options: DialOptions,
    /// Read by the relay threads: see `Settings::net_buffer_size`.
    pub first_size: Arc<AtomicUsize>,
    /// Read by the relay: see `Settings::thread_pairs`.
    pub thread_pairs: Arc<AtomicUsize>,
    /// Reused for each decision; empty in between.
    pub actions: Vec<Action>,
    /// When the core was last told the traffic of open connections. `None` if no group's policy depends on it.
    pub flows_counted: Option<Instant>,
}

/// The traffic on which a choice depends may be this old.
const FLOWS_AGE: Duration = Duration::from_millis(100);

impl Dispatcher {
    pub fn new(inner: DispatcherInner, handle: CoordinatorHandle) -> Dispatcher {
        Dispatcher(Arc::new(DispatcherShared { inner: Mutex::new(inner), handle }))
    }

    /// Applies these reports in order, and empties the list.
    pub fn tell(&self, reports: &mut Vec<Report>) {
        if reports.is_empty() {
            return;
        }
        self.with_inner(|inner, handle| {
            inner.count_flows_if_old(handle);
            for report in reports.drain(..) {
                if let Some(event) = inner.receive(report) {
                    inner.decide(event, handle);
                }
            }
        });
    }

    /// Applies one event that carries no resource.
    pub fn bring(&self, event: Event) {
        self.with_inner(|inner, handle| inner.decide(event, handle));
    }

    /// Starts a dial on behalf of no client: a probe.
    pub fn dial(&self, backend: BackendId) -> Dial {
        let (addresses, dial_options) = self.0.inner.lock().dialling(backend);
        Dial::begin(addresses, dial_options)
    }

    /// The current state of the backends, including the traffic of open connections.
    pub fn survey(&self) -> Vec<BackendView> {
        self.with_inner(DispatcherInner::views)
    }

    /// Logs the state of all backends.
    pub fn tally(&self) {
        self.with_inner(|inner, handle| {
            let views = inner.views(handle);
            inner.event_log.tally(&views);
        });
    }

    /// The reporter for the relay.
    pub fn reporter(&self) -> Arc<dyn Reporter> {
        Arc::new(self.clone())
    }

    /// A thread that all clients need has failed.
    pub fn fail(&self, cause: io::Error) {
        self.0.handle.send(Message::Failed(cause));
    }

    fn with_inner<T>(&self, act: impl FnOnce(&mut DispatcherInner, &CoordinatorHandle) -> T) -> T {
        let _guard = PanicGuard(&self.0.handle);
        act(&mut self.0.inner.lock(), &self.0.handle)
    }
}

impl Reporter for Dispatcher {
    fn report(&self, reports: &mut Vec<relay::Report>) {
        if reports.is_empty() {
            return;
        }
        self.with_inner(|inner, handle| {
            inner.count_flows_if_old(handle);
            for report in reports.drain(..) {
                let event = inner.relayed(report);
                inner.decide(event, handle);
            }
        });
    }

    fn failed(&self, cause: io::Error) {
        self.fail(cause);
    }
}

/// After a panic in the core its state cannot be trusted: the service ends and says so.
struct PanicGuard<'a>(&'a CoordinatorHandle);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send(Message::Failed(io::Error::other("the core panicked")));
        }
    }
}

impl DispatcherInner {
    /// Takes over the resources in a report and returns its event for the core.
    fn receive(&mut self, report: Report) -> Option<Event> {
        match report {
            Report::Accepted(accepted) => {
                let hash = hash::of_client(&accepted.peer);
                Some(Event::Arrived(self.clients.admit(accepted), hash))
            }
            Report::NeverArrived { peer, accepted, why } => {
                let info = ConnectionInfo::new(peer, accepted);
                let note = Note::Client(self.clients.new_id(), ClientNote::Ended(why));
                self.event_log.note(note, Some(&info));
                None
            }
            Report::Stirred { client, gone } => self.clients.has_left(client, gone).then_some(Event::HungUp(client)),
            Report::Probed(backend, result) => {
                self.event_log.probed(backend, &result);
                let end = if result.is_ok() { ProbeEnd::Reached } else { ProbeEnd::Failed };
                Some(Event::Probed(backend, end))
            }
        }
    }

    /// The same for a report of the relay.
    fn relayed(&mut self, report: relay::Report) -> Event {
        match report {
            relay::Report::Connected(client, address) => {
                self.clients.connected(client, address);
                Event::Connected(client)
            }
            relay::Report::DialFailed { client, stream, failure, cause } => {
                self.clients.take_back(client, stream, cause);
                Event::DialFailed(client, failure)
            }
            relay::Report::Dismissible(client) => Event::Dismissible(client),
            relay::Report::Resumed(client) => Event::Resumed(client),
            relay::Report::Closed(client, ending) => {
                let why = ending.why;
                let traffic = self.clients.ended(client, ending);
                Event::Closed(client, why, traffic)
            }
        }
    }

    /// Lets the core decide and carries out its actions, which may cause further events.
    fn decide(&mut self, event: Event, handle: &CoordinatorHandle) {
        let mut actions = std::mem::take(&mut self.actions);
        let mut waiting = VecDeque::new();
        let mut next = Some(event);
        while let Some(event) = next {
            self.state.handle(event, &mut actions);
            // Published first: a requester that has its answer must find the new state there.
            self.event_log.publish(self.state.view(), &actions);
            for action in actions.drain(..) {
                waiting.extend(self.carry_out(action, handle));
            }
            next = waiting.pop_front();
        }
        self.actions = actions;
        self.clients.watch_new();
    }

    fn carry_out(&mut self, action: Action, handle: &CoordinatorHandle) -> Option<Event> {
        match action {
            Action::Dial(client, backend) => {
                let (addresses, dial_options) = self.dialling(backend);
                return self.clients.dial(client, || Dial::begin(addresses, dial_options));
            }
            Action::SetEndpoint(backend, endpoint) => {
                if let Some(endpoint) = self.addresses.assign(backend, endpoint) {
                    self.event_log.name_backend(backend, &endpoint);
                }
            }
            Action::CancelDial(client) => self.clients.with_handle(client, ClientHandle::cancel_dial),
            Action::CloseGracefully(client) => self.clients.with_handle(client, ClientHandle::close_gracefully),
            Action::Reset(client) => self.clients.with_handle(client, ClientHandle::reset),
            Action::Reject(client, _) => self.clients.refuse(client),
            Action::Note(note) => self.note(note, handle),
            Action::Arm(..)
            | Action::RunScript { .. }
            | Action::KillScript(_)
            | Action::Answer(..)
            | Action::Probe(_)
            | Action::StopListening
            | Action::Exit => self.hand_over(action, handle),
        }
        None
    }

    fn note(&mut self, note: Note, handle: &CoordinatorHandle) {
        match note {
            Note::Client(client, about) => {
                self.event_log.note(note, self.clients.info(client));
                if let ClientNote::Ended(_) = about {
                    self.clients.forget(client);
                }
            }
            Note::Backend(..) => self.event_log.note(note, None),
            Note::Service(about) => {
                self.event_log.note(note, None);
                if about == ServiceNote::SettingChanged {
                    let settings = self.state.view().settings;
                    self.first_size.store(settings.net_buffer_size, Ordering::Relaxed);
                    self.thread_pairs.store(settings.thread_pairs, Ordering::Relaxed);
                }
                self.hand_over(Action::Note(note), handle);
            }
        }
    }

    /// The state of all backends, including the traffic of open connections.
    fn views(&mut self, handle: &CoordinatorHandle) -> Vec<BackendView> {
        self.count_flows(handle);
        self.state.backends().collect()
    }

    /// Updates the traffic before a choice that may depend on it.
    fn count_flows_if_old(&mut self, handle: &CoordinatorHandle) {
        if self.flows_counted.is_some_and(|at| at.elapsed() > FLOWS_AGE) {
            self.count_flows(handle);
        }
    }

    /// Tells the core the traffic of all open connections.
    fn count_flows(&mut self, handle: &CoordinatorHandle) {
        let flows: Vec<_> = self.clients.flows().collect();
        for (client, traffic) in flows {
            self.decide(Event::Flowed(client, traffic), handle);
        }
        self.flows_counted = self.flows_counted.map(|_| Instant::now());
    }

    /// The addresses and options for a dial to this backend.
    fn dialling(&self, backend: BackendId) -> (Arc<[Address]>, DialOptions) {
        (self.addresses.of(backend), self.dial_options.clone())
    }

    fn hand_over(&self, action: Action, handle: &CoordinatorHandle) {
        handle.send(Message::Decided { action, at: Instant::now(), held: self.clients.held() });
    }
}
