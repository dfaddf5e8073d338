//! Connected streams, over TCP and Unix sockets alike, with the socket options this program needs.
//!
//! Control sessions use blocking reads and writes; relayed data uses non-blocking calls (`read_now`, `write_now`).
//! Every descriptor is close-on-exec, so that switch scripts inherit none.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::errno::is;
use super::poller;
use crate::endpoint::{Address, Source};

/// A stream that is connected or connecting.
#[derive(Debug)]
pub struct Stream {
    pub(super) socket: Socket,
    pub(super) is_tcp: bool,
}

/// Options of a connection between a client and a backend.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// A connection that has been silent this long is probed; `None`: never.
    pub keepalive: Option<Duration>,
}

/// Interval of probes. A peer that answers none of several counts as gone: with the default of 60 s, a machine that
/// lost power is noticed after two minutes instead of never.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

impl Stream {
    /// Starts to connect and returns at once. The stream is non-blocking and becomes writable when it is connected or
    /// has failed (see [`Stream::connection_error`]). It uses `source` if possible: not for another address family, and
    /// not if this machine no longer has the address.
    ///
    /// # Errors
    /// If no descriptor is left or the system refuses at once; also if a Unix listener's queue is full.
    pub fn begin_connect(to: &Address, source: Option<Source>) -> io::Result<Stream> {
        let (address, domain) = socket_address(to)?;
        let stream =
            Stream { socket: Socket::new(domain, Type::STREAM.nonblocking(), None)?, is_tcp: domain != Domain::UNIX };
        if let (Some(source), Address::Tcp(to)) = (source, to)
            && source.address().is_ipv4() == to.is_ipv4()
        {
            bind_source(&stream.socket, source).ok();
        }
        match stream.socket.connect(&address) {
            Ok(()) => Ok(stream),
            Err(e) if is(&e, Errno::INPROGRESS) => Ok(stream),
            Err(e) => Err(e),
        }
    }

    /// Connects with a timeout.
    ///
    /// # Errors
    /// The system's error.
    pub fn connect(to: &Address, timeout: Duration) -> io::Result<Stream> {
        let (address, domain) = socket_address(to)?;
        let stream = Stream { socket: Socket::new(domain, Type::STREAM, None)?, is_tcp: domain != Domain::UNIX };
        stream.socket.connect_timeout(&address, timeout)?;
        Ok(stream)
    }

    /// The error of an earlier `begin_connect`; `None` if the stream is connected.
    ///
    /// # Errors
    /// If the socket's state cannot be read.
    pub fn connection_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }

    /// Whether the socket is connected to itself. This happens if no process listens on a local port that the system
    /// has chosen as this socket's own (TCP calls it a simultaneous open).
    pub fn meets_itself(&self) -> bool {
        let ends = [self.socket.local_addr(), self.socket.peer_addr()].map(|end| end.ok()?.as_socket());
        ends[0].is_some() && ends[0] == ends[1]
    }

    /// Makes an accepted stream blocking.
    ///
    /// # Errors
    /// Never on a valid socket.
    pub fn set_blocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(false)
    }

    /// Sets whether reads and writes return at once instead of blocking.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        // Never fails on a valid socket.
        rustix::io::ioctl_fionbio(&self.socket, nonblocking).ok();
    }

    /// Reads block at most this long (`None`: no limit) and then fail with `WouldBlock`.
    ///
    /// # Errors
    /// Never on a valid socket and a time above zero.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(limit)
    }

    /// A write blocks at most this long and then fails with `WouldBlock`.
    ///
    /// # Errors
    /// Never on a valid socket and a time above zero.
    pub fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(limit)
    }

    /// See [`tune`]. Errors are ignored: a connection works without these options, and if the peer has gone the next
    /// read reports it.
    pub fn tune(&self, tuning: StreamOptions) {
        if self.is_tcp {
            tune(&self.socket, tuning).ok();
        }
    }

    /// Whether splice(2) can move its bytes without copying.
    pub fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// Ends one or both directions in order. If the peer has gone, the next read or write reports it, so there is no
    /// error here.
    pub fn shutdown(&self, how: Shutdown) {
        self.socket.shutdown(how).ok();
    }

    /// Like `shutdown(Write)`, for the caller that must know whether bytes were lost.
    ///
    /// # Errors
    /// If the peer has reset the connection.
    pub fn end_writing(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Resets the connection and wakes all threads that block on it. Bytes not yet delivered are lost. `connect(2)`
    /// with AF_UNSPEC does both. If it fails, and for Unix sockets, which have no reset, both directions are shut down.
    ///
    /// Do not use it on a connection that both sides have ended: Linux may then discard data in flight without a reset,
    /// and the peer would wait forever.
    pub fn abort(&self) {
        if self.is_tcp && rustix::net::connect_unspec(&self.socket).is_ok() {
            return;
        }
        self.socket.set_linger(Some(Duration::ZERO)).ok();
        self.socket.shutdown(Shutdown::Both).ok();
    }

    /// Whether the peer has ended its stream or failed, even if unread bytes remain.
    pub fn has_ended(&self) -> bool {
        self.state().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    /// Whether unread bytes have arrived.
    pub fn has_unread_bytes(&self) -> bool {
        self.unread_bytes() > 0
    }

    /// The number of unread bytes that have arrived.
    pub fn unread_bytes(&self) -> usize {
        rustix::io::ioctl_fionread(&self.socket).map_or(0, |unread| unread as usize)
    }

    /// Whether the peer is certainly gone: it has reset the connection, or has ended its side and no unread bytes
    /// remain.
    pub fn has_hung_up(&self) -> bool {
        let state = self.state();
        state.intersects(PollFlags::HUP | PollFlags::ERR)
            || state.contains(PollFlags::RDHUP) && !self.has_unread_bytes()
    }

    /// Whether both directions are over: each side has ended its stream, or the connection has failed.
    pub fn is_over(&self) -> bool {
        self.state().contains(PollFlags::HUP)
    }

    /// Whether the connection has failed and that has not been read yet. [`Stream::connection_error`] alone cannot tell:
    /// when there is no failure, SO_ERROR gives the last "soft" error (an unreachable host), which may be an old one.
    pub fn has_failure(&self) -> bool {
        self.state().contains(PollFlags::ERR)
    }

    /// What is known of the peer's end.
    pub(super) fn state(&self) -> PollFlags {
        poller::current(&self.socket, PollFlags::RDHUP)
    }

    /// Reads without blocking: `WouldBlock` if nothing has arrived.
    ///
    /// # Errors
    /// The error of `recv(2)`.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT)?.0)
    }

    /// Reads what has arrived. Blocks until something has, unless the socket is non-blocking.
    ///
    /// # Errors
    /// The error of `recv(2)`.
    pub fn read_waiting(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?.0)
    }

    /// Writes what there is room for and does not block: `WouldBlock` if there is no room.
    ///
    /// # Errors
    /// The error of `send(2)`.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// The peer's address; a Unix peer has none.
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

