//! The console, at a terminal of the test's own.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::backend::Backend;
use crate::command::Killed;
use crate::proxy::CBPX;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::{is_turned_away, served_by};

const PROMPT: &str = "cbpx> ";

/// A proxy without remote control, and the operator's end of its terminal.
struct Console {
    child: Killed,
    keyboard: File,
    terminal: OwnedFd,
    /// What has come and was not waited for yet.
    screen: String,
    port: Reserved,
    dir: TempDir,
}

/// The operator's end of a new terminal, which does not wait, and the program's.
pub fn terminal() -> (File, OwnedFd) {
    let operator = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&operator).unwrap();
    unlockpt(&operator).unwrap();
    let path = ptsname(&operator, Vec::new()).unwrap();
    let noctty = OpenptFlags::NOCTTY.bits() as i32;
    let path = OsStr::from_bytes(path.as_bytes());
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(noctty).open(path).unwrap().into();
    rustix::fs::fcntl_setfl(&operator, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
    (File::from(operator), terminal)
}

impl Console {
    fn start(backend: &Backend) -> Console {
        let (port, dir) = (Reserved::new(), TempDir::new("console"));
        let (keyboard, terminal) = terminal();
        let end = || Stdio::from(terminal.as_fd().try_clone_to_owned().unwrap());
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", CBPX, "-p", &port.port().to_string(), "-a", &backend.address(), "-s", "127.0.0.1:9"])
            .args(["-t", "60", "-c", "100", "-o", "0"])
            .current_dir(dir.path())
            .env("TERM", "xterm");
        let child = Killed::start(command.stdin(end()).stdout(end()).stderr(end()));
        let mut console = Console { child, keyboard, terminal, screen: String::new(), port, dir };
        console.shows(concat!("cbpx ", env!("CARGO_PKG_VERSION")));
        console.shows(PROMPT);
        console
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, after what was waited for before. Returns what came in between.
    fn shows(&mut self, token: &str) -> String {
        let end = Instant::now() + SOON;
        loop {
            let mut bytes = [0; 4096];
            // Nothing has come, or the proxy has ended: either way the screen is as it is.
            if let Ok(length) = self.keyboard.read(&mut bytes) {
                self.screen.push_str(&String::from_utf8_lossy(&bytes[..length]));
            } else if let Some((before, after)) = self.screen.split_once(token) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.screen = after;
                return before;
            } else {
                assert!(Instant::now() < end, "{token:?} does not come; the screen: {:?}", self.screen);
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Types a line and returns the answer.
    fn ask(&mut self, line: &str) -> String {
        self.types(&format!("{line}\r"));
        self.shows("\n");
        self.shows(PROMPT)
    }

    fn ends(&mut self) -> ExitStatus {
        self.child.wait()
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(("127.0.0.1", self.port.port())).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client
    }

    fn is_line_editing(&self) -> bool {
        !tcgetattr(&self.terminal).unwrap().local_modes.contains(LocalModes::ICANON)
    }
}

#[test]
fn commands_are_answered_as_over_remote_control_and_quit_gives_the_terminal_back() {
    let backend = Backend::echo("A");
    let mut console = Console::start(&backend);
    assert!(console.is_line_editing());
    for (line, token) in [
        ("hello", " Hello! "),
        ("set", " Remote control port : DISABLED"),
        ("stats", &format!(" [n/a]  {:<21}      0 ", backend.address())),
        ("stats 0.1 2", " [n/a] "),
        ("nosuch", " Unknown command: 'nosuch'"),
        ("set max_queued_conns 9", " max_queued_conns must be between 10 and 10000"),
        ("quit now", "Not quitting"),
        ("threads", " console"),
    ] {
        let answer = console.ask(line);
        assert!(answer.contains(token), "{line}: {answer:?}");
    }
    assert_eq!(served_by(&mut console.client()), "A");
    let switched = console.ask("switch");
    assert!(switched.contains(" Starting switch: ") && switched.contains("Switch OK!"), "{switched:?}");
    console.types("quit\r");
    console.shows(" Exiting...");
    assert_eq!(console.ends().code(), Some(0));
    assert!(!console.is_line_editing());
}

#[test]
fn tab_completes_and_lists_the_commands() {
    let backend = Backend::echo("A");
    let mut console = Console::start(&backend);
    console.types("hell\t\r");
    console.shows(" Hello! ");
    console.shows(PROMPT);
    console.types("s\t\t");
    let list = ["set", "stats", "switch"];
    list.iter().for_each(|name| drop(console.shows(name)));
    console.types("ta\t\r");
    console.shows("Current backend");
}

#[test]
fn lines_can_be_edited_and_are_remembered_in_a_file_for_the_owner_only() {
    let backend = Backend::echo("A");
    let mut console = Console::start(&backend);
    let file = console.dir.path().join(".cbpx_history");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "made at the start");
    // Two too many, taken back.
    console.types("hellooo\x7f\x7f\r");
    console.shows(" Hello! ");
    console.shows(PROMPT);
    assert!(fs::read_to_string(&file).unwrap().contains("hello\n"), "written after each line");
    // The line before, with the arrow key.
    console.types("\x1b[A\r");
    console.shows(" Hello! ");
    console.shows(PROMPT);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn ctrl_c_and_ctrl_d_at_the_prompt_give_a_new_prompt_and_leading_spaces_do_nothing() {
    let backend = Backend::echo("A");
    let mut console = Console::start(&backend);
    console.types("half a line\x03");
    console.shows("half a line");
    console.shows(PROMPT);
    console.types("\x04");
    console.shows(PROMPT);
    console.types(" quit force\r");
    console.shows("quit force");
    console.shows(PROMPT);
    assert!(console.ask("hello").contains("Hello!"), "it runs on");
    assert!(console.child.is_running());
}

#[test]
fn ctrl_c_stops_a_repeating_stats_and_undoes_a_switch() {
    let backend = Backend::echo("A");
    let mut console = Console::start(&backend);
    console.types("stats 0.1\r");
    console.shows(" [n/a] ");
    console.shows(" [n/a] ");
    console.types("\x03");
    console.shows(PROMPT);
    let mut client = console.client();
    served_by(&mut client);
    console.types("switch\r");
    console.shows(" 0.00 ");
    console.types("\x03");
    console.shows(" Switch failed: ctrl-c");
    console.shows(PROMPT);
    assert_eq!(served_by(&mut client), "A");
    assert!(console.ask("quit").contains("Not quitting"));
    console.types("quit force\r");
    console.shows(" Terminating connections and exiting...");
    assert_eq!(console.ends().code(), Some(0));
    assert!(is_turned_away(&mut client));
}

#[test]
fn a_terminal_that_goes_away_takes_the_console_and_not_the_proxy() {
    let backend = Backend::echo("A");
    let Console { mut child, keyboard, terminal, port, dir, .. } = Console::start(&backend);
    drop((keyboard, terminal));
    let log = || fs::read_to_string(dir.path().join("cbpx.log")).unwrap();
    eventually(SOON, "the console has ended", || log().contains("console closed"));
    eventually(SOON, "nothing reads any more", || !thread_names(&child).contains(&"console".to_owned()));
    let mut client = TcpStream::connect(("127.0.0.1", port.port())).unwrap();
    assert_eq!(served_by(&mut client), "A");
    assert!(child.is_running());
}

fn thread_names(child: &Killed) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.0.id())).unwrap();
    // A thread that ends meanwhile has no name.
    let name = |path: PathBuf| fs::read_to_string(path.join("comm")).unwrap_or_default();
    tasks.map(|task| name(task.unwrap().path()).trim().to_owned()).collect()
}

#[test]
fn without_a_terminal_there_is_no_console_and_the_proxy_serves_on() {
    let backend = Backend::echo("A");
    let dir = TempDir::new("console");
    let port = Reserved::new();
    let mut command = Command::new(CBPX);
    command
        .args(["-p", &port.port().to_string(), "-a", &backend.address(), "-s", "127.0.0.1:9"])
        .args(["-t", "5", "-c", "100", "-o", "0"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = Killed::start(&mut command);
    eventually(SOON, "it listens", || TcpStream::connect(("127.0.0.1", port.port())).is_ok());
    let mut client = TcpStream::connect(("127.0.0.1", port.port())).unwrap();
    assert_eq!(served_by(&mut client), "A");
    // Started last.
    eventually(SOON, "it has started", || thread_names(&child).contains(&"signals".to_owned()));
    assert!(!thread_names(&child).contains(&"console".to_owned()), "nothing reads");
    drop(client);
    child.send(rustix::process::Signal::TERM);
    let mut said = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "no prompt for nobody");
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}
