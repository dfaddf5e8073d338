//! A real web server behind it, over TCP and a Unix socket, and real web clients in front.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::Fproxy;
use crate::command::{Killed, run};
use crate::support::{Reserved, SOON, TempDir, eventually};

const LARGE: usize = 3 << 20;

/// An nginx at a port and at a Unix socket, which tells by which way it was reached.
struct Nginx {
    _process: Killed,
    port: Reserved,
    dir: TempDir,
}

impl Nginx {
    fn start() -> Nginx {
        let (dir, reserved) = (TempDir::new("nginx"), Reserved::new());
        let port = reserved.port();
        let root = dir.path().display();
        for way in ["inet", "unix"] {
            fs::create_dir(dir.path().join(way)).unwrap();
            fs::write(dir.path().join(way).join("index.html"), way).unwrap();
            fs::write(dir.path().join(way).join("large"), vec![b'x'; LARGE]).unwrap();
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
        eventually(SOON, "nginx listens", || UnixStream::connect(dir.path().join("sock")).is_ok());
        Nginx { _process: process, port: reserved, dir }
    }

    fn addresses(&self) -> [String; 2] {
        [format!("127.0.0.1:{}", self.port.port()), self.dir.path().join("sock").display().to_string()]
    }
}

fn curl(arguments: &[&str]) -> String {
    let ran = run(Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out
}

#[test]
fn curl_is_served_over_tcp_and_unix_sockets_at_both_ends() {
    let nginx = Nginx::start();
    let [tcp, unix] = nginx.addresses();
    let proxy = Fproxy::start(&["-s0", "./front.sock"], &[&tcp, &unix]);
    let url = format!("http://{}/", proxy.addr());
    let pages: Vec<String> = (0..4).map(|_| curl(&[&url])).collect();
    assert_eq!(pages, ["inet", "unix", "inet", "unix"]);
    let front = proxy.path("front.sock").display().to_string();
    assert_eq!(curl(&["--unix-socket", &front, "http://any/"]), "inet");
    for _ in 0..2 {
        let large = curl(&["-o", "/dev/null", "-w", "%{size_download} %{http_code}", &format!("{url}large")]);
        assert_eq!(large, format!("{LARGE} 200"));
    }
    let accesses = proxy.has_accesses(7);
    let socket = accesses.iter().filter(|line| line.contains(&format!("\"GET {unix}\" 200 "))).count();
    assert_eq!(socket, 3, "{accesses:?}");
}

#[test]
fn ab_and_wrk_lose_no_request_and_each_client_has_a_line() {
    let nginx = Nginx::start();
    let [tcp, unix] = nginx.addresses();
    let proxy = Fproxy::start(&["-y4"], &[&tcp, &unix]);
    let url = format!("http://{}/", proxy.addr());
    let ran = run(Command::new("ab").args(["-q", "-n", "1000", "-c", "20", &url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("Complete requests:      1000\n"), "{}", ran.out);
    assert!(ran.out.contains("Failed requests:        0\n"), "{}", ran.out);
    let accesses = proxy.has_accesses(1000);
    let served = accesses.iter().filter(|line| line.contains("] \"POST ") && line.contains("\" 200 ")).count();
    assert!(served >= 1000, "{served}");
    let ran = run(Command::new("wrk").args(["-t1", "-c20", "-d1", &url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains("Socket errors") && !ran.out.contains("Non-2xx"), "{}", ran.out);
}
