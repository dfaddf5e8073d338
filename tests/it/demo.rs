//! `cbpx demo` as a person or a CI job runs it: in a pipe, to the end, or interrupted.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::command::Killed;
use crate::proxy::{CBPX, finish};
use crate::support::{SOON, TempDir};

/// A running demo with a temporary directory of its own.
struct Demo {
    child: Killed,
    lines: BufReader<ChildStdout>,
    /// Everything read so far.
    seen: String,
    dir: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Demo {
        Demo::start_in(arguments, "")
    }

    /// With this directory below its temporary directory as the temporary directory.
    fn start_in(arguments: &[&str], below: &str) -> Demo {
        let dir = TempDir::new("demo");
        let place = dir.path().join(below);
        fs::create_dir_all(&place).unwrap();
        let mut command = Command::new(CBPX);
        command.arg("demo").args(arguments).env("TMPDIR", place);
        let mut child = Killed::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let lines = BufReader::new(child.0.stdout.take().unwrap());
        Demo { child, lines, seen: String::new(), dir }
    }

    /// Reads until a line contains this. With `--stay` the demo writes rows for ever, so this cannot hang.
    fn read_until(&mut self, words: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "not within {SOON:?}: '{words}':\n{}", self.seen);
            let before = self.seen.len();
            self.lines.read_line(&mut self.seen).unwrap();
            let line = &self.seen[before..];
            assert!(!line.is_empty(), "the demo ended without '{words}':\n{}", self.seen);
            if line.contains(words) {
                return line.to_owned();
            }
        }
    }

    /// To its end; no line may be wider than a terminal.
    fn read_to_end(&mut self) {
        while self.lines.read_line(&mut self.seen).unwrap() > 0 {}
        for line in self.seen.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
    }

    /// The port in the line `echo WORD | nc 127.0.0.1 PORT`.
    fn port(&mut self, word: &str) -> u16 {
        let line = self.read_until(&format!("echo {word} | nc 127.0.0.1 "));
        let port = line.split_once("127.0.0.1 ").unwrap().1.split_whitespace().next().unwrap();
        port.parse().unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    fn signal(&self, signal: Signal) {
        self.child.send(signal);
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait()
    }

    /// Nothing is left in its temporary directory.
    fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// Types one line at a port and returns the answer.
fn ask(port: u16, line: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    writeln!(stream, "{line}").unwrap();
    finish(stream)
}

/// `N` in a line with `N errors`.
fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split_once(word).unwrap_or_else(|| panic!("no '{word}' in: {line}")).0;
    before.split_whitespace().last().unwrap().parse().unwrap_or_else(|e| panic!("{line}: {e}"))
}

#[test]
fn the_demo_moves_everybody_without_an_error_and_says_what_the_same_move_costs_without_cbpx() {
    let mut demo = Demo::start(&[]);
    let control = demo.port("stats");
    let stats = ask(control, "stats");
    assert!(stats.contains("Current backend") && stats.lines().count() == 3, "{stats}");
    demo.read_to_end();
    assert!(demo.wait().success(), "{}", demo.seen);
    let seen = &demo.seen;
    let at = |words: &str| seen.find(words).unwrap_or_else(|| panic!("no {words}:\n{seen}"));
    let (first, rest) = seen[at("Act 1:")..].split_at(at("Act 2:") - at("Act 1:"));
    let (second, rest) = rest.split_at(at("Act 3:") - at("Act 2:"));
    let (third, _) = rest.split_at(at("\nVerdict:") - at("Act 3:"));
    assert!(first.contains("Switch OK!") && first.contains("Green serves"), "{seen}");
    assert!(second.contains("Switch failed: script exited with code: 1") && second.contains("Green serves"), "{seen}");
    assert!(!first.contains("Switch failed") && !second.contains("Switch OK"), "{seen}");
    assert!(third.contains("without cbpx") && third.contains("stop blue") && third.contains("Green serves"), "{seen}");

    let line = |words: &str| seen.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{seen}"));
    let (with, without) = (line("  with cbpx, twice "), line("  without it, once "));
    assert_eq!((number_before(with, " errors"), number_before(with, " at the wrong server")), (0, 0));
    assert!(number_before(with, " answers") > 100 && number_before(without, " answers") > 100, "{seen}");
    // A connection in each of the 55 clients' hands, or the next one, met a server that was not there.
    let errors = number_before(without, " errors");
    let wrong = number_before(without, " at the wrong server");
    assert!(errors >= 50, "{without}");
    let told = third.lines().find(|line| line.contains(" requests failed")).unwrap_or_else(|| panic!("{third}"));
    assert_eq!(number_before(told, " requests failed"), errors + wrong, "the same number everywhere");
    let column = |line: &str| line.split_whitespace().last().unwrap_or_default().to_owned();
    let rows: Vec<&str> = third.lines().filter(|line| line.contains(" blue  ") || line.contains(" green  ")).collect();
    assert_eq!(rows.first().map(|row| column(row)), Some("0".to_owned()), "no error before the move: {third}");
    assert_eq!(rows.last().map(|row| column(row)), Some((errors + wrong).to_string()), "nor after it: {third}");

    assert!(seen.contains("\nGood:") && !seen.contains("\nBad:"), "{seen}");
    let rows = seen.lines().filter(|line| line.contains(" blue  ") || line.contains(" green  "));
    assert!(rows.count() >= 10, "a row each half second:\n{seen}");
    assert!(!seen.contains(['\x1b', '\r']), "control codes in a pipe: {seen:?}");
    assert!(at("demo --stay") < at("Act 1:"), "how to join in, before there is anything to join");
    demo.assert_clean();
}

