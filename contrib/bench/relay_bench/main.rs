//! What the relay costs: cbpx against HAProxy, nginx, balance, socat and a direct connection, through real sockets on
//! this machine. Start it with `contrib/bench/relay`.
//!
//! The proxies run side by side and alternate, figure by figure and round by round (A B C A B C), so that other
//! activity on the machine affects all of them alike. A ratio is taken within each round; the table shows its median.
//!
//! Load generator and servers are a process each, one thread each, epoll and non-blocking sockets: they share the
//! machine with the proxy and should take little of it. Both copy every byte, as real peers do.
//!
//! Asserts nothing about speed: it fails only when a connection through cbpx failed or lost a byte.
//!
//! In reading order: `figures` (what is measured), `options`, `rounds` (who is measured when), `trips`, `requests`,
//! `bulk`, `idle` (the loads), `server` (the other end), `database` (a real PostgreSQL under pgbench), `peers` (how
//! each proxy is started), `process` (CPU and memory from /proc; nothing is left running), `report` (the table),
//! `json`.

mod bulk;
mod database;
mod figures;
#[path = "../guard.rs"]
mod guard;
mod idle;
mod json;
mod load;
mod options;
mod peers;
#[path = "../postgresql.rs"]
mod postgresql;
mod process;
mod report;
mod requests;
mod rounds;
mod server;
mod trips;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::options::Options;

fn main() -> ExitCode {
    // The program starts itself as its own server: a separate process, so that its CPU time does not count as the
    // generator's.
    let outcome = if std::env::args().nth(1).as_deref() == Some(server::WORD) { server::serve() } else { measure() };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            process::kill_all();
            eprintln!("bench-relay: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> io::Result<()> {
    let options = Options::parse();
    let plan = rounds::Plan::new(&options)?;
    process::raise_descriptor_limit()?;
    process::adopt_orphans()?;
    process::die_with_signals_or_after(plan.longest())?;
    let before = process::session_priority();
    if let Some(nice) = options.nice {
        process::prioritise(nice)?;
    }
    let results = rounds::run(plan);
    if let (Some(_), Some(before)) = (options.nice, before) {
        process::prioritise(before)?;
    }
    let results = results?;
    if options.json {
        print!("{}", json::render(&results));
    } else {
        print!("{}", report::render(&results));
    }
    match results.cbpx_errors() {
        0 => Ok(()),
        errors => Err(io::Error::other(format!("{errors} errors through cbpx"))),
    }
}
