//! The relay: every byte, in order; each side's end as it was meant; no client slowed down by another.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::backend::Backend;
use crate::ends::{Server, fill, pattern, read_rest, read_text, read_until_reset, reset};
use crate::proxy::Proxy;
use crate::support::{Reserved, SOON, eventually};
use crate::vitals::Vitals;

/// A proxy in front of `server`, with a standby where no process listens.
pub fn proxy_for(server: &Server, extra: &[&str]) -> Proxy {
    let nobody = Reserved::new();
    let standby = format!("127.0.0.1:{}", nobody.port());
    Proxy::start(&server.address(), &standby, extra).keeping(nobody)
}

/// A new client and the server's end of its connection, after a byte has passed: a server that resets before that has
/// refused the client.
pub fn connected(proxy: &Proxy, server: &Server) -> (TcpStream, TcpStream) {
    let mut client = proxy.connect();
    client.write_all(b"!").unwrap();
    let far = server.accept();
    assert_eq!(read_text(&far, 1), "!");
    (client, far)
}

pub fn the_log_tells(proxy: &Proxy, words: &str, times: usize) {
    eventually(SOON, &format!("the log tells {times} times: {words}"), || proxy.log().matches(words).count() == times);
}

pub fn nobody_is_connected(proxy: &Proxy) {
    eventually(SOON, "no client is left", || {
        thread::sleep(Duration::from_millis(10));
        proxy.stat("active") == 0
    });
}

#[test]
fn half_close_is_passed_on_in_both_directions() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    // The client ends first and still gets its answer.
    let (mut client, mut far) = connected(&proxy, &server);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far), b"question");
    far.write_all(b"answer").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client), b"answer");
    // The server ends first and still gets what the client has to say.
    let (mut client, mut far) = connected(&proxy, &server);
    far.write_all(b"goodbye").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client), b"goodbye");
    client.write_all(&pattern(300_000)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far), pattern(300_000));
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "closed: done, the client ended first", 1);
    the_log_tells(&proxy, "closed: done, the backend ended first", 1);
    the_log_tells(&proxy, "closed: ", 2);
}

#[test]
fn a_clients_reset_reaches_the_server_as_a_reset() {
    let server = Server::new();
    let proxy = proxy_for(&server, &[]);
    let (client, far) = connected(&proxy, &server);
    reset(client);
    assert_eq!(read_until_reset(&far), 0);
    // Also with bytes on the way, some of which the server still gets.
    let (mut client, far) = connected(&proxy, &server);
    client.write_all(&pattern(200_000)).unwrap();
    reset(client);
    read_until_reset(&far);
    // The same with so much data in flight that the proxy waits for the server to read.
    let (client, far) = connected(&proxy, &server);
    fill(&client);
    reset(client);
    nobody_is_connected(&proxy);
    read_until_reset(&far);
    the_log_tells(&proxy, "closed: the client failed", 3);
}

#[test]
fn a_servers_reset_reaches_the_client_as_a_reset() {
    let server = Server::new();
    let proxy = proxy_for(&server, &[]);
    let (client, far) = connected(&proxy, &server);
    reset(far);
    assert_eq!(read_until_reset(&client), 0);
    let (client, mut far) = connected(&proxy, &server);
    far.write_all(&pattern(200_000)).unwrap();
    reset(far);
    read_until_reset(&client);
    // A client that reads nothing does not keep a connection whose server is gone.
    let (client, far) = connected(&proxy, &server);
    fill(&far);
    reset(far);
    nobody_is_connected(&proxy);
    read_until_reset(&client);
    // A client that has ended its side sees an answer that broke off as such, and so does the log.
    let (client, mut far) = connected(&proxy, &server);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far), b"");
    far.write_all(b"half an answer").unwrap();
    assert_eq!(read_text(&client, 14), "half an answer");
    reset(far);
    assert_eq!(read_until_reset(&client), 0);
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "closed: the backend failed", 4);
}

