//! A cbpx command run to its end.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::processes;
use crate::proxy::CBPX;
use crate::support::{SOON, eventually};

/// What it did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Checks the exit status, and that standard error has all of these.
    pub fn failed_with(&self, code: i32, tokens: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "an error is no output: {self:?}");
        for token in tokens {
            assert!(self.err.contains(token), "no '{token}' in: {}", self.err);
        }
    }
}

/// Runs `cbpx` with these arguments in this directory.
pub fn cbpx(arguments: &[&str], directory: &Path) -> Ran {
    let mut command = Command::new(CBPX);
    command.args(arguments).current_dir(directory).env_remove("CBPX_CTL");
    run(&mut command)
}

/// Runs a command without input.
///
/// # Panics
/// When it does not end: then it has started where it should have refused to.
pub fn run(command: &mut Command) -> Ran {
    let mut child = Killed::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (out, err) = (child.0.stdout.take().unwrap(), child.0.stderr.take().unwrap());
    let (out, err) = (thread::spawn(|| text(out)), thread::spawn(|| text(err)));
    let mut status = None;
    eventually(SOON, &format!("{command:?} ends"), || {
        status = child.0.try_wait().unwrap();
        status.is_some()
    });
    Ran { code: status.unwrap().code(), out: out.join().unwrap(), err: err.join().unwrap() }
}

fn text(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Killed with all that it has started, and reaped, when dropped.
pub struct Killed(pub Child);

impl Killed {
    pub fn start(command: &mut Command) -> Killed {
        Killed(processes::start(command))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal as it is, whether the process has a handler for it or not.
    pub fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Sends a signal, once the process has a handler for it.
    pub fn signal(&self, signal: Signal) {
        processes::catches(self.pid(), signal);
        self.send(signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(SOON)
    }

    pub fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        eventually(limit, &format!("process {} ends", self.pid()), || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Ends it now.
    pub fn end(&mut self) {
        processes::end(&mut self.0);
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.end();
    }
}
