//! Ends what a benchmark has started when the benchmark has ended, however it did: also by SIGKILL, which tells nobody.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process of its own, which waits for the end of its standard input. Dropped in order, it does nothing.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// `target` as kill(1) takes it: a process, or a group with a `-` before it. `directory` is removed with it.
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
            // If it has ended, there is nobody to be told.
            writeln!(input, "over").ok();
        }
        self.0.wait().ok();
    }
}
