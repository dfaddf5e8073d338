//! Sets up the demo: a temporary directory with the switch script, both servers, and a proxy configured as a user
//! would. Fields are dropped in order: first the proxy, then the servers, last the directory.

use std::error::Error;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::book::Book;
use super::clients::Target;
use super::pulse::{Queue, Sight};
use super::screen::WIDTH;
use super::servers::{BoundServers, DemoServer, Primary};
use crate::config::{
    Commands, Config, Control, Log, LogStyle, LogTarget, Network, Process, RetryPolicy, Service, Settings, Upstream,
    WhenFull,
};
use crate::endpoint::{Address, Endpoint};
use crate::process::Proxy;
use crate::settings::THREAD_PAIRS;

/// Everything but the clients and the operator.
pub struct DemoStage {
    pub proxy: Proxy,
    pub blue: DemoServer,
    pub green: DemoServer,
    pub directory: Directory,
    pub book: Book,
    /// Where clients connect.
    pub listening: SocketAddr,
    pub target: Target,
    /// Where operators connect.
    pub control: SocketAddr,
}

impl DemoStage {
    /// Starts everything; no client is connected yet.
    ///
    /// # Errors
    /// The first resource that is not available.
    pub fn set() -> Result<DemoStage, Box<dyn Error>> {
        let directory = Directory::new()?;
        let (blue, green) = (BoundServers::new("blue")?, BoundServers::new("green")?);
        directory.put(PRIMARY, &format!("{}\n", blue.address.port()))?;
        let proxy = Proxy::start(&configuration(blue.address, green.address, directory.script()))?;
        let stats = proxy.context().stats.clone();
        let primary = Arc::new(Primary {
            file: directory.file(PRIMARY),
            switching: Box::new(move || stats.read().view.switching),
        });
        let book = Book::default();
        let (blue, green) = (blue.open(&primary, &book)?, green.open(&primary, &book)?);
        let listening = tcp(proxy.listening())?;
        let control = tcp(proxy.controlled_at())?;
        Ok(DemoStage { proxy, blue, green, directory, book, listening, target: Target::new(listening), control })
    }

    /// Snapshot of the proxy's and the clients' counters.
    pub fn sight(&self) -> Sight {
        let now = self.proxy.context().stats.read();
        let queue = Queue { assigned: now.view.assigned, held: now.view.held };
        Sight { active: self.name_of(&now.active), queue: Some(queue), totals: self.book.totals() }
    }

    /// The name of the server at this address, as the proxy shows it.
    pub fn name_of(&self, address: &str) -> &'static str {
        let servers = [&self.blue, &self.green];
        servers.iter().find(|server| server.address.to_string() == address).map_or("?", |server| server.name)
    }

    /// Makes the next switch script fail.
    ///
    /// # Errors
    /// When the directory has been tampered with.
    pub fn standby_falls_behind(&self) -> io::Result<()> {
        self.directory.put(BEHIND, "")
    }

    /// Makes the next switch script succeed again.
    ///
    /// # Errors
    /// When the directory has been tampered with.
    pub fn standby_catches_up(&self) -> io::Result<()> {
        fs::remove_file(self.directory.file(BEHIND))
    }

    /// The command line a user would type for this proxy.
    pub fn command_line(&self) -> String {
        let script = self.directory.script().display().to_string();
        let tail = self.directory.script().strip_prefix(std::env::temp_dir()).map(|tail| tail.display().to_string());
        let line = |script: &str| format!("       -x {script}");
        let script = match tail {
            Ok(tail) if line(&script).chars().count() > WIDTH => line(&format!("$TMPDIR/{tail}")),
            Ok(_) | Err(_) => line(&script),
        };
        format!(
            "  cbpx -p {} -a {} -s {} \\\n       -t 5 -c 1000 -o 0 -r {} \\\n{script}",
            self.listening.port(),
            self.blue.address,
            self.green.address,
            self.control.port()
        )
    }
}

