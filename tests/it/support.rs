//! What every test may need: waiting for a condition, a directory, a port.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Long enough for anything on a loaded machine with two cores; nothing waits this long unless it fails.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `deadline`.
pub fn eventually(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory of this test's own, removed with everything in it.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(tag: &str) -> TempDir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cbpx-{tag}-{}-{unique}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// An executable file with this text.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A port that stays ours although nobody listens on it: bound with address reuse, so that the program under test can
/// bind and listen on it too, and the kernel gives it to nobody else.
pub struct Reserved(Socket);

impl Reserved {
    pub fn new() -> Reserved {
        Reserved::at(Ipv4Addr::LOCALHOST, 0)
    }

    /// Free at every address, for programs that listen at all of them.
    pub fn everywhere() -> Reserved {
        Reserved::at(Ipv4Addr::UNSPECIFIED, 0)
    }

    /// This port, which others may have reserved likewise; 0 is any.
    pub fn at(ip: Ipv4Addr, port: u16) -> Reserved {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((ip, port)).into()).unwrap();
        Reserved(socket)
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().as_socket().unwrap().port()
    }
}

/// A port that was free a moment ago, for programs that cannot share a reserved one.
pub fn free_port() -> u16 {
    Reserved::new().port()
}
