//! A real PostgreSQL under pgbench: what a proxy costs where it is meant to stand. One server for all peers, made for
//! this run, without fsync; pgbench shares the machine with it, as every client here does. Left out where it is not
//! installed.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::figures::{Load, Sql, Transaction};
use crate::load::{Clock, Errors, Sample};
use crate::peers::{Peer, Proxy, free_port};
use crate::postgresql::{give_away, programs, server_command};
use crate::process::Running;
use crate::rounds::{Cell, Plan, Row};

/// The server, running.
pub struct Database {
    /// Kept for its end.
    _running: Running,
    port: u16,
    programs: PathBuf,
}

/// For a step of a whole server, on a machine that does much else.
const LONG: Duration = Duration::from_secs(60);
/// 100,000 accounts each: pgbench's own advice is at least as many as half the clients of TPC-B.
const SCALE: &str = "10";

impl Database {
    /// Starts it if a figure of the plan needs it and it is installed.
    ///
    /// # Errors
    /// When it is installed and does not start.
    pub fn start_for(plan: &Plan, dir: &Path) -> io::Result<Option<Database>> {
        if !plan.figures.iter().any(|figure| matches!(figure.load, Load::Sql(_))) {
            return Ok(None);
        }
        let Some(programs) = programs(&["initdb", "postgres", "psql", "pgbench"]) else {
            eprintln!("PostgreSQL is not installed, so left out");
            return Ok(None);
        };
        let (home, port) = (dir.join("postgres"), free_port()?);
        fs::create_dir_all(&home)?;
        give_away(&home)?;
        let data = home.join("data");
        let mut initdb = server_command(&programs.join("initdb"))?;
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-N"]).current_dir(&home);
        succeeds(&mut initdb)?;
        let log = File::create(dir.join("postgres.log"))?;
        let mut server = server_command(&programs.join("postgres"))?;
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "*", "-c", "fsync=off"]);
        server.args(["-c", "max_connections=300", "-c", "shared_buffers=256MB", "-c", "unix_socket_directories="]);
        server.current_dir(&home).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let database = Database { _running: Running::start(&mut server)?, port, programs };
        let begun = Instant::now();
        while let Err(e) = database.answers(port) {
            if begun.elapsed() > LONG {
                return Err(io::Error::other(format!("PostgreSQL does not start: {e}")));
            }
            thread::sleep(Duration::from_millis(50));
        }
        succeeds(database.pgbench(port).args(["-i", "-q", "-s", SCALE]))?;
        Ok(Some(database))
    }

    /// All figures of the plan that are about it.
    ///
    /// # Errors
    /// When a proxy does not start.
    pub fn measure(&self, plan: &Plan, dir: &Path) -> io::Result<Vec<Row>> {
        // Numbers of their own: see `Proxy::start`.
        let start = |(number, peer): (usize, &Peer)| {
            Proxy::start(peer, 200 + number, self.port, dir, |port| self.answers(port))
        };
        let proxies: Vec<Proxy> = plan.peers.iter().enumerate().map(start).collect::<io::Result<_>>()?;
        let mut rows = Vec::new();
        for figure in &plan.figures {
            let Load::Sql(sql) = figure.load else { continue };
            let mut cells: Vec<Cell> = plan.peers.iter().map(|_| Cell::default()).collect();
            for round in 1..=plan.rounds {
                eprint!("\r{}: round {round} of {}   ", figure.name, plan.rounds);
                for ((peer, proxy), cell) in plan.peers.iter().zip(&proxies).zip(&mut cells) {
                    if peer.kind.takes_part(figure.load) {
                        cell.add(self.run(proxy, sql, plan.length), figure.load.scale(), true);
                    }
                }
            }
            rows.push(Row { figure, cells });
        }
        Ok(rows)
    }

    /// One run of pgbench, which counts in whole seconds.
    fn run(&self, proxy: &Proxy, sql: Sql, length: Duration) -> io::Result<Sample> {
        let seconds = length.as_secs_f64().ceil().max(1.0).to_string();
        let mut command = self.pgbench(proxy.port);
        command.args(["-n", "-c", &sql.clients.to_string(), "-j", &sql.clients.min(2).to_string(), "-T", &seconds]);
        match sql.transaction {
            Transaction::Select => _ = command.arg("-S"),
            Transaction::TpcB => {}
        }
        if sql.connects {
            command.arg("-C");
        }
        let clock = Clock::start(proxy)?;
        let said = succeeds(&mut command)?;
        let time = clock.elapsed();
        let number = |head: &str| -> io::Result<f64> {
            let rest = said.lines().find_map(|line| line.strip_prefix(head));
            let word = rest.and_then(|rest| rest.split_whitespace().next());
            let number = word.and_then(|word| word.parse().ok());
            number.ok_or_else(|| io::Error::other(format!("pgbench says no '{head}':\n{said}")))
        };
        let (rate, done) = (number("tps = ")?, number("number of transactions actually processed: ")?);
        let failed = number("number of failed transactions: ")?;
        let first = (failed > 0.0).then(|| "a failed transaction".to_owned());
        let sample = clock.sample(0, time, done as u64, Errors { number: failed as u64, first })?;
        Ok(Sample { rate, ..sample })
    }

    /// Whether a session can be had at this port.
    fn answers(&self, port: u16) -> io::Result<()> {
        let mut psql = client(&self.programs.join("psql"), port);
        succeeds(psql.args(["-X", "-q", "-c", "SELECT 1"])).map(drop)
    }

    fn pgbench(&self, port: u16) -> Command {
        client(&self.programs.join("pgbench"), port)
    }
}

fn client(program: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    command.env("PGHOST", Ipv4Addr::LOCALHOST.to_string()).env("PGPORT", port.to_string());
    command.env("PGUSER", "postgres").env("PGDATABASE", "postgres").env("PGCONNECT_TIMEOUT", "5");
    command.env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// What it printed.
fn succeeds(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let name = command.get_program().to_string_lossy().into_owned();
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{name} failed ({}): {error}", output.status)))
}
