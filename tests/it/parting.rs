//! How connections end when one side pauses, fails or is given up: nobody sees an end that the other side has not sent,
//! and no reset overtakes what was sent before it (promise 1). Over TCP in both families and over Unix sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use cbpx::endpoint::Endpoint;
use socket2::{Domain, SockRef, Socket, Type};

use crate::ends::{Server, fill, pattern, read_rest, read_text, read_until_reset, reset, unacknowledged};
use crate::proxy::finish;
use crate::relay::{connected, nobody_is_connected, proxy_for, the_log_tells};
use crate::service::{address, connect, running};
use crate::support::{SOON, TempDir, eventually};

/// A proxy in this process, and the server behind it.
struct Road {
    proxy: cbpx::process::Proxy,
    server: Listening,
    _dir: TempDir,
}

enum Listening {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Family {
    V4,
    V6,
    Unix,
}

const FAMILIES: [Family; 3] = [Family::V4, Family::V6, Family::Unix];

impl Road {
    /// The family of the server's side; clients come over IPv6 where the server is reached over it.
    fn new(family: Family) -> Road {
        let dir = TempDir::new("parting");
        let path = dir.path().join("server.sock");
        let tcp = |at: &str| {
            let listener = std::net::TcpListener::bind(at).unwrap();
            let at = listener.local_addr().unwrap().to_string();
            (Listening::Tcp(listener), at)
        };
        let (server, at) = match family {
            Family::V4 => tcp("127.0.0.1:0"),
            Family::V6 => tcp("[::1]:0"),
            Family::Unix => (Listening::Unix(UnixListener::bind(&path).unwrap()), path.display().to_string()),
        };
        let proxy = running(&[&at], |service| {
            if family == Family::V6 {
                service.listeners = vec![Endpoint::tcp("::1", 0)];
            }
        });
        Road { proxy, server, _dir: dir }
    }

    /// Both ends of a connection, after a byte has passed.
    fn connected(&self) -> (TcpStream, TcpStream) {
        let mut client = connect(address(&self.proxy));
        client.write_all(b"!").unwrap();
        // Read and written alike.
        let far: TcpStream = match &self.server {
            Listening::Tcp(listener) => listener.accept().unwrap().0,
            Listening::Unix(listener) => TcpStream::from(OwnedFd::from(listener.accept().unwrap().0)),
        };
        far.set_read_timeout(Some(SOON)).unwrap();
        far.set_write_timeout(Some(SOON)).unwrap();
        assert_eq!(read_text(&far, 1), "!");
        (client, far)
    }
}

/// Everything written here has reached the proxy's system.
fn is_taken(socket: &TcpStream) {
    eventually(SOON, "what was written has been taken", || unacknowledged(socket) == Some(0));
}

/// Reads slowly to the end, in order or not.
fn read_slowly(mut stream: &TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut got, mut buffer) = (Vec::new(), [0; 2_500]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (got, None),
            Ok(length) => got.extend_from_slice(&buffer[..length]),
            Err(e) => return (got, Some(e.kind())),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The server got one megabyte and an end in order.
#[test]
fn a_client_that_pauses_its_upload_after_the_servers_end_is_not_cut_off() {
    const MEGABYTE: usize = 1 << 20;
    thread::scope(|scope| {
        for (family, on_its_way) in FAMILIES.into_iter().flat_map(|family| [(family, false), (family, true)]) {
            scope.spawn(move || {
                let road = Road::new(family);
                let (mut client, far) = road.connected();
                let upload = {
                    let mut client = client.try_clone().unwrap();
                    thread::spawn(move || {
                        let begins = if on_its_way { 0 } else { client.read(&mut [0]).unwrap() };
                        assert_eq!(begins, 0, "at once, or when the server has ended");
                        client.write_all(&pattern(2 * MEGABYTE)[..MEGABYTE]).unwrap();
                    })
                };
                if on_its_way {
                    eventually(SOON, "the upload has begun", || far.peek(&mut [0; 16]).unwrap() == 16);
                    thread::sleep(Duration::from_millis(300));
                }
                far.shutdown(Shutdown::Write).unwrap();
                // The proxy has seen its end before it reads.
                assert_eq!(read_rest(&client), b"");
                let reading = thread::spawn(move || read_rest(&far));
                upload.join().unwrap();
                // Longer than a silent client is given.
                thread::sleep(Duration::from_secs(7));
                client.write_all(&pattern(2 * MEGABYTE)[MEGABYTE..]).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert!(reading.join().unwrap() == pattern(2 * MEGABYTE), "{family:?}, {on_its_way}");
            });
        }
    });
}

/// It was dismissed, and the switch reported success.
#[test]
fn an_upload_after_the_servers_end_keeps_a_switch_waiting() {
    // Also when the proxy has taken the client for a silent one meanwhile.
    for before in [Duration::ZERO, Duration::from_millis(400)] {
        let server = Server::new();
        let proxy = proxy_for(&server, &["-t", "15"]);
        let (mut client, far) = connected(&proxy, &server);
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_rest(&client), b"");
        thread::sleep(before);
        client.write_all(b"first").unwrap();
        assert_eq!(read_text(&far, 5), "first");
        let mut switch = proxy.begin("switch");
        let mut started = [0; 9];
        switch.read_exact(&mut started).unwrap();
        // A silent one is closed in a tenth of a second.
        thread::sleep(Duration::from_millis(400));
        client.write_all(b"second").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_rest(&far), b"second");
        let answer = finish(switch);
        assert!(answer.contains("Switch OK"), "{answer}");
    }
}

