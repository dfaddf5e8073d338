//! Out of descriptors, threads or disk: the newest client is refused, nobody else, and when the need is over nothing
//! reminds of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit};

use crate::backend::Backend;
use crate::ends::read_rest;
use crate::proxy::Proxy;
use crate::support::{SOON, TempDir, eventually, thread_pairs};
use crate::vitals::Vitals;

/// A user id that is otherwise unused.
const SOMEBODY: u32 = 61_234;

/// Whether this client is served. One that is not has been closed or reset: nobody is left hanging.
pub fn is_served(mut client: &TcpStream) -> bool {
    // A client that was reset already cannot even ask.
    client.write_all(b"x").ok();
    let mut answer = [0; 3];
    match client.read_exact(&mut answer) {
        Ok(()) => {
            assert_eq!(&answer, b"s:x");
            true
        }
        Err(e) => {
            let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            assert!(closed.contains(&e.kind()), "neither served nor closed: {e}");
            false
        }
    }
}

/// The same command, run by a program that prepares something and then becomes it.
pub fn become_by(command: &mut Command, program: &str, words: &[&str]) {
    let mut prepared = Command::new(program);
    prepared.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    prepared.args(words).arg(command.get_program()).args(command.get_args());
    prepared.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    *command = prepared;
}

/// Sets a soft limit of a running proxy.
pub fn limit(proxy: &Proxy, resource: Resource, number: u64) {
    let maximum = getrlimit(resource).maximum;
    prlimit(Pid::from_raw(proxy.pid() as i32), resource, Rlimit { current: Some(number), maximum }).unwrap();
}

#[test]
fn with_64_descriptors_those_are_served_for_whom_there_is_room() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("starved"));
    let script = dir.script("promote", "#!/bin/sh\necho promoted\n").display().to_string();
    let proxy = Proxy::start_with(&server.address(), &server.address(), &["-x", &script], |command| {
        become_by(command, "sh", &["-c", "ulimit -n 64; exec \"$0\" \"$@\""]);
    });
    let before = Vitals::at_rest(&proxy);
    for round in 0..3 {
        let clients: Vec<_> = (0..100).map(|_| proxy.connect()).collect();
        let served: Vec<_> = clients.iter().map(is_served).collect();
        let number = served.iter().filter(|served| **served).count();
        assert!((16..=30).contains(&number), "round {round}: {number} of 100 were served");
        assert!(served[..16].iter().all(|served| *served), "the oldest are among them: {served:?}");
        // Control has descriptors of its own, and so has a switch.
        eventually(SOON, "control counts them", || proxy.stat("active") == number as u64);
        let mut switch = proxy.begin("switch");
        switch.read_exact(&mut [0]).unwrap();
        drop(clients);
        let answer = crate::proxy::finish(switch);
        assert!(answer.contains("promoted") && answer.contains("Switch OK"), "{answer}");
        before.are_back(&proxy);
        assert!(is_served(&proxy.connect()));
    }
}

#[test]
fn running_out_of_descriptors_ends_nothing() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &[]);
    let before = Vitals::at_rest(&proxy);
    let old: Vec<_> = (0..5).map(|_| proxy.connect()).collect();
    assert!(old.iter().all(is_served));
    // The proxy was told of more when it started, and finds out the hard way.
    limit(&proxy, Resource::Nofile, 40);
    for _ in 0..3 {
        let clients: Vec<_> = (0..100).map(|_| proxy.connect()).collect();
        let served = clients.iter().filter(|client| is_served(client)).count();
        assert!(served < 20, "{served} were served");
        assert!(old.iter().all(is_served), "those who were there before");
        drop(clients);
        eventually(SOON, "there is room again", || is_served(&proxy.connect()));
    }
    limit(&proxy, Resource::Nofile, 1000);
    assert!((0..50).map(|_| proxy.connect()).collect::<Vec<_>>().iter().all(is_served));
    drop(old);
    before.are_back(&proxy);
    assert!(proxy.log().contains("new clients are closed until that is over"));
}

/// The listener had given up its last descriptor and waited for the client it was to close.
#[test]
fn a_client_that_comes_when_the_shortage_is_over_is_served() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &[]);
    Vitals::at_rest(&proxy);
    // The limit is on the number a new descriptor gets, which is the lowest that is free.
    let taken = |number: &u64| std::fs::symlink_metadata(format!("/proc/{}/fd/{number}", proxy.pid())).is_ok();
    let lowest_free = (0..).find(|number| !taken(number)).unwrap();
    limit(&proxy, Resource::Nofile, lowest_free);
    assert!(!is_served(&proxy.connect()));
    eventually(SOON, "the shortage is told", || proxy.log().contains("new clients are closed until that is over"));
    limit(&proxy, Resource::Nofile, 1000);
    assert!(is_served(&proxy.connect()));
}

