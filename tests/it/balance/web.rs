//! A real web server behind it, and real web clients in front.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::Balance;
use crate::command::{Killed, run};
use crate::support::{Reserved, SOON, TempDir, eventually};

/// An nginx that serves its name at `/` and a large file.
struct Nginx {
    _process: Killed,
    port: Reserved,
    _dir: TempDir,
}

const LARGE: usize = 3 << 20;

impl Nginx {
    fn start(name: &str) -> Nginx {
        let (dir, reserved) = (TempDir::new("nginx"), Reserved::new());
        let port = reserved.port();
        let root = dir.path().display();
        fs::write(dir.path().join("index.html"), name).unwrap();
        fs::write(dir.path().join("large"), vec![b'x'; LARGE]).unwrap();
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
             fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
             server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
        );
        fs::write(dir.path().join("conf"), config).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("conf"));
        let process = Killed::start(command.stdin(Stdio::null()).stderr(Stdio::null()));
        eventually(SOON, "nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Nginx { _process: process, port: reserved, _dir: dir }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.port())
    }
}

fn curl(arguments: &[&str]) -> String {
    let ran = run(Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out
}

#[test]
fn curl_is_served_by_each_nginx_in_turn_and_by_the_other_when_one_is_disabled() {
    let (a, b) = (Nginx::start("A"), Nginx::start("B"));
    let balance = Balance::start(&[], &[&a.address(), &b.address()]);
    let url = format!("http://127.0.0.1:{}/", balance.port());
    let pages: Vec<String> = (0..4).map(|_| curl(&[&url])).collect();
    assert_eq!(pages, ["A", "B", "A", "B"]);
    balance.answers("disable 1", "channel 1 disabled");
    assert_eq!([curl(&[&url]), curl(&[&url])], ["A", "A"]);
    let large = curl(&["-o", "/dev/null", "-w", "%{size_download} %{http_code}", &format!("{url}large")]);
    assert_eq!(large, format!("{LARGE} 200"));
}

#[test]
fn ab_and_wrk_lose_no_request() {
    let (a, b) = (Nginx::start("A"), Nginx::start("B"));
    let balance = Balance::start(&[], &[&a.address(), &b.address()]);
    let url = format!("http://127.0.0.1:{}/", balance.port());
    let ran = run(Command::new("ab").args(["-q", "-n", "1000", "-c", "20", &url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("Complete requests:      1000\n"), "{}", ran.out);
    assert!(ran.out.contains("Failed requests:        0\n"), "{}", ran.out);
    // ab may open a connection or two more than it needs.
    let total = |row| balance.shown(row, "totalc").parse::<i64>().unwrap();
    assert!(total(0) + total(1) >= 1000 && (total(0) - total(1)).abs() <= 1, "{} {}", total(0), total(1));
    let ran = run(Command::new("wrk").args(["-t1", "-c20", "-d1", &url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains("Socket errors") && !ran.out.contains("Non-2xx"), "{}", ran.out);
    eventually(SOON, "all have gone", || [0, 1].iter().all(|row| balance.shown(*row, "c") == "0"));
}
