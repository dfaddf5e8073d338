//! Sockets that accept, over TCP and Unix alike.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::SocketFlags;
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};

use super::errno::is;
use super::{Stream, StreamOptions, plain_address, socket_address, tune};
use crate::endpoint::Address;

/// A socket that accepts.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    is_tcp: bool,
    shares_port: bool,
    /// Removed when the listener is dropped, if it is still this socket.
    path: Option<(PathBuf, Identity)>,
}

/// How clients wait to be accepted.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// The length given to `listen(2)`; the system has a maximum of its own (`net.core.somaxconn`).
    pub length: i32,
    /// Other processes may listen on the same address if they want that, too: each has a queue, and the system spreads
    /// new clients over them. Not of Unix sockets.
    pub shares_port: bool,
    /// Options of every connection that is accepted. On Linux they are inherited, which saves each client six calls;
    /// they are set before anybody can connect.
    pub tuning: StreamOptions,
}

/// Drops what begins a connection, and nothing else: of a TCP header, byte 13 has the flags, and 2 of that is SYN.
const NO_SYN: [SockFilter; 4] = [
    SockFilter::new(LOAD_BYTE, 0, 0, 13),
    SockFilter::new(JUMP_IF_ANY_BIT, 0, 1, 2),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
];
/// As linux/filter.h has them: BPF_LD | BPF_B | BPF_ABS, BPF_JMP | BPF_JSET | BPF_K, BPF_RET | BPF_K.
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

impl Listener {
    /// Binds and listens, with address reuse. An address of `::` takes IPv4 clients too. A Unix socket gets mode 0600;
    /// a stale file at its path is replaced, one that somebody still listens on is not.
    ///
    /// # Errors
    /// What the system says: in use, no permission, no such address.
    pub fn bind(at: &Address, queue: ListenOptions) -> io::Result<Listener> {
        let (address, domain) = socket_address(at)?;
        let socket = Socket::new(domain, Type::STREAM, None)?;
        let path = match at {
            Address::Tcp(tcp) => {
                socket.set_reuse_address(true)?;
                if queue.shares_port {
                    socket.set_reuse_port(true)?;
                }
                if tcp.is_ipv6() {
                    socket.set_only_v6(!tcp.ip().is_unspecified())?;
                }
                socket.bind(&address)?;
                None
            }
            Address::Unix(path) => {
                remove_stale(path, &address)?;
                // The mode is set before anybody can connect: until `listen` connections are refused.
                socket.bind(&address)?;
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
                Some((path.clone(), identity(path)?))
            }
        };
        let is_tcp = path.is_none();
        let listener = Listener { socket, is_tcp, shares_port: queue.shares_port && is_tcp, path };
        if is_tcp {
            tune(&listener.socket, queue.tuning)?;
        }
        listener.socket.listen(queue.length)?;
        Ok(listener)
    }

    /// Waits for a client. The stream does not wait: splice(2) asks the socket itself whether it may.
    ///
    /// # Errors
    /// What `accept(2)` says; `EINVAL` after [`Listener::stop`].
    pub fn accept(&self) -> io::Result<(Stream, Address)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, peer) = self.socket.accept4(flags.bits() as i32)?;
        let stream = Stream { socket, is_tcp: self.is_tcp };
        Ok((stream, plain_address(&peer)))
    }

    /// Lets no client begin to connect any more, if there may be another listener here, and says whether that is so. A
    /// client that tries all the same gets no answer, tries again a second later as TCP does, and reaches the other
    /// one.
    pub fn leaves_clients_to_others(&self) -> bool {
        self.shares_port && self.socket.attach_filter(&NO_SYN).is_ok()
    }

    /// Whether somebody waits to be accepted.
    pub fn has_waiting(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        // An error is a defect here, and says nothing about clients.
        let ready = retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())));
        ready.is_ok_and(|ready| ready > 0) && fds[0].revents() == PollFlags::IN
    }

    /// Stops listening and wakes the threads in `accept`.
    pub fn stop(&self) {
        self.socket.shutdown(Shutdown::Both).ok();
    }

    /// Where it listens, with the port the system chose if it was asked to.
    ///
    /// # Errors
    /// Never on a bound socket.
    pub fn address(&self) -> io::Result<Address> {
        Ok(plain_address(&self.socket.local_addr()?))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it already, and put another one in its place.
        if let Some((path, own)) = &self.path
            && identity(path).is_ok_and(|found| found == *own)
        {
            std::fs::remove_file(path).ok();
        }
    }
}

/// Device and number of a file.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A socket file nobody listens on is left over from a process that was killed.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
    }
    let caller = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A queue that is full is nobody's who has died, and must not be waited for.
    caller.set_nonblocking(true)?;
    match caller.connect(address) {
        Err(e) if is(&e, Errno::CONNREFUSED) => std::fs::remove_file(path),
        // Nor is a socket of another type.
        Ok(()) => Err(io::Error::from(Errno::ADDRINUSE)),
        Err(e) if is(&e, Errno::AGAIN) || is(&e, Errno::PROTOTYPE) => Err(io::Error::from(Errno::ADDRINUSE)),
        Err(e) if is(&e, Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    const PLAIN: StreamOptions = StreamOptions { keepalive: None };

    fn bind(at: &Address, queue: ListenOptions) -> io::Result<Listener> {
        Listener::bind(at, queue)
    }

    fn connects(to: &Address) -> io::Result<TcpStream> {
        let Address::Tcp(to) = to else { panic!("{to} is no TCP address") };
        TcpStream::connect_timeout(to, Duration::from_secs(20))
    }

    #[test]
    fn the_longest_queue_is_as_long_as_the_system_allows() {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let most: usize = most.trim().parse().unwrap();
        let anywhere = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = bind(&anywhere, ListenOptions { length: i32::MAX, shares_port: false, tuning: PLAIN }).unwrap();
        let at = listener.address().unwrap();
        let few_enough_for_our_descriptors = most.min(400);
        let clients: Vec<_> = (0..few_enough_for_our_descriptors).map(|_| connects(&at).unwrap()).collect();
        assert_eq!(clients.len(), few_enough_for_our_descriptors, "nobody has accepted one of them");
    }

    #[test]
    fn a_socket_whose_queue_is_full_or_that_is_of_another_type_is_not_taken_for_a_stale_one() {
        let path = std::env::temp_dir().join(format!("cbpx-listener-{}", std::process::id()));
        let (at, queue) = (Address::Unix(path.clone()), ListenOptions { length: 0, shares_port: false, tuning: PLAIN });
        let busy = bind(&at, queue).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(bind(&at, queue).unwrap_err().kind(), ErrorKind::AddrInUse);
        // Whoever has replaced the file keeps it.
        std::fs::remove_file(&path).unwrap();
        let _datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert_eq!(bind(&at, queue).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(busy);
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_port_is_shared_by_those_who_both_want_it() {
        let anywhere = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let [sharing, alone] = [true, false].map(|shares_port| ListenOptions { length: 8, shares_port, tuning: PLAIN });
        let first = bind(&anywhere, sharing).unwrap();
        let at = first.address().unwrap();
        assert_eq!(bind(&at, alone).unwrap_err().kind(), ErrorKind::AddrInUse);
        let second = bind(&at, sharing).unwrap();
        drop(first);
        let _client = connects(&at).unwrap();
        second.accept().unwrap();
    }
}
