//! The clients: threads that use a server, directly or through the proxy, as an application would, and record what they
//! observe. They know nothing of switches. Each has one request at a time, so no delay is hidden.

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

/// The pause of a client between two requests.
///
/// Without a pause, fifty threads would measure the scheduler rather than the proxy. Also, every connection stays in
/// TIME_WAIT for a minute after its end, and there are two per request: the play leaves some 50,000 such entries, of
/// 65,000 to 260,000 that a usual system allows. A long stay has to be slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// 10 ms on average: some 4,000 requests per second.
    Brisk,
    /// 100 ms: some 500.
    Gentle,
}

impl Pace {
    /// Between 0.5 and 1.5 times the average, different for each client and request, so that released clients do not
    /// stay synchronized.
    fn pause(self, client: u32, visit: u32) -> Duration {
        let usual = match self {
            Pace::Brisk => Duration::from_millis(10),
            Pace::Gentle => Duration::from_millis(100),
        };
        let percent = 50 + client.wrapping_mul(37).wrapping_add(visit.wrapping_mul(61)) % 101;
        usual * percent / 100
    }
}

/// Longer than any switch may take. A client that times out counts as an error.
const PATIENCE: Duration = Duration::from_secs(8);

/// The address that clients connect to: their configuration. All clones share it.
#[derive(Clone, Debug)]
pub struct Target(Arc<Mutex<SocketAddr>>);

impl Target {
    pub fn new(address: SocketAddr) -> Target {
        Target(Arc::new(Mutex::new(address)))
    }

    pub fn get(&self) -> SocketAddr {
        *self.0.lock()
    }

    /// Changes the address for each client's next connection.
    pub fn set(&self, address: SocketAddr) {
        *self.0.lock() = address;
    }
}

/// All clients. Dropping this lets each finish its current request, and joins it.
#[derive(Debug)]
pub struct DemoClients {
    /// Dropped to stop the clients.
    closing: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl DemoClients {
    /// Starts the clients.
    ///
    /// # Errors
    /// When a thread cannot be started.
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
            // A thread that panicked has reported it on standard error.
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

    /// One connection with two requests and work between them, both answered by one server.
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

/// A server's answer.
enum ServerAnswer {
    From(String),
    /// The server is not the primary, and has counted the request.
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

    /// The server closes first; anything but an orderly end is an error.
    fn end(mut self) -> io::Result<()> {
        match self.0.read(&mut [0; 16])? {
            0 => Ok(()),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "more came than the answer")),
        }
    }
}
