//! Runs a configuration: binds everything, starts, runs and stops it. Reports errors before the first client is
//! accepted. The order of fields is the order of shutdown.

mod background;
mod binding;
mod failure;
mod limits;
mod pid_file;
mod profile;
mod signal_handler;
pub mod signals;
mod stats_timer;

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use self::background::{ProcessRole, ReadyPipe};
use self::binding::BoundListeners;
use self::failure::plain;
pub use self::failure::{ExitFailure, StartError};
use self::limits::{Limits, SystemLimits};
use self::pid_file::PidFile;
use self::profile::Profile;
use self::signal_handler::SignalHandler;
use self::stats_timer::StatsTimer;
use crate::children;
use crate::config::{Commands, Config, LogTarget, Service};
use crate::control::console::Console;
use crate::control::terminal::Interrupts;
use crate::control::{Context, ControlServer, FixedSettings};
use crate::dialects;
use crate::endpoint::{Address, Endpoint};
use crate::engine::messages::CoordinatorHandle;
use crate::engine::script;
use crate::engine::{Engine, EngineConfig};
use crate::net::acceptor;
use crate::net::{self, ListenOptions, Listener, StreamOptions};
use crate::observe::access::{AccessLog, Method};
use crate::observe::dump::Dump;
use crate::observe::lines::Reopener;
use crate::observe::log::{self as logging, Logging};
use crate::observe::log_format::{LogFormat, ProcessEvent};

/// A running proxy. Dropping it ends it like `quit force`.
pub struct Proxy {
    control: Option<ControlServer>,
    tally: Option<StatsTimer>,
    engines: Vec<Engine>,
    context: Context,
    listening: Vec<Address>,
    controlled_at: Vec<Address>,
    log_format: Box<dyn LogFormat>,
    access: Option<AccessLog>,
    /// Kept only until it is dropped.
    _dump: Option<Dump>,
    logging: Option<Logging>,
}

impl Proxy {
    /// Binds, checks and starts everything in `config`.
    ///
    /// # Errors
    /// The first error; then nothing is left running.
    pub fn start(config: &Config) -> Result<Proxy, StartError> {
        let limits = SystemLimits::take().limits(config.services.len());
        let logging = logging::start(&config.log, &config.process.name)
            .map_err(|cause| StartError::Log { target: config.log.target.clone(), cause })?;
        match Proxy::start_services(config, &limits) {
            Ok(proxy) => Ok(Proxy { logging, ..proxy }),
            Err(e) => {
                match config.log.target {
                    // The user sees standard error anyway.
                    LogTarget::StandardError | LogTarget::BothStandards | LogTarget::Nowhere => {}
                    LogTarget::File(_) | LogTarget::Syslog => log::error!("{e}"),
                }
                Err(e)
            }
        }
    }

