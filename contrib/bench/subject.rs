//! A cbpx process to be measured, with a directory of its own; killed when dropped.

#[path = "guard.rs"]
mod guard;

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use guard::Guard;

/// The process, and how to reach it.
pub struct Subject {
    child: Child,
    guard: Option<Guard>,
    dir: PathBuf,
    /// Where clients connect.
    pub listening: SocketAddr,
    control: SocketAddr,
    /// Bound to the same ports with address reuse, so that the kernel gives them to nobody else.
    _reserved: [Socket; 2],
}

/// Nothing takes this long on one machine: whoever says nothing for that time has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// While thousands of connections come and go a port may be lost to one of them after all.
const TRIES: usize = 5;

impl Subject {
    /// Starts the program `cbpx` with this text as its switch script, and waits until it answers. The script runs in
    /// the directory where [`Subject::file`] is.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(cbpx: &Path, active: SocketAddr, standby: SocketAddr, script: &str) -> io::Result<Subject> {
        use std::os::unix::fs::PermissionsExt;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for _ in 0..TRIES {
            let unique = format!("cbpx-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let dir = env::temp_dir().join(unique);
            fs::create_dir_all(&dir)?;
            let path = dir.join("script");
            fs::write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            let mut subject = Subject::spawn(cbpx, active, standby, &path, dir)?;
            if subject.answers()? {
                return Ok(subject);
            }
        }
        Err(io::Error::other("cbpx does not start"))
    }

    fn spawn(cbpx: &Path, active: SocketAddr, standby: SocketAddr, script: &Path, dir: PathBuf) -> io::Result<Subject> {
        let ((port, listening), (rc_port, control)) = (reserve()?, reserve()?);
        let mut child = Command::new(fs::canonicalize(cbpx)?)
            .args(["-t", "60", "-c", "10000", "-o", "0", "-b", "4096", "--bind", "127.0.0.1"])
            // How many clients have threads of their own: both ways are tried with the same load.
            .args(env::var("CBPX_TEST_THREAD_PAIRS").iter().map(|number| format!("--thread_pairs={number}")))
            .args(["-p", &listening.port().to_string(), "-r", &control.port().to_string()])
            .args(["-a", &active.to_string(), "-s", &standby.to_string()])
            .arg("-x")
            .arg(script)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .spawn()?;
        let guard = match Guard::of(&child.id().to_string(), &dir) {
            Ok(guard) => Some(guard),
            Err(e) => {
                child.kill()?;
                child.wait()?;
                return Err(e);
            }
        };
        Ok(Subject { child, guard, dir, listening, control, _reserved: [port, rc_port] })
    }

    /// Waits until it does; false when it has ended instead.
    fn answers(&mut self) -> io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.control).is_err() {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("cbpx does not answer"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// Sends a command and does not wait for the answer.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn begin(&self, line: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.control)?;
        // Longer than a switch may take: one that fails says so itself.
        stream.set_read_timeout(Some(3 * PATIENCE))?;
        writeln!(stream, "{line}")?;
        Ok(stream)
    }

    /// Sends a command and returns the whole answer.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub fn ask(&self, line: &str) -> io::Result<String> {
        finish(self.begin(line)?)
    }

    /// The path of a file in the directory where it runs.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        // Before its number may be somebody else's.
        self.guard = None;
        self.child.wait().ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn reserve() -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no address"))?;
    Ok((socket, address))
}

/// Reads an answer to its end.
///
/// # Errors
/// When it breaks off.
pub fn finish(stream: TcpStream) -> io::Result<String> {
    let lines: io::Result<Vec<String>> = BufReader::new(stream).lines().collect();
    lines.map(|lines| lines.join("\n"))
}
