//! The thread that owns the core: messages become events, actions become effects. It blocks on its inbox, until the
//! next timer, and on nothing else; whatever may wait (connects, the script, the disk) is somebody else's.

use std::collections::BTreeMap;
use std::io::{self, PipeWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::clients::{Clients, Grant};
use super::inbox::{Message, Outlet, Reply, Timings};
use super::probe::Probes;
use super::resolve::Addresses;
use super::script::{Order, Running};
use super::timers::Timers;
use super::watch::Watch;
use super::workers::Workers;
use crate::config::Service;
use crate::core::State;
use crate::core::msg::{
    Action, Answer, ClientId, Command, Event, Note, ProbeEnd, RunId, ScriptEnd, Ticket, TimerId, UpstreamId,
};
use crate::core::pool::hash;
use crate::endpoint::Endpoint;
use crate::listen::Listening;
use crate::observe::journal::Journal;

/// Everything the coordinator's thread owns. Fields are dropped in this order: the listeners first, so that nobody new
/// arrives, the held clients last.
pub struct Coordinator {
    pub listening: Vec<Listening>,
    pub service: Service,
    pub state: State,
    pub inbox: Receiver<Message>,
    pub outlet: Outlet,
    pub timers: Timers,
    pub addresses: Addresses,
    pub workers: Workers,
    pub journal: Journal,
    pub buffer_size: Arc<AtomicUsize>,
    /// Who waits for an answer.
    pub tickets: BTreeMap<Ticket, Sender<Reply>>,
    pub next_ticket: u64,
    pub script: Option<Script>,
    pub probes: Probes,
    /// The running switchover, as the operator sees it.
    pub course: Option<Course>,
    pub exiting: bool,
    /// Why the service cannot go on.
    pub failure: Option<io::Error>,
    pub watch: Watch,
    pub clients: Clients,
}

/// The running script.
pub struct Script {
    run: RunId,
    running: Running,
    /// Closed with this: nobody waits for the script any more.
    _awaited: PipeWriter,
}

/// When the parts of a switchover began.
pub struct Course {
    ticket: Ticket,
    started: Instant,
    drained: Option<Instant>,
}

impl Coordinator {
    /// Works until the core says `Exit`. Returns why, if it was not because somebody asked for it.
    pub fn run(mut self) -> Option<io::Error> {
        let mut actions = Vec::new();
        let mut first = Some(Event::Started);
        while !self.exiting {
            let Some(event) = first.take().or_else(|| self.next_event()) else { continue };
            self.state.handle(event, &mut actions);
            // Published first: whoever is answered must find the new situation there.
            self.journal.publish(self.state.view(), &actions);
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            self.clients.watch_new(&self.watch);
        }
        self.failure
    }

    /// The one place that waits: for a message or for the next timer, which comes first, however many messages wait.
    fn next_event(&mut self) -> Option<Event> {
        if let Some(timer) = self.timers.due(Instant::now()) {
            return Some(Event::Fired(timer));
        }
        let received = match self.timers.next() {
            Some(deadline) => self.inbox.recv_deadline(deadline),
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        // Never disconnected: the coordinator holds an outlet of its own.
        received.ok().and_then(|message| self.receive(message))
    }

    /// Takes over what a message brings along, and says what it means to the core.
    fn receive(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Accepted { stream, peer } => {
                let hash = hash::of_client(&peer);
                Some(Event::Arrived(self.clients.admit(stream, peer), hash))
            }
            Message::Stirred { client, gone } => {
                self.clients.has_left(client, gone, &self.watch).then_some(Event::HungUp(client))
            }
            Message::Connected(client, address) => {
                self.clients.connected(client, address);
                Some(Event::Connected(client))
            }
            Message::Refused { client, stream, failure, cause } => {
                self.clients.take_back(client, stream, cause);
                Some(Event::Refused(client, failure))
            }
            Message::BackendEnded(client) => Some(Event::BackendEnded(client)),
            Message::Closed(client, ending) => {
                let why = ending.why;
                let traffic = self.clients.ended(client, ending);
                Some(Event::Closed(client, why, traffic))
            }
            Message::ScriptLine(run, line) => {
                self.script_line(run, line);
                None
            }
            Message::ScriptEnded(run, end) => {
                if self.script.as_ref().is_some_and(|script| script.run == run) {
                    self.script = None;
                }
                self.journal.script_ended(end);
                Some(Event::ScriptEnded(run, end))
            }
            Message::Asked(command, replies) => {
                let ticket = self.new_ticket();
                self.tickets.insert(ticket, replies);
                Some(Event::Asked(ticket, command))
            }
            Message::Surveyed(views) => {
                // Whoever asked may have left.
                views.send(self.state.backends().collect()).ok();
                None
            }
            Message::Probed(backend, result) => {
                self.journal.probed(backend, &result);
                let end = if result.is_ok() { ProbeEnd::Reached } else { ProbeEnd::Failed };
                Some(Event::Probed(backend, end))
            }
            Message::ListenerFailed(cause) => {
                log::error!("cannot accept clients any more: {cause}; stopping");
                self.failure.get_or_insert(cause);
                // Nobody waits for this answer.
                Some(Event::Asked(self.new_ticket(), Command::Stop))
            }
        }
    }

    fn new_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Dial(client, backend) => {
                let grant = Grant {
                    addresses: self.addresses.of(backend),
                    timeout: self.service.connect_timeout,
                    buffer_size: Arc::clone(&self.buffer_size),
                };
                self.clients.dial(client, grant, &self.watch, &self.workers, &self.outlet);
            }
            Action::CallOff(client) => self.clients.leash(client, |leash| leash.call_off()),
            Action::Dismiss(client) => self.clients.leash(client, |leash| leash.dismiss()),
            Action::Cut(client) => self.clients.leash(client, |leash| leash.cut()),
            Action::Refuse(client, _) => self.clients.refuse(client, &self.watch),
            Action::Probe(backend) => {
                let (addresses, timeout) = (self.addresses.of(backend), self.service.connect_timeout);
                self.probes.begin(backend, addresses, timeout, &self.workers, &self.outlet);
            }
            Action::Assign(backend, endpoint) => {
                if let Some(endpoint) = self.addresses.assign(backend, endpoint) {
                    self.journal.name_backend(backend, &endpoint);
                }
            }
            Action::Arm(timer, after) => self.timers.arm(timer, after),
            Action::RunScript { run, from, to, deadline } => self.run_script(run, from, to, deadline),
            Action::KillScript(run) => {
                if let Some(script) = &self.script
                    && script.run == run
                {
                    script.running.kill();
                }
            }
            Action::Answer(ticket, answer) => self.answer(ticket, answer),
            Action::Note(note) => self.note(note),
            Action::StopListening => self.listening.clear(),
            Action::Exit => self.exiting = true,
        }
    }

    fn run_script(&mut self, run: RunId, from: UpstreamId, to: UpstreamId, deadline: TimerId) {
        let Some(script) = self.service.script.clone() else { return };
        let words = |upstream: UpstreamId| {
            let upstream = self.service.upstreams.get(upstream.0);
            upstream.and_then(|upstream| upstream.first()).map(Endpoint::host_and_port).unwrap_or_default()
        };
        let ((from_host, from_port), (to_host, to_port)) = (words(from), words(to));
        let arguments = [from_host, from_port, to_host, to_port];
        self.journal.script_started(&script, &arguments);
        let time_left = self.timers.left(deadline);
        let started = io::pipe().and_then(|(forsaken, awaited)| {
            let order = Order { run, script, arguments, time_left, forsaken };
            let (running, outlet) = (Running::default(), self.outlet.clone());
            self.script = Some(Script { run, running: running.clone(), _awaited: awaited });
            self.workers.run(format!("script-{}", run.0), move || running.execute(&order, &outlet))
        });
        if let Err(e) = started {
            let code = e.raw_os_error().unwrap_or(rustix::io::Errno::AGAIN.raw_os_error());
            self.outlet.send(Message::ScriptEnded(run, ScriptEnd::NotStarted(code)));
        }
    }

    /// To the log, and to whoever waits for this run's switchover.
    fn script_line(&mut self, run: RunId, line: String) {
        let current = self.script.as_ref().is_some_and(|script| script.run == run);
        self.journal.script_line(&line);
        if let (true, Some(course)) = (current, &self.course) {
            self.reply(course.ticket, Reply::ScriptLine(line));
        }
    }

    /// Whoever asked may have left; the outcome is in the log all the same.
    fn reply(&self, ticket: Ticket, reply: Reply) {
        if let Some(replies) = self.tickets.get(&ticket) {
            replies.send(reply).ok();
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let timings = match answer {
            Answer::Switched(_) => self.course.take().map(|course| course.timings(self.clients.held())),
            Answer::SwitchRunning
            | Answer::Undone
            | Answer::NoSwitchRunning
            | Answer::Changed
            | Answer::Created(_)
            | Answer::Unchanged(_)
            | Answer::InUse { .. }
            | Answer::StillInUse { .. }
            | Answer::Ending
            | Answer::TooLate => None,
        };
        self.reply(ticket, Reply::Answer(answer, timings));
        self.tickets.remove(&ticket);
    }

    /// What a note changes here, before it is told.
    fn note(&mut self, note: Note) {
        match note {
            Note::SwitchStarted { ticket, from, to, timeout, max_queued } => {
                self.course = Some(Course { ticket, started: Instant::now(), drained: None });
                let name = |upstream| self.journal.name(upstream);
                let (from, to) = (name(from), name(to));
                self.reply(ticket, Reply::SwitchStarted { from, to, timeout, max_queued });
            }
            Note::Drained => {
                if let Some(course) = &mut self.course {
                    course.drained = Some(Instant::now());
                }
            }
            Note::SettingChanged => {
                let size = self.state.view().settings.net_buffer_size;
                self.buffer_size.store(size, Ordering::Relaxed);
                if let Some(course) = &self.course {
                    self.reply(course.ticket, Reply::SettingChanged);
                }
            }
            Note::Arrived(_)
            | Note::Requeued(_)
            | Note::Paused(_)
            | Note::Granted(..)
            | Note::Connected(_)
            | Note::DialFailed(..)
            | Note::Ended(..)
            | Note::BackendFailed(_)
            | Note::BackendBack(_)
            | Note::BackendDisabled(_)
            | Note::PoolChanged(_)
            | Note::QueueOverLimit { .. }
            | Note::SwitchEnded { .. }
            | Note::Stopping { .. }
            | Note::InterruptIgnored { .. } => {}
        }
        let client = subject(note);
        self.journal.note(note, client.and_then(|client| self.clients.facts(client)));
        if let Note::Ended(client, _) = note {
            self.clients.forget(client);
        }
    }
}

impl Course {
    fn timings(&self, held: usize) -> Timings {
        let now = Instant::now();
        let drained = self.drained.unwrap_or(now);
        Timings { drain: drained - self.started, script: now - drained, total: now - self.started, held }
    }
}

/// Whom a note is about.
fn subject(note: Note) -> Option<ClientId> {
    match note {
        Note::Arrived(client)
        | Note::Requeued(client)
        | Note::Paused(client)
        | Note::Granted(client, _)
        | Note::Connected(client)
        | Note::DialFailed(client, ..)
        | Note::Ended(client, _) => Some(client),
        Note::BackendFailed(_)
        | Note::BackendBack(_)
        | Note::BackendDisabled(_)
        | Note::PoolChanged(_)
        | Note::QueueOverLimit { .. }
        | Note::SwitchStarted { .. }
        | Note::Drained
        | Note::SwitchEnded { .. }
        | Note::SettingChanged
        | Note::Stopping { .. }
        | Note::InterruptIgnored { .. } => None,
    }
}
