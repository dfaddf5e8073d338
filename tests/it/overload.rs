//! At the limit: what the log and `set` say of it is true, the newest client is closed, the log stays short, and
//! whoever was there before does not notice.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Resource, geteuid};

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::starved::{become_by, is_served, limit, run_as};
use crate::support::{SOON, allow_descriptors, eventually};
use crate::vitals::Vitals;

/// A user id that no other test uses, because the processes of this user are counted.
const SOMEBODY: u32 = 61_235;

fn with_descriptors(server: &Backend, number: u64) -> Proxy {
    let words = format!("ulimit -n {number}; exec \"$0\" \"$@\"");
    Proxy::start_with(&server.address(), &server.address(), &[], |command| {
        become_by(command, "sh", &["-c", &words]);
    })
}

/// New clients and how many of them were served: the first ones.
fn served(proxy: &Proxy, number: usize) -> (Vec<TcpStream>, usize) {
    let clients: Vec<_> = (0..number).map(|_| proxy.connect()).collect();
    let served: Vec<_> = clients.iter().map(is_served).collect();
    assert!(served.is_sorted_by_key(|served| !served), "only the newest are closed: {served:?}");
    (clients, served.into_iter().filter(|served| *served).count())
}

/// The first line of the log that contains this. Control may answer before the log is written.
fn line(proxy: &Proxy, words: &str) -> String {
    let mut found = None;
    eventually(SOON, words, || {
        found = proxy.log().lines().find(|line| line.contains(words)).map(str::to_owned);
        found.is_some()
    });
    found.unwrap()
}

/// Of `words`, the number before ` clients at once` and what limits it.
fn told(words: &str) -> (usize, String) {
    let (before, after) = words.split_once(" clients at once (").unwrap_or_else(|| panic!("not told in: {words}"));
    let number = before.rsplit("about ").next().unwrap().parse().unwrap();
    (number, after.split(')').next().unwrap().to_owned())
}

#[test]
fn the_log_and_set_tell_the_number_of_clients_that_are_served() {
    let server = Backend::echo("s");
    for descriptors in [64, 128, 200] {
        let proxy = with_descriptors(&server, descriptors);
        let (number, reason) = told(&line(&proxy, "room for about"));
        assert_eq!(reason, format!("descriptors: {descriptors}"));
        // Two each, and some for the proxy: more on a machine with more processors.
        assert!((descriptors as usize / 4..descriptors as usize / 2).contains(&number), "{number} of {descriptors}");
        assert_eq!(told(&proxy.ask("set")), (number, reason));
        assert_eq!(served(&proxy, number + 20).1, number);
    }
}

#[test]
fn hundreds_of_refused_clients_are_a_handful_of_lines_that_tell_their_number() {
    let server = Backend::echo("s");
    let proxy = with_descriptors(&server, 64);
    let before = Vitals::at_rest(&proxy);
    let start = Instant::now();
    let (room, _) = told(&line(&proxy, "room for about"));
    let (old, number) = served(&proxy, room);
    assert_eq!(number, room);
    let mut refused = 0;
    for _ in 0..10 {
        let (_clients, served) = served(&proxy, 50);
        assert_eq!(served, 0);
        refused += 50;
        assert!(old.iter().all(is_served), "those who were there before do not notice");
    }
    let first = refused;
    // The number of the others follows in the next line, due after a second.
    eventually(SOON, "all are told of", || {
        assert!(!is_served(&proxy.connect()));
        refused += 1;
        refusals(&proxy.log()).1 >= first
    });
    let (lines, number) = refusals(&proxy.log());
    assert!(number <= refused, "{number} are told of, {refused} were refused");
    assert!(lines <= 2 + start.elapsed().as_secs() as usize, "{lines} lines in {:?}", start.elapsed());
    drop(old);
    eventually(SOON, "there is room again", || is_served(&proxy.connect()));
    eventually(SOON, "all have left", || proxy.stat("active") == 0);
    assert_eq!(served(&proxy, room).1, room, "service is whole again");
    before.are_back(&proxy);
}