/// Sets TCP_NODELAY, because each write of a database protocol is a message that the peer waits for; keepalive probes;
/// and SO_OOBINLINE, so that an urgent byte (MSG_OOB) keeps its place in the stream.
///
/// TCP_USER_TIMEOUT is not set: it would close the connection of a live client that does not read for that long (a
/// pager waiting for a key), because data behind a closed window counts as unacknowledged.
pub(super) fn tune(socket: &Socket, tuning: StreamOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    if let Some(idle) = tuning.keepalive {
        let probes = TcpKeepalive::new().with_time(idle);
        socket.set_tcp_keepalive(&probes.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES))?;
    }
    Ok(())
}

/// Whether connections can come from this address.
///
/// # Errors
/// The system's error; usually this machine does not have the address.
pub fn can_be_source(source: Source) -> io::Result<()> {
    bind_source(&Socket::new(Domain::for_address(source.address()), Type::STREAM, None)?, source)
}

/// Whether this machine has a route to `to`, and an address for it. Sends nothing.
pub fn has_way_to(to: SocketAddr) -> bool {
    // Uses UDP, whose ports are separate: a shortage of TCP ports does not matter here.
    let reached = Socket::new(Domain::for_address(to), Type::DGRAM, None).and_then(|socket| socket.connect(&to.into()));
    !reached.is_err_and(|e| is(&e, Errno::ADDRNOTAVAIL))
}

/// Leaves the port to connect(2), which knows the destination: one port can then serve connections to different
/// destinations, and a shortage is limited to one destination.
fn bind_source(socket: &Socket, source: Source) -> io::Result<()> {
    // Without this option everything works until ports are scarce.
    setsockopt(socket, IpBindAddressNoPort, &true).ok();
    socket.bind(&source.address().into())
}

pub(super) fn socket_address(address: &Address) -> io::Result<(SockAddr, Domain)> {
    Ok(match address {
        Address::Tcp(tcp @ SocketAddr::V4(_)) => (SockAddr::from(*tcp), Domain::IPV4),
        Address::Tcp(tcp @ SocketAddr::V6(_)) => (SockAddr::from(*tcp), Domain::IPV6),
        Address::Unix(path) => (SockAddr::unix(path)?, Domain::UNIX),
    })
}

/// Converts a v4-mapped IPv6 address to IPv4.
pub(super) fn plain_address(address: &SockAddr) -> Address {
    match address.as_socket() {
        Some(tcp) => Address::Tcp(SocketAddr::new(tcp.ip().to_canonical(), tcp.port())),
        None => Address::Unix(address.as_pathname().map(PathBuf::from).unwrap_or_default()),
    }
}