    /// Starts everything but the log, which must outlive a failure here.
    fn start_services(config: &Config, limits: &Limits) -> Result<Proxy, StartError> {
        let style = config.log.style;
        let mut log_format = dialects::log_format(style);
        log_format.process_event(&ProcessEvent::Starting { services: &config.services });
        // Control is bound last: if it can be reached, the listeners for clients are up too.
        let bind = |service: &Service| BoundListeners::bind(service, &mut *log_format);
        let bound = config.services.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        if let Some(directory) = &config.control.directory {
            let at = || Endpoint::Unix(directory.clone());
            make_shared(directory).map_err(|cause| StartError::Control { at: at(), cause })?;
        }
        let control_listeners = bind_control(&config.control.listeners)?;
        let access = match &config.access_log {
            None => None,
            Some(path) => {
                let log = AccessLog::start(path, &config.process.name);
                Some(log.map_err(|cause| StartError::AccessLog { path: path.clone(), cause })?)
            }
        };
        let thread = |cause| StartError::Thread { cause };
        let is_shown = |service: &Service| service.network.show_bytes;
        let dump = config.services.iter().any(is_shown).then(|| Dump::start(&config.process.name));
        let dump = dump.transpose().map_err(thread)?;
        let room = limits.room(config.services.len());
        let mut engines = Vec::new();
        let mut listening = Vec::new();
        let controlled_at: Vec<_> = control_listeners.iter().filter_map(|listener| listener.address().ok()).collect();
        let resolve = |(service, bound): (&Service, &BoundListeners)| bound.resolve_backends(service, &controlled_at);
        let addresses: Vec<_> = config.services.iter().zip(&bound).map(resolve).collect::<Result<_, _>>()?;
        binding::refuse_circles(&config.services, &bound, &addresses)?;
        for ((service, bound), addresses) in config.services.iter().zip(bound).zip(addresses) {
            for (one, other) in binding::shared_now(service, &addresses) {
                let words = "have the same address now: if they are one server, a switch moves no client";
                warn(&config.process.name, &format!("{one} and {other} {words}"));
            }
            let own = bound.addresses();
            own.iter().for_each(|at| log_format.process_event(&ProcessEvent::Listening { service, at }));
            listening.extend(own);
            let method = if service.network.first_bytes == 0 { Method::Get } else { Method::Post };
            let engine = Engine::start(EngineConfig {
                service: with_usable_source(service, &config.process.name),
                listeners: bound.listeners,
                unbound: bound.later,
                addresses,
                room: room.clone(),
                new_log_format: Box::new(move || dialects::log_format(style)),
                access_logger: access.as_ref().map(|log| log.access_logger(method)),
                display: dump.as_ref().filter(|_| is_shown(service)).map(Dump::display),
            });
            engines.push(engine.map_err(thread)?);
            if let Some(script) = &service.script
                && let Err(e) = script::look_at(script)
            {
                warn(
                    &config.process.name,
                    &format!("switch script {} cannot be run now: {}", script.display(), plain(&e)),
                );
            }
        }
        let context = context(config, &engines, limits.to_string())?;
        let control = ControlServer::start(control_listeners, &context).map_err(thread)?;
        let handles = engines.iter().map(Engine::handle).collect();
        let tally = config.process.tally.map(|every| StatsTimer::start(every, handles)).transpose().map_err(thread)?;
        let log_format = dialects::log_format(style);
        let mut proxy = Proxy {
            control: Some(control),
            tally,
            engines,
            context,
            listening,
            controlled_at,
            log_format,
            access,
            _dump: dump,
            logging: None,
        };
        proxy
            .log_format
            .process_event(&ProcessEvent::Started { listening: &proxy.listening, room: &limits.to_string() });
        if let Some(threads) = limits.few_threads {
            log::warn!("only {threads} threads: control sessions or the switch script may not get one");
        }
        Ok(proxy)
    }

    /// The addresses clients can connect to, with the ports the system chose.
    pub fn listening(&self) -> &[Address] {
        &self.listening
    }

    /// The addresses operators can connect to.
    pub fn controlled_at(&self) -> &[Address] {
        &self.controlled_at
    }

    /// The data for commands.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Waits until every service has ended, and stops the rest.
    ///
    /// # Errors
    /// Why a service ended, unless it was told to.
    pub fn wait(mut self) -> io::Result<()> {
        let mut result = Ok(());
        match self.context.fixed.words {
            Commands::Switchover => {}
            Commands::Backends { .. } => {
                self.engines.iter().for_each(Engine::wait_while_accepting);
                self.control = None;
            }
        }
        for engine in &mut self.engines {
            if let Err(e) = engine.wait() {
                result = Err(e);
            }
        }
        self.tally = None;
        // Sessions still get the rest of their answers.
        self.control = None;
        self.log_format.process_event(&ProcessEvent::Ended);
        result
    }

    fn handles(&self) -> Vec<CoordinatorHandle> {
        self.engines.iter().map(Engine::handle).collect()
    }

    fn reopeners(&self) -> Vec<Reopener> {
        let logs = self.logging.iter().map(Logging::reopener);
        logs.chain(self.access.iter().map(AccessLog::reopener)).collect()
    }
}

/// Runs the program until `quit` or a signal ends it. A program in the background runs in another process; this one
/// returns when that one is up. `warnings` are for standard error.
///
/// # Errors
/// Why it could not start or continue, with the exit status.
pub fn run(config: &Config, warnings: &[String]) -> Result<(), ExitFailure> {
    signals::reset_inherited();
    signals::survive_others();
    // Descriptors inherited from our parent must not reach the switch script. Our own are all close-on-exec.
    close_fds::set_fds_cloexec(3, &[]);
    let line = |words: &String| logging::warning(config.log.style, &config.process.name, words);
    let speak = || warnings.iter().for_each(|words| complain(&line(words)));
    if !config.process.background {
        speak();
        return run_here(config, None);
    }
    match background::enter(config)? {
        ProcessRole::Terminal => Ok(()),
        ProcessRole::Background(ready_pipe) => {
            speak();
            let fixed = background::with_fixed_paths(config);
            let fixed = fixed.map_err(|e| ExitFailure::new(config.process.statuses.other, e))?;
            run_here(&fixed, Some(ready_pipe))
        }
    }
}

