//! The operator: types `switch` at the control port, as with `nc`, and reads the answer line by line.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::play::DemoEvent;
use crate::threads;

/// A command in progress. Dropping it hangs up, which does not affect the command.
#[derive(Debug)]
pub struct Operator {
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

/// Longer than the pause between two lines of a switch's answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Operator {
    /// Types `switch`. Each line of the answer becomes a [`DemoEvent::Said`], its end a [`DemoEvent::SaidAll`].
    ///
    /// # Errors
    /// When the control port cannot be reached.
    pub fn types_switch(control: SocketAddr, events: Sender<DemoEvent>) -> io::Result<Operator> {
        let mut stream = TcpStream::connect(control)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"switch\n")?;
        let answer = BufReader::new(stream.try_clone()?);
        let thread = threads::spawn("operator", move || read(answer, &events))?;
        Ok(Operator { stream, thread: Some(thread) })
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // Fails if the proxy has closed the connection, as it does after the answer.
        self.stream.shutdown(Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn read(answer: BufReader<TcpStream>, events: &Sender<DemoEvent>) {
    for line in answer.lines() {
        // A truncated answer is judged by what it lacks. After the play no one receives events.
        let Ok(line) = line else { break };
        events.send(DemoEvent::Said(line)).ok();
    }
    events.send(DemoEvent::SaidAll).ok();
}

/// The proxy's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SwitchReport {
    /// The line with the outcome: `Switch OK!: ...` or `Switch failed: ...`.
    pub outcome: Option<String>,
    /// Time until the last client had left the old server, and from then to the script's end.
    pub drain: Duration,
    pub script: Duration,
}

impl SwitchReport {
    /// Takes what is needed from a line; most lines contain nothing of interest.
    pub fn read(&mut self, line: &str) {
        let line = line.trim();
        if line.starts_with("Switch ") || line.starts_with("Busy") || line.starts_with("Too late") {
            self.outcome = Some(line.to_owned());
        } else if line.starts_with("Took ") {
            self.drain = seconds_after(line, "drain ").unwrap_or_default();
            self.script = seconds_after(line, "script ").unwrap_or_default();
        }
    }
}

fn seconds_after(line: &str, label: &str) -> Option<Duration> {
    let (_, rest) = line.split_once(label)?;
    let seconds: f64 = rest.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_and_timings_are_found_among_the_rows() {
        let mut report = SwitchReport::default();
        for line in [
            " Starting switch: 127.0.0.1:1 -> 127.0.0.1:2, timeout: 5.00 s, 1000 connections buffer",
            " script: Took nothing",
            " Took 0.502 s: drain 0.198 s, script 0.304 s; 55 clients held",
            "",
            " Switch OK!: all connections closed, script returned: 0",
        ] {
            report.read(line);
        }
        assert_eq!(report.outcome.as_deref(), Some("Switch OK!: all connections closed, script returned: 0"));
        assert_eq!((report.drain.as_millis(), report.script.as_millis()), (198, 304));
    }
}
