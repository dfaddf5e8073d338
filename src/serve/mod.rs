//! From a configuration to a running program and back: bind everything, start, run, stop. What cannot work is found
//! before the first client is accepted. The order of fields is the order of shutdown.

mod bells;
mod failure;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use self::bells::Bells;
use self::failure::plain;
pub use self::failure::{Failure, StartError};
use crate::config::{Config, LogTarget, Service, Unresolved, Words};
use crate::control::console::Console;
use crate::control::terminal::Interrupts;
use crate::control::{Desk, Fixed, Server};
use crate::core::msg::BackendId;
use crate::endpoint::{Address, Endpoint};
use crate::engine::inbox::Outlet;
use crate::engine::resolve::Addresses;
use crate::engine::script;
use crate::engine::{Engine, Start};
use crate::limits::{Limits, Readings};
use crate::net::{Listener, Tuning};
use crate::observe::access::{AccessLog, Method};
use crate::observe::lines::Reopener;
use crate::observe::log::{self as logging, Logging};
use crate::observe::voice::{self, Moment, Voice};
use crate::signals;

/// A running proxy. Dropping it ends it as `quit force` would.
pub struct Proxy {
    control: Option<Server>,
    engines: Vec<Engine>,
    desk: Desk,
    listening: Vec<Address>,
    controlled_at: Vec<Address>,
    voice: Box<dyn Voice>,
    access: Option<AccessLog>,
    logging: Option<Logging>,
}

impl Proxy {
    /// Binds, checks and starts everything in `config`.
    ///
    /// # Errors
    /// The first thing that cannot work; then nothing is left running.
    pub fn start(config: &Config) -> Result<Proxy, StartError> {
        let limits = Readings::take().limits();
        let logging = logging::start(&config.log, &config.process.name)
            .map_err(|cause| StartError::Log { target: config.log.target.clone(), cause })?;
        match Proxy::start_services(config, &limits) {
            Ok(proxy) => Ok(Proxy { logging, ..proxy }),
            Err(e) => {
                match config.log.target {
                    // Whoever started the program is told there anyway.
                    LogTarget::StandardError | LogTarget::BothStandards | LogTarget::Nowhere => {}
                    LogTarget::File(_) | LogTarget::Syslog => log::error!("{e}"),
                }
                Err(e)
            }
        }
    }

    /// Everything but the log, which must outlive what goes wrong here.
    fn start_services(config: &Config, limits: &Limits) -> Result<Proxy, StartError> {
        let mut voice = voice::of(config.log.style);
        voice.moment(&Moment::Starting { services: &config.services });
        // Control last: whoever reaches it can be sure that clients are listened for, too.
        let bind = |service: &Service| {
            let tuning = Tuning { keepalive: service.network.keepalive };
            bind_all(&service.listeners, service.network.backlog, tuning, |at, cause| StartError::Listen { at, cause })
        };
        let bound = config.services.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        if let Some(directory) = &config.control.directory {
            let at = || Endpoint::Unix(directory.clone());
            make_shared(directory).map_err(|cause| StartError::Control { at: at(), cause })?;
        }
        let control_listeners = bind_all(&config.control.listeners, CONTROL_BACKLOG, CONTROL_TUNING, |at, cause| {
            StartError::Control { at, cause }
        })?;
        let access = match &config.access_log {
            None => None,
            Some(path) => {
                let log = AccessLog::start(path, &config.process.name);
                Some(log.map_err(|cause| StartError::AccessLog { path: path.clone(), cause })?)
            }
        };
        let mut engines = Vec::new();
        let mut listening = Vec::new();
        for (service, listeners) in config.services.iter().zip(bound) {
            let own: Vec<Address> = listeners.iter().filter_map(|listener| listener.address().ok()).collect();
            let addresses = resolve_backends(service, &own)?;
            own.iter().for_each(|at| voice.moment(&Moment::Listening { service, at }));
            listening.extend(own);
            let method = if service.network.first_bytes == 0 { Method::Get } else { Method::Post };
            let engine = Engine::start(Start {
                service: service.clone(),
                listeners,
                addresses,
                room: limits.room(),
                style: config.log.style,
                clerk: access.as_ref().map(|log| log.clerk(method)),
            });
            engines.push(engine.map_err(|cause| StartError::Thread { cause })?);
            if let Some(script) = &service.script
                && let Err(e) = script::look_at(script)
            {
                let words = format!("switch script {} cannot be run now: {}", script.display(), plain(&e));
                log::warn!("{words}");
                eprintln!("{}: warning: {words}", config.process.name);
            }
        }
        let (Some(service), Some(engine)) = (config.services.first(), engines.first()) else {
            return Err(StartError::Thread { cause: io::Error::other("no service is configured") });
        };
        let desk = Desk {
            outlet: engine.outlet(),
            board: engine.board(),
            refresher: engine.refresher(),
            addresses: engine.addresses(),
            fixed: Fixed::of(config, service, limits.to_string()).into(),
        };
        let controlled_at = control_listeners.iter().filter_map(|listener| listener.address().ok()).collect();
        let control = Server::start(control_listeners, &desk).map_err(|cause| StartError::Thread { cause })?;
        let mut proxy = Proxy {
            control: Some(control),
            engines,
            desk,
            listening,
            controlled_at,
            voice: voice::of(config.log.style),
            access,
            logging: None,
        };
        proxy.voice.moment(&Moment::Started { listening: &proxy.listening, room: &limits.to_string() });
        if let Some(threads) = limits.few_threads {
            log::warn!("only {threads} threads: control sessions or the switch script may find none");
        }
        Ok(proxy)
    }

