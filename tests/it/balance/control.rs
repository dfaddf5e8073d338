//! Control: `-c`, `-i` and every word.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use super::{Balance, each_served, served};
use crate::backend::Backend;
use crate::command::{Killed, Ran};
use crate::support::{Reserved, SOON, TempDir, eventually};

/// What `-i` does with this on its standard input.
pub fn shell(balance: &Balance, input: &str) -> Ran {
    shell_with(balance, &["-i", &balance.port().to_string()], input)
}

fn shell_with(balance: &Balance, arguments: &[&str], input: &str) -> Ran {
    let mut command = balance.controlling(arguments);
    let mut child = Killed::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    // It may have ended already.
    child.0.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let mut ran = Ran { code: None, out: String::new(), err: String::new() };
    child.0.stdout.take().unwrap().read_to_string(&mut ran.out).unwrap();
    child.0.stderr.take().unwrap().read_to_string(&mut ran.err).unwrap();
    ran.code = child.0.wait().unwrap().code();
    ran
}

/// A shell's answers, without banner and prompts.
fn answers(ran: &Ran) -> Vec<String> {
    let (_banner, rest) = ran.out.split_once('\n').unwrap();
    rest.split("balance[").skip(1).map(|part| part.split_once("] ").unwrap().1.trim_end().to_owned()).collect()
}

fn two() -> (Backend, Backend, Balance) {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let balance = Balance::start(&[], &[&a.address(), &format!("{}:4", b.address())]);
    (a, b, balance)
}

#[test]
fn c_prints_the_answer_only_and_exits_with_0_whatever_it_is() {
    let (_a, _b, balance) = two();
    let port = balance.port().to_string();
    for (command, answer) in [
        ("disable 0", "channel 0 disabled\n"),
        ("d 0", "channel 0 already disabled\n"),
        ("nonsense", "syntax error\n"),
        ("disable", "syntax error\n"),
        ("group 3", ""),
        ("   ", ""),
        ("enable 7", "no such channel 7\n"),
        ("quit", ""),
        // A number that is none counts as 0, as it always did.
        ("enable x", "channel 0 enabled\n"),
    ] {
        let ran = balance.control(&["-c", command, &port]);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), answer, ""), "{command}");
    }
    let ran = balance.control(&["-dMc", "show", &port]);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 3), "{ran:?}");
    assert!(ran.err.contains(balance.socket().to_str().unwrap()), "-d tells whom it talks to: {ran:?}");
}

#[test]
fn every_word_is_understood_by_its_traditional_prefix() {
    let (a, _b, balance) = two();
    let (host, port) = a.address().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    for (command, answer) in [
        ("d 1".to_owned(), "channel 1 disabled"),
        ("dis 1".to_owned(), "channel 1 already disabled"),
        (format!("a 1 {host} {port}"), "channel reassigned"),
        ("e 1".to_owned(), "channel 1 enabled"),
        ("en 1".to_owned(), "channel 1 already enabled"),
        (format!("as 1 {host} {port}"), "channel must be disabled to assign new address"),
        (format!("c {host} {port}"), "channel created"),
        ("m 0 7".to_owned(), "maxc of channel 0 changed to 7"),
        ("r 0".to_owned(), "channel 0 counters reset"),
        ("g 3".to_owned(), ""),
        ("g 16".to_owned(), "value out of range"),
        ("ha".to_owned(), "group 0 set to hash"),
        ("rr".to_owned(), "group 0 set to round robin"),
        ("v".to_owned(), "  This is balance 3.54\n  MAXGROUPS=16\n  MAXCHANNELS=64"),
        ("mrtg 0 0".to_owned(), "0\n0\nUNKNOWN\ngroup 0 channel 0"),
        ("mrtg-c 0 0".to_owned(), "0\nUNKNOWN\nUNKNOWN\ngroup 0 channel 0"),
        ("q".to_owned(), ""),
    ] {
        balance.answers(&command, answer);
    }
    assert_eq!(balance.ask("s"), balance.ask("show"));
    assert_eq!(balance.ask("h"), balance.ask("help"));
    assert_eq!(balance.ask("?"), balance.ask("help"));
    assert!(balance.ask("help").contains("mrtg-bytes G N"));
}

#[test]
fn what_is_not_there_is_told_and_nothing_changes() {
    let (_a, _b, balance) = two();
    let before = balance.ask("show");
    for (command, answer) in [
        ("disable 2", "no such channel 2"),
        ("disable -1", "no such channel -1"),
        ("enable 99", "no such channel 99"),
        ("reset 64", "no such channel 64"),
        ("maxc 2 5", "unknown channel"),
        ("assign 2 localhost 80", "unknown channel"),
        ("create nosuch.invalid 80", "invalid address"),
        ("create localhost nosuchservice", "invalid address"),
        ("create localhost 0", "invalid address"),
        ("create localhost", "syntax error"),
        ("assign 0 localhost", "syntax error"),
        ("maxc 0", "syntax error"),
        ("mrtg-bytes 0", "syntax error"),
        ("Show", "syntax error"),
        ("shows", "syntax error"),
    ] {
        balance.answers(command, answer);
    }
    assert_eq!(balance.ask("show"), before);
}

