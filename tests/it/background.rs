//! A program that leaves the terminal, and its pid file.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, getsid, kill_process, kill_process_group};

use crate::backend::Backend;
use crate::command::{Ran, run};
use crate::processes::catches;
use crate::program::command;
use crate::service::connect;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::served_by;

/// Words of a program in the background, in a directory of its own.
struct Daemon {
    dir: TempDir,
    words: Vec<String>,
    at: SocketAddr,
    /// Its port, reserved so that the system gives it to no other process.
    _port: Reserved,
}

impl Daemon {
    fn new(backend: &Backend) -> Daemon {
        let port = Reserved::new();
        let at = SocketAddr::from(([127, 0, 0, 1], port.port()));
        let words = ["background=1", "pid=run.pid", "log=log", &format!("backend={}", backend.address())];
        let words = words.map(str::to_owned).into_iter().chain([format!("listen={at}")]).collect();
        Daemon { dir: TempDir::new("background"), words, at, _port: port }
    }

    fn with(mut self, word: &str) -> Daemon {
        self.words.push(word.to_owned());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the command to its end.
    fn start(&self) -> Ran {
        let words: Vec<_> = self.words.iter().map(String::as_str).collect();
        run(command(&words).current_dir(self.dir.path()))
    }

    fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.path("run.pid")).unwrap();
        text.strip_suffix('\n').unwrap().parse().unwrap()
    }

    /// As an init script does.
    fn stop(&self) {
        let pid = self.pid();
        kill(pid, Signal::TERM);
        eventually(SOON, "it ends", || !is_running(pid));
    }
}

/// Whatever a test has left is ended with it.
impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(text) = fs::read_to_string(self.path("run.pid"))
            && let Ok(pid) = text.trim().parse()
            && command_line(pid).contains("program::this_is_no_test")
        {
            kill(pid, Signal::KILL);
        }
    }
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).into_owned()
}

/// Nor is one that only has not been reaped.
fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn link(pid: u32, name: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/{name}")).unwrap()
}

#[test]
fn the_command_ends_with_0_when_all_is_up_and_the_program_has_left_the_terminal() {
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&backend);
    let ran = daemon.start();
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    // At once: nothing is waited for.
    assert_eq!(served_by(&mut connect(daemon.at)), "A");
    let pid = daemon.pid();
    let id = Pid::from_raw(pid as i32);
    assert_eq!(getsid(id).ok(), id, "a session of its own");
    assert_eq!(link(pid, "cwd"), Path::new("/"));
    assert_eq!([0, 1, 2].map(|number| link(pid, &format!("fd/{number}"))), ["/dev/null"; 3].map(PathBuf::from));
    catches(pid, Signal::TERM);
    daemon.stop();
    assert!(!daemon.path("run.pid").exists(), "the pid file is gone");
    assert!(TcpStream::connect(daemon.at).is_err());
    let log = fs::read_to_string(daemon.path("log")).unwrap();
    assert!(log.contains(" started: ") && log.trim_end().ends_with("ended"), "{log}");
}

#[test]
fn what_is_wrong_is_told_where_the_command_was_typed_with_its_exit_status() {
    let backend = Backend::echo("A");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap();
    let daemon = Daemon::new(&backend).with(&format!("listen={place}"));
    daemon.start().failed_with_words(71, &format!("tester: cannot listen on {place}: address in use\n"));
    assert!(!daemon.path("run.pid").exists());
    assert!(TcpStream::connect(daemon.at).is_err(), "nothing is left running");
    let daemon = Daemon::new(&backend).with("pid=nosuch/run.pid");
    let path = daemon.path("nosuch/run.pid");
    let told = format!("tester: cannot write pid file {}: no such file or directory\n", path.display());
    daemon.start().failed_with_words(69, &told);
    assert!(TcpStream::connect(daemon.at).is_err(), "nothing is left running");
}

impl Ran {
    fn failed_with_words(&self, code: i32, words: &str) {
        assert_eq!((self.code, self.err.as_str()), (Some(code), words));
    }
}

