//! The same move without cbpx: two more servers, and the same clients, which connect to them directly. An operator does
//! by hand what the proxy does otherwise: stop one server, run the script, point the clients to the other.

use std::error::Error;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use super::book::{Book, DemoTotals};
use super::clients::Target;
use super::play::DemoEvent;
use super::pulse::Sight;
use super::servers::{BoundServers, DemoServer, Primary};
use super::stage::{Directory, PRIMARY};
use crate::threads;

/// The servers and the clients' target. The servers stop before their directory is removed.
pub struct Bare {
    pub blue: DemoServer,
    pub green: DemoServer,
    pub directory: Directory,
    pub target: Target,
    pub book: Book,
}

/// The result of the move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub totals: DemoTotals,
    /// The script succeeded, and the other server has answered since.
    pub there: bool,
}

impl Bare {
    /// Starts both servers. Blue is the primary, and the target of the clients.
    ///
    /// # Errors
    /// The first resource that is not available.
    pub fn set() -> Result<Bare, Box<dyn Error>> {
        let directory = Directory::new()?;
        let (blue, green) = (BoundServers::new("blue")?, BoundServers::new("green")?);
        directory.put(PRIMARY, &format!("{}\n", blue.address.port()))?;
        // Only the script changes roles here: a demoted server stays demoted.
        let primary = Arc::new(Primary { file: directory.file(PRIMARY), switching: Box::new(|| true) });
        let (book, target) = (Book::default(), Target::new(blue.address));
        let (blue, green) = (blue.open(&primary, &book)?, green.open(&primary, &book)?);
        Ok(Bare { blue, green, directory, target, book })
    }

    /// Snapshot of the clients' counters.
    pub fn sight(&self) -> Sight {
        let servers = [&self.blue, &self.green];
        let address = self.target.get();
        let active = servers.iter().find(|server| server.address == address).map_or("?", |server| server.name);
        Sight { active, queue: None, totals: self.book.totals() }
    }

    /// Runs the switch script as cbpx would, from blue to green.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_script(&self, events: Sender<DemoEvent>) -> io::Result<ByHand> {
        let mut command = Command::new(self.directory.script());
        for server in [&self.blue, &self.green] {
            command.args([server.address.ip().to_string(), server.address.port().to_string()]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = child.stdout.take();
        // From here on, dropping `by_hand` kills and reaps the child.
        let mut by_hand = ByHand { child, thread: None };
        by_hand.thread = Some(threads::spawn("script", move || read(lines, &events))?);
        Ok(by_hand)
    }
}

/// A running script. Dropping it kills it.
#[derive(Debug)]
pub struct ByHand {
    child: Child,
    thread: Option<JoinHandle<()>>,
}

impl ByHand {
    /// Waits for the end of the output, and returns whether the script succeeded.
    ///
    /// # Errors
    /// When its exit status is not available.
    pub fn succeeded(mut self) -> io::Result<bool> {
        Ok(self.child.wait()?.success())
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        // Both fail if it has ended and been reaped.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn read(lines: Option<ChildStdout>, events: &Sender<DemoEvent>) {
    for line in lines.into_iter().flat_map(|lines| BufReader::new(lines).lines()) {
        // Truncated output does not matter: the exit status decides. After the play no one receives events.
        let Ok(line) = line else { break };
        events.send(DemoEvent::Said(line)).ok();
    }
    events.send(DemoEvent::SaidAll).ok();
}
