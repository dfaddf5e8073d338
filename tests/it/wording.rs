//! Messages of the command line and of control: they say the unit, what is meant and every flag that may be meant; and
//! of a flag that is repeated the last one counts.

use std::process::Command;

use crate::backend::Backend;
use crate::command::{Ran, run};
use crate::proxy::{CBPX, Proxy, elsewhere};
use crate::support::{Reserved, TempDir};
use crate::talk::served_by;

fn told(words: &[&str]) -> Ran {
    let dir = TempDir::new("wording");
    run(Command::new(CBPX).args(words).current_dir(dir.path()).env_remove("CBPX_CTL"))
}

/// A complete command line and these words.
fn with(words: &[&str]) -> Ran {
    let usual = ["-p", "1", "-a", "127.0.0.1:9", "-s", "127.0.0.1:9", "-t", "5", "-c", "10", "-o", "0"];
    told(&[&usual[..], words].concat())
}

#[test]
fn the_last_of_a_repeated_flag_counts() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let (first, last) = (old.address(), new.address());
    let wrappers = ["--switch_max_time", "7", "-c", "1", "-c=20", "-l", "DEBUG", "--log_level=ERROR", "-a", &last];
    let proxy = Proxy::start(&first, &first, &[&["-a", &first][..], &wrappers].concat());
    assert_eq!(served_by(&mut proxy.connect()), "new");
    let settings = proxy.ask("set");
    for row in ["Switch timeout      : 7.00 s", "Max queued conns    : 20", "Log level           : ERROR"] {
        assert!(settings.contains(row), "no '{row}' in {settings}");
    }
}

#[test]
fn a_value_that_is_replaced_by_a_later_one_need_not_be_good() {
    with(&["-t", "abc", "-t", "many"]).failed_with(2, &["-t/--switch_max_time: 'many'"]);
    let ran = with(&["-t", "abc", "-t", "5", "-l", "LOUD"]);
    assert!(!ran.err.contains("abc") && ran.err.contains("LOUD"), "{}", ran.err);
}