/// Runs the program in this process; uses `ready_pipe` when everything is up.
fn run_here(config: &Config, ready_pipe: Option<ReadyPipe>) -> Result<(), ExitFailure> {
    let statuses = config.process.statuses;
    let at = || config.process.cpu_profile.clone().unwrap_or_default();
    let failed = |e: StartError| ExitFailure::new(e.status(&statuses), e);
    let profile = config.process.cpu_profile.as_deref().map(Profile::start).transpose();
    let profile = profile.map_err(|cause| failed(StartError::Profile { path: at(), cause }))?;
    let proxy = Proxy::start(config).map_err(|e| ExitFailure::new(e.status(&statuses), e.words(config.log.style)))?;
    let interrupts = Interrupts::default();
    let mut signal_handler = SignalHandler {
        handles: proxy.handles(),
        interrupts: interrupts.clone(),
        reopeners: proxy.reopeners(),
        log_format: dialects::log_format(config.log.style),
        process: config.process.clone(),
    };
    let other = |e: io::Error| ExitFailure::new(statuses.other, plain(&e));
    let _signals = signals::SignalThread::start(move |signal| signal_handler.handle_signal(signal)).map_err(other)?;
    children::collect_others_from_now_on();
    let _pid_file = PidFile::of(config).map_err(|cause| {
        let e = StartError::PidFile { path: config.process.pid_file.clone().unwrap_or_default(), cause };
        log::error!("{e}");
        ExitFailure::new(e.status(&statuses), e)
    })?;
    // After the signals, because Ctrl-C may follow its first line.
    let console = config.control.console.then(|| Console::start(proxy.context().clone(), interrupts));
    let _console = console.transpose().map_err(other)?.flatten();
    if let Some(ready_pipe) = ready_pipe {
        ready_pipe.cut().map_err(other)?;
    }
    let ended = proxy.wait().map_err(other);
    // Written after a failed run too: the profile may show why it failed.
    let written = profile.map_or(Ok(()), Profile::write);
    let written = written.map_err(|e| format!("cannot write CPU profile {}: {}", at().display(), plain(&e)));
    ended.and(written.map_err(|words| ExitFailure::new(statuses.other, words)))
}

/// Creates a directory in which everybody may create sockets, unless it exists.
fn make_shared(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(SHARED).create(directory) {
        // The umask has reduced the requested mode.
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(SHARED)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Everybody can create files; only their owner can remove them.
const SHARED: u32 = 0o1777;

/// Operators are few.
const CONTROL_BACKLOG: i32 = 128;
/// A vanished operator is detected after this time and four unanswered probes.
const CONTROL_TUNING: StreamOptions = StreamOptions { keepalive: Some(Duration::from_secs(60)) };

fn bind_control(endpoints: &[Endpoint]) -> Result<Vec<Listener>, StartError> {
    let queue = ListenOptions { length: CONTROL_BACKLOG, shares_port: false, tuning: CONTROL_TUNING };
    let mut bound = Vec::new();
    for at in endpoints {
        let listeners = acceptor::bind(at, queue);
        bound.extend(listeners.map_err(|e| StartError::of_bind(at, e, |at, cause| StartError::Control { at, cause }))?);
    }
    Ok(bound)
}

/// The data for commands: they act on the first service, and end all services.
fn context(config: &Config, engines: &[Engine], room: String) -> Result<Context, StartError> {
    let (Some(service), Some(engine)) = (config.services.first(), engines.first()) else {
        return Err(StartError::NowhereToListen);
    };
    Ok(Context {
        handle: engine.handle(),
        stats: engine.stats(),
        others: engines[1..].iter().map(|engine| (engine.handle(), engine.stats())).collect(),
        refresher: engine.refresher(),
        addresses: engine.addresses(),
        command_set: dialects::command_set,
        fixed: FixedSettings::of(config, service, room).into(),
    })
}

/// The service, without its source address if this machine does not have it: then the system chooses.
fn with_usable_source(service: &Service, name: &str) -> Service {
    let mut service = service.clone();
    if let Some(source) = service.network.source
        && let Err(e) = net::can_be_source(source)
    {
        warn(name, &format!("cannot use source address {source}, which is ignored: {}", plain(&e)));
        service.network.source = None;
    }
    service
}

/// Warns in the log and on standard error.
fn warn(name: &str, words: &str) {
    log::warn!("{words}");
    complain(&format!("{name}: warning: {words}"));
}

/// Writes a line to standard error. If standard error is closed, the line is lost.
pub fn complain(words: &str) {
    writeln!(io::stderr(), "{words}").ok();
}
