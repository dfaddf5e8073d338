//! Where to listen or connect: `host:port`, `[v6]:port` or the path of a Unix socket.
//!
//! A parsed `Endpoint` is well formed: its port is a number (parsing resolves service names), its host is not empty.
//! [`Endpoint::resolve`] looks up the host's address. It may block on the network, so only the start and the resolver's
//! thread call it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{PathBuf, absolute};
use std::str::FromStr;

use dns_lookup::{AddrInfoHints, SockType, getaddrinfo};
use nix::libc::AI_NUMERICHOST;

/// Where to listen or connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A host name or address (without brackets) and a port. An empty host means this machine: to connect to, or all of
    /// its addresses to listen on.
    Tcp { host: String, port: u16 },
    /// The path of a Unix stream socket.
    Unix(PathBuf),
    /// Text that is not an endpoint. It never has an address: for dialects in which a malformed backend counts as
    /// unreachable.
    Malformed(String),
}

/// An address that can be dialled or bound without a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Endpoint {
    pub fn tcp(host: impl Into<String>, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    /// Whether `resolve` needs a look-up: the host is a name rather than an address.
    pub fn is_name(&self) -> bool {
        match self {
            Endpoint::Tcp { host, .. } => !host.is_empty() && numeric(host).is_none(),
            Endpoint::Unix(_) | Endpoint::Malformed(_) => false,
        }
    }

    /// Whether both are certainly the same place, however they are written. Does no look-up: no answer of a resolver
    /// could change the result.
    pub fn is_same_place(&self, other: &Endpoint) -> bool {
        match (self, other) {
            (Endpoint::Tcp { host, port }, Endpoint::Tcp { host: other, port: other_port }) => {
                let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                let known = known_addresses(other);
                let meet = known_addresses(host).iter().any(|address| known.contains(address));
                port == other_port && (plain(host) == plain(other) || meet)
            }
            (Endpoint::Unix(path), Endpoint::Unix(other)) => {
                path == other || absolute(path).is_ok_and(|path| absolute(other).is_ok_and(|other| path == other))
            }
            (Endpoint::Malformed(text), Endpoint::Malformed(other)) => text == other,
            (Endpoint::Tcp { .. } | Endpoint::Unix(_) | Endpoint::Malformed(_), _) => false,
        }
    }

    /// All addresses, in the order in which to try them; never empty. May block as long as the system's resolver does.
    ///
    /// # Errors
    /// The resolver's error when the name has no address or the look-up failed.
    pub fn resolve(&self) -> io::Result<Vec<Address>> {
        let (host, port) = match self {
            Endpoint::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
            Endpoint::Malformed(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no address")),
            Endpoint::Tcp { host, port } => (host, *port),
        };
        if host.is_empty() {
            let here = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
            return Ok(here.map(|ip| Address::Tcp(SocketAddr::new(ip, port))).to_vec());
        }
        if let Some(mut address) = numeric(host) {
            address.set_port(port);
            return Ok(vec![Address::Tcp(address)]);
        }
        if let Some((_, zone)) = host.split_once('%').filter(|_| is_six(host)) {
            let words = format!("this machine has no network interface '{zone}'");
            return Err(io::Error::new(io::ErrorKind::NotFound, words));
        }
        let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
        let found = getaddrinfo(Some(host), None, Some(hints))
            .map_err(|e| io::Error::new(io::ErrorKind::NotFound, resolver_words(&io::Error::from(e))))?;
        let mut addresses = Vec::new();
        for info in found {
            let mut address = info?.sockaddr;
            address.set_port(port);
            if !addresses.contains(&Address::Tcp(address)) {
                addresses.push(Address::Tcp(address));
            }
        }
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }

    /// All addresses to listen on; never empty. Blocks like [`Endpoint::resolve`].
    ///
    /// # Errors
    /// Like [`Endpoint::resolve`].
    pub fn resolve_own(&self) -> io::Result<Vec<Address>> {
        match self {
            Endpoint::Tcp { host, port } if host.is_empty() => {
                // An IPv6 socket also accepts IPv4. A system without IPv6 has no such socket.
                let six = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
                let ip: IpAddr = if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                Ok(vec![Address::Tcp(SocketAddr::new(ip, *port))])
            }
            Endpoint::Tcp { .. } | Endpoint::Unix(_) | Endpoint::Malformed(_) => self.resolve(),
        }
    }

    /// Parses an address to listen on: without a host it means all addresses of this machine; for port 0 the system
    /// chooses one.
    ///
    /// # Errors
    /// Why the text is not an endpoint.
    pub fn parse_own(text: &str) -> Result<Endpoint, BadEndpoint> {
        let port = |port: &str| if port == "0" { Some(0) } else { port_number(port) };
        match text.strip_prefix(':').and_then(port) {
            Some(port) => Ok(Endpoint::tcp("", port)),
            None => match text.strip_suffix(":0").map(|host| format!("{host}:1").parse()) {
                Some(Ok(Endpoint::Tcp { host, .. })) => Ok(Endpoint::tcp(host, 0)),
                Some(_) | None => text.parse(),
            },
        }
    }

    /// The two arguments for a switch script: host and port, or the path and `0`.
    pub fn host_and_port(&self) -> (String, String) {
        match self {
            Endpoint::Tcp { host, port } => (host.clone(), port.to_string()),
            Endpoint::Unix(path) => (path.display().to_string(), "0".to_owned()),
            Endpoint::Malformed(text) => (text.clone(), "0".to_owned()),
        }
    }
}

/// glibc's message without the prefix added by the crate.
fn resolver_words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(": ") {
        Some((_, cause)) => cause.to_owned(),
        None => text,
    }
}

