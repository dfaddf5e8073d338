//! Backends that fail, are probed, changed and counted while a service runs: what no flag of cbpx asks for yet, through
//! the library.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use cbpx::config::{
    Backend as Member, Commands, Config, Control, Failover, FailurePolicy, Group, Log, LogStyle, LogTarget, Network,
    Policy, Process, RetryPolicy, Service, Settings, Upstream, WhenFull,
};
use cbpx::core::msg::{Answer, BackendId, BackendView, Change, Command, GroupId, Unchanged, UpstreamId};
use cbpx::endpoint::{Address, Endpoint};
use cbpx::engine::messages::Reply;
use cbpx::process::Proxy;

use crate::backend::Backend;
use crate::ends::Deaf;
use crate::support::{Reserved, SOON, eventually, thread_pairs};

/// A service with one group of these servers, in the order they are listed.
fn start(servers: &[&str], failure_policy: FailurePolicy, rounds: u32) -> Proxy {
    let member = |server: &&str| Member { endpoint: server.parse().unwrap(), limit: None, enabled: true };
    let group = Group {
        policy: Policy::InOrder,
        failover: Failover::WithinGroup,
        failure_policy,
        backends: servers.iter().map(member).collect(),
    };
    let service = Service {
        name: "probes".to_owned(),
        listeners: vec![Endpoint::tcp("127.0.0.1", 0)],
        network: Network { backlog: 16, connect_timeout: Duration::from_secs(3600), ..Network::plain() },
        upstreams: vec![Upstream { groups: vec![group] }],
        settings: Settings {
            switch_max_time: Duration::from_secs(5),
            max_queued: 100,
            max_open: None,
            switch_loop_wait: Duration::from_millis(100),
            net_buffer_size: 2048,
            thread_pairs: thread_pairs(),
        },
        script: None,
        max_dials: 64,
        when_full: WhenFull::Wait,
        retry: RetryPolicy { most: rounds, pause: Duration::from_millis(20) },
        seed: 1,
        grace: Duration::ZERO,
    };
    let control = Control { listeners: Vec::new(), directory: None, words: Commands::Switchover, console: false };
    let log = Log { target: LogTarget::Nowhere, level: log::LevelFilter::Off, style: LogStyle::Origin, mode: 0o666 };
    Proxy::start(&Config { services: vec![service], control, log, access_log: None, process: Process::plain() })
        .unwrap()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let Address::Tcp(at) = &proxy.listening()[0] else { panic!("not TCP") };
    crate::service::connect(*at)
}

/// The server of a new client.
fn served(proxy: &Proxy) -> String {
    let (mut stream, mut answer) = (connect(proxy), [0; 3]);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..1]).into_owned()
}

fn backends(proxy: &Proxy) -> Vec<BackendView> {
    proxy.context().handle.survey().recv().unwrap()
}

fn change(proxy: &Proxy, change: Change) -> Answer {
    match proxy.context().handle.ask(Command::Change(change)).recv().unwrap() {
        Reply::Answer(answer, _) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dead_server_is_found_at_the_start_and_used_again_when_a_probe_reaches_it() {
    let (reserved, spare) = (Reserved::new(), Backend::echo("B"));
    let first = format!("127.0.0.1:{}", reserved.port());
    let every = Some(Duration::from_millis(20));
    let proxy = start(&[&first, &spare.address()], FailurePolicy::UntilProbed { every }, 1);
    eventually(SOON, "the first probe fails", || backends(&proxy)[0].failed);
    assert_eq!(served(&proxy), "B");
    assert_eq!(backends(&proxy)[0].totals.attempts, 0, "no client had to find out");
    let revived = reserved.listen("A");
    eventually(SOON, "a later probe succeeds", || !backends(&proxy)[0].failed);
    assert_eq!(served(&proxy), "A");
    drop(revived);
}

#[test]
fn a_probe_that_nobody_answers_keeps_neither_clients_nor_the_end_waiting() {
    let (deaf, spare) = (Deaf::new(), Backend::echo("B"));
    let every = Some(Duration::from_secs(3600));
    let proxy = start(&[&spare.address(), &deaf.address()], FailurePolicy::UntilProbed { every }, 1);
    assert_eq!(served(&proxy), "B");
    let ending = thread::spawn(move || drop(proxy));
    eventually(SOON, "all threads have ended", || ending.is_finished());
    ending.join().unwrap();
}

#[test]
fn a_client_is_offered_to_all_again_and_what_it_sent_is_not_lost() {
    let reserved = Reserved::new();
    let proxy = start(&[&format!("127.0.0.1:{}", reserved.port())], FailurePolicy::Ignore, 10_000);
    let (mut client, mut answer) = (connect(&proxy), [0; 6]);
    client.write_all(b"word").unwrap();
    eventually(SOON, "it was refused and tried again", || backends(&proxy)[0].totals.errors >= 2);
    let _server = reserved.listen("A");
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"A:word");
}

#[test]
fn an_operator_creates_assigns_and_disables_and_bytes_are_counted() {
    let (a, b, c) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"));
    let proxy = start(&[&a.address()], FailurePolicy::Disable, 1);
    let learn = |server: &Backend| proxy.context().addresses.learn(&server.address().parse().unwrap()).unwrap();
    let group = GroupId { upstream: UpstreamId(0), index: 0 };
    let created = BackendId(1);
    assert_eq!(change(&proxy, Change::Create(group, learn(&b))), Answer::Created(created));
    assert_eq!(served(&proxy), "A");
    assert_eq!(change(&proxy, Change::Enable(created)), Answer::Changed);
    assert_eq!(change(&proxy, Change::SetEndpoint(created, learn(&c))), Answer::Unchanged(Unchanged::NotDisabled));
    assert_eq!(change(&proxy, Change::Disable(BackendId(0))), Answer::Changed);
    assert_eq!(served(&proxy), "B");
    assert_eq!(change(&proxy, Change::Disable(created)), Answer::Changed);
    assert_eq!(change(&proxy, Change::SetEndpoint(created, learn(&c))), Answer::Changed);
    assert_eq!(proxy.context().addresses.endpoint_of(created).unwrap().to_string(), c.address());
    assert_eq!(change(&proxy, Change::Enable(created)), Answer::Changed);
    assert_eq!(served(&proxy), "C");
    eventually(SOON, "everything has been counted", || {
        let totals = backends(&proxy)[1].totals;
        (totals.attempts, totals.connections, totals.up, totals.down) == (2, 2, 2, 6)
    });
}
