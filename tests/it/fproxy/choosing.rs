//! Whom a client is given: `-s0` to `-s4`, `-g`, and what becomes of it when backends fail.

use std::io::{Read, Write};

use super::Fproxy;
use crate::backend::Backend;
use crate::ends::read_rest;
use crate::support::{SOON, eventually, nobody};
use crate::talk::served_by;

fn two() -> [Backend; 2] {
    ["A", "B"].map(Backend::echo)
}

fn start(options: &[&str], backends: &[Backend]) -> Fproxy {
    let addresses: Vec<String> = backends.iter().map(Backend::address).collect();
    Fproxy::start(options, &addresses.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A client that moves much, and has gone when this returns. Only one is there at a time.
fn much_is_moved(proxy: &Fproxy) {
    let before = proxy.accesses().len();
    let mut client = proxy.connect();
    assert_eq!(served_by(&mut client), "A");
    let many = vec![b'x'; 200_000];
    let mut reader = client.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        client.write_all(&many).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).unwrap();
    sending.join().unwrap();
    assert!(answer.len() >= 200_000);
    proxy.has_accesses(before + 1);
}

#[test]
fn s0_lets_backends_take_turns_whatever_they_have_had() {
    let backends = two();
    let proxy = start(&["-s0"], &backends);
    much_is_moved(&proxy);
    assert_eq!([(); 4].map(|()| proxy.serves()), ["B", "A", "B", "A"]);
}

#[test]
fn s1_gives_whoever_has_had_the_fewest_connections() {
    let backends = two();
    let proxy = start(&["-s1"], &backends);
    much_is_moved(&proxy);
    // Those who are connected now count no more than those who have gone.
    let mut stays = proxy.connect();
    assert_eq!(served_by(&mut stays), "B");
    assert_eq!([(); 4].map(|()| proxy.serves()), ["A", "B", "A", "B"]);
}

#[test]
fn s2_gives_whoever_has_had_the_fewest_bytes() {
    let backends = two();
    let proxy = start(&["-s2"], &backends);
    much_is_moved(&proxy);
    assert_eq!([(); 5].map(|()| proxy.serves()), ["B"; 5]);
}

#[test]
fn s3_gives_whoever_has_had_the_least_time() {
    let backends = two();
    let proxy = start(&["-s3"], &backends);
    let mut long = proxy.connect();
    assert_eq!(served_by(&mut long), "A");
    // A client that comes and goes while another stays.
    assert_eq!(proxy.serves(), "B");
    drop(long);
    proxy.has_accesses(2);
    assert_eq!(proxy.serves(), "B", "it would be A's turn");
}

#[test]
fn s4_is_the_default_and_mixes_all_three() {
    for options in [&[][..], &["-s4"]] {
        let backends = two();
        let proxy = start(options, &backends);
        much_is_moved(&proxy);
        assert_eq!([(); 2].map(|()| proxy.serves()), ["B", "B"], "by connections alone it would be A's turn");
    }
}

#[test]
fn a_client_whose_backend_refuses_is_given_another_and_does_not_notice() {
    let ((_port, dead), a) = (nobody(), Backend::echo("A"));
    let proxy = Fproxy::start(&["-s0"], &[&dead, &a.address()]);
    assert_eq!([(); 4].map(|()| proxy.serves()), ["A"; 4]);
    let told = proxy.told();
    assert_eq!(told.matches(&format!("cannot connect to backend {dead}: Connection refused")).count(), 1, "{told}");
    assert_eq!(told.matches(&format!("[warn] backend {dead} has failed")).count(), 1, "tried once: {told}");
}

#[test]
fn when_all_have_failed_the_client_is_closed_and_the_next_one_is_tried_all_the_same() {
    let ((port, first), (_port, second)) = (nobody(), nobody());
    let proxy = Fproxy::start(&["-s0", "-g3600"], &[&first, &second]);
    assert_eq!(read_rest(&proxy.connect()), b"");
    let accesses = proxy.has_accesses(1);
    assert!(accesses[0].contains("] \"GET -\" 502 0 "), "{accesses:?}");
    eventually(SOON, "it is told", || proxy.told().contains("closed: no backend took it"));
    let _server = port.listen("A");
    assert_eq!(proxy.serves(), "A", "not only after an hour");
}

#[test]
fn g_is_for_how_long_a_failed_backend_is_passed_over() {
    let a = Backend::echo("A");
    for (option, returns) in [("-g1", true), ("-g3600", false)] {
        let (port, dead) = nobody();
        let proxy = Fproxy::start(&["-s0", option], &[&dead, &a.address()]);
        assert_eq!(proxy.serves(), "A");
        let _server = port.listen("B");
        if returns {
            eventually(SOON, "it is used again", || proxy.serves() == "B");
            eventually(SOON, "it is told", || proxy.told().contains(&format!("backend {dead} is used again")));
        } else {
            assert_eq!([(); 6].map(|()| proxy.serves()), ["A"; 6]);
        }
    }
}

#[test]
fn one_that_returns_after_an_outage_does_not_get_all_clients_until_it_has_caught_up() {
    let (a, (port, dead)) = (Backend::echo("A"), nobody());
    let proxy = Fproxy::start(&["-s1", "-g1"], &[&a.address(), &dead]);
    assert_eq!([(); 12].map(|()| proxy.serves()), ["A"; 12]);
    let _server = port.listen("B");
    eventually(SOON, "it is used again", || proxy.serves() == "B");
    let next = [(); 4].map(|()| proxy.serves());
    assert!(next.iter().filter(|by| *by == "A").count() >= 2, "{next:?}");
}
