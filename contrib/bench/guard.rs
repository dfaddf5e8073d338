//! Kills what a benchmark has started when the benchmark has ended, even by SIGKILL.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that waits for the end of its standard input. If the guard is dropped in order, the process does nothing.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// `target` is as for kill(1): a process, or a group with a `-` before it. `directory` is removed too.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn of(target: &str, directory: &Path) -> io::Result<Guard> {
        const WAIT: &str = "trap '' INT TERM HUP QUIT; read -r _ || { kill -KILL -- \"$0\"; rm -rf \"$1\"; }";
        let mut command = Command::new("sh");
        command.args(["-c", WAIT, target]).arg(directory).process_group(0);
        Ok(Guard(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut input) = self.0.stdin.take() {
            // Fails if the process has already ended.
            writeln!(input, "over").ok();
        }
        self.0.wait().ok();
    }
}
