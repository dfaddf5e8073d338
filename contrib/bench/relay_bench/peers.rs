//! The peers that are compared, and how each is started: one process between its own port and the server.
//!
//! Connection logs are off, limits and timeouts are out of the way, and there are two threads or workers where that can
//! be set. Otherwise the package's defaults apply.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::figures::Load;
use crate::load::PATIENCE;
use crate::options::Mode;
use crate::process::{self, Running};
use crate::server;

/// One column of the table.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Unique in one run.
    pub label: String,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Haproxy,
    /// HAProxy told to splice; left to itself (`splice-auto`) it did not, at these speeds.
    HaproxySplice,
    Nginx,
    Balance,
    Socat,
    Cbpx {
        program: PathBuf,
        /// `Default` also for one that does not know the flag.
        mode: Mode,
    },
}

/// A started peer.
#[derive(Debug)]
pub struct Proxy {
    /// `None` for a direct connection.
    running: Option<Running>,
    pub port: u16,
}

/// The server, a process of this program.
pub struct Server {
    /// Kept only to be dropped.
    _running: Running,
    pub port: u16,
}

impl Kind {
    /// By name; `cbpx` is the binary that plain `cbpx` stands for, once for each mode.
    pub fn parse(name: &str, cbpx: &Path, modes: &[Mode]) -> Option<Vec<Kind>> {
        let kind = match name {
            "direct" => Kind::Direct,
            "haproxy" => Kind::Haproxy,
            "haproxy-splice" => Kind::HaproxySplice,
            "nginx" => Kind::Nginx,
            "balance" => Kind::Balance,
            "socat" => Kind::Socat,
            "cbpx" => {
                let in_mode = |mode: &Mode| Kind::Cbpx { program: cbpx.to_owned(), mode: *mode };
                return Some(modes.iter().map(in_mode).collect());
            }
            _ => Kind::Cbpx { program: PathBuf::from(name.split_once('=')?.1), mode: Mode::Default },
        };
        Some(vec![kind])
    }

    /// What its column is called, where its name alone does not tell.
    pub fn suffix(&self) -> &'static str {
        match self {
            Kind::Cbpx { mode: Mode::Pairs, .. } => "-pairs",
            Kind::Cbpx { mode: Mode::Shared, .. } => "-shared",
            Kind::Cbpx { mode: Mode::Default, .. }
            | Kind::Direct
            | Kind::Haproxy
            | Kind::HaproxySplice
            | Kind::Nginx
            | Kind::Balance
            | Kind::Socat => "",
        }
    }

    /// Where its program is, if it is installed.
    pub fn program(&self) -> Option<PathBuf> {
        let name = match self {
            Kind::Direct => return env::current_exe().ok(),
            Kind::Cbpx { program, .. } => return fs::canonicalize(program).ok(),
            Kind::Haproxy | Kind::HaproxySplice => "haproxy",
            Kind::Nginx => "nginx",
            Kind::Balance => "balance",
            Kind::Socat => "socat",
        };
        let path = env::var_os("PATH").unwrap_or_default();
        // Debian installs servers here, which is not in every PATH.
        let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        folders.map(|folder| folder.join(name)).find(|program| program.is_file())
    }

    /// The version that the program reports.
    pub fn version(&self) -> String {
        let (argument, line) = match self {
            Kind::Direct => return String::new(),
            Kind::Haproxy | Kind::HaproxySplice => ("-v", 0),
            Kind::Nginx => ("-v", 0),
            Kind::Socat => ("-V", 1),
            Kind::Balance => ("-h", 0),
            Kind::Cbpx { .. } => ("--version", 0),
        };
        let output = self.program().and_then(|program| Command::new(program).arg(argument).output().ok());
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().nth(line).unwrap_or("?").trim().to_owned()
    }

    /// Whether it starts a process per client. The CPU time of processes that end is not counted.
    pub fn forks(&self) -> bool {
        matches!(self, Kind::Balance | Kind::Socat)
    }

    /// Whether this load is measured for it.
    pub fn takes_part(&self, load: Load) -> bool {
        match self {
            Kind::Direct => load != Load::Idle,
            // Splicing changes nothing for small messages.
            Kind::HaproxySplice => load.is_bulk(),
            // A process for each client is not what a database is put behind.
            Kind::Balance | Kind::Socat if matches!(load, Load::Sql(_)) => false,
            Kind::Haproxy | Kind::Nginx | Kind::Balance | Kind::Socat | Kind::Cbpx { .. } => true,
        }
    }
}

impl Server {
    pub fn start() -> io::Result<Server> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(server::WORD).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::start(&mut command)?;
        let mut line = String::new();
        if let Some(output) = running.0.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let port = line.trim().parse().map_err(|_| io::Error::other("the server does not start"))?;
        Ok(Server { _running: running, port })
    }
}