#[test]
fn warnings_are_told_once() {
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&backend).with("source=192.0.2.1");
    let ran = daemon.start();
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.err.matches("tester: warning: cannot use source address 192.0.2.1").count(), 1, "{}", ran.err);
    daemon.stop();
}

#[test]
fn it_outlives_the_session_and_the_group_of_whoever_started_it() {
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&backend);
    let words: Vec<_> = daemon.words.iter().map(String::as_str).collect();
    // A shell that leads a session and stays after the command.
    let program = command(&words);
    let mut shell = std::process::Command::new("setsid");
    shell.args(["sh", "-c", "\"$0\" \"$@\"; echo $? >status; exec sleep 1000"]);
    shell.arg(program.get_program()).args(program.get_args());
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(daemon.dir.path()).process_group(0);
    let shell = crate::command::Killed::start(&mut shell);
    eventually(SOON, "the command has ended", || {
        fs::read_to_string(daemon.path("status")).is_ok_and(|status| status.ends_with('\n'))
    });
    assert_eq!(fs::read_to_string(daemon.path("status")).unwrap(), "0\n");
    let pid = daemon.pid();
    // `setsid` forks when it leads a group, as here: the shell leads a session of its own.
    let session = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let shells: Vec<u32> = session.filter(|pid| link_is(*pid, daemon.dir.path())).collect();
    assert!(!shells.is_empty(), "the shell is there");
    for shell in shells {
        kill_process_group(Pid::from_raw(shell as i32).unwrap(), Signal::HUP).ok();
        kill_process_group(Pid::from_raw(shell as i32).unwrap(), Signal::KILL).ok();
        eventually(SOON, "the shell is gone", || !is_running(shell));
    }
    drop(shell);
    assert!(is_running(pid));
    assert_eq!(served_by(&mut connect(daemon.at)), "A");
    daemon.stop();
}

/// Whether a process works in this directory.
fn link_is(pid: u32, directory: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory)
}

#[test]
fn relative_paths_mean_what_they_meant_where_the_command_was_typed() {
    let (backend, dir) = (Backend::echo("A"), TempDir::new("background"));
    drop(dir);
    let daemon = Daemon::new(&backend).with("listen=./front.sock").with("access=access.log");
    assert_eq!(daemon.start().code, Some(0));
    let path = daemon.path("front.sock");
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut client, b"x").unwrap();
    let mut answer = [0; 3];
    std::io::Read::read_exact(&mut client, &mut answer).unwrap();
    assert_eq!(&answer, b"A:x");
    drop(client);
    let lines = |name: &str| fs::read_to_string(daemon.path(name)).unwrap_or_default().lines().count();
    eventually(SOON, "there is a line", || lines("access.log") == 1);
    // Opened again where it was, although the current directory is another one.
    for name in ["log", "access.log"] {
        fs::rename(daemon.path(name), daemon.path(&format!("{name}.1"))).unwrap();
    }
    kill(daemon.pid(), Signal::HUP);
    eventually(SOON, "there are new files", || daemon.path("log").exists() && daemon.path("access.log").exists());
    daemon.stop();
    assert!(!path.exists() && lines("log") > 0);
}

#[test]
fn a_pid_file_that_was_left_behind_is_replaced() {
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&backend);
    assert_eq!(daemon.start().code, Some(0));
    let dead = daemon.pid();
    kill(dead, Signal::KILL);
    eventually(SOON, "it is gone", || !is_running(dead));
    assert_eq!(daemon.pid(), dead, "it could not remove it");
    assert_eq!(daemon.start().code, Some(0));
    assert_ne!(daemon.pid(), dead);
    daemon.stop();
    // The number of a process that is somebody else's by now.
    fs::write(daemon.path("run.pid"), "1\n").unwrap();
    assert_eq!(daemon.start().code, Some(0));
    daemon.stop();
}

