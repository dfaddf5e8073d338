//! Clients, servers, scripts and operators at their worst. Whatever they do, others are served meanwhile, and
//! afterwards everything is as before.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use crate::backend::Backend;
use crate::ends::{Deaf, read_rest, read_text};
use crate::proxy::Proxy;
use crate::stubborn::Stubborn;
use crate::support::{SOON, eventually, thread_pairs};
use crate::vitals::Vitals;

/// A new client is served by this server.
fn serves(proxy: &Proxy, name: &str) {
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    assert_eq!(read_text(&client, name.len() + 2), format!("{name}:x"));
}

/// Reads to the end, whatever kind of end it is.
fn reaches_an_end(mut client: &TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
            Err(e) => panic!("no end: {e}"),
        }
    }
}

#[test]
fn a_server_that_is_killed_in_mid_transfer_costs_its_clients_only() {
    let flood = Backend::start(|mut stream, _| {
        while stream.write_all(&[7; 64 * 1024]).is_ok() {}
        stream.shutdown(Shutdown::Both).ok();
    });
    let standby = Backend::echo("standby");
    // The server that is killed must be a process: another proxy.
    let mut server = Proxy::start(&flood.address(), &flood.address(), &[]);
    let proxy = Proxy::start(&server.addr().to_string(), &standby.address(), &[]);
    let before = Vitals::at_rest(&proxy);
    let clients: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
    for (number, mut client) in clients.iter().enumerate() {
        assert_eq!(client.read(&mut [0]).unwrap(), 1, "the transfer has begun");
        if number % 2 == 0 {
            client.write_all(&[7; 100_000]).unwrap();
        }
    }
    server.child().kill().unwrap();
    server.child().wait().unwrap();
    // Half of them read on, the others never did and never will.
    clients.iter().step_by(2).for_each(reaches_an_end);
    assert_eq!(read_rest(&proxy.connect()), b"", "a new client is closed");
    drop(clients);
    let answer = proxy.ask("switch");
    assert!(answer.contains("Switch OK"), "{answer}");
    serves(&proxy, "standby");
    before.are_back(&proxy);
}

#[test]
fn three_hundred_clients_that_say_nothing_keep_nobody_from_anything() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &["-t", "0.3"]);
    let before = Vitals::at_rest(&proxy);
    let silent: Vec<_> = (0..300).map(|_| proxy.connect()).collect();
    eventually(SOON, "all are connected", || server.connections() == 300);
    serves(&proxy, "s");
    assert!(proxy.ask("switch").contains("Switch failed: switch timeout"));
    serves(&proxy, "s");
    // Those who share threads cost none.
    before.has_no_more_threads_than(2 * thread_pairs().min(300), &proxy);
    drop(silent);
    before.are_back(&proxy);
}

#[test]
fn a_script_that_refuses_to_end_is_killed_with_its_children() {
    let (old, new, script) = (Backend::echo("old"), Backend::echo("new"), Stubborn::new());
    let proxy = Proxy::start(&old.address(), &new.address(), &["-t", "60", "-x", script.path()]);
    let before = Vitals::at_rest(&proxy);
    let switch = proxy.begin("switch");
    script.runs();
    assert!(!proxy.ask("abort").contains("No switch"));
    assert!(crate::proxy::finish(switch).contains("Switch failed: aborted"));
    script.is_gone();
    serves(&proxy, "old");
    proxy.ask("set switch_max_time 1");
    let switch = proxy.begin("switch");
    script.runs();
    assert!(crate::proxy::finish(switch).contains("Switch failed: switch timeout"));
    script.is_gone();
    serves(&proxy, "old");
    assert_eq!(new.connections(), 0);
    before.are_back(&proxy);
}

#[test]
fn a_script_that_never_stops_talking_costs_neither_memory_nor_time() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let dir = crate::support::TempDir::new("hostile");
    for (number, word) in ["", "word"].iter().enumerate() {
        let script = dir.script(&format!("talk-{number}"), &format!("#!/bin/sh\nexec yes '{word}'\n"));
        let script = script.display().to_string();
        let proxy = Proxy::start(&old.address(), &new.address(), &["-t", "1", "-x", &script]);
        let before = Vitals::at_rest(&proxy);
        let answer = proxy.ask("switch");
        assert!(answer.contains("64 KiB"), "the cut is told");
        assert!(answer.contains("Switch failed: switch timeout"));
        serves(&proxy, "old");
        before.are_back(&proxy);
    }
}

#[test]
fn a_server_that_drops_syns_costs_its_clients_only() {
    let (deaf, standby) = (Deaf::new(), Backend::echo("standby"));
    let proxy = Proxy::start(&deaf.address(), &standby.address(), &["--connect_timeout", "0.3"]);
    let before = Vitals::at_rest(&proxy);
    let clients: Vec<_> = (0..150).map(|_| proxy.connect()).collect();
    clients.iter().for_each(|client| assert_eq!(read_rest(client), b"", "told by being closed"));
    drop(clients);
    before.are_back(&proxy);
    assert!(proxy.ask("switch").contains("Switch OK"));
    serves(&proxy, "standby");
}

#[test]
fn nothing_that_is_sent_to_control_breaks_it() {
    let server = Backend::echo("s");
    let mut proxy = Proxy::start(&server.address(), &server.address(), &[]);
    let before = Vitals::at_rest(&proxy);
    for seed in 1..=20 {
        send_and_leave(&proxy, &random_bytes(seed, 10_000));
    }
    send_and_leave(&proxy, &vec![b'x'; 1 << 20]);
    send_and_leave(&proxy, &vec![b'\n'; 1 << 20]);
    send_and_leave(&proxy, &vec![0xff; 1 << 20]);
    send_and_leave(&proxy, "stats;".repeat(10_000).as_bytes());
    // A hundred silent sessions: those above the limit are closed at once, the others after some seconds.
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(proxy.control()).unwrap()).collect();
    serves(&proxy, "s");
    silent.iter().for_each(|session| {
        session.set_read_timeout(Some(SOON)).unwrap();
        assert!(String::from_utf8(read_rest(session)).unwrap().contains("Closing: "));
    });
    drop(silent);
    assert!(proxy.ask("hello").contains("Hello"));
    serves(&proxy, "s");
    assert!(proxy.is_running());
    before.are_back(&proxy);
}

/// Sends as much as control takes, and reads what it says, which may be cut off: it does not have to listen to this.
fn send_and_leave(proxy: &Proxy, bytes: &[u8]) {
    let control = TcpStream::connect(proxy.control()).unwrap();
    control.set_read_timeout(Some(SOON)).unwrap();
    let sending = {
        let (mut control, bytes) = (control.try_clone().unwrap(), bytes.to_vec());
        thread::spawn(move || {
            // Fails when control has heard enough.
            control.write_all(&bytes).and_then(|()| control.shutdown(Shutdown::Write)).ok();
        })
    };
    reaches_an_end(&control);
    sending.join().unwrap();
}

/// The same for the same seed (xorshift64).
fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}
