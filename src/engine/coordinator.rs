//! The thread that handles what concerns the service as a whole: timers, the script, the answers to commands, and the
//! end of the listeners and of itself. It blocks on its inbox, at most until the next timer, and on nothing else. It
//! passes every event to the core through the dispatcher. The core's decisions about the service come back in the order
//! in which they were made.

use std::collections::BTreeMap;
use std::io::{self, PipeWriter};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::acceptor::AcceptorFactory;
use super::dispatcher::Dispatcher;
use super::first_bytes::FirstBytes;
use super::messages::{CoordinatorHandle, Message, Reply, SwitchTimings};
use super::probe::Probes;
use super::rebind::Rebind;
use super::script::{ScriptHandle, ScriptRun};
use super::watch::Watch;
use crate::config::Service;
use crate::core::msg::{
    Action, Answer, Command, Event, Note, RequestId, RunId, ScriptEnd, ServiceNote, TimerId, UpstreamId,
};
use crate::endpoint::Endpoint;
use crate::net::acceptor::{Acceptor, last_call};
use crate::net::{Deadlines, Listener};
use crate::observe::script as script_log;
use crate::observe::stats::Stats;
use crate::relay::RunningRelay as Relaying;
use crate::threads::pool::ThreadPool;

/// Everything that the coordinator's thread owns. Fields are dropped in this order: first the listeners, so that no
/// client arrives any more, then the relay threads with the remaining clients.
pub struct Coordinator {
    /// `None` once no more clients are accepted.
    pub frontend: Option<Frontend>,
    pub service: Service,
    pub inbox: Receiver<Message>,
    pub handle: CoordinatorHandle,
    pub timers: Deadlines<TimerId>,
    pub workers: ThreadPool,
    pub stats: Stats,
    /// The requests that wait for an answer.
    pub requests: BTreeMap<RequestId, Sender<Reply>>,
    pub next_request: u64,
    pub script: Option<RunningScript>,
    pub probes: Probes,
    /// The timings of the running switchover, for its report.
    pub progress: Option<SwitchProgress>,
    pub exiting: bool,
    /// The error that ends the service.
    pub failure: Option<io::Error>,
    pub _relaying: Relaying,
    pub _watch: Watch,
    pub dispatcher: Dispatcher,
}

/// Everything that takes in clients. Fields are dropped in this order: listeners that are not bound yet, the acceptors,
/// then the clients that have not arrived yet.
pub struct Frontend {
    pub _rebind: Option<Rebind>,
    pub listening: Vec<Acceptor>,
    pub _first_bytes: Option<FirstBytes>,
    pub acceptors: AcceptorFactory,
    /// Dropped last. Tells [`super::Engine`] that no listener is left.
    pub _accepting: Sender<()>,
}

/// The running script.
pub struct RunningScript {
    run: RunId,
    running: ScriptHandle,
    /// Dropped with this struct, which tells the script's thread that its result is not needed any more.
    _awaited: PipeWriter,
}

/// A script must not outlive its switchover, not even when a panic ends the service.
impl Drop for RunningScript {
    fn drop(&mut self) {
        self.running.kill();
    }
}

/// When each phase of a switchover started.
pub struct SwitchProgress {
    request: RequestId,
    started: Instant,
    drained: Option<Instant>,
}

impl Coordinator {
    /// Runs until the core decides `Exit`. Returns the error that ended the service, or `None` if it was told to end.
    pub fn run(mut self) -> Option<io::Error> {
        self.dispatcher.bring(Event::Started);
        while !self.exiting {
            // Timers come first, even if many messages wait.
            if let Some(timer) = self.timers.due(Instant::now()) {
                self.dispatcher.bring(Event::Fired(timer));
            }
            if let Some(message) = self.next_message() {
                self.receive(message);
            }
        }
        self.failure
    }

    /// The only place that blocks: until a message arrives or the next timer is due.
    fn next_message(&mut self) -> Option<Message> {
        let received = match self.timers.next() {
            Some(deadline) => self.inbox.recv_deadline(deadline),
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        // Never disconnected: the coordinator holds a handle of its own.
        received.ok()
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Decided { action, at, held } => self.carry_out(action, at, held),
            Message::ScriptLine(run, line) => self.script_line(run, line),
            Message::ScriptEnded(run, end) => {
                if self.script.as_ref().is_some_and(|script| script.run == run) {
                    self.script = None;
                }
                script_log::ended(end);
                self.dispatcher.bring(Event::ScriptEnded(run, end));
            }
            Message::Asked(command, replies) => {
                if command == Command::Stop
                    && let Some(frontend) = self.frontend.take()
                {
                    // Before the core learns of the request, because the core may end the service at once. Clients that
                    // the listeners have accepted count as arrived before that.
                    last_call(&frontend.listening);
                }
                let request = self.new_request();
                self.requests.insert(request, replies);
                self.dispatcher.bring(Event::Asked(request, command));
            }
            // The requester may be gone.
            Message::Surveyed(views) => drop(views.send(self.dispatcher.survey())),
            Message::Tally => self.dispatcher.tally(),
            Message::Bound(listener) => self.open(listener),
            Message::ListenerFailed(cause) => {
                log::error!("cannot accept clients any more: {cause}; stopping");
                // Only the first failure stops the service: a second `Stop` would cut the grace period short.
                if self.failure.replace(cause).is_some() {
                    return;
                }
                // Nobody waits for the answer to this request.
                let request = self.new_request();
                self.dispatcher.bring(Event::Asked(request, Command::Stop));
            }
            Message::Failed(cause) => {
                log::error!("cannot go on: {cause}");
                self.failure.get_or_insert(cause);
                self.exiting = true;
            }
        }
    }

