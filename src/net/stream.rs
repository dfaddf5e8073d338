//! Connected streams and listeners, over TCP and Unix sockets alike, with the socket options this program needs.
//!
//! Control sessions read and write blocking; what clients and backends send is moved by calls that never wait
//! (`read_now`, `write_now`). Every descriptor is close-on-exec, so that none reaches a switch script.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::errno::is;
use crate::endpoint::{Address, Source};

/// A connected stream, or one that is about to be.
#[derive(Debug)]
pub struct Stream {
    pub(super) socket: Socket,
    pub(super) is_tcp: bool,
}

/// Options of a connection between a client and a backend.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// A connection that has been silent for so long is probed; `None` is never.
    pub keepalive: Option<Duration>,
}

/// A peer that answers none of so many probes, at this interval, has vanished: with the default of 60 s, a machine that
/// lost its power is noticed after two minutes instead of never.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

impl Stream {
    /// Begins to connect and does not wait: the stream is non-blocking and becomes writable when the connection stands
    /// or has failed (see [`Stream::connection_error`]). It comes from `source` where that can be: not to another
    /// family, and not when this machine has lost the address.
    ///
    /// # Errors
    /// When there is no descriptor or the system refuses at once; also when a Unix listener's queue is full.
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

    /// Whether both ends of the connection are this one socket. It happens when nobody listens on a port of this
    /// machine that the system has given to this socket as its own (TCP calls it a simultaneous open).
    pub fn meets_itself(&self) -> bool {
        let ends = [self.socket.local_addr(), self.socket.peer_addr()].map(|end| end.ok()?.as_socket());
        ends[0].is_some() && ends[0] == ends[1]
    }

    /// Makes the reads and writes of an accepted stream wait.
    ///
    /// # Errors
    /// Never on a valid socket.
    pub fn set_blocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(false)
    }

    /// Whether reads wait.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        // Never fails on a valid socket.
        rustix::io::ioctl_fionbio(&self.socket, nonblocking).ok();
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

    /// See [`tune`]. Failures are ignored: a connection without these options works, and one whose peer has gone
    /// already is noticed by the next read.
    pub fn tune(&self, tuning: StreamOptions) {
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

    /// Ends the connection so that the peer sees it fail (a reset), and wakes whoever waits on it. Bytes not yet
    /// delivered are gone. Dissolving the association by `connect(2)` to nowhere is the call that does both; where
    /// it is refused, and for Unix sockets, which know no reset, both directions are shut down.
    ///
    /// Not for a connection that both sides have ended: Linux may throw away what is on its way without a word to the
    /// peer then, who waits for it for ever.
    pub fn abort(&self) {
        if self.is_tcp && rustix::net::connect_unspec(&self.socket).is_ok() {
            return;
        }
        self.socket.set_linger(Some(Duration::ZERO)).ok();
        self.socket.shutdown(Shutdown::Both).ok();
    }

    /// Whether the peer has ended its stream or failed, even if bytes are still to be read.
    pub fn has_ended(&self) -> bool {
        self.state().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    /// Whether bytes have arrived that nobody has read.
    pub fn has_unread_bytes(&self) -> bool {
        self.unread_bytes() > 0
    }

    /// How many bytes have arrived that nobody has read.
    pub fn unread_bytes(&self) -> usize {
        rustix::io::ioctl_fionread(&self.socket).map_or(0, |unread| unread as usize)
    }

    /// Whether the peer has gone as far as can be told: it has reset the connection, or ended its side and left no byte
    /// to be read.
    pub fn has_hung_up(&self) -> bool {
        let state = self.state();
        state.intersects(PollFlags::HUP | PollFlags::ERR)
            || state.contains(PollFlags::RDHUP) && !self.has_unread_bytes()
    }

    /// Whether both directions are over: each side has ended its stream, or the connection has failed.
    pub fn is_over(&self) -> bool {
        self.state().contains(PollFlags::HUP)
    }

    /// What is known of the peer's end.
    pub(super) fn state(&self) -> PollFlags {
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        // An error is a defect here, and says nothing about the peer.
        retry_on_intr(|| poll(&mut fds, Some(&Timespec::default()))).map_or(PollFlags::empty(), |_| fds[0].revents())
    }

    /// Reads what has arrived and does not wait: `WouldBlock` when nothing has.
    ///
    /// # Errors
    /// What `recv(2)` says.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT)?.0)
    }

    /// Reads what has arrived, and waits until something has, unless the socket is non-blocking.
    ///
    /// # Errors
    /// What `recv(2)` says.
    pub fn read_waiting(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?.0)
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

/// Nothing waits for a full segment: each write of a database protocol is a message somebody waits for. A silent peer
/// is probed. A byte sent as urgent (MSG_OOB) stays in its place in the stream, where the system would take it out of
/// it.
///
/// TCP_USER_TIMEOUT is left alone: it would end the connection of a living client that does not read for that long (a
/// pager that waits for somebody to press a key), because an open connection with a closed window counts as unanswered.
pub(super) fn tune(socket: &Socket, tuning: StreamOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    if let Some(idle) = tuning.keepalive {
        let probes = TcpKeepalive::new().with_time(idle);
        socket.set_tcp_keepalive(&probes.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES))?;
    }
    Ok(())
}

/// Waits until something of `fds` happens or the deadline is over; false when it is over. An interrupted wait goes on.
///
/// # Errors
/// When the system is short of memory.
pub fn wait_until(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    wait_for(fds, Some(deadline))
}

/// Likewise, perhaps without a deadline.
///
/// # Errors
/// When the system is short of memory.
pub fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        match poll(fds, timeout.as_ref()) {
            Ok(happened) => return Ok(happened > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether connections can come from this address.
///
/// # Errors
/// Why not: most often, this machine does not have it.
pub fn can_be_source(source: Source) -> io::Result<()> {
    bind_source(&Socket::new(Domain::for_address(source.address()), Type::STREAM, None)?, source)
}

/// Whether this machine has an address from which `to` can be reached. Sends nothing.
pub fn has_way_to(to: SocketAddr) -> bool {
    // Datagrams have ports of their own: a shortage of those of TCP does not show here.
    let reached = Socket::new(Domain::for_address(to), Type::DGRAM, None).and_then(|socket| socket.connect(&to.into()));
    !reached.is_err_and(|e| is(&e, Errno::ADDRNOTAVAIL))
}

/// The port is chosen by the connect, which knows where it goes: a port can serve many connections to different places
/// then, and those to one place are not limited by what all others have taken.
fn bind_source(socket: &Socket, source: Source) -> io::Result<()> {
    // Without it everything works until ports are scarce.
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

/// A v4-mapped IPv6 address is shown as the IPv4 address it is.
pub(super) fn plain_address(address: &SockAddr) -> Address {
    match address.as_socket() {
        Some(tcp) => Address::Tcp(SocketAddr::new(tcp.ip().to_canonical(), tcp.port())),
        None => Address::Unix(address.as_pathname().map(PathBuf::from).unwrap_or_default()),
    }
}
