//! A running `cbpx fallback`, as an old init script runs it: what it logs on standard error is read as it comes.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::Signal;

use crate::command::Killed;
use crate::proxy::CBPX;
use crate::service::connect;
use crate::support::{Reserved, SOON, bind, eventually};

/// Killed and reaped when dropped.
pub struct Fallback {
    child: Killed,
    port: Reserved,
    said: Arc<Mutex<Vec<String>>>,
}

impl Fallback {
    /// Starts it with these flags on 127.0.0.1 in front of these servers, and waits until it says that it listens.
    pub fn start(flags: &[&str], remotes: &[&str]) -> Fallback {
        Fallback::start_at("127.0.0.1:PORT", flags, remotes)
    }

    /// The same, on this address; `PORT` is replaced by a reserved port.
    pub fn start_at(local: &str, flags: &[&str], remotes: &[&str]) -> Fallback {
        let started = Fallback::spawn(local, flags, remotes, |_| {});
        started.says("Listening on ");
        started
    }

    /// Does not wait; `adjust` may change how the process is started.
    pub fn spawn(local: &str, flags: &[&str], remotes: &[&str], adjust: impl FnOnce(&mut Command)) -> Fallback {
        let port = Reserved::new();
        let mut command = Command::new(CBPX);
        command.arg("fallback").args(flags).arg(local.replace("PORT", &port.port().to_string())).args(remotes);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        adjust(&mut command);
        let mut child = Killed::start(command.stderr(Stdio::piped()));
        let (said, stderr) = (Arc::new(Mutex::new(Vec::new())), child.0.stderr.take().unwrap());
        let own = Arc::clone(&said);
        thread::spawn(move || read_lines(stderr, &own));
        Fallback { child, port, said }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.port()).into()
    }

    pub fn port(&self) -> u16 {
        self.port.port()
    }

    /// A new client.
    pub fn connect(&self) -> TcpStream {
        connect(self.addr())
    }

    /// Everything it has said on standard error.
    pub fn lines(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Waits for a line with this in it and returns the first one.
    pub fn says(&self, token: &str) -> String {
        self.says_times(token, 1).remove(0)
    }

    /// Waits for at least this many lines that contain this.
    pub fn says_times(&self, token: &str, times: usize) -> Vec<String> {
        let mut found = Vec::new();
        eventually(SOON, &format!("it says '{token}' {times} times"), || {
            found = self.lines().into_iter().filter(|line| line.contains(token)).collect();
            found.len() >= times
        });
        found
    }

    /// How many lines have this in them by now.
    pub fn count(&self, token: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(token)).count()
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.is_running()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait()
    }
}

impl Drop for Fallback {
    fn drop(&mut self) {
        self.child.end();
        if thread::panicking() {
            eprintln!("it said:\n{}", self.lines().join("\n"));
        }
    }
}

fn read_lines(from: impl Read, into: &Mutex<Vec<String>>) {
    for line in BufReader::new(from).lines() {
        let Ok(line) = line else { return };
        into.lock().unwrap().push(line);
    }
}

/// A port on which a server may listen later: until then connections are refused.
pub struct Absent(Reserved);

impl Absent {
    pub fn new() -> Absent {
        Absent(Reserved::new())
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.0.port())
    }

    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// Somebody comes and listens there; gone again when dropped.
    pub fn arrives(&self) -> Present {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        bind(&socket, (Ipv4Addr::LOCALHOST, self.0.port()));
        socket.listen(128).unwrap();
        socket.set_nonblocking(true).unwrap();
        Present(socket.into())
    }
}

/// A server on the port that was [`Absent`].
pub struct Present(std::net::TcpListener);

impl Present {
    /// The next connection, also a probe's.
    pub fn accept(&self) -> TcpStream {
        let mut accepted = None;
        eventually(SOON, "somebody connects", || {
            accepted = self.0.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }

    /// The next connection that sends something, with the first bytes: probes end without.
    pub fn accept_client(&self) -> (TcpStream, Vec<u8>) {
        loop {
            let mut stream = self.accept();
            let mut bytes = vec![0; 64];
            let length = stream.read(&mut bytes).unwrap_or_default();
            if length > 0 {
                bytes.truncate(length);
                return (stream, bytes);
            }
        }
    }

    /// Whether nobody has connected whom nobody has accepted here.
    pub fn nobody_connects(&self) -> bool {
        self.0.accept().is_err()
    }
}

/// Runs it to its end in a directory, under the name of a link.
pub fn run_linked(name: &str, arguments: &[&str], dir: &Path) -> crate::command::Ran {
    let link = dir.join(name);
    std::os::unix::fs::symlink(CBPX, &link).unwrap();
    let ran = crate::command::run(Command::new(&link).args(arguments).current_dir(dir));
    std::fs::remove_file(link).unwrap();
    ran
}
