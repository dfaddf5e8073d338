//! How a running proxy is doing: busy threads, descriptors, memory. After whatever was done to it, all three must be
//! back where they were.

#[path = "../../contrib/bench/vitals.rs"]
pub mod process;

use std::thread;
use std::time::Duration;

use self::process::{is_quiet, threads};
use crate::proxy::Proxy;
use crate::support::{SOON, eventually};

/// What a proxy has when nobody uses it.
pub struct Vitals(process::Vitals);

/// What the allocator may keep, in KiB: freed memory goes back to the system in large pieces only.
const SLACK: usize = 24 * 1024;

impl Vitals {
    /// Of one that has just been started, once each of its threads has come to where it waits.
    pub fn at_rest(proxy: &Proxy) -> Vitals {
        const OWN: [&str; 7] = ["log", "watch", "listen-cbpx", "relay-0", "coordinator", "control-0", "signals"];
        assert!(proxy.ask("hello").contains("Hello"));
        let mut quiet = 0;
        eventually(SOON, "all threads are there and wait", || {
            let threads = threads(proxy.pid()).unwrap();
            let has = |name: &&str| threads.iter().any(|thread| thread.name == *name);
            quiet = if is_quiet(&threads) && OWN.iter().all(has) { quiet + 1 } else { 0 };
            // Once may be by chance, on the way.
            quiet == 5
        });
        Vitals(now(proxy))
    }

    /// Waits until no more than so many more are busy than were: control sessions may still be ending.
    pub fn has_no_more_threads_than(&self, more: usize, proxy: &Proxy) {
        eventually(SOON, "no more threads are busy", || now(proxy).busy.len() <= self.0.busy.len() + more);
    }

    /// Waits until the proxy has no more than this.
    pub fn are_back(&self, proxy: &Proxy) {
        eventually(SOON, "busy threads, descriptors and memory are back where they were", || {
            thread::sleep(Duration::from_millis(20));
            let (before, now) = (&self.0, now(proxy));
            let back = now.busy.len() <= before.busy.len()
                && now.descriptors <= before.descriptors
                && now.resident <= before.resident + SLACK;
            if !back {
                tell(before, &now);
            }
            back
        });
    }
}

fn now(proxy: &Proxy) -> process::Vitals {
    process::Vitals::of(proxy.pid()).unwrap()
}

thread_local! {
    static TOLD: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Says what differs, whenever that changes: captured, and shown when the test fails.
fn tell(before: &process::Vitals, now: &process::Vitals) {
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
