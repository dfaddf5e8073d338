//! What every test may need: waiting for a condition, a directory, a port.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// Long enough for anything on a loaded machine with two cores; nothing waits this long unless it fails.
pub const SOON: Duration = Duration::from_secs(20);

/// How many clients have threads of their own in the proxies under test: `CBPX_TEST_THREAD_PAIRS`, or the default. The
/// suite is run once with each way to carry a client.
pub fn thread_pairs() -> usize {
    std::env::var("CBPX_TEST_THREAD_PAIRS").map_or(256, |number| number.parse().unwrap())
}

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

/// Binds a socket. Another that was closed may still be there for a moment: in a process that another test is starting,
/// which has not come to its program yet.
pub fn bind(socket: &Socket, to: impl Into<SocketAddr>) {
    let address = to.into();
    eventually(SOON, &format!("{address} can be bound"), || socket.bind(&address.into()).is_ok());
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
/// bind and listen on it too, and the kernel gives it to nobody else. On all addresses, as the program binds it: it may
/// be in use on one of them already.
pub struct Reserved(Socket);

impl Reserved {
    pub fn new() -> Reserved {
        Reserved::at(Ipv4Addr::UNSPECIFIED, 0)
    }

    /// One of IPv6, on this machine only.
    pub fn six() -> Reserved {
        Reserved::at(Ipv6Addr::LOCALHOST, 0)
    }

    /// This port, which other tests may have reserved in the same way; 0 means any.
    pub fn at(ip: impl Into<IpAddr>, port: u16) -> Reserved {
        let address = SocketAddr::new(ip.into(), port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        Reserved(socket)
    }

    /// Begins to listen: a server that echoes under this name.
    pub fn listen(&self, name: &'static str) -> crate::backend::Backend {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        bind(&socket, (Ipv4Addr::LOCALHOST, self.port()));
        socket.listen(16).unwrap();
        crate::backend::Backend::echo_on(socket.into(), name)
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().as_socket().unwrap().port()
    }
}

/// An address where nobody listens, as long as its port is kept.
pub fn nobody() -> (Reserved, String) {
    let port = Reserved::new();
    let address = format!("127.0.0.1:{}", port.port());
    (port, address)
}

/// So many may be open in this process, which holds both ends of every connection. Programs started later inherit that.
pub fn allow_descriptors(number: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < number) {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).unwrap();
        assert!(limit.maximum.is_none_or(|most| most >= number), "this test needs {number} descriptors");
    }
}
