//! Counts bytes written to a socket that the peer's system has not acknowledged: those a reset would discard.
//!
//! The ioctl for this (SIOCOUTQ) has no safe wrapper in the crates used here, TCP_INFO counts segments and omits what a
//! closed window keeps back, and reading /proc/net/tcp takes time in proportion to all sockets. The kernel's socket
//! monitoring (sock_diag(7), which `ss` uses) answers for one socket through plain messages and needs no privilege.
//! Each question opens a socket, because questions are rare: they arise when a connection fails or outlives its
//! backend's end, never while bytes flow.

use std::net::{IpAddr, SocketAddr};

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::Stream;

impl Stream {
    /// Number of bytes written that the peer's system has not acknowledged; a FIN counts as one. Data written to a Unix
    /// socket is with its peer at once. `None`: unknown (the kernel lacks the service, a seccomp filter forbids it, or
    /// no descriptor is left).
    pub fn undelivered(&self) -> Option<u32> {
        if !self.is_tcp {
            return Some(0);
        }
        // A closed connection is in no table any more, and has nothing in flight.
        self.ask().map(|answer| answer.length).or_else(|| self.state().contains(PollFlags::HUP).then_some(0))
    }

    /// Whether the peer has ended its stream, even if reading was stopped here, after which a poll always says so.
    /// `None`: the system does not tell.
    pub fn has_sent_its_end(&self) -> Option<bool> {
        let state = self.ask()?.state;
        Some([CLOSE_WAIT, LAST_ACK, CLOSING, TIME_WAIT].contains(&state))
    }

    fn ask(&self) -> Option<Answer> {
        let (own, peer) = (self.socket.local_addr().ok()?.as_socket()?, self.socket.peer_addr().ok()?.as_socket()?);
        let answer = ask(own, peer)?;
        // If our socket is not in the table, the kernel may answer for another one, such as a listener. The answer has
        // the lower half of the inode number.
        (answer.inode == rustix::fs::fstat(&self.socket).ok()?.st_ino as u32).then_some(answer)
    }
}

/// The kernel's answer about a socket.
struct Answer {
    state: u8,
    /// Bytes in the send queue.
    length: u32,
    inode: u32,
}

/// States of a connection whose peer has ended its stream (linux/tcp_states.h).
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
/// `SOCK_DIAG_BY_FAMILY`, also the type of the answer.
const BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const HEADER: usize = 16;
/// struct inet_diag_req_v2.
const REQUEST: usize = 56;
/// struct inet_diag_msg: of its 72 bytes `idiag_state`, `idiag_wqueue` and `idiag_inode` are read.
const STATE: usize = HEADER + 1;
const WQUEUE: usize = HEADER + 60;
const INODE: usize = HEADER + 68;

/// Asks about the socket between these addresses.
fn ask(own: SocketAddr, peer: SocketAddr) -> Option<Answer> {
    let kernel = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    );
    let kernel = kernel.ok()?;
    rustix::net::send(&kernel, &request(own, peer), SendFlags::empty()).ok()?;
    let mut answer = [0; 512];
    // The kernel has queued the answer when the send returns.
    let (length, _) = rustix::net::recv(&kernel, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
    let answer = answer.get(..length)?;
    // An error message has another type.
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let number = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let found = Answer { state: *answer.get(STATE)?, length: number(WQUEUE)?, inode: number(INODE)? };
    (kind == BY_FAMILY).then_some(found)
}

fn request(own: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and sender. Unused, because each question has one answer.
    bytes.extend([0; 8]);
    let (family, scope) = match peer {
        SocketAddr::V4(_) => (AddressFamily::INET, 0),
        SocketAddr::V6(peer) => (AddressFamily::INET6, peer.scope_id()),
    };
    bytes.extend([family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
    // Sockets in any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(own.port().to_be_bytes());
    bytes.extend(peer.port().to_be_bytes());
    for address in [own.ip(), peer.ip()] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets().into_iter().chain([0; 12])),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend(scope.to_ne_bytes());
    // No cookie.
    bytes.extend([0xFF; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use socket2::Socket;

    use super::*;

    /// A connection to this address whose peer does not read.
    fn stuffed(at: &str) -> (Stream, usize, TcpStream) {
        let listener = TcpListener::bind(at).unwrap();
        let own = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        own.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(length) = (&own).write(&[7; 4096]) {
            sent += length;
        }
        (Stream { socket: Socket::from(own), is_tcp: true }, sent, far)
    }

    #[test]
    fn a_peers_end_is_told_although_reading_was_stopped() {
        let (stream, _, far) = stuffed("127.0.0.1:0");
        stream.shutdown(std::net::Shutdown::Read);
        assert!(stream.has_ended(), "a poll cannot tell");
        assert_eq!(stream.has_sent_its_end(), Some(false));
        far.shutdown(std::net::Shutdown::Write).unwrap();
        let start = std::time::Instant::now();
        while stream.has_sent_its_end() != Some(true) {
            assert!(start.elapsed().as_secs() < 20);
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_the_peers_system_has_not_taken_is_told_exactly_in_both_families() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (stream, sent, mut far) = stuffed(at);
            let left = stream.undelivered().unwrap() as usize;
            assert!(left > 0 && left < sent, "{at}: {left} of {sent}");
            far.set_nonblocking(false).unwrap();
            far.read_exact(&mut vec![0; sent]).unwrap();
            let start = std::time::Instant::now();
            while stream.undelivered() != Some(0) {
                assert!(start.elapsed().as_secs() < 20, "{at}: {:?} left", stream.undelivered());
                std::thread::yield_now();
            }
        }
    }
}
