//! What is said and done before anybody is served: mistakes, help, links, the foreground.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;

use super::{Fproxy, fproxy};
use crate::backend::Backend;
use crate::command::{cbpx, run};
use crate::proxy::CBPX;
use crate::support::{SOON, TempDir, eventually};

#[test]
fn a_mistake_is_one_line_and_status_2() {
    let dir = TempDir::new("fproxy");
    for (words, token) in [
        (&["-y6", "127.0.0.1", "127.0.0.2"][..], "'--'"),
        (&["-s9", "127.0.0.1", "--", "127.0.0.2"], "-s must be between 0 and 4 (given: '9')"),
        (&["127.0.0.1:99999", "--", "127.0.0.2"], "'127.0.0.1:99999' has no port between 1 and 65535"),
        (&[], "try 'fproxy -h'"),
    ] {
        let ran = cbpx(&[&["fproxy"], words].concat(), dir.path());
        ran.failed_with(2, &["fproxy: ", token]);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
}

#[test]
fn help_and_a_link_of_the_old_name_do_the_same() {
    let dir = TempDir::new("fproxy");
    let link = dir.path().join("fproxy");
    std::os::unix::fs::symlink(CBPX, &link).unwrap();
    let ran = run(Command::new(&link).arg("-h"));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.contains("CLUSTER[:PORT]... -- BACKEND[:PORT]..."), "{}", ran.out);
    assert_eq!(cbpx(&["fproxy", "-h"], dir.path()).out, ran.out);
    let all = cbpx(&["--help"], dir.path()).out;
    assert!(all.contains("cbpx fproxy"), "{all}");
}

#[test]
fn what_cannot_be_listened_on_is_told_before_it_leaves_the_terminal() {
    let (dir, taken) = (TempDir::new("fproxy"), TcpListener::bind("127.0.0.1:0").unwrap());
    let place = taken.local_addr().unwrap().to_string();
    for options in [&["-oa", "-ee", "-pp"][..], &["-f"]] {
        let ran = run(fproxy(dir.path()).args(options).args([&place, "--", "127.0.0.1:9"]));
        ran.failed_with(1, &[&format!("fproxy: cannot listen on {place}: address in use")]);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
    assert!(!dir.path().join("p").exists());
    let ran = run(fproxy(dir.path()).args(["-onosuch/a", "-ee", "-pp", "127.0.0.1:1", "--", "127.0.0.1:9"]));
    ran.failed_with(1, &["fproxy: cannot "]);
}

#[test]
fn in_the_foreground_no_file_is_written_but_the_access_log_that_is_asked_for() {
    let backend = Backend::echo("A");
    for flag in ["-f", "-d"] {
        let proxy = Fproxy::start(&[flag, "-oo.log", "-ee.log", "-pp.pid"], &[&backend.address()]);
        assert_eq!(proxy.serves(), "A");
        let files = fs::read_dir(proxy.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ["access.log", "err"]);
        let told = proxy.told();
        assert_eq!(told.matches("is not written in the foreground").count(), 3, "{told}");
        assert!(told.contains("fproxy: warning: -oo.log is not written"), "{told}");
    }
}

#[test]
fn without_options_nothing_is_said_in_the_foreground_when_all_is_well() {
    let backend = Backend::echo("A");
    let mut proxy = Fproxy::start(&[], &[&backend.address()]);
    assert_eq!(proxy.serves(), "A");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait(), Some(0));
    assert_eq!(proxy.told(), "");
}

#[test]
fn ctrl_c_in_the_foreground_lets_clients_finish_and_a_second_one_cuts_them() {
    let backend = Backend::echo("A");
    let mut proxy = Fproxy::start(&[], &[&backend.address()]);
    let mut client = proxy.connect();
    crate::talk::served_by(&mut client);
    proxy.signal(Signal::INT);
    eventually(SOON, "nobody new is accepted", || std::net::TcpStream::connect(proxy.addr()).is_err());
    assert_eq!(crate::talk::served_by(&mut client), "A");
    proxy.signal(Signal::INT);
    assert_eq!(proxy.wait(), Some(0));
}
