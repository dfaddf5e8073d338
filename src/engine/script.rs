//! Runs the switch script: without a shell, with standard input from /dev/null, in a session of its own without a
//! terminal, with none of our descriptors and with default signal handling. Its output is read line by line and never
//! blocks it. A kill reaches its whole process group at once, from the thread that decides it.

use std::fs::{self, File};
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use process_wrap::std::{CommandWrap, ProcessSession, ResetSigmask};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitIdStatus, kill_process_group, pidfd_open};

use super::messages::{CoordinatorHandle, Message};
use crate::children;
use crate::core::msg::{RunId, ScriptEnd};
use crate::net::errno::is;
use crate::net::{wait_for, wait_until};
use crate::observe::words::system_words;

/// What to run.
#[derive(Debug)]
pub struct ScriptRun {
    pub run: RunId,
    pub script: PathBuf,
    /// Host and port of the active upstream, host and port of the other one.
    pub arguments: [String; 4],
    /// Time until the switchover's time limit. The script finds it in `CBPX_SECONDS_LEFT`, in seconds.
    pub time_left: Duration,
    /// Closed when the end of this run is not needed any more.
    pub forsaken: PipeReader,
}

/// A run that can be killed at any time: before its process exists, while it runs, and after it has ended.
#[derive(Clone, Debug, Default)]
pub struct ScriptHandle(Arc<Mutex<ProcessState>>);

#[derive(Debug, Default)]
enum ProcessState {
    #[default]
    Starting,
    /// Not reaped yet, so its process id cannot belong to another process.
    Alive(Pid),
    Killed,
    Ended,
}

/// Longer lines are truncated. In bytes.
const LINE: usize = 4 * 1024;
/// The most output of one run that is reported, in bytes. The rest is read and discarded.
const OUTPUT: usize = 64 * 1024;
/// Capacity of a pipe in bytes (pipe(7)).
const PIPE: usize = 64 * 1024;
/// How long processes that the script left behind may undo its work after a kill, before clients are served.
const PUTTING_BACK: Duration = Duration::from_secs(3);

impl ScriptHandle {
    /// Sends SIGKILL to the script and its whole process group. After this returns, none of them runs another
    /// instruction of its own. A script that is just being started is killed as soon as it has been. Does not block.
    pub fn kill(&self) {
        let mut process = self.0.lock();
        match *process {
            ProcessState::Alive(group) => {
                // Fails only if the group has ended.
                kill_process_group(group, Signal::KILL).ok();
                *process = ProcessState::Killed;
            }
            ProcessState::Starting => *process = ProcessState::Killed,
            ProcessState::Killed | ProcessState::Ended => {}
        }
    }

    /// Runs the script on the calling thread, from start to end. Reports its lines and how it ended.
    pub fn execute(&self, script_run: &ScriptRun, handle: &CoordinatorHandle) {
        let end = match self.start(script_run) {
            Ok(Some((child, output))) => self.attend(child, output, script_run, handle),
            Ok(None) => ScriptEnd::Signalled(Signal::KILL.as_raw()),
            Err(e) => {
                let hint = if is_about_interpreter(&e, &script_run.script) { HINT } else { "" };
                let words = format!("cannot start {}: {}{hint}", script_run.script.display(), system_words(&e));
                handle.send(Message::ScriptLine(script_run.run, words));
                ScriptEnd::NotStarted(e.raw_os_error().unwrap_or(Errno::IO.raw_os_error()))
            }
        };
        handle.send(Message::ScriptEnded(script_run.run, end));
    }

    /// `None` if it was killed before it was started.
    fn start(&self, script_run: &ScriptRun) -> io::Result<Option<(Pid, PipeReader)>> {
        let (output, writer) = io::pipe()?;
        let script = file(&script_run.script);
        let mut command = Command::new(&script);
        command
            .args(&script_run.arguments)
            .env("CBPX_SECONDS_LEFT", format!("{:.2}", script_run.time_left.as_secs_f64()))
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        if self.is_killed() {
            return Ok(None);
        }
        // Starting takes as long as the script's file system does, so the lock is not held meanwhile.
        let child = children::start(|| spawn(command, &script))?;
        let mut process = self.0.lock();
        match *process {
            ProcessState::Starting | ProcessState::Alive(_) => *process = ProcessState::Alive(child),
            // The kill came during the start.
            ProcessState::Killed | ProcessState::Ended => {
                kill_process_group(child, Signal::KILL).ok();
            }
        }
        drop(process);
        Ok(Some((child, output)))
    }

