//! Peers that break off, push or crawl in the middle of things. Each is noticed at once, told to the other side as what
//! it was, and costs nobody else anything.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use socket2::SockRef;

use crate::backend::Backend;
use crate::ends::{Server, fill, pattern, read_rest, read_text, reset};
use crate::proxy::Proxy;
use crate::relay::{connected, nobody_is_connected, proxy_for, the_log_tells};
use crate::support::{SOON, eventually};
use crate::vitals::Vitals;

/// Both told by one event: the failure was forgotten over the end, and the other side kept waiting.
#[test]
fn a_side_that_ends_and_fails_at_once_is_not_taken_for_one_that_has_only_ended() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    let (client, far) = connected(&proxy, &server);
    proxy.frozen(|| {
        client.shutdown(Shutdown::Write).unwrap();
        reset(client);
    });
    // Everything it sent was complete; that nobody waits for the answer any more is told, too.
    assert_eq!(read_rest(&far), b"");
    let is_told = |stream| SockRef::from(stream).take_error().unwrap().is_some();
    eventually(SOON, "the server is told that its client has failed", || is_told(&far));
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "closed: the client failed", 1);
    let (client, far) = connected(&proxy, &server);
    proxy.frozen(|| {
        far.shutdown(Shutdown::Write).unwrap();
        reset(far);
    });
    assert_eq!(read_rest(&client), b"");
    eventually(SOON, "the client is told that its server has failed", || is_told(&client));
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "closed: done, the backend ended first", 1);
}

/// Once both had ended, the system answered the proxy's reset by throwing away what was on its way: the server waited
/// for the rest for ever.
#[test]
fn a_server_that_has_ended_gets_the_rest_of_a_client_that_fails_after_its_own_end() {
    const LENGTH: usize = 54_703;
    let server = Server::narrow();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    // How much must be on its way is the system's business.
    for read in (1..LENGTH).step_by(1_400) {
        let (mut client, mut far) = connected(&proxy, &server);
        SockRef::from(&far).set_recv_buffer_size(8_192).unwrap();
        client.write_all(&pattern(LENGTH)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = vec![0; read];
        far.read_exact(&mut got).unwrap();
        // Enough for the client to have something unread: so its close is a reset.
        far.write_all(b"answer").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_text(&client, 1), "a");
        reset(client);
        match far.read_to_end(&mut got) {
            Ok(_) => assert!(got == pattern(LENGTH), "an end in order after {} bytes", got.len()),
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "after {} bytes", got.len()),
        }
    }
    nobody_is_connected(&proxy);
}

#[test]
fn a_thousand_clients_that_reset_at_once_leave_nothing_behind() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &[]);
    let before = Vitals::at_rest(&proxy);
    for _ in 0..1_000 {
        reset(proxy.connect());
    }
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    assert_eq!(read_text(&client, 3), "s:x", "whoever comes behind them is served");
    drop(client);
    nobody_is_connected(&proxy);
    before.are_back(&proxy);
}

#[test]
fn a_reader_of_single_bytes_with_the_smallest_buffer_gets_every_byte() {
    const LENGTH: usize = 20_000;
    let server = Server::narrow();
    let proxy = proxy_for(&server, &[]);
    let (client, far) = connected(&proxy, &server);
    let slowly = |stream: &TcpStream| {
        let mut stream = stream.try_clone().unwrap();
        SockRef::from(&stream).set_recv_buffer_size(1).unwrap();
        thread::spawn(move || {
            let (mut got, mut byte) = (Vec::new(), [0]);
            while stream.read(&mut byte).unwrap() == 1 {
                got.push(byte[0]);
            }
            got
        })
    };
    let arriving = slowly(&far);
    (&client).write_all(&pattern(LENGTH)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(arriving.join().unwrap() == pattern(LENGTH));
    far.shutdown(Shutdown::Write).unwrap();
    nobody_is_connected(&proxy);
}

#[test]
fn a_side_that_never_reads_does_not_stop_what_it_sends() {
    let server = Server::new();
    let proxy = proxy_for(&server, &[]);
    for client_reads in [true, false] {
        let (client, far) = connected(&proxy, &server);
        let (deaf, mut other) = if client_reads { (far, client) } else { (client, far) };
        let stuck = fill(&other);
        let mut all = vec![0; 2 << 20];
        let mut sender = deaf.try_clone().unwrap();
        let sending = thread::spawn(move || sender.write_all(&pattern(2 << 20)).unwrap());
        other.read_exact(&mut all).unwrap();
        sending.join().unwrap();
        assert!(all == pattern(2 << 20));
        other.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_rest(&deaf).len(), stuck, "what had waited is there");
    }
    nobody_is_connected(&proxy);
}

#[test]
fn both_sides_may_end_at_the_same_time() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    for round in 0..50 {
        let (mut client, mut far) = connected(&proxy, &server);
        let mut end_both = || {
            client.write_all(b"last words").unwrap();
            far.write_all(b"the same").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            far.shutdown(Shutdown::Write).unwrap();
        };
        // Told at the same moment, or in either order.
        if round % 2 == 0 {
            proxy.frozen(&mut end_both)
        } else {
            end_both()
        }
        assert_eq!(read_rest(&far), b"last words");
        assert_eq!(read_rest(&client), b"the same");
    }
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "; 11 bytes up, 8 down", 50);
    the_log_tells(&proxy, "closed: done, ", 50);
}
