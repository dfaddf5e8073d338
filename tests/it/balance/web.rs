//! A real web server behind it, and real web clients in front.

use super::Balance;
use crate::support::{SOON, eventually};
use crate::web::{Nginx, ab_loses_no_request, curl, curl_gets_the_large_file, wrk_loses_no_request};

#[test]
fn curl_is_served_by_each_nginx_in_turn_and_by_the_other_when_one_is_disabled() {
    let (a, b) = (Nginx::start("A"), Nginx::start("B"));
    let balance = Balance::start(&[], &[&a.address(), &b.address()]);
    let url = format!("http://127.0.0.1:{}/", balance.port());
    let pages: Vec<String> = (0..4).map(|_| curl(&[&url])).collect();
    assert_eq!(pages, ["A", "B", "A", "B"]);
    balance.answers("disable 1", "channel 1 disabled");
    assert_eq!([curl(&[&url]), curl(&[&url])], ["A", "A"]);
    curl_gets_the_large_file(&url);
}

#[test]
fn ab_and_wrk_lose_no_request() {
    let (a, b) = (Nginx::start("A"), Nginx::start("B"));
    let balance = Balance::start(&[], &[&a.address(), &b.address()]);
    let url = format!("http://127.0.0.1:{}/", balance.port());
    ab_loses_no_request(&url);
    // ab may open a connection or two more than it needs.
    let total = |row| balance.shown(row, "totalc").parse::<i64>().unwrap();
    assert!(total(0) + total(1) >= 1000 && (total(0) - total(1)).abs() <= 1, "{} {}", total(0), total(1));
    wrk_loses_no_request(&url);
    eventually(SOON, "all have gone", || [0, 1].iter().all(|row| balance.shown(*row, "c") == "0"));
}
