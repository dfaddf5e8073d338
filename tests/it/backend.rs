//! Servers behind the proxy. Each records who reached it, in order.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A server on a port of its own, on all addresses of this machine. It ends with the test: when it is dropped its port
/// closes, and so do its connections.
pub struct Backend {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connections: Vec<TcpStream>,
    /// The first bytes each connection sent, in order of arrival of these bytes.
    greetings: Vec<String>,
    closed: bool,
}

impl Backend {
    /// Answers every read with `<name>:` and what was read, until the client ends its side.
    pub fn echo(name: &'static str) -> Backend {
        Backend::echo_on(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(), name)
    }

    /// The same, on a socket that already listens.
    pub fn echo_on(listener: TcpListener, name: &'static str) -> Backend {
        Backend::start_on(listener, move |mut stream, greet| {
            let mut buffer = [0; 16 * 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                greet(&buffer[..length]);
                if stream.write_all(format!("{name}:").as_bytes()).is_err()
                    || stream.write_all(&buffer[..length]).is_err()
                {
                    return;
                }
            }
            stream.shutdown(Shutdown::Write).ok();
        })
    }

    /// Lets `serve` handle each connection on a thread of its own. `serve` may report the first bytes it read.
    pub fn start(serve: impl Fn(TcpStream, &dyn Fn(&[u8])) + Send + Sync + 'static) -> Backend {
        Backend::start_on(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(), serve)
    }

    fn start_on(listener: TcpListener, serve: impl Fn(TcpStream, &dyn Fn(&[u8])) + Send + Sync + 'static) -> Backend {
        let mut address = listener.local_addr().unwrap();
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (own, serve) = (Arc::clone(&seen), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                {
                    let mut seen = own.lock().unwrap();
                    if seen.closed {
                        return;
                    }
                    seen.connections.push(stream.try_clone().unwrap());
                }
                let (own, serve) = (Arc::clone(&own), Arc::clone(&serve));
                thread::spawn(move || {
                    let greeted = std::cell::Cell::new(false);
                    serve(stream, &|bytes| {
                        if !greeted.replace(true) {
                            own.lock().unwrap().greetings.push(String::from_utf8_lossy(bytes).into_owned());
                        }
                    });
                });
            }
        });
        Backend { address, seen }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many clients have ever reached it.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections.len()
    }

    /// The first bytes of each connection, in the order in which they came.
    pub fn greetings(&self) -> Vec<String> {
        self.seen.lock().unwrap().greetings.clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let mut seen = self.seen.lock().unwrap();
        seen.closed = true;
        seen.connections.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        drop(seen);
        // Wakes the accepting thread, which then ends and closes the port.
        TcpStream::connect(self.address).ok();
    }
}
