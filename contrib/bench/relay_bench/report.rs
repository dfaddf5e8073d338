//! The table: a block for each figure, a column for each peer.

use std::fmt::Write;
use std::fs;

use crate::figures::{Cpu, Figure, Goal};
use crate::options::Mode;
use crate::peers::Kind;
use crate::rounds::{Cell, Results, Row};

/// Ratios to HAProxy, taken round by round.
pub struct Ratio {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

const FIRST: usize = 24;
const COLUMN: usize = 18;

pub fn render(results: &Results) -> String {
    let mut text = format!(
        "{}\n{} rounds of {} s, medians; ratio to haproxy within each round: median (lowest-highest)\n",
        machine(),
        results.rounds,
        results.length.as_secs_f64(),
    );
    for peer in &results.peers {
        let path = match &peer.kind {
            Kind::Cbpx { program, .. } => format!(" ({})", program.display()),
            _ => String::new(),
        };
        if peer.kind != Kind::Direct {
            put(&mut text, &format!("  {}: {}{path}\n", peer.label, peer.kind.version()));
        }
    }
    put(&mut text, &format!("\n{:FIRST$}", ""));
    results.peers.iter().for_each(|peer| put(&mut text, &format!("{:>COLUMN$}", peer.label)));
    put(&mut text, "   goals of cbpx\n");
    results.rows.iter().for_each(|row| block(&mut text, results, row));
    put(&mut text, &format!("\nother processes took {:.0} % of the machine meanwhile\n", results.others * 100.0));
    errors(&mut text, results);
    text
}

/// One figure.
fn block(text: &mut String, results: &Results, row: &Row) {
    let Row { figure, cells } = row;
    put(text, &format!("\n{}: {}\n", figure.name, figure.what));
    let anchor = results.anchor().map(|at| &cells[at]);
    let goal = verdicts(results, cells, |cell, mode| match figure.goal(mode) {
        Goal::AtLeast(_) | Goal::None => None,
        Goal::AtMost(most) => Some((format!("<= {most} {}", figure.unit), median(&cell.rates)? <= most)),
    });
    line(text, figure.unit, cells, |cell| median(&cell.rates).map(|rate| rounded(rate, figure)), &goal);
    let Some(anchor) = anchor else { return };
    let goal = verdicts(results, cells, |cell, mode| match figure.goal(mode) {
        Goal::AtLeast(least) => Some((format!(">= {least}"), ratio(&cell.rates, &anchor.rates)?.median >= least)),
        Goal::AtMost(_) | Goal::None => None,
    });
    line(text, "ratio", cells, |cell| ratio(&cell.rates, &anchor.rates).map(words), &goal);
    if let Some(cpu) = figure.cpu {
        cpu_lines(text, results, cells, anchor, cpu);
    }
}

fn cpu_lines(text: &mut String, results: &Results, cells: &[Cell], anchor: &Cell, cpu: Cpu) {
    let scaled = |cell: &Cell| cell.cpu().map(|used| format!("{:.1}", used * cpu.scale));
    line(text, &format!("CPU, {}", cpu.unit), cells, scaled, "");
    let goal = verdicts(results, cells, |cell, _| {
        let most = cpu.goal?;
        Some((format!("<= {most}"), cpu_ratio(cell, anchor)? <= most))
    });
    line(text, "CPU ratio", cells, |cell| cpu_ratio(cell, anchor).map(|ratio| format!("{ratio:.2}")), &goal);
}

fn line(text: &mut String, name: &str, cells: &[Cell], show: impl Fn(&Cell) -> Option<String>, goal: &str) {
    put(text, &format!("  {name:0$}", FIRST - 2));
    cells.iter().for_each(|cell| put(text, &format!("{:>COLUMN$}", show(cell).unwrap_or_else(|| "-".to_owned()))));
    put(text, &if goal.is_empty() { "\n".to_owned() } else { format!("   {goal}\n") });
}

/// The goal of each cbpx, and whether it reaches it.
fn verdicts(results: &Results, cells: &[Cell], judge: impl Fn(&Cell, Mode) -> Option<(String, bool)>) -> String {
    let ours = results.peers.iter().zip(cells).filter_map(|(peer, cell)| {
        let Kind::Cbpx { mode, .. } = peer.kind else { return None };
        let (goal, reached) = judge(cell, mode)?;
        Some(format!("{} {goal} {}", peer.label, if reached { "reached" } else { "MISSED" }))
    });
    ours.collect::<Vec<_>>().join("; ")
}

fn errors(text: &mut String, results: &Results) {
    let mut none = true;
    for row in &results.rows {
        for (peer, cell) in results.peers.iter().zip(&row.cells) {
            if let (1.., Some(first)) = (cell.errors.number, &cell.errors.first) {
                none = false;
                let number = cell.errors.number;
                put(text, &format!("errors: {} {}: {number}, the first: {first}\n", row.figure.name, peer.label));
            }
        }
    }
    if none {
        put(text, "errors: none\n");
    }
}

fn words(ratio: Ratio) -> String {
    let Ratio { median, lowest, highest } = ratio;
    if lowest == highest { format!("{median:.2}") } else { format!("{median:.2} ({lowest:.2}-{highest:.2})") }
}

fn rounded(rate: f64, figure: &Figure) -> String {
    if figure.load.scale() == 1.0 && rate > 1000.0 { format!("{rate:.0}") } else { format!("{rate:.2}") }
}

/// Writing to a string does not fail.
fn put(text: &mut String, more: &str) {
    text.write_str(more).ok();
}

/// Kernel and processors.
pub fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (info, release) = (read("/proc/cpuinfo"), read("/proc/sys/kernel/osrelease"));
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |it| it.1);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{processors} processors ({model}), Linux {}", release.trim())
}

/// Of the rounds that came to something.
pub fn median(rounds: &[Option<f64>]) -> Option<f64> {
    let mut figures: Vec<f64> = rounds.iter().copied().flatten().collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        even if even % 2 == 0 => Some((figures[middle - 1] + figures[middle]) / 2.0),
        _ => Some(figures[middle]),
    }
}

/// Of all rounds together.
pub fn cpu_ratio(own: &Cell, anchor: &Cell) -> Option<f64> {
    Some(own.cpu()? / anchor.cpu()?)
}

/// Round by round, where both have something to show.
pub fn ratio(own: &[Option<f64>], anchor: &[Option<f64>]) -> Option<Ratio> {
    let ratios: Vec<Option<f64>> = own.iter().zip(anchor).map(|(own, anchor)| Some((*own)? / (*anchor)?)).collect();
    let known = || ratios.iter().copied().flatten();
    Some(Ratio {
        median: median(&ratios)?,
        lowest: known().fold(f64::INFINITY, f64::min),
        highest: known().fold(f64::NEG_INFINITY, f64::max),
    })
}
