//! Control as people reach it: with nc and telnet, and over a Unix socket.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::backend::Backend;
use crate::command::{Killed, run};
use crate::proxy::Proxy;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::{answer, served_by};

/// A shell line in which `$HOST`, `$PORT` and `$SOCKET` lead to control.
fn shell(proxy: &Proxy, socket: &Path, line: &str) -> String {
    let control = proxy.control();
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("HOST", control.ip().to_string()).env("PORT", control.port().to_string());
    let ran = run(command.env("SOCKET", socket));
    assert_eq!(ran.code, Some(0), "{line}: {ran:?}");
    ran.out
}

#[test]
fn nc_gets_answers_with_and_without_a_line_end_and_sees_a_switch_to_its_end() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let dir = TempDir::new("tools");
    let socket = dir.path().join("control.sock");
    let proxy = Proxy::start(&a.address(), &b.address(), &["--rc_socket", socket.to_str().unwrap()]);
    for (line, token) in [
        ("echo hello | nc $HOST $PORT", "Hello!"),
        ("printf hello | nc $HOST $PORT", "Hello!"),
        ("printf 'hello\\r\\n' | nc -N $HOST $PORT", "Hello!"),
        ("echo stats | nc -U $SOCKET", "Current backend"),
        ("echo switch | nc $HOST $PORT", "Switch OK!: all connections closed"),
        ("echo stats | nc $HOST $PORT", &b.address()),
    ] {
        let out = shell(&proxy, &socket, line);
        assert!(out.contains(token), "{line}: {out}");
    }
}

#[test]
fn telnet_gets_answers() {
    let backend = Backend::echo("A");
    let proxy = Proxy::start(&backend.address(), &backend.address(), &[]);
    let mut telnet = Command::new("telnet");
    telnet.args(["127.0.0.1", &proxy.control().port().to_string()]);
    let mut telnet = Killed::start(telnet.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()));
    // Its input stays open, as at a terminal.
    let mut input = telnet.0.stdin.take().unwrap();
    input.write_all(b"hello\n").unwrap();
    let mut out = String::new();
    telnet.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(out.contains(" Hello! "), "{out}");
}

/// Sends a line over the Unix socket.
fn ask(socket: &Path, line: &str) -> String {
    answer(socket, line).unwrap_or_else(|| panic!("nobody answers '{line}'"))
}

#[test]
fn a_unix_socket_is_for_its_owner_only_and_gone_at_exit() {
    let backend = Backend::echo("A");
    let dir = TempDir::new("tools");
    let socket = dir.path().join("control.sock");
    let extra = ["--rc_socket", socket.to_str().unwrap()];
    let mut proxy = Proxy::start(&backend.address(), &backend.address(), &extra);
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(ask(&socket, "hello").contains("Hello!"));
    assert_eq!(ask(&socket, "quit"), " Exiting...\n");
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_unix_socket_left_over_from_a_crash_is_replaced_and_a_living_one_is_not() {
    let backend = Backend::echo("A");
    let dir = TempDir::new("tools");
    let socket = dir.path().join("control.sock");
    let extra = ["--rc_socket", socket.to_str().unwrap()];
    let mut crashed = Proxy::start(&backend.address(), &backend.address(), &extra);
    crashed.child().kill().unwrap();
    crashed.wait();
    assert!(socket.exists(), "a crash leaves it behind");
    let proxy = Proxy::start(&backend.address(), &backend.address(), &extra);
    assert!(ask(&socket, "hello").contains("Hello!"));
    drop(proxy);
    std::fs::remove_file(&socket).unwrap();
    let _living = UnixListener::bind(&socket).unwrap();
    let port = Reserved::new();
    let port = port.port().to_string();
    let address = backend.address();
    let arguments =
        ["-p", &port, "-a", &address, "-s", "127.0.0.1:9", "-t", "5", "-c", "9", "-o", "0", extra[0], extra[1]];
    crate::command::cbpx(&arguments, dir.path()).failed_with(1, &["control.sock", "in use"]);
    assert!(socket.exists());
}

#[test]
fn an_operator_who_leaves_in_the_middle_is_no_trouble() {
    let backend = Backend::echo("A");
    let proxy = Proxy::start(&backend.address(), &backend.address(), &[]);
    let idle = proxy.threads_and_descriptors().1;
    for line in ["stats 0.1", "prompt", "stats 0.1 1000"] {
        drop(proxy.begin(line));
    }
    eventually(SOON, "their sessions have ended", || proxy.threads_and_descriptors().1 <= idle);
    assert_eq!(served_by(&mut proxy.connect()), "A");
}
