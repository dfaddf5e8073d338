//! `-i` and `-c`: a client of the running instance, which it finds by port and address. It passes commands on
//! unchanged; the instance interprets them.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::UNAVAILABLE;
use super::control::{SHELL, STOP_FAILED};
use crate::observe::words::system_words;

/// Identifies an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSocket {
    pub directory: PathBuf,
    pub port: u16,
    /// As typed; `None` means all addresses.
    pub bind: Option<String>,
}

/// What to send to the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceCommand {
    /// One command.
    Command(String),
    /// Commands from standard input, one after the other.
    Shell,
}

/// A request to one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRequest {
    pub at: InstanceSocket,
    pub wish: InstanceCommand,
    /// Name the instance's socket on standard error.
    pub trace: bool,
}

/// Why a request failed: lines for standard error, and the exit status.
#[derive(Debug)]
pub struct InstanceError {
    pub words: Vec<String>,
    pub status: u8,
}

/// The address in the socket's name when an instance was started without `-b`.
const EVERYWHERE: &str = "0.0.0.0";
/// Longest wait for an answer. An instance normally answers at once; while it stops it may take some seconds.
const PATIENCE: Duration = Duration::from_secs(30);

impl InstanceSocket {
    /// Path of the instance's control socket.
    pub fn socket(&self) -> PathBuf {
        let bind = self.bind.as_deref().unwrap_or(EVERYWHERE);
        self.directory.join(format!("balance.{}.{bind}.sock", self.port))
    }

    /// The `-b` and port options of every running instance, in no particular order.
    fn others(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let entries = entries.flatten().filter(|entry| UnixStream::connect(entry.path()).is_ok());
        let mut found: Vec<String> = entries.filter_map(|entry| options(entry.file_name().to_str()?)).collect();
        found.sort();
        found
    }
}

/// The options that select the instance with this socket name.
fn options(name: &str) -> Option<String> {
    let (port, bind) = name.strip_prefix("balance.")?.strip_suffix(".sock")?.split_once('.')?;
    Some(if bind == EVERYWHERE { port.to_owned() } else { format!("-b {bind} {port}") })
}

impl InstanceRequest {
    /// Sends the request and copies the answer until the instance closes the connection.
    ///
    /// # Errors
    /// When no such instance runs, or it failed to stop.
    pub fn run(&self) -> Result<(), InstanceError> {
        let path = self.at.socket();
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(cause) => return Err(self.nobody(&cause)),
        };
        if self.trace {
            // A closed standard error must not stop the request.
            writeln!(io::stderr(), "balance: talking to {}", path.display()).ok();
        }
        match &self.wish {
            InstanceCommand::Command(command) if command.trim().is_empty() => Ok(()),
            InstanceCommand::Command(command) => {
                stream.set_read_timeout(Some(PATIENCE)).ok();
                // If this write fails, the read below gets no answer either.
                writeln!(&stream, "{command}").ok();
                stream.shutdown(Shutdown::Write).ok();
                copy(&stream)
            }
            InstanceCommand::Shell => {
                writeln!(&stream, "{SHELL}").ok();
                if let Ok(typed) = stream.try_clone() {
                    // Not joined: this thread blocks in a read of standard input, and owns nothing.
                    std::thread::spawn(move || pass_on(&typed));
                }
                copy(&stream)
            }
        }
    }

    fn nobody(&self, cause: &io::Error) -> InstanceError {
        let mut words = vec!["balance: no master process, exiting.".to_owned()];
        words.push(format!("balance: {}: {}", self.at.socket().display(), system_words(cause)));
        let others = self.at.others();
        words.push(if others.is_empty() {
            format!("balance: no instance is running (looked in {})", self.at.directory.display())
        } else {
            format!("balance: running instances: {}", others.join(", "))
        });
        InstanceError { words, status: UNAVAILABLE }
    }
}

/// Copies standard input to the instance until end of input.
fn pass_on(stream: &UnixStream) {
    io::copy(&mut io::stdin(), &mut &*stream).ok();
    stream.shutdown(Shutdown::Write).ok();
}

/// Copies the instance's output to standard output as it arrives.
fn copy(mut stream: &UnixStream) -> Result<(), InstanceError> {
    let mut out = io::stdout();
    let mut last = Vec::new();
    let mut received = [0; 4096];
    loop {
        match stream.read(&mut received) {
            Ok(0) => break,
            Ok(length) => {
                last.extend_from_slice(&received[..length]);
                last.drain(..last.len().saturating_sub(STOP_FAILED.len() + 1));
                if out.write_all(&received[..length]).and_then(|()| out.flush()).is_err() {
                    // Standard output was closed: the user no longer reads.
                    return Ok(());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let words = format!("balance: no answer within {} s", PATIENCE.as_secs());
                return Err(InstanceError { words: vec![words], status: UNAVAILABLE });
            }
            // The instance has ended, and its output was read.
            Err(_) => break,
        }
    }
    if last.strip_suffix(b"\n").is_some_and(|last| last == STOP_FAILED.as_bytes()) {
        return Err(InstanceError { words: Vec::new(), status: UNAVAILABLE });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_socket_tells_the_options() {
        for (name, told) in [
            ("balance.80.0.0.0.0.sock", Some("80")),
            ("balance.8080.127.0.0.1.sock", Some("-b 127.0.0.1 8080")),
            ("balance.80.::1.sock", Some("-b ::1 80")),
            ("balance.80.0.0.0.0", None),
            ("other.80.0.0.0.0.sock", None),
        ] {
            assert_eq!(options(name).as_deref(), told, "{name}");
        }
    }
}
