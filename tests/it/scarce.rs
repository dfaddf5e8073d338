//! What a dial may come to besides a server: the dial itself, no port at all, or a listener of this very proxy.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use cbpx::config::{Failover, FailurePolicy, Group, Policy, Service};
use cbpx::endpoint::Endpoint;
use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

use crate::alone::{choose_ports_from, ip, is_alone, unused_port};
use crate::backend::Backend;
use crate::balance::Balance;
use crate::command::cbpx;
use crate::program::Program;
use crate::proxy::Proxy;
use crate::service::{config, running, service};
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::is_turned_away;

/// The server of a new client of a Unix socket, which needs no port; `None` when it is closed.
fn answered(path: &Path) -> Option<(UnixStream, String)> {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    // A client that was closed already cannot even ask.
    client.write_all(b"?").ok();
    let mut answer = [0; 3];
    client.read_exact(&mut answer).is_ok().then(|| (client, String::from_utf8_lossy(&answer[..1]).into_owned()))
}

/// Each backend is a group of its own, and remembered as failed for an hour.
fn one_after_the_other(service: &mut Service, path: &Path) {
    let backends = service.upstreams[0].groups.remove(0).backends;
    let group = |backend| Group {
        policy: Policy::InOrder,
        failover: Failover::WithinGroup,
        failure_policy: FailurePolicy::AvoidFor(Duration::from_secs(3600)),
        backends: vec![backend],
    };
    service.upstreams[0].groups = backends.into_iter().map(group).collect();
    service.listeners = vec![Endpoint::Unix(path.into())];
}

/// The symptom: a dial used the server's closed port as its own, and the client talked to itself.
#[test]
fn a_dial_that_meets_itself_is_a_failed_dial_and_the_port_is_free_at_once() {
    if !is_alone("scarce::a_dial_that_meets_itself_is_a_failed_dial_and_the_port_is_free_at_once") {
        return;
    }
    for host in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let (dir, next) = (TempDir::new("scarce"), Backend::echo("B"));
        let path = dir.path().join("clients");
        let [place, other] = [(); 2].map(|()| SocketAddr::new(host, unused_port()));
        let alone = dir.path().join("alone");
        let own = running(&[&place.to_string()], |service| service.listeners = vec![Endpoint::Unix(alone.clone())]);
        choose_ports_from(place.port(), place.port());
        for _ in 0..3 {
            assert!(answered(&alone).is_none(), "nobody listens at {place}");
        }
        let proxy = running(&[&other.to_string(), &next.address()], |service| one_after_the_other(service, &path));
        choose_ports_from(other.port(), other.port());
        assert_eq!(answered(&path).unwrap().1, "B", "the next backend is tried");
        choose_ports_from(32_768, 60_999);
        // Without address reuse: a server that requires the port to be free.
        let server = Socket::new(Domain::for_address(place), Type::STREAM, None).unwrap();
        server.bind(&place.into()).unwrap();
        server.listen(16).unwrap();
        let server = Backend::echo_on(server.into(), "A");
        assert_eq!(answered(&alone).unwrap().1, "A");
        assert_eq!(server.connections(), 1, "nothing else has reached it");
        drop((proxy, own));
    }
}

/// A connection of our own to `to` that takes the one port there is.
fn taking_the_port(to: &Backend) -> TcpStream {
    TcpStream::connect(to.address()).unwrap()
}

/// Clients were closed for want of `descriptors or memory`, and the other backend had none.
#[test]
fn without_a_port_for_one_backend_the_next_is_tried_and_nothing_is_held_against_the_first() {
    if !is_alone("scarce::without_a_port_for_one_backend_the_next_is_tried_and_nothing_is_held_against_the_first") {
        return;
    }
    let (dir, a, b) = (TempDir::new("scarce"), Backend::echo("A"), Backend::echo("B"));
    let path = dir.path().join("clients");
    let _proxy = running(&[&a.address(), &b.address()], |service| one_after_the_other(service, &path));
    let port = unused_port();
    choose_ports_from(port, port);
    let taken = taking_the_port(&a);
    let (second, name) = answered(&path).unwrap();
    assert_eq!(name, "B", "A has no port left");
    assert!(answered(&path).is_none(), "neither has");
    // A reset leaves nothing behind that would keep the port.
    SockRef::from(&taken).set_linger(Some(Duration::ZERO)).unwrap();
    drop(taken);
    eventually(SOON, "A is used as soon as there is a port", || answered(&path).is_some_and(|(_, name)| name == "A"));
    drop(second);
}

