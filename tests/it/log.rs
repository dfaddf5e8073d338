//! The log: its format, what is logged at which level, rotation, and disks that are full or hang.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::command::run;
use crate::proxy::Proxy;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::{Session, served_by};

fn proxy(extra: &[&str]) -> (Proxy, Backend) {
    let backend = Backend::echo("A");
    (Proxy::start(&backend.address(), &backend.address(), extra), backend)
}

/// One line's fields: date and time, level, thread, the rest.
fn fields(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (stamp, rest) = line.split_at_checked(23)?;
    let digits: String = stamp.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    let (level, rest) = rest.strip_prefix(' ')?.split_at_checked(7)?;
    let (thread, rest) = rest.strip_prefix(" [")?.split_once("] ")?;
    let (module, rest) = rest.strip_prefix('(')?.split_once(") [L:")?;
    let (line, text) = rest.split_once("] ")?;
    let well_formed = digits == "9999-99-99 99:99:99,999"
        && ["DEBUG  ", "INFO   ", "WARNING", "ERROR  "].contains(&level)
        && thread.len() >= 10
        && module.starts_with("cbpx::")
        && line.parse::<u32>().is_ok()
        && !text.is_empty();
    well_formed.then_some((stamp, level.trim_end(), thread.trim_end(), text))
}

/// Whether there is a line of this level that contains all of these.
fn tells(log: &str, level: &str, tokens: &[&str]) -> bool {
    let lines = log.lines().filter_map(fields);
    lines.filter(|(_, of, ..)| *of == level).any(|(.., text)| tokens.iter().all(|token| text.contains(token)))
}

#[test]
fn every_line_has_the_layout() {
    let (mut proxy, _backend) = proxy(&["-l", "DEBUG"]);
    served_by(&mut proxy.connect());
    eventually(SOON, "the client has left", || proxy.stat("active") == 0);
    proxy.ask("switch");
    proxy.ask("\x1b[31m red");
    proxy.stop();
    let log = proxy.log();
    assert!(log.lines().count() > 10, "{log}");
    for line in log.lines() {
        assert!(fields(line).is_some(), "{line}");
    }
    let stamps: Vec<_> = log.lines().filter_map(fields).map(|(stamp, ..)| stamp).collect();
    assert!(stamps.is_sorted(), "{stamps:?}");
    let threads: Vec<_> = log.lines().filter_map(fields).map(|(_, _, thread, _)| thread).collect();
    assert!(threads.contains(&"main") && threads.contains(&"coordinator"), "{threads:?}");
}

#[test]
fn info_tells_of_start_end_commands_and_switches_and_not_of_each_client() {
    let (mut proxy, backend) = proxy(&[]);
    served_by(&mut proxy.connect());
    eventually(SOON, "the client has left", || proxy.stat("active") == 0);
    proxy.ask("switch");
    proxy.ask("set max_queued_conns 77");
    proxy.ask("quit");
    proxy.wait();
    let log = proxy.log();
    let port = proxy.addr().port().to_string();
    let arrow = format!("Starting switch: {} -> ", backend.address());
    for tokens in [
        &["cbpx", env!("CARGO_PKG_VERSION"), "started", &port][..],
        &["from 127.0.0.1:", ": switch"],
        &["set max_queued_conns 77"],
        &[&arrow],
        &["Switch OK!: all connections closed"],
        &["ended"],
    ] {
        assert!(tells(&log, "INFO", tokens), "no {tokens:?} in:\n{log}");
    }
    assert!(!log.contains("DEBUG") && !log.contains("accepted"), "{log}");
}

#[test]
fn trouble_is_told_at_its_level() {
    let (dead, quiet) = (Reserved::new(), Backend::echo("B"));
    let dead = format!("127.0.0.1:{}", dead.port());
    for level in ["WARNING", "ERROR"] {
        let proxy = Proxy::start(&dead, &quiet.address(), &["-l", level, "-t", "0"]);
        drop(proxy.connect());
        eventually(SOON, "the failed dial is told", || {
            tells(&proxy.log(), "ERROR", &["cannot connect", &dead, "refused"])
        });
        proxy.ask("switch");
        if level == "WARNING" {
            eventually(SOON, "the failed switch is told", || {
                tells(&proxy.log(), "WARNING", &["Switch failed: switch timeout"])
            });
        }
        let log = proxy.log();
        assert!(!log.contains(" INFO ") && !log.contains(" DEBUG "), "{log}");
        assert!(level == "WARNING" || !log.contains(" WARNING "), "{log}");
    }
}

