//! A soak: clients of all kinds use one cbpx process while it switches back and forth, and everything they see is
//! checked. Afterwards the process has what it had before, or the soak has failed.
//!
//! In reading order: `clients` (what they do), `server` (what is done for them), `wire` (what they say to each other),
//! `ledger` (what was seen). `contrib/bench/soak` runs it for half an hour, the tests for some seconds.

mod clients;
mod ledger;
mod server;
mod wire;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::clients::{CREW, Client};
use self::ledger::Ledger;
use self::wire::Random;
use super::subject::{PATIENCE, Subject, finish};
use super::vitals::Vitals;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub length: Duration,
    /// From the end of a switch to the begin of the next.
    pub pause: Duration,
    /// Between two lines that tell how it goes; at least nine fit in `length`.
    pub interval: Duration,
    /// Twenty clients each.
    pub crews: usize,
    pub seed: u64,
}

/// What the allocator may keep of what it had to have under load, in KiB: freed memory goes back to the system in large
/// pieces only.
const SLACK: usize = 24 * 1024;
/// What the middle of the last third may be above that of the first, in KiB. A leak of a hundred bytes for each
/// connection is more than that after a minute.
const GROWTH: usize = 4 * 1024;
const NAMES: [u8; 2] = *b"BG";

/// Runs the soak until its time is over or `stop` is set. `tell` gets a line now and then. Returns what was wrong.
///
/// # Errors
/// When the soak itself cannot go on; also when the proxy has ended.
pub fn run(cbpx: &Path, plan: Plan, stop: &AtomicBool, tell: &mut dyn FnMut(&str)) -> io::Result<Vec<String>> {
    let ledger = Arc::new(Ledger::default());
    let servers = [server::serve(NAMES[0], &ledger)?, server::serve(NAMES[1], &ledger)?];
    let script = "#!/bin/sh\ncd \"${0%/*}\"\nsleep 0.1\nexit $(cat status)\n";
    let subject = Subject::start(cbpx, servers[0], servers[1], script)?;
    let before = Vitals::at_rest(subject.pid())?;
    tell(&format!("at rest: {before}"));
    let over = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        let mut random = Random(plan.seed);
        for (habit, number) in CREW {
            for _ in 0..number * plan.crews {
                let (to, ledger, stop, random) = (subject.listening, &*ledger, &over, Random(random.next()));
                scope.spawn(move || Client { habit, to, names: NAMES, ledger, stop, random }.run());
            }
        }
        let switching = scope.spawn(|| {
            let outcome = switches(&subject, &ledger, plan.pause, &over);
            // Whoever waits for the end of the time must not wait in vain.
            over.fetch_or(outcome.is_err(), Ordering::Relaxed);
            outcome
        });
        let samples = sample(&subject, plan, &ledger, stop, &over, tell);
        over.store(true, Ordering::Relaxed);
        let counts = switching.join().map_err(|_| io::Error::other("whoever switches panicked"))??;
        samples.map(|samples| (samples, counts))
    });
    let (samples, [moved, failed]) = samples?;
    let (after, back) = comes_back(&subject, &before)?;
    tell(&format!("at rest: {after}"));
    let mut wrong = ledger.first_faults();
    if ledger.faults() as usize > wrong.len() {
        wrong.push(format!("and so on: {} faults", ledger.faults()));
    }
    wrong.extend(back.err());
    let thirds = thirds(&samples);
    tell(&format!(
        "{} tasks, {:.1} GiB checked, {moved} switches moved, {failed} were undone; {} faults; memory {} -> {} KiB \
         (thirds: {thirds:?}, slack {SLACK}, growth allowed {GROWTH})",
        ledger.done(),
        gibibytes(&ledger),
        ledger.faults(),
        before.resident,
        after.resident,
    ));
    if thirds[2] > thirds[0] + GROWTH {
        wrong.push(format!("memory grows: the middles of the thirds are {thirds:?} KiB"));
    }
    if moved == 0 || ledger.done() == 0 {
        wrong.push("nothing happened".to_owned());
    }
    Ok(wrong)
}

/// Switches until it is over; some fail on purpose. Returns how many moved and how many were undone.
fn switches(subject: &Subject, ledger: &Ledger, pause: Duration, over: &AtomicBool) -> io::Result<[u64; 2]> {
    let mut counts = [0, 0];
    let mut random = Random(7);
    for turn in 1_u64.. {
        let next = Instant::now() + pause;
        while Instant::now() < next && !over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
        let (fails, aborted) = (turn % 4 == 3, turn % 4 == 0);
        fs::write(subject.file("status"), if fails { "1" } else { "0" })?;
        ledger.switch_begins();
        let switch = subject.begin("switch")?;
        if aborted {
            thread::sleep(random.up_to(Duration::from_millis(500)));
            subject.ask("abort")?;
        }
        let answer = finish(switch)?;
        let moved = answer.contains("Switch OK");
        let wanted = ["script exited with code: 1", "aborted", "Switch OK"];
        let expected = if fails {
            &wanted[..1]
        } else if aborted {
            &wanted[1..]
        } else {
            &wanted[2..]
        };
        if !expected.iter().any(|words| answer.contains(words)) {
            ledger.fault(&format!("switch: {answer}"));
        }
        ledger.switch_ended(moved);
        counts[usize::from(!moved)] += 1;
    }
    Ok(counts)
}

/// Looks at the process until the time is over.
fn sample(
    subject: &Subject,
    plan: Plan,
    ledger: &Ledger,
    stop: &AtomicBool,
    over: &AtomicBool,
    tell: &mut dyn FnMut(&str),
) -> io::Result<Vec<usize>> {
    let start = Instant::now();
    let mut samples = Vec::new();
    let mut next = start + plan.interval;
    while start.elapsed() < plan.length && !stop.load(Ordering::Relaxed) && !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        if Instant::now() < next {
            continue;
        }
        next += plan.interval;
        let now = Vitals::of(subject.pid())?;
        samples.push(now.resident);
        tell(&format!(
            "{:>5} s: {} tasks, {:.1} GiB, {} faults; {now}",
            start.elapsed().as_secs(),
            ledger.done(),
            gibibytes(ledger),
            ledger.faults(),
        ));
    }
    Ok(samples)
}

/// Waits until the process has what it had before; says what it has more, if it does not come to that.
fn comes_back(subject: &Subject, before: &Vitals) -> io::Result<(Vitals, Result<(), String>)> {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = Vitals::of(subject.pid())?;
        let same = (now.threads(), now.descriptors) == (before.threads(), before.descriptors);
        if same && now.resident <= before.resident + SLACK {
            return Ok((now, Ok(())));
        }
        if Instant::now() > end {
            let words = format!("before: {before}; still after {PATIENCE:?}: {now}");
            return Ok((now, Err(words)));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The median of each third of the samples.
fn thirds(samples: &[usize]) -> [usize; 3] {
    let third = (samples.len() / 3).max(1);
    let mut parts = samples.chunks(third).map(|part| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    });
    [(); 3].map(|()| parts.next().unwrap_or_default())
}

fn gibibytes(ledger: &Ledger) -> f64 {
    ledger.bytes() as f64 / f64::from(1 << 30)
}
