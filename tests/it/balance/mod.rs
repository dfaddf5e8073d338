//! `cbpx balance`: the old command line, with real clients and servers.

mod background;
mod choosing;
mod control;
mod passing;
mod starting;
mod web;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::command::{Killed, Ran, run};
use crate::proxy::CBPX;
use crate::service::{connect, patient};
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::answer;

/// A running instance in the foreground, with a directory of its own for control sockets.
pub struct Balance {
    child: Killed,
    port: Reserved,
    /// What `-b` was given, as the name of the control socket has it.
    bind: String,
    dir: TempDir,
}

impl Balance {
    /// Starts it with these options and destinations, and waits until it answers.
    pub fn start(options: &[&str], destinations: &[&str]) -> Balance {
        Balance::start_at(Reserved::new(), options, destinations)
    }

    pub fn start_at(port: Reserved, options: &[&str], destinations: &[&str]) -> Balance {
        let dir = TempDir::new("balance");
        let mut command = Command::new(CBPX);
        command.arg("balance").arg("-f").args(options).arg(port.port().to_string()).args(destinations);
        Balance::spawn(command, port, options, dir)
    }

    /// Runs a command line that listens on `port`.
    pub fn spawn(mut command: Command, port: Reserved, options: &[&str], dir: TempDir) -> Balance {
        let file = |name: &str| File::create(dir.path().join(name)).unwrap();
        command.env("BALANCE_RUNDIR", dir.path().join("run")).current_dir(dir.path()).stdin(Stdio::null());
        command.stdout(file("out")).stderr(file("err"));
        let bind = options.iter().skip_while(|option| **option != "-b").nth(1).unwrap_or(&"0.0.0.0");
        let child = Killed::start(&mut command);
        let mut balance = Balance { child, port, bind: (*bind).to_owned(), dir };
        eventually(SOON, "it answers", || {
            let ended = balance.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}; it said:\n{}", balance.told());
            balance.asked("version").is_some()
        });
        balance
    }

    pub fn port(&self) -> u16 {
        self.port.port()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run").join(format!("balance.{}.{}.sock", self.port(), self.bind))
    }

    /// The answer to one command, sent as `-c` does; `None` without an instance.
    fn asked(&self, command: &str) -> Option<String> {
        answer(&self.socket(), command)
    }

    /// The answer to one command.
    pub fn ask(&self, command: &str) -> String {
        self.asked(command).unwrap_or_else(|| panic!("nobody answers '{command}'"))
    }

    /// Checks the answer to one command, a line without its end.
    pub fn answers(&self, command: &str, expected: &str) {
        let end = if expected.is_empty() { "" } else { "\n" };
        assert_eq!(self.ask(command), format!("{expected}{end}"), "{command}");
    }

    /// Runs `cbpx balance` with these arguments against it.
    pub fn control(&self, arguments: &[&str]) -> Ran {
        run(&mut self.controlling(arguments))
    }

    pub fn controlling(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CBPX);
        command.arg("balance").args(arguments).env("BALANCE_RUNDIR", self.dir.path().join("run"));
        command
    }

    /// A cell of `show`: its row, and the name of the column.
    pub fn shown(&self, row: usize, column: &str) -> String {
        let table = self.ask("show");
        let mut lines = table.lines();
        let at = lines.next().unwrap().split_whitespace().position(|name| name == column).unwrap();
        let row = lines.nth(row).unwrap_or_else(|| panic!("no row {row} in:\n{table}"));
        row.split_whitespace().nth(at).unwrap().to_owned()
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// A new client.
    pub fn connect(&self) -> TcpStream {
        connect(self.addr())
    }

    /// A client with this address.
    pub fn connect_from(&self, ip: Ipv4Addr) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        socket.connect(&self.addr().into()).unwrap();
        patient(socket.into())
    }

    /// What it has said on standard error.
    pub fn told(&self) -> String {
        fs::read_to_string(self.dir.path().join("err")).unwrap_or_default()
    }

    /// What it has said on standard output.
    pub fn shown_bytes(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("out")).unwrap_or_default()).into_owned()
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

    /// Ends it and gives back its port.
    pub fn stop(mut self) -> Reserved {
        self.child.0.kill().ok();
        self.child.0.wait().ok();
        let fresh = Reserved::new();
        std::mem::replace(&mut self.port, fresh)
    }
}

impl Drop for Balance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("balance said:\n{}", self.told());
        }
    }
}

/// Who serves a client; `None` when it is closed without a byte.
pub fn served(client: &mut TcpStream) -> Option<String> {
    // A client that was closed already cannot even ask.
    client.write_all(b"who?").ok();
    let mut answer = String::new();
    while !answer.ends_with(":who?") {
        let mut bytes = [0; 64];
        match client.read(&mut bytes) {
            Ok(length @ 1..) => answer.push_str(&String::from_utf8_lossy(&bytes[..length])),
            Ok(0) => return None,
            // A child of this process may have ended meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(e) => panic!("neither served nor closed: {e}"),
        }
    }
    Some(answer.trim_end_matches(":who?").to_owned())
}

/// The servers of this many new clients, one after the other; each has left before the next one connects.
pub fn each_served(balance: &Balance, clients: usize) -> Vec<Option<String>> {
    let one = |_| {
        let mut client = balance.connect();
        let by = served(&mut client);
        client.shutdown(Shutdown::Both).ok();
        by
    };
    (0..clients).map(one).collect()
}