#[test]
fn show_has_its_columns_sorted_by_group_and_channel() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let destinations = [&format!("{}:1234", a.address()), "%", &b.address()];
    let balance = Balance::start(&[], &destinations);
    let port = |server: &Backend| server.address().rsplit_once(':').unwrap().1.to_owned();
    balance.answers(&format!("create 127.0.0.1 {}", port(&b)), "channel created");
    let row = |group, kind, number, state, port, maxc| {
        format!(
            "  {group} {kind:>4}  {number} {state}        127.0.0.1 {port:>5}    0           0 {maxc:>4}           0           0\n"
        )
    };
    let expected = "GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd\n".to_owned()
        + &row(0, "Hash", 0, "ENA", port(&a), 1234)
        + &row(0, "Hash", 1, "dis", port(&b), 0)
        + &row(1, "RR", 0, "ENA", port(&b), 0);
    assert_eq!(balance.ask("show"), expected);
}

/// Defect 6: `create` left maxc, c and totalc as they were in memory.
#[test]
fn a_created_channel_is_disabled_and_has_no_past() {
    let (_a, b, balance) = two();
    let c = Backend::echo("C");
    let port = c.address().rsplit_once(':').unwrap().1.to_owned();
    each_served(&balance, 4);
    balance.answers(&format!("create localhost {port}"), "channel created");
    let row: Vec<String> = ["S", "c", "totalc", "maxc", "sent", "rcvd"].map(|name| balance.shown(2, name)).into();
    assert_eq!(row, ["dis", "0", "0", "0", "0", "0"]);
    each_served(&balance, 4);
    assert_eq!((c.connections(), b.connections()), (0, 4));
    balance.answers("enable 2", "channel 2 enabled");
    let names: Vec<_> = each_served(&balance, 3).into_iter().flatten().collect();
    assert!(names.contains(&"C".to_owned()), "{names:?}");
}

/// Defect 7: a failed `assign` still changed the channel.
#[test]
fn a_failed_assign_changes_nothing_and_a_good_one_moves_the_channel() {
    let (_a, _b, balance) = two();
    let c = Backend::echo("C");
    let port = c.address().rsplit_once(':').unwrap().1.to_owned();
    balance.answers("disable 0", "channel 0 disabled");
    let before = balance.ask("show");
    balance.answers("assign 0 nosuch.invalid 80", "invalid address");
    assert_eq!(balance.ask("show"), before);
    balance.answers(&format!("assign 0 127.0.0.1 {port}"), "channel reassigned");
    assert_eq!((balance.shown(0, "port"), balance.shown(0, "S")), (port, "dis".to_owned()));
    balance.answers("disable 1", "channel 1 disabled");
    balance.answers("enable 0", "channel 0 enabled");
    assert_eq!(served(&mut balance.connect()).as_deref(), Some("C"));
}

/// Defect 8: groups wrapped at 256, `mrtg-...` took group 16 and a channel past the end, a negative maxc was never
/// used.
#[test]
fn numbers_are_checked_against_their_ranges() {
    let (_a, _b, balance) = two();
    for group in ["16", "256", "257", "-1", "99999999999999999999"] {
        balance.answers(&format!("group {group}"), "value out of range");
        balance.answers(&format!("mrtg-bytes {group} 0"), "unknown group");
        balance.answers(&format!("mrtg-conns {group} 0"), "unknown group");
    }
    balance.answers("group 15", "");
    for channel in ["2", "64", "-1"] {
        balance.answers(&format!("mrtg-bytes 0 {channel}"), "unknown channel");
    }
    balance.answers("mrtg-conns 15 0", "unknown channel");
    balance.answers("maxc 0 -3", "value out of range");
    balance.answers("maxc 0 4294967296", "value out of range");
    assert_eq!(balance.shown(0, "maxc"), "0");
}

#[test]
fn maxc_is_heeded_at_once_and_0_is_no_limit() {
    let (_a, _b, balance) = two();
    balance.answers("disable 1", "channel 1 disabled");
    balance.answers("maxc 0 1", "maxc of channel 0 changed to 1");
    let mut first = balance.connect();
    assert_eq!(served(&mut first).as_deref(), Some("A"));
    assert_eq!(served(&mut balance.connect()), None);
    balance.answers("maxc 0 0", "maxc of channel 0 changed to 0");
    assert_eq!(served(&mut balance.connect()).as_deref(), Some("A"));
}

#[test]
fn mrtg_is_given_what_it_draws() {
    let (_a, _b, balance) = two();
    let mut client = balance.connect();
    assert_eq!(served(&mut client).as_deref(), Some("A"));
    // Counted just after it was passed on.
    let bytes = "6\n4\nUNKNOWN\ngroup 0 channel 0\n";
    eventually(SOON, "what has passed is counted", || balance.ask("mrtg-bytes 0 0") == bytes);
    balance.answers("mrtg-conns 0 0", "1\nUNKNOWN\nUNKNOWN\ngroup 0 channel 0");
    // As a target in its configuration: the lines of a command.
    let ran = balance.control(&["-c", "mrtg-bytes 0 0", &balance.port().to_string()]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), bytes));
}

