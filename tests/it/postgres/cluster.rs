//! A primary and its streaming standby, made for one test: data in a temporary directory, ports of their own, run by an
//! unprivileged user if the test runs as root. Stopped and removed when dropped.

#[path = "../../../contrib/bench/postgresql.rs"]
pub mod postgresql;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use self::postgresql::{give_away, server_command};
use super::wire::{Failure, Session};
use crate::support::{Reserved, TempDir, eventually};

/// For steps of a whole server, on a machine that does much else.
pub const LONG: Duration = Duration::from_secs(60);

/// Both servers. Their order is the one at the start; roles change, names do not.
pub struct Cluster {
    pub first: Server,
    pub second: Server,
    // After the servers: they must have ended before their directory goes.
    dir: TempDir,
}

/// One server: its process, if it runs, its data and its port.
pub struct Server {
    process: Option<Child>,
    data: PathBuf,
    port: Reserved,
    /// What `postgres` is started with besides `-D`.
    options: Vec<String>,
}

impl Cluster {
    /// `first` is the primary, with an empty table `ledger`, and `second` streams from it.
    pub fn start() -> Cluster {
        let dir = TempDir::new("postgres");
        give_away(dir.path()).unwrap();
        let mut first = Server::new(dir.path().join("first"));
        let mut second = Server::new(dir.path().join("second"));
        let data = first.data.to_str().unwrap();
        run("initdb", &["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"], dir.path());
        first.configure(&format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\nshared_buffers = 16MB\n\
             max_connections = 60\nmax_wal_senders = 4\nwal_retrieve_retry_interval = 100ms\n",
            dir.path().display()
        ));
        first.start();
        first.ask("CREATE TABLE ledger (client int, n int, port int)");
        let (port, data) = (first.port().to_string(), second.data.to_str().unwrap());
        run(
            "pg_basebackup",
            &["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", data, "-R", "-c", "fast"],
            dir.path(),
        );
        second.start();
        let cluster = Cluster { first, second, dir };
        cluster.first.wait_for_standby();
        cluster
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Server {
    /// With its data there, once somebody has put them there, and a port of its own, which is told to it when it
    /// starts.
    pub fn new(data: PathBuf) -> Server {
        let port = Reserved::new();
        let options = vec!["-p".to_owned(), port.port().to_string()];
        Server { process: None, data, port, options }
    }

    /// It is started with these options instead.
    pub fn start_with_options(&mut self, options: Vec<String>) {
        self.options = options;
        self.start();
    }

    pub fn port(&self) -> u16 {
        self.port.port()
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Adds lines to its configuration; they hold from the next start or reload.
    pub fn configure(&self, lines: &str) {
        let mut file = OpenOptions::new().append(true).open(self.data.join("postgresql.conf")).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let addr = self.addr();
        let mut command = server_command(&program("postgres")).unwrap();
        command
            .args(["-D", self.data.to_str().unwrap()])
            .args(&self.options)
            .current_dir(self.data.parent().unwrap())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = crate::processes::start(&mut command);
        let log = self.log_path();
        let child = self.process.insert(child);
        eventually(LONG, "the server answers", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("postgres ended ({status}):\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            Session::open(addr).is_ok()
        });
    }

    /// Ends it in order, as its service manager would.
    pub fn stop(&mut self) {
        let child = self.process.as_ref().unwrap();
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
        self.has_stopped();
    }

    /// Waits for the end of a server that somebody else stopped.
    pub fn has_stopped(&mut self) {
        let mut child = self.process.take().unwrap();
        eventually(LONG, "the server has stopped", || child.try_wait().unwrap().is_some());
    }

    /// Ends it at once, as a crash would.
    pub fn crash(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        // SIGQUIT makes it end its children, too. It fails only if there is nobody left to receive it.
        kill_process(pid, Signal::QUIT).ok();
        let end = Instant::now() + Duration::from_secs(10);
        while child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > end {
                child.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a query in a session of its own, without any proxy; rows are lines, columns separated by `|`.
    pub fn try_ask(&self, sql: &str) -> Result<String, Failure> {
        let rows = Session::open(self.addr())?.query(sql)?;
        Ok(rows.iter().map(|row| row.join("|")).collect::<Vec<_>>().join("\n"))
    }

    pub fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    pub fn wait_for_standby(&self) {
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn IS NOT NULL";
        eventually(LONG, "the standby streams", || self.ask(streaming) == "1");
    }

    /// Whether a new session may not write.
    pub fn is_fenced(&self) -> bool {
        self.ask("SHOW default_transaction_read_only") == "on"
    }

    pub fn is_standby(&self) -> bool {
        self.ask("SELECT pg_is_in_recovery()") == "t"
    }

    /// Whether the guard of a switch script still has a session here.
    pub fn is_guarded(&self) -> bool {
        self.ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cbpx guard'") != "0"
    }

    fn log_path(&self) -> PathBuf {
        self.data.with_extension("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log_path().display(), fs::read_to_string(self.log_path()).unwrap_or_default());
        }
    }
}

/// A program of the newest PostgreSQL installed.
///
/// # Panics
/// Without PostgreSQL: these tests are not to be skipped unseen.
pub fn program(name: &str) -> PathBuf {
    let folder = postgresql::programs(&[name]);
    let folder = folder.unwrap_or_else(|| {
        panic!("no PostgreSQL server ({name}) in /usr/lib/postgresql: contrib/run-tests installs it")
    });
    folder.join(name)
}

pub fn run(name: &str, arguments: &[&str], dir: &Path) {
    let mut command = server_command(&program(name)).unwrap();
    let output = command.args(arguments).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed ({}): {error}", output.status);
}
