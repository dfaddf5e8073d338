//! A cbpx command run to its end.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

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
}

impl Drop for Killed {
    fn drop(&mut self) {
        processes::end(&mut self.0);
    }
}
