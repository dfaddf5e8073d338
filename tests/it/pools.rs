//! Sets of servers behind one proxy: who gets whom, what happens when one dies, and a switch from one set to another.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::backend::Backend;
use crate::proxy::{Proxy, finish};
use crate::support::{SOON, TempDir, eventually};

/// A set of servers as `-a` takes it.
fn set(servers: &[&Backend]) -> String {
    servers.iter().map(|server| server.address()).collect::<Vec<_>>().join(",")
}

/// Sends a word and returns who answered.
fn greet(stream: &mut TcpStream, word: &str) -> String {
    stream.write_all(word.as_bytes()).unwrap();
    let mut answer = vec![0; 1 + ":".len() + word.len()];
    stream.read_exact(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (name, rest) = answer.split_once(':').unwrap();
    assert_eq!(rest, word);
    name.to_owned()
}

/// So many clients, one after the other; who served each.
fn served(proxy: &Proxy, clients: usize) -> Vec<String> {
    (0..clients).map(|number| greet(&mut proxy.connect(), &number.to_string()[..1])).collect()
}

/// The server dies: its port is closed and so are its connections.
fn kill(server: Backend) {
    let address = server.address();
    drop(server);
    eventually(SOON, "nobody listens there any more", || TcpStream::connect(&address).is_err());
}

#[test]
fn two_servers_get_turns_and_when_one_dies_the_other_gets_all_without_an_error() {
    let (a, b, other) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"));
    let mut proxy = Proxy::start(&set(&[&a, &b]), &other.address(), &[]);
    assert_eq!(served(&proxy, 4), ["A", "B", "A", "B"]);
    let dead = a.address();
    kill(a);
    assert_eq!(served(&proxy, 6), ["B"; 6]);
    assert_eq!(other.connections(), 0, "the standby is not for this");
    eventually(SOON, "the failure is told", || proxy.log().contains(&format!("backend {dead} has failed")));
    let log = proxy.log();
    assert_eq!(log.matches("cannot connect to backend").count(), 1, "it is passed over then: {log}");
    proxy.stop();
}

#[test]
fn the_fallback_group_is_used_when_the_first_is_gone_and_not_before() {
    let (a, b, c, other) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"), Backend::echo("D"));
    let mut proxy = Proxy::start(&format!("{}!{}", set(&[&a, &b]), c.address()), &other.address(), &[]);
    assert_eq!(served(&proxy, 2), ["A", "B"]);
    kill(a);
    assert_eq!(served(&proxy, 3), ["B"; 3]);
    assert_eq!(c.connections(), 0, "the first group still serves");
    kill(b);
    assert_eq!(served(&proxy, 3), ["C"; 3]);
    kill(c);
    let mut rest = Vec::new();
    // Closed, or reset because it had sent something: in both cases without an answer.
    proxy.connect().read_to_end(&mut rest).ok();
    assert!(rest.is_empty());
    eventually(SOON, "the log says why", || proxy.log().contains("closed: no backend took it"));
    proxy.stop();
}

#[test]
fn a_switch_moves_from_one_set_to_the_other_in_order_and_nobody_reaches_the_old_one() {
    let (a, b, c, d) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"), Backend::echo("D"));
    let (old, new) = (set(&[&a, &b]), set(&[&c, &d]));
    let mut proxy = Proxy::start(&old, &new, &[]);
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    assert_eq!([greet(&mut first, "x"), greet(&mut second, "y")], ["A", "B"]);
    let switch = proxy.begin("switch");
    eventually(SOON, "the switch has begun", || !proxy.ask("stats").contains("[n/a]"));
    let mut held = Vec::new();
    for number in 0..6 {
        let mut client = proxy.connect();
        client.write_all(number.to_string().as_bytes()).unwrap();
        held.push(client);
        eventually(SOON, "it is held", || proxy.stat("in queue") == number + 1);
    }
    assert_eq!(greet(&mut first, "z"), "A", "whoever is connected stays");
    drop((first, second));
    let answer = finish(switch);
    assert!(answer.contains(&format!(" Starting switch: {old} -> {new}, ")), "{answer}");
    assert!(answer.contains("Switch OK"), "{answer}");
    for (number, mut client) in held.into_iter().enumerate() {
        let mut answer = [0; 3];
        client.read_exact(&mut answer).unwrap();
        let name = ["C", "D"][number % 2];
        assert_eq!(String::from_utf8_lossy(&answer), format!("{name}:{number}"), "each in its turn");
        client.shutdown(Shutdown::Both).ok();
    }
    assert_eq!(served(&proxy, 2), ["C", "D"]);
    assert_eq!((a.connections(), b.connections()), (1, 1), "nobody reached the old set");
    proxy.stop();
}

#[test]
fn a_set_is_one_field_wherever_it_is_shown_and_a_script_is_given_its_first_server() {
    let (a, b, c) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"));
    let dir = TempDir::new("pools");
    let script = dir.script("show", "#!/bin/sh\necho \"given: $*\"\n");
    let (active, standby) = (format!("{}!{}", set(&[&a, &b]), c.address()), set(&[&c, &b]));
    let typed = active.replace(',', " , ");
    let mut proxy = Proxy::start(&typed, &standby, &["-x", script.to_str().unwrap()]);
    let stats = proxy.ask("stats");
    let row: Vec<&str> = stats.lines().last().unwrap().split_whitespace().collect();
    assert_eq!((row.len(), row[1]), (7, active.as_str()), "{stats}");
    let settings = proxy.ask("set");
    assert!(settings.contains(&format!(" Active backend      : {active}\n")), "{settings}");
    assert!(settings.contains(&format!(" Standby backend     : {standby}\n")), "{settings}");
    let switched = proxy.ask("switch");
    let words = |server: &Backend| server.address().replace(':', " ");
    assert!(switched.contains(&format!(" script: given: {} {}", words(&a), words(&c))), "{switched}");
    assert_eq!(proxy.ask("stats").lines().last().unwrap().split_whitespace().nth(1), Some(standby.as_str()));
    proxy.stop();
}
