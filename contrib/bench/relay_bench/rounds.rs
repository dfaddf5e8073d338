//! The order of the measurements.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::bulk::{self, Way};
use crate::database::Database;
use crate::figures::{FIGURES, Figure, Load};
use crate::load::{self, Errors, Sample};
use crate::options::Options;
use crate::peers::{Kind, Peer, Proxy, Server};
use crate::{idle, process, requests, trips};

/// What one run does.
pub struct Plan {
    pub figures: Vec<&'static Figure>,
    pub peers: Vec<Peer>,
    pub rounds: usize,
    pub length: Duration,
    clients: usize,
}

/// The results of one run.
pub struct Results {
    pub peers: Vec<Peer>,
    pub rounds: usize,
    pub length: Duration,
    /// Share of the machine (0 to 1) that other processes used during the run.
    pub others: f64,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub figure: &'static Figure,
    /// One for each of `Results::peers`.
    pub cells: Vec<Cell>,
}

/// The rounds of one peer in one figure.
#[derive(Default)]
pub struct Cell {
    /// In the figure's unit; `None` for a round without a result.
    pub rates: Vec<Option<f64>>,
    /// CPU time of all rounds, and the units of work it was for. /proc counts in hundredths of a second, which is too
    /// coarse for one round.
    cpu: Duration,
    work: u64,
    pub errors: Errors,
}

/// Idle clients of peers that start a process for each.
const FORKED: usize = 200;
/// Memory varies little, and each round starts fresh processes.
const IDLE_ROUNDS: usize = 3;

impl Plan {
    pub fn new(options: &Options) -> io::Result<Plan> {
        let known = |name: &String| FIGURES.iter().any(|figure| figure.name == name);
        if let Some(name) = options.only.iter().find(|name| !known(name)) {
            let names: Vec<_> = FIGURES.iter().map(|figure| figure.name).collect();
            return Err(io::Error::other(format!("no figure '{name}'; there are {}", names.join(", "))));
        }
        // A first look is not at a database.
        let chosen = |figure: &&Figure| match (options.only.is_empty(), figure.load) {
            (true, Load::Sql(_)) => !options.quick,
            (true, _) => true,
            (false, _) => options.only.iter().any(|name| name == figure.name),
        };
        Ok(Plan {
            figures: FIGURES.iter().filter(chosen).collect(),
            peers: peers(options)?,
            rounds: options.rounds(),
            length: options.length(),
            clients: options.clients(),
        })
    }

    /// An upper bound of the duration.
    pub fn longest(&self) -> Duration {
        let measurements = (self.figures.len() * self.peers.len() * self.rounds) as u32;
        (self.length + Duration::from_secs(2)) * measurements * 2 + Duration::from_secs(60)
    }
}

/// In the order of the options. A peer that is named must be installed; by default, those installed are taken.
fn peers(options: &Options) -> io::Result<Vec<Peer>> {
    let usual: &[&str] = if options.quick {
        &["haproxy", "cbpx"]
    } else {
        &["direct", "haproxy", "haproxy-splice", "nginx", "balance", "socat", "cbpx"]
    };
    let named = !options.peers.is_empty();
    let names: Vec<&str> = if named { options.peers.iter().map(String::as_str).collect() } else { usual.to_vec() };
    let mut peers: Vec<Peer> = Vec::new();
    for name in names {
        let kinds = Kind::parse(name, &options.cbpx, &options.mode);
        for kind in kinds.ok_or_else(|| io::Error::other(format!("no peer '{name}'")))? {
            if kind.program().is_none() {
                match &kind {
                    Kind::Cbpx { program, .. } => {
                        return Err(io::Error::other(format!("no program {}", program.display())));
                    }
                    _ if named => return Err(io::Error::other(format!("{name} is not installed"))),
                    _ => {
                        eprintln!("{name} is not installed, so left out");
                        continue;
                    }
                }
            }
            let base = format!("{}{}", name.split_once('=').map_or(name, |(label, _)| label), kind.suffix());
            let same = |peer: &&Peer| peer.label.trim_end_matches(|c: char| c.is_ascii_digit()) == base;
            let taken = peers.iter().filter(same).count();
            let label = if taken == 0 { base } else { format!("{base}{}", taken + 1) };
            peers.push(Peer { label, kind });
        }
    }
    Ok(peers)
}

