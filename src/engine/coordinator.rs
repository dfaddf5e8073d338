//! The thread that sees to the service as a whole: timers, the script, answers to those who asked, the listeners' end
//! and its own. It blocks on its inbox, until the next timer, and on nothing else. What is done, the core decides,
//! which is reached through the dispatcher; its decisions come back here in their order.

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

/// Everything the coordinator's thread owns. Fields are dropped in this order: the listeners first, so that nobody new
/// arrives, then the relay threads with whoever is left.
pub struct Coordinator {
    /// Until nobody new is accepted.
    pub frontend: Option<Frontend>,
    pub service: Service,
    pub inbox: Receiver<Message>,
    pub handle: CoordinatorHandle,
    pub timers: Deadlines<TimerId>,
    pub workers: ThreadPool,
    pub stats: Stats,
    /// Who waits for an answer.
    pub requests: BTreeMap<RequestId, Sender<Reply>>,
    pub next_request: u64,
    pub script: Option<RunningScript>,
    pub probes: Probes,
    /// The running switchover, as the operator sees it.
    pub progress: Option<SwitchProgress>,
    pub exiting: bool,
    /// Why the service cannot go on.
    pub failure: Option<io::Error>,
    pub _relaying: Relaying,
    pub _watch: Watch,
    pub dispatcher: Dispatcher,
}

/// Where clients come in. Dropped in this order: no more listeners, no more clients, those who had not arrived yet.
pub struct Frontend {
    pub _rebind: Option<Rebind>,
    pub listening: Vec<Acceptor>,
    pub _first_bytes: Option<FirstBytes>,
    pub acceptors: AcceptorFactory,
    /// Dropped last: nobody listens any more.
    pub _accepting: Sender<()>,
}

/// The running script.
pub struct RunningScript {
    run: RunId,
    running: ScriptHandle,
    /// Closed with this: nobody waits for the script any more.
    _awaited: PipeWriter,
}

/// Nobody waits for a script that outlives its switchover's end: not the service when it ends by a defect.
impl Drop for RunningScript {
    fn drop(&mut self) {
        self.running.kill();
    }
}

/// When the parts of a switchover began.
pub struct SwitchProgress {
    request: RequestId,
    started: Instant,
    drained: Option<Instant>,
}

impl Coordinator {
    /// Works until the core says `Exit`. Returns why, if it was not because somebody asked for it.
    pub fn run(mut self) -> Option<io::Error> {
        self.dispatcher.bring(Event::Started);
        while !self.exiting {
            // Timers first, however many messages wait.
            if let Some(timer) = self.timers.due(Instant::now()) {
                self.dispatcher.bring(Event::Fired(timer));
            }
            if let Some(message) = self.next_message() {
                self.receive(message);
            }
        }
        self.failure
    }

    /// The one place that waits: for a message, until the next timer.
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
                    // Before the core hears of it, which may be at its end at once: whoever is let in has arrived then.
                    last_call(&frontend.listening);
                }
                let request = self.new_request();
                self.requests.insert(request, replies);
                self.dispatcher.bring(Event::Asked(request, command));
            }
            // Whoever asked may have left.
            Message::Surveyed(views) => drop(views.send(self.dispatcher.survey())),
            Message::Tally => self.dispatcher.tally(),
            Message::Bound(listener) => self.open(listener),
            Message::ListenerFailed(cause) => {
                log::error!("cannot accept clients any more: {cause}; stopping");
                // A second one must not cut the grace short.
                if self.failure.replace(cause).is_some() {
                    return;
                }
                // Nobody waits for this answer.
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

    /// One more listener, unless nobody new is accepted any more.
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
            // About clients and backends: done by the dispatcher.
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

    /// To the log, and to whoever waits for this run's switchover.
    fn script_line(&mut self, run: RunId, line: String) {
        let current = self.script.as_ref().is_some_and(|script| script.run == run);
        script_log::output(&line);
        if let (true, Some(progress)) = (current, &self.progress) {
            self.reply(progress.request, Reply::ScriptLine(line));
        }
    }

    /// Whoever asked may have left; the outcome is in the log all the same.
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

    /// What is told to whoever waits for the switchover.
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
