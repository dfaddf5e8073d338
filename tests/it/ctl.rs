//! `cbpx ctl`: the exit status tells the outcome, and the answer comes as it is made.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

use crate::backend::Backend;
use crate::command::{Killed, Ran, cbpx, run};
use crate::proxy::{CBPX, Proxy};
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::{all_sessions, served_by};

fn ctl(to: &str, words: &[&str]) -> Ran {
    cbpx(&[&["ctl", "--to", to], words].concat(), TempDir::new("ctl").path())
}

fn proxy(extra: &[&str]) -> (Proxy, [Backend; 2]) {
    let backends = [Backend::echo("A"), Backend::echo("B")];
    (Proxy::start(&backends[0].address(), &backends[1].address(), extra), backends)
}

#[test]
fn the_answer_is_printed_as_telnet_would_show_it_and_success_is_0() {
    let (proxy, _backends) = proxy(&[]);
    let to = proxy.control().to_string();
    for words in [
        &["hello"][..],
        &["help"],
        &["set"],
        &["set", "switch_max_time", "3"],
        &["stats"],
        &["stats", "0.1", "2"],
        &["hello;abort;stats"],
    ] {
        let ran = ctl(&to, words);
        assert_eq!(ran.out, proxy.ask(&words.join(" ")), "{words:?}");
        assert_eq!(ran.code, Some(if words[0].contains("abort") { 1 } else { 0 }), "{words:?}: {ran:?}");
        assert_eq!(ran.err, "");
    }
}

#[test]
fn a_command_that_is_refused_or_fails_is_1() {
    let (proxy, _backends) = proxy(&["-t", "0.2"]);
    let to = proxy.control().to_string();
    let mut client = proxy.connect();
    served_by(&mut client);
    for (words, token) in [
        (&["nosuch"][..], "Unknown command"),
        (&["set", "nosuch", "1"], "No such parameter"),
        (&["set", "max_queued_conns", "9"], "must be between"),
        (&["set", "port", "9"], "not settable"),
        (&["set", "x"], "Use: "),
        (&["stats", "0"], ">= 0.1"),
        (&["abort"], "No switch"),
        (&["quit"], "Not quitting"),
        (&["quit", "now"], "Not quitting"),
        (&["switch"], "Switch failed: switch timeout"),
    ] {
        let ran = ctl(&to, words);
        assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""), "{words:?}: {ran:?}");
        assert!(ran.out.contains(token) && !ran.out.contains("ctl"), "{words:?}: {ran:?}");
    }
}

#[test]
fn a_switch_is_0_only_if_the_clients_were_moved() {
    let (proxy, [_a, b]) = proxy(&[]);
    let to = proxy.control().to_string();
    let mut client = proxy.connect();
    served_by(&mut client);
    let waiting = thread::spawn({
        let to = to.clone();
        move || ctl(&to, &["switch"])
    });
    eventually(SOON, "the switch runs", || !proxy.ask("stats").contains("[n/a]"));
    let busy = ctl(&to, &["switch"]);
    assert!(busy.code == Some(1) && busy.out.contains("running"), "{busy:?}");
    drop(client);
    let moved = waiting.join().unwrap();
    assert!(moved.code == Some(0) && moved.out.ends_with("\n Switch OK!: all connections closed\n"), "{moved:?}");
    assert!(proxy.ask("stats").contains(&b.address()));
}

#[test]
fn lines_are_printed_as_they_come() {
    let (proxy, _backends) = proxy(&[]);
    let mut client = proxy.connect();
    served_by(&mut client);
    let mut command = Command::new(CBPX);
    command.args(["ctl", "--to", &proxy.control().to_string(), "switch"]).stdout(Stdio::piped());
    let mut running = Killed::start(&mut command);
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with(" 0.00 ")));
    assert!(running.is_running(), "the switch waits for the client");
    drop(client);
    assert!(lines.any(|line| line.contains("Switch OK")));
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_wrong_command_line_is_2() {
    for (arguments, tokens) in [
        (&["ctl"][..], &["Usage: cbpx ctl", "COMMAND"][..]),
        (&["ctl", "--to", "nowhere", "hello"], &["nowhere", "HOST:PORT"]),
        (&["ctl", "--timeout", "soon", "hello"], &["soon", "--timeout"]),
        (&["ctl", "--timeout", "0", "hello"], &["--timeout", "0.01"]),
        (&["ctl", "--timeout", "nan", "hello"], &["--timeout"]),
        (&["ctl", "--nosuch", "hello"], &["--nosuch"]),
        (&["ctl", " "], &["COMMAND"]),
        (&["ctl", "hello\nquit force"], &["line break"]),
    ] {
        cbpx(arguments, TempDir::new("ctl").path()).failed_with(2, tokens);
    }
    let help = cbpx(&["ctl", "--help"], TempDir::new("ctl").path());
    assert!(help.code == Some(0) && help.out.contains("Exit status") && help.out.contains("CBPX_CTL"), "{help:?}");
}

#[test]
fn nobody_there_is_3() {
    let nobody = Reserved::new();
    let to = format!("127.0.0.1:{}", nobody.port());
    ctl(&to, &["hello"]).failed_with(3, &["cannot reach cbpx", &to, "Connection refused"]);
    ctl("/no/such/socket", &["hello"]).failed_with(3, &["/no/such/socket", "No such file"]);
    ctl("nosuch.invalid:1", &["hello"]).failed_with(3, &["nosuch.invalid:1"]);
}

/// A server that answers each connection with `text`, and ends it or not.
fn stranger(text: &'static str, ends: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(text.as_bytes()).ok();
            if ends {
                // To the end of what it sends, or the close would be a reset.
                stream.read_to_end(&mut Vec::new()).ok();
            } else {
                kept.push(stream);
            }
        }
    });
    address
}

#[test]
fn an_answer_without_an_end_is_3_and_what_came_is_printed() {
    let closing = ctl(&stranger(" half an answer\n", true), &["switch"]);
    assert_eq!((closing.code, closing.out.as_str()), (Some(3), " half an answer\n"));
    assert!(closing.err.contains("before the end"), "{closing:?}");
    let silent = ctl(&stranger(" half an answer\n", false), &["--timeout", "0.3", "switch"]);
    assert_eq!((silent.code, silent.out.as_str()), (Some(3), " half an answer\n"));
    assert!(silent.err.contains("silent for 0."), "{silent:?}");
}

#[test]
fn a_proxy_that_has_too_many_sessions_says_so() {
    let (proxy, _backends) = proxy(&[]);
    let sessions = all_sessions(&proxy);
    let ran = ctl(&proxy.control().to_string(), &["hello"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.out.contains("too many control sessions"), "{ran:?}");
    drop(sessions);
}

#[test]
fn the_proxy_may_be_named_by_a_variable_or_be_a_unix_socket() {
    let dir = TempDir::new("ctl");
    let socket = dir.path().join("control.sock");
    let socket = socket.to_str().unwrap();
    let (proxy, _backends) = proxy(&["--rc_socket", socket]);
    assert_eq!(ctl(socket, &["hello"]).code, Some(0));
    for to in [socket, &proxy.control().to_string()] {
        let ran = run(Command::new(CBPX).args(["ctl", "hello"]).env("CBPX_CTL", to));
        assert!(ran.code == Some(0) && ran.out.starts_with(" Hello! "), "{ran:?}");
    }
}
