//! The command line: what is taken, what is refused and with which words, and what keeps the program from starting.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;

use crate::backend::Backend;
use crate::command::{Ran, cbpx};
use crate::proxy::Proxy;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::served_by;

/// Flags and their values.
type Changes<'a> = &'a [(&'a str, Option<&'a str>)];

/// A complete command line with some flags replaced or added; `None` leaves one out.
fn with(changes: Changes<'_>) -> Ran {
    let dir = TempDir::new("cli");
    let port = Reserved::new();
    let port = port.port().to_string();
    let usual =
        [("-p", port.as_str()), ("-a", "127.0.0.1:9"), ("-s", "127.0.0.1:10"), ("-t", "5"), ("-c", "10"), ("-o", "0")];
    let unchanged = usual.iter().filter(|(flag, _)| !changes.iter().any(|(changed, _)| changed == flag));
    let mut arguments: Vec<&str> = unchanged.flat_map(|(flag, value)| [*flag, *value]).collect();
    for (flag, value) in changes {
        arguments.extend(value.iter().flat_map(|value| [*flag, *value]));
    }
    cbpx(&arguments, dir.path())
}

#[test]
fn version_and_help_are_output_and_need_nothing_else() {
    let dir = TempDir::new("cli");
    let version = cbpx(&["--version"], dir.path());
    assert_eq!((version.code, version.out.as_str()), (Some(0), concat!("cbpx ", env!("CARGO_PKG_VERSION"), "\n")));
    for flag in ["-h", "--help"] {
        let help = cbpx(&[flag], dir.path());
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
        for flag in LONG_FLAGS {
            assert!(help.out.contains(&format!("{flag} <")), "no {flag} in {}", help.out);
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "neither leaves a file behind");
}

const LONG_FLAGS: &[&str] = &[
    "-p, --port",
    "-a, --active",
    "-s, --standby",
    "-r, --rc_port",
    "-t, --switch_max_time",
    "-c, --max_queued_conns",
    "-o, --max_open_conns",
    "-b, --listen_backlog",
    "-n, --net_buffer_size",
    "--thread_pairs",
    "-w, --switch_loop_wait",
    "-f, --log_file",
    "-l, --log_level",
    "-x, --switch_script",
    "--bind",
    "--rc_bind",
    "--rc_socket",
    "--listeners",
    "--keepalive",
    "--connect_timeout",
    "--grace",
];

#[test]
fn all_missing_flags_are_named_at_once_by_both_forms() {
    let all = [
        "-p/--port",
        "-a/--active",
        "-s/--standby",
        "-t/--switch_max_time",
        "-c/--max_queued_conns",
        "-o/--max_open_conns",
    ];
    cbpx(&[], TempDir::new("cli").path()).failed_with(2, &all);
    for flag in all {
        let ran = with(&[(&flag[..2], None)]);
        ran.failed_with(2, &[flag, "missing"]);
        let others = all.iter().filter(|other| **other != flag && ran.err.contains(**other)).count();
        assert_eq!(others, 0, "only {flag} is missing: {}", ran.err);
    }
    with(&[("-p", Some("0"))]).failed_with(2, &["-p/--port", "missing"]);
}

#[test]
fn a_value_that_would_break_later_is_refused_at_the_start_with_the_value_and_what_was_expected() {
    let table: &[(&str, &str, &str)] = &[
        ("-p", "abc", "number"),
        ("-p", "80000", "between 1 and 65535"),
        ("-p", "-1", "between 1 and 65535"),
        ("-r", "abc", "number"),
        ("-r", "80000", "65535"),
        ("-a", "nowhere", "HOST:PORT"),
        ("-a", "127.0.0.1:x1", "no port"),
        ("-a", "127.0.0.1:0", "no port"),
        ("-a", "::1:80", "brackets"),
        ("-s", "127.0.0.1:", "no port"),
        ("-s", ":80", "host"),
        ("-t", "abc", "a number of seconds"),
        ("-t", "nan", "between 0 and 3600"),
        ("-t", "inf", "between 0 and 3600"),
        ("-t", "-1", "between 0 and 3600"),
        ("-t", "3601", "between 0 and 3600"),
        ("-c", "abc", "a whole number of"),
        ("-c", "1.5", "a whole number of"),
        ("-c", "0", "between 1 and 10000"),
        ("-c", "10001", "between 1 and 10000"),
        ("-o", "abc", "a whole number of"),
        ("-o", "70000", "between 0 and 65536"),
        ("-w", "abc", "a number of seconds"),
        ("-w", "0", "between 0.1 and 10"),
        ("-w", "nan", "between 0.1 and 10"),
        ("-n", "abc", "a whole number of"),
        ("-n", "0", "between 1024 and 65536"),
        ("-b", "abc", "number"),
        ("-b", "0", "between 1 and 65535"),
        ("-l", "debug", "DEBUG, INFO, WARNING, ERROR"),
        ("-l", "LOUD", "DEBUG, INFO, WARNING, ERROR"),
        ("--connect_timeout", "0", "between 0.01 and 3600"),
        ("--grace", "-1", "between 0 and 86400"),
        ("--grace", "soon", "not a number"),
        ("--bind", "not an address", "not an address"),
        ("--keepalive", "soon", "number"),
        ("--keepalive", "1.5", "number"),
        ("--keepalive", "-1", "between 0 and 32767"),
        ("--keepalive", "32768", "between 0 and 32767"),
        ("--listeners", "many", "number"),
        ("--listeners", "0", "between 1 and 64"),
        ("--listeners", "65", "between 1 and 64"),
    ];
    for (flag, value, expected) in table {
        with(&[(flag, Some(value))]).failed_with(2, &[flag, value, expected]);
    }
}

#[test]
fn all_wrong_values_are_told_at_once() {
    let ran = with(&[("-t", Some("abc")), ("-c", Some("many")), ("-a", Some("nowhere")), ("-o", None)]);
    ran.failed_with(2, &["abc", "many", "nowhere", "-o/--max_open_conns", "--help"]);
}

#[test]
fn an_unknown_flag_or_a_flag_without_its_value_is_named() {
    for (arguments, token) in [
        (&["-q"][..], "-q"),
        (&["--nosuch", "1"], "--nosuch"),
        (&["-p"], "--port"),
        // Ambiguous: --standby, --switch_max_time and more.
        (&["--s", "1"], "--s"),
    ] {
        cbpx(arguments, TempDir::new("cli").path()).failed_with(2, &[token]);
    }
}

#[test]
fn long_flags_take_either_form_and_any_unambiguous_prefix_and_wide_values_are_taken() {
    let extra = [
        "--max_q=3",
        "--max_o",
        "-1",
        "--switch_max",
        "3600",
        "--listen_backlog=7",
        "--net_b=4096",
        "--switch_l",
        "10",
    ];
    // `Proxy` replaces short forms only, so the flags it would add are left out by hand.
    let (port, control) = (Reserved::new(), Reserved::new());
    let dir = TempDir::new("cli");
    let (port, control) = (format!("--po={}", port.port()), format!("--rc_p={}", control.port()));
    let mut arguments = vec![port.as_str(), control.as_str(), "--act=127.0.0.1:9", "--standby", "localhost:10"];
    arguments.extend(extra);
    arguments.extend(["--log_f=here.log", "--log_l", "DEBUG", "surplus", "words"]);
    let mut command = std::process::Command::new(crate::proxy::CBPX);
    command.args(arguments).current_dir(dir.path()).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = crate::command::Killed::start(&mut command);
    let to = control.replace("--rc_p=", "127.0.0.1:");
    let mut listed = String::new();
    eventually(SOON, "it answers", || {
        listed = cbpx(&["ctl", "--to", &to, "set"], dir.path()).out;
        !listed.is_empty()
    });
    for line in [
        "Active backend      : 127.0.0.1:9",
        "Standby backend     : localhost:10",
        "Switch timeout      : 3600.00 s",
        "Max queued conns    : 3",
        "Max open conns      : 0",
        "listen() backlog    : 7",
        "Network buffer      : 4096 bytes",
        "Switch loop wait    : 10.00 s",
        "Log file            : here.log",
        "Log level           : DEBUG",
    ] {
        assert!(listed.contains(line), "no '{line}' in:\n{listed}");
    }
    cbpx(&["ctl", "--to", &to, "quit"], dir.path());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    let mut told = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(
        told.contains("'surplus'") && told.contains("'words'"),
        "surplus words are ignored, but not silently: {told}"
    );
}

#[test]
fn what_keeps_it_from_starting_is_named_with_act_object_and_cause_and_exit_1() {
    let dir = TempDir::new("cli");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port().to_string();
    let file = dir.script("file", "").display().to_string();
    let lost = dir.path().join("no/such/place").display().to_string();
    let folder = dir.path().display().to_string();
    let used = dir.path().join("used.sock").display().to_string();
    let _used = UnixListener::bind(&used).unwrap();
    let table: &[(Changes<'_>, [&str; 3])] = &[
        (&[("-p", Some(&taken_port))], ["cannot listen on", &taken_port, "in use"]),
        (&[("-r", Some(&taken_port))], ["remote control", &taken_port, "in use"]),
        // What more is said depends on whether there is a name server to be asked.
        (&[("-a", Some("nosuch.invalid:5432"))], ["active", "nosuch.invalid:5432: ", "name"]),
        (&[("-s", Some("nosuch.invalid:5432"))], ["standby", "nosuch.invalid:5432: ", "name"]),
        (&[("-f", Some(&lost))], ["log file", &lost, "no such file"]),
        (&[("-f", Some(&folder))], ["log file", &folder, "directory"]),
        (&[("--bind", Some("192.0.2.1"))], ["cannot listen on", "192.0.2.1", "cannot assign"]),
        (&[("--rc_socket", Some(&lost))], ["remote control", &lost, "no such file"]),
        (&[("--rc_socket", Some(&file))], ["remote control", &file, "no socket"]),
        (&[("--rc_socket", Some(&used))], ["remote control", &used, "in use"]),
    ];
    for (changes, tokens) in table {
        with(changes).failed_with(1, tokens);
    }
    assert!(fs::metadata(&file).is_ok() && fs::metadata(&used).is_ok(), "what was in the way is still there");
}

#[test]
fn a_start_that_failed_is_in_the_log_too() {
    let dir = TempDir::new("cli");
    let log = dir.path().join("x.log").display().to_string();
    with(&[("-f", Some(&log)), ("-a", Some("nosuch.invalid:5432"))]).failed_with(1, &[]);
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains(" ERROR ") && log.contains("nosuch.invalid:5432"), "{log}");
}

#[test]
fn a_script_that_cannot_run_yet_is_a_warning() {
    let backend = Backend::echo("A");
    let dir = TempDir::new("cli");
    let plain = dir.path().join("plain.sh");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    for (script, cause) in [("missing.sh", "no such file"), (plain.to_str().unwrap(), "permission denied")] {
        let extra = ["-x", script];
        let mut proxy = Proxy::start_with(&backend.address(), &backend.address(), &extra, |command| {
            command.stderr(Stdio::piped());
        });
        assert_eq!(served_by(&mut proxy.connect()), "A");
        proxy.stop();
        let mut told = String::new();
        proxy.child().stderr.take().unwrap().read_to_string(&mut told).unwrap();
        for text in [&told, &proxy.log()] {
            assert!(text.contains(script) && text.contains(cause), "no {script} and {cause} in: {text}");
        }
    }
}

#[test]
fn ipv6_is_served_on_both_sides() {
    // A port that the proxy will not be given.
    let port = Reserved::new();
    let six = TcpListener::bind(("::1", port.port())).unwrap();
    let address = six.local_addr().unwrap().to_string();
    let serving = thread::spawn(move || {
        for stream in six.incoming().take(2) {
            stream.unwrap().write_all(b"six").unwrap();
        }
    });
    let proxy = Proxy::start(&address, &address, &["--bind", "::"]);
    for at in [format!("127.0.0.1:{}", proxy.addr().port()), format!("[::1]:{}", proxy.addr().port())] {
        let mut client = TcpStream::connect(at).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "six");
    }
    serving.join().unwrap();
}

