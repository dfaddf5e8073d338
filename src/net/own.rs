//! Detects dials to a listener of this process: each client would come back as a new one until the capacity is
//! exhausted. Checked before each dial, because this machine may get an address at any time.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Socket, Type};

use crate::endpoint::Address;

/// The addresses that must not be dialled. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Own(Arc<[Address]>);

impl Own {
    /// The addresses of these listeners.
    pub fn new(listeners: impl IntoIterator<Item = Address>) -> Own {
        Own(listeners.into_iter().collect())
    }

    /// Adds addresses.
    pub fn and(self, others: &[Address]) -> Own {
        Own::new(self.0.iter().chain(others).cloned())
    }

    /// Whether a connection to this address reaches one of them.
    pub fn has(&self, to: &Address) -> bool {
        self.0.iter().any(|own| ends_at(to, own))
    }
}

fn ends_at(to: &Address, own: &Address) -> bool {
    match (to, own) {
        (Address::Tcp(to), Address::Tcp(own)) => to.port() == own.port() && reaches(*to, own.ip()),
        (Address::Unix(to), Address::Unix(own)) => to == own || is_same_file(to, own),
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}

/// Whether `to` is `own`, or is covered by it because `own` is the unspecified address.
fn reaches(to: SocketAddr, own: IpAddr) -> bool {
    // A connection to the unspecified address goes to this machine.
    let ip = match to.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    // A listener on `::` also accepts IPv4; one on `0.0.0.0` accepts only IPv4.
    let takes_it = own.is_ipv6() || ip.is_ipv4();
    ip == own || own.is_unspecified() && takes_it && is_here(to, ip)
}

/// Whether this machine has the address. Its own addresses can be bound, so a bind rules out most others cheaply; but
/// with `net.ipv4.ip_nonlocal_bind` every address can be bound, and only the list of interfaces tells.
fn is_here(to: SocketAddr, ip: IpAddr) -> bool {
    if ip.is_loopback() {
        return true;
    }
    let mut place = to;
    place.set_port(0);
    if place.ip() != ip {
        place = SocketAddr::new(ip, 0);
    }
    let socket = Socket::new(Domain::for_address(place), Type::STREAM, None);
    socket.and_then(|socket| socket.bind(&place.into())).is_ok() && an_interface_has(ip)
}

fn an_interface_has(ip: IpAddr) -> bool {
    let Ok(mut interfaces) = getifaddrs() else { return true };
    interfaces.any(|interface| {
        let address = interface.address.as_ref();
        let four = address.and_then(|address| address.as_sockaddr_in()).map(|four| IpAddr::V4(four.ip()));
        let six = address.and_then(|address| address.as_sockaddr_in6()).map(|six| IpAddr::V6(six.ip()));
        four.or(six) == Some(ip)
    })
}

/// Whether both paths lead to the same socket, through links or different spellings.
fn is_same_file(path: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    file(path).is_some_and(|found| file(other) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    fn has(own: &str, to: &str) -> bool {
        Own::new([tcp(own)]).has(&tcp(to))
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_under_each_of_its_family() {
        for to in ["127.0.0.1:80", "127.9.9.9:80", "0.0.0.0:80", "[::ffff:127.0.0.1]:80"] {
            assert!(has("0.0.0.0:80", to) && has("[::]:80", to), "{to}");
        }
        assert!(has("[::]:80", "[::1]:80") && has("[::]:80", "[::]:80"));
        for to in ["[::1]:80", "[::]:80", "127.0.0.1:81", "192.0.2.1:80"] {
            assert!(!has("0.0.0.0:80", to), "{to}");
        }
        assert!(!has("[::]:80", "192.0.2.1:80") && !has("[::]:80", "[2001:db8::1]:80"));
    }

    #[test]
    fn a_listener_on_one_address_is_reached_under_that_one_only() {
        assert!(has("127.0.0.1:80", "127.0.0.1:80") && has("127.0.0.1:80", "0.0.0.0:80"));
        assert!(has("[::1]:80", "[::]:80") && has("127.0.0.1:80", "[::ffff:127.0.0.1]:80"));
        assert!(!has("127.0.0.1:80", "127.0.0.2:80") && !has("127.0.0.1:80", "[::1]:80"));
    }
}
