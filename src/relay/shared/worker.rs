//! One shared relay thread: it waits for events on its clients' sockets and gives each client its turn. No other thread
//! touches them, so nothing here needs a lock. No client can delay the others: no call blocks, a turn is short, and a
//! panic ends only the client whose turn it was.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::connection::{Connection, Outcome};
use super::deadlines::Deadlines;
use super::mailbox::{Mailbox, WorkerCommand};
use crate::core::msg::{ClientId, CloseReason};
use crate::memory::give_back_memory;
use crate::net::Stream;
use crate::relay::RelayConfig;
use crate::relay::closing::Which;
use crate::relay::direction::Resources;
use crate::relay::peer::EVENTS;
use crate::relay::report::{CloseSummary, Job, Report, Reporter};

/// The state of the thread.
pub struct Worker {
    /// Where events come from.
    set: OwnedFd,
    mailbox: Mailbox,
    reporter: Arc<dyn Reporter>,
    connections: HashMap<ClientId, Connection>,
    deadlines: Deadlines,
    /// Clients whose last turn ended before they were done.
    yielding: VecDeque<ClientId>,
    /// Reports that were not sent yet.
    reports: Vec<Report>,
    resources: Resources,
    /// When the idle buffers and pipes are checked; `None` if there are none.
    tidy_at: Option<Instant>,
    /// See `Settings::net_buffer_size`.
    first_size: Arc<AtomicUsize>,
}

/// Stands for the mailbox among the sockets' tokens, which are below: clients are counted from 0.
const WAKER: u64 = u64::MAX;
/// How long a pipe waits for its next use: the pause between two transfers of one client.
const TIDY: Duration = Duration::from_secs(2);
/// Most events handled before their reports are sent. The reports are sent under one lock, so this bounds how long
/// others wait for it.
const BATCH: usize = 256;