/// Removed when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Measures everything.
pub fn run(plan: Plan) -> io::Result<Results> {
    let folder = Folder(process::folder());
    fs::create_dir_all(&folder.0)?;
    let server = Server::start()?;
    let database = Database::start_for(&plan, &folder.0)?;
    // Whoever this process was before `exec` may have had children: the wrapper's compiler.
    let mut started = 0;
    let (began, machine, before) = (Instant::now(), process::machine()?, process::cpu(std::process::id())?);
    let serves = |port| load::open(port, 1).map(drop);
    let mut start = |peer: &Peer| {
        started += 1;
        Proxy::start(peer, started, server.port, &folder.0, serves)
    };
    let proxies: Vec<Proxy> = plan.peers.iter().map(&mut start).collect::<io::Result<_>>()?;
    let mut rows = Vec::new();
    for figure in &plan.figures {
        if matches!(figure.load, Load::Sql(_)) {
            continue;
        }
        let mut cells: Vec<Cell> = plan.peers.iter().map(|_| Cell::default()).collect();
        let rounds = if figure.load == Load::Idle { plan.rounds.min(IDLE_ROUNDS) } else { plan.rounds };
        for round in 1..=rounds {
            eprint!("\r{}: round {round} of {rounds}   ", figure.name);
            for ((peer, proxy), cell) in plan.peers.iter().zip(&proxies).zip(&mut cells) {
                if !peer.kind.takes_part(figure.load) {
                    continue;
                }
                let outcome = match figure.load {
                    Load::Trips(n) => trips::measure(proxy, n, plan.length),
                    Load::Requests(n) => requests::measure(proxy, n, plan.length),
                    Load::Down(n) => bulk::measure(proxy, Way::Down, n, plan.length),
                    Load::Up(n) => bulk::measure(proxy, Way::Up, n, plan.length),
                    Load::Sql(_) => continue,
                    Load::Idle => start(peer).and_then(|proxy| {
                        let clients = if peer.kind.forks() { plan.clients.min(FORKED) } else { plan.clients };
                        idle::measure(&proxy, clients)
                    }),
                };
                cell.add(outcome, figure.load.scale(), !peer.kind.forks());
            }
        }
        rows.push(Row { figure, cells });
    }
    drop(proxies);
    if let Some(database) = database {
        rows.extend(database.measure(&plan, &folder.0)?);
    }
    eprint!("\r{:30}\r", "");
    let busy = process::machine()?.saturating_sub(machine);
    // All else is a child of this process, running or ended.
    let own = process::cpu(std::process::id())?.saturating_sub(before);
    let processors = std::thread::available_parallelism()?.get() as f64;
    let others = busy.saturating_sub(own).as_secs_f64() / (began.elapsed().as_secs_f64() * processors);
    Ok(Results { peers: plan.peers, rounds: plan.rounds, length: plan.length, others, rows })
}

impl Cell {
    pub fn add(&mut self, outcome: io::Result<Sample>, scale: f64, cpu_is_known: bool) {
        match outcome {
            Ok(sample) => {
                self.rates.push((sample.rate > 0.0).then_some(sample.rate * scale));
                if cpu_is_known {
                    self.cpu += sample.cpu;
                    self.work += sample.work;
                }
                self.errors.merge(sample.errors);
            }
            Err(e) => {
                self.rates.push(None);
                self.errors.count(e);
            }
        }
    }
}

impl Cell {
    /// Microseconds of CPU for one unit of work, if it took any.
    pub fn cpu(&self) -> Option<f64> {
        (!self.cpu.is_zero() && self.work > 0).then(|| self.cpu.as_secs_f64() * 1e6 / self.work as f64)
    }
}

impl Results {
    /// The index of HAProxy.
    pub fn anchor(&self) -> Option<usize> {
        self.peers.iter().position(|peer| peer.kind == Kind::Haproxy)
    }

    /// Connections through any cbpx that failed.
    pub fn cbpx_errors(&self) -> u64 {
        let ours = |cells: &[Cell]| -> u64 {
            let both = self.peers.iter().zip(cells);
            both.filter(|(peer, _)| matches!(peer.kind, Kind::Cbpx { .. })).map(|(_, cell)| cell.errors.number).sum()
        };
        self.rows.iter().map(|row| ours(&row.cells)).sum()
    }
}
