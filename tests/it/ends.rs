//! Both ends of one connection through the proxy, in the hands of the test: the client's and the server's.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::support::{SOON, bind, eventually};

/// A server that does what the test does with the connections it takes from here.
pub struct Server(TcpListener);

impl Server {
    pub fn new() -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Server(listener)
    }

    /// One whose connections have segments of two kilobytes, as on a network.
    pub fn narrow() -> Server {
        let server = Server::new();
        SockRef::from(&server.0).set_tcp_mss(2_048).unwrap();
        server
    }

    pub fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// The next client to reach it.
    pub fn accept(&self) -> TcpStream {
        let mut accepted = None;
        eventually(SOON, "a client reaches the server", || {
            accepted = self.try_accept();
            accepted.is_some()
        });
        accepted.unwrap()
    }

    /// Likewise, if there is one.
    pub fn try_accept(&self) -> Option<TcpStream> {
        let stream = match self.0.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
            Err(e) => panic!("accept: {e}"),
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Some(stream)
    }
}

/// A server that drops SYNs: it never accepts, and its queue is full.
pub struct Deaf {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl Deaf {
    pub fn new() -> Deaf {
        Deaf::at(0)
    }

    /// On this port, on which no process listens.
    pub fn at(port: u16) -> Deaf {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        bind(&listener, (Ipv4Addr::LOCALHOST, port));
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        // A queue of length 0 takes one. The first that is not taken shows that it is full.
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let taken = socket.connect_timeout(&address, Duration::from_millis(200)).is_ok();
            queued.push(socket);
            if !taken {
                return Deaf { listener, _queued: queued };
            }
        }
    }

    pub fn address(&self) -> String {
        self.listener.local_addr().unwrap().as_socket().unwrap().to_string()
    }
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Reads on, and returns how much came before the connection was reset.
///
/// # Panics
/// When the stream ends in order, or not at all.
pub fn read_until_reset(mut stream: &TcpStream) -> usize {
    let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("after {total} bytes the stream ended in order"),
            Ok(length) => total += length,
            // A child of this process may have ended meanwhile.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::ConnectionReset, "after {total} bytes");
                return total;
            }
        }
    }
}

/// Reads exactly this much.
pub fn read_text(mut stream: &TcpStream, length: usize) -> String {
    let mut text = vec![0; length];
    stream.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Reads to an end in order.
pub fn read_rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

/// Bytes in which each lost, doubled or moved one shows.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Writes until nothing more is taken, and returns how much was. The reading side is not reading.
pub fn fill(mut stream: &TcpStream) -> usize {
    use std::io::Write;
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let (chunk, mut total) = (vec![7; 64 * 1024], 0);
    loop {
        match stream.write(&chunk) {
            Ok(length) => total += length,
            // A child of this process may have ended meanwhile.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock, "after {total} bytes");
                stream.set_write_timeout(Some(SOON)).unwrap();
                return total;
            }
        }
    }
}

/// How much of what was written here the other end's system has not taken: what a reset would throw away. A Unix socket
/// keeps nothing back. `None` when the connection is over.
pub fn unacknowledged(socket: &impl AsFd) -> Option<u64> {
    let socket = SockRef::from(socket);
    let (own, peer) = (socket.local_addr().ok()?, socket.peer_addr().ok()?);
    let (Some(own), Some(peer)) = (own.as_socket(), peer.as_socket()) else { return Some(0) };
    Some(queues(own, peer)?.sent)
}

/// The bytes that lie at both ends of its connection, for messages.
pub fn on_the_way(socket: &impl AsFd) -> String {
    let socket = SockRef::from(socket);
    let name = |address: std::io::Result<SockAddr>| address.ok()?.as_socket();
    let (Some(own), Some(peer)) = (name(socket.local_addr()), name(socket.peer_addr())) else {
        return "no TCP connection (any more)".to_owned();
    };
    let of = |from, to| match queues(from, to) {
        Some(Queues { sent, unread }) => format!("{sent} unacknowledged, {unread} unread"),
        None => "closed".to_owned(),
    };
    format!("here {}, at the proxy {}", of(own, peer), of(peer, own))
}

/// Of one end of a connection on this machine.
struct Queues {
    /// Sent and not acknowledged.
    sent: u64,
    /// Arrived and not read.
    unread: u64,
}

fn queues(own: SocketAddr, peer: SocketAddr) -> Option<Queues> {
    let ends = [in_table(own), in_table(peer)];
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.get(1..3) == Some(&[&*ends[0], &*ends[1]]) {
                let (sent, unread) = fields.get(4)?.split_once(':')?;
                let number = |text| u64::from_str_radix(text, 16).ok();
                return Some(Queues { sent: number(sent)?, unread: number(unread)? });
            }
        }
    }
    None
}

/// As the kernel's tables have it: words of the machine's order.
fn in_table(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let words = octets.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
    let words: String = words.map(|word| format!("{word:08X}")).collect();
    format!("{words}:{:04X}", address.port())
}
