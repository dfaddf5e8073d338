//! The access log: a line for each client that has gone, and what becomes of it when its disk is in trouble.

use std::fs;
use std::io::Write;
use std::net::Shutdown;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::command::cbpx;
use crate::ends::{Server, read_rest};
use crate::proxy::Proxy;
use crate::relay::connected;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::served_by;

/// The fields of a line that are not a date, once it has the layout.
fn fields(line: &str) -> Vec<&str> {
    let (peer, rest) = line.split_once(" - - [").unwrap_or_else(|| panic!("{line}"));
    let (date, rest) = rest.split_once("] \"").unwrap_or_else(|| panic!("{line}"));
    let (request, rest) = rest.split_once("\" ").unwrap_or_else(|| panic!("{line}"));
    let shape: String = date.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert!(shape.starts_with("99/") && shape[6..].starts_with("/9999:99:99:99 "), "{line}");
    assert!(["+9999", "-9999"].contains(&&shape[21..]), "{line}");
    let fields: Vec<_> = [peer, request].into_iter().chain(rest.split(' ')).collect();
    assert_eq!(fields.len(), 7, "{line}");
    fields
}

#[test]
fn a_client_that_has_gone_has_a_line_with_its_bytes_and_seconds() {
    let (server, dir) = (Server::new(), TempDir::new("access"));
    let path = dir.path().join("access.log");
    let extra = ["--access_log", path.to_str().unwrap()];
    let proxy = Proxy::start(&server.address(), &server.address(), &extra);
    let (mut client, mut far) = (proxy.connect(), server.accept());
    client.write_all(&[7; 848]).unwrap();
    far.write_all(&[8; 9400]).unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client).len(), 9400);
    assert_eq!(fs::read_to_string(&path).unwrap(), "", "it is still here");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far).len(), 848);
    eventually(SOON, "there is a line", || fs::read_to_string(&path).unwrap().ends_with('\n'));
    let line = fs::read_to_string(&path).unwrap();
    let fields = fields(line.trim_end());
    assert_eq!(fields[..4], ["127.0.0.1", "GET 127.0.0.1", "200", "848"], "{line}");
    assert_eq!(fields[5], "9400", "{line}");
    assert!([4, 6].iter().all(|at| fields[*at].parse::<u64>().unwrap() < 20), "{line}");
}

#[test]
fn a_client_that_never_had_a_backend_is_told_by_another_status() {
    let (dead, dir) = (Reserved::new(), TempDir::new("access"));
    let dead = format!("127.0.0.1:{}", dead.port());
    let path = dir.path().join("access.log");
    let proxy = Proxy::start(&dead, &dead, &["--access_log", path.to_str().unwrap()]);
    assert_eq!(read_rest(&proxy.connect()), b"");
    eventually(SOON, "there is a line", || fs::read_to_string(&path).unwrap().ends_with('\n'));
    let line = fs::read_to_string(&path).unwrap();
    let fields = fields(line.trim_end());
    assert_eq!((&fields[..4], fields[5], fields[6]), (&["127.0.0.1", "GET -", "502", "0"][..], "0", "0"), "{line}");
}

#[test]
fn a_client_that_left_the_queue_has_a_line_too() {
    let (server, dir) = (Server::new(), TempDir::new("access"));
    let path = dir.path().join("access.log");
    let extra = ["-o", "1", "--access_log", path.to_str().unwrap()];
    let proxy = Proxy::start(&server.address(), &server.address(), &extra);
    let _first = (proxy.connect(), server.accept());
    let second = proxy.connect();
    eventually(SOON, "it is held", || proxy.stat("in queue") == 1);
    drop(second);
    eventually(SOON, "there is a line", || fs::read_to_string(&path).unwrap().ends_with('\n'));
    assert!(fs::read_to_string(&path).unwrap().contains("] \"GET -\" 499 0 "));
}

#[test]
fn after_a_rename_sighup_starts_a_new_access_log() {
    let (server, dir) = (Backend::echo("A"), TempDir::new("access"));
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let mut proxy = Proxy::start(&server.address(), &server.address(), &["--access_log", path.to_str().unwrap()]);
    let lines = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    served_by(&mut proxy.connect());
    eventually(SOON, "there is a line", || lines(&path) == 1);
    fs::rename(&path, &old).unwrap();
    proxy.signal(Signal::HUP);
    eventually(SOON, "there is a new file", || path.exists());
    served_by(&mut proxy.connect());
    eventually(SOON, "there is a line in it", || lines(&path) == 1);
    assert_eq!(proxy.stop().code(), Some(0));
    assert_eq!((lines(&old), lines(&path)), (1, 1), "the end has written nothing more");
}

#[test]
fn the_last_clients_have_lines_although_the_program_ends() {
    let (server, dir) = (Server::new(), TempDir::new("access"));
    let path = dir.path().join("access.log");
    let mut proxy = Proxy::start(&server.address(), &server.address(), &["--access_log", path.to_str().unwrap()]);
    let _clients: Vec<_> = (0..20).map(|_| connected(&proxy, &server)).collect();
    assert_eq!(proxy.stop().code(), Some(0));
    let told = fs::read_to_string(&path).unwrap();
    assert_eq!(told.lines().filter(|line| fields(line)[2] == "200").count(), 20, "{told}");
}

#[test]
fn a_full_disk_costs_access_lines_and_nothing_else() {
    let server = Backend::echo("A");
    let mut proxy = Proxy::start(&server.address(), &server.address(), &["--access_log", "/dev/full"]);
    for _ in 0..20 {
        assert_eq!(served_by(&mut proxy.connect()), "A");
    }
    eventually(SOON, "they have left", || proxy.stat("active") == 0);
    assert_eq!(proxy.stop().code(), Some(0));
    let log = proxy.log();
    assert_eq!(log.matches("cannot write to access log /dev/full: No space left on device").count(), 1, "{log}");
}

#[test]
fn an_access_log_that_cannot_be_opened_is_an_error_at_the_start() {
    let (dir, port) = (TempDir::new("access"), Reserved::new());
    let port = port.port().to_string();
    let places = ["-p", &port, "-a", "127.0.0.1:9", "-s", "127.0.0.1:10", "--access_log", "/nosuch/access.log"];
    let ran = cbpx(&[&places[..], &["-t", "1", "-c", "9", "-o", "0"]].concat(), dir.path());
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("cbpx: cannot open access log /nosuch/access.log: no such file"), "{}", ran.err);
}
