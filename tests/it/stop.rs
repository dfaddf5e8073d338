//! The end: at any time, with clients connected, held or silent; nothing is left behind.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use cbpx::cli::{self, Invocation};
use cbpx::config::LogTarget;
use rustix::process::Signal;

use crate::backend::Backend;
use crate::ends::{Deaf, Server, fill, read_rest, read_text, read_until_reset};
use crate::proxy::Proxy;
use crate::stubborn::Stubborn;
use crate::support::{Reserved, SOON, TempDir, eventually};

/// The longest `quit force` may take, whatever clients do.
const AT_ONCE: Duration = Duration::from_secs(2);

fn is_ended(proxy: &mut Proxy, limit: Duration) {
    let status = proxy.wait_within(limit);
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(TcpStream::connect(proxy.addr()).is_err(), "nobody listens any more");
    let log = proxy.log();
    assert!(log.trim_end().ends_with("ended"), "the last line tells that it ended: {log}");
}

#[test]
fn quit_ends_an_idle_proxy_and_not_one_in_use() {
    let server = Backend::echo("s");
    let mut proxy = Proxy::start(&server.address(), &server.address(), &[]);
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    assert_eq!(read_text(&client, 3), "s:x");
    assert!(!proxy.ask("quit").contains("Exiting"));
    assert!(proxy.is_running());
    drop(client);
    eventually(SOON, "the client has left", || proxy.stat("active") == 0);
    assert!(proxy.ask("quit").contains("Exiting..."));
    is_ended(&mut proxy, SOON);
}

#[test]
fn names_of_backends_do_not_delay_the_end() {
    let server = Backend::echo("s");
    let at = server.address().replace("127.0.0.1", "localhost");
    let mut proxy = Proxy::start(&at, &at, &[]);
    assert!(proxy.ask("switch").contains("Switch OK"), "the names have been asked for");
    proxy.signal(Signal::TERM);
    is_ended(&mut proxy, SOON);
    assert!(!proxy.log().contains("WARNING"), "{}", proxy.log());
}

#[test]
fn quit_force_ends_at_once_with_clients_that_do_not_read_and_clients_that_wait() {
    let server = Server::new();
    let mut proxy = Proxy::start(&server.address(), &server.address(), &["-o", "3"]);
    let [unread, unsent, silent] = [(); 3].map(|()| (proxy.connect(), server.accept()));
    // One whose server floods it, one whose server does not read, one that says nothing; and two that wait.
    fill(&unread.1);
    fill(&unsent.0);
    let waiting = [proxy.connect(), proxy.connect()];
    eventually(SOON, "two wait", || proxy.stat("in queue") == 2);
    assert!(proxy.ask("quit force").contains("Terminating connections and exiting..."));
    is_ended(&mut proxy, AT_ONCE);
    for (client, far) in [&unread, &unsent, &silent] {
        read_until_reset(client);
        read_until_reset(far);
    }
    waiting.iter().for_each(|client| assert_eq!(read_rest(client), b""));
    assert!(server.try_accept().is_none(), "those who waited are not sent to a server");
}

#[test]
fn quit_force_ends_at_once_during_a_switch_whose_script_hangs() {
    let (server, script) = (Backend::echo("s"), Stubborn::new());
    let mut proxy = Proxy::start(&server.address(), &server.address(), &["-t", "60", "-x", script.path()]);
    let switch = proxy.begin("switch");
    script.runs();
    let held = [proxy.connect(), proxy.connect()];
    eventually(SOON, "two are held", || proxy.stat("in queue") == 2);
    assert!(proxy.ask("quit force").contains("Terminating"));
    is_ended(&mut proxy, AT_ONCE);
    let answer = crate::proxy::finish(switch);
    assert!(answer.contains("Switch failed: quit force"), "whoever asked for the switch is told: {answer}");
    held.iter().for_each(|client| assert_eq!(read_rest(client), b""));
    assert_eq!(server.connections(), 0);
    script.is_gone();
}

#[test]
fn quit_force_waits_for_nobody_whom_the_script_has_left_behind() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("stop"));
    // Has left its process group, and holds the script's output.
    let text = format!("#!/bin/sh\nsetsid sleep 20 &\ntouch '{}/began'\nsleep 20\n", dir.path().display());
    let script = dir.script("promote", &text).display().to_string();
    let mut proxy = Proxy::start(&server.address(), &server.address(), &["-t", "60", "-x", &script]);
    let switch = proxy.begin("switch");
    eventually(SOON, "the script runs", || dir.path().join("began").exists());
    proxy.ask("quit force");
    is_ended(&mut proxy, AT_ONCE);
    assert!(crate::proxy::finish(switch).contains("Switch failed: quit force"));
}

#[test]
fn quit_force_ends_at_once_while_clients_are_being_connected() {
    let deaf = Deaf::new();
    let mut proxy = Proxy::start(&deaf.address(), &deaf.address(), &["--connect_timeout", "60"]);
    let clients: Vec<_> = (0..80).map(|_| proxy.connect()).collect();
    eventually(SOON, "some are", || proxy.stat("active") > 0 && proxy.stat("in queue") > 0);
    proxy.ask("quit force");
    is_ended(&mut proxy, AT_ONCE);
    clients.iter().for_each(|client| assert_eq!(read_rest(client), b""));
}

