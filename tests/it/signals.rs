//! What SIGINT, SIGTERM and SIGHUP mean, alone, twice and during a switch. (SIGHUP's effect on the log: see `log`.)

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::program::Program;
use crate::proxy::Proxy;
use crate::service::connect;
use crate::support::{SOON, TempDir, eventually};
use crate::talk::{Session, is_turned_away, served_by};

fn proxy(extra: &[&str]) -> (Proxy, [Backend; 2]) {
    let backends = [Backend::echo("A"), Backend::echo("B")];
    (Proxy::start(&backends[0].address(), &backends[1].address(), extra), backends)
}

fn client(proxy: &Proxy) -> TcpStream {
    let mut client = proxy.connect();
    served_by(&mut client);
    client
}

/// Nobody new is accepted, and control is closed or closing.
fn refuses_clients(proxy: &Proxy) {
    eventually(SOON, "nobody is accepted any more", || TcpStream::connect(proxy.addr()).is_err());
}

#[test]
fn without_a_client_sigint_and_sigterm_end_it_with_status_0() {
    for signal in [Signal::INT, Signal::TERM] {
        let (mut proxy, _backends) = proxy(&["--grace", "1000"]);
        proxy.signal(signal);
        assert_eq!(proxy.wait().code(), Some(0), "{signal:?}");
        assert!(proxy.log().trim_end().ends_with(" ended"), "the log is complete");
    }
}

#[test]
fn sigint_does_not_end_it_while_clients_are_connected_or_held_but_says_how_many() {
    let (mut proxy, _backends) = proxy(&["-o", "1"]);
    let mut served = client(&proxy);
    let held = proxy.connect();
    eventually(SOON, "one is held", || proxy.stat("in queue") == 1);
    proxy.signal(Signal::INT);
    eventually(SOON, "it says how many", || {
        proxy
            .log()
            .lines()
            .any(|line| line.contains(" WARNING ") && line.contains("1 client") && line.contains("1 held"))
    });
    assert!(proxy.is_running());
    assert_eq!(served_by(&mut served), "A");
    drop((served, held));
    assert_eq!(served_by(&mut proxy.connect()), "A", "clients are accepted as before");
}

#[test]
fn a_second_sigint_within_five_seconds_is_sigterm() {
    let (mut proxy, _backends) = proxy(&["--grace", "1000"]);
    let mut client = client(&proxy);
    proxy.signal(Signal::INT);
    eventually(SOON, "the first is taken note of", || proxy.log().contains("again within 5 s"));
    proxy.signal(Signal::INT);
    refuses_clients(&proxy);
    assert_eq!(served_by(&mut client), "A", "who is connected may finish");
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_second_sigint_after_five_seconds_is_a_first_one() {
    let (mut proxy, _backends) = proxy(&[]);
    let mut client = client(&proxy);
    proxy.signal(Signal::INT);
    eventually(SOON, "the first is taken note of", || proxy.log().contains("again within 5 s"));
    let first = Instant::now();
    eventually(SOON, "the five seconds are over", || first.elapsed() > Duration::from_millis(5200));
    // On a busy machine the proxy may learn of that late, but not later than its answer to a second question.
    assert_eq!([proxy.ask("abort"), proxy.ask("abort")], [" No switch is running\n"; 2]);
    proxy.signal(Signal::INT);
    eventually(SOON, "the other is taken note of", || proxy.log().matches("again within 5 s").count() == 2);
    assert!(proxy.is_running());
    assert_eq!(served_by(&mut client), "A");
    assert_eq!(served_by(&mut proxy.connect()), "A");
}

#[test]
fn sigterm_accepts_nobody_else_and_lets_clients_finish() {
    let (mut proxy, _backends) = proxy(&["--grace", "1000"]);
    let mut clients = [client(&proxy), client(&proxy)];
    proxy.signal(Signal::TERM);
    refuses_clients(&proxy);
    assert!(proxy.is_running());
    for client in &mut clients {
        assert_eq!(served_by(client), "A");
    }
    drop(clients);
    assert_eq!(proxy.wait().code(), Some(0), "it ends when the last one has left");
}

#[test]
fn held_clients_are_served_within_the_grace_period() {
    let (mut proxy, _backends) = proxy(&["-o", "1", "--grace", "1000"]);
    let first = client(&proxy);
    let mut held = proxy.connect();
    eventually(SOON, "one is held", || proxy.stat("in queue") == 1);
    proxy.signal(Signal::TERM);
    refuses_clients(&proxy);
    drop(first);
    assert_eq!(served_by(&mut held), "A");
    drop(held);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn after_the_grace_period_clients_are_closed() {
    let (mut proxy, _backends) = proxy(&["--grace", "0.3"]);
    let mut client = client(&proxy);
    proxy.signal(Signal::TERM);
    assert!(is_turned_away(&mut client));
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(proxy.log().contains("end of the grace period"), "the reason is in the log");
}

#[test]
fn any_further_signal_closes_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut proxy, _backends) = proxy(&["--grace", "1000"]);
        let mut client = client(&proxy);
        proxy.signal(Signal::TERM);
        refuses_clients(&proxy);
        proxy.signal(signal);
        assert!(is_turned_away(&mut client), "{signal:?}");
        assert_eq!(proxy.wait().code(), Some(0));
    }
}

