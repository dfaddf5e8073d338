//! `cbpx pumpkin`: the old configuration file, with real clients and servers.

mod binding;
mod files;
mod retries;
mod serving;
mod web;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::Signal;

use crate::command::{Killed, Ran, run};
use crate::proxy::CBPX;
use crate::support::{Reserved, SOON, TempDir, eventually};

/// A running one, with ports of its own for `P0`, `P1` ... in its file.
pub struct Pumpkin {
    child: Killed,
    ports: Vec<Reserved>,
    dir: TempDir,
}

impl Pumpkin {
    /// Runs this file, and waits until it listens on all ports.
    pub fn start(ports: usize, file: &str) -> Pumpkin {
        let pumpkin = Pumpkin::spawn(ports, file);
        pumpkin.says("Starting up listener on ", ports);
        pumpkin
    }

    /// Does not wait.
    pub fn spawn(ports: usize, file: &str) -> Pumpkin {
        let (dir, ports) = (TempDir::new("pumpkin"), (0..ports).map(|_| Reserved::new()).collect::<Vec<_>>());
        let numbered = ports.iter().enumerate();
        let text = numbered.fold(file.to_owned(), |text, (number, port)| {
            text.replace(&format!("P{number}"), &port.port().to_string())
        });
        fs::write(dir.path().join("conf"), text).unwrap();
        let output = |name: &str| File::create(dir.path().join(name)).unwrap();
        let mut command = Command::new(CBPX);
        command.args(["pumpkin", "conf"]).current_dir(dir.path()).stdin(Stdio::null());
        command.stdout(output("out")).stderr(output("err"));
        let child = Killed::start(&mut command);
        Pumpkin { child, ports, dir }
    }

    pub fn port(&self, number: usize) -> u16 {
        self.ports[number].port()
    }

    /// A new client of a port.
    pub fn connect(&self, number: usize) -> TcpStream {
        crate::service::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port(number))))
    }

    /// Everything on standard output.
    pub fn out(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    /// Everything on standard error.
    pub fn err(&self) -> String {
        fs::read_to_string(self.dir.path().join("err")).unwrap()
    }

    /// Waits until standard output has this at least so often.
    pub fn says(&self, token: &str, times: usize) {
        eventually(SOON, &format!("'{token}' {times} times in:\n{}\n{}", self.out(), self.err()), || {
            self.out().matches(token).count() >= times
        });
    }

    /// The same, on standard error.
    pub fn warns(&self, token: &str, times: usize) {
        eventually(SOON, &format!("'{token}' {times} times on standard error"), || {
            self.err().matches(token).count() >= times
        });
    }

    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.is_running()
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait()
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.0.id())).unwrap().count()
    }
}

impl Drop for Pumpkin {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it said:\n{}\n{}", self.out(), self.err());
        }
    }
}

/// Runs it with these arguments to its end.
pub fn runs(arguments: &[&str], directory: &Path) -> Ran {
    run(Command::new(CBPX).arg("pumpkin").args(arguments).current_dir(directory))
}

/// Runs a file with this text to its end.
pub fn refused(text: &str) -> Ran {
    let dir = TempDir::new("pumpkin");
    fs::write(dir.path().join("conf"), text).unwrap();
    runs(&["conf"], dir.path())
}

/// A link with this name.
pub fn link(name: &str, dir: &Path) -> PathBuf {
    let link = dir.join(name);
    std::os::unix::fs::symlink(CBPX, &link).unwrap();
    link
}
