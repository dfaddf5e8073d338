//! The two servers. Each answers a line with its name, or refuses when it is not the primary, like a demoted database:
//! such a request is counted as having reached the wrong server, by the server itself.
//!
//! A request is one line, after which the server closes; `begin` keeps the connection for one more line. The server
//! closes first, so that connections in TIME_WAIT pile up on its port and not on those the proxy has to connect from.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;

use super::book::Book;
use crate::threads;

/// Who serves, as the switch script wrote it down: the port of the primary, or `demoted` and the port of the one that
/// was it until now.
pub struct Primary {
    pub file: PathBuf,
    /// A server whose script was killed half-way takes its role back, as a cluster's manager would see to: it stays
    /// demoted only as long as a switch is running.
    pub switching: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Primary {
    fn is(&self, port: u16) -> bool {
        let words = fs::read_to_string(&self.file).unwrap_or_default();
        match words.trim().strip_prefix("demoted ") {
            Some(demoted) => demoted == port.to_string() && !(self.switching)(),
            None => words.trim() == port.to_string(),
        }
    }
}

/// A server that has its port but does not accept anybody yet.
#[derive(Debug)]
pub struct BoundServers {
    name: &'static str,
    listener: TcpListener,
    pub address: SocketAddr,
}

/// A server. Dropping it stops it and joins its threads; whoever is still connected is given [`PATIENCE`].
#[derive(Debug)]
pub struct DemoServer {
    pub name: &'static str,
    pub address: SocketAddr,
    listener: Arc<TcpListener>,
    seats: Vec<Seat>,
    threads: Vec<JoinHandle<()>>,
}

/// The client a thread serves at the moment.
type Seat = Arc<Mutex<Option<Arc<TcpStream>>>>;

/// One thread accepts and serves one client at a time: more than there are clients, so that a accepted client who
/// connects and says nothing keeps nobody waiting.
const THREADS: usize = 64;
/// A client is given this long for its next line; also what a silent accepted client can delay the end by.
const PATIENCE: Duration = Duration::from_secs(3);
/// A longer line is no request.
const LONGEST: u64 = 1024;

impl BoundServers {
    /// Binds a free port on loopback.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(name: &'static str) -> io::Result<BoundServers> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        Ok(BoundServers { name, listener, address })
    }

    /// Starts to accept.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn open(self, primary: &Arc<Primary>, book: &Book) -> io::Result<DemoServer> {
        let BoundServers { name, listener, address } = self;
        let mut server =
            DemoServer { name, address, listener: Arc::new(listener), seats: Vec::new(), threads: Vec::new() };
        for _ in 0..THREADS {
            let (listener, seat) = (Arc::clone(&server.listener), Seat::default());
            server.seats.push(Arc::clone(&seat));
            let context =
                PrimaryContext { name, port: address.port(), primary: Arc::clone(primary), book: book.clone(), seat };
            server.threads.push(threads::spawn(name, move || context.run(&listener))?);
        }
        Ok(server)
    }
}

impl DemoServer {
    /// Stops it as a service manager stops a database: nobody is accepted any more, whoever is connected is cut off.
    pub fn stop(&self) {
        self.close();
        for seat in &self.seats {
            if let Some(client) = &*seat.lock() {
                // Fails for a client that has left already.
                client.shutdown(Shutdown::Both).ok();
            }
        }
    }

    fn close(&self) {
        // Wakes every thread in accept; fails only for a listener that has been stopped already.
        SockRef::from(&*self.listener).shutdown(Shutdown::Both).ok();
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has told so on standard error.
            thread.join().ok();
        }
    }
}

/// What one thread of a server needs.
struct PrimaryContext {
    name: &'static str,
    port: u16,
    primary: Arc<Primary>,
    book: Book,
    seat: Seat,
}

impl PrimaryContext {
    fn run(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                // A client that fails finds that out itself; the clients here are the ones to count it.
                Ok((client, _)) => {
                    let client = Arc::new(client);
                    *self.seat.lock() = Some(Arc::clone(&client));
                    self.serve(&client).unwrap_or(());
                    *self.seat.lock() = None;
                }
                // After shutdown(2) of the listener.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => return,
                // One client's trouble, or too few descriptors: a pause keeps the latter from becoming a busy loop.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// # Errors
    /// When the client cannot be read from or written to.
    fn serve(&self, mut client: &TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        client.set_write_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::with_capacity(64, client.take(LONGEST));
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            if !self.primary.is(self.port) {
                self.book.reached_wrong_server();
                return client.write_all(format!("refused: {} is not the primary\n", self.name).as_bytes());
            }
            client.write_all(format!("{}\n", self.name).as_bytes())?;
            if line.trim_end() != "begin" {
                return Ok(());
            }
            line.clear();
        }
        Ok(())
    }
}
