//! Leaving the terminal: the program starts itself once more, with the words it was started with, and waits until that
//! one says that everything is bound, checked and started, or has ended. So there is no fork(2) with its rules about
//! threads, whoever typed the command sees every message, and the exit status is 0 only when there is something
//! running.

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

/// Which of the two this process is.
pub enum ProcessRole {
    /// The one that was typed: the other is up.
    Terminal,
    /// The one that is to leave the terminal.
    Background(ReadyPipe),
}

/// To the one that was typed. It has waited as long as this is not dropped.
pub struct ReadyPipe(PipeWriter);

/// In the environment of the one in the background: the process that started it.
const STARTED_BY: &str = "CBPX_STARTED_BY";

/// Finds out which side this process is; on the terminal, starts the other and waits until it is up.
///
/// # Errors
/// The other's exit status, if it did not come up; it has said why.
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

/// The variable is inherited by whatever is started later, too; its value fits only here.
fn is_started_by_own_parent() -> bool {
    let parent = getppid().map(|parent| parent.as_raw_nonzero().to_string());
    let has_tether = fstat(io::stdin()).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Fifo);
    has_tether && parent.is_some() && env::var(STARTED_BY).ok() == parent
}

/// Returns 0 when the other is up, else its exit status.
fn start() -> io::Result<u8> {
    let mut words = env::args_os();
    let program = env::current_exe()?;
    let name = words.next().unwrap_or_else(|| program.clone().into());
    let (mut up, ready_pipe) = io::pipe()?;
    let mut command = Command::new(program);
    command.arg0(name).args(words).env(STARTED_BY, process::id().to_string()).stdin(ready_pipe);
    let mut child = command.spawn()?;
    // Its end of the pipe is the only one from now on.
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
    /// It comes as standard input, which is not needed in the background.
    fn take() -> io::Result<ReadyPipe> {
        let ready_pipe: OwnedFd = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        rustix::stdio::dup2_stdin(OpenOptions::new().read(true).open("/dev/null")?)?;
        // Under its old name, where it was started by one: what `ps` and `pkill` know it by.
        if let Some(name) = env::args_os().next().as_ref().and_then(|name| Path::new(name).file_name())
            && let Ok(name) = std::ffi::CString::new(name.as_encoded_bytes())
        {
            rustix::thread::set_name(&name).ok();
        }
        Ok(ReadyPipe(ready_pipe.into()))
    }

    /// Everything is up: leaves the session, the directory and the terminal, and lets the other one end.
    ///
    /// # Errors
    /// The other one is gone: whoever typed the command has given up.
    pub fn cut(mut self) -> io::Result<()> {
        // Fails for the leader of a group, which this is only if somebody has seen to it.
        setsid().or_else(|e| if e == Errno::PERM { Ok(rustix::process::getpid()) } else { Err(e) })?;
        env::set_current_dir("/")?;
        let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        io::stdout().flush().ok();
        rustix::stdio::dup2_stdout(&nowhere)?;
        rustix::stdio::dup2_stderr(&nowhere)?;
        self.0.write_all(b"+")
    }
}

/// Relative paths keep their meaning when the directory is another one.
///
/// # Errors
/// When the directory is gone already.
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
