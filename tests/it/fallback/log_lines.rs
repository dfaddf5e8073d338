//! What is logged, to the token: start, failures, statistics, debugging.

use std::io::{Read, Write};

use super::program::{Absent, Fallback};
use crate::backend::Backend;
use crate::ends::Server;
use crate::support::{SOON, eventually};
use crate::talk::served_by;

/// `2012/01/02 03:04:05 ` and the rest of the line.
fn without_date(line: &str) -> &str {
    let shape = |text: &str| -> String { text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect() };
    let (date, text) = line.split_at_checked(20).unwrap_or_else(|| panic!("too short: {line}"));
    assert_eq!(shape(date), "0000/00/00 00:00:00 ", "{line}");
    text
}

fn texts(fallback: &Fallback) -> Vec<String> {
    fallback.lines().iter().map(|line| without_date(line).to_owned()).collect()
}

#[test]
fn the_start_is_told_in_the_old_words_and_order() {
    let (first, second) = (Backend::echo("a"), Backend::echo("b"));
    let fallback = Fallback::start(&[], &[&first.address(), &second.address()]);
    let expected = [
        "Starting tcp_fallback ver 0.1".to_owned(),
        "Initializing 2 backend~s".to_owned(),
        format!("Backend {} added", first.address()),
        format!("Backend {} added", second.address()),
        format!("Listening on {}", fallback.addr()),
    ];
    assert_eq!(texts(&fallback)[..5], expected);
}

#[test]
fn failures_are_told_with_the_backend_as_typed_and_the_cause() {
    let absent = Absent::new();
    let fallback = Fallback::start(&[], &[&absent.address(), "nowhere"]);
    let probe = fallback.says(&format!("Failed to connect to backend {}", absent.address()));
    assert_eq!(without_date(&probe), format!("Failed to connect to backend {}: Connection refused", absent.address()));
    fallback.says("Backend nowhere added");
    fallback.says("Failed to connect to backend nowhere: ");
    let before = fallback.count("Failed to connect to backend");
    drop(fallback.connect());
    let gone = fallback.says("Failed to connect to any backend");
    assert_eq!(without_date(&gone), "Failed to connect to any backend");
    assert_eq!(fallback.count("Failed to connect to backend"), before + 2, "one for each, for the client");
}

/// The values of a STATS line.
struct Stats {
    failed: String,
    downtime: String,
    numbers: [u64; 3],
    last: String,
}

fn stats(line: &str, address: &str) -> Stats {
    let rest = without_date(line).strip_prefix(&format!("STATS: <{address}> failed=")).expect(line);
    let (failed, rest) = rest.split_once(" (downtime=").expect(line);
    let (downtime, rest) = rest.split_once(") requests=").expect(line);
    let (requests, rest) = rest.split_once(" bytes=").expect(line);
    let (bytes, rest) = rest.split_once(" errors=").expect(line);
    let (errors, last) = rest.split_once(" last=").expect(line);
    Stats {
        failed: failed.to_owned(),
        downtime: downtime.to_owned(),
        numbers: [requests, bytes, errors].map(|text| text.parse().expect(line)),
        last: last.to_owned(),
    }
}

#[test]
fn statistics_have_a_line_for_each_backend_in_list_order() {
    let (server, absent) = (Backend::echo("s"), Absent::new());
    let (up, down) = (server.address(), absent.address());
    let fallback = Fallback::start(&["-stats", "20ms"], &[&up, &down]);
    let mut client = fallback.connect();
    assert_eq!(served_by(&mut client), "s");
    drop(client);
    // `who?` and `s:who?`.
    let line = fallback.says("requests=1 bytes=10 errors=0");
    let told = stats(&line, &up);
    assert_eq!((told.failed.as_str(), told.downtime.as_str()), ("false", "0s"));
    assert_eq!(told.numbers, [1, 10, 0]);
    let shape: String = told.last.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert!(shape.starts_with("0000-00-00 00:00:00.000 ") && shape.len() > 30, "a time: {}", told.last);

    fallback.says(&format!("STATS: <{down}> failed=true"));
    let lines: Vec<String> = texts(&fallback).into_iter().filter(|line| line.starts_with("STATS: ")).collect();
    for pair in lines.chunks_exact(2) {
        assert!(pair[0].contains(&up) && pair[1].contains(&down), "{pair:?}");
    }
    // The downtime grows while it is down.
    let line = fallback.says_times(&format!("STATS: <{down}> failed=true"), 60).pop().unwrap();
    let told = stats(&line, &down);
    assert_eq!(told.numbers, [0, 0, 1], "the probe at the start");
    assert!(told.downtime.ends_with('s') && told.downtime.starts_with(|c: char| c.is_ascii_digit()), "{line}");
    assert_ne!(told.downtime, "0s");
}

