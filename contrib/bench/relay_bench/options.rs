//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// How the peer `cbpx` carries its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// `--thread_pairs 65536`
    Pairs,
    /// `--thread_pairs 0`
    Shared,
    /// Without the flag
    Default,
}

/// Measures cbpx against HAProxy, nginx, balance, socat and a direct connection.
#[derive(Debug, Parser)]
#[command(name = "contrib/bench/relay")]
pub struct Options {
    /// A first look: 5 short rounds, cbpx and HAProxy only, fewer idle clients
    #[arg(long)]
    pub quick: bool,
    /// Only these figures, e.g. rr1,crr16
    #[arg(long, value_delimiter = ',', value_name = "FIGURE,...")]
    pub only: Vec<String>,
    /// Who is compared: direct, haproxy, haproxy-splice, nginx, balance, socat, cbpx, NAME=PATH (another cbpx).
    /// Naming one twice measures the noise
    #[arg(long, value_delimiter = ',', value_name = "PEER,...")]
    pub peers: Vec<String>,
    /// How cbpx carries its clients; a column each: in threads of their own, in shared ones, or as it does by itself
    #[arg(long, value_delimiter = ',', value_name = "MODE,...", default_value = "pairs,shared")]
    pub mode: Vec<Mode>,
    /// Interleaved rounds of each figure [default: 11]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Length of one measurement [default: 0.35]
    #[arg(long, value_name = "SEC", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Idle clients for the figure `idle` [default: 2000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub clients: Option<u32>,
    /// The binary that the peer `cbpx` is
    #[arg(long, value_name = "PATH", default_value = "target/release/cbpx")]
    pub cbpx: PathBuf,
    /// On a busy machine, as root: everything measured runs at this priority, e.g. -15, and the rest of the machine
    /// waits for it. All peers alike
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub nice: Option<i32>,
    /// Figures as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

impl Options {
    pub fn rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 5 } else { 11 }, |rounds| rounds as usize)
    }

    pub fn length(&self) -> Duration {
        self.seconds.unwrap_or(Duration::from_millis(if self.quick { 250 } else { 350 }))
    }

    pub fn clients(&self) -> usize {
        self.clients.map_or(if self.quick { 500 } else { 2000 }, |clients| clients as usize)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.05..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not in 0.05..60".to_owned())
    }
}