#[test]
fn a_lack_of_ports_is_told_with_the_ports_and_what_to_do() {
    if !is_alone("scarce::a_lack_of_ports_is_told_with_the_ports_and_what_to_do") {
        return;
    }
    let a = Backend::echo("A");
    let mut program = Program::start(&[&format!("backend={}", a.address()), "listen=./clients", "log=log"], |_| {});
    eventually(SOON, "the client that found it running has come through", || a.connections() == 1);
    let port = unused_port();
    choose_ports_from(port, port);
    let _taken = taking_the_port(&a);
    assert!(answered(&program.dir.path().join("clients")).is_none());
    let told = format!(
        ": cannot connect to backend {0}: no local port of {port}-{port} is left for connections to {0} (raise \
         net.ipv4.ip_local_port_range, or use more addresses: of the server, or of this machine to connect from)\n",
        a.address()
    );
    eventually(SOON, "it is told", || program.read("log").contains(&told));
    eventually(SOON, "the client's end has a reason", || program.read("log").contains("closed: no backend took it"));
    assert!(!program.read("log").contains("out of descriptors"), "{}", program.read("log"));
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
}

/// The same error of the system, but more ports would not help.
#[test]
fn an_address_that_nothing_here_can_reach_is_no_lack_of_ports() {
    if !is_alone("scarce::an_address_that_nothing_here_can_reach_is_no_lack_of_ports") {
        return;
    }
    ip("address del ::1/128 dev lo");
    let b = Backend::echo("B");
    let words = ["backend=[::1]:9", &format!("backend={}", b.address()), "listen=./clients", "log=log"];
    let program = Program::start(&words, |_| {});
    assert_eq!(answered(&program.dir.path().join("clients")).unwrap().1, "B", "the next backend is tried");
    let told = "cannot connect to backend [::1]:9: Cannot assign requested address";
    eventually(SOON, "it is told", || program.read("log").contains(told));
}

/// One client took every place there was.
#[test]
fn the_proxy_under_another_address_of_the_machine_is_refused_as_a_backend() {
    if !is_alone("scarce::the_proxy_under_another_address_of_the_machine_is_refused_as_a_backend") {
        return;
    }
    ip("address add 192.0.2.7/24 dev lo");
    // The second one of a network is not what connections come from.
    ip("address add 192.0.2.8/24 dev lo");
    ip("address add 2001:db8::7/64 dev lo nodad");
    // As on machines that take over addresses: everything can be bound then.
    fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1").unwrap();
    let (dir, port) = (TempDir::new("scarce"), Reserved::new());
    let port = port.port().to_string();
    let runs = |flags: &[&str], backend: &str| {
        cbpx(
            &[&["-p", &port, "-s", "127.0.0.1:9", "-t", "5", "-c", "9", "-o", "0", "-a", backend], flags].concat(),
            dir.path(),
        )
    };
    let control = unused_port().to_string();
    let socket = dir.path().join("control");
    fs::create_dir(dir.path().join("sub")).unwrap();
    for (flags, backend) in [
        (&[][..], format!("192.0.2.7:{port}")),
        (&[], format!("192.0.2.8:{port}")),
        (&[], format!("[::ffff:192.0.2.7]:{port}")),
        (&[], format!("127.1:{port}")),
        (&["--bind", "::"], format!("192.0.2.7:{port}")),
        (&["--bind", "::"], format!("[2001:db8::7]:{port}")),
        (&["--bind", "192.0.2.7"], format!("192.0.2.7:{port}")),
        (&["-r", &control], format!("127.0.0.1:{control}")),
        (&["--rc_socket", socket.to_str().unwrap()], dir.path().join("sub/../control").display().to_string()),
    ] {
        let words = format!("cannot use {backend} as a backend: this proxy listens there itself");
        runs(flags, &backend).failed_with(1, &[&words]);
    }
}

