//! How a running proxy is doing: busy threads, descriptors, memory. After whatever was done to it, all three must be
//! back where they were.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::proxy::Proxy;
use crate::support::{SOON, eventually};

/// What a proxy without clients has.
pub struct Vitals {
    busy: Vec<String>,
    descriptors: usize,
    resident: usize,
}

/// What the allocator may keep, in KiB: freed memory goes back to the system in large pieces only.
const SLACK: usize = 24 * 1024;

impl Vitals {
    /// Of one that has just been started, once each of its threads has come to where it waits.
    pub fn at_rest(proxy: &Proxy) -> Vitals {
        const OWN: [&str; 7] = ["log", "watch", "listen-cbpx", "relay-0", "coordinator", "control-0", "signals"];
        assert!(proxy.ask("hello").contains("Hello"));
        let mut quiet = 0;
        eventually(SOON, "all threads are there and wait", || {
            let threads = threads(proxy);
            let has = |name: &&str| threads.iter().any(|thread| thread.name == *name);
            let waits = threads.iter().all(|thread| thread.sleeps && !thread.name.starts_with("session"));
            quiet = if waits && OWN.iter().all(has) { quiet + 1 } else { 0 };
            // Once may be by chance, on the way.
            quiet == 5
        });
        Vitals::of(proxy)
    }

    fn of(proxy: &Proxy) -> Vitals {
        let (_, descriptors) = proxy.threads_and_descriptors();
        Vitals { busy: busy_threads(proxy), descriptors, resident: resident(proxy) }
    }

    /// Waits until nothing is busy that was not: control sessions may still be ending.
    pub fn has_no_more_threads(&self, proxy: &Proxy) {
        eventually(SOON, "no more threads are busy", || busy_threads(proxy).len() <= self.busy.len());
    }

    /// Waits until the proxy has no more than this.
    pub fn are_back(&self, proxy: &Proxy) {
        eventually(SOON, "busy threads, descriptors and memory are back where they were", || {
            thread::sleep(Duration::from_millis(20));
            let now = Vitals::of(proxy);
            let back = now.busy.len() <= self.busy.len()
                && now.descriptors <= self.descriptors
                && now.resident <= self.resident + SLACK;
            if !back {
                tell(self, &now);
            }
            back
        });
    }
}

thread_local! {
    static TOLD: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Says what differs, whenever that changes: captured, and shown when the test fails.
fn tell(before: &Vitals, now: &Vitals) {
    let words = format!(
        "busy {:?} -> {:?}, descriptors {} -> {}, memory {} -> {} KiB",
        before.busy, now.busy, before.descriptors, now.descriptors, before.resident, now.resident
    );
    TOLD.with_borrow_mut(|told| {
        if *told != words {
            println!("{words}");
            *told = words;
        }
    });
}

struct Thread {
    name: String,
    /// Waits in the system for something to happen.
    sleeps: bool,
}

fn threads(proxy: &Proxy) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
    let thread = |stat: String| {
        let (name, state) = stat.split_once('(')?.1.rsplit_once(") ")?;
        Some(Thread { name: name.to_owned(), sleeps: state.starts_with('S') })
    };
    // A thread that ends between the two reads is omitted.
    tasks.filter_map(|task| thread(fs::read_to_string(task.ok()?.path().join("stat")).ok()?)).collect()
}

/// Names of the threads that have something to do; a worker between two jobs is called `idle`.
fn busy_threads(proxy: &Proxy) -> Vec<String> {
    threads(proxy).into_iter().map(|thread| thread.name).filter(|name| name != "idle").collect()
}

/// Resident memory in KiB.
fn resident(proxy: &Proxy) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    row.trim().trim_end_matches(" kB").parse().unwrap()
}
