//! The same server on both sides of a switch.

use std::process::Stdio;

use crate::backend::Backend;
use crate::command::{Ran, cbpx};
use crate::proxy::{Proxy, elsewhere};
use crate::support::{Reserved, TempDir};
use crate::talk::served_by;

fn runs(active: &str, standby: &str) -> Ran {
    let (dir, port) = (TempDir::new("same"), Reserved::new());
    let port = port.port().to_string();
    cbpx(&["-p", &port, "-a", active, "-s", standby, "-t", "5", "-c", "10", "-o", "0"], dir.path())
}

#[test]
fn the_same_servers_on_both_sides_are_refused_however_they_are_spelled() {
    for (active, standby) in [
        ("127.0.0.1:9", "127.0.0.1:9"),
        ("127.0.0.1:9", "127.1:9"),
        ("127.0.0.1:9", "[::ffff:127.0.0.1]:9"),
        ("localhost:9", "127.0.0.1:9"),
        ("localhost:9", "[::1]:9"),
        ("0.0.0.0:9", "LocalHost:9"),
        ("[::1]:9", "[0:0::1]:9"),
        ("[fe80::1%lo]:9", "[fe80::1%1]:9"),
        ("db.example:9", "DB.example.:9"),
        ("./db.sock", "././db.sock"),
        ("127.0.0.1:9,127.0.0.1:10", "127.0.0.1:10,127.0.0.1:9"),
        ("127.0.0.1:9!127.0.0.1:10", "localhost:9!127.1:10"),
    ] {
        let words = format!(
            "cbpx: -s/--standby: {standby} is also the active server (-a/--active): a switch would move no client\n"
        );
        runs(active, standby).failed_with(2, &[&words]);
    }
}

/// Sets are exchanged one server at a time, and two servers may stand in for each other.
#[test]
fn sets_that_share_a_server_are_taken_with_a_warning() {
    let [a, b, c] = ["A", "B", "C"].map(Backend::echo);
    let [a_at, b_at, c_at] = [&a, &b, &c].map(Backend::address);
    let told = |active: &str, standby: &str| {
        let mut proxy = Proxy::start_with(active, standby, &[], |command| {
            command.stderr(Stdio::piped());
        });
        let server = served_by(&mut proxy.connect());
        proxy.stop();
        let mut words = String::new();
        std::io::Read::read_to_string(&mut proxy.child().stderr.take().unwrap(), &mut words).unwrap();
        (server, words)
    };
    let shared = |servers: &str| {
        format!("cbpx: warning: {servers} is in -a and in -s: clients may be sent there before a switch and after it\n")
    };
    let server = |name: &str| name.to_owned();
    assert_eq!(told(&format!("{a_at},{b_at}"), &format!("{b_at},{c_at}")), (server("A"), shared(&b_at)));
    let swapped = told(&format!("{a_at}!{b_at}"), &format!("{b_at}!{a_at}"));
    assert_eq!(swapped, (server("A"), shared(&format!("{a_at}, {b_at}"))));
    assert_eq!(told(&a_at, &elsewhere(&a_at)), (server("A"), String::new()));
}