    fn is_killed(&self) -> bool {
        match *self.0.lock() {
            ProcessState::Starting | ProcessState::Alive(_) => false,
            ProcessState::Killed | ProcessState::Ended => true,
        }
    }

    /// Reads the script's output until its process has ended. Processes that it left running may keep the pipe open.
    /// They are not waited for, except after a kill, when they may be undoing its work.
    fn attend(&self, child: Pid, output: PipeReader, script_run: &ScriptRun, handle: &CoordinatorHandle) -> ScriptEnd {
        let mut lines = LineSplitter::new(|line| handle.send(Message::ScriptLine(script_run.run, line)));
        let ended = pidfd_open(child, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|process| read_until_end(&process, &output, &mut lines))
            .and_then(|()| match self.is_killed() {
                true => read_until_closed(&output, &script_run.forsaken, &mut lines),
                false => Ok(()),
            });
        if let Err(e) = ended {
            log::warn!("cannot read what the switch script says: {e}");
        }
        lines.finish();
        // Waits without reaping. `kill` needs the lock, so it is taken only when there is nothing left to wait for.
        children::wait(child).ok();
        let status = {
            let mut process = self.0.lock();
            let status = children::collect(child);
            *process = ProcessState::Ended;
            status
        };
        match status {
            Ok(status) => how(status.as_ref()),
            Err(e) => ScriptEnd::NotStarted(e.raw_os_error().unwrap_or(Errno::IO.raw_os_error())),
        }
    }
}

/// A bare name means a file in the working directory; `PATH` is not searched.
fn file(script: &Path) -> PathBuf {
    if script.is_absolute() { script.to_owned() } else { Path::new(".").join(script) }
}

/// Starts the script as the leader of a new session, and so of a new process group with the same number.
fn spawn(mut command: Command, script: &Path) -> io::Result<Pid> {
    let number = if has_usual_beginning(script) {
        CommandWrap::from(command).wrap(ProcessSession).wrap(ResetSigmask).spawn()?.id()
    } else {
        // On the other path the C library would try to run such a file with /bin/sh, as a shell does. On this path it
        // does not: the system either knows how to run the file (binfmt_misc) or reports an error.
        command.process_group(0).spawn()?.id()
    };
    i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::from(Errno::SRCH))
}

/// Whether the file starts like a script with an interpreter or like a program of this system, or cannot be read.
fn has_usual_beginning(script: &Path) -> bool {
    let mut beginning = [0; 4];
    let is_file = fs::metadata(script).is_ok_and(|found| found.is_file());
    match is_file.then(|| File::open(script).and_then(|mut file| file.read(&mut beginning))) {
        Some(Ok(length)) => length == 4 && (beginning.starts_with(b"#!") || beginning == *b"\x7fELF"),
        // The C library has nothing to pass to /bin/sh.
        Some(Err(_)) | None => true,
    }
}

const HINT: &str = " (the file is there: see its first line, #!)";

/// Whether "no such file" is about the script's interpreter, not about the script.
fn is_about_interpreter(error: &io::Error, script: &Path) -> bool {
    is(error, Errno::NOEXEC) || is(error, Errno::NOENT) && script.exists()
}

fn how(status: Option<&WaitIdStatus>) -> ScriptEnd {
    match status.and_then(WaitIdStatus::exit_status) {
        Some(code) => ScriptEnd::Exited(code),
        None => ScriptEnd::Signalled(status.and_then(WaitIdStatus::terminating_signal).unwrap_or(0)),
    }
}

