//! What passes through.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use super::{Balance, served};
use crate::backend::Backend;
use crate::ends::{Server, pattern, read_rest, read_text};
use crate::support::{SOON, eventually, nobody};

/// Defect 2: bulk traffic both ways stopped for good after 0.4 MB.
#[test]
fn twenty_megabytes_pass_both_ways_at_once() {
    const LENGTH: usize = 20 << 20;
    let server = Backend::start(|mut stream, _| {
        let mut writer = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut writer).ok();
        writer.shutdown(Shutdown::Write).ok();
    });
    let balance = Balance::start(&[], &[&server.address()]);
    let client = balance.connect();
    let sent = pattern(LENGTH);
    let received = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (&client).write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let received = read_rest(&client);
        writer.join().unwrap();
        received
    });
    assert!(received == sent, "{} of {LENGTH} bytes came back, or not the same", received.len());
    for column in ["sent", "rcvd"] {
        eventually(SOON, "all is counted", || balance.shown(0, column) == LENGTH.to_string());
    }
}

/// Defect 5: a half-close was not relayed, and the answer lost.
#[test]
fn a_client_that_has_ended_its_side_still_gets_its_answer() {
    let server = Server::new();
    let balance = Balance::start(&[], &[&server.address()]);
    let mut client = balance.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut far = server.accept();
    assert_eq!(read_rest(&far), b"question");
    far.write_all(b"answer").unwrap();
    drop(far);
    assert_eq!(read_rest(&client), b"answer");
}

#[test]
fn the_counters_of_show_grow_while_the_connection_lives() {
    let server = Server::new();
    let balance = Balance::start(&[], &[&server.address()]);
    let mut client = balance.connect();
    client.write_all(b"12345").unwrap();
    let mut far = server.accept();
    assert_eq!(read_text(&far, 5), "12345");
    far.write_all(b"123").unwrap();
    assert_eq!(read_text(&client, 3), "123");
    // A chunk is counted just after it was passed on.
    let shows = |cells: [&str; 4]| {
        eventually(SOON, &format!("c, totalc, sent and rcvd are {cells:?}"), || {
            ["c", "totalc", "sent", "rcvd"].map(|name| balance.shown(0, name)) == cells
        });
    };
    shows(["1", "1", "5", "3"]);
    client.write_all(b"67").unwrap();
    assert_eq!(read_text(&far, 2), "67");
    shows(["1", "1", "7", "3"]);
    balance.answers("reset 0", "channel 0 counters reset");
    shows(["1", "0", "0", "0"]);
    client.write_all(b"8").unwrap();
    assert_eq!(read_text(&far, 1), "8");
    shows(["1", "0", "1", "0"]);
    drop((client, far));
    eventually(SOON, "c falls", || balance.shown(0, "c") == "0");
}

#[test]
fn when_all_have_failed_the_client_is_closed_without_data() {
    let (_port, dead) = nobody();
    let balance = Balance::start(&[], &[&dead, "!", &dead, "%"]);
    let mut client = balance.connect();
    assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    assert_eq!(served(&mut balance.connect()), None);
}

/// Defect 12: IPv6 destinations were rejected.
#[test]
fn ipv6_destinations_serve() {
    let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let balance = Balance::start(&[], &[&format!("[::1]:{port}")]);
    let mut client = balance.connect();
    let (mut far, _) = listener.accept().unwrap();
    far.write_all(b"six").unwrap();
    assert_eq!(read_text(&client, 3), "six");
    client.write_all(b"!").unwrap();
    assert_eq!(read_text(&far, 1), "!");
    let row = balance.ask("show");
    assert!(row.lines().nth(1).unwrap().contains(&format!("              ::1 {port:>5} ")), "{row}");
}

/// `-p`: everything that passes, on standard output.
#[test]
fn p_shows_what_passes_with_its_direction_and_length() {
    let server = Server::new();
    let balance = Balance::start(&["-p"], &[&server.address()]);
    let mut client = balance.connect();
    client.write_all(b"a\\b\x00\n").unwrap();
    let mut far = server.accept();
    assert_eq!(read_text(&far, 5), "a\\b\x00\n");
    far.write_all(b"\xff!").unwrap();
    client.read_exact(&mut [0; 2]).unwrap();
    let expected = ["-> 5\na\\\\b\\00\\0A\n", "-< 2\n\\FF!\n"];
    eventually(SOON, "both are shown", || expected.iter().all(|part| balance.shown_bytes().contains(part)));
}

/// `-B`: where connections to servers come from.
#[test]
fn capital_b_is_the_address_the_servers_see() {
    let server = Server::new();
    let balance = Balance::start(&["-B", "127.0.0.77"], &[&server.address()]);
    let _client = balance.connect();
    assert_eq!(server.accept().peer_addr().unwrap().ip().to_string(), "127.0.0.77");
    // As before, an address that is not local is ignored.
    let balance = Balance::start(&["-B", "192.0.2.1"], &[&server.address()]);
    let _client = balance.connect();
    assert_eq!(server.accept().peer_addr().unwrap().ip().to_string(), "127.0.0.1");
}
