//! The control protocol, for telnet, nc and scripts: sessions over sockets, and the console. Each session has a thread
//! of its own, so none blocks another. A session's commands are a [`session::CommandSet`]: either the rows of `table`,
//! implemented in `commands`, or the commands of a dialect.

mod commands;
pub mod console;
mod line;
pub mod session;
pub mod table;
pub mod terminal;

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use self::session::CommandSet;
use crate::config::{Commands, Config, LogTarget, Service};
use crate::core::msg::{Answer, Command};
use crate::endpoint::{Address, Endpoint};
use crate::engine::messages::{CoordinatorHandle, Reply};
use crate::engine::resolve::{Addresses, Refresher};
use crate::net::acceptor::{AcceptHandler, Acceptor};
use crate::net::{Listener, Stream};
use crate::observe::stats::Stats;
use crate::observe::words::system_words;
use crate::threads::pool::ThreadPool;

/// A line that begins with this word gets one more line at the end of its answer, which tells whether it succeeded.
/// `cbpx ctl` sends it.
pub const CTL_WORD: &str = "ctl";
/// Prefix of that last line.
pub const CTL_VERDICT: &str = " ctl: ";

/// Whether the control protocol has this command.
pub fn is_command(word: &str) -> bool {
    table::ROWS.iter().any(|row| row.name == word)
}

/// Maximum number of sessions at once. A further session gets the reason and is closed.
const SESSIONS: usize = 64;
const TOO_MANY: &str = "too many control sessions, at most 64 at once";
/// How long sessions may continue to write when the program ends.
const FAREWELL: Duration = Duration::from_millis(300);

/// The data that commands work with.
#[derive(Clone)]
pub struct Context {
    pub handle: CoordinatorHandle,
    pub stats: Stats,
    /// The other services of the process, which end together with the first.
    pub others: Vec<(CoordinatorHandle, Stats)>,
    pub refresher: Refresher,
    /// Addresses of backends that are created or moved while the service runs.
    pub addresses: Addresses,
    /// Makes the commands of a session.
    pub command_set: fn(Commands) -> Box<dyn CommandSet>,
    pub fixed: Arc<FixedSettings>,
}

impl Context {
    /// Sends a command that is answered at once; `None` when the program is ending. A command that ends the program
    /// ends all services, and `quit` requires all to be idle.
    pub fn ask(&self, command: Command) -> Option<Answer> {
        let end_of_others = match command {
            Command::Quit => {
                let views: Vec<_> = self.others.iter().map(|(_, stats)| stats.read().view).collect();
                let (assigned, held) =
                    views.iter().fold((0, 0), |(assigned, held), view| (assigned + view.assigned, held + view.held));
                if assigned + held > 0 || views.iter().any(|view| view.switching) {
                    let own = self.stats.read().view;
                    return Some(Answer::InUse { assigned: assigned + own.assigned, held: held + own.held });
                }
                Some(Command::QuitForce)
            }
            Command::QuitForce | Command::Stop => Some(command),
            Command::Switch | Command::Abort | Command::Set(_) | Command::Change(_) | Command::Interrupt => None,
        };
        let answer = self.ask_first(command);
        if let (Some(command), Some(Answer::Ending)) = (end_of_others, answer) {
            self.others.iter().for_each(|(handle, _)| drop(handle.ask(command)));
        }
        answer
    }

    fn ask_first(&self, command: Command) -> Option<Answer> {
        self.handle.ask(command).iter().find_map(|reply| match reply {
            Reply::Answer(answer, _) => Some(answer),
            Reply::SwitchStarted { .. } | Reply::ScriptLine(_) | Reply::SettingChanged => None,
        })
    }
}

/// The settings that cannot change, as listed by `set`.
#[derive(Clone, Debug)]
pub struct FixedSettings {
    pub words: Commands,
    pub control: String,
    pub port: String,
    pub active: String,
    pub standby: String,
    pub backlog: String,
    pub script: String,
    pub log_file: String,
    pub log_level: String,
    /// The number of clients that the process has capacity for.
    pub room: String,
}

impl FixedSettings {
    /// Names that `set` knows but cannot change.
    pub const NAMES: &[&str] = &[
        "port",
        "active",
        "standby",
        "rc_port",
        "listen_backlog",
        "log_file",
        "log_level",
        "switch_script",
        "bind",
        "rc_bind",
        "rc_socket",
        "connect_timeout",
        "grace",
        "keepalive",
        "listeners",
        "access_log",
    ];

    pub fn of(config: &Config, service: &Service, room: String) -> FixedSettings {
        let port = |endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp { port, .. } => port.to_string(),
            Endpoint::Unix(_) | Endpoint::Malformed(_) => endpoint.to_string(),
        };
        let upstream = |index: usize| service.upstreams.get(index).map(ToString::to_string).unwrap_or_default();
        FixedSettings {
            words: config.control.words,
            control: config.control.listeners.first().map_or_else(|| "DISABLED".to_owned(), port),
            port: service.listeners.first().map(port).unwrap_or_default(),
            active: upstream(0),
            standby: upstream(1),
            backlog: service.network.backlog.to_string(),
            script: service.script.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            log_file: match &config.log.target {
                LogTarget::File(path) => path.display().to_string(),
                LogTarget::StandardError | LogTarget::BothStandards | LogTarget::Syslog | LogTarget::Nowhere => {
                    String::new()
                }
            },
            log_level: match config.log.level.to_string() {
                level if level == "WARN" => "WARNING".to_owned(),
                level => level,
            },
            room,
        }
    }
}

