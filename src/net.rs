//! Connected streams and listeners, over TCP and Unix sockets alike, with the socket options this program needs.
//!
//! Control sessions read and write blocking; what clients and backends send is moved by calls that never wait (`read_now`,
//! `write_now`). Every descriptor is close-on-exec, so that none reaches a switch script.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use crate::endpoint::Address;

/// A connected stream, or one that is about to be.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    is_tcp: bool,
}

/// A socket that accepts.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    is_tcp: bool,
    /// Removed when the listener is dropped.
    path: Option<PathBuf>,
}

/// Options of a connection between a client and a backend.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// A connection that has been silent for so long is probed; `None` is never.
    pub keepalive: Option<Duration>,
}

/// A peer that answers none of so many probes, at this interval, has vanished: with the default of 60 s, a machine that
/// lost its power is noticed after two minutes instead of never.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

impl Stream {
    /// Begins to connect and does not wait: the stream is non-blocking and becomes writable when the connection stands
    /// or has failed (see [`Stream::connection_error`]).
    ///
    /// # Errors
    /// When there is no descriptor or the system refuses at once; also when a Unix listener's queue is full.
    pub fn begin_connect(to: &Address) -> io::Result<Stream> {
        let (address, domain) = socket_address(to)?;
        let stream =
            Stream { socket: Socket::new(domain, Type::STREAM.nonblocking(), None)?, is_tcp: domain != Domain::UNIX };
        match stream.socket.connect(&address) {
            Ok(()) => Ok(stream),
            Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => Ok(stream),
            Err(e) => Err(e),
        }
    }

    /// Connects, waiting at most this long.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(to: &Address, timeout: Duration) -> io::Result<Stream> {
        let (address, domain) = socket_address(to)?;
        let stream = Stream { socket: Socket::new(domain, Type::STREAM, None)?, is_tcp: domain != Domain::UNIX };
        stream.socket.connect_timeout(&address, timeout)?;
        Ok(stream)
    }

    /// Why a connection begun earlier does not stand; `None` when it does.
    ///
    /// # Errors
    /// When the socket cannot be asked.
    pub fn connection_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }

    /// Makes the reads and writes of an accepted stream wait.
    ///
    /// # Errors
    /// Never on a valid socket.
    pub fn set_blocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(false)
    }

    /// Reads wait at most this long (`None`: for ever) and then fail with `WouldBlock`.
    ///
    /// # Errors
    /// Never on a valid socket and a time above zero.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(limit)
    }

    /// One write waits at most this long and then fails with `WouldBlock`.
    ///
    /// # Errors
    /// Never on a valid socket and a time above zero.
    pub fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(limit)
    }

    /// See [`tune`]. Failures are ignored: a connection without these options works, and one whose peer has gone already
    /// is noticed by the next read.
    pub fn tune(&self, tuning: Tuning) {
        if self.is_tcp {
            tune(&self.socket, tuning).ok();
        }
    }

    /// Whether its bytes may be moved by splice(2) without being copied.
    pub fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// Ends one or both directions in order. The peer may have gone already, which is then seen by whoever reads or
    /// writes; so there is nothing to report here.
    pub fn shutdown(&self, how: Shutdown) {
        self.socket.shutdown(how).ok();
    }

    /// Like `shutdown(Write)`, for the one caller to whom a failure means lost bytes.
    ///
    /// # Errors
    /// When the peer has reset the connection.
    pub fn end_writing(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Ends the connection so that the peer sees it fail (a reset), and wakes every thread that waits on it. Bytes not
    /// yet delivered are gone. Dissolving the association by `connect(2)` to nowhere is the call that does both; where
    /// it is refused, and for Unix sockets, which know no reset, both directions are shut down.
    pub fn abort(&self) {
        if self.is_tcp && rustix::net::connect_unspec(&self.socket).is_ok() {
            return;
        }
        self.socket.set_linger(Some(Duration::ZERO)).ok();
        self.socket.shutdown(Shutdown::Both).ok();
    }

    /// Whether bytes have arrived that nobody has read.
    pub fn has_unread_bytes(&self) -> bool {
        rustix::io::ioctl_fionread(&self.socket).is_ok_and(|unread| unread > 0)
    }

    /// Whether the peer has gone as far as can be told: it has reset the connection, or ended its side and left no byte
    /// to be read.
    pub fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        // An error is a defect here, and says nothing about the peer.
        let state = poll(&mut fds, Some(&Timespec::default())).map_or(PollFlags::empty(), |_| fds[0].revents());
        state.intersects(PollFlags::HUP | PollFlags::ERR)
            || state.contains(PollFlags::RDHUP) && !self.has_unread_bytes()
    }

    /// Reads what has arrived and does not wait: `WouldBlock` when nothing has.
    ///
    /// # Errors
    /// What `recv(2)` says.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT)?.0)
    }

    /// Writes what there is room for and does not wait: `WouldBlock` when there is none.
    ///
    /// # Errors
    /// What `send(2)` says.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// The other side's address; a Unix peer has none.
    pub fn peer(&self) -> Option<Address> {
        self.socket.peer_addr().ok().map(|address| plain_address(&address))
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.socket).read(buffer)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.socket).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Binds and listens, with address reuse. An address of `::` takes IPv4 clients too. A Unix socket gets mode 0600;
    /// a stale file at its path is replaced, one that somebody still listens on is not.
    ///
    /// # Errors
    /// What the system says: in use, no permission, no such address.
    pub fn bind(at: &Address, backlog: i32) -> io::Result<Listener> {
        let (address, domain) = socket_address(at)?;
        let socket = Socket::new(domain, Type::STREAM, None)?;
        let path = match at {
            Address::Tcp(tcp) => {
                socket.set_reuse_address(true)?;
                if tcp.is_ipv6() {
                    socket.set_only_v6(!tcp.ip().is_unspecified())?;
                }
                socket.bind(&address)?;
                None
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                // The mode is set before anybody can connect: until `listen` connections are refused.
                socket.bind(&address)?;
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
                Some(path.clone())
            }
        };
        let listener = Listener { socket, is_tcp: path.is_none(), path };
        listener.socket.listen(backlog)?;
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

    /// Gives these options to every connection accepted from now on: on Linux they are inherited, which saves each new
    /// client four calls.
    ///
    /// # Errors
    /// When the system knows no such option.
    pub fn tune(&self, tuning: Tuning) -> io::Result<()> {
        if self.is_tcp { tune(&self.socket, tuning) } else { Ok(()) }
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
        if let Some(path) = &self.path {
            // Somebody may have removed it already, which is just as well.
            std::fs::remove_file(path).ok();
        }
    }
}

