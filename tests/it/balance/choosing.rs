//! Which channel a client gets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use super::{Balance, each_served, served};
use crate::backend::Backend;
use crate::ends::Deaf;
use crate::support::{SOON, eventually, nobody};

fn by(name: &str) -> Option<String> {
    Some(name.to_owned())
}

/// So many clients at once, and who serves each.
fn together(balance: &Balance, clients: usize) -> (Vec<TcpStream>, Vec<Option<String>>) {
    let mut open: Vec<TcpStream> = Vec::new();
    let mut names = Vec::new();
    for _ in 0..clients {
        let mut client = balance.connect();
        names.push(served(&mut client));
        open.push(client);
    }
    (open, names)
}

#[test]
fn channels_of_a_group_take_turns_and_the_next_group_waits() {
    let (a, b, c) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"));
    let balance = Balance::start(&[], &[&a.address(), &b.address(), "!", &c.address()]);
    assert_eq!(each_served(&balance, 4), ["A", "B", "A", "B"].map(by));
    assert_eq!(c.connections(), 0);
    balance.answers("disable 0", "channel 0 disabled");
    balance.answers("disable 1", "channel 1 disabled");
    assert_eq!(each_served(&balance, 2), ["C", "C"].map(by));
}

#[test]
fn a_channel_that_refuses_is_tried_each_time_its_turn_comes_and_counts() {
    let (_port, dead) = nobody();
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let balance = Balance::start(&[], &[&dead, &a.address(), "!", &b.address()]);
    assert_eq!(each_served(&balance, 3), ["A", "A", "A"].map(by));
    assert_eq!(balance.shown(0, "totalc"), "3");
    assert_eq!(balance.shown(0, "S"), "ENA", "nothing is remembered");
}

#[test]
fn with_a_a_channel_that_refuses_is_disabled_until_it_is_enabled() {
    let (_port, dead) = nobody();
    let a = Backend::echo("A");
    let balance = Balance::start(&["-a"], &[&dead, &a.address()]);
    assert_eq!(each_served(&balance, 3), ["A", "A", "A"].map(by));
    assert_eq!((balance.shown(0, "S").as_str(), balance.shown(0, "totalc").as_str()), ("dis", "1"));
    balance.answers("enable 0", "channel 0 enabled");
    assert_eq!(each_served(&balance, 2), ["A", "A"].map(by));
    assert_eq!(balance.shown(0, "totalc"), "2");
}

#[test]
fn when_every_channel_is_full_the_next_client_is_closed_at_once_and_not_queued() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let balance = Balance::start(&[], &[&format!("{}:1", a.address()), "!", &format!("{}:1", b.address())]);
    let (mut open, names) = together(&balance, 3);
    assert_eq!(names, [by("A"), by("B"), None]);
    open.remove(0);
    eventually(SOON, "c falls when a connection has ended", || balance.shown(0, "c") == "0");
    assert_eq!(served(&mut balance.connect()), by("A"));
}

/// Defect 4: failover entered the next group without looking whether its channel was disabled or full.
#[test]
fn failover_between_groups_never_uses_a_disabled_or_full_channel() {
    let (_port, dead) = nobody();
    let (a, b, c) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"));
    let limited = format!("{}:1", b.address());
    for separator in ["!", "%"] {
        let balance = Balance::start(&[], &[&dead, separator, &a.address(), "!", &limited, "!", &c.address()]);
        let script = "group 1\ndisable 0\n";
        assert_eq!(super::control::shell(&balance, script).code, Some(0));
        let before = (a.connections(), b.connections());
        let (_open, names) = together(&balance, 3);
        assert_eq!(names, ["B", "C", "C"].map(by), "{separator}");
        assert_eq!((a.connections(), b.connections()), (before.0, before.1 + 1), "{separator}");
    }
}

/// Defect 3: destinations of an earlier run on the same port came back when all others were disabled or full.
#[test]
fn only_configured_destinations_are_ever_used() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let balance = Balance::start(&[], &[&old.address(), "!", &old.address()]);
    assert_eq!(each_served(&balance, 1), [by("old")]);
    let balance = Balance::start_at(balance.stop(), &[], &[&new.address()]);
    assert_eq!(each_served(&balance, 1), [by("new")]);
    balance.answers("disable 0", "channel 0 disabled");
    assert_eq!(each_served(&balance, 3), [None, None, None]);
    assert_eq!((old.connections(), new.connections()), (1, 1));
}