#[test]
fn debug_tells_the_life_of_a_connection_with_its_id_addresses_bytes_times_and_end() {
    let (proxy, backend) = proxy(&["-l", "DEBUG"]);
    let mut client = proxy.connect();
    let peer = client.local_addr().unwrap().to_string();
    served_by(&mut client);
    drop(client);
    let of_client = || {
        let log = proxy.log();
        let lines = log.lines().filter_map(fields).map(|(.., text)| text.to_owned());
        lines.filter(|text| text.starts_with(&format!("client 0 from {peer}: "))).collect::<Vec<_>>()
    };
    eventually(SOON, "its end is told", || of_client().iter().any(|text| text.contains("closed")));
    let life = of_client();
    assert_eq!(life.len(), 4, "{life:?}");
    assert!(life[0].contains("accepted"), "{life:?}");
    assert!(life[1].contains("dials") && life[1].contains(&backend.address()), "{life:?}");
    assert!(life[2].contains("connected") && life[2].contains(&backend.address()), "{life:?}");
    for token in ["the client ended first", "4 bytes up", "6 down", " s in all", " s held"] {
        assert!(life[3].contains(token), "no '{token}' in {life:?}");
    }
}

#[test]
fn after_a_rename_sighup_starts_a_new_file() {
    let (mut proxy, _backend) = proxy(&[]);
    proxy.ask("hello before");
    let old = proxy.log_path().with_extension("log.1");
    eventually(SOON, "it is in the log", || proxy.log().contains("hello before"));
    fs::rename(proxy.log_path(), &old).unwrap();
    proxy.ask("hello between");
    eventually(SOON, "the open file is written to", || fs::read_to_string(&old).unwrap().contains("hello between"));
    proxy.signal(Signal::HUP);
    eventually(SOON, "there is a new file", || proxy.log_path().exists());
    proxy.ask("hello after");
    eventually(SOON, "it is in the new file", || proxy.log().contains("hello after"));
    assert!(!fs::read_to_string(&old).unwrap().contains("hello after"));
    assert!(!proxy.log().contains("hello between"), "no line is in both");
    assert!(proxy.is_running());
}

#[test]
fn a_file_that_cannot_be_opened_again_leaves_the_old_one_in_use() {
    let dir = TempDir::new("log");
    let folder = dir.path().join("logs");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("x.log");
    let backend = Backend::echo("A");
    let extra = ["-f", file.to_str().unwrap()];
    let mut proxy = Proxy::start_with(&backend.address(), &backend.address(), &extra, |command| {
        command.stderr(Stdio::piped());
    });
    let moved = dir.path().join("moved");
    fs::rename(&folder, &moved).unwrap();
    proxy.signal(Signal::HUP);
    let read = || fs::read_to_string(moved.join("x.log")).unwrap();
    eventually(SOON, "the signal is told", || read().contains("SIGHUP"));
    proxy.ask("hello after");
    eventually(SOON, "the old file is written to", || read().contains("hello after"));
    proxy.stop();
    let mut told = String::new();
    proxy.child().stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("cannot reopen log file") && told.contains("No such file or directory;"), "{told}");
}

#[test]
fn it_is_appended_to() {
    let dir = TempDir::new("log");
    let file = dir.path().join("x.log");
    for _ in 0..2 {
        let (mut proxy, _backend) = proxy(&["-f", file.to_str().unwrap()]);
        proxy.stop();
    }
    let log = fs::read_to_string(file).unwrap();
    assert_eq!(log.matches(" started: ").count(), 2, "{log}");
}

#[test]
fn a_full_disk_costs_lines_and_is_told_once_on_standard_error() {
    let backend = Backend::echo("A");
    let mut proxy = Proxy::start_with(&backend.address(), &backend.address(), &["-f", "/dev/full"], |command| {
        command.stderr(Stdio::piped());
    });
    for _ in 0..20 {
        assert_eq!(served_by(&mut proxy.connect()), "A");
        assert!(proxy.ask("hello").contains("Hello!"));
    }
    assert!(proxy.ask("switch").contains("Switch"));
    assert_eq!(proxy.stop().code(), Some(0));
    let mut told = String::new();
    proxy.child().stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told.matches("/dev/full").count(), 1, "{told}");
    assert!(told.contains("cannot write to log file") && told.contains("No space left"), "{told}");
}

/// Runs what may block for ever where the proxy is wrong: opening a pipe and reading from it know no time limit.
fn soon(act: impl FnOnce() + Send + 'static) {
    let acting = thread::spawn(act);
    eventually(SOON, "there is somebody at the other end of the pipe", || acting.is_finished());
    acting.join().unwrap();
}

fn pipe(dir: &TempDir) -> PathBuf {
    let pipe = dir.path().join("pipe");
    assert_eq!(run(Command::new("mkfifo").arg(&pipe)).code, Some(0));
    pipe
}

