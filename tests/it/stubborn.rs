//! A switch script that never ends by itself, ignores every signal it can, and has a child that does the same.

use std::fs;

use crate::support::{SOON, TempDir, eventually};

pub struct Stubborn {
    dir: TempDir,
    path: String,
}

impl Stubborn {
    pub fn new() -> Stubborn {
        let dir = TempDir::new("stubborn");
        let text = format!(
            "#!/bin/sh\ncd '{}'\ntrap '' TERM INT HUP\nsh -c 'while [ -d \"$PWD\" ]; do sleep 1; done' &\n\
             echo $$ $! >pids.new\nmv pids.new pids\nwhile [ -d \"$PWD\" ]; do sleep 1; done\n",
            dir.path().display()
        );
        let path = dir.script("promote", &text).display().to_string();
        Stubborn { dir, path }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// Waits until both processes are there.
    pub fn runs(&self) {
        eventually(SOON, "the script runs", || self.dir.path().join("pids").exists());
        assert!(self.processes().iter().all(is_alive));
    }

    /// Waits until neither is; then it may be started again.
    pub fn is_gone(&self) {
        let processes = self.processes();
        eventually(SOON, "neither the script nor its child is left", || !processes.iter().any(is_alive));
        fs::remove_file(self.dir.path().join("pids")).unwrap();
    }

    fn processes(&self) -> Vec<String> {
        let pids = fs::read_to_string(self.dir.path().join("pids")).unwrap();
        pids.split_whitespace().map(str::to_owned).collect()
    }
}

/// Whether a process is there and not just waiting to be reaped.
fn is_alive(pid: &String) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, state)| !state.trim_start().starts_with('Z'))
}
