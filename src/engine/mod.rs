//! The effects: everything on behalf of one service that blocks, opens, reads or writes.
//!
//! In reading order: `acceptor`, `permits` and `first_bytes` (clients that were just accepted), `dispatcher` (the core
//! behind one lock; carries out what concerns clients), `clients` (their sockets), `watch` (held clients), `messages`
//! (what is sent to the coordinator, and its replies), `coordinator` (the thread that handles timers, the script and
//! answers), `script`, `probe`, `rebind`, `resolve`. The module `relay` carries assigned clients, in threads of their
//! own or in shared ones. `core` decides who may be dialled and when; nothing here does.

mod acceptor;
pub mod clients;
mod coordinator;
mod dispatcher;
mod first_bytes;
pub mod messages;
mod permits;
mod probe;
mod rebind;
pub mod resolve;
pub mod script;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;

use self::acceptor::AcceptorFactory;
use self::clients::Clients;
use self::coordinator::{Coordinator, Frontend};
use self::dispatcher::{Dispatcher, DispatcherInner};
use self::first_bytes::FirstBytes;
use self::messages::CoordinatorHandle;
pub use self::permits::Permits;
use self::rebind::Rebind;
use self::resolve::{Addresses, Refresher, Resolver};
use self::watch::{Watch, WatchSet};
use crate::config::{Network, Service};
use crate::core::State;
use crate::endpoint::Endpoint;
use crate::net::{Deadlines, ListenOptions, Listener, StreamOptions};
use crate::observe::access::AccessLogger;
use crate::observe::dump::DumpHandle;
use crate::observe::event_log::EventLog;
use crate::observe::log_format::NewLogFormat;
use crate::observe::stats::Stats;
use crate::relay::dial::DialOptions;
use crate::relay::{Relay, RelayConfig};
use crate::threads;
use crate::threads::pool::ThreadPool;

/// How much of each scarce resource the process has.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// A client without a permit is rejected. Services that share the count have clones of this.
    pub permits: Permits,
    /// Number of pipes for bulk transfers. When none is left, bytes are copied.
    pub pipes: usize,
    /// Number of shared relay threads; at least one.
    pub relays: usize,
    /// Number of clients that can have a pair of threads of their own at once.
    pub pairs: usize,
}

/// What a service is started with.
pub struct EngineConfig {
    pub service: Service,
    /// These are bound already.
    pub listeners: Vec<Listener>,
    /// Could not be bound at the start. They are tried again, if the service allows that.
    pub unbound: Vec<Endpoint>,
    /// The addresses of its backends.
    pub addresses: Addresses,
    pub room: Capacity,
    /// Creates the log format of the dialect.
    pub new_log_format: NewLogFormat,
    /// Writes a line for each client that has ended.
    pub access_logger: Option<AccessLogger>,
    /// Shows all relayed bytes.
    pub display: Option<DumpHandle>,
}

/// A running service. Dropping it stops it as `quit force` would and joins every thread.
pub struct Engine {
    handle: CoordinatorHandle,
    stats: Stats,
    thread: Option<JoinHandle<()>>,
    /// Why the service ended, unless it was told to.
    failure: Arc<Mutex<Option<io::Error>>>,
    workers: ThreadPool,
    resolver: Resolver,
    addresses: Addresses,
    /// Disconnected when no more clients are accepted.
    accepting: Receiver<()>,
}

