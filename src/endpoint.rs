//! Where to listen or connect: `host:port`, `[v6]:port` or the path of a Unix socket.
//!
//! An `Endpoint` that was parsed is well formed: its port is a number (service names were looked up while parsing), its
//! host is not empty. Whether the host has an address is asked by [`Endpoint::resolve`], which may block on the
//! network and so is called at the start and from the resolver's thread only.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::str::FromStr;

use dns_lookup::{AddrInfoHints, SockType, getaddrinfo};

/// Where to listen or connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A host name or address (without brackets) and a port. An empty host is this machine: to connect to, or with all of
    /// its addresses to listen on.
    Tcp { host: String, port: u16 },
    /// The path of a Unix stream socket.
    Unix(PathBuf),
    /// What was typed where an endpoint belongs. It never has an address: for programs that take what cannot be used for
    /// a backend that cannot be reached.
    Malformed(String),
}

/// One address that can be dialled or bound without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Endpoint {
    pub fn tcp(host: impl Into<String>, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    /// Whether `resolve` has to ask somebody: a name rather than an address.
    pub fn is_name(&self) -> bool {
        match self {
            Endpoint::Tcp { host, .. } => !host.is_empty() && literal(host).is_none(),
            Endpoint::Unix(_) | Endpoint::Malformed(_) => false,
        }
    }

    /// All addresses, in the order they should be tried; never empty. May block for as long as the system's resolver
    /// does.
    ///
    /// # Errors
    /// The resolver's answer when the name has no address or nobody could be asked.
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
        if let Some(ip) = literal(host) {
            return Ok(vec![Address::Tcp(SocketAddr::new(ip, port))]);
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
    /// Likewise.
    pub fn resolve_own(&self) -> io::Result<Vec<Address>> {
        match self {
            Endpoint::Tcp { host, port } if host.is_empty() => {
                // One socket for IPv6 takes IPv4, too. A system without IPv6 has no such socket.
                let six = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
                let ip: IpAddr = if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                Ok(vec![Address::Tcp(SocketAddr::new(ip, *port))])
            }
            Endpoint::Tcp { .. } | Endpoint::Unix(_) | Endpoint::Malformed(_) => self.resolve(),
        }
    }

    /// Reads where this program is to listen: the host may be missing, for all addresses of this machine, and port 0 lets
    /// the system choose.
    ///
    /// # Errors
    /// Why the text is no endpoint.
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

    /// The two words a switch script is given for this endpoint: host and port, or the path and `0`.
    pub fn host_and_port(&self) -> (String, String) {
        match self {
            Endpoint::Tcp { host, port } => (host.clone(), port.to_string()),
            Endpoint::Unix(path) => (path.display().to_string(), "0".to_owned()),
            Endpoint::Malformed(text) => (text.clone(), "0".to_owned()),
        }
    }
}

/// glibc's sentence without the prefix that the crate puts before it.
fn resolver_words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(": ") {
        Some((_, cause)) => cause.to_owned(),
        None => text,
    }
}

/// The address that `host` spells out, if it does.
fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok()
}

/// Why a text is not an endpoint. `Display` says what was given and what would do.
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
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once("]:").ok_or_else(|| bad("has no ']:PORT'"))?;
            // The resolver knows what `%ZONE` is.
            let (address, zone) = host.split_once('%').unwrap_or((host, "-"));
            let address = address.parse::<Ipv6Addr>().ok().filter(|_| !zone.is_empty());
            address.ok_or_else(|| bad("has no IPv6 address between the brackets"))?;
            (host, port)
        } else {
            let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
            if host.contains(':') {
                return Err(bad("has more than one ':' (an IPv6 address goes in brackets)"));
            }
            (host, port)
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(bad("has no usable host"));
        }
        let port = port_number(port).ok_or_else(|| bad("has no port between 1 and 65535, nor a known service"))?;
        Ok(Endpoint::Tcp { host: host.to_owned(), port })
    }
}

/// A port by number, or by the name the system's services database has for it; never 0.
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