#[test]
fn the_downtime_of_all_outages_is_added_up_and_stays() {
    let (absent, other) = (Absent::new(), Backend::echo("other"));
    let flags = ["-stats", "20ms", "-probe-delay", "300ms"];
    let fallback = Fallback::start(&flags, &[&absent.address(), &other.address()]);
    fallback.says("Failed to connect to backend");
    let _server = absent.arrives();
    let back = fallback.says("Backend is back");
    let outage = back.rsplit(' ').next().unwrap();
    let mut told = Vec::new();
    eventually(SOON, "it is told ten times that it works", || {
        let lines = fallback.lines().into_iter().skip_while(|line| *line != back);
        told = lines.filter(|line| line.contains(&format!("STATS: <{}>", absent.address()))).collect();
        told.len() >= 10
    });
    for line in told {
        let told = stats(&line, &absent.address());
        assert_eq!((told.failed.as_str(), told.downtime.as_str()), ("false", outage), "{line}");
    }
}

#[test]
fn no_interval_no_statistics() {
    let server = Backend::echo("s");
    let fallback = Fallback::start(&["-stats", "0s"], &[&server.address()]);
    for _ in 0..20 {
        assert_eq!(served_by(&mut fallback.connect()), "s");
    }
    assert_eq!(fallback.count("STATS"), 0);
}

#[test]
fn debug_adds_the_old_lines() {
    let (absent, server) = (Absent::new(), Server::new());
    let (down, up) = (absent.address(), server.address());
    let fallback = Fallback::start(&["-debug", "-probe-delay", "300ms"], &[&down, &up]);
    server.accept();
    fallback.says(&format!("DEBUG: <{up}> probe succedded"));
    fallback.says(&format!("Failed to connect to backend {down}"));
    let (mut client, mut served) = (fallback.connect(), server.accept());
    fallback.says(&format!("DEBUG: <{down}> skipping backend in failed state"));
    let from = client.local_addr().unwrap();
    let start = fallback.says(&format!("Start transfer {from} to {up}"));
    assert_eq!(without_date(&start), format!("DEBUG: <{up}> Start transfer {from} to {up}"));
    client.write_all(b"four").unwrap();
    served.read_exact(&mut [0; 4]).unwrap();
    served.write_all(b"and ten").unwrap();
    client.read_exact(&mut [0; 7]).unwrap();
    assert_eq!(fallback.count("Finished transfer"), 0);
    drop((client, served));
    let end = fallback.says("Finished transfer");
    assert!(
        without_date(&end).starts_with(&format!("DEBUG: <{up}> Finished transfer {from} to {up}: 4 bytes, 7 back"))
    );

    let first = absent.arrives();
    fallback.says(&format!("DEBUG: <{down}> probe succedded"));
    drop(first);
    eventually(SOON, "nobody listens there", || std::net::TcpStream::connect(&down).is_err());
    // One that has left would not be connected to any server.
    let _client = fallback.connect();
    fallback.says(&format!("DEBUG: <{down}> skipping probe, next: 2"));
}

#[test]
fn without_debug_there_are_no_such_lines() {
    let (absent, server) = (Absent::new(), Backend::echo("s"));
    let fallback = Fallback::start(&[], &[&absent.address(), &server.address()]);
    fallback.says("Failed to connect");
    assert_eq!(served_by(&mut fallback.connect()), "s");
    assert!(fallback.lines().iter().all(|line| !line.contains("DEBUG")));
}

#[test]
fn a_log_that_nobody_reads_makes_no_client_wait() {
    let server = Backend::echo("s");
    // A pipe that is full after 64 KiB.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filled = writer.try_clone().unwrap();
    rustix::io::ioctl_fionbio(&filled, true).unwrap();
    while filled.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&filled, false).unwrap();
    let mut fallback =
        Fallback::spawn("127.0.0.1:PORT", &["-debug", "-stats", "1ms"], &[&server.address()], |command| {
            // The standard error that is read by the test is replaced by a shell that becomes the program.
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(command.get_program()).args(command.get_args());
            shell.stdin(std::process::Stdio::null()).stdout(writer);
            *command = shell;
        });
    eventually(SOON, "it listens", || std::net::TcpStream::connect(fallback.addr()).is_ok());
    for _ in 0..100 {
        assert_eq!(served_by(&mut fallback.connect()), "s");
    }
    assert!(fallback.is_running());
    drop(reader);
}