/// The address that `host` is, in any form that getaddrinfo(3) accepts: with a zone, or an IPv4 address of fewer than
/// four numbers. A v4-mapped address becomes IPv4, because IPv6-only sockets do not accept it. Does no look-up. The
/// port is 0.
fn numeric(host: &str) -> Option<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip.to_canonical(), 0));
    }
    if !is_six(host) && !host.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let socktype = SockType::Stream.into();
    let hints = AddrInfoHints { socktype, flags: AI_NUMERICHOST, ..AddrInfoHints::default() };
    getaddrinfo(Some(host), None, Some(hints)).ok()?.next()?.ok().map(|info| info.sockaddr)
}

/// The addresses a host certainly has. A connection to the unspecified address goes to this machine.
fn known_addresses(host: &str) -> Vec<SocketAddr> {
    let [four, six] = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let local = |ip| SocketAddr::new(ip, 0);
    match numeric(host) {
        Some(address) if address.ip().is_unspecified() => vec![local(if address.is_ipv4() { four } else { six })],
        Some(address) => vec![address],
        None if host.is_empty() || host.eq_ignore_ascii_case("localhost") => vec![local(four), local(six)],
        None => Vec::new(),
    }
}

/// Whether this is an IPv6 address. A link-local one may have a zone, `fe80::1%eth0`.
pub fn is_six(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "-"));
    // Characters that the name of a network interface cannot contain.
    let strange = |c: char| c.is_whitespace() || c.is_control() || "/:[]%".contains(c);
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && !zone.contains(strange)
}

/// Parses a host without a port: a name, or an address in any form that the system accepts. Removes the brackets of an
/// IPv6 address.
pub fn bare_host(text: &str) -> Option<&str> {
    let host = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let strange = |c: char| c.is_whitespace() || c.is_control() || "/:[]".contains(c);
    (is_six(host) || !host.is_empty() && !host.contains(strange)).then_some(host)
}

/// Splits `HOST` or `HOST:PORT`. An IPv6 address is in brackets, or bare if it can be read in one way only: `::1` has
/// no port, `::ffff:10.0.0.1:80` has one. Does not check host and port any further.
///
/// # Errors
/// What is wrong with the brackets or colons.
pub fn split_port(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("has no ']'")?;
        if !is_six(host) {
            return Err("has no IPv6 address between the brackets");
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("has something other than ':PORT' behind the ']'"),
        };
    }
    match text.rsplit_once(':') {
        Some(_) if is_six(text) => Ok((text, None)),
        Some((host, _)) if host.contains(':') && !is_six(host) => {
            Err("is no IPv6 address; with a port it is [ADDR]:PORT")
        }
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

/// Why a text is not an endpoint. `Display` shows the text and the accepted forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEndpoint {
    given: String,
    because: &'static str,
}

impl fmt::Display for BadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' {} (expected HOST:PORT, [IPV6]:PORT, /PATH or ./PATH)", self.given, self.because)
    }
}

impl std::error::Error for BadEndpoint {}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Endpoint, BadEndpoint> {
        let bad = |because| BadEndpoint { given: text.to_owned(), because };
        if ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
            return Ok(Endpoint::Unix(PathBuf::from(text)));
        }
        let (host, port) = split_port(text).map_err(bad)?;
        let port = port.ok_or_else(|| match text.starts_with('[') || !text.contains(':') {
            true => bad("has no port"),
            false => bad("has no port (an IPv6 address with a port goes in brackets)"),
        })?;
        let host = bare_host(host).ok_or_else(|| bad("has no usable host"))?;
        let port = port_number(port).ok_or_else(|| bad("has no port between 1 and 65535, nor a known service"))?;
        Ok(Endpoint::Tcp { host: host.to_owned(), port })
    }
}

