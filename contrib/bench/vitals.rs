//! What the proxy's process has: threads, descriptors, resident memory.

use std::fmt;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// At one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    pub threads: usize,
    pub descriptors: usize,
    /// In KiB.
    pub resident: usize,
}

/// A worker that has nothing to do ends after ten seconds.
const REST: Duration = Duration::from_secs(30);

impl Vitals {
    /// # Errors
    /// When there is no such process (any more).
    pub fn of(pid: u32) -> io::Result<Vitals> {
        let names = thread_names(pid)?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        let resident = row.ok_or_else(|| io::Error::other("the proxy has ended"))?;
        Ok(Vitals { threads: names.len(), descriptors, resident })
    }

    /// Of one that nobody uses: sessions have ended, and threads that wait for their next job are not counted.
    ///
    /// # Errors
    /// When it does not come to rest.
    pub fn at_rest(pid: u32) -> io::Result<Vitals> {
        let end = Instant::now() + REST;
        let mut last = None;
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
            let names = thread_names(pid)?;
            let idle = names.iter().filter(|name| *name == "idle").count();
            // A session is there while somebody talks to control; a worker is about to be one.
            let busy = names.iter().any(|name| name.starts_with("session") || name == "worker");
            let vitals = Vitals::of(pid)?;
            let now = Vitals { threads: vitals.threads - idle.min(vitals.threads), ..vitals };
            let counts = (now.threads, now.descriptors);
            if !busy && last == Some(counts) {
                return Ok(now);
            }
            last = Some(counts);
        }
        Err(io::Error::other("the proxy does not come to rest"))
    }
}

fn thread_names(pid: u32) -> io::Result<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    // One that ends between the two reads is left out.
    let name = |task: io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    Ok(tasks.filter_map(name).map(|name| name.trim_end().to_owned()).collect())
}

impl fmt::Display for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vitals { threads, descriptors, resident } = self;
        write!(f, "{threads} threads, {descriptors} descriptors, {:.1} MiB", *resident as f64 / 1024.0)
    }
}
