//! A soak test of a real cbpx process: see `soak_load`. Exit status 1 on a leak, a wrong answer or an error at a
//! well-behaved client. Start it with `contrib/bench/soak`.

mod soak_load;
mod subject;
mod vitals;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;

use crate::soak_load::Plan;

/// Full load and a switch every few seconds; fails on leaks and on errors of well-behaved clients
#[derive(Debug, Parser)]
#[command(name = "contrib/bench/soak")]
struct Options {
    /// The program
    #[arg(long, default_value = "target/release/cbpx", hide = true)]
    cbpx: PathBuf,
    /// How long
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Seconds between two switches
    #[arg(long, default_value_t = 3.0)]
    pause: f64,
    /// Twenty clients each
    #[arg(long, default_value_t = 3)]
    crews: usize,
    /// Another one makes other sizes and moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let plan = Plan {
        length,
        pause: Duration::from_secs_f64(options.pause),
        interval: Duration::from_secs(10).min(length / 9),
        crews: options.crews,
        seed: options.seed,
    };
    // An interrupt prints the verdict so far, and leaves no process running.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(e) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("bench-soak: {e}");
            return ExitCode::FAILURE;
        }
    }
    match soak_load::run(&options.cbpx, plan, &stop, &mut |line| println!("{line}")) {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            wrong.iter().for_each(|words| eprintln!("wrong: {words}"));
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("bench-soak: {e}");
            ExitCode::FAILURE
        }
    }
}
