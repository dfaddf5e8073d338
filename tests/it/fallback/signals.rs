//! Signals: the end, which cuts nobody (row 6 of the defects) unless there is a time limit, and the log file opened
//! again.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use rustix::process::Signal;

use super::program::Fallback;
use crate::backend::Backend;
use crate::ends::{Deaf, Server, read_until_reset};
use crate::processes::catches;
use crate::support::{SOON, TempDir, eventually};
use crate::talk::served_by;

#[test]
fn sigint_and_sigterm_are_told_and_end_it_with_status_0() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let server = Backend::echo("s");
        let mut fallback = Fallback::start(&[], &[&server.address()]);
        catches(fallback.pid(), Signal::TERM);
        fallback.signal(signal);
        assert_eq!(fallback.wait().code(), Some(0));
        fallback.says(&format!(" Signal received: {name}"));
        fallback.says(" Exiting...");
    }
}

/// The symptom: on a signal clients were cut.
#[test]
fn row_6_who_is_connected_may_finish_while_the_address_is_free_for_a_successor() {
    let server = Backend::echo("s");
    let mut fallback = Fallback::start(&[], &[&server.address()]);
    let mut client = fallback.connect();
    assert_eq!(served_by(&mut client), "s");
    catches(fallback.pid(), Signal::TERM);
    fallback.signal(Signal::TERM);
    fallback.says("Waiting for clients to finish: 1;");
    eventually(SOON, "nobody else is accepted", || TcpStream::connect(fallback.addr()).is_err());
    assert_eq!(served_by(&mut client), "s", "still served");
    assert!(fallback.is_running());
    drop(client);
    assert_eq!(fallback.wait().code(), Some(0));
    fallback.says("Exiting...");
}

#[test]
fn row_6_with_a_grace_they_are_cut_when_it_is_over() {
    let server = Server::new();
    let mut fallback = Fallback::start(&["-grace", "100ms"], &[&server.address()]);
    server.accept();
    let (mut client, _served) = (fallback.connect(), server.accept());
    client.write_all(b"x").unwrap();
    catches(fallback.pid(), Signal::TERM);
    fallback.signal(Signal::TERM);
    read_until_reset(&client);
    assert_eq!(fallback.wait().code(), Some(0));
}

#[test]
fn row_6_another_signal_cuts_them_at_once() {
    let server = Server::new();
    let mut fallback = Fallback::start(&["-grace", "1h"], &[&server.address()]);
    server.accept();
    let (client, _served) = (fallback.connect(), server.accept());
    catches(fallback.pid(), Signal::TERM);
    fallback.signal(Signal::TERM);
    fallback.says("Waiting for clients to finish: 1;");
    fallback.signal(Signal::INT);
    read_until_reset(&client);
    assert_eq!(fallback.wait().code(), Some(0));
}

#[test]
fn the_end_waits_for_no_probe_and_who_still_waits_for_a_server_is_let_go() {
    let deaf = Deaf::new();
    let mut fallback = Fallback::start(&["-timeout", "0s", "-grace", "50ms"], &[&deaf.address()]);
    let client = fallback.connect();
    catches(fallback.pid(), Signal::TERM);
    fallback.signal(Signal::TERM);
    assert_eq!(fallback.wait().code(), Some(0));
    assert!(crate::talk::is_turned_away(&mut { client }));
}

#[test]
fn sighup_without_a_logfile_ends_it() {
    let server = Backend::echo("s");
    let mut fallback = Fallback::start(&[], &[&server.address()]);
    catches(fallback.pid(), Signal::TERM);
    fallback.signal(Signal::HUP);
    fallback.wait();
    fallback.says("Signal received: SIGHUP");
}

#[test]
fn a_logfile_is_appended_to_with_mode_0640_and_opened_again_on_sighup() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("fallback"));
    let (log, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let flags = ["-logfile", log.to_str().unwrap()];
    let mut fallback = Fallback::spawn("127.0.0.1:PORT", &flags, &[&server.address()], |command| {
        // Others could read what is created without a mode.
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
        *command = shell;
        command.process_group(0);
    });
    eventually(SOON, "the log begins", || read(&log).contains("Listening on"));
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fallback.lines().is_empty(), "and nothing goes to standard error");

    fs::rename(&log, &old).unwrap();
    catches(fallback.pid(), Signal::TERM);
    fallback.signal(Signal::HUP);
    // In the new file, as in the original: it tells the operator that the rotation has worked.
    eventually(SOON, "the new file begins with it", || read(&log).contains(" SIGHUP received, re-opening logfile"));
    assert!(!read(&old).contains("SIGHUP"));
    assert_eq!(served_by(&mut fallback.connect()), "s");
    fallback.signal(Signal::TERM);
    assert_eq!(fallback.wait().code(), Some(0));
    assert!(read(&log).contains("Signal received: SIGTERM") && read(&log).trim_end().ends_with("Exiting..."));

    // Appended to, not begun anew.
    let before = read(&log);
    let second = Fallback::spawn("127.0.0.1:PORT", &flags, &[&server.address()], |_| {});
    eventually(SOON, "it goes on in the same file", || read(&log).contains("Listening on"));
    assert!(read(&log).starts_with(&before));
    drop(second);
}