#[test]
fn sigterm_lets_clients_finish_and_takes_nobody_new() {
    let server = Server::new();
    let mut proxy = Proxy::start(&server.address(), &server.address(), &["--grace", "60", "-o", "1"]);
    let (client, mut far) = (proxy.connect(), server.accept());
    let mut waiting = proxy.connect();
    waiting.write_all(b"x").unwrap();
    eventually(SOON, "one waits", || proxy.stat("in queue") == 1);
    proxy.signal(Signal::TERM);
    eventually(SOON, "nobody new is taken", || TcpStream::connect(proxy.addr()).is_err());
    far.write_all(b"answer").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client), b"answer");
    drop((client, far));
    // A client that was accepted is served like all others.
    let mut far = server.accept();
    assert_eq!(read_text(&far, 1), "x");
    assert!(proxy.is_running());
    far.write_all(b"y").unwrap();
    drop(far);
    assert_eq!(read_rest(&waiting), b"y");
    drop(waiting);
    is_ended(&mut proxy, SOON);
}

#[test]
fn sigterm_ends_with_the_grace_period_or_the_second_signal() {
    for (grace, signals) in [("0.3", 1), ("60", 2)] {
        let server = Server::new();
        let mut proxy = Proxy::start(&server.address(), &server.address(), &["--grace", grace]);
        let (client, far) = (proxy.connect(), server.accept());
        fill(&far);
        proxy.signal(Signal::TERM);
        if signals == 2 {
            eventually(SOON, "it stops", || TcpStream::connect(proxy.addr()).is_err());
            assert!(proxy.is_running());
            proxy.signal(Signal::TERM);
        }
        is_ended(&mut proxy, SOON);
        read_until_reset(&client);
        read_until_reset(&far);
    }
}

#[test]
fn sigterm_undoes_a_switch_first() {
    let (server, script) = (Backend::echo("s"), Stubborn::new());
    let flags = ["-t", "60", "-x", script.path(), "--grace", "60"];
    let mut proxy = Proxy::start(&server.address(), &server.address(), &flags);
    let switch = proxy.begin("switch");
    script.runs();
    let mut held = proxy.connect();
    held.write_all(b"x").unwrap();
    eventually(SOON, "it is held", || proxy.stat("in queue") == 1);
    proxy.signal(Signal::TERM);
    assert!(crate::proxy::finish(switch).contains("Switch failed: program stopped"));
    assert_eq!(read_text(&held, 3), "s:x", "the held client is served before the end");
    script.is_gone();
    drop(held);
    is_ended(&mut proxy, SOON);
}

/// The whole program in this process: when it is dropped, no thread of it is left.
#[test]
fn every_thread_is_joined() {
    let (server, script) = (Server::new(), Stubborn::new());
    let (port, rc_port) = (Reserved::new(), Reserved::new());
    let (port_text, rc_text, address) = (port.port().to_string(), rc_port.port().to_string(), server.address());
    let places = ["cbpx", "-p", &port_text, "-r", &rc_text, "-a", &address, "-s", "127.0.0.1:9", "-x", script.path()];
    let words = places.into_iter().chain(["-t", "60", "-c", "100", "-o", "0"]).map(Into::into);
    let Ok(Invocation::Serve { mut config, .. }) = cli::parse(words) else { panic!("the flags are good") };
    config.log.target = LogTarget::Nowhere;
    let proxy = cbpx::process::Proxy::start(&config).unwrap();
    let connect = || TcpStream::connect(("127.0.0.1", port.port())).unwrap();
    let pair = (connect(), server.accept());
    let mut control = TcpStream::connect(("127.0.0.1", rc_port.port())).unwrap();
    writeln!(control, "switch").unwrap();
    drop(pair);
    script.runs();
    let (_held, _silent) = (connect(), TcpStream::connect(("127.0.0.1", rc_port.port())).unwrap());
    eventually(SOON, "all kinds of threads are there", || {
        let names = own_threads();
        ["coordinator", "listen-cbpx", "relay-0", "control-0", "session-", "script-", "watch"]
            .iter()
            .all(|kind| names.iter().any(|name| name.starts_with(kind)))
    });
    drop(proxy);
    // The system wakes whoever joins a thread a moment before it takes the thread off its list. One that was not joined
    // would stay much longer than this.
    eventually(Duration::from_secs(1), "no thread is left behind", || own_threads().is_empty());
    script.is_gone();
}

/// This process's threads that have names of the program under test. Only the test above runs it in this process.
fn own_threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let kinds =
        ["coordinator", "listen-", "control-", "session-", "script-", "watch", "relay-", "client-", "backend-", "idle"];
    let is_ours = |name: &String| kinds.iter().any(|kind| name.starts_with(kind));
    names.map(|name| name.trim_end().to_owned()).filter(is_ours).collect()
}
