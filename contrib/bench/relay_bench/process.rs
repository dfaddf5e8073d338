//! Other processes: what they use, from /proc, and that none is left running.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, getrlimit, kill_process_group, set_child_subreaper,
    setpriority_process, setrlimit, waitpgid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::guard::Guard;

/// Unit of the times in /proc (USER_HZ, 100 a second on every machine Linux runs on today).
const TICK_MS: u64 = 10;

/// Every process started and not ended yet: each leads a group of its own, which its children belong to.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A process with all its children; killed when dropped, and when this program is killed.
#[derive(Debug)]
pub struct Running(pub Child, Option<Guard>);

impl Running {
    pub fn start(command: &mut Command) -> io::Result<Running> {
        use std::os::unix::process::CommandExt;
        // Under the lock, so that nobody is started after `kill_all`.
        let mut groups = GROUPS.lock();
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .process_group(0)
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("cannot start {name}: {e}")))?;
        let group = Pid::from_child(&child);
        groups.push(group);
        let mut running = Running(child, None);
        // Dropping takes the lock.
        drop(groups);
        running.1 = Some(Guard::of(&format!("-{}", group.as_raw_nonzero()), &folder())?);
        Ok(running)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.0);
        let mut groups = GROUPS.lock();
        // It may have ended by itself; its id is its own until it has been waited for.
        kill_process_group(pid, Signal::KILL).ok();
        self.1 = None;
        self.0.wait().ok();
        reap(pid);
        groups.retain(|group| *group != pid);
    }
}

/// Where the proxies keep their files.
pub fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("bench-relay-{}", std::process::id()))
}

/// Ends everything that was started and removes its files. For the ways out that drop nothing.
pub fn kill_all() {
    for group in GROUPS.lock().drain(..) {
        // It may have ended by itself.
        kill_process_group(group, Signal::KILL).ok();
        reap(group);
    }
    // There may be none yet.
    fs::remove_dir_all(folder()).ok();
}

/// Waits until nobody of a group that was killed is left. Its orphans are ours (see `adopt_orphans`).
fn reap(group: Pid) {
    while waitpgid(group, WaitOptions::empty()).is_ok() {}
}

/// A signal ends the children too; and nothing lasts longer than `limit`.
pub fn die_with_signals_or_after(limit: Duration) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().spawn(move || {
        if let Some(signal) = signals.forever().next() {
            kill_all();
            std::process::exit(128 + signal);
        }
    })?;
    thread::Builder::new().spawn(move || {
        thread::sleep(limit);
        kill_all();
        eprintln!("bench-relay: not done after {} s: something hangs", limit.as_secs());
        std::process::exit(1);
    })?;
    Ok(())
}

/// Children of a proxy that was killed become this process's, so that none stays behind as a zombie where nobody else
/// waits for them.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// The priority of this process and all that it starts. Linux may schedule by session first (autogroup), where the
/// priority of a process counts only among its own; then the session's is set too,
/// which outlasts this process: who sets it sets it back.
pub fn prioritise(nice: i32) -> io::Result<()> {
    setpriority_process(None, nice)?;
    match fs::write(AUTOGROUP, nice.to_string()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The session's priority, for who wants to set it back; `None` where there is no such thing.
pub fn session_priority() -> Option<i32> {
    fs::read_to_string(AUTOGROUP).ok()?.trim().rsplit(' ').next()?.parse().ok()
}

const AUTOGROUP: &str = "/proc/self/autogroup";

/// As many descriptors as are allowed; children inherit that.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// How many descriptors a process may have.
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// CPU time, user and system, of a process: all its threads, its children, and those children that have ended.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in the second field may contain anything; after it come state, ppid, ...
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let (first, count) = (11, 4); // utime, stime, cutime, cstime
    let ticks: u64 = rest.split_whitespace().skip(first).take(count).filter_map(|n| n.parse::<u64>().ok()).sum();
    let children: Duration = children(pid).into_iter().filter_map(|child| cpu(child).ok()).sum();
    Ok(Duration::from_millis(ticks * TICK_MS) + children)
}

/// Resident memory of a process and its children, in bytes; what several share is counted in parts.
pub fn memory(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib =
        rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let kib = kib.ok_or_else(|| io::Error::other("no Pss in smaps_rollup"))?;
    let children: u64 = children(pid).into_iter().filter_map(|child| memory(child).ok()).sum();
    Ok(kib * 1024 + children)
}

/// Only the main thread's: none of the proxies starts processes from another.
fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// What all processors have done since the machine started, but for waiting.
pub fn machine() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user nice system idle iowait irq softirq steal
    let busy = fields.take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    Ok(Duration::from_millis(busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum::<u64>() * TICK_MS))
}
