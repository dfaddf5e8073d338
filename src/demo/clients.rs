//! The clients: threads that use a server, or the proxy before it, as an application would and write down what they
//! see. They know nothing of switches. Each counts one request at a time, so no wait can hide behind another.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::book::Book;
use crate::threads;

/// Clients with one request per connection.
pub const SHORT: u32 = 50;
/// Clients with a transaction per connection: `begin`, [`TRANSACTION`], `commit`.
pub const LONG: u32 = 5;
/// How long a transaction takes.
pub const TRANSACTION: Duration = Duration::from_millis(200);

/// How long a client does something else between two requests.
///
/// Without a pause, fifty threads would show how two processors are shared out rather than what the proxy does. And
/// every connection stays in the system's tables for a minute after its end (TIME_WAIT), twice here: the play fills
/// them with some 50,000 entries, of which a usual system has 65,000 to 260,000; a long stay has to be gentler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// 10 ms on average: some 4,000 requests per second.
    Brisk,
    /// 100 ms: some 500.
    Gentle,
}

impl Pace {
    /// Half as long up to half as long again, different for each client and visit: clients that were released
    /// together should not stay in step.
    fn pause(self, client: u32, visit: u32) -> Duration {
        let usual = match self {
            Pace::Brisk => Duration::from_millis(10),
            Pace::Gentle => Duration::from_millis(100),
        };
        let percent = 50 + client.wrapping_mul(37).wrapping_add(visit.wrapping_mul(61)) % 101;
        usual * percent / 100
    }
}

/// Longer than any switch may take. A client that gives up counts as an error.
const PATIENCE: Duration = Duration::from_secs(8);

/// Where clients connect: what their configuration says. All clones are the same configuration.
#[derive(Clone, Debug)]
pub struct Target(Arc<Mutex<SocketAddr>>);

impl Target {
    pub fn new(address: SocketAddr) -> Target {
        Target(Arc::new(Mutex::new(address)))
    }

    pub fn get(&self) -> SocketAddr {
        *self.0.lock()
    }

    /// From its next connection on, each client goes there.
    pub fn set(&self, address: SocketAddr) {
        *self.0.lock() = address;
    }
}

/// All clients. Dropping this lets each finish what it is at, and joins it.
#[derive(Debug)]
pub struct DemoClients {
    /// Dropped to tell them.
    closing: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl DemoClients {
    /// Starts them.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(target: &Target, pace: Pace, book: &Book) -> io::Result<DemoClients> {
        let (closing, closed) = bounded(0);
        let mut clients = DemoClients { closing: Some(closing), threads: Vec::new() };
        for number in 0..SHORT + LONG {
            let client =
                DemoClient { number, target: target.clone(), pace, book: book.clone(), closed: closed.clone() };
            let visit = if number < SHORT { DemoClient::request } else { DemoClient::transaction };
            let thread = threads::spawn(&format!("demo-{number}"), move || client.run(visit));
            let failed =
                |e: io::Error| io::Error::new(e.kind(), format!("cannot start client {number} of the demo: {e}"));
            clients.threads.push(thread.map_err(failed)?);
        }
        Ok(clients)
    }
}

impl Drop for DemoClients {
    fn drop(&mut self) {
        self.closing = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has told so on standard error.
            thread.join().ok();
        }
    }
}

struct DemoClient {
    number: u32,
    target: Target,
    pace: Pace,
    book: Book,
    closed: Receiver<()>,
}

impl DemoClient {
    fn run(&self, visit: fn(&DemoClient) -> io::Result<()>) {
        for number in 0.. {
            if let Err(e) = visit(self) {
                self.book.failed(&e.to_string());
            }
            match self.closed.recv_timeout(self.pace.pause(self.number, number)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One connection, one request.
    fn request(&self) -> io::Result<()> {
        let asked = Instant::now();
        let mut connection = self.connect()?;
        connection.ask("get")?;
        connection.end()?;
        self.book.answered(asked);
        Ok(())
    }

    /// One connection, two requests with work between them, both to one server.
    fn transaction(&self) -> io::Result<()> {
        let asked = Instant::now();
        let mut connection = self.connect()?;
        let first = connection.ask("begin")?;
        self.book.answered(asked);
        if let ServerAnswer::Refused = first {
            return connection.end();
        }
        std::thread::sleep(TRANSACTION);
        let asked = Instant::now();
        let second = connection.ask("commit")?;
        connection.end()?;
        self.book.answered(asked);
        match (first, second) {
            (ServerAnswer::From(one), ServerAnswer::From(other)) if one != other => {
                Err(io::Error::other(format!("a transaction began on {one} and ended on {other}")))
            }
            (ServerAnswer::From(_), ServerAnswer::From(_) | ServerAnswer::Refused) | (ServerAnswer::Refused, _) => {
                Ok(())
            }
        }
    }

    fn connect(&self) -> io::Result<DemoConnection> {
        let stream = TcpStream::connect(self.target.get()).inspect_err(|e| {
            if e.kind() == ErrorKind::ConnectionRefused {
                self.book.nobody_listens();
            }
        })?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(DemoConnection(BufReader::with_capacity(64, stream)))
    }
}

/// What a server said.
enum ServerAnswer {
    From(String),
    /// It is not the primary, and has counted this.
    Refused,
}

struct DemoConnection(BufReader<TcpStream>);

impl DemoConnection {
    fn ask(&mut self, word: &str) -> io::Result<ServerAnswer> {
        self.0.get_mut().write_all(format!("{word}\n").as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(said) if said.starts_with("refused") => Ok(ServerAnswer::Refused),
            Some(name) => Ok(ServerAnswer::From(name.to_owned())),
            None => Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection ended before the answer")),
        }
    }

    /// The server ends first; anything but an orderly end is an error.
    fn end(mut self) -> io::Result<()> {
        match self.0.read(&mut [0; 16])? {
            0 => Ok(()),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "more came than the answer")),
        }
    }
}