/// Reads output until the process has ended, and then what the pipe holds at that moment. A process left running may
/// write on, so no more than the pipe's capacity is read after the end.
fn read_until_end(
    process: &OwnedFd,
    output: &PipeReader,
    lines: &mut LineSplitter<impl FnMut(String)>,
) -> io::Result<()> {
    let mut open = true;
    let mut left_after_end = PIPE;
    let mut buffer = [0; 4096];
    loop {
        let mut fds = vec![PollFd::new(process, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        wait_for(&mut fds, None)?;
        let ended = !fds[0].revents().is_empty();
        if open && left_after_end > 0 && fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            let length = (&mut &*output).read(&mut buffer)?;
            open = length > 0;
            lines.push(&buffer[..length]);
            if ended {
                left_after_end = left_after_end.saturating_sub(length);
            }
        } else if ended {
            return Ok(());
        }
    }
}

/// Waits until no process holds the pipe, for a limited time. A script that must not leave things half done when it is
/// killed starts a guard: a process in a session of its own that inherits standard output and closes it when everything
/// is undone. Returns at once when the end of this run is not needed any more.
fn read_until_closed(
    output: &PipeReader,
    forsaken: &PipeReader,
    lines: &mut LineSplitter<impl FnMut(String)>,
) -> io::Result<()> {
    let deadline = Instant::now() + PUTTING_BACK;
    let mut buffer = [0; 4096];
    // More output does not extend the time.
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(forsaken, PollFlags::IN), PollFd::new(output, PollFlags::IN)];
        if !wait_until(&mut fds, deadline)? || !fds[0].revents().is_empty() {
            return Ok(());
        }
        match (&mut &*output).read(&mut buffer)? {
            0 => return Ok(()),
            length => lines.push(&buffer[..length]),
        }
    }
    Ok(())
}

/// Splits a stream of bytes into lines, within the limits.
struct LineSplitter<F> {
    tell: F,
    pending: Vec<u8>,
    /// Number of bytes that may still be reported.
    left: usize,
}

impl<F: FnMut(String)> LineSplitter<F> {
    fn new(tell: F) -> LineSplitter<F> {
        LineSplitter { tell, pending: Vec::new(), left: OUTPUT }
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.flush();
            } else if self.pending.len() < LINE {
                self.pending.push(byte);
            }
        }
    }

    /// A last line without a line end counts as a line.
    fn finish(&mut self) {
        if !self.pending.is_empty() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.pending);
        if self.left == 0 {
            return;
        }
        // Control characters are removed: a script must not control an operator's terminal.
        let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control() || *c == '\t').collect();
        // The line end counts too: the coordinator handles each line, so empty lines have a cost.
        if text.len() + 1 >= self.left {
            self.left = 0;
            return (self.tell)("(more output than 64 KiB: the rest is not shown)".to_owned());
        }
        self.left -= text.len() + 1;
        (self.tell)(text);
    }
}

/// Checks that this can be started, as far as that can be known beforehand.
///
/// # Errors
/// What is missing.
pub fn look_at(script: &Path) -> io::Result<()> {
    let found = fs::metadata(script)?;
    // Opening a pipe would block until something writes to it.
    let runnable = found.is_file() && std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o111 != 0;
    if runnable { File::open(script).map(drop) } else { Err(io::Error::from(Errno::ACCESS)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut told = Vec::new();
        let mut lines = LineSplitter::new(|line| told.push(line));
        chunks.iter().for_each(|chunk| lines.push(chunk));
        lines.finish();
        told
    }

    #[test]
    fn output_becomes_lines_however_it_is_cut_into_reads() {
        assert_eq!(lines_of(&[b"one\ntw", b"o\n\nlast"]), ["one", "two", "", "last"]);
    }

    #[test]
    fn a_line_is_cut_at_4_kib_and_a_run_at_64_kib() {
        let long = vec![b'x'; 10_000];
        let told = lines_of(&[&long, b"\nnext\n"]);
        assert_eq!((told[0].len(), told[1].as_str()), (4096, "next"));
        let told = lines_of(&vec![&[&long[..1023], b"\n"].concat()[..]; 1000]);
        assert!(told.iter().map(String::len).sum::<usize>() < 66 * 1024);
        assert!(told.last().unwrap().contains("64 KiB"), "the cut is told");
        assert!(lines_of(&[&[b'\n'; 1_000_000]]).len() <= 64 * 1024, "empty lines count");
    }

    #[test]
    fn a_script_cannot_steer_a_terminal() {
        assert_eq!(lines_of(&[b"a\x1b[2Jb\r\n"]), ["a[2Jb"]);
    }
}