impl Engine {
    /// Starts the service.
    ///
    /// # Errors
    /// If the system has no thread or descriptor left.
    pub fn start(start: EngineConfig) -> io::Result<Engine> {
        let EngineConfig { service, listeners, unbound, addresses, room, new_log_format, access_logger, display } =
            start;
        let network = &service.network;
        let (handle, inbox) = CoordinatorHandle::new();
        let state = State::new(&service, room.permits.most());
        let stats = Stats::new(state.view(), service.upstreams.iter().map(ToString::to_string).collect());
        let resolver = Resolver::start(&addresses)?;
        let known = addresses.clone();
        let tuning = StreamOptions { keepalive: network.keepalive };
        let own = addresses.own();
        let dial_options = DialOptions { timeout: network.connect_timeout, source: network.source, tuning, own };
        let watched = WatchSet::new()?;
        let first_size = Arc::new(AtomicUsize::new(service.settings.net_buffer_size));
        let relay_config = RelayConfig {
            pipes: Arc::new(AtomicUsize::new(room.pipes)),
            first_size: Arc::clone(&first_size),
            idle_timeout: network.idle_timeout,
            display,
        };
        let thread_pairs = Arc::new(AtomicUsize::new(service.settings.thread_pairs));
        let relay = Relay::new(room.relays, Arc::clone(&thread_pairs), room.pairs, relay_config)?;
        let inner = DispatcherInner {
            state,
            clients: Clients::new(watched.clone(), relay.clone()),
            event_log: EventLog::new(&service, new_log_format(), access_logger, stats.clone()),
            addresses,
            dial_options,
            first_size,
            thread_pairs,
            actions: Vec::new(),
            flows_counted: service.goes_by_flow().then(Instant::now),
        };
        let dispatcher = Dispatcher::new(inner, handle.clone());
        let relaying = relay.start(&dispatcher.reporter())?;
        let watch = Watch::start(&watched, dispatcher.clone())?;
        let first_bytes_thread = match network.first_bytes {
            0 => None,
            first_bytes => Some(FirstBytes::start(first_bytes, network.idle_timeout, &dispatcher)?),
        };
        let acceptors = AcceptorFactory {
            dispatcher: dispatcher.clone(),
            handle: handle.clone(),
            permits: room.permits,
            first_bytes: first_bytes_thread.as_ref().map(FirstBytes::first_bytes),
            threads: network.accept_threads,
            name: format!("listen-{}", service.name),
        };
        let listening = listeners.into_iter().map(|listener| acceptors.open(listener)).collect::<io::Result<_>>()?;
        let rebind = match network.bind_retry {
            Some(every) if !unbound.is_empty() => {
                Some(Rebind::start(unbound, every, service.clone(), new_log_format(), handle.clone())?)
            }
            Some(_) | None => None,
        };
        let workers = ThreadPool::default();
        let (accepting, accepted) = bounded(0);
        let coordinator = Coordinator {
            frontend: Some(Frontend {
                _rebind: rebind,
                listening,
                _first_bytes: first_bytes_thread,
                acceptors,
                _accepting: accepting,
            }),
            service,
            inbox,
            handle: handle.clone(),
            timers: Deadlines::default(),
            workers: workers.clone(),
            stats: stats.clone(),
            requests: Default::default(),
            next_request: 0,
            script: None,
            probes: Default::default(),
            progress: None,
            exiting: false,
            failure: None,
            _relaying: relaying,
            _watch: watch,
            dispatcher,
        };
        let failure = Arc::new(Mutex::new(None));
        let ended = Arc::clone(&failure);
        let thread = threads::spawn("coordinator", move || *ended.lock() = coordinator.run())?;
        Ok(Engine {
            handle,
            stats,
            thread: Some(thread),
            failure,
            workers,
            resolver,
            addresses: known,
            accepting: accepted,
        })
    }

    /// The handle through which commands are requested.
    pub fn handle(&self) -> CoordinatorHandle {
        self.handle.clone()
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// The addresses of the backends. More endpoints can be added through it.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// Waits until no more clients are accepted. The service runs on until the last client has ended.
    pub fn wait_while_accepting(&self) {
        // Nothing is ever sent: the channel is disconnected.
        self.accepting.recv().ok();
    }

    /// Refreshes the addresses before a switchover.
    pub fn refresher(&self) -> Refresher {
        self.resolver.refresher()
    }

    /// Waits until the service has ended.
    ///
    /// # Errors
    /// Why the service ended, unless it was told to.
    pub fn wait(&mut self) -> io::Result<()> {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return Err(io::Error::other("the coordinator panicked"));
        }
        self.failure.lock().take().map_or(Ok(()), Err)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // The replies are not needed: `wait` waits for the end.
            drop(self.handle.ask(crate::core::msg::Command::QuitForce));
            self.wait().ok();
        }
        self.workers.join();
    }
}

/// The listen options of a service.
pub fn queue(network: &Network) -> ListenOptions {
    ListenOptions {
        length: network.backlog,
        shares_port: network.share_port,
        tuning: StreamOptions { keepalive: network.keepalive },
    }
}
