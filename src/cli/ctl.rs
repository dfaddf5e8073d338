//! `cbpx ctl`: sends a command to a running cbpx, for people, cron and Ansible. The exit status tells the outcome.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};

use super::Invocation;
use crate::control::{CTL_VERDICT, CTL_WORD};
use crate::dialects::{COLUMNS, Usage, refused, seconds};
use crate::endpoint::Endpoint;
use crate::net::Stream;
use crate::observe::words::system_words;

#[derive(Debug, Parser)]
#[command(
    name = "cbpx ctl",
    bin_name = "cbpx ctl",
    args_override_self = true,
    term_width = COLUMNS,
    about = "Sends one command to a running cbpx and prints the answer as it comes",
    after_help = "Exit status: 0 the command succeeded (switch: the clients were moved), 1 it was refused or failed, \
                  2 usage, 3 no answer: cbpx cannot be reached, or went silent."
)]
struct CtlArguments {
    /// Where cbpx listens for remote control: HOST:PORT or the path of its Unix socket
    #[arg(long, value_name = "HOST:PORT|PATH", default_value = "127.0.0.1:5433", env = "CBPX_CTL")]
    to: Endpoint,
    /// Give up after SEC seconds without an answer
    #[arg(long, value_name = "SEC", default_value = "30", value_parser = seconds, allow_negative_numbers = true)]
    timeout: f64,
    /// The command and its arguments: `help` lists them
    #[arg(required = true, value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<String>,
}

/// One command for one proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct CtlRequest {
    pub to: Endpoint,
    /// The longest silence before it gives up.
    pub timeout: Duration,
    pub command: String,
}

/// The result of a request.
#[derive(Debug)]
pub enum CtlOutcome {
    Done,
    Refused,
    Unreachable(String),
}

pub fn parse(arguments: &[OsString]) -> Result<Invocation, Usage> {
    let typed = match CtlArguments::try_parse_from(arguments) {
        Ok(typed) => typed,
        Err(e) => return refused(&e, &CtlArguments::command()).map(Invocation::from),
    };
    let command = typed.command.join(" ");
    if command.trim().is_empty() || command.contains(['\n', '\r']) {
        return Err(Usage::new("cbpx ctl: COMMAND is empty or has a line break in it".to_owned()));
    }
    if !(0.01..=86_400.0).contains(&typed.timeout) {
        return Err(Usage::new(format!(
            "cbpx ctl: --timeout must be between 0.01 and 86400 seconds (given: {})",
            typed.timeout
        )));
    }
    Ok(Invocation::Ctl(CtlRequest { to: typed.to, timeout: Duration::from_secs_f64(typed.timeout), command }))
}

impl CtlRequest {
    /// Sends the command and copies the answer to `out` as it comes.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn run(&self, out: &mut impl Write) -> io::Result<CtlOutcome> {
        match self.connect() {
            Ok(stream) => self.converse(&stream, out),
            Err(e) => Ok(CtlOutcome::Unreachable(format!("cannot reach cbpx at {}: {}", self.to, system_words(&e)))),
        }
    }

    fn connect(&self) -> io::Result<Stream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.to.resolve()? {
            match Stream::connect(&address, self.timeout) {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn converse(&self, stream: &Stream, out: &mut impl Write) -> io::Result<CtlOutcome> {
        let lost = |words: &str| CtlOutcome::Unreachable(format!("no answer from cbpx at {}: {words}", self.to));
        // If cbpx has already closed the connection it sent the reason, which is read below.
        let asked = writeln!(&mut &*stream, "{CTL_WORD} {}", self.command);
        stream.shutdown(Shutdown::Write);
        if let Err(e) = stream.set_read_timeout(Some(self.timeout)) {
            return Ok(lost(&system_words(&e)));
        }
        let mut pending = Vec::new();
        let mut verdict = None;
        let mut received = [0; 4096];
        let mut silent_since = Instant::now();
        // Standard output may be closed early; the command and our exit status do not depend on it.
        let mut heard = true;
        loop {
            match (&mut &*stream).read(&mut received) {
                Ok(0) => break,
                Ok(length) => {
                    pending.extend_from_slice(&received[..length]);
                    silent_since = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(lost(&format!("silent for {:.1} s", silent_since.elapsed().as_secs_f64())));
                }
                Err(e) => return Ok(lost(&system_words(&asked.err().unwrap_or(e)))),
            }
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                match line.strip_prefix(CTL_VERDICT.as_bytes()) {
                    Some(word) => {
                        verdict = Some(if word == b"done\n" { CtlOutcome::Done } else { CtlOutcome::Refused })
                    }
                    None => heard = heard && out.write_all(&line).is_ok(),
                }
            }
            heard = heard && out.flush().is_ok();
        }
        if heard {
            out.write_all(&pending).and_then(|()| out.flush()).ok();
        }
        let none = || CtlOutcome::Unreachable(format!("cbpx at {} closed the connection before the end", self.to));
        Ok(verdict.unwrap_or_else(none))
    }
}