/// File that names the primary (see [`Primary`]).
pub const PRIMARY: &str = "primary";
/// File that exists while the standby cannot be promoted.
const BEHIND: &str = "standby-is-behind";

/// Promotes a server. Needs only `sh`, `mv` and `sleep`.
const SCRIPT: &str = r#"#!/bin/sh
# The switch script of `cbpx demo`. cbpx runs it when the last client has left the old server, with these words:
#   $1 $2  host and port of the server in use
#   $3 $4  host and port of the one to move to
# Exit 0 lets everybody through to the new server, anything else back to the old one.
#
# A real script promotes a standby, say with `pg_ctl promote`. Here the file `primary` names the port of the server
# that may serve; the servers look it up for each request.
set -e
cd "${0%/*}"
primary() {
    echo "$*" > primary.new
    mv primary.new primary
}

echo "port $2 is asked to step down"
primary demoted "$2"
sleep 0.3
if [ -e standby-is-behind ]; then
    echo "port $4 has not caught up: port $2 takes its role back"
    primary "$2"
    exit 1
fi
primary "$4"
echo "port $4 is the primary now"
"#;

fn configuration(blue: SocketAddr, green: SocketAddr, script: PathBuf) -> Config {
    let endpoint = |address: SocketAddr| Endpoint::tcp(address.ip().to_string(), address.port());
    let anywhere = || Endpoint::tcp("127.0.0.1", 0);
    Config {
        services: vec![Service {
            name: "cbpx".to_owned(),
            listeners: vec![anywhere()],
            network: Network::plain(),
            upstreams: vec![Upstream::single(endpoint(blue)), Upstream::single(endpoint(green))],
            settings: Settings {
                switch_max_time: Duration::from_secs(5),
                max_queued: 1000,
                max_open: None,
                switch_loop_wait: Duration::from_millis(100),
                net_buffer_size: 2048,
                thread_pairs: THREAD_PAIRS,
            },
            script: Some(script),
            max_dials: 256,
            when_full: WhenFull::Wait,
            retry: RetryPolicy { most: 1, pause: Duration::ZERO },
            seed: 0,
            grace: Duration::from_secs(6),
        }],
        control: Control { listeners: vec![anywhere()], console: false, words: Commands::Switchover, directory: None },
        log: Log { target: LogTarget::Nowhere, level: log::LevelFilter::Info, style: LogStyle::Origin, mode: 0o666 },
        access_log: None,
        process: Process::plain(),
    }
}

/// The first address; it is TCP because a TCP endpoint was configured.
fn tcp(addresses: &[Address]) -> io::Result<SocketAddr> {
    match addresses.first() {
        Some(Address::Tcp(address)) => Ok(*address),
        Some(Address::Unix(_)) | None => Err(io::Error::other("the proxy does not tell where it listens")),
    }
}

/// A directory for this run, with the switch script in it. Dropping it removes it with its content.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// # Errors
    /// When it cannot be created.
    pub fn new() -> Result<Directory, String> {
        let base = std::env::temp_dir();
        let failed = |path: &Path, e: &io::Error| format!("cannot make a temporary directory {}: {e}", path.display());
        for attempt in 0..100 {
            let path = base.join(format!("cbpx-demo-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let directory = Directory { path };
                    directory.write_script().map_err(|e| failed(&directory.path, &e))?;
                    return Ok(directory);
                }
                // A previous process had this number: its directory is not ours to use.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(&path, &e)),
            }
        }
        Err(format!("cannot make a temporary directory in {}: all names are taken", base.display()))
    }

    fn write_script(&self) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(self.script())?;
        file.write_all(SCRIPT.as_bytes())
    }

    /// Writes a file in the directory.
    ///
    /// # Errors
    /// When the directory has been tampered with.
    pub fn put(&self, name: &str, text: &str) -> io::Result<()> {
        fs::write(self.file(name), text)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn script(&self) -> PathBuf {
        self.path.join("switch.sh")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Ignored: what cannot be removed was removed by another process, or belongs to one.
        fs::remove_dir_all(&self.path).ok();
    }
}
