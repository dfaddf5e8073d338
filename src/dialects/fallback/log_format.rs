//! tcp_fallback's log. A backend has the name it has on the command line; times are in the system's zone at the start.
//!
//! Records what the core, which has no clock, cannot know: how long each backend was down, and when it was last used or
//! probed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use log::Level;

use super::go_duration::GoDuration;
use crate::config::{FailurePolicy, Service};
use crate::core::msg::{
    BackendId, BackendNote, BackendView, ClientId, ClientNote, CloseReason, DialFailure, ServiceNote,
};
use crate::observe::event_log::ConnectionInfo;
use crate::observe::log_format::{LogContext, LogFormat, ProcessEvent, TARGET};
use crate::observe::words::system_words;

/// The log format.
#[derive(Debug)]
pub struct FallbackLog {
    zone: TimeZone,
    backends: BTreeMap<BackendId, BackendHistory>,
    /// The last backend assigned to each client.
    given: BTreeMap<ClientId, BackendId>,
    /// True while a failure under a client is logged: that backend is not probed at once.
    under_a_client: bool,
    /// The addresses already logged as listened on.
    listening: Option<String>,
}

/// What is known about a backend in addition to the core's counters.
#[derive(Clone, Copy, Debug)]
struct BackendHistory {
    /// When it failed, if it has.
    failed: Option<Instant>,
    /// Sum of the outages that are over.
    downtime: Duration,
    /// Its last use or probe; after a failure under a client, the time of its next probe.
    last: Timestamp,
}

impl Default for FallbackLog {
    fn default() -> FallbackLog {
        FallbackLog {
            zone: TimeZone::system(),
            backends: BTreeMap::new(),
            given: BTreeMap::new(),
            under_a_client: false,
            listening: None,
        }
    }
}

impl LogFormat for FallbackLog {
    fn client(&mut self, client: ClientId, note: ClientNote, context: &LogContext<'_>) {
        match note {
            ClientNote::Assigned(backend) => self.assigned(client, backend, context),
            ClientNote::Connected => self.connected(client, context),
            ClientNote::DialFailed(backend, DialFailure::Backend | DialFailure::NoPort | DialFailure::Local) => {
                self.under_a_client = true;
                let cause = context.info.and_then(|info| info.cause.as_ref());
                failed_to_connect(context.backend(backend), cause);
            }
            ClientNote::DialFailed(backend, DialFailure::Cancelled) => {
                debug(context.backend(backend), format_args!("moving a waiting client on"));
            }
            ClientNote::Ended(why) => self.ended(client, why, context),
            // The log does not mention a client before it has a backend.
            ClientNote::Arrived | ClientNote::Requeued | ClientNote::Paused => {}
        }
    }

    fn backend(&mut self, backend: BackendId, note: BackendNote, context: &LogContext<'_>) {
        match note {
            BackendNote::Failed => self.failed(backend, context),
            BackendNote::Back => self.back(backend, context),
            // No backend is ever disabled in a program with this log format.
            BackendNote::Disabled => {}
        }
    }

    /// A program with this log format has no switches and no changes.
    fn service(&mut self, note: ServiceNote, _: &LogContext<'_>) {
        if let ServiceNote::Stopping { assigned, held } = note
            && assigned + held > 0
        {
            let words = format_args!("Waiting for clients to finish: {}; another signal cuts them", assigned + held);
            say(Level::Info, words);
        }
    }

    fn probed(&mut self, backend: BackendId, result: &io::Result<()>, context: &LogContext<'_>) {
        self.under_a_client = false;
        self.past(backend).last = Timestamp::now();
        match result {
            Ok(()) => debug(context.backend(backend), format_args!("probe succedded")),
            Err(cause) => failed_to_connect(context.backend(backend), Some(cause)),
        }
    }

    fn process_event(&mut self, process_event: &ProcessEvent<'_>) {
        match process_event {
            ProcessEvent::Starting { services } => {
                say(Level::Info, format_args!("Starting tcp_fallback ver 0.1"));
                let backends: Vec<_> = services.iter().flat_map(Service::backends).collect();
                say(Level::Info, format_args!("Initializing {} backend~s", backends.len()));
                for backend in backends {
                    say(Level::Info, format_args!("Backend {} added", backend.endpoint));
                }
            }
            ProcessEvent::Listening { service, at } => {
                // The address as typed, unless the system chose the port: then the actual one. One line for all
                // addresses of a name.
                let typed = service.listeners.iter().map(ToString::to_string).find(|typed| !typed.ends_with(":0"));
                let shown = typed.unwrap_or_else(|| at.to_string());
                if self.listening.as_ref() != Some(&shown) {
                    say(Level::Info, format_args!("Listening on {shown}"));
                    self.listening = Some(shown);
                }
            }
            ProcessEvent::Started { room, .. } => {
                log::debug!(target: TARGET, "DEBUG: {} {}, room for {room}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
            }
            ProcessEvent::BindFailed { at, cause, .. } => {
                say(Level::Warn, format_args!("Failed to listen on {at}: {}", system_words(cause)));
            }
            ProcessEvent::Tally { backends } => self.tally(backends),
            ProcessEvent::Reopening => say(Level::Info, format_args!("SIGHUP received, re-opening logfile")),
            ProcessEvent::Signal { name } => say(Level::Info, format_args!("Signal received: {name}")),
            ProcessEvent::Ignored { name } => say(Level::Info, format_args!("Signal ignored: {name}")),
            ProcessEvent::Ended => say(Level::Info, format_args!("Exiting...")),
        }
    }
}

impl FallbackLog {
    fn past(&mut self, backend: BackendId) -> &mut BackendHistory {
        let new = || BackendHistory { failed: None, downtime: Duration::ZERO, last: Timestamp::now() };
        self.backends.entry(backend).or_insert_with(new)
    }

