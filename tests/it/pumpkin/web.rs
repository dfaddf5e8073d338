//! A real web server behind it, and real web clients in front.

use std::process::Command;

use super::Pumpkin;
use crate::command::run;
use crate::support::nobody;
use crate::web::{Nginx, ab_loses_no_request, curl, wrk_loses_no_request};

#[test]
fn curl_is_served_by_each_nginx_in_turn_on_each_mapping() {
    let (a, b) = (Nginx::start("A"), Nginx::start("B"));
    let (a, b) = (a.address(), b.address());
    let pumpkin = Pumpkin::start(2, &format!("[mappings]\nP0={a},{b}\n127.0.0.1:P1={b}\n"));
    let url = |number| format!("http://127.0.0.1:{}/", pumpkin.port(number));
    assert_eq!([0; 4].map(|number| curl(&[&url(number)])), ["A", "B", "A", "B"]);
    assert_eq!([1; 2].map(|number| curl(&[&url(number)])), ["B", "B"]);
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
    ab_loses_no_request(&url);
    wrk_loses_no_request(&url);
}
