//! Where connections come from, who may share a port, and listeners that are taken at the start.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use cbpx::config::Service;
use cbpx::core::msg::Command;
use cbpx::endpoint::Endpoint;
use cbpx::process::Proxy;
use rustix::process::Signal;

use crate::backend::Backend;
use crate::ends::Server;
use crate::program::Program;
use crate::service::{address, config, connect, running, service};
use crate::support::{Reserved, SOON, eventually};
use crate::talk::served_by;

#[test]
fn connections_come_from_the_source_address() {
    let server = Server::new();
    let proxy = running(&[&server.address()], |service| service.network.source = Some("127.0.0.9".parse().unwrap()));
    let _clients: Vec<_> = (0..3).map(|_| connect(address(&proxy))).collect();
    for _ in 0..3 {
        assert_eq!(server.accept().peer_addr().unwrap().ip().to_string(), "127.0.0.9");
    }
}

#[test]
fn a_source_of_another_family_and_one_this_machine_does_not_have_are_ignored() {
    let server = Server::new();
    for source in ["::1", "192.0.2.1"] {
        let proxy = running(&[&server.address()], |service| service.network.source = Some(source.parse().unwrap()));
        let _client = connect(address(&proxy));
        assert_eq!(server.accept().peer_addr().unwrap().ip().to_string(), "127.0.0.1", "{source}");
    }
}

#[test]
fn a_source_that_cannot_be_bound_is_told_once_at_the_start() {
    let backend = Backend::echo("A");
    let words = [&format!("backend={}", backend.address()), "source=192.0.2.1", "log=log"];
    let mut program = Program::start(&words, |command| {
        command.stderr(Stdio::piped());
    });
    for _ in 0..3 {
        assert_eq!(served_by(&mut connect(program.address())), "A");
    }
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
    let mut told = String::new();
    program.child.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    let words = "cannot use source address 192.0.2.1, which is ignored: cannot assign requested address";
    assert_eq!(told, format!("tester: warning: {words}\n"));
    assert_eq!(program.read("log").matches(words).count(), 1);
}

/// A proxy that listens on a given port.
fn at(port: u16, backend: &Backend, adjust: impl FnOnce(&mut Service)) -> Service {
    let mut service = service(&[&backend.address()]);
    service.listeners = vec![Endpoint::tcp("127.0.0.1", port)];
    adjust(&mut service);
    service
}

#[test]
fn two_share_a_port_and_when_one_ends_the_other_has_all() {
    let (backend, reserved) = (Backend::echo("A"), Reserved::new());
    let port = reserved.port();
    let start = |share| Proxy::start(&config(vec![at(port, &backend, |service| service.network.share_port = share)]));
    let first = start(true).unwrap();
    let alone = start(false).err().unwrap().to_string();
    assert_eq!(alone, format!("cannot listen on 127.0.0.1:{port}: address in use"));
    let second = start(true).unwrap();
    drop(first);
    for _ in 0..20 {
        assert_eq!(served_by(&mut connect(address(&second))), "A");
    }
}

#[test]
fn whoever_connects_while_one_hands_over_to_the_other_is_served() {
    let (backend, reserved) = (Backend::echo("A"), Reserved::new());
    let port = reserved.port();
    let start =
        || Proxy::start(&config(vec![at(port, &backend, |service| service.network.share_port = true)])).unwrap();
    let first = start();
    let place = address(&first);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let hammer = std::thread::spawn(move || {
        let mut served = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            assert_eq!(served_by(&mut connect(place)), "A");
            served += 1;
        }
        served
    });
    let mut current = first;
    for _ in 0..5 {
        let next = start();
        drop(current.context().handle.ask(Command::Stop));
        current.wait().unwrap();
        current = next;
    }
    drop(stop);
    assert!(hammer.join().unwrap() > 0, "somebody has connected");
}

#[test]
fn a_listener_that_is_taken_is_tried_again_while_the_rest_serves() {
    let backend = Backend::echo("A");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place: SocketAddr = taken.local_addr().unwrap();
    let proxy = running(&[&backend.address()], |service| {
        service.listeners.insert(0, Endpoint::tcp("127.0.0.1", place.port()));
        service.network.bind_retry = Some(Duration::from_millis(50));
    });
    assert_eq!(proxy.listening().len(), 1);
    assert_eq!(served_by(&mut connect(address(&proxy))), "A");
    drop(taken);
    eventually(SOON, "it is bound", || TcpStream::connect(place).is_ok());
    assert_eq!(served_by(&mut connect(place)), "A");
    drop(proxy);
    assert!(TcpStream::connect(place).is_err(), "it ends with the rest");
}

#[test]
fn every_failure_to_bind_is_told() {
    let (backend, taken) = (Backend::echo("A"), TcpListener::bind("127.0.0.1:0").unwrap());
    let place = taken.local_addr().unwrap();
    let words = [&format!("backend={}", backend.address()), "retry=0.05", "log=log", &format!("listen={place}")];
    let mut program = Program::start(&words, |_| {});
    let told = format!("cannot listen on {place}: Address already in use; tried again in 0.050 s");
    eventually(SOON, "it is told more than once", || program.read("log").matches(&told).count() > 2);
    drop(taken);
    eventually(SOON, "it is bound", || TcpStream::connect(place).is_ok());
    let bound = format!("service test: listening on {place}");
    eventually(SOON, "that is told", || program.read("log").contains(&bound));
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn the_end_does_not_wait_for_the_next_attempt() {
    let (backend, taken) = (Backend::echo("A"), TcpListener::bind("127.0.0.1:0").unwrap());
    let place = taken.local_addr().unwrap();
    let proxy = running(&[&backend.address()], |service| {
        service.listeners.push(Endpoint::tcp("127.0.0.1", place.port()));
        service.network.bind_retry = Some(Duration::from_secs(3600));
    });
    drop(proxy);
}

#[test]
fn a_program_with_nothing_to_listen_on_does_not_start() {
    let mut service = service(&["127.0.0.1:9"]);
    service.listeners.clear();
    let error = Proxy::start(&config(vec![service])).err().unwrap();
    assert_eq!(error.to_string(), "there is nothing to listen on");
}
