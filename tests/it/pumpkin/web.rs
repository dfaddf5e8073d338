//! A real web server behind it, and real web clients in front.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::{Pumpkin, nobody};
use crate::command::{Killed, run};
use crate::support::{Reserved, SOON, TempDir, eventually};

/// An nginx that serves its name at `/`.
struct Nginx {
    _process: Killed,
    port: Reserved,
    _dir: TempDir,
}

impl Nginx {
    fn start(name: &str) -> Nginx {
        let (dir, reserved) = (TempDir::new("nginx"), Reserved::new());
        let port = reserved.port();
        let root = dir.path().display();
        fs::write(dir.path().join("index.html"), name).unwrap();
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

fn curl(url: &str) -> String {
    let ran = run(Command::new("curl").args(["-sS", "--max-time", "15", url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out
}

#[test]
fn curl_is_served_by_each_nginx_in_turn_on_each_mapping() {
    let (a, b) = (Nginx::start("A"), Nginx::start("B"));
    let (a, b) = (a.address(), b.address());
    let pumpkin = Pumpkin::start(2, &format!("[mappings]\nP0={a},{b}\n127.0.0.1:P1={b}\n"));
    let url = |number| format!("http://127.0.0.1:{}/", pumpkin.port(number));
    assert_eq!([0; 4].map(|number| curl(&url(number))), ["A", "B", "A", "B"]);
    assert_eq!([1; 2].map(|number| curl(&url(number))), ["B", "B"]);
}

#[test]
fn defect_3_twenty_of_twenty_short_answers_of_nginx_reach_curl() {
    let a = Nginx::start("short");
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={}\n", a.address()));
    let url = format!("http://127.0.0.1:{}/", pumpkin.port(0));
    // With HTTP/1.0 nginx closes right behind the answer.
    let one = || run(Command::new("curl").args(["-sS0", "--max-time", "15", &url])).out;
    assert_eq!((0..20).filter(|_| one() == "short").count(), 20);
}

#[test]
fn ab_and_wrk_lose_no_request_although_a_worker_is_dead() {
    let (a, b, (_port, gone)) = (Nginx::start("A"), Nginx::start("B"), nobody());
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={},{gone},{}\n", a.address(), b.address()));
    let url = format!("http://127.0.0.1:{}/", pumpkin.port(0));
    let ran = run(Command::new("ab").args(["-q", "-n", "1000", "-c", "20", &url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("Complete requests:      1000\n"), "{}", ran.out);
    assert!(ran.out.contains("Failed requests:        0\n"), "{}", ran.out);
    let ran = run(Command::new("wrk").args(["-t1", "-c20", "-d1", &url]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains("Socket errors") && !ran.out.contains("Non-2xx"), "{}", ran.out);
}