#[test]
fn names_and_unix_sockets_are_backends_too() {
    let dir = TempDir::new("cli");
    let path = dir.path().join("backend.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || unix.accept().unwrap().0.write_all(b"unix").unwrap());
    let named = Backend::echo("A");
    let port = named.address().replace("127.0.0.1:", "");
    let proxy = Proxy::start(&format!("localhost:{port}"), path.to_str().unwrap(), &[]);
    assert_eq!(served_by(&mut proxy.connect()), "A");
    assert!(proxy.ask("stats").contains(&format!(" localhost:{port} ")), "shown as it was typed");
    eventually(SOON, "the client has left", || proxy.stat("active") == 0);
    assert!(proxy.ask("switch").contains("Switch OK"));
    let mut got = String::new();
    proxy.connect().read_to_string(&mut got).unwrap();
    assert_eq!(got, "unix");
    serving.join().unwrap();
}

#[test]
fn control_is_open_to_this_machine_only_unless_told_otherwise_and_clients_are_taken_from_everywhere() {
    let backend = Backend::echo("A");
    let reaches = |port: u16| TcpStream::connect(("127.0.0.2", port)).is_ok();
    let proxy = Proxy::start(&backend.address(), &backend.address(), &[]);
    assert!(reaches(proxy.addr().port()) && !reaches(proxy.control().port()));
    let extra = ["--bind", "127.0.0.1", "--rc_bind", "0.0.0.0"];
    let proxy = Proxy::start(&backend.address(), &backend.address(), &extra);
    assert!(!reaches(proxy.addr().port()) && reaches(proxy.control().port()));
}
