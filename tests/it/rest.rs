//! Idle means idle: a proxy whose clients say nothing is not run at all.

use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::support::{SOON, eventually};

/// How often the threads of a process have been put to sleep or interrupted so far, by thread and name. A worker that
/// waits for its next job is left out: it ends when it has waited for ten seconds.
fn context_switches(proxy: &Proxy) -> Vec<(String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    let count = |status: &str| {
        let rows = status.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
        rows.map(|row| row.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum()
    };
    let mut counts: Vec<_> = tasks
        .map(|task| task.unwrap().path())
        .map(|path| {
            let name = format!("{} {}", path.file_name().unwrap().display(), read(path.join("comm")).trim());
            (name, count(&read(path.join("status"))))
        })
        .collect();
    counts.retain(|(name, _)| !name.ends_with(" idle"));
    counts.sort();
    counts
}

#[test]
fn with_200_idle_clients_and_50_held_ones_nothing_ever_runs() {
    let server = Backend::echo("s");
    // The dials' time limit comes up while nothing may happen.
    let flags = ["-t", "300", "-l", "DEBUG", "--connect_timeout", "4"];
    let proxy = Proxy::start(&server.address(), &server.address(), &flags);
    let mut idle: Vec<_> = (0..200).map(|_| proxy.connect()).collect();
    for client in &mut idle {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0; 3]).unwrap();
    }
    // The session that typed the switch has left, so no rows are written.
    drop(proxy.begin("switch"));
    eventually(SOON, "the switch waits", || proxy.log().contains("Starting switch"));
    let held: Vec<_> = (0..50).map(|_| proxy.connect()).collect();
    eventually(SOON, "all are here", || proxy.log().matches(": accepted from").count() == 250);
    // The thread that served the switch's session has still to notice that nobody is there, and the log to write that.
    let (mut before, mut quiet) = (Vec::new(), 0);
    eventually(SOON, "the last of what was begun is done", || {
        let now = context_switches(&proxy);
        let is_session = |(name, _): &(String, u64)| name.contains("session") || name.contains("worker");
        quiet = if now == before && !now.iter().any(is_session) { quiet + 1 } else { 0 };
        before = now;
        quiet == 50
    });
    // The time in which nothing may happen has to pass: longer than any time limit of what went before.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(context_switches(&proxy), before, "somebody was woken");
    drop((idle, held));
}
