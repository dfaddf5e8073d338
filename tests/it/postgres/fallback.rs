//! PostgreSQL behind `cbpx fallback`: the primary first, its standby second. Clients are psql.

use std::process::Command;

use super::cluster::{Cluster, program};
use crate::fallback::program::Fallback;
use crate::support::eventually;

/// What psql answers through the proxy: the output, or what it complains of.
fn psql(fallback: &Fallback, sql: &str) -> Result<String, String> {
    let mut command = Command::new(program("psql"));
    command.args(["-XAtqw", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres"]);
    let output = command.args(["-p", &fallback.port().to_string(), "-c", sql]).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn port(fallback: &Fallback) -> Result<String, String> {
    psql(fallback, "SELECT inet_server_port()")
}

#[test]
fn fallback_serves_readers_from_the_standby_while_the_primary_is_gone_and_everybody_from_the_primary_again() {
    let mut cluster = Cluster::start();
    let (first, second) = (cluster.first.addr().to_string(), cluster.second.addr().to_string());
    let own = [&cluster.first, &cluster.second].map(|server| server.port().to_string());
    let fallback = Fallback::start(&["-probe-delay", "200ms", "-timeout", "5s"], &[&first, &second]);
    let insert = "INSERT INTO ledger VALUES (1, 1, inet_server_port()) RETURNING port";
    assert_eq!(psql(&fallback, insert), Ok(own[0].clone()));
    eventually(super::LONG, "the row is on the standby", || cluster.second.ask("SELECT count(*) FROM ledger") == "1");

    cluster.first.crash();
    // The very next client: it finds out, and is served by the next all the same.
    assert_eq!(port(&fallback), Ok(own[1].clone()));
    fallback.says(&format!("Failed to connect to backend {first}: Connection refused"));
    assert_eq!(psql(&fallback, "SELECT count(*) FROM ledger"), Ok("1".to_owned()));
    let refused = psql(&fallback, insert).unwrap_err();
    assert!(refused.contains("read-only"), "it is the standby that answers: {refused}");

    cluster.first.start();
    fallback.says(&format!("Backend is back {first}, downtime: "));
    assert_eq!(port(&fallback), Ok(own[0].clone()));
    assert_eq!(psql(&fallback, insert), Ok(own[0].clone()));
    assert_eq!(cluster.first.ask("SELECT count(*) FROM ledger"), "2");
}
