//! A real web server to stand behind a proxy, and real web clients in front of it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::command::{Killed, run};
use crate::support::{Reserved, SOON, TempDir, eventually};

/// An nginx at a port and at a Unix socket. It serves its name for each at `/`, and a large file at `/large`.
pub struct Nginx {
    _process: Killed,
    port: Reserved,
    dir: TempDir,
}

/// The length of the large file.
pub const LARGE: usize = 3 << 20;

impl Nginx {
    /// It has the same name at both.
    pub fn start(name: &str) -> Nginx {
        Nginx::start_named([name, name])
    }

    /// With the name it has at its port, and the one at its Unix socket.
    pub fn start_named(names: [&str; 2]) -> Nginx {
        let (dir, reserved) = (TempDir::new("nginx"), Reserved::new());
        let port = reserved.port();
        let root = dir.path().display();
        for (place, name) in ["inet", "unix"].into_iter().zip(names) {
            let place = dir.path().join(place);
            fs::create_dir(&place).unwrap();
            fs::write(place.join("index.html"), name).unwrap();
            fs::write(place.join("large"), vec![b'x'; LARGE]).unwrap();
        }
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
             fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
             server {{ listen 127.0.0.1:{port}; root {root}/inet; }}\n\
             server {{ listen unix:{root}/sock; root {root}/unix; }} }}\n"
        );
        fs::write(dir.path().join("conf"), config).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("conf"));
        let process = Killed::start(command.stdin(Stdio::null()).stderr(Stdio::null()));
        eventually(SOON, "nginx listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok() && UnixStream::connect(dir.path().join("sock")).is_ok()
        });
        Nginx { _process: process, port: reserved, dir }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.port())
    }

    pub fn socket(&self) -> String {
        self.dir.path().join("sock").display().to_string()
    }
}

/// What curl prints.
pub fn curl(arguments: &[&str]) -> String {
    let ran = run(Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out
}

/// Fetches the large file whole.
pub fn curl_gets_the_large_file(url: &str) {
    let large = curl(&["-o", "/dev/null", "-w", "%{size_download} %{http_code}", &format!("{url}large")]);
    assert_eq!(large, format!("{LARGE} 200"));
}

/// Makes a thousand connections with a request each, twenty at once.
pub fn ab_loses_no_request(url: &str) {
    let ran = run(Command::new("ab").args(["-q", "-n", "1000", "-c", "20", url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("Complete requests:      1000\n"), "{}", ran.out);
    assert!(ran.out.contains("Failed requests:        0\n"), "{}", ran.out);
}

/// Makes requests on twenty connections for a second.
pub fn wrk_loses_no_request(url: &str) {
    let ran = run(Command::new("wrk").args(["-t1", "-c20", "-d1", url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains("Socket errors") && !ran.out.contains("Non-2xx"), "{}", ran.out);
}