#[test]
fn running_out_of_threads_keeps_nobody_from_being_served() {
    let (old, new, dir) = (Backend::echo("s"), Backend::echo("s"), TempDir::new("starved"));
    let script = dir.script("promote", "#!/bin/sh\necho promoted\n").display().to_string();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let proxy = Proxy::start_with(&old.address(), &new.address(), &["-x", &script], |command| {
        // The system's limit does not hold for root.
        if geteuid().is_root() {
            run_as(SOMEBODY, command);
        }
    });
    let before = Vitals::at_rest(&proxy);
    let early = [proxy.connect(), proxy.connect()];
    assert!(early.iter().all(is_served));
    limit_threads(&proxy, 1);
    // Clients need no thread of their own. One line a second tells that they have none.
    let start = Instant::now();
    let late: Vec<_> = (0..200).map(|_| proxy.connect()).collect();
    assert!(late.iter().all(is_served));
    let told = proxy.log().matches("no threads of its own, it shares one: ").count();
    let most = if thread_pairs() == 0 { 0 } else { 1 + start.elapsed().as_secs() as usize };
    assert!((most.min(1)..=most).contains(&told), "told {told} times in {:?}", start.elapsed());
    assert!(early.iter().all(is_served), "and those who were there before");
    drop((early, late));
    // Control keeps some idle threads; sessions beyond those are told that there are too many.
    let sessions: Vec<_> = (0..20).map(|_| whatever_it_says(&proxy, "hello")).collect();
    assert!(sessions.iter().any(|answer| answer.contains("Hello")), "{sessions:?}");
    // A script needs one; without, the switch fails and everyone stays where they were.
    eventually(SOON, "a session for the switch, and no thread for its script", || {
        let answer = whatever_it_says(&proxy, "switch");
        assert!(!answer.contains("Switch OK"), "{answer}");
        answer.contains("Switch failed: script exec failed")
    });
    assert!(is_served(&proxy.connect()));
    assert_eq!(new.connections(), 0);
    limit_threads(&proxy, 1000);
    eventually(SOON, "control and the switch have threads again", || {
        whatever_it_says(&proxy, "switch").contains("Switch OK")
    });
    assert!((0..20).map(|_| proxy.connect()).collect::<Vec<_>>().iter().all(is_served));
    before.are_back(&proxy);
}

/// What control says before it closes the session, in order or not, at once or later.
fn whatever_it_says(proxy: &Proxy, line: &str) -> String {
    let mut session = TcpStream::connect(proxy.control()).unwrap();
    session.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = Vec::new();
    // Fails when it has been closed already; what was read before a reset counts.
    writeln!(session, "{line}").and_then(|()| session.read_to_end(&mut answer)).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Only the user whose process it is may do this, and root with privileges it does not have in a container.
fn limit_threads(proxy: &Proxy, number: u64) {
    let mut prlimit = Command::new("prlimit");
    if geteuid().is_root() {
        prlimit.uid(SOMEBODY).gid(SOMEBODY);
    }
    let words = [format!("--pid={}", proxy.pid()), format!("--nproc={number}:")];
    assert!(prlimit.args(words).status().unwrap().success());
}

/// So that no other processes count. The binary may be where only root may read.
pub fn run_as(user: u32, command: &mut Command) {
    let dir = command.get_current_dir().unwrap().to_owned();
    let program = dir.join("cbpx");
    // Not written by this process: a file that is open for writing anywhere cannot be run.
    assert!(Command::new("cp").arg(command.get_program()).arg(&program).status().unwrap().success());
    std::os::unix::fs::chown(&dir, Some(user), Some(user)).unwrap();
    let arguments: Vec<OsString> = command.get_args().map(Into::into).collect();
    let mut changed = Command::new(program);
    changed.args(arguments).current_dir(dir).stdin(Stdio::null()).uid(user).gid(user);
    *command = changed;
}

#[test]
fn a_full_disk_costs_log_lines_and_nothing_else() {
    let (old, new) = (Backend::echo("s"), Backend::echo("s"));
    let flags = ["-f", "/dev/full", "-l", "DEBUG"];
    let mut proxy = Proxy::start_with(&old.address(), &new.address(), &flags, |command| {
        command.stderr(Stdio::piped());
    });
    let before = Vitals::at_rest(&proxy);
    for _ in 0..100 {
        assert!(is_served(&proxy.connect()));
    }
    eventually(SOON, "all have left", || proxy.stat("active") == 0);
    assert!(proxy.ask("switch").contains("Switch OK"));
    assert!(is_served(&proxy.connect()));
    before.are_back(&proxy);
    assert_eq!(proxy.stop().code(), Some(0));
    let mut told = String::new();
    proxy.child().stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told.matches("cannot write to log file /dev/full").count(), 1, "{told}");
}

#[test]
fn a_disk_that_hangs_costs_log_lines_and_nothing_else() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("starved"));
    // Its reader is this process, which reads nothing for a long time.
    let path = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut fifo = File::options().read(true).write(true).open(&path).unwrap();
    let path = path.display().to_string();
    let flags = ["-f", &path, "-l", "DEBUG"];
    let mut proxy = Proxy::start_with(&server.address(), &server.address(), &flags, |command| {
        command.stderr(Stdio::null());
    });
    let before = Vitals::at_rest(&proxy);
    // More than the pipe and the queue hold.
    for _ in 0..3000 {
        let client = proxy.connect();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_rest(&client), b"");
    }
    assert!(is_served(&proxy.connect()));
    eventually(SOON, "all have left", || proxy.stat("active") == 0);
    assert!(proxy.ask("switch").contains("Switch OK"));
    // The disk works again, for a while.
    let mut log = String::new();
    let mut buffer = [0; 4096];
    while !log.contains(" log lines were lost before this one") {
        let length = fifo.read(&mut buffer).unwrap();
        log.push_str(&String::from_utf8_lossy(&buffer[..length]));
        // Something more to tell, when all that was waiting has been.
        proxy.connect();
    }
    before.are_back(&proxy);
    for _ in 0..3000 {
        proxy.connect();
    }
    proxy.ask("quit force");
    let status = proxy.wait_within(Duration::from_secs(2));
    assert_eq!(status.code(), Some(0), "it does not wait for the disk to end");
}
