//! The same figures for programs: one object, every round in it.

use crate::figures::Goal;
use crate::report::{cpu_ratio, machine, median, ratio};
use crate::rounds::{Cell, Results, Row};

pub fn render(results: &Results) -> String {
    let peers = results
        .peers
        .iter()
        .map(|peer| format!("{{\"name\":{},\"version\":{}}}", string(&peer.label), string(&peer.kind.version())));
    format!(
        "{{\"machine\":{},\"rounds\":{},\"seconds\":{},\"others\":{},\"peers\":[{}],\"figures\":[{}]}}\n",
        string(&machine()),
        results.rounds,
        results.length.as_secs_f64(),
        number(Some(results.others)),
        join(peers),
        join(results.rows.iter().map(|row| figure(results, row))),
    )
}

fn figure(results: &Results, row: &Row) -> String {
    let goal = |goal: Goal| match goal {
        Goal::AtLeast(least) => format!("{{\"ratio_at_least\":{least}}}"),
        Goal::AtMost(most) => format!("{{\"at_most\":{most}}}"),
        Goal::None => "null".to_owned(),
    };
    let anchor = results.anchor().map(|at| &row.cells[at]);
    let cells = results.peers.iter().zip(&row.cells);
    format!(
        "{{\"name\":{},\"unit\":{},\"goal_pairs\":{},\"goal_shared\":{},\"cpu_goal_ratio_at_most\":{},\"peers\":{{{}}}}}",
        string(row.figure.name),
        string(row.figure.unit),
        goal(row.figure.pairs),
        goal(row.figure.shared),
        number(row.figure.cpu.and_then(|cpu| cpu.goal)),
        join(cells.map(|(peer, cell)| format!("{}:{}", string(&peer.label), self::cell(cell, anchor)))),
    )
}

/// CPU in microseconds for one trip, connection or byte.
fn cell(cell: &Cell, anchor: Option<&Cell>) -> String {
    let rate = anchor.and_then(|anchor| ratio(&cell.rates, &anchor.rates));
    let cpu = anchor.and_then(|anchor| cpu_ratio(cell, anchor));
    format!(
        "{{\"median\":{},\"ratio\":{},\"cpu_us\":{},\"cpu_ratio\":{},\"errors\":{},\"rounds\":[{}]}}",
        number(median(&cell.rates)),
        number(rate.map(|ratio| ratio.median)),
        number(cell.cpu()),
        number(cpu),
        cell.errors.number,
        join(cell.rates.iter().copied().map(number)),
    )
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn number(number: Option<f64>) -> String {
    number.filter(|number| number.is_finite()).map_or("null".to_owned(), |number| number.to_string())
}

fn string(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}
