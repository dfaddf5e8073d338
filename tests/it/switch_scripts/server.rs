//! The process of a server: run by an unprivileged user if the test runs as root, on a reserved port, killed and reaped
//! when dropped.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Reserved, eventually};

/// A running server and its log.
pub struct Process {
    child: Child,
    port: Reserved,
    log: PathBuf,
}

impl Process {
    /// Starts `command` for `port` and waits until `answers`.
    pub fn start(mut command: Command, port: Reserved, log: PathBuf, answers: impl Fn() -> bool) -> Process {
        let file = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot run {name}: {e}: contrib/run-tests installs it"));
        let mut process = Process { child, port, log };
        eventually(super::LONG, "the server answers", || {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("{name} ended ({status}):\n{}", process.log());
            }
            answers()
        });
        process
    }

    pub fn port(&self) -> u16 {
        self.port.port()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.log());
        }
    }
}

/// A command that is not run as root.
pub fn unprivileged(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A directory in which an unprivileged server may write.
pub fn hand_over(dir: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// The user and group without rights, on every Linux.
const NOBODY: u32 = 65_534;
