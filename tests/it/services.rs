//! Several services in one process, and the tally of their backends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use cbpx::endpoint::{Address, Endpoint};
use cbpx::process::Proxy;
use rustix::process::Signal;

use crate::backend::Backend;
use crate::ends::{Server, read_rest, read_text, read_until_reset};
use crate::program::Program;
use crate::service::{config, connect, service};
use crate::support::{Reserved, SOON, eventually};
use crate::talk::served_by;

fn tcp(address: &Address) -> SocketAddr {
    let Address::Tcp(address) = address else { panic!("{address} is no TCP address") };
    *address
}

fn ask(control: SocketAddr, line: &str) -> String {
    let mut stream = connect(control);
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn each_serves_its_own_clients_and_quit_ends_all_once_nobody_is_connected_to_any() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let mut config = config(vec![service(&[&a.address()]), service(&[&b.address()])]);
    config.control.listeners = vec![Endpoint::tcp("127.0.0.1", 0)];
    let proxy = Proxy::start(&config).unwrap();
    let (first, second) = (tcp(&proxy.listening()[0]), tcp(&proxy.listening()[1]));
    let control = tcp(&proxy.controlled_at()[0]);
    assert_eq!(served_by(&mut connect(first)), "A");
    let mut client = connect(second);
    assert_eq!(served_by(&mut client), "B");
    eventually(SOON, "the first is idle", || ask(control, "quit").contains("clients connected: 1, held: 0"));
    assert_eq!(served_by(&mut connect(first)), "A", "neither has ended");
    drop(client);
    eventually(SOON, "it ends", || ask(control, "quit").contains("Exiting"));
    let ended = thread::spawn(move || proxy.wait());
    eventually(SOON, "both have ended", || [first, second].iter().all(|at| TcpStream::connect(at).is_err()));
    ended.join().unwrap().unwrap();
}

#[test]
fn quit_force_cuts_the_clients_of_all() {
    let servers = [Server::new(), Server::new()];
    let services = servers.iter().map(|server| service(&[&server.address()])).collect();
    let mut config = config(services);
    config.control.listeners = vec![Endpoint::tcp("127.0.0.1", 0)];
    let proxy = Proxy::start(&config).unwrap();
    let clients: Vec<_> = proxy.listening().iter().map(|at| connect(tcp(at))).collect();
    let _far = servers.each_ref().map(Server::accept);
    assert!(ask(tcp(&proxy.controlled_at()[0]), "quit force").contains("Terminating"));
    for client in &clients {
        read_until_reset(client);
    }
    proxy.wait().unwrap();
}

#[test]
fn sigterm_lets_the_clients_of_all_finish_and_the_process_ends_with_the_last() {
    let (servers, other) = ([Server::new(), Server::new()], Reserved::new());
    let words = [
        &format!("backend={}", servers[0].address()),
        "service",
        &format!("listen=127.0.0.1:{}", other.port()),
        &format!("backend={}", servers[1].address()),
    ];
    let mut program = Program::start(&words, |_| {});
    // The first was the one that looked whether it accepts.
    drop(servers[0].accept());
    let places = [program.address(), ([127, 0, 0, 1], other.port()).into()];
    let clients = places.map(connect);
    let mut far = servers.each_ref().map(Server::accept);
    program.signal(Signal::TERM);
    eventually(SOON, "nobody new is taken", || places.iter().all(|at| TcpStream::connect(at).is_err()));
    let [first, second] = clients;
    drop(first);
    assert_eq!(read_rest(&far[0]), b"");
    far[1].write_all(b"y").unwrap();
    assert_eq!(read_text(&second, 1), "y");
    assert!(program.child.is_running(), "somebody is connected");
    // A server that has not ended keeps its client, whose own end was passed on.
    drop((second, far));
    // The client that tested for new clients may have been connected, to a server that has not accepted it yet.
    let mut status = None;
    eventually(SOON, "it ends", || {
        servers.iter().for_each(|server| drop(server.try_accept()));
        status = program.child.0.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn the_log_tells_of_all_backends_every_so_often_in_their_order_with_what_has_flowed() {
    let (a, b) = (Server::new(), Reserved::new());
    let (first, second) = (a.address(), format!("127.0.0.1:{}", b.port()));
    let words = [&format!("backend={first}"), &format!("backend={second}"), "tally=0.05", "log=log"];
    let mut program = Program::start(&words, |_| {});
    drop(a.accept());
    let (mut client, far) = (connect(program.address()), a.accept());
    client.write_all(b"12345").unwrap();
    assert_eq!(read_text(&far, 5), "12345");
    // The connection is still open.
    let told = |backend: &str, rest: &str| program.read("log").contains(&format!("backend {backend} is good: {rest}"));
    eventually(SOON, "it is told", || told(&first, "1 clients, 2 so far, 0 errors, 5 bytes up, 0 down"));
    let lines = program.read("log");
    let named: Vec<_> =
        lines.lines().filter_map(|line| line.split_once("] backend ")?.1.split_once(" is good:")).collect();
    assert!(named.len() >= 2, "{lines}");
    for (number, (name, _)) in named.iter().enumerate() {
        assert_eq!(*name, [&first, &second][number % 2], "{lines}");
    }
    drop((client, far));
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0), "the thread that keeps the time does not hold up the end");
}
