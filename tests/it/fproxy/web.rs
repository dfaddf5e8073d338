//! A real web server behind it, over TCP and a Unix socket, and real web clients in front.

use super::Fproxy;
use crate::web::{Nginx, ab_loses_no_request, curl, curl_gets_the_large_file, wrk_loses_no_request};

/// It tells by which way it was reached.
fn nginx() -> (Nginx, [String; 2]) {
    let nginx = Nginx::start_named(["inet", "unix"]);
    let places = [nginx.address(), nginx.socket()];
    (nginx, places)
}

#[test]
fn curl_is_served_over_tcp_and_unix_sockets_at_both_ends() {
    let (_nginx, [tcp, unix]) = nginx();
    let proxy = Fproxy::start(&["-s0", "./front.sock"], &[&tcp, &unix]);
    let url = format!("http://{}/", proxy.addr());
    let pages: Vec<String> = (0..4).map(|_| curl(&[&url])).collect();
    assert_eq!(pages, ["inet", "unix", "inet", "unix"]);
    let front = proxy.path("front.sock").display().to_string();
    assert_eq!(curl(&["--unix-socket", &front, "http://any/"]), "inet");
    for _ in 0..2 {
        curl_gets_the_large_file(&url);
    }
    let accesses = proxy.has_accesses(7);
    let socket = accesses.iter().filter(|line| line.contains(&format!("\"GET {unix}\" 200 "))).count();
    assert_eq!(socket, 3, "{accesses:?}");
}

#[test]
fn ab_and_wrk_lose_no_request_and_each_client_has_a_line() {
    let (_nginx, [tcp, unix]) = nginx();
    let proxy = Fproxy::start(&["-y4"], &[&tcp, &unix]);
    let url = format!("http://{}/", proxy.addr());
    ab_loses_no_request(&url);
    let accesses = proxy.has_accesses(1000);
    let served = accesses.iter().filter(|line| line.contains("] \"POST ") && line.contains("\" 200 ")).count();
    assert!(served >= 1000, "{served}");
    wrk_loses_no_request(&url);
}
