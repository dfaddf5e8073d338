//! What a program that cannot start exits with, and backends without an address.

use std::net::TcpListener;

use cbpx::config::{LogTarget, OnUnresolved, Statuses};
use cbpx::endpoint::Endpoint;
use cbpx::process;

use crate::backend::Backend;
use crate::service::{address, config, connect, running, service};
use crate::talk::served_by;

const STATUSES: Statuses = Statuses { resolve: 65, listen: 71, other: 69 };

#[test]
fn the_exit_status_tells_what_was_in_the_way() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = Endpoint::tcp("127.0.0.1", taken.local_addr().unwrap().port());
    let failure = |backend: &str, listener: Option<&Endpoint>, log: Option<&str>| {
        let mut service = service(&[backend]);
        service.listeners.extend(listener.cloned());
        let mut config = config(vec![service]);
        config.process.statuses = STATUSES;
        config.log.target = log.map_or(LogTarget::Nowhere, |path| LogTarget::File(path.into()));
        let failure = process::run(&config, &[]).unwrap_err();
        (failure.status, failure.to_string())
    };
    let (status, words) = failure("nosuch.invalid:9", None, None);
    assert_eq!(status, 65);
    assert!(words.contains("cannot resolve active backend nosuch.invalid:9"), "{words}");
    let (status, words) = failure("127.0.0.1:9", Some(&here), None);
    assert_eq!((status, words), (71, format!("cannot listen on {here}: address in use")));
    let (status, words) = failure("127.0.0.1:9", Some(&Endpoint::tcp("nosuch.invalid", 9)), None);
    assert_eq!(status, 71);
    assert!(words.contains("cannot resolve the address to listen on, nosuch.invalid:9"), "{words}");
    let (status, words) = failure("127.0.0.1:9", None, Some("/nosuch/log"));
    assert_eq!((status, words.as_str()), (69, "cannot open log file /nosuch/log: no such file or directory"));
}

#[test]
fn a_backend_without_an_address_is_one_that_cannot_be_reached() {
    let good = Backend::echo("G");
    let proxy = running(&["nosuch.invalid:9", "no endpoint at all", &good.address()], |service| {
        service.network.unresolved = OnUnresolved::Unreachable;
    });
    for _ in 0..6 {
        assert_eq!(served_by(&mut connect(address(&proxy))), "G");
    }
    assert_eq!(good.connections(), 6);
}