#[test]
fn the_last_of_a_repeated_flag_counts_for_ctl_and_the_demo_too() {
    let backend = Backend::echo("A");
    let proxy = Proxy::start(&backend.address(), &backend.address(), &[]);
    let (to, nobody) = (proxy.control().to_string(), Reserved::new());
    let nobody = format!("127.0.0.1:{}", nobody.port());
    let ran = told(&["ctl", "--to", &nobody, "--timeout", "0", "--to", &to, "--timeout=20", "stats", "0.1", "2"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 4, "all words of the command are there: {}", ran.out);
    let ran = told(&["demo", "--stay", "--stay", "--nosuch"]);
    ran.failed_with(2, &["--nosuch"]);
    assert!(!ran.err.contains("cannot be used multiple times"), "{}", ran.err);
}

#[test]
fn all_words_that_belong_to_no_flag_are_told() {
    let dir = TempDir::new("wording");
    let (port, backend) = (Reserved::new(), Backend::echo("A"));
    let (port, at) = (port.port().to_string(), backend.address());
    let log = dir.path().join("no/such/directory").display().to_string();
    let words =
        ["-p", &port, "-a", &at, "-s", &elsewhere(&at), "-t", "5", "-c", "9", "-o", "0", "-f", &log, "one", "two"];
    let ran = told(&words);
    ran.failed_with(1, &["'one' is ignored", "'two' is ignored"]);
}

#[test]
fn an_ambiguous_flag_is_told_with_all_that_it_may_be() {
    for (typed, named) in [
        ("--max", &["'--max'", "--max_queued_conns", "--max_open_conns"][..]),
        ("--max=3", &["'--max'", "--max_queued_conns", "--max_open_conns"]),
        ("--s", &["--standby", "--switch_max_time", "--switch_loop_wait", "--switch_script"]),
        ("--l", &["--listen_backlog", "--log_file", "--log_level", "--listeners"]),
    ] {
        let ran = told(&[typed, "3"]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(named.iter().all(|name| ran.err.contains(name)), "{typed}: {}", ran.err);
        assert!(ran.err.lines().all(|line| line.starts_with("cbpx: ") || line.starts_with("try ")), "{}", ran.err);
    }
    told(&["ctl", "--t", "3", "hello"]).failed_with(2, &["'--t'", "--to", "--timeout", "cbpx ctl --help"]);
}

/// Neither a type of a programming language nor a meaningless range.
#[test]
fn a_wrong_value_is_told_with_unit_and_range() {
    for (words, expected) in [
        (
            &["-t", "10s"][..],
            "-t/--switch_max_time: '10s' is not a number of seconds (expected 0 to 3600, without a unit)",
        ),
        (&["-t", "3601"], "-t/--switch_max_time: must be between 0 and 3600 seconds (given: 3601)"),
        (&["-c", "many"], "-c/--max_queued_conns: 'many' is not a whole number of clients"),
        (&["-c", "0"], "-c/--max_queued_conns: must be between 1 and 10000 clients (given: 0)"),
        (&["-o", "1.5"], "-o/--max_open_conns: '1.5' is not a whole number of clients"),
        (&["-n", "2k"], "-n/--net_buffer_size: '2k' is not a whole number of bytes"),
        (&["-n", "0"], "-n/--net_buffer_size: must be between 1024 and 65536 bytes (given: 0)"),
        (&["-w", "1ms"], "-w/--switch_loop_wait: '1ms' is not a number of seconds"),
        (&["-p", "abc"], "-p/--port: 'abc' is not a port number (expected 1 to 65535)"),
        (&["-r", "abc"], "-r/--rc_port: 'abc' is not a port number (expected 1 to 65535, or 0 for the console)"),
        (&["-r", "80000"], "-r/--rc_port: must be between 1 and 65535, or 0 for the console (given: 80000)"),
        (&["-b", "0"], "-b/--listen_backlog: must be between 1 and 65535 connections (given: 0)"),
        (&["--grace", "1m"], "--grace: '1m' is not a number of seconds (expected 0 to 86400)"),
        (&["--grace", "-1"], "--grace: must be between 0 and 86400 seconds (given: -1)"),
        (&["--connect_timeout", "0"], "--connect_timeout: must be between 0.01 and 3600 seconds (given: 0)"),
        (&["--keepalive", "1.5"], "--keepalive: '1.5' is not a whole number of seconds (expected 0 to 32767)"),
        (&["--listeners", "65"], "--listeners: must be between 1 and 64 threads (given: 65)"),
    ] {
        with(words).failed_with(2, &[&format!("cbpx: {expected}")]);
    }
    told(&["ctl", "--timeout", "10s", "hello"]).failed_with(2, &["'10s'", "is not a number of seconds"]);
    told(&["ctl", "--timeout", "-1", "hello"]).failed_with(2, &["between 0.01 and 86400 seconds (given: -1)"]);
    told(&["balance", "-t", "1m", "80", "a"]).failed_with(64, &["-t must be a number of seconds", "(given: 1m)"]);
    told(&["balance", "80", "a:80:-1"]).failed_with(64, &["MAXC must be between 0 (no limit) and", "connections"]);
    told(&["fallback", "-timeout", "5", ":1", "a:1"]).failed_with(2, &["'5' is not a duration", "5s"]);
    told(&["fproxy", "-y99999", "a", "--", "b"]).failed_with(2, &["-y must be between 0 and 32768 bytes"]);
    told(&["fproxy", "-tx", "a", "--", "b"]).failed_with(2, &["-t must be between 0 and 31536000 seconds"]);
}

#[test]
fn a_console_is_asked_for_by_any_control_port_below_1() {
    for port in ["0", "-1", "-99999"] {
        let ran = with(&["-r", port, "-l", "LOUD"]);
        assert!(!ran.err.contains("--rc_port") && ran.err.contains("LOUD"), "{port}: {}", ran.err);
    }
}

/// The words that scripts look for are there, and say more.
#[test]
fn set_and_stats_tell_unit_and_meaning_behind_the_words_of_old() {
    let backend = Backend::echo("A");
    let proxy = Proxy::start(&backend.address(), &backend.address(), &[]);
    for (line, answer) in [
        (
            "set switch_max_time 10s",
            " 10s for 'switch_max_time' must be of float: a number of seconds, without a unit\n",
        ),
        ("set switch_max_time 11", " switch_max_time must be between 0 and 10 seconds\n"),
        (
            "set max_queued_conns 1.5",
            " 1.5 for 'max_queued_conns' must be of int: a whole number of clients, without a unit\n",
        ),
        ("set max_open_conns 9", " max_open_conns must be between 10 and 65536 clients, or 0 for no limit\n"),
        ("set net_buffer_size 1", " net_buffer_size must be between 1024 and 65536 bytes\n"),
        ("set switch_loop_wait 0", " switch_loop_wait must be between 0.1 and 1 seconds\n"),
        ("stats 0", " SLEEP must be >= 0.1 seconds (and at most 86400)\n"),
        ("stats 1 0", " COUNT must be >= 1: how many rows to show\n"),
    ] {
        assert_eq!(proxy.ask(line), answer, "{line}");
    }
}