#[test]
fn the_demo_is_over_in_less_than_twelve_seconds() {
    // On a machine that does much else: of three runs, one.
    let quick = (0..3).any(|_| {
        let began = Instant::now();
        let mut demo = Demo::start(&[]);
        demo.read_to_end();
        assert!(demo.wait().success(), "{}", demo.seen);
        began.elapsed() < Duration::from_secs(12)
    });
    assert!(quick, "three runs of twelve seconds or more");
}

#[test]
fn ctrl_c_while_the_clients_have_no_proxy_ends_the_demo_and_nothing_stays_behind() {
    let mut demo = Demo::start(&[]);
    demo.read_until("$ switch.sh ");
    demo.signal(Signal::INT);
    demo.read_to_end();
    assert_eq!(demo.wait().code(), Some(1), "{}", demo.seen);
    assert!(demo.seen.contains("no verdict") && !demo.seen.contains("Verdict:"), "{}", demo.seen);
    demo.assert_clean();
}

#[test]
fn a_temporary_directory_with_a_long_name_makes_no_line_of_the_demo_wider_than_a_terminal() {
    let mut demo = Demo::start_in(&[], &"long/".repeat(16));
    let line = demo.read_until("switch.sh");
    assert!(line.contains("-x $TMPDIR/cbpx-demo-"), "{line}");
    demo.signal(Signal::INT);
    demo.read_to_end();
    demo.wait();
}

#[test]
fn a_demo_that_stays_takes_switches_both_ways_and_ends_in_order_on_ctrl_c() {
    let mut demo = Demo::start(&["--stay"]);
    let (control, proxy) = (demo.port("stats"), demo.port("hello"));
    demo.read_until("Ctrl-C ends the demo");
    assert_eq!(ask(proxy, "hello"), "green\n", "the first act moved everybody");
    for server in ["blue\n", "green\n"] {
        let answer = ask(control, "switch");
        assert!(answer.contains("Switch OK!"), "{answer}");
        assert_eq!(ask(proxy, "hello"), server);
    }
    demo.signal(Signal::INT);
    demo.read_to_end();
    assert!(demo.wait().success(), "{}", demo.seen);
    let since = demo.seen.lines().last().unwrap_or_default();
    assert_eq!((number_before(since, " errors"), number_before(since, " at the wrong server")), (0, 0), "{since}");
    demo.assert_clean();
}

#[test]
fn a_script_that_is_killed_half_way_does_not_send_the_demos_clients_to_a_demoted_server() {
    let mut demo = Demo::start(&["--stay"]);
    let control = demo.port("stats");
    demo.read_until("Ctrl-C ends the demo");
    let mut switch = TcpStream::connect((Ipv4Addr::LOCALHOST, control)).unwrap();
    switch.set_read_timeout(Some(SOON)).unwrap();
    writeln!(switch, "switch").unwrap();
    let mut answer = BufReader::new(switch);
    let mut line = String::new();
    while !line.contains("asked to step down") {
        line.clear();
        assert!(answer.read_line(&mut line).unwrap() > 0, "the switch ended before its script began");
    }
    let undone = ask(control, "abort");
    assert!(undone.contains("undone"), "{undone}");
    for _ in 0..4 {
        demo.read_until(" green  ");
    }
    demo.signal(Signal::INT);
    demo.read_to_end();
    let since = demo.seen.lines().last().unwrap_or_default();
    assert_eq!((number_before(since, " errors"), number_before(since, " at the wrong server")), (0, 0), "{since}");
    assert!(demo.wait().success(), "{}", demo.seen);
}

#[test]
fn ctrl_c_in_the_middle_of_a_switch_ends_the_demo_without_a_verdict() {
    let mut demo = Demo::start(&[]);
    demo.read_until("asked to step down");
    demo.signal(Signal::INT);
    demo.read_to_end();
    assert_eq!(demo.wait().code(), Some(1), "{}", demo.seen);
    assert!(demo.seen.contains("no verdict") && !demo.seen.contains("Verdict:"), "{}", demo.seen);
    demo.assert_clean();
}

#[test]
fn quit_force_at_the_control_port_ends_the_demo() {
    let mut demo = Demo::start(&["--stay"]);
    let control = demo.port("stats");
    demo.read_until(" blue  ");
    ask(control, "quit force");
    demo.read_to_end();
    assert_eq!(demo.wait().code(), Some(1), "{}", demo.seen);
    assert!(demo.seen.contains("told to quit"), "{}", demo.seen);
    demo.assert_clean();
}

#[test]
fn a_reader_that_leaves_ends_the_demo_and_nothing_stays_behind() {
    let dir = TempDir::new("demo");
    let mut command = Command::new(CBPX);
    command.args(["demo", "--stay"]).env("TMPDIR", dir.path()).stderr(Stdio::piped());
    let mut child = Killed::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    drop(child.0.stdout.take());
    let mut words = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(child.wait().code(), Some(1));
    assert!(words.contains("cannot write to standard output"), "{words}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_unknown_flag_of_the_demo_is_a_usage_error() {
    let output = Command::new(CBPX).args(["demo", "--forever"]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(words.contains("--forever") && words.contains("Usage: cbpx demo"), "{words}");
}

#[test]
fn no_line_of_the_demos_help_is_wider_than_a_terminal() {
    let output = Command::new(CBPX).args(["demo", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("--stay") && help.lines().all(|line| line.chars().count() <= 80), "{help}");
}
