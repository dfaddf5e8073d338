//! Clients that count as arrived once they have sent something.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use cbpx::config::MOST_FIRST_BYTES;
use cbpx::core::msg::Command;
use cbpx::process::Proxy;
use rustix::process::Signal;

use crate::backend::Backend;
use crate::ends::{Server, pattern, read_rest, read_text, reset};
use crate::program::Program;
use crate::service::{address, config, connect, running, service};
use crate::starved::become_by;
use crate::support::{Reserved, SOON, TempDir, eventually};

/// Behind a proxy that waits for six bytes.
fn after_six(server: &Server) -> Proxy {
    running(&[&server.address()], |service| service.network.first_bytes = 6)
}

#[test]
fn a_client_has_arrived_with_its_sixth_byte_and_none_of_them_is_lost() {
    let server = Server::new();
    let proxy = after_six(&server);
    let mut client = connect(address(&proxy));
    for byte in b"12345" {
        client.write_all(&[*byte]).unwrap();
    }
    // Somebody who came later and has sent enough is served meanwhile.
    let mut other = connect(address(&proxy));
    other.write_all(b"abcdefgh").unwrap();
    let mut far = server.accept();
    assert_eq!(read_text(&far, 8), "abcdefgh");
    assert!(server.try_accept().is_none(), "five are not enough");
    assert_eq!(proxy.context().stats.read().total, 1, "it has not arrived");
    client.write_all(b"6").unwrap();
    let far_client = server.accept();
    assert_eq!(read_text(&far_client, 6), "123456");
    far.write_all(b"x").unwrap();
    assert_eq!(read_text(&other, 1), "x");
}

#[test]
fn the_most_bytes_that_may_be_waited_for_fit_into_a_socket() {
    let server = Server::new();
    let proxy = running(&[&server.address()], |service| service.network.first_bytes = MOST_FIRST_BYTES);
    let mut client = connect(address(&proxy));
    for chunk in pattern(MOST_FIRST_BYTES).chunks(100) {
        client.write_all(chunk).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_rest(&server.accept()) == pattern(MOST_FIRST_BYTES));
}

#[test]
fn a_request_that_was_sent_whole_is_served_although_its_sender_has_ended() {
    let server = Server::new();
    let proxy = after_six(&server);
    let mut client = connect(address(&proxy));
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut far = server.accept();
    assert_eq!(read_rest(&far), b"question");
    far.write_all(b"answer").unwrap();
    drop(far);
    assert_eq!(read_rest(&client), b"answer");
}

#[test]
fn who_leaves_before_has_never_been_at_a_backend() {
    let server = Server::new();
    let proxy = after_six(&server);
    let mut short = connect(address(&proxy));
    short.write_all(b"12345").unwrap();
    short.shutdown(Shutdown::Write).unwrap();
    let silent = connect(address(&proxy));
    silent.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&silent), b"");
    // One with unread bytes may be told by a reset.
    let mut gone = [0];
    eventually(SOON, "it is closed", || !matches!(short.read(&mut gone), Ok(1..)));
    reset(connect(address(&proxy)));
    let mut last = connect(address(&proxy));
    last.write_all(b"123456").unwrap();
    let _far = server.accept();
    assert!(server.try_accept().is_none());
}

#[test]
fn one_that_stays_silent_is_closed_after_the_idle_timeout_and_not_one_that_goes_on_sending() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    let (server, dir) = (Server::new(), TempDir::new("arrival"));
    let mut service = service(&[&server.address()]);
    (service.network.first_bytes, service.network.idle_timeout) = (6, Some(TIMEOUT));
    let mut config = config(vec![service]);
    config.access_log = Some(dir.path().join("access.log"));
    let proxy = Proxy::start(&config).unwrap();
    let start = Instant::now();
    let (silent, mut slow) = (connect(address(&proxy)), connect(address(&proxy)));
    for _ in 0..6 {
        let last = Instant::now();
        eventually(SOON, "half of the time is over", || last.elapsed() > TIMEOUT / 2);
        slow.write_all(b"x").unwrap();
    }
    assert_eq!(read_text(&server.accept(), 6), "xxxxxx");
    assert_eq!(read_rest(&silent), b"");
    assert!(start.elapsed() >= TIMEOUT);
    let read = || fs::read_to_string(dir.path().join("access.log")).unwrap();
    eventually(SOON, "both have a line", || read().lines().count() == 2);
    assert!(read().contains("] \"POST -\" 408 0 "), "{}", read());
    assert!(read().contains("] \"POST 127.0.0.1\" 200 6 "), "{}", read());
}

#[test]
fn a_stop_closes_those_who_have_not_arrived_and_lets_the_others_finish() {
    let server = Server::new();
    let proxy = running(&[&server.address()], |service| {
        (service.network.first_bytes, service.grace) = (6, SOON);
    });
    let waiting = connect(address(&proxy));
    let mut client = connect(address(&proxy));
    client.write_all(b"123456").unwrap();
    let mut far = server.accept();
    drop(proxy.context().handle.ask(Command::Stop));
    assert_eq!(read_rest(&waiting), b"");
    far.write_all(b"x").unwrap();
    assert_eq!(read_text(&client, 1), "x");
    drop((client, far));
    proxy.wait().unwrap();
}

#[test]
fn a_quit_closes_them_too() {
    let server = Server::new();
    let proxy = after_six(&server);
    let waiting: Vec<_> = (0..5).map(|_| connect(address(&proxy))).collect();
    let mut last = connect(address(&proxy));
    last.write_all(b"123456").unwrap();
    assert_eq!(read_text(&server.accept(), 6), "123456", "those before have been accepted, too");
    drop(proxy);
    waiting.iter().for_each(|client| assert_eq!(read_rest(client), b""));
}

/// Checks that the clients are not closed: a closed one would read a byte or the end.
fn waiting(clients: &[TcpStream]) -> usize {
    let waits = |client: &&TcpStream| {
        client.set_nonblocking(true).unwrap();
        client.peek(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    };
    clients.iter().filter(waits).count()
}

#[test]
fn the_clients_of_all_services_and_those_who_wait_share_the_room() {
    let backend = Backend::echo("A");
    let other = Reserved::new();
    let words = [
        &format!("backend={}", backend.address()),
        "first_bytes=6",
        "log=log",
        "service",
        &format!("listen=127.0.0.1:{}", other.port()),
        &format!("backend={}", backend.address()),
    ];
    let mut program = Program::start(&words, |command| {
        become_by(command, "sh", &["-c", "ulimit -n 160; exec \"$0\" \"$@\""]);
    });
    let room = || {
        let log = program.read("log");
        let (_, rest) = log.split_once("room for about ")?;
        rest.split(' ').next()?.parse::<usize>().ok()
    };
    eventually(SOON, "the log tells of the room", || room().is_some());
    let room = room().unwrap();
    let is_served = || {
        let mut client = connect(([127, 0, 0, 1], other.port()).into());
        client.write_all(b"x").is_ok() && client.read(&mut [0]).is_ok_and(|length| length == 1)
    };
    // Those who found out whether it accepts, here and there, may still be leaving: whoever was refused for them comes
    // again.
    let mut here: Vec<TcpStream> = Vec::new();
    eventually(SOON, "the room is full, of the other service too", || {
        here.retain(|client| waiting(std::slice::from_ref(client)) == 1);
        here.extend((here.len()..room).map(|_| connect(program.address())));
        !is_served() && waiting(&here) == room
    });
    drop(here);
    eventually(SOON, "there is room again", is_served);
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
}
