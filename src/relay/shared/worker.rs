//! One shared relay thread: it waits for events on its clients' sockets and gives each client its turn. No other thread
//! touches them, so nothing here needs a lock. No client can delay the others: no call blocks, a turn is short, and a
//! panic ends only the client whose turn it was.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::mailbox::{Mailbox, WorkerCommand};
use crate::core::msg::{ClientId, CloseReason, PeerRole};
use crate::memory::give_back_memory;
use crate::net::{Deadlines, Events, Poller, Stream};
use crate::relay::RelayConfig;
use crate::relay::direction::{Progress, Resources};
use crate::relay::peer::EVENTS;
use crate::relay::report::{CloseSummary, Job, Report, Reporter};

/// The state of the thread.
pub struct Worker {
    /// Where commands and events come from.
    mailbox: Mailbox,
    reporter: Arc<dyn Reporter>,
    connections: HashMap<ClientId, Connection>,
    deadlines: Deadlines<ClientId>,
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

/// How long a pipe waits for its next use: the pause between two transfers of one client.
const TIDY: Duration = Duration::from_secs(2);
/// Most events handled before their reports are sent. The reports are sent under one lock, so this bounds how long
/// others wait for it.
const BATCH: usize = 256;

impl Worker {
    pub fn new(mailbox: Mailbox, reporter: Arc<dyn Reporter>, config: RelayConfig) -> Worker {
        Worker {
            mailbox,
            reporter,
            connections: HashMap::new(),
            deadlines: Deadlines::default(),
            yielding: VecDeque::new(),
            reports: Vec::new(),
            resources: Resources::new(config.pipes, config.idle_timeout, config.display),
            tidy_at: None,
            first_size: config.first_size,
        }
    }

    /// Runs until it is told to stop. The remaining clients are then reset.
    ///
    /// # Errors
    /// Only a defect here can make waiting fail.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::new(BATCH);
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
                            self.attend(client, |connection, context| connection.cancel_dial(context))
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
            for (token, flags) in events.iter() {
                let (client, role) = socket(token);
                self.attend(client, |connection, context| connection.stirred(role, flags, context));
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

    /// The one place that waits: for an event or the next deadline.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let poller = self.mailbox.poller();
        if !self.yielding.is_empty() {
            return poller.take(events);
        }
        let connections = &self.connections;
        let waits = |client, at| connections.get(&client).is_some_and(|connection| connection.waits_for(at));
        let deadline = self.deadlines.next_awaited(connections.len(), waits);
        poller.wait(events, deadline.into_iter().chain(self.tidy_at).min())
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

    /// Lets `act` do something with a client, if it is still here, and does what follows.
    fn attend(
        &mut self,
        client: ClientId,
        act: impl FnOnce(&mut Connection, &mut WorkerContext<'_>) -> Progress<Report>,
    ) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        let mut context = WorkerContext {
            client,
            poller: self.mailbox.poller(),
            resources: &mut self.resources,
            deadlines: &mut self.deadlines,
            reports: &mut self.reports,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| act(connection, &mut context)))
            .unwrap_or_else(|_| Progress::Ended(Report::Closed(client, CloseSummary::of_none(CloseReason::Panicked))));
        match outcome {
            Progress::Waits => {}
            Progress::Yields => self.yielding.push_back(client),
            Progress::Ended(report) => {
                // The sockets are closed before anybody is told so.
                self.connections.remove(&client);
                give_back_memory(&mut self.connections);
                self.reports.push(report);
            }
        }
    }
}

/// What a connection may use of its thread's.
pub struct WorkerContext<'a> {
    pub client: ClientId,
    poller: &'a Poller,
    pub resources: &'a mut Resources,
    deadlines: &'a mut Deadlines<ClientId>,
    reports: &'a mut Vec<Report>,
}

impl WorkerContext<'_> {
    /// From now on the connection is told what happens on this socket.
    ///
    /// # Errors
    /// When the system has no room for one more.
    pub fn watch(&self, stream: &Stream, role: PeerRole) -> io::Result<()> {
        self.poller.add(stream, token(self.client, role), EVENTS)
    }

    /// A report that is not the connection's last one.
    pub fn report(&mut self, report: Report) {
        self.reports.push(report);
    }

    /// The connection will be told when this time has come.
    pub fn wake_at(&mut self, at: Instant) {
        self.deadlines.set(at, self.client);
    }
}

/// The socket that a token stands for.
fn socket(token: u64) -> (ClientId, PeerRole) {
    let role = if token & 1 == 0 { PeerRole::Client } else { PeerRole::Backend };
    (ClientId(token >> 1), role)
}

fn token(client: ClientId, role: PeerRole) -> u64 {
    match role {
        PeerRole::Client => client.0 << 1,
        PeerRole::Backend => client.0 << 1 | 1,
    }
}
