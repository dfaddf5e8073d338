//! A terminal with job control: neither a proxy nor its script is ever stopped by it, and who is in the background
//! leaves it alone.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::backend::Backend;
use crate::command::Killed;
use crate::console::terminal;
use crate::proxy::{CBPX, finish};
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::served_by;

/// A shell with job control on a terminal of its own, and a proxy it has started.
struct Job {
    shell: Killed,
    keyboard: File,
    screen: String,
    port: Reserved,
    control: Reserved,
    dir: TempDir,
}

impl Job {
    /// `line` is what the shell does; `"$@"` is the proxy.
    fn start(line: &str, backends: [&Backend; 2], extra: &[&str]) -> Job {
        let (port, control, dir) = (Reserved::new(), Reserved::new(), TempDir::new("job"));
        let (keyboard, terminal) = terminal();
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = Command::new("setsid");
        // The shell's own number would be that of the proxy where it becomes it.
        command.args(["--ctty", "sh", "-c", &format!("set -m; {line}; echo over"), "sh", CBPX]);
        let (number, addresses) = (port.port().to_string(), backends.map(Backend::address));
        command.args(["-p", &number, "-a", &addresses[0], "-s", &addresses[1], "-t", "20", "-c", "100", "-o", "0"]);
        command.args(extra.iter().map(|word| word.replace("CONTROL", &control.port().to_string())));
        command.current_dir(dir.path()).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        let shell = Killed::start(&mut command);
        let job = Job { shell, keyboard, screen: String::new(), port, control, dir };
        eventually(SOON, "it has started", || job.log().contains(" started: "));
        job
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("cbpx.log")).unwrap_or_default()
    }

    /// The proxy, which is the child of the shell, as long as it runs.
    fn pid(&self) -> Option<Pid> {
        let shell = self.shell.0.id();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid().unwrap())).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    }

    fn serves(&self) -> String {
        let mut client = TcpStream::connect(("127.0.0.1", self.port.port())).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        served_by(&mut client)
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, after what was waited for before.
    fn shows(&mut self, token: &str) {
        eventually(SOON, &format!("{token:?} is on the screen"), || {
            let mut bytes = [0; 4096];
            if let Ok(length) = self.keyboard.read(&mut bytes) {
                self.screen.push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
            let shown = self.screen.split_once(token).map(|(_, after)| after.to_owned());
            let is_shown = shown.is_some();
            self.screen = shown.unwrap_or(std::mem::take(&mut self.screen));
            is_shown
        });
    }
}

/// The proxy is no child of this process.
impl Drop for Job {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

#[test]
fn in_the_background_of_a_terminal_it_serves_without_a_console_and_is_not_stopped() {
    let (backend, standby) = (Backend::echo("A"), Backend::echo("B"));
    let mut job = Job::start("\"$@\" & wait", [&backend, &standby], &[]);
    eventually(SOON, "it does without a console", || job.log().contains("no console: "));
    assert!(!job.is_stopped());
    assert_eq!(job.serves(), "A");
    kill_process(job.pid().unwrap(), Signal::TERM).unwrap();
    job.shows("over");
}

#[test]
fn ctrl_z_stops_it_neither_at_the_prompt_nor_while_a_command_repeats() {
    let (backend, standby) = (Backend::echo("A"), Backend::echo("B"));
    let mut job = Job::start("\"$@\"", [&backend, &standby], &[]);
    job.shows("cbpx> ");
    job.types("\x1a");
    job.types("hello\r");
    job.shows(" Hello! ");
    job.shows("cbpx> ");
    job.types("stats 0.1\r");
    job.shows(" [n/a] ");
    job.types("\x1a");
    job.shows("^Z");
    job.shows(" [n/a] ");
    job.shows(" [n/a] ");
    assert!(!job.is_stopped());
    assert_eq!(job.serves(), "A");
    job.types("\x03");
    job.shows("cbpx> ");
    job.types("quit force\r");
    job.shows("over");
}

#[test]
fn a_script_has_no_terminal_to_ask() {
    let backends = [Backend::echo("A"), Backend::echo("B")];
    let dir = TempDir::new("terminal");
    let text = "#!/bin/sh\n(read answer </dev/tty) 2>/dev/null && echo asked\ncut -d' ' -f6,7 /proc/$$/stat; echo $$\n";
    let script = dir.script("ask.sh", text);
    let extra = ["-r", "CONTROL", "-x", script.to_str().unwrap()];
    let job = Job::start("\"$@\"", [&backends[0], &backends[1]], &extra);
    eventually(SOON, "control answers", || TcpStream::connect(("127.0.0.1", job.control.port())).is_ok());
    let mut control = TcpStream::connect(("127.0.0.1", job.control.port())).unwrap();
    control.set_read_timeout(Some(SOON)).unwrap();
    control.write_all(b"switch\n").unwrap();
    let answer = finish(control);
    assert!(answer.ends_with("Switch OK!: all connections closed, script returned: 0\n"), "{answer}");
    let said: Vec<_> = answer.lines().filter_map(|line| line.strip_prefix(" script: ")).collect();
    // Its session is its own, and that has no terminal.
    assert_eq!(said.len(), 2, "{answer}");
    assert_eq!(said[0], format!("{} 0", said[1]));
    assert_eq!(job.serves(), "B");
}