impl Proxy {
    /// Starts `peer` as number `number` of this run, before the server at `server_port`, with its files in `dir`, and
    /// waits until `serves` says that it does: until then it is asked again and again.
    pub fn start(
        peer: &Peer,
        number: usize,
        server_port: u16,
        dir: &Path,
        serves: impl Fn(u16) -> io::Result<()>,
    ) -> io::Result<Proxy> {
        if peer.kind == Kind::Direct {
            return Ok(Proxy { running: None, port: server_port });
        }
        let program = peer.kind.program().ok_or_else(|| io::Error::other(format!("no {}", peer.label)))?;
        let port = free_port()?;
        // The server listens on every loopback address: with its own address for the server, a proxy cannot exhaust
        // another's ports.
        let backend = format!("127.0.1.{}", 1 + number % 250);
        let dir = dir.join(number.to_string());
        fs::create_dir_all(&dir)?;
        let mut command = Command::new(program);
        arguments(&mut command, &peer.kind, port, &format!("{backend}:{server_port}"), &dir)?;
        let log = File::create(dir.join("output"))?;
        command.current_dir(&dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let proxy = Proxy { running: Some(Running::start(&mut command)?), port };
        let begun = Instant::now();
        while let Err(e) = serves(port) {
            if begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(dir.join("output")).unwrap_or_default();
                return Err(io::Error::other(format!("{} does not serve: {e}\n{said}", peer.label)));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }

    /// CPU time so far.
    pub fn cpu(&self) -> io::Result<Duration> {
        self.running.as_ref().map_or(Ok(Duration::ZERO), |running| process::cpu(running.id()))
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> io::Result<u64> {
        self.running.as_ref().map_or(Ok(0), |running| process::memory(running.id()))
    }
}

fn arguments(command: &mut Command, kind: &Kind, port: u16, backend: &str, dir: &Path) -> io::Result<()> {
    // Two descriptors per client, and HAProxy's pipes.
    let clients = (process::descriptor_limit().saturating_sub(200) / 3).min(20_000);
    match kind {
        Kind::Direct => {}
        Kind::Haproxy => haproxy(command, dir, port, backend, clients, "")?,
        Kind::HaproxySplice => {
            haproxy(command, dir, port, backend, clients, "  option splice-request\n  option splice-response\n")?
        }
        Kind::Nginx => {
            let text = format!(
                "daemon off;\npid {0}/pid;\nerror_log {0}/error.log;\nworker_processes 2;\n\
                 worker_rlimit_nofile {1};\nload_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
                 events {{ worker_connections {1}; }}\n\
                 stream {{ server {{ listen {port} backlog=4096; proxy_pass {backend}; proxy_timeout 1h;\n\
                 proxy_half_close on; }} }}\n",
                dir.display(),
                clients * 2
            );
            fs::write(dir.join("conf"), text)?;
            command.arg("-p").arg(dir).arg("-e").arg(dir.join("error.log")).arg("-c").arg(dir.join("conf"));
        }
        Kind::Balance => {
            command.args(["-f", "-t", "5", &port.to_string(), backend]);
        }
        Kind::Socat => {
            // `-t`: after one side has ended, the other gets a minute instead of half a second.
            let listen = format!("TCP4-LISTEN:{port},fork,reuseaddr,backlog=4096,nodelay");
            command.args(["-t", "60", &listen, &format!("TCP4:{backend},nodelay")]);
        }
        Kind::Cbpx { mode, .. } => {
            command.args(["-p", &port.to_string(), "-r", &free_port()?.to_string(), "-a", backend]);
            // Never switched to.
            command.args(["-s", "127.0.0.1:9", "-x", "/bin/true", "-t", "5", "-c", "10000", "-o", "0", "-b", "4096"]);
            match mode {
                Mode::Pairs => _ = command.args(["--thread_pairs", "65536"]),
                Mode::Shared => _ = command.args(["--thread_pairs", "0"]),
                Mode::Default => {}
            }
        }
    }
    Ok(())
}

fn haproxy(command: &mut Command, dir: &Path, port: u16, backend: &str, clients: u64, options: &str) -> io::Result<()> {
    let text = format!(
        "global\n  nbthread 2\n  maxconn {clients}\ndefaults\n  mode tcp\n{options}  timeout connect 10s\n  \
         timeout client 1h\n  timeout server 1h\n  maxconn {clients}\nlisten bench\n  bind :{port} backlog 4096\n  \
         server one {backend}\n"
    );
    fs::write(dir.join("conf"), text)?;
    command.arg("-db").arg("-f").arg(dir.join("conf"));
    Ok(())
}

/// Below the ports that the system gives to outgoing connections, so that none of those takes it before the proxy does.
pub fn free_port() -> io::Result<u16> {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 20_000) as u16;
    for _ in 0..2000 {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no free port"))
}