#[test]
fn the_pid_file_of_a_running_one_is_left_alone() {
    let backend = Backend::echo("A");
    let first = Daemon::new(&backend);
    assert_eq!(first.start().code, Some(0));
    let pid = first.pid();
    let second = Daemon::new(&backend).with(&format!("pid={}", first.path("run.pid").display()));
    let ran = second.start();
    assert_eq!(ran.code, Some(69));
    assert!(ran.err.contains(&format!("it belongs to process {pid}, which is running")), "{}", ran.err);
    assert_eq!(first.pid(), pid);
    assert_eq!(served_by(&mut connect(first.at)), "A");
    first.stop();
}

#[test]
fn a_number_in_a_pid_file_says_nothing_about_who_runs() {
    let backend = Backend::echo("A");
    let other = Daemon::new(&backend);
    assert_eq!(other.start().code, Some(0));
    // The number of another program of ours, and of one of its threads.
    let task = fs::read_dir(format!("/proc/{}/task", other.pid())).unwrap();
    let threads = task.map(|thread| thread.unwrap().file_name().into_string().unwrap());
    for number in [other.pid().to_string(), threads.last().unwrap()] {
        let daemon = Daemon::new(&backend);
        fs::write(daemon.path("run.pid"), format!("{number}\n")).unwrap();
        let ran = daemon.start();
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        assert_ne!(daemon.pid().to_string(), number);
        daemon.stop();
    }
    other.stop();
}

#[test]
fn a_pid_file_that_says_no_number_belongs_to_whoever_has_locked_it() {
    let backend = Backend::echo("A");
    let first = Daemon::new(&backend);
    assert_eq!(first.start().code, Some(0));
    let pid = first.pid();
    // Somebody has emptied it; it is the same file.
    fs::write(first.path("run.pid"), "").unwrap();
    let second = Daemon::new(&backend).with(&format!("pid={}", first.path("run.pid").display()));
    let ran = second.start();
    assert_eq!(ran.code, Some(69));
    assert!(ran.err.contains("it belongs to another process, which is running"), "{}", ran.err);
    assert_eq!(served_by(&mut connect(first.at)), "A");
    kill(pid, Signal::TERM);
    eventually(SOON, "it ends", || !is_running(pid));
    assert!(!first.path("run.pid").exists());
}

#[test]
fn a_pid_file_is_for_its_owner_to_write_and_no_pipe_or_device_is_replaced_by_one() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&backend);
    let words: Vec<_> = daemon.words.iter().map(String::as_str).collect();
    let mut command = command(&words);
    command.current_dir(daemon.dir.path());
    crate::starved::become_by(&mut command, "sh", &["-c", "umask 0; exec \"$0\" \"$@\""]);
    let ran = run(&mut command);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(fs::metadata(daemon.path("run.pid")).unwrap().permissions().mode() & 0o777, 0o644);
    daemon.stop();

    let daemon = Daemon::new(&backend).with("pid=pipe");
    let pipe = daemon.path("pipe");
    assert_eq!(run(std::process::Command::new("mkfifo").arg(&pipe)).code, Some(0));
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut reader = std::os::unix::fs::OpenOptionsExt::custom_flags(fs::OpenOptions::new().read(true), nonblock)
        .open(&pipe)
        .unwrap();
    assert_eq!(daemon.start().code, Some(0));
    let mut told = String::new();
    std::io::Read::read_to_string(&mut reader, &mut told).unwrap();
    fs::write(daemon.path("run.pid"), &told).unwrap();
    assert!(is_running(daemon.pid()));
    daemon.stop();
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn one_that_shares_the_port_takes_the_pid_file_over_and_no_client_is_refused_meanwhile() {
    let backend = Backend::echo("A");
    let daemon = Daemon::new(&backend).with("share=1");
    assert_eq!(daemon.start().code, Some(0));
    let old = daemon.pid();
    assert_eq!(daemon.start().code, Some(0));
    let new = daemon.pid();
    assert_ne!(old, new);
    kill(old, Signal::TERM);
    eventually(SOON, "the old one is gone", || !is_running(old));
    assert_eq!(daemon.pid(), new, "the old one has left the file to the new one");
    assert_eq!(served_by(&mut connect(daemon.at)), "A");
    daemon.stop();
    assert!(!daemon.path("run.pid").exists());
}
