//! Leaving the terminal: the program starts a second instance of itself with the same arguments, and waits until that
//! one reports that everything is bound, checked and started, or ends. This avoids fork(2) and its restrictions on
//! threads; the user sees every message, and exit status 0 means that the proxy is running.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::process::{getppid, setsid};

use super::ExitFailure;
use crate::config::{Config, LogTarget};
use crate::endpoint::Endpoint;
use crate::observe::lines::Standard;

/// Which of the two processes this is.
pub enum ProcessRole {
    /// The process on the terminal: the background process is up.
    Terminal,
    /// The process that is to leave the terminal.
    Background(ReadyPipe),
}

/// Tells the launching process that we are ready: it waits until this is written to or dropped.
pub struct ReadyPipe(PipeWriter);

/// Environment variable of the background process: the id of the process that started it.
const STARTED_BY: &str = "CBPX_STARTED_BY";

/// Determines the role of this process; on the terminal, starts the other process and waits until it is up.
///
/// # Errors
/// The background process's exit status, if it did not come up; it has printed the reason.
pub fn enter(config: &Config) -> Result<ProcessRole, ExitFailure> {
    let other = |e: io::Error| {
        ExitFailure::new(config.process.statuses.other, format_args!("cannot start in the background: {e}"))
    };
    if is_started_by_own_parent() {
        return ReadyPipe::take().map(ProcessRole::Background).map_err(other);
    }
    let status = start().map_err(other)?;
    if status == 0 { Ok(ProcessRole::Terminal) } else { Err(ExitFailure::told(status)) }
}

/// Later children inherit the variable too; its value matches only here.
fn is_started_by_own_parent() -> bool {
    let parent = getppid().map(|parent| parent.as_raw_nonzero().to_string());
    let has_tether = fstat(io::stdin()).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Fifo);
    has_tether && parent.is_some() && env::var(STARTED_BY).ok() == parent
}

/// Returns 0 when the background process is up, else its exit status.
fn start() -> io::Result<u8> {
    let mut words = env::args_os();
    let program = env::current_exe()?;
    let name = words.next().unwrap_or_else(|| program.clone().into());
    let (mut up, ready_pipe) = io::pipe()?;
    let mut command = Command::new(program);
    command.arg0(name).args(words).env(STARTED_BY, process::id().to_string()).stdin(ready_pipe);
    let mut child = command.spawn()?;
    // From now on, the child has the only write end of the pipe.
    drop(command);
    let mut word = [0];
    if let Ok(1) = up.read(&mut word) {
        return Ok(0);
    }
    let status = child.wait()?;
    let signal = || status.signal().map(|signal| 128 + signal);
    Ok(status.code().or_else(signal).and_then(|status| u8::try_from(status).ok()).unwrap_or(u8::MAX))
}

impl ReadyPipe {
    /// The pipe arrives as standard input, which a background process does not need.
    fn take() -> io::Result<ReadyPipe> {
        let ready_pipe: OwnedFd = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        rustix::stdio::dup2_stdin(OpenOptions::new().read(true).open("/dev/null")?)?;
        // Restores the old name if a link started it: `ps` and `pkill` use that name.
        if let Some(name) = env::args_os().next().as_ref().and_then(|name| Path::new(name).file_name())
            && let Ok(name) = std::ffi::CString::new(name.as_encoded_bytes())
        {
            rustix::thread::set_name(&name).ok();
        }
        Ok(ReadyPipe(ready_pipe.into()))
    }

    /// To be called when everything is up: leaves the session, directory and terminal, and releases the launching
    /// process.
    ///
    /// # Errors
    /// When the launching process is gone: the user has given up.
    pub fn cut(mut self) -> io::Result<()> {
        // Fails for the leader of a process group, which this process is only if someone made it one.
        setsid().or_else(|e| if e == Errno::PERM { Ok(rustix::process::getpid()) } else { Err(e) })?;
        env::set_current_dir("/")?;
        let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        io::stdout().flush().ok();
        rustix::stdio::dup2_stdout(&nowhere)?;
        rustix::stdio::dup2_stderr(&nowhere)?;
        self.0.write_all(b"+")
    }
}

/// Makes relative paths absolute, because the working directory will change.
///
/// # Errors
/// When the working directory no longer exists.
pub fn with_fixed_paths(config: &Config) -> io::Result<Config> {
    let mut config = config.clone();
    if let LogTarget::File(path) = &mut config.log.target {
        fix(path)?;
    }
    let mut files =
        config.access_log.iter_mut().chain(&mut config.process.pid_file).chain(&mut config.process.cpu_profile);
    files.try_for_each(fix)?;
    config.control.directory.iter_mut().try_for_each(fix)?;
    config.control.listeners.iter_mut().try_for_each(fix_endpoint)?;
    for service in &mut config.services {
        service.script.iter_mut().try_for_each(fix)?;
        service.listeners.iter_mut().try_for_each(fix_endpoint)?;
        let groups = service.upstreams.iter_mut().flat_map(|upstream| &mut upstream.groups);
        let mut backends = groups.flat_map(|group| &mut group.backends);
        backends.try_for_each(|backend| fix_endpoint(&mut backend.endpoint))?;
    }
    Ok(config)
}

fn fix(path: &mut PathBuf) -> io::Result<()> {
    if Standard::of(path).is_none() {
        *path = std::path::absolute(&path)?;
    }
    Ok(())
}

fn fix_endpoint(endpoint: &mut Endpoint) -> io::Result<()> {
    match endpoint {
        Endpoint::Unix(path) => fix(path),
        Endpoint::Tcp { .. } | Endpoint::Malformed(_) => Ok(()),
    }
}
