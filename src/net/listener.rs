//! Listening sockets, over TCP and Unix alike.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};

use super::errno::is;
use super::{Stream, StreamOptions, plain_address, poller, socket_address, tune};
use crate::endpoint::Address;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    is_tcp: bool,
    shares_port: bool,
    /// Removed when the listener is dropped, if it is still this socket.
    path: Option<(PathBuf, Identity)>,
}

/// Options of a listening socket.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// The length passed to `listen(2)`; the system's maximum is `net.core.somaxconn`.
    pub length: i32,
    /// Other processes may listen on the same address with the same option. Each has its own queue, and the system
    /// distributes new clients over them. No effect on Unix sockets.
    pub shares_port: bool,
    /// Options of accepted connections. On Linux connections inherit them, which saves six calls per client; they are
    /// set before clients can connect.
    pub tuning: StreamOptions,
}

/// A filter that drops only SYN segments: byte 13 of a TCP header has the flags, and bit 2 of it is SYN.
const NO_SYN: [SockFilter; 4] = [
    SockFilter::new(LOAD_BYTE, 0, 0, 13),
    SockFilter::new(JUMP_IF_ANY_BIT, 0, 1, 2),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
];
/// Instruction codes from linux/filter.h: BPF_LD | BPF_B | BPF_ABS, BPF_JMP | BPF_JSET | BPF_K, BPF_RET | BPF_K.
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

impl Listener {
    /// Binds and listens, with address reuse. `::` accepts IPv4 clients too. A Unix socket gets mode 0600; a stale
    /// socket file is replaced, one in use is not.
    ///
    /// # Errors
    /// The system's error: address in use, no permission, no such address.
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
                // The mode is set before clients can connect: until `listen`, connections are refused.
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

    /// Waits for a client. The stream is non-blocking, because splice(2) follows the socket's own flag.
    ///
    /// # Errors
    /// The error of `accept(2)`; `EINVAL` after [`Listener::stop`].
    pub fn accept(&self) -> io::Result<(Stream, Address)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, peer) = self.socket.accept4(flags.bits() as i32)?;
        let stream = Stream { socket, is_tcp: self.is_tcp };
        Ok((stream, plain_address(&peer)))
    }

    /// Stops new handshakes if another process may listen on this address, and returns whether that is so. A client
    /// that connects now gets no answer, retries after one second as TCP does, and reaches the other listener.
    pub fn leaves_clients_to_others(&self) -> bool {
        self.shares_port && self.socket.attach_filter(&NO_SYN).is_ok()
    }

    /// Whether a client is waiting to be accepted.
    pub fn has_waiting(&self) -> bool {
        poller::current(&self.socket, PollFlags::IN) == PollFlags::IN
    }

    /// Stops listening and wakes the threads in `accept`.
    pub fn stop(&self) {
        self.socket.shutdown(Shutdown::Both).ok();
    }

    /// The bound address, with the actual port if the system chose it.
    ///
    /// # Errors
    /// Never on a bound socket.
    pub fn address(&self) -> io::Result<Address> {
        Ok(plain_address(&self.socket.local_addr()?))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another process may have replaced the file in the meantime.
        if let Some((path, own)) = &self.path
            && identity(path).is_ok_and(|found| found == *own)
        {
            std::fs::remove_file(path).ok();
        }
    }
}

/// Device and inode number of a file.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Removes a socket file that no process listens on, left over from a process that was killed.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
    }
    let caller = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full accept queue means that the listener is alive; connecting must not wait for it.
    caller.set_nonblocking(true)?;
    match caller.connect(address) {
        Err(e) if is(&e, Errno::CONNREFUSED) => std::fs::remove_file(path),
        // A socket of another type is in use as well.
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
        // The file that replaced ours stays.
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
