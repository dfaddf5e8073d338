//! `stats`: the layout to the column, what each column counts, and the repeating form.

use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::support::{SOON, eventually};
use crate::talk::{Session, served_by};

const HEADINGS: &str = " SWtime Current backend       active in queue ->cps cps-> q total
 ------ --------------------- ------ -------- ----- ----- -------
";

/// Starts between A, which echoes, and B, which does not listen.
fn proxy(extra: &[&str]) -> (Proxy, Backend) {
    let backend = Backend::echo("A");
    (Proxy::start(&backend.address(), "127.0.0.1:9", extra), backend)
}

/// The fields of a row, cut at their columns.
fn fields(row: &str) -> [&str; 7] {
    [(1, 7), (8, 29), (30, 36), (37, 45), (46, 51), (52, 57), (58, 65)].map(|(from, to)| row[from..to].trim())
}

#[test]
fn the_layout_is_kept_to_the_column() {
    let (proxy, backend) = proxy(&[]);
    let row = format!(" [n/a]  {:<21}      0        0     0     0       0\n", backend.address());
    assert_eq!(proxy.ask("stats"), format!("{HEADINGS}{row}"));
    let mut clients = [proxy.connect(), proxy.connect(), proxy.connect()];
    clients.iter_mut().for_each(|client| drop(served_by(client)));
    let answer = proxy.ask("stats");
    let row = answer.lines().last().unwrap();
    assert_eq!(row.len(), 65, "{answer}");
    let [time, current, active, held, _, _, total] = fields(row);
    assert_eq!([time, current, active, held, total], ["[n/a]", &backend.address(), "3", "0", "3"]);
}

#[test]
fn each_column_counts_what_it_says() {
    let (proxy, backend) = proxy(&[]);
    let mut open = [proxy.connect(), proxy.connect()];
    open.iter_mut().for_each(|client| drop(served_by(client)));
    let switch = Session::switch(&proxy);
    let held = [proxy.connect(), proxy.connect(), proxy.connect()];
    eventually(SOON, "three are held", || proxy.stat("in queue") == 3);
    let answer = proxy.ask("stats");
    let [time, current, active, held_now, _, _, total] = fields(answer.lines().last().unwrap());
    assert_eq!([current, active, held_now, total], [&backend.address(), "2", "3", "5"]);
    let since = time.parse::<f64>().expect("seconds since the switch began");
    assert!(since < 20.0 && time.split('.').nth(1).is_some_and(|decimals| decimals.len() == 2), "{time}");
    drop((open, held));
    assert!(switch.rest().contains("Switch OK"));
    eventually(SOON, "nobody is left", || proxy.stat("active") + proxy.stat("in queue") == 0);
    let answer = proxy.ask("stats");
    let [time, current, .., total] = fields(answer.lines().last().unwrap());
    assert_eq!([time, current, total], ["[n/a]", "127.0.0.1:9", "5"], "the switch shows");
}

#[test]
fn rates_are_those_of_the_last_full_second_and_fall_to_zero() {
    let (proxy, _backend) = proxy(&[]);
    // On a busy machine the clients may come in more than two different seconds; then nothing follows, and it is tried
    // again.
    for _ in 0..10 {
        let begun = Instant::now();
        for _ in 0..7 {
            served_by(&mut proxy.connect());
        }
        let took = begun.elapsed();
        let [mut arrived, mut served] = [vec![], vec![]];
        eventually(SOON, "the rates fall to zero", || {
            let answer = proxy.ask("stats");
            let [.., queued, dequeued, _] = fields(answer.lines().last().unwrap()).map(str::to_owned);
            arrived.push(queued.parse::<u32>().unwrap());
            served.push(dequeued.parse::<u32>().unwrap());
            begun.elapsed() > Duration::from_secs(1) && arrived.iter().any(|rate| *rate > 0) && queued == "0"
        });
        // Each second's rate was seen many times; seven is odd, so two seconds' rates differ.
        arrived.dedup();
        served.dedup();
        if took < Duration::from_millis(700) {
            assert_eq!(arrived.iter().sum::<u32>(), 7, "{arrived:?}");
            assert_eq!(served.iter().sum::<u32>(), 7, "{served:?}");
            return;
        }
    }
    panic!("seven clients never came within a second");
}

#[test]
fn the_repeating_form_prints_so_many_rows_with_headings_every_fifty() {
    let (proxy, _backend) = proxy(&[]);
    for (command, rows, headings) in [("stats 0.1 3", 3, 1), ("stats 0.1 51", 51, 2), ("stats abc", 1, 1)] {
        let answer = proxy.ask(command);
        assert!(answer.starts_with(HEADINGS), "{command}: {answer}");
        assert_eq!(answer.matches("[n/a]").count(), rows, "{command}");
        assert_eq!(answer.matches(HEADINGS).count(), headings, "{command}");
        assert_eq!(answer.lines().count(), rows + 2 * headings, "{command}");
    }
    for (command, token) in [
        ("stats 0.09", ">= 0.1"),
        ("stats 0 5", ">= 0.1"),
        ("stats -1", ">= 0.1"),
        ("stats nan", ">= 0.1"),
        ("stats 0.1 0", ">= 1"),
        ("stats 0.1 -1", ">= 1"),
        ("stats 0.1 x", ">= 1"),
    ] {
        let answer = proxy.ask(command);
        assert!(answer.contains(token) && answer.matches('\n').count() == 1, "{command}: {answer}");
    }
}

#[test]
fn rows_come_as_they_are_made_and_without_a_count_until_the_reader_leaves() {
    let (mut proxy, _backend) = proxy(&[]);
    let mut watching = Session::send(&proxy, b"stats 0.1\n");
    let mut client = proxy.connect();
    served_by(&mut client);
    // The answer has no end, so this row cannot have waited for it.
    while fields(&watching.line_with("[n/a]"))[2] != "1" {}
    drop((watching, client));
    eventually(SOON, "nobody is left", || proxy.stat("active") == 0);
    assert_eq!(proxy.stop().code(), Some(0));
}