    /// Where clients may connect, with the ports the system chose if it was asked to.
    pub fn listening(&self) -> &[Address] {
        &self.listening
    }

    /// Where operators may connect.
    pub fn controlled_at(&self) -> &[Address] {
        &self.controlled_at
    }

    /// What commands work with.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Waits until every service has ended, and stops the rest.
    ///
    /// # Errors
    /// Why a service ended, if nobody asked for it.
    pub fn wait(mut self) -> io::Result<()> {
        let mut result = Ok(());
        match self.desk.fixed.words {
            Words::Switchover => {}
            Words::Backends { .. } => {
                self.engines.iter().for_each(Engine::wait_while_accepting);
                self.control = None;
            }
        }
        for engine in &mut self.engines {
            if let Err(e) = engine.wait() {
                result = Err(e);
            }
        }
        // Whoever is being answered gets the rest of the answer.
        self.control = None;
        self.voice.moment(&Moment::Ended);
        result
    }

    fn outlets(&self) -> Vec<Outlet> {
        self.engines.iter().map(Engine::outlet).collect()
    }

    fn reopeners(&self) -> Vec<Reopener> {
        let logs = self.logging.iter().map(Logging::reopener);
        logs.chain(self.access.iter().map(AccessLog::reopener)).collect()
    }
}

/// Runs the program until it is told to end: by `quit`, or by a signal.
///
/// # Errors
/// Why it could not start or go on, with the exit status for that.
pub fn run(config: &Config) -> Result<(), Failure> {
    // What our own parent left open is not for a switch script. All that we open ourselves is close-on-exec.
    close_fds::set_fds_cloexec(3, &[]);
    let statuses = config.process.statuses;
    let proxy = Proxy::start(config).map_err(|e| Failure::new(e.status(&statuses), e.words(config.log.style)))?;
    attend(config, proxy).map_err(|e| Failure::new(statuses.other, e))
}

/// Sees to signals and the console until the end.
fn attend(config: &Config, proxy: Proxy) -> io::Result<()> {
    let interrupts = Interrupts::default();
    let mut bells = Bells {
        outlets: proxy.outlets(),
        interrupts: interrupts.clone(),
        reopeners: proxy.reopeners(),
        voice: voice::of(config.log.style),
        process: config.process.clone(),
    };
    let _signals = signals::Listener::start(move |signal| bells.heed(signal))?;
    // After the signals: its first line may be followed by Ctrl-C.
    let _console = if config.control.console { Console::start(proxy.desk().clone(), interrupts)? } else { None };
    proxy.wait()
}

/// Makes a directory in which everybody may have sockets of their own, unless it is there.
fn make_shared(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(SHARED).create(directory) {
        // The mode that was asked for was subject to the umask.
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(SHARED)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Everybody may make files, and only their owner may remove them.
const SHARED: u32 = 0o1777;

/// Operators are few.
const CONTROL_BACKLOG: i32 = 128;
/// An operator whose machine has vanished is noticed after this and four unanswered probes.
const CONTROL_TUNING: Tuning = Tuning { keepalive: Some(Duration::from_secs(60)) };

fn bind_all(
    endpoints: &[Endpoint],
    backlog: i32,
    tuning: Tuning,
    error: impl Fn(Endpoint, io::Error) -> StartError,
) -> Result<Vec<Listener>, StartError> {
    let mut bound = Vec::new();
    for at in endpoints {
        let addresses = at.resolve().map_err(|cause| StartError::ResolveOwn { at: at.clone(), cause })?;
        for address in addresses {
            bound.push(Listener::bind(&address, backlog, tuning).map_err(|cause| error(at.clone(), cause))?);
        }
    }
    Ok(bound)
}

/// The addresses of all backends, none of which may be one of our `own`.
fn resolve_backends(service: &Service, own: &[Address]) -> Result<Addresses, StartError> {
    let endpoints = service.backends().map(|backend| &backend.endpoint);
    let addresses = match service.network.unresolved {
        Unresolved::Unreachable => Ok(Addresses::resolve_what_can_be(endpoints)),
        Unresolved::Error => Addresses::resolve(endpoints),
    };
    let addresses = addresses.map_err(|e| {
        let active = service.upstreams.first();
        let is_active = active.is_some_and(|active| active.backends().any(|backend| backend.endpoint == e.endpoint));
        let role = if is_active { "active" } else { "standby" };
        StartError::Resolve { role, backend: e.endpoint, cause: e.cause }
    })?;
    for (number, backend) in service.backends().enumerate() {
        let reached = addresses.of(BackendId(number));
        if own.iter().any(|own| reached.iter().any(|address| is_same(own, address))) {
            return Err(StartError::Loop { backend: backend.endpoint.clone() });
        }
    }
    Ok(addresses)
}

/// Whether dialling `to` ends at the listener `own`, as far as can be told without asking which addresses this machine
/// has.
fn is_same(own: &Address, to: &Address) -> bool {
    match (own, to) {
        (Address::Tcp(own), Address::Tcp(to)) => {
            let to = SocketAddr::new(to.ip().to_canonical(), to.port());
            let reaches = own.ip() == to.ip() || own.ip().is_unspecified() && to.ip().is_loopback();
            own.port() == to.port() && reaches
        }
        (Address::Unix(own), Address::Unix(to)) => own == to,
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}