impl Worker {
    /// # Errors
    /// When there is no descriptor.
    pub fn new(mailbox: Mailbox, reporter: Arc<dyn Reporter>, config: RelayConfig) -> io::Result<Worker> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&set, mailbox.waker(), EventData::new_u64(WAKER), EventFlags::IN | EventFlags::ET)?;
        Ok(Worker {
            set,
            mailbox,
            reporter,
            connections: HashMap::new(),
            deadlines: Deadlines::default(),
            yielding: VecDeque::new(),
            reports: Vec::new(),
            resources: Resources::new(config.pipes, config.idle_timeout, config.display),
            tidy_at: None,
            first_size: config.first_size,
        })
    }

    /// Runs until it is told to stop. The remaining clients are then reset.
    ///
    /// # Errors
    /// Only a defect here can make waiting fail.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            loop {
                let commands = self.mailbox.collect();
                if commands.is_empty() {
                    break;
                }
                for command in commands {
                    match command {
                        // Pairs that are dropped before their end are reset.
                        WorkerCommand::Stop => return Ok(()),
                        WorkerCommand::Serve(Job { client, stream, dial, flow }) => {
                            self.connections.insert(client, Connection::new(stream, dial, flow));
                            self.attend(client, Connection::start);
                        }
                        WorkerCommand::CancelDial(client) => {
                            self.attend(client, |connection, _| connection.cancel_dial())
                        }
                        WorkerCommand::CloseGracefully(client) => {
                            self.attend(client, |connection, context| connection.close_gracefully(context))
                        }
                        WorkerCommand::Reset(client) => {
                            self.attend(client, |connection, context| connection.reset(context))
                        }
                    }
                }
                // This may bring new commands.
                self.reporter.report(&mut self.reports);
            }
            self.wait(&mut events)?;
            self.resources.first_size = self.first_size.load(Ordering::Relaxed);
            for (client, role, events) in events.iter().filter_map(told) {
                self.attend(client, |connection, context| connection.stirred(role, events, context));
            }
            self.fire();
            for _ in 0..self.yielding.len() {
                if let Some(client) = self.yielding.pop_front() {
                    self.attend(client, Connection::resume);
                }
            }
            self.reporter.report(&mut self.reports);
        }
    }

    /// The one place that waits: for an event or the next alarm.
    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let left = if self.yielding.is_empty() {
            let connections = &self.connections;
            let waits = |client, at| connections.get(&client).is_some_and(|connection| connection.waits_for(at));
            let deadline = self.deadlines.next(connections.len(), waits);
            let next = deadline.into_iter().chain(self.tidy_at).min();
            next.map(|at| at.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        };
        let timeout =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        events.clear();
        match epoll::wait(&self.set, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Handles everything that is due.
    fn fire(&mut self) {
        let now = Instant::now();
        if self.tidy_at.is_some_and(|at| at <= now) {
            self.resources.pipes.tidy();
            self.tidy_at = None;
        }
        if self.tidy_at.is_none() && self.resources.pipes.are_idle() {
            self.tidy_at = Some(now + TIDY);
        }
        while let Some(client) = self.deadlines.due(now) {
            self.attend(client, |connection, context| connection.deadline(now, context));
        }
    }

    /// Calls `act` with a client, if it is still here, and carries out the result.
    fn attend(&mut self, client: ClientId, act: impl FnOnce(&mut Connection, &mut WorkerContext<'_>) -> Outcome) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        let mut context = WorkerContext {
            client,
            set: &self.set,
            resources: &mut self.resources,
            deadlines: &mut self.deadlines,
            reports: &mut self.reports,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| act(connection, &mut context)))
            .unwrap_or(Outcome::Over(CloseSummary { why: CloseReason::Panicked, up: 0, down: 0, cause: None }));
        let report = match outcome {
            Outcome::Waits => return,
            Outcome::Yields => return self.yielding.push_back(client),
            Outcome::Connected(address) => return self.reports.push(Report::Connected(client, address)),
            Outcome::DialFailed { failure, cause } => {
                match self.connections.remove(&client).and_then(Connection::into_client) {
                    Some(stream) => Report::DialFailed { client, stream, failure, cause },
                    // Cannot happen. If it did, the client must not be kept forever.
                    None => Report::Closed(
                        client,
                        CloseSummary { why: CloseReason::Panicked, up: 0, down: 0, cause: Some(cause) },
                    ),
                }
            }
            Outcome::Over(ending) => {
                // The sockets are closed before the end is reported.
                self.connections.remove(&client);
                give_back_memory(&mut self.connections);
                Report::Closed(client, ending)
            }
        };
        self.reports.push(report);
    }
}

/// The resources of the thread that a connection may use.
pub struct WorkerContext<'a> {
    pub client: ClientId,
    set: &'a OwnedFd,
    pub resources: &'a mut Resources,
    deadlines: &'a mut Deadlines,
    reports: &'a mut Vec<Report>,
}

impl WorkerContext<'_> {
    /// From now on the connection receives the events of this socket.
    ///
    /// # Errors
    /// When the system has no room for one more.
    pub fn watch(&self, stream: &Stream, role: Which) -> io::Result<()> {
        Ok(epoll::add(self.set, stream, EventData::new_u64(token(self.client, role)), EVENTS)?)
    }

    /// Reports whether a switchover needs to wait for the connection, after a change.
    pub fn tell_dismissible(&mut self, dismissible: bool) {
        let report = if dismissible { Report::Dismissible(self.client) } else { Report::Resumed(self.client) };
        self.reports.push(report);
    }

    /// Wakes the connection at this time.
    pub fn wake_at(&mut self, at: Instant) {
        self.deadlines.set(at, self.client);
    }
}

/// What an event is about; `None` for the waker.
fn told(event: &Event) -> Option<(ClientId, Which, EventFlags)> {
    let token = event.data.u64();
    let role = if token & 1 == 0 { Which::Client } else { Which::Backend };
    (token != WAKER).then_some((ClientId(token >> 1), role, event.flags))
}

fn token(client: ClientId, role: Which) -> u64 {
    match role {
        Which::Client => client.0 << 1,
        Which::Backend => client.0 << 1 | 1,
    }
}
