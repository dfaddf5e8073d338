//! The effects: everything that blocks, opens, reads, writes or waits, on behalf of one service.
//!
//! In reading order: `room` (how many clients there may be), `inbox` (what reaches the coordinator), `coordinator` (the
//! thread that owns the core), `clients` (sockets and leashes), `dial`, `leash`, `relay` (a connected pair), `workers`
//! (threads, reused), `watch` (held clients), `script`, `probe`, `resolve`, `timers`. Who may be dialled when is none of their
//! business: see `core`.

mod clients;
mod coordinator;
mod dial;
pub mod inbox;
mod leash;
mod probe;
mod relay;
pub mod resolve;
mod room;
pub mod script;
mod timers;
mod watch;
mod workers;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use self::clients::Clients;
use self::coordinator::Coordinator;
use self::inbox::{Message, Outlet};
use self::resolve::{Addresses, Refresher, Resolver};
use self::room::Room;
use self::timers::Timers;
use self::watch::Watch;
pub use self::workers::Workers;
use crate::config::Service;
use crate::core::State;
use crate::core::msg::Why;
use crate::endpoint::Address;
use crate::listen::{Acceptor, Listening};
use crate::net::{Listener, Stream};
use crate::observe::journal::Journal;
use crate::observe::stats::Board;
use crate::threads;

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
}

impl Engine {
    /// Starts to serve on listeners that are bound already. `max_clients` is how many clients there are descriptors for.
    ///
    /// # Errors
    /// When a thread or descriptor is not to be had.
    pub fn start(
        service: Service,
        listeners: Vec<Listener>,
        addresses: Addresses,
        max_clients: usize,
    ) -> io::Result<Engine> {
        let (outlet, inbox) = Outlet::new();
        let state = State::new(&service, max_clients);
        let board = Board::new(state.view(), service.upstreams.iter().map(ToString::to_string).collect());
        let resolver = Resolver::start(&addresses)?;
        let known = addresses.clone();
        let watch = Watch::start(outlet.clone())?;
        let room = Room::new(max_clients);
        let door = || Door { outlet: outlet.clone(), room: room.clone() };
        let listen = |listener| Listening::start(listener, &format!("listen-{}", service.name), door());
        let listening = listeners.into_iter().map(listen).collect::<io::Result<_>>()?;
        let workers = Workers::default();
        let coordinator = Coordinator {
            listening,
            state,
            inbox,
            outlet: outlet.clone(),
            timers: Timers::default(),
            addresses,
            workers: workers.clone(),
            journal: Journal::new(&service, board.clone()),
            buffer_size: Arc::new(AtomicUsize::new(service.settings.net_buffer_size)),
            service,
            tickets: Default::default(),
            next_ticket: 0,
            script: None,
            probes: Default::default(),
            course: None,
            exiting: false,
            failure: None,
            watch,
            clients: Clients::new(room),
        };
        let failure = Arc::new(Mutex::new(None));
        let ended = Arc::clone(&failure);
        let thread = threads::spawn("coordinator", move || *ended.lock() = coordinator.run())?;
        Ok(Engine { outlet, board, thread: Some(thread), failure, workers, resolver, addresses: known })
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

/// What becomes of clients that a listener accepts.
struct Door {
    outlet: Outlet,
    room: Room,
}

impl Acceptor for Door {
    fn accepted(&mut self, stream: Stream, peer: Address) {
        if !self.room.enter() {
            return log::warn!("client from {peer}: closed: {}", Why::NoRoom);
        }
        stream.tune();
        self.outlet.send(Message::Accepted { stream, peer });
    }

    fn failed(&mut self, cause: io::Error) {
        self.outlet.send(Message::ListenerFailed(cause));
    }
}
