//! What the proxy's process has: threads, descriptors, resident memory. For the benchmarks and the tests.

use std::fmt;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// At one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Names of the threads that have something to do.
    pub busy: Vec<String>,
    /// Threads that wait for their next job. Each ends after ten seconds without one.
    pub idle: usize,
    pub descriptors: usize,
    /// In KiB.
    pub resident: usize,
}

/// One thread of it.
#[derive(Debug)]
pub struct Thread {
    pub name: String,
    /// Waits in the system for something to happen.
    pub sleeps: bool,
}

/// Longer than a thread that waits for its next job lasts.
const REST: Duration = Duration::from_secs(30);

impl Vitals {
    /// # Errors
    /// When there is no such process (any more).
    pub fn of(pid: u32) -> io::Result<Vitals> {
        Vitals::with(pid, &threads(pid)?)
    }

    fn with(pid: u32, threads: &[Thread]) -> io::Result<Vitals> {
        let (idle, busy): (Vec<_>, Vec<_>) = threads.iter().partition(|thread| thread.name == "idle");
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        let resident = row.ok_or_else(|| io::Error::other("the proxy has ended"))?;
        let busy = busy.into_iter().map(|thread| thread.name.clone()).collect();
        Ok(Vitals { busy, idle: idle.len(), descriptors, resident })
    }

    /// Of one that nobody uses; threads that wait for their next job are left out.
    ///
    /// # Errors
    /// When it does not come to rest.
    pub fn at_rest(pid: u32) -> io::Result<Vitals> {
        let end = Instant::now() + REST;
        let mut last = None;
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
            let threads = threads(pid)?;
            let now = Vitals { idle: 0, ..Vitals::with(pid, &threads)? };
            let counts = (now.busy.len(), now.descriptors);
            if is_quiet(&threads) && last == Some(counts) {
                return Ok(now);
            }
            last = Some(counts);
        }
        Err(io::Error::other("the proxy does not come to rest"))
    }

    pub fn threads(&self) -> usize {
        self.busy.len() + self.idle
    }
}

/// # Errors
/// When there is no such process (any more).
pub fn threads(pid: u32) -> io::Result<Vec<Thread>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    let thread = |stat: String| {
        let (name, state) = stat.split_once('(')?.1.rsplit_once(") ")?;
        Some(Thread { name: name.to_owned(), sleeps: state.starts_with('S') })
    };
    // One that ends between the two reads is left out.
    Ok(tasks.filter_map(|task| thread(fs::read_to_string(task.ok()?.path().join("stat")).ok()?)).collect())
}

/// Whether nobody uses the process: every thread waits, and none is a session, which is there while somebody talks to
/// control, or a `worker`, which is about to be one.
pub fn is_quiet(threads: &[Thread]) -> bool {
    threads.iter().all(|thread| thread.sleeps && !thread.name.starts_with("session") && thread.name != "worker")
}

impl fmt::Display for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (threads, memory) = (self.threads(), self.resident as f64 / 1024.0);
        write!(f, "{threads} threads, {} descriptors, {memory:.1} MiB", self.descriptors)
    }
}