/// It was on its way when the server ended, so the server has not had it before.
#[test]
fn an_upload_that_is_on_its_way_at_the_servers_end_keeps_a_switch_waiting() {
    const MEGABYTE: usize = 1 << 20;
    let server = Server::new();
    let proxy = proxy_for(&server, &["-t", "15", "-l", "DEBUG"]);
    let (mut client, far) = connected(&proxy, &server);
    client.write_all(&pattern(MEGABYTE)).unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client), b"");
    let mut got = vec![0; MEGABYTE];
    (&far).read_exact(&mut got).unwrap();
    thread::sleep(Duration::from_millis(400));
    let mut switch = proxy.begin("switch");
    let mut started = [0; 9];
    switch.read_exact(&mut started).unwrap();
    thread::sleep(Duration::from_millis(400));
    client.write_all(b"second").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far), b"second");
    assert!(got == pattern(MEGABYTE) && finish(switch).contains("Switch OK"));
}

/// The client was taken for silent while it was reading what its server had sent before its end.
#[test]
fn a_client_that_still_downloads_after_the_servers_end_is_not_silent() {
    const LENGTH: usize = 300_000;
    thread::scope(|scope| {
        for family in FAMILIES {
            scope.spawn(move || {
                let road = Road::new(family);
                let (mut client, mut far) = road.connected();
                SockRef::from(&client).set_recv_buffer_size(16 * 1024).unwrap();
                far.write_all(&pattern(LENGTH)).unwrap();
                far.shutdown(Shutdown::Write).unwrap();
                thread::sleep(Duration::from_secs(7));
                assert!(read_rest(&client) == pattern(LENGTH), "{family:?}");
                client.write_all(b"thanks").unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_rest(&far), b"thanks", "{family:?}");
            });
        }
    });
}

/// The client got 128,000 bytes of 200,000.
#[test]
fn a_servers_reset_does_not_overtake_what_it_had_sent() {
    const LENGTH: usize = 200_000;
    for family in FAMILIES {
        let road = Road::new(family);
        for ends_first in [false, true] {
            let (mut client, mut far) = road.connected();
            SockRef::from(&client).set_recv_buffer_size(16 * 1024).unwrap();
            // So that closing the server's socket is a failure for Unix sockets, too.
            client.write_all(b"unread").unwrap();
            eventually(SOON, "the server could read", || far.peek(&mut [0; 6]).unwrap() == 6);
            far.write_all(&pattern(LENGTH)).unwrap();
            if ends_first {
                far.shutdown(Shutdown::Write).unwrap();
            }
            is_taken(&far);
            reset(far);
            let (got, failure) = read_slowly(&client);
            assert!(got == pattern(LENGTH), "{family:?}, {ends_first}: {} bytes", got.len());
            // Where its end had been passed on, the stream is complete and read as such; the failure is told all the
            // same.
            let is_told = || SockRef::from(&client).take_error().unwrap().map(|e| e.kind());
            match failure {
                Some(failure) => assert_eq!(failure, ErrorKind::ConnectionReset, "{family:?}"),
                None => {
                    assert!(ends_first, "{family:?}: an end in order");
                    eventually(SOON, "the client is told that its server has failed", || is_told().is_some());
                }
            }
        }
    }
}

#[test]
fn a_clients_reset_does_not_overtake_what_it_had_sent() {
    const LENGTH: usize = 200_000;
    for family in FAMILIES {
        let road = Road::new(family);
        let (mut client, far) = road.connected();
        SockRef::from(&far).set_recv_buffer_size(16 * 1024).unwrap();
        client.write_all(&pattern(LENGTH)).unwrap();
        is_taken(&client);
        reset(client);
        let (got, failure) = read_slowly(&far);
        assert!(got == pattern(LENGTH), "{family:?}: {} bytes", got.len());
        // A Unix socket knows no reset.
        let expected = (family != Family::Unix).then_some(ErrorKind::ConnectionReset);
        assert_eq!(failure, expected, "{family:?}");
    }
}

