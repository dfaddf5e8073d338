//! The effects: everything that blocks, opens, reads, writes or waits, on behalf of one service.
//!
//! In reading order: `door`, `permits` and `lobby` (what becomes of clients that were accepted), `dispatch` (the core
//! behind one lock; carries out what concerns clients), `clients` (their sockets and seats), `dial` and `relay` (a few
//! threads carry all granted clients), `watch` (held clients), `inbox` (what is told to whom), `coordinator` (the thread
//! that sees to timers, script and answers), `script`, `probe`, `rebind`, `workers` (threads, reused), `resolve`,
//! `timers`. Who may be dialled when is none of their business: see `core`.

mod clients;
mod coordinator;
mod dial;
mod dispatch;
mod door;
pub mod inbox;
mod lobby;
mod permits;
mod probe;
mod rebind;
pub mod relay;
pub mod resolve;
pub mod script;
mod timers;
mod watch;
mod workers;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;

use self::clients::Clients;
use self::coordinator::{Coordinator, Front};
use self::dial::Manner;
use self::dispatch::{Dispatcher, Floor};
use self::door::Doors;
use self::inbox::Outlet;
use self::lobby::Lobby;
pub use self::permits::Permits;
use self::rebind::Rebind;
use self::relay::{Gear, Mailbox, Relays};
use self::resolve::{Addresses, Refresher, Resolver};
use self::timers::Timers;
use self::watch::{Watch, Watched};
pub use self::workers::Workers;
use crate::config::{LogStyle, Network, Service};
use crate::core::State;
use crate::endpoint::Endpoint;
use crate::net::{Listener, Queue, Tuning};
use crate::observe::access::Clerk;
use crate::observe::dump::Display;
use crate::observe::journal::Journal;
use crate::observe::stats::Board;
use crate::threads;

/// What the process has room for.
#[derive(Clone, Debug)]
pub struct Room {
    /// For clients; without one a client is refused. Services that share the count have clones of this.
    pub permits: Permits,
    /// Pipes for bulk transfers; where there is none, bytes are copied.
    pub pipes: usize,
    /// Threads that carry clients; at least one.
    pub relays: usize,
}

/// What a service is started with.
pub struct Start {
    pub service: Service,
    /// Bound already.
    pub listeners: Vec<Listener>,
    /// To be bound later, if the service has such.
    pub unbound: Vec<Endpoint>,
    /// Of its backends.
    pub addresses: Addresses,
    pub room: Room,
    pub style: LogStyle,
    /// Writes a line for each client that has gone.
    pub clerk: Option<Clerk>,
    /// Shows everything that passes.
    pub display: Option<Display>,
}

/// A running service. Dropping it stops it as `quit force` would and joins every thread.
pub struct Engine {
    outlet: Outlet,
    board: Board,
    thread: Option<JoinHandle<()>>,
    /// Why the service ended, if nobody asked for it.
    failure: Arc<Mutex<Option<io::Error>>>,
    workers: Workers,
    resolver: Resolver,
    addresses: Addresses,
    /// Disconnected when clients are accepted no more.
    accepting: Receiver<()>,
}

impl Engine {
    /// Starts to serve.
    ///
    /// # Errors
    /// When a thread or descriptor is not to be had.
    pub fn start(start: Start) -> io::Result<Engine> {
        let Start { service, listeners, unbound, addresses, room, style, clerk, display } = start;
        let network = &service.network;
        let (outlet, inbox) = Outlet::new();
        let state = State::new(&service, room.permits.most());
        let board = Board::new(state.view(), service.upstreams.iter().map(ToString::to_string).collect());
        let resolver = Resolver::start(&addresses)?;
        let known = addresses.clone();
        let tuning = Tuning { keepalive: network.keepalive };
        let own = addresses.own();
        let manner = Manner { timeout: network.connect_timeout, source: network.source, tuning, own };
        let watched = Watched::new()?;
        let mailboxes = (0..room.relays).map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>()?;
        let first_size = Arc::new(AtomicUsize::new(service.settings.net_buffer_size));
        let floor = Floor {
            state,
            clients: Clients::new(watched.clone(), mailboxes.clone()),
            journal: Journal::new(&service, style, clerk, board.clone()),
            addresses,
            manner,
            first_size: Arc::clone(&first_size),
            actions: Vec::new(),
            flows_counted: service.goes_by_flow().then(Instant::now),
        };
        let dispatcher = Dispatcher::new(floor, outlet.clone());
        let gear = Gear { pipes: room.pipes, first_size, idle_timeout: network.idle_timeout, display };
        let relays = Relays::start(mailboxes, &dispatcher, &gear)?;
        let watch = Watch::start(&watched, dispatcher.clone())?;
        let lobby = match network.first_bytes {
            0 => None,
            first_bytes => Some(Lobby::start(first_bytes, network.idle_timeout, &dispatcher)?),
        };
        let doors = Doors {
            dispatcher: dispatcher.clone(),
            outlet: outlet.clone(),
            permits: room.permits,
            entrance: lobby.as_ref().map(Lobby::entrance),
            threads: network.accept_threads,
            name: format!("listen-{}", service.name),
        };
        let listening = listeners.into_iter().map(|listener| doors.open(listener)).collect::<io::Result<_>>()?;
        let rebind = match network.bind_retry {
            Some(every) if !unbound.is_empty() => {
                Some(Rebind::start(unbound, every, service.clone(), style, outlet.clone())?)
            }
            Some(_) | None => None,
        };
        let workers = Workers::default();
        let (accepting, accepted) = bounded(0);
        let coordinator = Coordinator {
            front: Some(Front { _rebind: rebind, listening, _lobby: lobby, doors, _accepting: accepting }),
            service,
            inbox,
            outlet: outlet.clone(),
            timers: Timers::default(),
            workers: workers.clone(),
            board: board.clone(),
            tickets: Default::default(),
            next_ticket: 0,
            script: None,
            probes: Default::default(),
            course: None,
            exiting: false,
            failure: None,
            _relays: relays,
            _watch: watch,
            dispatcher,
        };
        let failure = Arc::new(Mutex::new(None));
        let ended = Arc::clone(&failure);
        let thread = threads::spawn("coordinator", move || *ended.lock() = coordinator.run())?;
        Ok(Engine {
            outlet,
            board,
            thread: Some(thread),
            failure,
            workers,
            resolver,
            addresses: known,
            accepting: accepted,
        })
    }

    /// The way to ask for something.
    pub fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    /// The counters.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Where the backends are, and how more places become known.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// Waits until clients are accepted no more. The service goes on until the last one has gone.
    pub fn wait_while_accepting(&self) {
        // Nothing is ever sent: it ends by being disconnected.
        self.accepting.recv().ok();
    }

    /// For fresh addresses before a switchover.
    pub fn refresher(&self) -> Refresher {
        self.resolver.refresher()
    }

    /// Waits until the service has ended.
    ///
    /// # Errors
    /// Why it ended, if nobody asked for it.
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
            // Dropping the replies is fine: the end is waited for, not the answer.
            drop(self.outlet.ask(crate::core::msg::Command::QuitForce));
            self.wait().ok();
        }
        self.workers.join();
    }
}

/// How clients of a service wait to be accepted.
pub fn queue(network: &Network) -> Queue {
    Queue { length: network.backlog, shares_port: network.share_port, tuning: Tuning { keepalive: network.keepalive } }
}