/// A connected control session.
struct OpenSession {
    stream: Arc<Stream>,
    /// False for a session that only gets the reason why it is rejected.
    served: bool,
}

/// How a new connection is treated.
enum Admission {
    Serve,
    /// It gets the reason, on a thread of its own, because the peer may read slowly.
    Reject,
    /// Closed without an answer.
    Close,
}

/// The control listeners and their sessions. Dropping it ends and joins them all. A session that is writing an answer
/// gets a short time to complete it.
pub struct ControlServer {
    listening: Vec<Acceptor>,
    sessions: Arc<Sessions>,
    workers: ThreadPool,
    /// Dropped to stop repeating commands.
    closing: Option<Sender<()>>,
}

/// The connected sessions.
#[derive(Default)]
struct Sessions {
    open: Mutex<BTreeMap<u64, OpenSession>>,
    ended: Condvar,
}

impl ControlServer {
    /// Starts to accept sessions on listeners that are already bound.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(listeners: Vec<Listener>, context: &Context) -> io::Result<ControlServer> {
        let sessions = Arc::new(Sessions::default());
        let workers = ThreadPool::default();
        let (closing, closed) = bounded(0);
        let start = |(number, listener): (usize, Listener)| {
            let listener_number = || SessionAcceptor {
                context: context.clone(),
                sessions: Arc::clone(&sessions),
                workers: workers.clone(),
                closed: closed.clone(),
                listener_number: number as u64,
                next: 0,
            };
            Acceptor::start(listener, &format!("control-{number}"), 1, listener_number)
        };
        let listening = listeners.into_iter().enumerate().map(start).collect::<io::Result<_>>()?;
        Ok(ControlServer { listening, sessions, workers, closing: Some(closing) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.listening.clear();
        self.closing = None;
        let deadline = Instant::now() + FAREWELL;
        let mut open = self.sessions.open.lock();
        // Ends sessions that wait for input. A session that is being answered still gets the rest of its answer.
        open.values().for_each(|client| client.stream.shutdown(Shutdown::Read));
        while !open.is_empty() && !self.sessions.ended.wait_until(&mut open, deadline).timed_out() {}
        open.values().for_each(|client| client.stream.abort());
        drop(open);
        self.workers.join();
    }
}

/// Accepts sessions of one control listener.
struct SessionAcceptor {
    context: Context,
    sessions: Arc<Sessions>,
    workers: ThreadPool,
    closed: Receiver<()>,
    /// The number of the listener and of its next session, which together form a session's id.
    listener_number: u64,
    next: u64,
}

impl AcceptHandler for SessionAcceptor {
    fn accepted(&mut self, stream: Stream, peer: Address) {
        let id = (self.next << 8) | self.listener_number;
        self.next += 1;
        // Never fails on a socket that was just accepted.
        stream.set_blocking().ok();
        let stream = Arc::new(stream);
        let served = match self.sessions.admit(id, &stream) {
            Admission::Serve => true,
            Admission::Reject => false,
            Admission::Close => return log::warn!("control session from {peer}: closed: {TOO_MANY}"),
        };
        let (context, sessions, closed) = (self.context.clone(), Arc::clone(&self.sessions), self.closed.clone());
        let own = Arc::clone(&stream);
        let peer_name = peer.to_string();
        let run = self.workers.run(format!("session-{}", self.next), move || {
            let _leaves = SessionGuard { id, sessions: &sessions };
            if served {
                session::serve(&context, &own, &peer_name, &closed);
            } else {
                log::warn!("control session from {peer_name}: closed: {TOO_MANY}");
                session::turn_away(&own, TOO_MANY);
            }
        });
        if let Err(e) = run {
            self.sessions.leave(id);
            log::error!("control session from {peer}: closed: no thread for it: {}", system_words(&e));
        }
    }

    fn failed(&mut self, cause: io::Error) {
        log::error!("cannot accept control sessions any more: {cause}");
    }
}

impl Sessions {
    fn admit(&self, id: u64, stream: &Arc<Stream>) -> Admission {
        let mut open = self.open.lock();
        let served = open.values().filter(|client| client.served).count() < SESSIONS;
        if !served && open.len() >= 2 * SESSIONS {
            return Admission::Close;
        }
        open.insert(id, OpenSession { stream: Arc::clone(stream), served });
        if served { Admission::Serve } else { Admission::Reject }
    }

    fn leave(&self, id: u64) {
        self.open.lock().remove(&id);
        self.ended.notify_all();
    }
}

/// Removes a session however it ends, including by a panic.
struct SessionGuard<'a> {
    id: u64,
    sessions: &'a Sessions,
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        self.sessions.leave(self.id);
    }
}