/// An answer that comes in the middle of the question, after which the server closes: the answer was lost.
#[test]
fn a_server_that_answers_and_closes_in_the_middle_of_an_upload_is_heard() {
    const LENGTH: usize = 100_000;
    for family in FAMILIES {
        let road = Road::new(family);
        let (client, mut far) = road.connected();
        SockRef::from(&client).set_recv_buffer_size(16 * 1024).unwrap();
        let mut uploading = client.try_clone().unwrap();
        let upload = thread::spawn(move || {
            loop {
                if let Err(e) = uploading.write_all(&[7; 64 * 1024]) {
                    return e.kind();
                }
            }
        });
        far.read_exact(&mut [0; 100_000]).unwrap();
        far.write_all(&pattern(LENGTH)).unwrap();
        is_taken(&far);
        drop(far);
        let (got, failure) = read_slowly(&client);
        assert!(got == pattern(LENGTH), "{family:?}: {} bytes", got.len());
        // The system reports a reset once: to the reader or to the writer, whichever is first.
        let told = [failure, Some(upload.join().unwrap())];
        assert!(told.contains(&Some(ErrorKind::ConnectionReset)), "{family:?}: {told:?}");
    }
}

/// More than all buffers take, so that some of it has not even been read when the reset comes.
#[test]
fn what_a_failed_side_had_sent_arrives_to_the_last_byte_that_the_system_had_taken() {
    for family in [Family::V4, Family::V6] {
        let road = Road::new(family);
        for client_fails in [true, false] {
            let (client, far) = road.connected();
            let (fails, reads) = if client_fails { (client, far) } else { (far, client) };
            let taken = fill(&fails) as u64 - unacknowledged(&fails).unwrap();
            reset(fails);
            let got = read_until_reset(&reads) as u64;
            assert_eq!(got, taken, "{family:?}, the client fails: {client_fails}");
        }
    }
}

#[test]
fn a_switch_does_not_wait_for_the_rest_of_what_a_failed_side_had_sent() {
    let server = Server::new();
    for client_fails in [true, false] {
        let proxy = proxy_for(&server, &["-t", "3"]);
        let (client, far) = connected(&proxy, &server);
        let (fails, reads) = if client_fails { (client, far) } else { (far, client) };
        fill(&fails);
        reset(fails);
        let answer = proxy.ask("switch");
        assert!(answer.contains("Switch OK"), "{answer}");
        read_until_reset(&reads);
        the_log_tells(&proxy, if client_fails { "closed: the client failed" } else { "closed: the backend failed" }, 1);
    }
}

#[test]
fn a_side_that_never_reads_the_rest_is_kept_for_five_seconds() {
    let server = Server::new();
    let proxy = proxy_for(&server, &[]);
    let (client, far) = connected(&proxy, &server);
    let start = Instant::now();
    fill(&far);
    reset(far);
    nobody_is_connected(&proxy);
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    read_until_reset(&client);
}

/// No byte passed through the proxy, but its system was delivering to a slow reader all the time.
#[test]
fn a_client_that_reads_slowly_is_not_idle() {
    const TIMEOUT: Duration = Duration::from_millis(2_500);
    let server = Server::new();
    let proxy = running(&[&server.address()], |service| service.network.idle_timeout = Some(TIMEOUT));
    // Segments that fit into its buffer: or the system waits before each.
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_tcp_mss(2_048).unwrap();
    client.set_recv_buffer_size(16 * 1024).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.connect(&address(&proxy).into()).unwrap();
    let (mut client, mut far) = (TcpStream::from(client), server.accept());
    far.write_all(&pattern(1_000_000)).unwrap();
    let mut got = Vec::new();
    let start = Instant::now();
    while got.len() < 1_000_000 {
        let mut some = vec![0; (1_000_000 - got.len()).min(20_000)];
        client.read_exact(&mut some).unwrap();
        got.extend(some);
        // 50 pieces in six seconds.
        thread::sleep(Duration::from_millis(125));
    }
    assert!(start.elapsed() > 2 * TIMEOUT && got == pattern(1_000_000));
    far.write_all(b"more").unwrap();
    assert_eq!(read_text(&client, 4), "more");
}

/// It lived on and said nothing, so its server was kept for five seconds, or for as long as it sent something.
#[test]
fn a_unix_client_that_takes_no_more_bytes_is_given_up_at_once() {
    let (dir, server) = (TempDir::new("parting"), Server::new());
    let path = dir.path().join("clients");
    let _proxy = running(&[&server.address()], |service| service.listeners = vec![Endpoint::Unix(path.clone())]);
    let client = UnixStream::connect(&path).unwrap();
    let mut far = server.accept();
    client.shutdown(Shutdown::Read).unwrap();
    let start = Instant::now();
    far.write_all(b"x").unwrap();
    read_until_reset(&far);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}
