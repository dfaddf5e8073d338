//! The control protocol: how a command reaches the proxy, what it is answered, and how long anybody may take.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::support::{SOON, eventually, thread_pairs};
use crate::talk::{Session, all_sessions, served_by};

const HELLO: &str = concat!("cbpx ", env!("CARGO_PKG_VERSION"));

fn proxy(extra: &[&str]) -> (Proxy, Backend) {
    let backend = Backend::echo("A");
    (Proxy::start(&backend.address(), &backend.address(), extra), backend)
}

#[test]
fn a_command_is_taken_with_any_line_end_and_with_none() {
    let (proxy, _backend) = proxy(&[]);
    for sent in [
        &b"hello"[..],
        b"hello\n",
        b"hello\r\n",
        b"  hello \t \r\n",
        b"hello there, extra words\n",
        b"\xff\xfd\x01\xff\xfb\x1fhello\r\n",
        b"\xff\xfa\x18\x00xterm\xff\xf0hello\r\0",
    ] {
        // Our sending side stays open: no end of input tells the proxy that the command is complete.
        let answer = Session::send(&proxy, sent).rest();
        assert!(answer.starts_with(" Hello! ") && answer.contains(HELLO), "{sent:?}: {answer}");
        assert_eq!(answer.matches('\n').count(), 1, "{sent:?}: {answer}");
    }
    let at_end_of_input = Session::send(&proxy, b"hello");
    at_end_of_input.end_sending();
    assert!(at_end_of_input.rest().contains(HELLO));
}

#[test]
fn one_line_is_one_session_and_semicolons_separate_commands() {
    let (proxy, _backend) = proxy(&[]);
    assert_eq!(proxy.ask("hello\nthreads").matches('\n').count(), 1, "the second line gets nothing");
    let answer = proxy.ask("hello;stats ;; bla;abort");
    let heads: Vec<&str> = answer.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(heads, ["Hello!", "SWtime", "------", "[n/a]", "Unknown", "No"]);
}

#[test]
fn an_empty_line_is_closed_with_a_reason_and_an_empty_session_is_closed() {
    let (proxy, _backend) = proxy(&[]);
    for sent in [&b"\n"[..], b"\r\n", b"   \n", b"\t", b" \r\nhello\n"] {
        assert_eq!(Session::send(&proxy, sent).rest(), " Closing: the line is empty\n", "{sent:?}");
    }
    let silent = Session::send(&proxy, b"");
    silent.end_sending();
    assert_eq!(silent.rest(), "");
}

#[test]
fn a_line_may_have_4_kib_and_no_more() {
    let (proxy, _backend) = proxy(&[]);
    let longest = [b"hello ".as_slice(), &[b'x'; 4096 - 6]].concat();
    assert!(Session::send(&proxy, &[&longest, b"\n".as_slice()].concat()).rest().contains(HELLO));
    for end in [&b""[..], b"\n"] {
        let answer = Session::send(&proxy, &[&longest, b"x".as_slice(), end].concat()).rest();
        assert_eq!(answer, " Closing: the line is longer than 4 KiB\n");
    }
}

#[test]
fn any_bytes_are_an_unknown_command_and_do_not_come_back_as_control_characters() {
    let (proxy, _backend) = proxy(&[]);
    let answer = Session::send(&proxy, b"\x1b[2J\x07\x00\xc3\x28 x\n").rest();
    assert!(answer.starts_with(" Unknown command: '"), "{answer:?}");
    assert!(!answer.trim_end().contains(char::is_control), "{answer:?}");
    for (line, said) in [("bla bla", "bla"), ("HELLO", "HELLO"), ("quitforce", "quitforce"), ("statsx", "statsx")] {
        assert_eq!(proxy.ask(line), format!(" Unknown command: '{said}'\n"));
    }
}

