//! A running cbpx, as an operator runs it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::command::Killed;
use crate::service;
use crate::support::{Reserved, SOON, TempDir, eventually, thread_pairs};

/// The binary under test.
pub const CBPX: &str = env!("CARGO_BIN_EXE_cbpx");

/// The same server under another address; servers that are no [`Backend`](crate::backend::Backend) may not be there.
pub fn elsewhere(address: &str) -> String {
    match address.strip_prefix("127.0.0.1:") {
        Some(port) => format!("127.0.0.2:{port}"),
        None => "127.0.0.1:9".to_owned(),
    }
}

/// Killed with its script, and reaped, when dropped.
pub struct Proxy {
    child: Killed,
    listening: Reserved,
    control: Reserved,
    dir: TempDir,
    /// Of servers that are not there.
    reserved: Vec<Reserved>,
}

impl Proxy {
    /// Starts it with `-t 5 -c 1000 -o 0` between two backends and waits until it answers. Flags in `extra` replace
    /// these (long forms do not). One server given twice is the standby under another address: a test that needs only
    /// one is not about the refusal.
    pub fn start(active: &str, standby: &str, extra: &[&str]) -> Proxy {
        Proxy::start_with(active, standby, extra, |_| {})
    }

    /// The same, with a callback that changes how the process is started.
    pub fn start_with(active: &str, standby: &str, extra: &[&str], adjust: impl FnOnce(&mut Command)) -> Proxy {
        let (listening, control, dir) = (Reserved::new(), Reserved::new(), TempDir::new("proxy"));
        let standby = if active == standby { elsewhere(standby) } else { standby.to_owned() };
        let (port, rc_port) = (listening.port().to_string(), control.port().to_string());
        let defaults = [
            ("-p", port.as_str()),
            ("-r", rc_port.as_str()),
            ("-a", active),
            ("-s", &standby),
            ("-t", "5"),
            ("-c", "1000"),
            ("-o", "0"),
            ("-f", "cbpx.log"),
        ];
        let mut command = Command::new(CBPX);
        for (flag, value) in defaults.iter().filter(|(flag, _)| !extra.contains(flag)) {
            command.args([flag, value]);
        }
        if !extra.contains(&"--thread_pairs") {
            command.args(["--thread_pairs", &thread_pairs().to_string()]);
        }
        command.args(extra).current_dir(dir.path()).stdin(Stdio::null());
        adjust(&mut command);
        let child = Killed::start(&mut command);
        let mut proxy = Proxy { child, listening, control, dir, reserved: Vec::new() };
        eventually(SOON, "the proxy answers", || {
            let ended = proxy.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "the proxy ended: {ended:?}; its log:\n{}", proxy.log());
            greets(proxy.control())
        });
        proxy
    }

    /// Keeps a port reserved as long as it lives.
    pub fn keeping(mut self, port: Reserved) -> Proxy {
        self.reserved.push(port);
        self
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.listening.port()).into()
    }

    /// Where operators connect.
    pub fn control(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.control.port()).into()
    }

    /// A new client.
    pub fn connect(&self) -> TcpStream {
        service::connect(self.addr())
    }

    /// Sends one line to control, without waiting for the answer.
    pub fn begin(&self, line: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.control()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        writeln!(stream, "{line}").unwrap();
        stream
    }

    /// Sends one line to control and returns the whole answer.
    pub fn ask(&self, line: &str) -> String {
        finish(self.begin(line))
    }

    /// A column of `stats`: `active`, `in queue` or `q total`.
    pub fn stat(&self, column: &str) -> u64 {
        let at = match column {
            "active" => 2,
            "in queue" => 3,
            "q total" => 6,
            other => panic!("no column {other}"),
        };
        let answer = self.ask("stats");
        let row = answer.lines().last().unwrap_or_default();
        row.split_whitespace()
            .nth(at)
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("no {column} in: {answer}"))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("cbpx.log")
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends a signal, once the proxy listens to it.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Stops all its threads while `act` runs: afterwards it sees everything at once.
    pub fn frozen<T>(&self, act: impl FnOnce() -> T) -> T {
        self.child.send(Signal::STOP);
        eventually(SOON, "all threads have stopped", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            let mut states = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
            states.all(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('T'))
        });
        let result = act();
        self.child.send(Signal::CONT);
        result
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(SOON)
    }

    pub fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        self.child.wait_within(limit)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.is_running()
    }

    /// Ends it as an operator would, and returns its exit status.
    pub fn stop(&mut self) -> ExitStatus {
        self.ask("quit force");
        self.wait()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child.0
    }

    /// How many threads and descriptors it has.
    pub fn threads_and_descriptors(&self) -> (usize, usize) {
        let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", self.pid())).unwrap().count();
        (count("task"), count("fd"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.end();
        if std::thread::panicking() {
            eprintln!("the proxy's log:\n{}", self.log());
        }
    }
}

/// Whether control answers: by then everything has been bound and started.
fn greets(control: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(control) else { return false };
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = String::new();
    stream.write_all(b"hello\n").is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("Hello")
}

/// Reads to the end.
pub fn finish(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let result = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(result.is_ok(), "the answer broke off ({result:?}) after: {answer}");
    stream.shutdown(Shutdown::Both).ok();
    answer
}
