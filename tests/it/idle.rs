//! Clients that are idle: reset after the idle timeout, and not before. Neither side has ended its stream, so neither
//! may take the other's for complete.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::ends::{Server, read_rest, read_text, read_until_reset};
use crate::service::{address, config, connect, running, service};
use crate::support::{SOON, TempDir, eventually};

const TIMEOUT: Duration = Duration::from_millis(400);

#[test]
fn both_sides_are_reset_when_no_byte_has_passed_for_the_timeout_and_not_before() {
    let server = Server::new();
    let proxy = running(&[&server.address()], |service| service.network.idle_timeout = Some(TIMEOUT));
    let (mut client, mut far) = (connect(address(&proxy)), server.accept());
    // Neither way is idle alone: together the bytes are never so far apart.
    let mut last = Instant::now();
    for round in 0..8 {
        let (from, to) = if round % 2 == 0 { (&mut client, &far) } else { (&mut far, &client) };
        eventually(SOON, "half of the time is over", || last.elapsed() > TIMEOUT / 2);
        last = Instant::now();
        from.write_all(b"x").unwrap();
        assert_eq!(read_text(to, 1), "x");
    }
    assert_eq!(read_until_reset(&client), 0);
    assert!(last.elapsed() >= TIMEOUT, "{:?} is too early", last.elapsed());
    assert_eq!(read_until_reset(&far), 0);
}

#[test]
fn one_that_does_not_read_what_waits_for_it_sees_no_end_in_order() {
    let server = Server::new();
    let proxy = running(&[&server.address()], |service| service.network.idle_timeout = Some(TIMEOUT));
    let (client, mut far) = (connect(address(&proxy)), server.accept());
    // Until it fails: the peer does not read.
    far.set_write_timeout(Some(SOON)).unwrap();
    while far.write_all(&[0; 64 * 1024]).is_ok() {}
    read_until_reset(&client);
}

#[test]
fn a_half_closed_client_that_waits_is_idle_too_and_the_ending_is_told() {
    let (server, dir) = (Server::new(), TempDir::new("idle"));
    let mut service = service(&[&server.address()]);
    service.network.idle_timeout = Some(TIMEOUT);
    let mut config = config(vec![service]);
    config.access_log = Some(dir.path().join("access.log"));
    let proxy = cbpx::process::Proxy::start(&config).unwrap();
    let (mut client, far) = (connect(address(&proxy)), server.accept());
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far), b"question");
    assert_eq!(read_until_reset(&client), 0, "no answer that looks complete");
    let read = || fs::read_to_string(dir.path().join("access.log")).unwrap();
    eventually(SOON, "there is a line", || read().ends_with('\n'));
    assert!(read().contains("] \"GET 127.0.0.1\" 200 8 0 0 0"), "{}", read());
}

#[test]
fn without_a_timeout_nobody_is_closed_and_with_one_only_who_is_idle() {
    let server = Server::new();
    let patient = running(&[&server.address()], |_| {});
    let (mut calm, mut far_calm) = (connect(address(&patient)), server.accept());
    let strict = running(&[&server.address()], |service| service.network.idle_timeout = Some(TIMEOUT));
    let (idle, _far_idle) = (connect(address(&strict)), server.accept());
    let (busy, mut far_busy) = (connect(address(&strict)), server.accept());
    let stop = std::thread::scope(|scope| {
        let feeder = scope.spawn(move || {
            let start = Instant::now();
            while start.elapsed() < 3 * TIMEOUT {
                far_busy.write_all(b"x").unwrap();
                std::thread::yield_now();
            }
            start.elapsed()
        });
        let sink = scope.spawn(|| read_rest(&busy));
        assert_eq!(read_until_reset(&idle), 0);
        let fed = feeder.join().unwrap();
        assert!(!sink.join().unwrap().is_empty());
        fed
    });
    assert!(stop >= 3 * TIMEOUT, "the busy one was served all the time");
    calm.write_all(b"x").unwrap();
    assert_eq!(read_text(&far_calm, 1), "x");
    far_calm.write_all(b"y").unwrap();
    assert_eq!(read_text(&calm, 1), "y");
}
