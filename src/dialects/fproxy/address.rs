//! Addresses to listen on and connect to: the path of a Unix socket, or an IPv4 or IPv6 address with or without a port.

use std::path::PathBuf;

use crate::endpoint::{Endpoint, is_six, split_port};

/// The default port.
pub const PORT: u16 = 80;

/// Parses one. A `/` makes it a path. IPv6 with a port needs brackets unless it can be read in one way only.
///
/// # Errors
/// Explains what is wrong with it.
pub fn read(text: &str) -> Result<Endpoint, String> {
    let wrong = |because: &str| format!("'{text}' {because}");
    if text.contains('/') {
        return Ok(Endpoint::Unix(PathBuf::from(text)));
    }
    let (host, port) = split_port(text).map_err(wrong)?;
    if !is_six(host) && !is_four_or_name(host) {
        return Err(wrong(SHAPES));
    }
    let port = match port {
        None => Some(PORT),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        Some(_) => None,
    };
    let port = port.filter(|port| *port > 0).ok_or_else(|| wrong("has no port between 1 and 65535 behind the ':'"))?;
    Ok(Endpoint::tcp(host, port))
}

const SHAPES: &str = "is none of ADDR, ADDR:PORT, [IPV6]:PORT and the path of a Unix socket";

/// An IPv4 address in any form that the system accepts, or a host name.
fn is_four_or_name(text: &str) -> bool {
    let looks_like_four = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let could_be_a_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric());
    could_be_a_name && !(looks_like_four && Endpoint::tcp(text, PORT).is_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_the_port_is_80_unless_it_is_given() {
        for (text, host, port) in [
            ("127.0.0.1", "127.0.0.1", 80),
            ("127.0.0.1:8080", "127.0.0.1", 8080),
            ("0.0.0.0:1", "0.0.0.0", 1),
            ("::1", "::1", 80),
            ("::", "::", 80),
            ("2001:db8::7:8080", "2001:db8::7:8080", 80),
            ("[::1]", "::1", 80),
            ("[::1]:65535", "::1", 65535),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1", 80),
            ("fe80::1%eth0", "fe80::1%eth0", 80),
            ("[fe80::1%eth0]:8080", "fe80::1%eth0", 8080),
            ("::ffff:10.0.0.1:81", "::ffff:10.0.0.1", 81),
            ("fe80::1%eth0:81", "fe80::1%eth0", 81),
            ("127.1:81", "127.1", 81),
            ("localhost", "localhost", 80),
            ("web-1.example.com:81", "web-1.example.com", 81),
        ] {
            assert_eq!(read(text), Ok(Endpoint::tcp(host, port)), "{text}");
        }
        for path in ["/run/web.sock", "./web.sock", "run/web.sock", "/run/a:80", "/run/[x"] {
            assert_eq!(read(path), Ok(Endpoint::Unix(path.into())), "{path}");
        }
    }

    #[test]
    fn what_is_none_is_named() {
        for (text, because) in [
            ("", "none of ADDR"),
            (":80", "none of ADDR"),
            ("a b:80", "none of ADDR"),
            ("-f", "none of ADDR"),
            ("300.1.1.1", "none of ADDR"),
            ("1.2.3.4:", "no port between 1 and 65535"),
            ("1.2.3.4:0", "no port between 1 and 65535"),
            ("1.2.3.4:65536", "no port between 1 and 65535"),
            ("1.2.3.4:http", "no port between 1 and 65535"),
            ("[::1]:+8", "no port between 1 and 65535"),
            ("1.2.3.4:80:90", "no IPv6 address; with a port it is [ADDR]:PORT"),
            ("::g", "no IPv6 address"),
            ("fe80::1%", "no IPv6 address"),
            ("[::1", "no ']'"),
            ("[::1]80", "other than ':PORT' behind the ']'"),
            ("[1.2.3.4]:80", "no IPv6 address between the brackets"),
        ] {
            let words = read(text).unwrap_err();
            assert!(words.contains(because) && words.contains(&format!("'{text}'")), "{text}: {words}");
        }
    }
}