#[test]
fn a_pipe_that_nobody_reads_yet_keeps_lines_for_whoever_comes_and_one_that_nobody_reads_any_more_is_no_failure() {
    let dir = TempDir::new("log");
    let path = pipe(&dir);
    let backend = Backend::echo("A");
    let mut proxy =
        Proxy::start_with(&backend.address(), &backend.address(), &["-f", path.to_str().unwrap()], |command| {
            command.stderr(Stdio::piped());
        });
    // One reader for all of them: it may take more from the pipe than it has been asked for.
    let read_to = |tokens: &'static [&'static str]| {
        let path = path.clone();
        soon(move || {
            let mut reader = BufReader::new(fs::File::open(path).unwrap());
            let mut told = String::new();
            while !tokens.iter().all(|token| told.contains(token)) {
                assert_ne!(reader.read_line(&mut told).unwrap(), 0, "the log has ended: {told}");
            }
        });
    };
    read_to(&[" started: "]);
    // The pipe has no reader now.
    proxy.signal(Signal::HUP);
    assert_eq!(served_by(&mut proxy.connect()), "A");
    assert!(proxy.ask("hello unheard").contains("Hello!"));
    read_to(&["SIGHUP", "hello unheard"]);
    assert_eq!(proxy.stop().code(), Some(0));
    let mut told = String::new();
    proxy.child().stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told, "");
}

#[test]
fn an_access_log_that_is_a_pipe_without_a_reader_starts_as_well() {
    let (dir, backend) = (TempDir::new("log"), Backend::echo("A"));
    let path = pipe(&dir);
    let proxy = Proxy::start(&backend.address(), &backend.address(), &["--access_log", path.to_str().unwrap()]);
    served_by(&mut proxy.connect());
    soon(move || {
        let mut line = String::new();
        BufReader::new(fs::File::open(path).unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("\"GET 127.0.0.1\" 200 "), "{line}");
    });
}

#[test]
fn standard_output_and_standard_error_are_logs_also_where_they_are_sockets() {
    let backend = Backend::echo("A");
    for (path, is_output) in [("-", true), ("/dev/stdout", true), ("/dev/stderr", false)] {
        // As under systemd.
        let (own, other) = UnixStream::pair().unwrap();
        own.set_read_timeout(Some(SOON)).unwrap();
        let dir = TempDir::new("log");
        let mut proxy = Proxy::start_with(&backend.address(), &backend.address(), &["-f", path], |command| {
            command.current_dir(dir.path());
            let end = Stdio::from(OwnedFd::from(other));
            if is_output {
                command.stdout(end)
            } else {
                command.stderr(end)
            };
        });
        proxy.signal(Signal::HUP);
        assert!(proxy.ask("hello there").contains("Hello!"));
        assert_eq!(proxy.stop().code(), Some(0));
        let mut told = String::new();
        (&own).read_to_string(&mut told).unwrap();
        for token in [" started: ", "SIGHUP", "hello there", "cbpx ended"] {
            assert!(told.contains(token), "{path}: no '{token}' in {told}");
        }
        assert!(!dir.path().join("-").exists(), "no file of that name");
    }
}

#[test]
fn a_log_that_cannot_be_written_to_is_told_by_its_kind() {
    let (dir, backend) = (TempDir::new("log"), Backend::echo("A"));
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let port = Reserved::new();
    let ran = crate::command::cbpx(
        &[
            "-p",
            &port.port().to_string(),
            "-a",
            &backend.address(),
            "-s",
            "127.0.0.1:9",
            "-t5",
            "-c9",
            "-o0",
            "-fsocket",
        ],
        dir.path(),
    );
    ran.failed_with(1, &["cannot open log file socket: it is a socket"]);
}

#[test]
fn a_disk_that_hangs_holds_up_nobody() {
    let dir = TempDir::new("log");
    let pipe = pipe(&dir);
    // Opened without waiting for a writer, and not read from: what a pipe holds is all that can be written.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut reader = OpenOptions::new().read(true).custom_flags(nonblock).open(&pipe).unwrap();
    let backend = Backend::echo("A");
    let extra = ["-f", pipe.to_str().unwrap(), "-l", "DEBUG"];
    let mut proxy = Proxy::start_with(&backend.address(), &backend.address(), &extra, |command| {
        command.stderr(Stdio::piped());
    });
    let noise = ["hello"; 400].join(";");
    let mut clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    for round in 0..600 {
        served_by(&mut clients[round % 3]);
        served_by(&mut proxy.connect());
    }
    assert!(proxy.ask(&noise).contains("Hello!"), "control answers");
    assert!(Session::send(&proxy, b"switch\n").line().contains("Starting switch"));
    drop(clients);
    assert_eq!(proxy.stop().code(), Some(0));
    let mut told = String::new();
    proxy.child().stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("the log's disk does not answer"), "{told}");
    let mut written = Vec::new();
    reader.read_to_end(&mut written).unwrap();
    assert!(written.len() >= 60 * 1024, "the pipe was full: {} bytes", written.len());
}
