//! In the background: the logs, the pid file, signals, and a restart without a gap.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::{fproxy, lines};
use crate::backend::Backend;
use crate::command::run;
use crate::service::connect;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::served_by;

/// Started as an init script does, in a directory of its own.
struct Daemon {
    dir: TempDir,
    at: SocketAddr,
    words: Vec<String>,
    pids: Vec<u32>,
    _port: Reserved,
}

impl Daemon {
    fn new(options: &[&str], backend: &Backend) -> Daemon {
        let port = Reserved::new();
        let at = SocketAddr::from(([127, 0, 0, 1], port.port()));
        let options = ["-oo.log", "-ee.log", "-pp.pid"].into_iter().chain(options.iter().copied());
        let words = options.map(str::to_owned).chain([at.to_string(), "--".to_owned(), backend.address()]).collect();
        let mut daemon = Daemon { dir: TempDir::new("fproxy"), at, words, pids: Vec::new(), _port: port };
        daemon.start();
        daemon
    }

    /// Runs the command: when it has ended, the instance is up. Returns its process.
    fn start(&mut self) -> u32 {
        let ran = run(fproxy(self.dir.path()).args(&self.words));
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
        let pid = lines(&self.path("p.pid"))[0].parse().unwrap();
        self.pids.push(pid);
        pid
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn signal(&self, pid: u32, signal: Signal) {
        kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for pid in self.pids.iter().filter(|pid| is_running(**pid)) {
            self.signal(*pid, Signal::KILL);
        }
        if thread::panicking() {
            eprintln!("its error log:\n{}", lines(&self.path("e.log")).join("\n"));
        }
    }
}

/// It is ours, and not only waiting to be reaped.
fn is_running(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).contains("fproxy")
}

#[test]
fn it_leaves_the_terminal_with_both_logs_and_a_pid_file_in_their_layouts() {
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&[], &backend);
    assert_eq!(served_by(&mut connect(daemon.at)), "A");
    eventually(SOON, "there is a line", || lines(&daemon.path("o.log")).len() == 1);
    let line = &lines(&daemon.path("o.log"))[0];
    assert!(line.starts_with("127.0.0.1 - - [") && line.contains("] \"GET 127.0.0.1\" 200 "), "{line}");
    let told = lines(&daemon.path("e.log"));
    let shape: String = told[0].chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    let (date, rest) = shape.split_once("] ").unwrap();
    assert!(date.starts_with('[') && date.ends_with(" 99:99:99 9999"), "{told:?}");
    assert!(rest.starts_with("[notice] cbpx 9.9.9 started: listening on "), "{told:?}");
    let pid = daemon.pids[0];
    daemon.signal(pid, Signal::TERM);
    eventually(SOON, "it ends", || !is_running(pid));
    assert!(!daemon.path("p.pid").exists());
    assert!(lines(&daemon.path("e.log")).last().unwrap().ends_with("] [notice] cbpx ended"));
}

#[test]
fn sighup_opens_both_logs_again_and_no_client_notices() {
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&[], &backend);
    let mut client = connect(daemon.at);
    assert_eq!(served_by(&mut client), "A");
    for name in ["o.log", "e.log"] {
        fs::rename(daemon.path(name), daemon.path(&format!("{name}.1"))).unwrap();
    }
    let pid = daemon.pids[0];
    daemon.signal(pid, Signal::HUP);
    eventually(SOON, "there are new files", || daemon.path("o.log").exists() && daemon.path("e.log").exists());
    assert_eq!(served_by(&mut client), "A");
    drop(client);
    eventually(SOON, "there is a line in it", || lines(&daemon.path("o.log")).len() == 1);
    daemon.signal(pid, Signal::TERM);
    eventually(SOON, "it ends", || !is_running(pid));
    assert!(lines(&daemon.path("e.log")).iter().any(|line| line.ends_with("] [notice] signal received: SIGTERM")));
    assert!(lines(&daemon.path("o.log.1")).is_empty());
}

#[test]
fn sigterm_and_sigquit_let_clients_finish_as_long_as_it_takes() {
    let backend = Backend::echo("A");
    for signal in [Signal::TERM, Signal::QUIT] {
        let daemon = Daemon::new(&[], &backend);
        let mut client = connect(daemon.at);
        assert_eq!(served_by(&mut client), "A");
        let pid = daemon.pids[0];
        daemon.signal(pid, signal);
        eventually(SOON, "nobody new is accepted", || TcpStream::connect(daemon.at).is_err());
        assert_eq!(served_by(&mut client), "A");
        assert!(is_running(pid));
        drop(client);
        eventually(SOON, "it ends with its last client", || !is_running(pid));
    }
}

#[test]
fn a_second_instance_without_share_is_refused() {
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&[], &backend);
    let ran = run(fproxy(daemon.dir.path()).args(&daemon.words));
    ran.failed_with(1, &[&format!("fproxy: cannot listen on {}: address in use", daemon.at)]);
    assert_eq!(served_by(&mut connect(daemon.at)), "A");
}

#[test]
fn with_share_a_restart_under_load_costs_no_client() {
    let backend = Backend::echo("A");
    let mut daemon = Daemon::new(&["--share"], &backend);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (at, mut clients) = (daemon.at, Vec::new());
    for _ in 0..4 {
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        clients.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(served_by(&mut connect(at)), "A");
                served.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for _ in 0..3 {
        let before = served.load(Ordering::Relaxed);
        eventually(SOON, "clients come and go", || served.load(Ordering::Relaxed) > before + 50);
        let old = *daemon.pids.last().unwrap();
        let new = daemon.start();
        assert_ne!(old, new);
        daemon.signal(old, Signal::TERM);
        eventually(SOON, "the old one has gone", || !is_running(old));
        assert_eq!(lines(&daemon.path("p.pid")), [new.to_string()], "the pid file is the new one's");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client was refused or got no answer");
    }
}
