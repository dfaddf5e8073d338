//! The access log: one line per closed client, in the format of web servers. A full or hanging disk costs lines, whose
//! number is logged, and never makes a client wait.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::event_log::ConnectionInfo;
use super::lines::{self, LineSender, LineWriter, Reopener};
use crate::core::msg::CloseReason;
use crate::endpoint::Address;

/// The data of one line.
#[derive(Debug)]
pub struct AccessLine {
    at: Timestamp,
    peer: Address,
    method: Method,
    backend: Option<Address>,
    status: u16,
    /// Bytes sent by the client, and how long it was connected, in seconds.
    client: (u64, u64),
    /// The same for its backend.
    server: (u64, u64),
}

/// The word before the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Clients are connected to a backend at once.
    Get,
    /// Clients are connected to a backend after they have sent something.
    Post,
}

/// Mode of a new file, less the umask.
const MODE: u32 = 0o666;

/// The running access log. Dropping it writes pending lines, if the disk takes less than a second.
pub struct AccessLog(LineWriter<AccessLine>);

impl AccessLog {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    /// If the file cannot be opened, or a thread cannot be started.
    pub fn start(path: &Path, name: &str) -> io::Result<AccessLog> {
        let sink = AccessSink { path: path.to_owned(), file: lines::open(path, MODE)? };
        let hangs = format!("{name}: the access log's disk does not answer; its lines are lost");
        Ok(AccessLog(LineWriter::start("access", sink, hangs)?))
    }

    pub fn reopener(&self) -> Reopener {
        self.0.reopener()
    }

    /// A logger for the clients of one service.
    pub fn access_logger(&self, method: Method) -> AccessLogger {
        AccessLogger { line_sender: self.0.line_sender(), method }
    }
}

/// Logs the clients of one service.
#[derive(Clone, Debug)]
pub struct AccessLogger {
    line_sender: LineSender<AccessLine>,
    method: Method,
}

impl AccessLogger {
    /// Logs a closed client.
    pub fn gone(&self, why: CloseReason, info: &ConnectionInfo) {
        let now = Instant::now();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        let (backend, server_time) = match &info.connected {
            Some((at, address)) => (Some(address.clone()), seconds(*at)),
            None => (None, 0),
        };
        self.line_sender.put(AccessLine {
            at: Timestamp::now(),
            peer: info.peer.clone(),
            method: self.method,
            status: status(why, backend.is_some()),
            backend,
            client: (info.up, seconds(info.accepted)),
            server: (info.down, server_time),
        });
    }
}

/// The status that tools for web servers' logs read; README lists these.
fn status(why: CloseReason, had_a_backend: bool) -> u16 {
    match why {
        _ if had_a_backend => 200,
        CloseReason::HungUp => 499,
        // The client did not send its first bytes in time.
        CloseReason::Idle => 408,
        CloseReason::NoBackend => 502,
        CloseReason::Full | CloseReason::NoRoom | CloseReason::Shutdown | CloseReason::Terminated => 503,
        // Without a backend, these reasons indicate a defect.
        CloseReason::ClientEnded
        | CloseReason::BackendEnded
        | CloseReason::Lingered
        | CloseReason::ClosedForSwitch
        | CloseReason::ClientFailed
        | CloseReason::BackendFailed
        | CloseReason::Panicked => 500,
    }
}

impl fmt::Display for AccessLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.at.to_zoned(TimeZone::system());
        let method = match self.method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let backend = self.backend.as_ref().map_or_else(|| "-".to_owned(), host);
        let ((up, here), (down, there)) = (self.client, self.server);
        write!(
            f,
            "{} - - [{}] \"{method} {backend}\" {} {up} {here} {down} {there}",
            host(&self.peer),
            date.strftime("%d/%b/%Y:%H:%M:%S %z"),
            self.status,
        )
    }
}

/// An address without its port, for which the format has no field.
fn host(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.ip().to_canonical().to_string(),
        Address::Unix(path) if path.as_os_str().is_empty() => "unix:".to_owned(),
        Address::Unix(path) => path.display().to_string(),
    }
}

struct AccessSink {
    path: PathBuf,
    file: File,
}

impl lines::LineSink<AccessLine> for AccessSink {
    /// Logs lost lines, because tools that read the access log do not know such a line.
    fn write(&mut self, line: &AccessLine, lost: u64) -> io::Result<()> {
        lines::write_all(&self.file, format!("{line}\n").as_bytes())?;
        if lost > 0 {
            log::warn!("{lost} lines were lost of {self}");
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = lines::open(&self.path, MODE)?;
        Ok(())
    }

    fn complain(&self, words: &str) {
        log::error!("{words}");
    }
}

impl fmt::Display for AccessSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "access log {}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(backend: Option<Address>, method: Method) -> String {
        let at = "2011-07-31T11:00:00Z".parse().unwrap();
        let peer = Address::Tcp("[::ffff:127.0.0.1]:4711".parse().unwrap());
        let status = status(CloseReason::NoBackend, backend.is_some());
        AccessLine { at, peer, method, backend, status, client: (848, 8), server: (940_087, 8) }.to_string()
    }

    #[test]
    fn a_line_has_the_layout() {
        let told = line(Some(Address::Tcp("192.168.0.1:80".parse().unwrap())), Method::Post);
        let (start, rest) = told.split_once(" [").unwrap();
        let (date, rest) = rest.split_once("] ").unwrap();
        assert_eq!((start, rest), ("127.0.0.1 - -", "\"POST 192.168.0.1\" 200 848 8 940087 8"));
        let shape: String = date.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert!(["99/Jul/9999:99:99:99 +9999", "99/Jul/9999:99:99:99 -9999"].contains(&shape.as_str()), "{date}");
    }

    #[test]
    fn who_had_no_backend_is_told_so_and_a_unix_socket_is_its_path() {
        assert!(line(None, Method::Get).contains("] \"GET -\" 502 "));
        assert!(line(Some(Address::Unix("/run/s".into())), Method::Get).contains("\"GET /run/s\" 200 "));
    }
}
