//! In the background, as init scripts run it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, getpgid, kill_process};

use super::served;
use crate::backend::Backend;
use crate::command::{Killed, run};
use crate::proxy::CBPX;
use crate::support::{Reserved, SOON, TempDir, eventually};

/// An instance that has left its parent. Killed when dropped.
struct Daemon {
    port: Reserved,
    dir: TempDir,
    pid: Pid,
}

impl Daemon {
    /// Starts it as an init script does: without `-f`, and waits for the parent, which must end with 0 and say nothing.
    fn start(destinations: &[&str]) -> Daemon {
        let (port, dir) = (Reserved::new(), TempDir::new("daemon"));
        let file = |name: &str| File::create(dir.path().join(name)).unwrap();
        let mut command = Command::new(CBPX);
        command.arg("balance").arg(port.port().to_string()).args(destinations).env("BALANCE_RUNDIR", dir.path());
        let parent = command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).current_dir(dir.path());
        let mut parent = Killed::start(parent);
        let mut status = None;
        eventually(SOON, "the parent ends", || {
            status = parent.0.try_wait().unwrap();
            status.is_some()
        });
        let said = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((status.unwrap().code(), said("out").as_str(), said("err").as_str()), (Some(0), "", ""));
        // It serves by now: the caller need not wait for anything else.
        let banner = ask(&socket(dir.path(), &port), "-i\nquit");
        let pid = banner.split_whitespace().find_map(|word| word.trim_end_matches(':').parse().ok());
        let pid = pid.and_then(Pid::from_raw).unwrap_or_else(|| panic!("no PID in: {banner}"));
        Daemon { port, dir, pid }
    }

    fn connect(&self) -> TcpStream {
        super::ready(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.port())).unwrap())
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended, as it should.
        kill_process(self.pid, Signal::KILL).ok();
    }
}

fn socket(dir: &Path, port: &Reserved) -> PathBuf {
    dir.join(format!("balance.{}.0.0.0.0.sock", port.port()))
}

fn ask(socket: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn without_f_the_parent_ends_with_0_once_clients_are_served() {
    let a = Backend::echo("A");
    let daemon = Daemon::start(&[&a.address()]);
    assert_eq!(served(&mut daemon.connect()).as_deref(), Some("A"));
    assert_eq!(fs::read_link(daemon.proc("cwd")).unwrap(), Path::new("/"));
    assert_ne!(getpgid(Some(daemon.pid)).unwrap(), getpgid(None).unwrap(), "a process group of its own");
    for number in 0..3 {
        let descriptor = fs::read_link(daemon.proc(&format!("fd/{number}")));
        assert!(descriptor.is_err() || descriptor.is_ok_and(|path| path == Path::new("/dev/null")), "{number}");
    }
    let mut control = Command::new(CBPX);
    control.args(["balance", "-c", "kill", &daemon.port.port().to_string()]).env("BALANCE_RUNDIR", daemon.dir.path());
    let ran = run(&mut control);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "shutdown complete, exiting.\n"));
    eventually(SOON, "it has ended", || !daemon.proc("exe").exists());
}