/// Nothing waits for a full segment: each write of a database protocol is a message somebody waits for. A silent peer is
/// probed. A byte sent as urgent (MSG_OOB) stays in its place in the stream, where the system would take it out of it.
///
/// TCP_USER_TIMEOUT is left alone: it would end the connection of a living client that does not read for that long (a
/// pager that waits for somebody to press a key), because an open connection with a closed window counts as unanswered.
fn tune(socket: &Socket, tuning: Tuning) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    if let Some(idle) = tuning.keepalive {
        let probes = TcpKeepalive::new().with_time(idle);
        socket.set_tcp_keepalive(&probes.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES))?;
    }
    Ok(())
}

/// A socket file nobody listens on is left over from a process that was killed.
fn remove_stale(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::from(Errno::ADDRINUSE)),
        Err(_) => std::fs::remove_file(path),
    }
}

/// Waits until something of `fds` happens or the deadline is over; false when it is over. An interrupted wait goes on.
///
/// # Errors
/// When the system is short of memory.
pub fn wait_until(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(fds, Some(&timeout)) {
            Ok(happened) => return Ok(happened > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn socket_address(address: &Address) -> io::Result<(SockAddr, Domain)> {
    Ok(match address {
        Address::Tcp(tcp @ SocketAddr::V4(_)) => (SockAddr::from(*tcp), Domain::IPV4),
        Address::Tcp(tcp @ SocketAddr::V6(_)) => (SockAddr::from(*tcp), Domain::IPV6),
        Address::Unix(path) => (SockAddr::unix(path)?, Domain::UNIX),
    })
}

/// A v4-mapped IPv6 address is shown as the IPv4 address it is.
fn plain_address(address: &SockAddr) -> Address {
    match address.as_socket() {
        Some(tcp) => Address::Tcp(SocketAddr::new(tcp.ip().to_canonical(), tcp.port())),
        None => Address::Unix(address.as_pathname().map(PathBuf::from).unwrap_or_default()),
    }
}
