//! `-syslog`, with a real datagram socket at /dev/log: in a private mount namespace, so that this machine's own is left
//! alone. Where the system does not allow that (it takes root), these tests say so and prove nothing.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use super::program::Fallback;
use crate::backend::Backend;
use crate::command::run;
use crate::proxy::CBPX;
use crate::support::{SOON, TempDir, eventually};
use crate::talk::served_by;

/// Mounts a /dev that has `null`, and `log` if there is a socket for it, and becomes what its arguments say.
const PRIVATE_DEV: &str = "set -e; mkdir $DIR/dev; mount --bind /dev $DIR/dev; mount -t tmpfs none /dev; : >/dev/null; \
                           mount --bind $DIR/dev/null /dev/null; [ ! -e $DIR/log ] || ln -s $DIR/log /dev/log; \
                           exec \"$0\" \"$@\"";

/// Changes a command so that it runs with a /dev of its own.
fn in_private(command: &Command, dir: &Path) -> Command {
    let mut private = Command::new("unshare");
    private.args(["-m", "sh", "-c", PRIVATE_DEV]).arg(command.get_program()).args(command.get_args());
    private.env("DIR", dir).stdin(Stdio::null());
    private
}

/// Whether the system allows it.
fn is_allowed() -> bool {
    let dir = TempDir::new("syslog");
    let ran = run(&mut in_private(&Command::new("true"), dir.path()));
    if ran.code != Some(0) {
        eprintln!("SKIPPED: no private /dev here: {}", ran.err.trim());
    }
    ran.code == Some(0)
}

/// A logger that is read by the test.
struct Logger {
    socket: UnixDatagram,
    got: Vec<String>,
}

impl Logger {
    fn at(dir: &Path) -> Logger {
        let socket = UnixDatagram::bind(dir.join("log")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Logger { socket, got: Vec::new() }
    }

    /// Waits for a message with this in it.
    fn gets(&mut self, token: &str) -> String {
        let mut found = None;
        eventually(SOON, &format!("the logger gets '{token}'"), || {
            let mut bytes = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut bytes) {
                self.got.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
            found = self.got.iter().find(|message| message.contains(token)).cloned();
            found.is_some()
        });
        found.unwrap()
    }
}

#[test]
fn syslog_gets_the_lines_under_the_old_name_without_a_date_of_ours() {
    if !is_allowed() {
        return;
    }
    let (server, dir) = (Backend::echo("s"), TempDir::new("syslog"));
    let mut logger = Logger::at(dir.path());
    let log = dir.path().join("file");
    // The form of the example of its documentation: all addresses, one working server and two to fall back to.
    let flags = ["-syslog", "-debug", "-logfile", log.to_str().unwrap()];
    let remotes = [&server.address(), "127.0.0.1:1", "127.0.0.1:2"];
    let mut fallback = Fallback::spawn("0.0.0.0:PORT", &flags, &remotes, |command| {
        *command = in_private(command, dir.path());
    });
    let start = logger.gets("Starting tcp_fallback ver 0.1");
    // `<priority>date tcp_fallback[number]: text`, as syslog(3) writes it.
    let (head, text) = start.split_once("]: ").unwrap();
    assert_eq!(text, "Starting tcp_fallback ver 0.1");
    assert!(head.starts_with('<') && head.contains(" tcp_fallback["), "{start}");
    for token in ["Initializing 3 backend~s", "Backend 127.0.0.1:2 added", "Listening on 0.0.0.0:"] {
        logger.gets(token);
    }
    logger.gets("Failed to connect to backend 127.0.0.1:1: ");
    assert_eq!(served_by(&mut fallback.connect()), "s");
    logger.gets(&format!("DEBUG: <{}> Start transfer", server.address()));
    assert!(fallback.lines().is_empty() && !log.exists(), "syslog wins over the log file");
    fallback.signal(rustix::process::Signal::TERM);
    assert_eq!(fallback.wait().code(), Some(0));
    logger.gets("Exiting...");
}

/// Row 1 of the defects. The symptom: without a syslog socket a crash (nil pointer, exit 2).
#[test]
fn row_1_without_a_syslog_socket_there_is_a_message_and_status_1() {
    if !is_allowed() {
        return;
    }
    let dir = TempDir::new("syslog");
    let mut command = Command::new(CBPX);
    command.args(["fallback", "-syslog", "127.0.0.1:0", "127.0.0.1:9"]);
    run(&mut in_private(&command, dir.path())).failed_with(1, &["tcp_fallback: cannot log to syslog: "]);
}

/// A logger that was started anew has another socket.
#[test]
fn a_logger_that_was_started_anew_gets_the_lines_that_follow() {
    if !is_allowed() {
        return;
    }
    let (server, dir) = (Backend::echo("s"), TempDir::new("syslog"));
    let mut logger = Logger::at(dir.path());
    let fallback = Fallback::spawn("127.0.0.1:PORT", &["-syslog", "-stats", "20ms"], &[&server.address()], |command| {
        *command = in_private(command, dir.path());
    });
    logger.gets("STATS: ");
    drop(logger);
    std::fs::remove_file(dir.path().join("log")).unwrap();
    let mut logger = Logger::at(dir.path());
    logger.gets("STATS: ");
    assert_eq!(served_by(&mut fallback.connect()), "s");
}