#[test]
fn slow_readers_get_every_byte() {
    const LENGTH: usize = 2_000_000;
    let server = Server::new();
    let proxy = proxy_for(&server, &["-n", "1024"]);
    let (client, far) = connected(&proxy, &server);
    let slowly = |stream: TcpStream| {
        SockRef::from(&stream).set_recv_buffer_size(32 * 1024).unwrap();
        thread::spawn(move || {
            let mut got = Vec::new();
            let mut buffer = [0; 3000];
            let mut stream = stream;
            while let length @ 1.. = stream.read(&mut buffer).unwrap() {
                got.extend_from_slice(&buffer[..length]);
                if got.len() % 7 == 0 {
                    thread::yield_now();
                }
            }
            got
        })
    };
    let at_client = slowly(client.try_clone().unwrap());
    let at_server = slowly(far.try_clone().unwrap());
    let sends = |mut stream: TcpStream| {
        thread::spawn(move || {
            // Chunks of many sizes, so that reads and writes are cut everywhere.
            let all = pattern(LENGTH);
            let (mut rest, mut size) = (&all[..], 1);
            while !rest.is_empty() {
                let (chunk, later) = rest.split_at(size.min(rest.len()));
                stream.write_all(chunk).unwrap();
                (rest, size) = (later, size * 3 % 99_991);
            }
            stream.shutdown(Shutdown::Write).unwrap();
        })
    };
    let sending = [sends(client), sends(far)];
    assert!(at_client.join().unwrap() == pattern(LENGTH), "the client got what the server sent");
    assert!(at_server.join().unwrap() == pattern(LENGTH), "the server got what the client sent");
    sending.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn twenty_megabytes_pass_both_ways_at_once() {
    const LENGTH: usize = 20 << 20;
    let echo = Backend::start(|mut stream, _| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let proxy = Proxy::start(&echo.address(), &echo.address(), &["-l", "DEBUG"]);
    let client = proxy.connect();
    let sent = pattern(LENGTH);
    let mut writer = client.try_clone().unwrap();
    let sending = thread::spawn(move || {
        writer.write_all(&pattern(LENGTH)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert!(read_rest(&client) == sent, "what came back is what was sent");
    sending.join().unwrap();
    nobody_is_connected(&proxy);
    let counts = format!("; {LENGTH} bytes up, {LENGTH} down");
    the_log_tells(&proxy, &counts, 1);
}

#[test]
fn the_log_counts_bytes_exactly() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    let (mut client, mut far) = connected(&proxy, &server);
    client.write_all(&pattern(12_345)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far).len(), 12_345);
    far.write_all(&pattern(678_901)).unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client).len(), 678_901);
    the_log_tells(&proxy, "; 12346 bytes up, 678901 down", 1);
    // A connection that fails counts what was passed on until then.
    let (mut client, far) = connected(&proxy, &server);
    client.write_all(b"12345").unwrap();
    assert_eq!(read_text(&far, 5), "12345");
    reset(far);
    read_until_reset(&client);
    the_log_tells(&proxy, "; 6 bytes up, 0 down", 1);
}

#[test]
fn a_client_that_never_reads_stalls_nobody() {
    // Floods clients that ask for it, and answers all others.
    let server = Backend::start(|mut stream, _| {
        let mut wish = [0];
        stream.read_exact(&mut wish).unwrap();
        match wish {
            [b'F'] => while stream.write_all(&[b'F'; 64 * 1024]).is_ok() {},
            [other] => stream.write_all(&[other]).unwrap(),
        }
        stream.shutdown(Shutdown::Both).ok();
    });
    let proxy = Proxy::start(&server.address(), &server.address(), &[]);
    let before = Vitals::at_rest(&proxy);
    let flooded: Vec<_> = (0..5)
        .map(|_| {
            let mut client = proxy.connect();
            client.write_all(b"F").unwrap();
            client
        })
        .collect();
    eventually(SOON, "the floods have begun", || flooded.iter().all(|client| client.peek(&mut [0]).is_ok()));
    for _ in 0..50 {
        let mut client = proxy.connect();
        client.write_all(b"x").unwrap();
        assert_eq!(read_text(&client, 1), "x");
    }
    assert!(proxy.ask("hello").contains("Hello"));
    assert_eq!(proxy.stat("active").min(5), 5, "those who do not read are still connected");
    drop(flooded);
    before.are_back(&proxy);
}

/// One proxy for everything that takes five seconds.
#[test]
fn after_the_servers_end_a_silent_client_is_closed_and_nobody_else() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    let (silent, silent_far) = connected(&proxy, &server);
    let (busy, busy_far) = connected(&proxy, &server);
    let (stuck, stuck_far) = connected(&proxy, &server);
    let (waiting, mut waiting_far) = connected(&proxy, &server);
    for far in [&silent_far, &busy_far, &stuck_far] {
        (&mut &*far).write_all(b"bye").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
    }
    for client in [&silent, &busy, &stuck] {
        assert_eq!(read_rest(client), b"bye");
    }
    // Has sent more than its server takes at the moment: it is the server that keeps it.
    fill(&stuck);
    // Has ended its side and waits for the answer, as long as that takes.
    waiting.shutdown(Shutdown::Write).unwrap();
    let sending = {
        let mut busy = busy.try_clone().unwrap();
        thread::spawn(move || {
            for _ in 0..16 {
                busy.write_all(b"x").unwrap();
                thread::sleep(Duration::from_millis(500));
            }
            busy.shutdown(Shutdown::Write).unwrap();
        })
    };
    assert_eq!(read_until_reset(&silent_far), 0, "the silent client had not ended its stream");
    sending.join().unwrap();
    assert_eq!(read_rest(&busy_far), b"xxxxxxxxxxxxxxxx", "whoever still sends is not closed");
    eventually(SOON, "two are left", || proxy.stat("active") == 2);
    waiting_far.write_all(b"late answer").unwrap();
    drop(waiting_far);
    assert_eq!(read_rest(&waiting), b"late answer");
    let stuck_rest = thread::spawn(move || read_rest(&stuck_far).len());
    stuck.shutdown(Shutdown::Write).unwrap();
    assert!(stuck_rest.join().unwrap() > 0);
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "closed: ", 4);
    the_log_tells(&proxy, "closed: silent for 5 s", 1);
}

