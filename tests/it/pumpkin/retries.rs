//! Workers that do not take a client.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use cbpx::cli::{self, Invocation};
use cbpx::config::{LogTarget, RetryPolicy};
use cbpx::endpoint::Endpoint;
use cbpx::process::Proxy;

use super::Pumpkin;
use crate::backend::Backend;
use crate::ends::Deaf;
use crate::service::{address, connect};
use crate::support::{SOON, TempDir, eventually, nobody};
use crate::talk::served_by;

#[test]
fn a_client_that_one_worker_refuses_is_given_another_and_the_log_tells_of_it() {
    let ((_port, gone), b) = (nobody(), Backend::echo("B"));
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={gone},{}\n", b.address()));
    let mut client = pumpkin.connect(0);
    let own = client.local_addr().unwrap();
    assert_eq!(served_by(&mut client), "B");
    let retrying = format!("Retrying request from {own} from {gone} on {}\n", b.address());
    pumpkin.warns(&retrying, 1);
    let err = pumpkin.err();
    let order = [&format!("Could not connect to worker {gone}"), "Found a failure to connect to worker", &*retrying];
    let found = order.map(|token| err.find(token).unwrap_or_else(|| panic!("{token}: {err}")));
    assert!(found.is_sorted(), "{err}");
    assert!(!pumpkin.out().contains("worker "), "{}", pumpkin.out());
}

#[test]
fn defect_6_a_dead_worker_is_marked_and_passed_over() {
    let ((_port, gone), b) = (nobody(), Backend::echo("B"));
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={gone},{}\n", b.address()));
    let begun = Instant::now();
    let served: Vec<_> = (0..20).map(|_| served_by(&mut pumpkin.connect(0))).collect();
    assert!(served.iter().all(|name| name == "B"));
    // Without it every second client would have been refused first.
    let most = 1 + begun.elapsed().as_secs() as usize / 5;
    let failures = pumpkin.err().matches("Could not connect to worker").count();
    assert!((1..=most).contains(&failures), "{failures}: {}", pumpkin.err());
}

#[test]
fn a_client_waits_for_the_only_worker_and_what_it_has_sent_is_kept() {
    let (port, gone) = nobody();
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={gone}\n"));
    let mut client = pumpkin.connect(0);
    client.write_all(b"early").unwrap();
    pumpkin.warns(&format!(" from {gone} on {gone}\n"), 3);
    let _worker = port.listen("A");
    let mut answer = [0; 7];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"A:early");
}

#[test]
fn defect_6_a_client_that_leaves_is_not_retried_for_any_more() {
    let (port, gone) = nobody();
    let mut pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={gone}\n"));
    // Its own threads are there once somebody has been retried for.
    let first = pumpkin.connect(0);
    pumpkin.warns("Retrying request from ", 2);
    let threads = pumpkin.threads();
    let clients: Vec<_> = (0..20).map(|_| pumpkin.connect(0)).collect();
    pumpkin.warns("Retrying request from ", 40);
    // Each client may have its pair, used again for each retry.
    assert!(pumpkin.threads() <= threads + 2 + 2 * clients.len(), "a retry takes no more threads");
    drop((first, clients));
    // A client that is there is retried for 20 times a second: half a second without a line, and none is.
    let mut last = (pumpkin.err().len(), Instant::now());
    eventually(SOON, "nobody is retried for any more", || {
        let length = pumpkin.err().len();
        if length != last.0 {
            last = (length, Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(500)
    });
    let worker = port.listen("A");
    assert_eq!(served_by(&mut pumpkin.connect(0)), "A");
    assert_eq!(worker.connections(), 1, "none of the 20 has reached it");
    assert!(pumpkin.is_running());
}

#[test]
fn defect_6_retries_have_a_limit() {
    let ((_port, gone), dir) = (nobody(), TempDir::new("pumpkin"));
    let path = dir.path().join("conf");
    fs::write(&path, format!("[mappings]\n127.0.0.1:0={gone}\n")).unwrap();
    let invocation = cli::parse(["cbpx".into(), "pumpkin".into(), path.into_os_string()]);
    let Ok(Invocation::Serve { mut config, .. }) = invocation else { panic!("{invocation:?}") };
    let RetryPolicy { most, pause } = config.services[0].retry;
    assert_eq!(pause * most, Duration::from_secs(30), "what the help promises");
    config.services[0].retry.most = 3;
    config.log.target = LogTarget::Nowhere;
    assert_eq!(config.services[0].listeners, [Endpoint::tcp("127.0.0.1", 0)]);
    let proxy = Proxy::start(&config).unwrap();
    let mut rest = Vec::new();
    connect(address(&proxy)).read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

#[test]
fn defect_7_a_worker_that_drops_syns_keeps_a_client_for_seconds_and_no_other_at_all() {
    let (deaf, b) = (Deaf::new(), Backend::echo("B"));
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={},{}\n", deaf.address(), b.address()));
    let begun = Instant::now();
    let mut first = pumpkin.connect(0);
    assert_eq!(served_by(&mut pumpkin.connect(0)), "B");
    assert_eq!(served_by(&mut first), "B");
    assert!(begun.elapsed() >= Duration::from_secs(5), "the first had its turn");
    pumpkin.warns(&format!("Could not connect to worker {}", deaf.address()), 1);
}

#[test]
fn a_worker_that_comes_back_is_used_again() {
    let ((port, gone), b) = (nobody(), Backend::echo("B"));
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={gone},{}\n", b.address()));
    assert_eq!(served_by(&mut pumpkin.connect(0)), "B");
    let _back = port.listen("A");
    eventually(SOON, "it has its turn again", || served_by(&mut pumpkin.connect(0)) == "A");
}
