//! One control session over a socket: one line and its answer; after `prompt`, one line after the other. Every wait has
//! a limit, so that a silent peer occupies a session for seconds only.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::line::LineBuffer;
use super::table::{CommandResult, printable};
use super::terminal::{StopSignal, Terminal};
use super::{CTL_WORD, Context};
use crate::net::Stream;

/// The commands of a session and their implementation.
pub trait CommandSet {
    /// The prompt for the next line.
    fn prompt(&self) -> String;
    /// Runs one line.
    ///
    /// # Errors
    /// If the peer cannot be written to any more.
    fn run(&mut self, context: &Context, line: &str, terminal: &mut Terminal<'_>) -> io::Result<CommandResult>;
}

/// The first line must be complete this long after the connection was made.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest silence at a prompt: a forgotten session must not occupy a slot for ever.
const IDLE_PROMPT: Duration = Duration::from_secs(600);
/// An incomplete line counts as a command after this silence. Old scripts send `hello` without a line end and wait.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum length of a line in bytes. A longer one belongs to another protocol.
const LONGEST: usize = 4 * 1024;
/// Longest wait of one write for a peer that does not read.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// After the answer, further input is read and discarded for up to this long or this many bytes: closing with unread
/// input would reset the connection and lose the answer.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: usize = 4 << 20;

/// Why there is no line.
enum ReadLineError {
    /// The peer has ended or failed, so no reason can be sent.
    Gone,
    /// The peer gets this reason and is closed.
    Closed(&'static str),
}

/// Runs one session from start to end. `closing` is disconnected when the program ends.
pub fn serve(context: &Context, stream: &Stream, peer: &str, closing: &Receiver<()>) {
    // If the option cannot be set, the session runs without the limit.
    stream.set_write_timeout(Some(WRITE_PATIENCE)).ok();
    let command_set = (context.command_set)(context.fixed.words);
    let mut session =
        Session { context, stream, peer, closing, command_set, buffer: LineBuffer::default(), prompting: false };
    if session.run().is_ok() {
        say_farewell(stream);
    }
}

/// Sends the reason why the peer is not served, and closes the session.
pub fn turn_away(stream: &Stream, reason: &str) {
    stream.set_write_timeout(Some(WRITE_PATIENCE)).ok();
    if writeln!(&mut &*stream, " Closing: {reason}").is_ok() {
        say_farewell(stream);
    }
}

struct Session<'a> {
    context: &'a Context,
    stream: &'a Stream,
    peer: &'a str,
    closing: &'a Receiver<()>,
    command_set: Box<dyn CommandSet>,
    buffer: LineBuffer,
    prompting: bool,
}

impl Session<'_> {
    /// # Errors
    /// If the peer cannot be written to any more.
    fn run(&mut self) -> io::Result<()> {
        let mut writer = self.stream;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.prompting {
                write!(writer, "{}", self.command_set.prompt())?;
            }
            let line = match self.next_line(deadline) {
                Ok(line) => line,
                Err(ReadLineError::Gone) => return Ok(()),
                Err(ReadLineError::Closed(reason)) => {
                    log::info!("control session from {}: closed: {reason}", self.peer);
                    return writeln!(writer, " Closing: {reason}");
                }
            };
            log::info!("control session from {}: {}", self.peer, printable(&line));
            let (line, report) = match line.strip_prefix(CTL_WORD) {
                Some(rest) if rest.starts_with(' ') => (rest, true),
                Some(_) | None => (line.as_str(), false),
            };
            let mut terminal = Terminal::new(&mut writer, StopSignal::Session(self.closing));
            let verdict = self.command_set.run(self.context, line, &mut terminal)?;
            if report {
                terminal.line(match verdict {
                    CommandResult::Done => " ctl: done",
                    CommandResult::Refused => " ctl: refused",
                })?;
            }
            self.prompting |= terminal.keep_open;
            if !self.prompting || terminal.leaving {
                return Ok(());
            }
        }
    }

    fn next_line(&mut self, deadline: Instant) -> Result<String, ReadLineError> {
        loop {
            if let Some(line) = self.buffer.line() {
                return self.checked(line);
            }
            if self.buffer.len() > LONGEST {
                return Err(ReadLineError::Closed("the line is longer than 4 KiB"));
            }
            // Also limits a peer that keeps sending: single bytes, or endless telnet negotiation.
            if !self.prompting && Instant::now() >= deadline {
                return Err(ReadLineError::Closed("no complete line within 10 s"));
            }
            if self.stream.set_read_timeout(self.limit(deadline)).is_err() {
                return Err(ReadLineError::Gone);
            }
            let mut received = [0; 1024];
            match (&mut &*self.stream).read(&mut received) {
                Ok(0) if self.buffer.is_empty() => return Err(ReadLineError::Gone),
                Ok(0) => return self.rest(),
                Ok(length) => self.buffer.push(&received[..length]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && !self.prompting => {
                    if !self.buffer.is_empty() && Instant::now() < deadline {
                        return self.rest();
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return Err(ReadLineError::Closed("nothing typed at the prompt for 10 minutes"));
                }
                Err(_) => return Err(ReadLineError::Gone),
            }
        }
    }

    /// Timeout of the next read: minutes at a prompt, a moment for the rest of a line, else until the deadline.
    fn limit(&self, deadline: Instant) -> Option<Duration> {
        if self.prompting {
            return Some(IDLE_PROMPT);
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        Some(if self.buffer.is_empty() { left } else { left.min(PAUSE) })
    }

    fn rest(&mut self) -> Result<String, ReadLineError> {
        let line = self.buffer.rest();
        self.checked(line)
    }

    fn checked(&self, line: String) -> Result<String, ReadLineError> {
        if line.len() > LONGEST {
            return Err(ReadLineError::Closed("the line is longer than 4 KiB"));
        }
        if line.trim_matches([' ', '\t', '\r', ';']).is_empty() && !self.prompting {
            return Err(ReadLineError::Closed("the line is empty"));
        }
        Ok(line)
    }
}

/// Ends our side of the connection and waits briefly for the peer to end its own.
fn say_farewell(stream: &Stream) {
    stream.shutdown(Shutdown::Write);
    let deadline = Instant::now() + FAREWELL;
    let mut received = [0; 16 * 1024];
    let mut total = 0;
    while total < FAREWELL_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match (&mut &*stream).read(&mut received) {
            Ok(0) | Err(_) => return,
            Ok(length) => total += length,
        }
    }
}