#[test]
fn a_client_whose_server_has_ended_does_not_keep_a_switch_waiting() {
    let server = Server::new();
    // Less than the five seconds such a client has otherwise.
    let proxy = proxy_for(&server, &["-t", "3"]);
    let (client, mut far) = connected(&proxy, &server);
    far.write_all(b"bye").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client), b"bye");
    let answer = proxy.ask("switch");
    assert!(answer.contains("Switch OK"), "{answer}");
    // The client has not ended its stream.
    assert_eq!(read_until_reset(&far), 0);
}

#[test]
fn a_client_whose_server_ends_during_a_switch_is_closed_at_once() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-t", "4"]);
    let (mut client, mut far) = connected(&proxy, &server);
    let mut switch = proxy.begin("switch");
    let mut started = [0; 9];
    switch.read_exact(&mut started).unwrap();
    // It works on until its server ends.
    client.write_all(b"one").unwrap();
    assert_eq!(read_text(&far, 3), "one");
    far.write_all(b"two, and goodbye").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let answer = crate::proxy::finish(switch);
    assert!(answer.contains("Switch OK"), "{answer}");
    assert_eq!(read_rest(&client), b"two, and goodbye");
    assert_eq!(read_until_reset(&far), 0);
}

#[test]
fn a_client_that_fails_after_its_servers_end_is_gone_at_once() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-t", "3"]);
    let (client, far) = connected(&proxy, &server);
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client), b"");
    reset(client);
    read_until_reset(&far);
    // Nothing is left that would have to wait for the five seconds.
    let answer = proxy.ask("switch");
    assert!(answer.contains("Switch OK"), "{answer}");
    the_log_tells(&proxy, "closed: the client failed", 1);
}