#[test]
fn whoever_has_no_complete_line_after_ten_seconds_is_closed_and_holds_up_nobody() {
    let (proxy, _backend) = proxy(&[]);
    let begun = Instant::now();
    let silent: Vec<Session> = (0..3).map(|_| Session::send(&proxy, b"")).collect();
    // Telnet's negotiation is no line.
    let mut negotiating = TcpStream::connect(proxy.control()).unwrap();
    let mut writes = 0;
    while begun.elapsed() < Duration::from_millis(10_500) {
        negotiating.write_all(b"\xff\xf1").ok();
        writes += 1;
        if writes % 100 == 1 {
            assert!(proxy.ask("hello").contains(HELLO), "the others are answered meanwhile");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for session in silent {
        assert_eq!(session.rest(), " Closing: no complete line within 10 s\n");
    }
    eventually(SOON, "the log tells of all four", || proxy.log().matches("no complete line within 10 s").count() == 4);
    assert!(begun.elapsed() >= Duration::from_secs(10));
}

#[test]
fn a_prompt_keeps_the_session_open() {
    let (proxy, _backend) = proxy(&[]);
    let mut session = Session::send(&proxy, b"prompt\n");
    assert_eq!(session.until("cbpx> "), "cbpx> ");
    session.write(b"hello\r\n");
    assert!(session.until("cbpx> ").contains(HELLO));
    session.write(b"\r\n");
    assert_eq!(session.until("cbpx> "), "cbpx> ", "an empty line is a new prompt");
    session.write(b"nosuch\nset x y\n");
    assert_eq!(session.until("cbpx> "), " Unknown command: 'nosuch'\ncbpx> ");
    assert_eq!(session.until("cbpx> "), " No such parameter: x\ncbpx> ");
    session.end_sending();
    assert_eq!(session.rest(), "");
}

#[test]
fn sixty_four_sessions_are_served_and_the_next_one_is_told() {
    let (proxy, _backend) = proxy(&[]);
    let mut sessions = all_sessions(&proxy);
    for sent in [&b""[..], b"hello\n"] {
        let refused = Session::send(&proxy, sent).rest();
        assert!(refused.starts_with(" Closing: ") && refused.contains("64"), "{refused}");
    }
    assert_eq!(served_by(&mut proxy.connect()), "A", "clients are none of control's business");
    for session in &mut sessions {
        session.write(b"hello\n");
        assert!(session.until("cbpx> ").contains(HELLO));
    }
    sessions.pop();
    eventually(SOON, "there is room for another one", || Session::send(&proxy, b"hello\n").rest().contains(HELLO));
}

#[test]
fn every_command_is_answered_while_a_switch_runs_and_another_switch_is_told_so() {
    let (proxy, _backend) = proxy(&["-w", "0.1"]);
    let mut client = proxy.connect();
    assert_eq!(served_by(&mut client), "A");
    let switch = Session::switch(&proxy);
    for (command, token) in [
        ("hello", HELLO),
        ("help", "   switch     : "),
        ("set", "Switch timeout"),
        ("set max_queued_conns 500", "set to '500'"),
        ("stats", "Current backend"),
        ("threads", " Threads: "),
        ("nosuch", "Unknown command"),
        ("quit", "Not quitting"),
    ] {
        let answer = proxy.ask(command);
        assert!(answer.contains(token), "{command}: {answer}");
    }
    let second = proxy.ask("switch");
    assert!(second.contains("running") && second.matches('\n').count() == 1, "{second}");
    assert!(!second.contains("Switch OK") && !second.contains("Switch failed"), "{second}");
    drop(client);
    assert!(switch.rest().contains("Switch OK"), "the first one goes on");
}

#[test]
fn the_help_lists_the_commands_in_order() {
    let (proxy, _backend) = proxy(&[]);
    let answer = proxy.ask("help");
    let rows: Vec<&str> = answer.lines().skip(1).collect();
    let names: Vec<&str> = rows.iter().map(|row| row[3..13].trim_end()).collect();
    assert_eq!(names, ["abort", "hello", "help", "prompt", "quit", "set", "stats", "switch", "threads"]);
    assert!(rows.iter().all(|row| row.starts_with("   ") && &row[13..16] == " : "), "{answer}");
}

#[test]
fn threads_are_listed_by_what_they_do() {
    let (proxy, _backend) = proxy(&[]);
    let mut client = proxy.connect();
    served_by(&mut client);
    let mut names = vec!["coordinator", "listen-cbpx", "watch", "control-0", "session-", "relay-0", "log", "signals"];
    if thread_pairs() > 0 {
        names.extend(["client-0", "backend-0"]);
    }
    // A thread has its name when it runs for the first time, which on a busy machine may be after it has been started.
    let mut answer = String::new();
    let all_are_there = || {
        answer = proxy.ask("threads");
        names.iter().all(|name| answer.contains(&format!(" {name}")))
    };
    eventually(SOON, "every thread is listed", all_are_there);
    assert!(answer.starts_with(" Threads: "), "{answer}");
}

#[test]
fn quit_is_refused_while_anybody_is_connected_or_held_and_for_any_word_but_force() {
    let (mut proxy, _backend) = proxy(&["-o", "1"]);
    let mut client = proxy.connect();
    served_by(&mut client);
    let held = proxy.connect();
    eventually(SOON, "the second client is held", || proxy.stat("in queue") == 1);
    let refused = proxy.ask("quit");
    assert!(refused.starts_with(" Not quitting: ") && refused.contains("connected: 1, held: 1"), "{refused}");
    drop((client, held));
    eventually(SOON, "both have left", || proxy.stat("active") + proxy.stat("in queue") == 0);
    let refused = proxy.ask("quit now");
    assert!(refused.starts_with(" Not quitting: ") && refused.contains("'now'"), "{refused}");
    assert!(proxy.is_running());
    assert_eq!(proxy.ask("quit"), " Exiting...\n");
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn quit_force_ends_within_two_seconds_whatever_clients_and_operators_do() {
    let (mut proxy, _backend) = proxy(&["-o", "2"]);
    let mut deaf = proxy.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    // Never reads, so that the answers pile up as far as the relay itself.
    while deaf.write_all(&[b'x'; 64 * 1024]).is_ok() {}
    let mut idle = proxy.connect();
    served_by(&mut idle);
    let held = proxy.connect();
    eventually(SOON, "one is held", || proxy.stat("in queue") == 1);
    let (asking, silent) = (Session::send(&proxy, b"stats 0.1\n"), Session::send(&proxy, b""));
    let begun = Instant::now();
    assert_eq!(proxy.ask("quit force"), " Terminating connections and exiting...\n");
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(begun.elapsed() <= Duration::from_secs(2), "took {:?}", begun.elapsed());
    for mut client in [idle, held] {
        assert!(crate::talk::is_turned_away(&mut client));
    }
    drop((asking, silent, deaf));
}

#[test]
fn an_answer_is_whole_although_its_reader_sends_more_than_was_asked_for() {
    let (proxy, _backend) = proxy(&[]);
    let long = [b"help\n".as_slice(), &[b'x'; 200_000]].concat();
    assert_eq!(Session::send(&proxy, &long).rest(), proxy.ask("help"));
}