/// How many lines tell of refused clients, and of how many.
fn refusals(log: &str) -> (usize, usize) {
    let lines: Vec<_> = log.lines().filter(|line| line.contains("closed: out of descriptors or memory")).collect();
    let others = |line: &&str| -> usize {
        line.split_once(" more like this").map_or(0, |(before, _)| before.rsplit('(').next().unwrap().parse().unwrap())
    };
    (lines.len(), lines.len() + lines.iter().map(others).sum::<usize>())
}

#[test]
fn a_shortage_that_comes_and_goes_is_a_handful_of_lines() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &[]);
    let before = Vitals::at_rest(&proxy);
    let start = Instant::now();
    // The proxy was told of more when it started. Whoever is closed makes room for the next one.
    limit(&proxy, Resource::Nofile, 30);
    for _ in 0..10 {
        let clients: Vec<_> = (0..50).map(|_| proxy.connect()).collect();
        assert!(clients.iter().filter(|client| is_served(client)).count() < 20);
    }
    let log = proxy.log();
    let lines = log.lines().filter(|line| {
        let kinds = ["cannot accept a client", "cannot serve it", "closed: out of descriptors or memory"];
        kinds.iter().any(|kind| line.contains(kind))
    });
    let (lines, seconds) = (lines.count(), start.elapsed().as_secs() as usize);
    assert!(lines > 0 && lines <= 3 * (2 + seconds), "{lines} lines of three kinds in {seconds} s:\n{log}");
    limit(&proxy, Resource::Nofile, 1000);
    eventually(SOON, "there is room again", || is_served(&proxy.connect()));
    before.are_back(&proxy);
}

#[test]
fn with_few_threads_from_the_start_there_is_a_warning_and_everybody_is_served() {
    if !geteuid().is_root() {
        // Every process of this user would count.
        return println!("left out: only root can become somebody without other processes");
    }
    let server = Backend::echo("s");
    let proxy = Proxy::start_with(&server.address(), &server.address(), &[], |command| {
        let dir = command.get_current_dir().unwrap().to_owned();
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        run_as(SOMEBODY, command);
        become_by(command, "prlimit", &["--nproc=40"]);
        command.uid(SOMEBODY).gid(SOMEBODY).stdin(Stdio::null());
    });
    let before = Vitals::at_rest(&proxy);
    line(&proxy, "only 40 threads: control sessions or the switch script may not get one");
    let (clients, number) = served(&proxy, 200);
    assert_eq!(number, 200, "a client needs no thread");
    drop(clients);
    assert!(proxy.ask("switch").contains("Switch OK"));
    assert!(is_served(&proxy.connect()));
    before.are_back(&proxy);
}

/// A control group with a limit of memory; removed when dropped, which works once its processes have ended.
struct Group(PathBuf);

impl Group {
    /// `None` where no group can be made: without root, in most containers.
    fn new(memory: u64) -> Option<Group> {
        let table = fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = format!("cbpx-test-{}", std::process::id());
        table.lines().find_map(|row| {
            let mut fields = row.splitn(3, ':').skip(1);
            let (controller, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            let (root, limit) = match controller {
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                "" => ("/sys/fs/cgroup", "memory.max"),
                _ => return None,
            };
            let group = Group(PathBuf::from(root).join(path).join(&name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(limit), memory.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn in_16_mebibytes_as_many_clients_are_served_as_is_told() {
    const MEMORY: u64 = 16 << 20;
    const CLIENTS: usize = (MEMORY / 2 / (16 * 1024)) as usize;
    let Some(group) = Group::new(MEMORY) else { return println!("left out: no control group can be made here") };
    allow_descriptors(4 * CLIENTS as u64);
    let server = Backend::echo("s");
    let join = format!("echo $$ >'{}/cgroup.procs' && exec \"$0\" \"$@\"", group.0.display());
    let mut proxy = Proxy::start_with(&server.address(), &server.address(), &[], |command: &mut Command| {
        become_by(command, "sh", &["-c", &join]);
    });
    let before = Vitals::at_rest(&proxy);
    assert_eq!(told(&proxy.ask("set")), (CLIENTS, "memory: 16 MiB".to_owned()));
    let (clients, number) = served(&proxy, CLIENTS + 50);
    assert_eq!(number, CLIENTS);
    assert!(clients[..CLIENTS].iter().all(is_served), "and the system does not end it for want of memory");
    drop(clients);
    before.are_back(&proxy);
    assert!(is_served(&proxy.connect()));
    proxy.stop();
}
