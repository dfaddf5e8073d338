//! Everything that passes, shown on standard output.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::process::{ChildStdout, Stdio};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::ends::{Server, pattern, read_rest, read_text};
use crate::program::Program;
use crate::service::connect;
use crate::talk::served_by;

fn showing(backend: &str) -> Program {
    Program::start(&[&format!("backend={backend}"), "show=1", "log=log"], |command| {
        command.stdout(Stdio::piped());
    })
}

/// The dump: what comes before it (the test's own heading, and the client that looked whether it accepts) is passed
/// over.
fn dump(program: &mut Program) -> BufReader<ChildStdout> {
    BufReader::new(program.child.0.stdout.take().unwrap())
}

/// Reads lines until one begins like this, and returns it.
fn line(dump: &mut impl BufRead, start: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(dump.read_line(&mut line).unwrap(), 0, "the end came before '{start}'");
        if line.starts_with(start) {
            return line;
        }
    }
}

#[test]
fn both_ways_are_shown_in_order_with_their_ends() {
    let server = Server::new();
    let mut program = showing(&server.address());
    drop(server.accept());
    let mut dump = dump(&mut program);
    let (mut client, mut far) = (connect(program.address()), server.accept());
    client.write_all(b"GET \\\r\n").unwrap();
    assert_eq!(read_text(&far, 7), "GET \\\r\n");
    far.write_all(b"\xffx").unwrap();
    client.read_exact(&mut [0; 2]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far), b"");
    drop(far);
    assert_eq!(line(&mut dump, "-> 7"), "-> 7\n");
    let mut rest = vec![0; b"GET \\\\\\0D\\0A\n\n-< 2\n\\FFx\n-> 0\n\n-< 0\n\n".len()];
    dump.read_exact(&mut rest).unwrap();
    assert_eq!(String::from_utf8(rest).unwrap(), "GET \\\\\\0D\\0A\n\n-< 2\n\\FFx\n-> 0\n\n-< 0\n\n");
}

#[test]
fn large_transfers_arrive_whole_and_are_shown_to_the_last_byte() {
    const LENGTH: usize = 3 << 20;
    let server = Server::new();
    let mut program = showing(&server.address());
    drop(server.accept());
    let mut dump = dump(&mut program);
    let (client, mut far) = (connect(program.address()), server.accept());
    let shown = std::thread::scope(|scope| {
        let shown = scope.spawn(|| {
            let mut total = 0;
            while total < LENGTH {
                total += line(&mut dump, "-< ")[3..].trim_end().parse::<usize>().unwrap();
            }
            total
        });
        scope.spawn(|| {
            far.write_all(&pattern(LENGTH)).unwrap();
            far.shutdown(Shutdown::Write).unwrap();
        });
        assert!(read_rest(&client) == pattern(LENGTH));
        shown.join().unwrap()
    });
    assert_eq!(shown, LENGTH);
}

#[test]
fn standard_output_that_nobody_reads_or_that_is_closed_stops_no_client() {
    const LENGTH: usize = 24 << 20;
    for closed in [false, true] {
        let server = Server::new();
        let mut program = showing(&server.address());
        drop(server.accept());
        let output = program.child.0.stdout.take().unwrap();
        let output = (!closed).then_some(output);
        let (client, mut far) = (connect(program.address()), server.accept());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                far.write_all(&pattern(LENGTH)).unwrap();
                far.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_rest(&client) == pattern(LENGTH), "closed: {closed}");
        });
        drop(client);
        program.signal(Signal::TERM);
        assert_eq!(program.wait().code(), Some(0), "closed: {closed}");
        if closed {
            assert!(program.read("log").contains("cannot write to standard output"), "{}", program.read("log"));
        }
        drop(output);
    }
}

#[test]
fn nothing_is_shown_unless_it_is_asked_for() {
    let backend = Backend::echo("A");
    let mut program = Program::start(&[&format!("backend={}", backend.address())], |command| {
        command.stdout(Stdio::piped());
    });
    assert_eq!(served_by(&mut connect(program.address())), "A");
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
    let mut shown = String::new();
    program.child.0.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    assert!(!shown.contains("->") && !shown.contains("-<"), "{shown}");
}
