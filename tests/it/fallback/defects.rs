//! What the original did wrong, row by row of the contract, and what is done instead. (Row 1: see `system_logger`; row
//! 6: `signals`.)

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::program::{Absent, Fallback};
use crate::backend::Backend;
use crate::ends::{Deaf, Server, read_text};
use crate::support::{SOON, eventually};
use crate::talk::{is_turned_away, served_by};

/// Longer than any test: what ends before it was not ended by it.
const NEVER: &str = "1h";

/// Row 2. The symptom: with a first server that drops SYNs all new clients waited, one after the other.
#[test]
fn row_2_a_first_server_that_drops_syns_delays_nobody_once_that_is_known() {
    let (deaf, second) = (Deaf::new(), Backend::echo("second"));
    let flags = ["-timeout", "1s", "-probe-delay", NEVER];
    let fallback = Fallback::start(&flags, &[&deaf.address(), &second.address()]);
    fallback.says(&format!("Failed to connect to backend {}: ", deaf.address()));
    for _ in 0..50 {
        assert_eq!(served_by(&mut fallback.connect()), "second");
    }
    assert_eq!(fallback.count("Failed to connect to backend"), 1, "nobody has tried it again");
}

/// Row 2. Those who are waiting when the server is found out move on together: had each to wait for a timeout of its
/// own, and one after the other, nobody would be served before the time is over.
#[test]
fn row_2_who_waits_for_a_server_moves_on_when_it_is_marked_failed() {
    let (absent, second) = (Absent::new(), Backend::echo("second"));
    let first = absent.arrives();
    let flags = ["-timeout", "4s", "-probe-delay", NEVER, "-debug"];
    let fallback = Fallback::start(&flags, &[&absent.address(), &second.address()]);
    first.accept();
    drop(first);
    let deaf = Deaf::at(absent.port());
    let start = Instant::now();
    let mut clients = vec![fallback.connect()];
    // The others come when half of the first one's time is over.
    eventually(SOON, "the first has waited for half its time", || start.elapsed() > Duration::from_secs(2));
    clients.extend((0..100).map(|_| fallback.connect()));
    clients.iter_mut().for_each(|client| assert_eq!(served_by(client), "second"));
    fallback.says("moving a waiting client on");
    let address = deaf.address();
    assert_eq!(fallback.count(&format!("Failed to connect to backend {address}: ")), 1, "one has found out for all");
}

/// Row 3. The symptom: nobody was listening before every server had been probed, each for as long as the timeout.
#[test]
fn row_3_it_listens_at_once_and_probes_all_servers_at_the_same_time() {
    let (deaf, last) = ([Deaf::new(), Deaf::new(), Deaf::new()], Absent::new());
    let server = last.arrives();
    let remotes = [deaf[0].address(), deaf[1].address(), deaf[2].address(), last.address()];
    let remotes: Vec<&str> = remotes.iter().map(String::as_str).collect();
    // If it waited for any of them it would not come to the last within this test.
    let fallback = Fallback::start(&["-timeout", "0s"], &remotes);
    server.accept();
    drop(fallback.connect());
    assert_eq!(fallback.count("Failed to connect"), 0);
}

/// Row 4. The symptom: a server marked failed was out until its probe, even if there was no other.
#[test]
fn row_4_when_no_other_is_left_the_failed_ones_are_tried() {
    let absent = Absent::new();
    let fallback = Fallback::start(&["-probe-delay", NEVER], &[&absent.address(), "127.0.0.1:1"]);
    fallback.says_times("Failed to connect to backend", 2);
    assert!(is_turned_away(&mut fallback.connect()));
    let server = absent.arrives();
    let mut client = fallback.connect();
    client.write_all(b"who?").unwrap();
    let (mut served, _) = server.accept_client();
    served.write_all(b"me").unwrap();
    assert_eq!(read_text(&client, 2), "me");
    fallback.says(&format!("Backend is back {}, downtime: ", absent.address()));
}

/// Row 5. The symptom: bytes of a connection were counted when a direction ended.
#[test]
fn row_5_bytes_count_as_they_flow() {
    let server = Server::new();
    let fallback = Fallback::start(&["-stats", "20ms"], &[&server.address()]);
    server.accept();
    let (mut client, mut served) = (fallback.connect(), server.accept());
    client.write_all(&[1; 1000]).unwrap();
    served.read_exact(&mut [0; 1000]).unwrap();
    fallback.says("requests=1 bytes=1000 errors=0");
    served.write_all(&[2; 234]).unwrap();
    client.read_exact(&mut [0; 234]).unwrap();
    fallback.says("requests=1 bytes=1234 errors=0");
}

/// Row 7. The symptom: out of descriptors, accepting failed again and again without a pause.
#[test]
fn row_7_out_of_descriptors_newcomers_are_closed_and_it_does_not_spin() {
    let server = Backend::echo("s");
    let fallback = Fallback::start(&[], &[&server.address()]);
    let mut old = fallback.connect();
    assert_eq!(served_by(&mut old), "s");
    limit_descriptors(&fallback, 40);
    let start = Instant::now();
    let mut clients: Vec<TcpStream> = (0..100).map(|_| fallback.connect()).collect();
    let served = clients.iter_mut().filter_map(|client| is_served(client).then_some(())).count();
    assert!(served < 20, "{served} were served, and the others closed at once");
    assert!(is_served(&mut old), "who was there goes on");
    fallback.says("cannot accept a client");
    let (told, seconds) = (fallback.count("cannot accept a client") as u64, start.elapsed().as_secs());
    assert!(told < seconds + 10, "told {told} times in {seconds} s");
    drop(clients);
    eventually(SOON, "there is room again", || is_served(&mut fallback.connect()));
}

/// Whether it gets an answer; if not, it has been closed.
fn is_served(client: &mut TcpStream) -> bool {
    // A client that was reset already cannot even ask.
    client.write_all(b"x").ok();
    match client.read(&mut [0; 64]) {
        Ok(length) => length > 0,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::ConnectionReset, "neither served nor closed");
            false
        }
    }
}

/// Sets the soft limit of a program that runs.
fn limit_descriptors(fallback: &Fallback, number: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(number), maximum };
    prlimit(Pid::from_raw(fallback.pid() as i32), Resource::Nofile, limit).unwrap();
}
