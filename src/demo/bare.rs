//! The same move without cbpx: two more servers and the same clients, which connect to them directly. What the proxy
//! does elsewhere, an operator does here by hand: stop one server, run the script, send the clients to the other.

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

/// The servers, and where clients find them. The servers end before their directory goes.
pub struct Bare {
    pub blue: DemoServer,
    pub green: DemoServer,
    pub directory: Directory,
    pub target: Target,
    pub book: Book,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub totals: DemoTotals,
    /// The script succeeded, and the other server has answered since.
    pub there: bool,
}

impl Bare {
    /// Starts both servers; blue is the primary, and clients are to go there.
    ///
    /// # Errors
    /// The first thing that is not to be had.
    pub fn set() -> Result<Bare, Box<dyn Error>> {
        let directory = Directory::new()?;
        let (blue, green) = (BoundServers::new("blue")?, BoundServers::new("green")?);
        directory.put(PRIMARY, &format!("{}\n", blue.address.port()))?;
        // Nobody but the script changes roles here: a server that was demoted stays so.
        let primary = Arc::new(Primary { file: directory.file(PRIMARY), switching: Box::new(|| true) });
        let (book, target) = (Book::default(), Target::new(blue.address));
        let (blue, green) = (blue.open(&primary, &book)?, green.open(&primary, &book)?);
        Ok(Bare { blue, green, directory, target, book })
    }

    /// What its clients' counters show.
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
        // From here on the child is ended and reaped, whatever happens.
        let mut by_hand = ByHand { child, thread: None };
        by_hand.thread = Some(threads::spawn("script", move || read(lines, &events))?);
        Ok(by_hand)
    }
}

/// A script that runs. Dropping it ends it.
#[derive(Debug)]
pub struct ByHand {
    child: Child,
    thread: Option<JoinHandle<()>>,
}

impl ByHand {
    /// Once it has said all, whether it succeeded.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn succeeded(mut self) -> io::Result<bool> {
        Ok(self.child.wait()?.success())
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        // Both fail when it has ended and been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn read(lines: Option<ChildStdout>, events: &Sender<DemoEvent>) {
    for line in lines.into_iter().flat_map(|lines| BufReader::new(lines).lines()) {
        // Output that breaks off is judged by the exit status. Events are not read any more once the play is over.
        let Ok(line) = line else { break };
        events.send(DemoEvent::Said(line)).ok();
    }
    events.send(DemoEvent::SaidAll).ok();
}