/// An address may become one of this machine while the proxy runs.
#[test]
fn a_dial_that_would_reach_the_proxy_itself_is_a_failed_dial() {
    if !is_alone("scarce::a_dial_that_would_reach_the_proxy_itself_is_a_failed_dial") {
        return;
    }
    let listening = Reserved::new();
    let (port, place) = (listening.port().to_string(), format!("192.0.2.7:{}", listening.port()));
    let b = Backend::echo("B");
    fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1").unwrap();
    let proxy = Proxy::start(&place, &b.address(), &["-p", &port]);
    let connect = || crate::service::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, listening.port())));
    assert!(is_turned_away(&mut connect()));
    let failed = format!("cannot connect to backend {place}: ");
    eventually(SOON, "it is told", || proxy.log().contains(&failed));
    assert!(!proxy.log().contains("listens there itself"), "it is another machine: {}", proxy.log());
    ip("address add 192.0.2.7/32 dev lo");
    assert!(is_turned_away(&mut connect()));
    eventually(SOON, "it is told", || proxy.log().contains(&format!("{failed}this proxy listens there itself")));
    eventually(SOON, "nobody is left", || proxy.stat("active") == 0);
    assert_eq!(proxy.log().matches(&failed).count(), 2, "no client came round: {}", proxy.log());
}

#[test]
fn a_new_channel_of_balance_is_not_the_program_itself() {
    let a = Backend::echo("A");
    let balance = Balance::start(&[], &[&a.address()]);
    balance.answers("disable 0", "channel 0 disabled");
    let own = balance.port();
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "0.0.0.0"] {
        for command in [format!("create {host} {own}"), format!("assign 0 {host} {own}")] {
            balance.answers(&command, "invalid address: this proxy listens there itself");
        }
    }
    assert_eq!(balance.ask("show").lines().count(), 2, "there is one channel, as before");
}

/// Two services of one process may be chained, but not into a circle.
#[test]
fn services_that_lead_to_each_other_are_refused_and_a_chain_is_not() {
    let [first, second] = [Reserved::new(), Reserved::new()];
    let at = |reserved: &Reserved| format!("127.0.0.1:{}", reserved.port());
    let listening = |reserved: &Reserved, backend: &str| {
        let mut service = service(&[backend]);
        service.listeners = vec![Endpoint::tcp("127.0.0.1", reserved.port())];
        service
    };
    let services = |last: &str| config(vec![listening(&first, &at(&second)), listening(&second, last)]);
    let error = cbpx::process::Proxy::start(&services(&at(&first))).err().unwrap().to_string();
    assert_eq!(error, format!("cannot use {} as a backend: this proxy listens there itself", at(&first)));
    let a = Backend::echo("A");
    let proxy = cbpx::process::Proxy::start(&services(&a.address())).unwrap();
    let mut client = crate::service::connect(at(&first).parse().unwrap());
    assert_eq!(crate::talk::served_by(&mut client), "A");
    drop(proxy);
    drop(TcpListener::bind(at(&first)).unwrap());
}

/// Round-robin name servers: each refresh was logged as a move.
#[test]
fn a_name_whose_addresses_change_their_order_is_not_logged_as_moved() {
    if !is_alone("scarce::a_name_whose_addresses_change_their_order_is_not_logged_as_moved") {
        return;
    }
    let (dir, a) = (TempDir::new("scarce"), Backend::echo("A"));
    let hosts = dir.path().join("hosts");
    let names = |addresses: &[&str]| {
        let lines: String = addresses.iter().map(|address| format!("{address} rotating.test\n")).collect();
        fs::write(&hosts, lines).unwrap();
    };
    // Both are as far from where connections come from, so that the system leaves them as they are.
    names(&["127.0.0.2", "127.0.0.3"]);
    let mounted = crate::command::run(std::process::Command::new("mount").arg("--bind").arg(&hosts).arg("/etc/hosts"));
    assert_eq!(mounted.code, Some(0), "{mounted:?}");
    let port = a.address().replace("127.0.0.1:", "");
    let proxy = Proxy::start(&format!("rotating.test:{port}"), "127.0.0.1:9", &[]);
    names(&["127.0.0.3", "127.0.0.2"]);
    // Names are asked for before a switch.
    assert!(proxy.ask("switch").contains("Switch OK"));
    names(&["127.0.0.3"]);
    assert!(proxy.ask("switch").contains("Switch OK"));
    let moved = format!("backend rotating.test:{port} is now at 127.0.0.3:{port}");
    // The log is written by a thread of its own.
    eventually(SOON, "the move is logged", || proxy.log().contains(&moved));
    assert_eq!(proxy.log().matches("is now at").count(), 1, "{}", proxy.log());
}