/// A port number, or the port of a service in the system's database; never 0.
pub fn port_number(text: &str) -> Option<u16> {
    if text.is_empty() {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|port| *port != 0);
    }
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let mut found = getaddrinfo(None, Some(text), Some(hints)).ok()?;
    found.next()?.ok().map(|info| info.sockaddr.port())
}

/// A link-local address keeps its zone.
impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        match address {
            SocketAddr::V6(six) if six.scope_id() > 0 => {
                Endpoint::tcp(format!("{}%{}", six.ip(), six.scope_id()), six.port())
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => Endpoint::tcp(address.ip().to_string(), address.port()),
        }
    }
}

/// Source address of connections: an address of this machine, with its zone if it is link-local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(SocketAddr);

impl Source {
    /// The address to bind. Port 0 lets the system choose one.
    pub fn address(&self) -> SocketAddr {
        self.0
    }
}

impl FromStr for Source {
    type Err = io::Error;

    /// Parses an address, or looks up a name; the first of several addresses counts. May block like
    /// [`Endpoint::resolve`].
    fn from_str(text: &str) -> io::Result<Source> {
        let host = bare_host(text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is no address"))?;
        match Endpoint::tcp(host, 0).resolve()?.first() {
            Some(Address::Tcp(address)) => Ok(Source(*address)),
            Some(Address::Unix(_)) | None => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Endpoint::from(self.0).host_and_port().0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
            Endpoint::Malformed(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) if path.as_os_str().is_empty() => f.write_str("unix"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Endpoint {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn every_form_is_read_and_shown_as_it_was_typed() {
        for text in ["10.0.0.1:5432", "db.example:5432", "[::1]:80", "/run/db.sock", "./db.sock"] {
            assert_eq!(parsed(text).to_string(), text);
        }
        assert_eq!(parsed("[::1]:80"), Endpoint::tcp("::1", 80));
    }

    #[test]
    fn where_to_listen_may_lack_the_host_and_leave_the_port_to_the_system() {
        for (text, host, port) in
            [(":80", "", 80), (":0", "", 0), ("localhost:0", "localhost", 0), ("[::1]:0", "::1", 0), ("a:80", "a", 80)]
        {
            let own = Endpoint::parse_own(text).unwrap();
            assert_eq!((&own, own.to_string().as_str()), (&Endpoint::tcp(host, port), text));
        }
        for text in ["", ":", ":x1", "80", "a:", "::1:0", ":00", "a b:0"] {
            assert!(Endpoint::parse_own(text).unwrap_err().to_string().contains(&format!("'{text}'")), "{text}");
        }
    }

    #[test]
    fn no_host_is_this_machine() {
        let here = Endpoint::tcp("", 9);
        assert!(!here.is_name());
        let four = Address::Tcp("127.0.0.1:9".parse().unwrap());
        assert_eq!(here.resolve().unwrap().first(), Some(&four));
        let all = here.resolve_own().unwrap();
        let all = all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(all == ["[::]:9"] || all == ["0.0.0.0:9"], "{all:?}");
    }

    #[test]
    fn a_link_local_address_has_its_zone() {
        let link = parsed("[fe80::1%lo]:80");
        assert_eq!(link.to_string(), "[fe80::1%lo]:80");
        let found = link.resolve().unwrap();
        let zoned = |address: &Address| matches!(address, Address::Tcp(SocketAddr::V6(at)) if at.scope_id() > 0);
        assert!(found.iter().all(zoned), "{found:?}");
    }

    #[test]
    fn a_service_name_becomes_its_port() {
        assert_eq!(parsed("localhost:postgresql"), Endpoint::tcp("localhost", 5432));
    }

    #[test]
    fn what_is_no_endpoint_is_named_in_the_error() {
        for text in [
            "",
            "host",
            "host:",
            ":80",
            "::1:80",
            "a:1:2",
            "[::1]",
            "[x]:80",
            "[::1%]:80",
            "host:0",
            "h:65536",
            "h:nosuch",
            "a b:80",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(&format!("'{text}'")) && error.contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn an_address_resolves_to_itself_and_a_name_to_all_of_its_addresses() {
        assert!(!parsed("127.0.0.1:9").is_name());
        assert_eq!(parsed("127.0.0.1:9").resolve().unwrap(), [Address::Tcp("127.0.0.1:9".parse().unwrap())]);
        assert!(parsed("localhost:9").is_name());
        assert!(!parsed("localhost:9").resolve().unwrap().is_empty());
    }

    #[test]
    fn a_name_without_an_address_is_an_error_with_a_cause() {
        let error = parsed("nosuch.invalid:9").resolve().unwrap_err().to_string();
        assert!(!error.is_empty() && !error.contains("Os {"), "{error}");
    }
}