    /// Opens one more listener, unless no more clients are accepted.
    fn open(&mut self, listener: Listener) {
        let Some(frontend) = &mut self.frontend else { return };
        match frontend.acceptors.open(listener) {
            Ok(listening) => frontend.listening.push(listening),
            Err(e) => log::error!("cannot accept clients on a listener that is bound: {e}"),
        }
    }

    fn new_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    fn carry_out(&mut self, action: Action, at: Instant, held: usize) {
        match action {
            Action::Arm(timer, after) => self.timers.set(at + after, timer),
            Action::RunScript { run, from, to, deadline } => self.run_script(run, from, to, deadline),
            Action::KillScript(run) => {
                if let Some(script) = &self.script
                    && script.run == run
                {
                    script.running.kill();
                }
            }
            Action::Answer(request, answer) => self.answer(request, answer, at, held),
            Action::Note(Note::Service(note)) => self.note(note, at),
            Action::Probe(backend) => self.probes.begin(backend, &self.workers, &self.dispatcher),
            Action::StopListening => self.frontend = None,
            Action::Exit => self.exiting = true,
            // Actions about clients and backends: the dispatcher carries them out.
            Action::Dial(..)
            | Action::CancelDial(_)
            | Action::Reject(..)
            | Action::CloseGracefully(_)
            | Action::Reset(_)
            | Action::SetEndpoint(..)
            | Action::Note(Note::Client(..) | Note::Backend(..)) => {}
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
        script_log::started(&script, &arguments);
        let until = self.timers.of(deadline);
        let time_left = until.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let started = io::pipe().and_then(|(forsaken, awaited)| {
            let script_run = ScriptRun { run, script, arguments, time_left, forsaken };
            let (running, handle) = (ScriptHandle::default(), self.handle.clone());
            self.script = Some(RunningScript { run, running: running.clone(), _awaited: awaited });
            self.workers.run(format!("script-{}", run.0), move || running.execute(&script_run, &handle))
        });
        if let Err(e) = started {
            let code = e.raw_os_error().unwrap_or(rustix::io::Errno::AGAIN.raw_os_error());
            self.handle.send(Message::ScriptEnded(run, ScriptEnd::NotStarted(code)));
        }
    }

    /// Sends a line of the script to the log, and to the requester of this run's switchover.
    fn script_line(&mut self, run: RunId, line: String) {
        let current = self.script.as_ref().is_some_and(|script| script.run == run);
        script_log::output(&line);
        if let (true, Some(progress)) = (current, &self.progress) {
            self.reply(progress.request, Reply::ScriptLine(line));
        }
    }

    /// Replies to a request. The requester may be gone; the log has the outcome in any case.
    fn reply(&self, request: RequestId, reply: Reply) {
        if let Some(replies) = self.requests.get(&request) {
            replies.send(reply).ok();
        }
    }

    fn answer(&mut self, request: RequestId, answer: Answer, at: Instant, held: usize) {
        let timings = match answer {
            Answer::Switched(_) => self.progress.take().map(|progress| progress.timings(at, held)),
            Answer::SwitchRunning
            | Answer::RollingBack
            | Answer::NoSwitchRunning
            | Answer::Changed
            | Answer::Created(_)
            | Answer::Unchanged(_)
            | Answer::InUse { .. }
            | Answer::StillInUse { .. }
            | Answer::Ending
            | Answer::TooLate => None,
        };
        self.reply(request, Reply::Answer(answer, timings));
        self.requests.remove(&request);
    }

    /// Sends a decision to the requester of the switchover.
    fn note(&mut self, note: ServiceNote, at: Instant) {
        match note {
            ServiceNote::SwitchStarted { request, from, to, timeout, max_queued } => {
                self.progress = Some(SwitchProgress { request, started: at, drained: None });
                let name = |upstream| self.stats.name(upstream);
                let (from, to) = (name(from), name(to));
                self.reply(request, Reply::SwitchStarted { from, to, timeout, max_queued });
            }
            ServiceNote::Drained => {
                if let Some(progress) = &mut self.progress {
                    progress.drained = Some(at);
                }
            }
            ServiceNote::SettingChanged => {
                if let Some(progress) = &self.progress {
                    self.reply(progress.request, Reply::SettingChanged);
                }
            }
            ServiceNote::PoolChanged(_)
            | ServiceNote::QueueOverLimit { .. }
            | ServiceNote::SwitchEnded { .. }
            | ServiceNote::Stopping { .. }
            | ServiceNote::InterruptIgnored { .. } => {}
        }
    }
}

impl SwitchProgress {
    fn timings(&self, ended: Instant, held: usize) -> SwitchTimings {
        let drained = self.drained.unwrap_or(ended);
        SwitchTimings { drain: drained - self.started, script: ended - drained, total: ended - self.started, held }
    }
}