#[test]
fn a_group_has_room_for_64_channels() {
    let balance = Balance::start(&[], &[]);
    for _ in 0..64 {
        balance.answers("create 127.0.0.1 9", "channel created");
    }
    balance.answers("create 127.0.0.1 9", "no channel slots available");
    assert_eq!(balance.ask("show").lines().count(), 65);
}

#[test]
fn the_shell_has_a_banner_a_prompt_with_the_group_and_one_answer_for_each_line() {
    let (_a, _b, balance) = two();
    let long = "x".repeat(128);
    let fits = format!("disable 0{}", " ".repeat(118));
    let input = format!("group 1\n\n   \nshow me\ncreate localhost 80\ngroup 0\n{long}\n{fits}\nquit\nenable 0\n");
    let ran = shell(&balance, &input);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.out.lines().next().unwrap().contains(&balance.child.0.id().to_string()), "the master's PID: {ran:?}");
    let prompts: Vec<_> = ran.out.split("balance[").skip(1).map(|part| part.split(']').next().unwrap()).collect();
    assert_eq!(prompts, ["0", "1", "1", "1", "1", "1", "0", "0", "0"], "{ran:?}");
    let answers = answers(&ran);
    assert_eq!(answers[3].lines().count(), 3, "{answers:?}");
    assert_eq!(answers[4..], ["channel created", "", "syntax error", "channel 0 disabled", ""]);
    assert_eq!(balance.shown(0, "S"), "dis", "what follows `quit` is not carried out");
    assert_eq!(balance.shown(2, "GRP"), "1", "it was created in the current group");
    balance.answers("enable 2", "no such channel 2");
}

#[test]
fn the_end_of_input_ends_the_shell_and_an_unfinished_line_counts() {
    let (_a, _b, balance) = two();
    let ran = shell_with(&balance, &["-M", "-i", &balance.port().to_string()], "disable 1\ndisable 0");
    assert_eq!((ran.code, answers(&ran)[0].as_str()), (Some(0), "channel 1 disabled"), "{ran:?}");
    eventually(SOON, "the last line was carried out", || balance.shown(0, "S") == "dis");
}

/// Defect 9: a bare `k` was `kill`, by SIGKILL.
#[test]
fn kill_needs_the_whole_word_and_is_an_orderly_stop() {
    let (_a, _b, mut balance) = two();
    for word in ["k", "ki", "kil", "killall"] {
        balance.answers(word, "syntax error");
    }
    let mut client = balance.connect();
    assert_eq!(served(&mut client).as_deref(), Some("A"));
    let port = balance.port().to_string();
    let ran = balance.control(&["-c", "kill", &port]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "shutdown complete, exiting.\n"));
    // At once: there is no master, and the port is closed.
    balance.control(&["-c", "show", &port]).failed_with(69, &["no master process, exiting."]);
    assert!(TcpStream::connect(balance.addr()).is_err());
    // The connected client continues, and the next instance already has the port.
    let next = Backend::echo("next");
    let after = Balance::start_at(Reserved::at(Ipv4Addr::UNSPECIFIED, balance.port()), &[], &[&next.address()]);
    assert_eq!(served(&mut after.connect()).as_deref(), Some("next"));
    assert!(balance.is_running());
    assert_eq!(served(&mut client).as_deref(), Some("A"));
    client.shutdown(Shutdown::Both).unwrap();
    assert!(balance.wait().success());
    assert_eq!(after.ask("show").lines().count(), 2, "the old one took nothing of the new one's with it");
}

#[test]
fn kill_in_the_shell_ends_the_shell_too() {
    let (_a, _b, mut balance) = two();
    let ran = shell(&balance, "kill\nshow\n");
    assert_eq!((ran.code, answers(&ran)), (Some(0), vec!["shutdown complete, exiting.".to_owned()]), "{ran:?}");
    assert!(balance.wait().success());
}

/// Defect 11: without the same `-b` control said only that there was no master.
#[test]
fn without_the_same_address_control_says_which_instances_exist() {
    let a = Backend::echo("A");
    let balance = Balance::start(&["-b", "127.0.0.1"], &[&a.address()]);
    let port = balance.port().to_string();
    assert_eq!(balance.control(&["-b", "127.0.0.1", "-c", "show", &port]).code, Some(0));
    let found = format!("running instances: -b 127.0.0.1 {port}");
    for arguments in [["-c", "show", port.as_str()], ["-M", "-i", &port]] {
        balance.control(&arguments).failed_with(69, &["no master process, exiting.", &found]);
    }
    let empty = TempDir::new("none");
    let ran = crate::command::run(balance.controlling(&["-i", &port]).env("BALANCE_RUNDIR", empty.path()));
    ran.failed_with(69, &["no master process, exiting.", "no instance is running"]);
}

#[test]
fn the_control_socket_is_its_owners_and_its_directory_everybodys() {
    let balance = Balance::start(&[], &[]);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let socket = balance.socket();
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o1777);
}
