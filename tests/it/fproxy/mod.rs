//! `cbpx fproxy`: the old command line, with real clients and servers.

mod arriving;
mod background;
mod choosing;
mod starting;
mod web;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::command::Killed;
use crate::processes::catches;
use crate::proxy::CBPX;
use crate::service::connect;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::served_by;

/// A running instance in the foreground, in a directory of its own, with an access log.
pub struct Fproxy {
    child: Killed,
    port: Reserved,
    dir: TempDir,
}

impl Fproxy {
    /// Starts it with these options, listening on one port, and waits until it is up.
    pub fn start(options: &[&str], backends: &[&str]) -> Fproxy {
        Fproxy::start_in(TempDir::new("fproxy"), options, backends)
    }

    /// The same, in this directory.
    pub fn start_in(dir: TempDir, options: &[&str], backends: &[&str]) -> Fproxy {
        let port = Reserved::new();
        let mut command = fproxy(dir.path());
        command.args(["-f", "--access_log", "access.log"]).args(options);
        command.arg(format!("127.0.0.1:{}", port.port())).arg("--").args(backends);
        command.stderr(File::create(dir.path().join("err")).unwrap());
        let child = Killed::start(&mut command);
        let mut running = Fproxy { child, port, dir };
        let pid = running.child.0.id();
        eventually(SOON, "it is up", || {
            let ended = running.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}; it said:\n{}", running.told());
            listens(pid)
        });
        catches(pid, Signal::TERM);
        running
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.port()).into()
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.addr())
    }

    /// The server of a new client, which has left and is in the access log when this returns.
    pub fn serves(&self) -> String {
        let before = self.accesses().len();
        let mut client = self.connect();
        let by = served_by(&mut client);
        drop(client);
        self.has_accesses(before + 1);
        by
    }

    pub fn accesses(&self) -> Vec<String> {
        lines(&self.path("access.log"))
    }

    /// Waits until this many clients have left.
    pub fn has_accesses(&self, number: usize) -> Vec<String> {
        eventually(SOON, "the access log tells of it", || self.accesses().len() >= number);
        self.accesses()
    }

    /// What it has said on standard error.
    pub fn told(&self) -> String {
        fs::read_to_string(self.path("err")).unwrap_or_default()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Its exit status, once it has ended.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().code()
    }
}

impl Drop for Fproxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fproxy said:\n{}\nits access log:\n{}", self.told(), self.accesses().join("\n"));
        }
    }
}

/// Whether its threads accept clients.
fn listens(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.any(|name| name.starts_with("listen-"))
}

/// The command, to be given arguments.
pub fn fproxy(directory: &Path) -> Command {
    let mut command = Command::new(CBPX);
    command.arg("fproxy").current_dir(directory).stdin(Stdio::null());
    command
}

/// Whole lines of a file that may not be there yet.
pub fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}
