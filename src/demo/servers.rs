//! The two servers. Each answers a line with its name. Like a demoted database, a server that is not the primary
//! refuses; it counts such a request as one at the wrong server.
//!
//! A request is one line, after which the server closes; `begin` keeps the connection for one more line. The server
//! closes first, so that TIME_WAIT accumulates on its port and not on the ports that the proxy connects from.

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

/// The current primary, as written by the switch script: the port of the primary, or `demoted` and the port of the
/// previous one.
pub struct Primary {
    pub file: PathBuf,
    /// Returns whether a switch is running. Otherwise a demoted server takes its role back, as a cluster manager would
    /// after the script was killed.
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

/// A server that has its port but does not accept connections yet.
#[derive(Debug)]
pub struct BoundServers {
    name: &'static str,
    listener: TcpListener,
    pub address: SocketAddr,
}

/// A server. Dropping it stops it and joins its threads; connected clients have [`PATIENCE`] to finish.
#[derive(Debug)]
pub struct DemoServer {
    pub name: &'static str,
    pub address: SocketAddr,
    listener: Arc<TcpListener>,
    slots: Vec<Slot>,
    threads: Vec<JoinHandle<()>>,
}

/// The client that a thread currently serves.
type Slot = Arc<Mutex<Option<Arc<TcpStream>>>>;

/// Each thread accepts and serves one client at a time. There are more threads than clients, so that a client that
/// connects and stays silent delays no other.
const THREADS: usize = 64;
/// Time for a client to send its next line; a silent client can delay the end by as much.
const PATIENCE: Duration = Duration::from_secs(3);
/// Maximum length of a request in bytes.
const LONGEST: u64 = 1024;

impl BoundServers {
    /// Binds a free port on loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new(name: &'static str) -> io::Result<BoundServers> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        Ok(BoundServers { name, listener, address })
    }

    /// Starts to accept connections.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn open(self, primary: &Arc<Primary>, book: &Book) -> io::Result<DemoServer> {
        let BoundServers { name, listener, address } = self;
        let mut server =
            DemoServer { name, address, listener: Arc::new(listener), slots: Vec::new(), threads: Vec::new() };
        for _ in 0..THREADS {
            let (listener, slot) = (Arc::clone(&server.listener), Slot::default());
            server.slots.push(Arc::clone(&slot));
            let context =
                PrimaryContext { name, port: address.port(), primary: Arc::clone(primary), book: book.clone(), slot };
            server.threads.push(threads::spawn(name, move || context.run(&listener))?);
        }
        Ok(server)
    }
}

impl DemoServer {
    /// Stops like a database stopped by its service manager: accepts no more clients and closes all connections.
    pub fn stop(&self) {
        self.close();
        for slot in &self.slots {
            if let Some(client) = &*slot.lock() {
                // Fails if the client has already left.
                client.shutdown(Shutdown::Both).ok();
            }
        }
    }

    fn close(&self) {
        // Wakes every thread in accept; fails only if the listener has been stopped.
        SockRef::from(&*self.listener).shutdown(Shutdown::Both).ok();
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has reported it on standard error.
            thread.join().ok();
        }
    }
}

/// The data of one server thread.
struct PrimaryContext {
    name: &'static str,
    port: u16,
    primary: Arc<Primary>,
    book: Book,
    slot: Slot,
}

impl PrimaryContext {
    fn run(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                // A failed client detects that itself, and the demo's clients count it.
                Ok((client, _)) => {
                    let client = Arc::new(client);
                    *self.slot.lock() = Some(Arc::clone(&client));
                    self.serve(&client).unwrap_or(());
                    *self.slot.lock() = None;
                }
                // After shutdown(2) of the listener.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => return,
                // An error of one client, or a lack of descriptors: the pause prevents a busy loop in that case.
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
