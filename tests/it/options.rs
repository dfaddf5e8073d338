//! The options of both sockets of a connected client, read from the proxy's own descriptors.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{SockAddr, Socket};

use crate::ends::{Server, read_text};
use crate::proxy::Proxy;

/// A copy of the proxy's end of the connection with this peer: the same socket, with the same options.
fn socket_to(proxy: &Proxy, peer: SocketAddr) -> Socket {
    let process = pidfd_open(Pid::from_raw(proxy.pid() as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
    let mut sockets = numbers.filter_map(|entry| {
        let entry = entry.unwrap();
        let target = std::fs::read_link(entry.path()).ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        let is_socket = target.to_string_lossy().starts_with("socket:");
        is_socket.then(|| Socket::from(pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap()))
    });
    let is_it = |socket: &Socket| socket.peer_addr().ok().as_ref().and_then(SockAddr::as_socket) == Some(peer);
    sockets.find(is_it).unwrap_or_else(|| panic!("the proxy is not connected with {peer}"))
}

#[test]
fn both_sides_send_at_once_and_keep_urgent_bytes_in_place_and_are_probed_as_asked() {
    let server = Server::new();
    for (flags, idle) in [(&[][..], Some(60)), (&["--keepalive", "7"], Some(7)), (&["--keepalive", "0"], None)] {
        let proxy = Proxy::start(&server.address(), &server.address(), flags);
        let mut client = proxy.connect();
        client.write_all(b"!").unwrap();
        let far = server.accept();
        assert_eq!(read_text(&far, 1), "!");
        for (end, name) in [(client.local_addr().unwrap(), "client"), (far.local_addr().unwrap(), "backend")] {
            let socket = socket_to(&proxy, end);
            assert!(socket.tcp_nodelay().unwrap(), "{name}: {flags:?}");
            assert!(socket.out_of_band_inline().unwrap(), "{name}: {flags:?}");
            assert_eq!(socket.keepalive().unwrap(), idle.is_some(), "{name}: {flags:?}");
            if let Some(idle) = idle {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(idle), "{name}");
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15), "{name}");
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4, "{name}");
            }
        }
    }
}
