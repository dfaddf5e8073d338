//! Processes that tests start. None outlives the tests: what was started ends with its guard, and everything that is
//! left ends with this process, whatever ends that one (also SIGKILL); likewise the temporary directories.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{SOON, eventually};

/// In the environment of all that tests start, and of what that starts: the process of the tests.
const MARK: &str = "CBPX_STARTED_BY_TESTS";

/// Starts a process.
pub fn start(command: &mut Command) -> Child {
    watch();
    command.env(MARK, std::process::id().to_string()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Ends a process and all that descends from it, and reaps it.
pub fn end(child: &mut Child) {
    // The number of one that was reaped may be somebody else's by now.
    if let Ok(None) = child.try_wait() {
        let descendants = descendants(child.id());
        child.kill().ok();
        for pid in descendants.into_iter().filter_map(|pid| Pid::from_raw(pid as i32)) {
            // It may have ended.
            kill_process(pid, Signal::KILL).ok();
        }
    }
    child.wait().ok();
}

/// Waits until a process has a handler for this signal.
pub fn catches(pid: u32, signal: Signal) {
    eventually(SOON, "the signal is caught", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
    });
}

/// Children, their children and so on.
fn descendants(of: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in processes() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may contain anything: state, parent.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if let Some(Ok(parent)) = rest.split_whitespace().nth(1).map(str::parse) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&of).unwrap_or_default();
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    found
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// All running ones that these tests have started, directly or not, with their command lines.
pub fn started_by(tests: u32) -> Vec<(u32, String)> {
    let mark = format!("{MARK}={tests}");
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let words =
        |pid| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned();
    processes().into_iter().filter(is_marked).map(|pid| (pid, words(pid))).collect()
}

/// Waits in a process of its own for the end of this one, of which no signal tells it: its standard input ends then.
fn watch() {
    static ALIVE: OnceLock<ChildStdin> = OnceLock::new();
    ALIVE.get_or_init(|| {
        let own = std::process::id();
        // Some programs overwrite their environment, and have a temporary directory among their words. Again and
        // again: one may be starting another meanwhile, or writing a file.
        let text = format!(
            "trap '' INT TERM HUP QUIT; read -r _\n\
             for round in 1 2 3 4 5; do\n\
             for file in $(grep -lsz '^{MARK}={own}$' /proc/[0-9]*/environ; \
             grep -ls '/cbpx-[a-z]*-{own}-' /proc/[0-9]*/cmdline)\n\
             do pid=${{file#/proc/}}; kill -KILL ${{pid%%/*}}; done\n\
             rm -rf \"$0\"/cbpx-*-{own}-*; sleep 0.$round; done"
        );
        let mut command = Command::new("sh");
        command.arg("-c").arg(text).arg(std::env::temp_dir()).process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.unwrap().stdin.take().unwrap()
    });
}