    /// Logs the failed backends that were skipped before this one: from the start of the list, or, if the client was
    /// refused, from the backend that refused it.
    fn assigned(&mut self, client: ClientId, backend: BackendId, context: &LogContext<'_>) {
        let before = self.given.insert(client, backend);
        if !log::log_enabled!(target: TARGET, Level::Debug) {
            return;
        }
        let passed = before.map_or(0, |before| before.0 + 1)..backend.0;
        for skipped in passed.map(BackendId).filter(|id| context.failed.contains_key(id)) {
            debug(context.backend(skipped), format_args!("skipping backend in failed state"));
        }
    }

    fn connected(&mut self, client: ClientId, context: &LogContext<'_>) {
        let Some(&backend) = self.given.get(&client) else { return };
        self.past(backend).last = Timestamp::now();
        if let Some(ConnectionInfo { peer, connected: Some((_, address)), .. }) = context.info {
            debug(context.backend(backend), format_args!("Start transfer {peer} to {address}"));
        }
    }

    fn ended(&mut self, client: ClientId, why: CloseReason, context: &LogContext<'_>) {
        let given = self.given.remove(&client);
        let Some(info) = context.info else { return };
        let cause = info.cause_words();
        let peer = &info.peer;
        match why {
            CloseReason::NoBackend => say(Level::Warn, format_args!("Failed to connect to any backend")),
            CloseReason::NoRoom | CloseReason::Full => {
                say(Level::Warn, format_args!("Client {peer} closed: {why}{cause}"))
            }
            CloseReason::Panicked => say(Level::Error, format_args!("Client {peer} closed: {why}")),
            CloseReason::HungUp
            | CloseReason::Shutdown
            | CloseReason::ClientEnded
            | CloseReason::BackendEnded
            | CloseReason::Lingered
            | CloseReason::ClosedForSwitch
            | CloseReason::ClientFailed
            | CloseReason::BackendFailed
            | CloseReason::Idle
            | CloseReason::Terminated => {}
        }
        if let (Some(backend), Some((_, address))) = (given, &info.connected) {
            let (up, down) = (info.up, info.down);
            let words = format_args!("Finished transfer {peer} to {address}: {up} bytes, {down} back, {why}{cause}");
            debug(context.backend(backend), words);
        }
    }

    fn failed(&mut self, backend: BackendId, context: &LogContext<'_>) {
        let under_a_client = self.under_a_client;
        let past = self.past(backend);
        past.failed = Some(Instant::now());
        if let (true, Some(every)) = (under_a_client, probed_every(context.service)) {
            let every = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX);
            past.last = Timestamp::now().saturating_add(every).unwrap_or(Timestamp::MAX);
            let next = past.last;
            if log::log_enabled!(target: TARGET, Level::Debug) {
                let next = self.time(next);
                debug(context.backend(backend), format_args!("skipping probe, next: {next}"));
            }
        }
    }

    fn back(&mut self, backend: BackendId, context: &LogContext<'_>) {
        let past = self.past(backend);
        let outage = past.failed.take().map_or(Duration::ZERO, |since| since.elapsed());
        past.downtime += outage;
        let (name, outage) = (context.backend(backend), GoDuration(outage));
        say(Level::Info, format_args!("Backend is back {name}, downtime: {outage}"));
    }

    /// One line per backend.
    fn tally(&mut self, backends: &[(&str, BackendView)]) {
        for (name, view) in backends {
            let BackendHistory { failed, downtime, last } = *self.past(view.id);
            let downtime = GoDuration(downtime + failed.map_or(Duration::ZERO, |since| since.elapsed()));
            let totals = view.totals;
            say(
                Level::Info,
                format_args!(
                    "STATS: <{name}> failed={} (downtime={downtime}) requests={} bytes={} errors={} last={}",
                    view.failed,
                    totals.connections,
                    totals.up.saturating_add(totals.down),
                    totals.errors,
                    self.time(last)
                ),
            );
        }
    }

    /// Formats a time as Go does.
    fn time(&self, at: Timestamp) -> impl fmt::Display + use<> {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f %z %Z").to_string()
    }
}

/// How often a failed backend is probed.
fn probed_every(service: &Service) -> Option<Duration> {
    let mut groups = service.upstreams.iter().flat_map(|upstream| &upstream.groups);
    groups.find_map(|group| match group.failure_policy {
        FailurePolicy::UntilProbed { every } => every,
        FailurePolicy::Ignore | FailurePolicy::AvoidFor(_) | FailurePolicy::Disable => None,
    })
}

fn failed_to_connect(backend: &str, cause: Option<&io::Error>) {
    let cause = cause.map_or_else(|| "no reason is known".to_owned(), system_words);
    say(Level::Warn, format_args!("Failed to connect to backend {backend}: {cause}"));
}

fn debug(backend: &str, words: fmt::Arguments<'_>) {
    log::debug!(target: TARGET, "DEBUG: <{backend}> {words}");
}

fn say(level: Level, words: fmt::Arguments<'_>) {
    log::log!(target: TARGET, level, "{words}");
}
