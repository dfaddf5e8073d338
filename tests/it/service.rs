//! Proxies in this process, from a `Config` that no command line has a flag for.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use cbpx::config::{
    Commands, Config, Control, FailurePolicy, Group, Log, LogStyle, LogTarget, Network, Process, RetryPolicy, Service,
    Settings, Upstream, WhenFull,
};
use cbpx::endpoint::{Address, Endpoint};
use cbpx::process::Proxy;

use crate::support::{SOON, thread_pairs};

/// A service on a port of its own whose backends take turns.
pub fn service(backends: &[&str]) -> Service {
    let endpoint = |text: &&str| text.parse().unwrap_or_else(|_| Endpoint::Malformed((*text).to_owned()));
    let backends = backends.iter().map(endpoint).collect();
    Service {
        name: "test".to_owned(),
        listeners: vec![Endpoint::tcp("127.0.0.1", 0)],
        network: Network::plain(),
        upstreams: vec![Upstream { groups: vec![Group::sharing(backends, FailurePolicy::Ignore)] }],
        settings: Settings {
            switch_max_time: Duration::from_secs(5),
            max_queued: 1000,
            max_open: None,
            switch_loop_wait: Duration::from_millis(100),
            net_buffer_size: 2048,
            thread_pairs: thread_pairs(),
        },
        script: None,
        when_full: WhenFull::Wait,
        retry: RetryPolicy { most: 1, pause: Duration::ZERO },
        seed: 0,
        max_dials: 64,
        grace: Duration::from_secs(6),
    }
}

/// A program of these services, which says nothing.
pub fn config(services: Vec<Service>) -> Config {
    Config {
        services,
        control: Control { listeners: Vec::new(), console: false, words: Commands::Switchover, directory: None },
        log: Log { target: LogTarget::Nowhere, level: log::LevelFilter::Debug, style: LogStyle::Origin, mode: 0o666 },
        access_log: None,
        process: Process::plain(),
    }
}

/// One service, adjusted, running.
pub fn running(backends: &[&str], adjust: impl FnOnce(&mut Service)) -> Proxy {
    let mut service = service(backends);
    adjust(&mut service);
    Proxy::start(&config(vec![service])).unwrap()
}

/// Where its first listener is.
pub fn address(proxy: &Proxy) -> SocketAddr {
    match proxy.listening().first() {
        Some(Address::Tcp(address)) => *address,
        other => panic!("it listens on {other:?}"),
    }
}

/// A new client.
pub fn connect(to: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(to).unwrap())
}

/// With the time limits of a test.
pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