#[test]
fn sigint_during_a_switch_undoes_it_and_nothing_else() {
    let (mut proxy, _backends) = proxy(&["-t", "60"]);
    let mut served = client(&proxy);
    let switch = Session::switch(&proxy);
    let mut held = proxy.connect();
    proxy.signal(Signal::INT);
    assert_eq!(switch.last_line(), " Switch failed: ctrl-c");
    assert_eq!(served_by(&mut held), "A");
    assert_eq!(served_by(&mut served), "A");
    assert!(proxy.is_running());
    // It did not count as the first of two, either.
    proxy.signal(Signal::INT);
    eventually(SOON, "the next one is the first", || proxy.log().contains("again within 5 s"));
    assert!(proxy.is_running());
}

#[test]
fn sigterm_during_a_switch_undoes_it_first_and_leaves_no_script_behind() {
    let dir = TempDir::new("signals");
    let script = dir.script("hang.sh", "#!/bin/sh\ntouch \"${0%/*}/begun\"\nsleep 1000\n");
    let (mut proxy, [_a, b]) = proxy(&["-t", "60", "--grace", "1000", "-x", script.to_str().unwrap()]);
    let switch = Session::switch(&proxy);
    eventually(SOON, "the script runs", || dir.path().join("begun").exists());
    let mut held = proxy.connect();
    eventually(SOON, "one is held", || proxy.stat("in queue") == 1);
    proxy.signal(Signal::TERM);
    assert_eq!(switch.last_line(), " Switch failed: program stopped");
    assert_eq!(served_by(&mut held), "A", "who was held is served by the old one");
    drop(held);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(b.connections(), 0);
}

#[test]
fn sigquit_is_sigterm() {
    let (mut proxy, _backends) = proxy(&["--grace", "1000"]);
    let mut client = client(&proxy);
    proxy.signal(Signal::QUIT);
    refuses_clients(&proxy);
    assert_eq!(served_by(&mut client), "A", "who is connected may finish");
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(proxy.log().contains("signal received: SIGQUIT"));
}

#[test]
fn sighup_and_sigint_are_sigterm_where_they_mean_that() {
    let server = Backend::echo("A");
    let backend = format!("backend={}", server.address());
    for (word, signal) in [("hangup=stop", Signal::HUP), ("interrupt=stop", Signal::INT)] {
        let mut program = Program::start(&[&backend, word], |_| {});
        let mut client = connect(program.address());
        assert_eq!(served_by(&mut client), "A");
        program.signal(signal);
        eventually(SOON, "nobody new is taken", || TcpStream::connect(program.address()).is_err());
        assert_eq!(served_by(&mut client), "A", "{word}: who is connected may finish");
        drop(client);
        assert_eq!(program.wait().code(), Some(0), "{word}");
    }
}

#[test]
fn sighup_is_no_reason_to_end() {
    let (mut proxy, _backends) = proxy(&[]);
    let mut client = client(&proxy);
    proxy.signal(Signal::HUP);
    eventually(SOON, "it is taken note of", || proxy.log().contains("SIGHUP"));
    assert!(proxy.is_running());
    assert_eq!(served_by(&mut client), "A");
}
