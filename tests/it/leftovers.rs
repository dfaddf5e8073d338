//! Tests leave nothing behind: no process and no directory, also when they fail or are killed.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::backend::Backend;
use crate::command::{Killed, run};
use crate::hold::{has_begun, waiting_script};
use crate::processes::started_by;
use crate::proxy::{CBPX, Proxy};
use crate::support::{Reserved, SOON, TempDir, eventually};

/// In the environment of tests that are to end badly: how.
const END: &str = "CBPX_TEST_END";

/// A test process that has started a proxy whose script waits for ever, and a program in the background.
fn test_process(end: &str) -> Killed {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "leftovers::this_is_no_test_but_one_that_ends_badly", "--ignored", "--nocapture"]);
    Killed::start(command.env(END, end).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

#[test]
#[ignore = "a program that other tests start"]
fn this_is_no_test_but_one_that_ends_badly() {
    let Ok(end) = env::var(END) else { return };
    let (server, dir, port) = (Backend::echo("s"), TempDir::new("leftovers"), Reserved::new());
    let proxy = Proxy::start(&server.address(), &server.address(), &["-x", &waiting_script(&dir, 0), "-t", "3600"]);
    let switch = proxy.begin("switch");
    has_begun(&dir);
    let mut balance = Command::new(CBPX);
    balance.args(["balance", &port.port().to_string(), &server.address()]).env("BALANCE_RUNDIR", dir.path());
    assert_eq!(run(&mut balance).code, Some(0));
    std::fs::write(dir.path().join("all"), "").unwrap();
    match end.as_str() {
        "fail" => panic!("as it was told to"),
        _ => std::thread::sleep(SOON * 10),
    }
    drop(switch);
}

fn directories(tests: u32) -> usize {
    let names = std::fs::read_dir(env::temp_dir()).unwrap().flatten().map(|entry| entry.file_name());
    let own = format!("-{tests}-");
    names.filter(|name| name.to_string_lossy().starts_with("cbpx-") && name.to_string_lossy().contains(&own)).count()
}

fn nothing_is_left_of(tests: u32) {
    let mut left = Vec::new();
    let end = std::time::Instant::now() + SOON;
    while std::time::Instant::now() < end {
        left = started_by(tests);
        if left.is_empty() && directories(tests) == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("left behind: {left:?} and {} directories", directories(tests));
}

#[test]
fn of_a_test_that_fails_nothing_is_left() {
    let mut tests = test_process("fail");
    eventually(SOON, "it fails", || tests.0.try_wait().unwrap().is_some_and(|status| !status.success()));
    nothing_is_left_of(tests.0.id());
}

#[test]
fn of_a_test_that_is_killed_nothing_is_left() {
    let mut tests = test_process("wait");
    let pid = tests.0.id();
    // The proxy, its script, the program in the background.
    let all = || {
        let names = std::fs::read_dir(env::temp_dir()).unwrap().flatten().map(|entry| entry.path());
        let own = format!("cbpx-leftovers-{pid}-");
        let is_own = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own));
        names.filter(|path| is_own(path)).any(|path| path.join("all").exists())
    };
    eventually(SOON, "all is started", all);
    let started = started_by(pid);
    assert!(started.iter().any(|(_, words)| words.contains("promote")), "{started:?}");
    assert!(started.iter().any(|(_, words)| words.contains("balance")), "{started:?}");
    tests.0.kill().unwrap();
    tests.0.wait().unwrap();
    nothing_is_left_of(pid);
}