/// The servers of 12 client addresses.
fn homes(balance: &Balance) -> BTreeMap<Ipv4Addr, String> {
    let clients = (1..=12).map(|last| Ipv4Addr::new(127, 0, 0, last));
    clients.map(|ip| (ip, served(&mut balance.connect_from(ip)).expect("served"))).collect()
}

/// Defect 1: all IPv4 clients of the default listener got channel 0.
#[test]
fn a_hash_group_spreads_twelve_ipv4_addresses_and_keeps_each() {
    let (a, b, c) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"));
    let destinations = [&a.address(), &b.address(), &c.address(), "%"];
    let balance = Balance::start(&[], &destinations);
    let first = homes(&balance);
    for name in ["A", "B", "C"] {
        assert!(first.values().any(|home| home == name), "{name} has nobody: {first:?}");
    }
    for _ in 0..3 {
        assert_eq!(homes(&balance), first);
    }
    // The same clients as v4-mapped addresses.
    let dual = Balance::start(&["-6"], &destinations);
    assert_eq!(homes(&dual), first);
}

#[test]
fn a_client_whose_hash_channel_is_gone_falls_to_the_next_group_or_with_capital_h_to_another_channel() {
    let (a, b, rest) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("rest"));
    let destinations = [&a.address(), &b.address(), "%", &rest.address()];
    for (options, elsewhere) in [(&[][..], "rest"), (&["-H"][..], "B")] {
        let balance = Balance::start(options, &destinations);
        let before = homes(&balance);
        balance.answers("disable 0", "channel 0 disabled");
        for (ip, home) in homes(&balance) {
            let expected = if before[&ip] == "A" { elsewhere } else { "B" };
            assert_eq!(home, expected, "{options:?}: {ip}, before at {}", before[&ip]);
        }
    }
}

/// Defect 13: `hash` on a group without channels killed the master with the next client that fell through to it.
#[test]
fn hash_on_an_empty_group_harms_nobody() {
    let (a, c) = (Backend::echo("A"), Backend::echo("C"));
    let mut balance = Balance::start(&[], &[&format!("{}:1", a.address())]);
    let out = super::control::shell(&balance, "group 1\nhash\ngroup 2\nhash\n").out;
    assert!(out.contains("group 1 set to hash") && out.contains("group 2 set to hash"), "{out}");
    let (_open, names) = together(&balance, 2);
    assert_eq!(names, [by("A"), None]);
    assert!(balance.is_running());
    let (host, port) = c.address().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    super::control::shell(&balance, &format!("group 2\ncreate {host} {port}\nenable 0\n"));
    assert_eq!(served(&mut balance.connect()), by("C"));
}

#[test]
fn t_bounds_a_connect_and_the_client_goes_to_the_next_channel() {
    let (deaf, a) = (Deaf::new(), Backend::echo("A"));
    let balance = Balance::start(&["-d", "-t", "1"], &[&deaf.address(), &a.address()]);
    let began = Instant::now();
    assert_eq!(served(&mut balance.connect()), by("A"));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    eventually(SOON, "the trace tells", || balance.told().contains("group 0 channel 0: timeout"));
}

#[test]
fn d_traces_which_channel_is_tried_and_how_that_ends() {
    let (_port, dead) = nobody();
    let a = Backend::echo("A");
    let balance = Balance::start(&["-d"], &[&dead, "!", &a.address()]);
    assert_eq!(served(&mut balance.connect()), by("A"));
    let expected = [
        "trying group 0 channel 0 ...".to_owned(),
        "group 0 channel 0: connection refused".to_owned(),
        "trying group 1 channel 0 ...".to_owned(),
        format!("connected to {} for 127.0.0.1:", a.address()),
    ];
    eventually(SOON, "all is told", || balance.told().lines().count() >= expected.len());
    let told = balance.told();
    for (line, expected) in told.lines().zip(&expected) {
        assert!(line.starts_with(expected.as_str()), "{line}\n{told}");
    }
    let silent = Balance::start(&[], &[&a.address()]);
    assert_eq!(served(&mut silent.connect()), by("A"));
    assert_eq!(silent.told(), "", "without -d nothing is told");
}
