//! What a switch costs, measured through real sockets against a real cbpx process on this machine:
//!
//! 1. N clients make short connections while switches go back and forth: errors (must be 0), and the longest wait of
//!    any client beyond the script's own time.
//! 2. 100, 1,000 and 5,000 held clients: from the end of the script to the first and the last of them served, and what
//!    that is for each. (See `crowd`.)
//! 3. 10,000 clients that are connected and say nothing, and 5,000 more that are held: memory, CPU, order. (Likewise.)
//! 4. A first look at the relay against a direct connection: round trips and bulk, interleaved, medians.
//!
//! Prints figures and asserts none of them but the errors: a client that failed, got a wrong answer or was served out
//! of order. Start it with `contrib/bench/switch`.

mod crowd;
mod subject;
mod vitals;

use std::env;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::subject::{PATIENCE, Subject};

/// How long the script of part 1 takes.
const SCRIPT: &str = "0.2";
const SWITCHES: usize = 10;
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let cbpx = PathBuf::from(arguments.next().unwrap_or_else(|| "target/release/cbpx".to_owned()));
    let mut clients: Vec<usize> = arguments.filter_map(|n| n.parse().ok()).collect();
    if clients.is_empty() {
        clients = vec![10, 100];
    }
    match measure(&cbpx, &clients) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench-switch: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cbpx: &Path, clients: &[usize]) -> io::Result<bool> {
    let blue = serve()?;
    let green = serve()?;
    let mut flawless = true;
    for &n in clients {
        flawless &= switches_under_load(cbpx, blue, green, n)?;
    }
    flawless &= crowd::releases(cbpx)?;
    flawless &= crowd::many_idle(cbpx)?;
    relay_against_direct(cbpx, blue, green)?;
    Ok(flawless)
}

/// Part 1.
fn switches_under_load(cbpx: &Path, blue: SocketAddr, green: SocketAddr, n: usize) -> io::Result<bool> {
    let proxy = Subject::start(cbpx, blue, green, &format!("#!/bin/sh\nexec sleep {SCRIPT}\n"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..n)
        .map(|_| {
            let (stop, to) = (Arc::clone(&stop), proxy.listening);
            thread::spawn(move || short_connections(to, &stop))
        })
        .collect();
    let mut spans = Vec::new();
    for _ in 0..SWITCHES {
        thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        let answer = proxy.ask("switch")?;
        let script = script_time(&answer).ok_or_else(|| io::Error::other(format!("the switch failed: {answer}")))?;
        spans.push((start, Instant::now(), script));
    }
    thread::sleep(Duration::from_millis(200));
    stop.store(true, Ordering::Relaxed);
    let (mut requests, mut errors) = (0, 0);
    let mut waits: Vec<Vec<Duration>> = vec![Vec::new(); spans.len()];
    for worker in workers {
        let (failed, done) = worker.join().map_err(|_| io::Error::other("a client panicked"))?;
        errors += failed;
        requests += done.len();
        for (start, end) in done {
            if let Some(at) = spans.iter().position(|(begin, over, _)| start < *over && end > *begin) {
                waits[at].push(end - start);
            }
        }
    }
    let beyond = spans.iter().zip(&waits).map(|((_, _, script), waits)| {
        waits.iter().max().map_or(0.0, |longest| longest.as_secs_f64() - script) * 1000.0
    });
    let beyond: Vec<f64> = beyond.collect();
    println!(
        "switch under load: {n} clients, {SWITCHES} switches, {requests} requests, {errors} errors; longest wait \
         beyond the script's {SCRIPT} s: median {:.1} ms, worst {:.1} ms",
        median(beyond.clone()),
        beyond.iter().copied().fold(f64::MIN, f64::max)
    );
    Ok(errors == 0)
}

/// One client: connect, ask, read, close, again. Returns failures, and start and end of each success.
fn short_connections(to: SocketAddr, stop: &AtomicBool) -> (usize, Vec<(Instant, Instant)>) {
    let (mut failed, mut done) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        match request(to) {
            Ok(()) => done.push((start, Instant::now())),
            Err(e) => {
                eprintln!("a client saw: {e}");
                failed += 1;
            }
        }
    }
    (failed, done)
}

fn request(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"question")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    if &answer == b"question" { Ok(()) } else { Err(io::Error::other("a wrong answer")) }
}

/// Part 4.
fn relay_against_direct(cbpx: &Path, blue: SocketAddr, green: SocketAddr) -> io::Result<()> {
    let proxy = Subject::start(cbpx, blue, green, "#!/bin/sh\n")?;
    let (mut trips, mut bulk) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        for (which, to) in [(0, blue), (1, proxy.listening)] {
            trips[which].push(round_trips(to)?);
            bulk[which].push(gigabits(to)?);
        }
    }
    for (what, [direct, through]) in [("round trips/s, 64 bytes", trips), ("Gbit/s, echoed bulk", bulk)] {
        let (direct, through) = (median(direct), median(through));
        println!("relay: {what}: direct {direct:.1}, through cbpx {through:.1} (ratio {:.2})", through / direct);
    }
    Ok(())
}

fn round_trips(to: SocketAddr) -> io::Result<f64> {
    const TRIPS: u32 = 10_000;
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let mut bytes = [7; 64];
    let start = Instant::now();
    for _ in 0..TRIPS {
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
    }
    Ok(f64::from(TRIPS) / start.elapsed().as_secs_f64())
}

fn gigabits(to: SocketAddr) -> io::Result<f64> {
    const BYTES: usize = 256 << 20;
    let stream = TcpStream::connect(to)?;
    let mut writer = stream.try_clone()?;
    let start = Instant::now();
    let sending = thread::spawn(move || -> io::Result<()> {
        let chunk = vec![1; 256 * 1024];
        for _ in 0..BYTES / chunk.len() {
            writer.write_all(&chunk)?;
        }
        writer.shutdown(Shutdown::Write)
    });
    let mut reader = &stream;
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            length => total += length,
        }
    }
    sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
    if total != BYTES {
        return Err(io::Error::other(format!("{total} bytes came back of {BYTES}")));
    }
    Ok(BYTES as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
}

/// An echo server in this process.
fn serve() -> io::Result<SocketAddr> {
    let listener = crowd::listen()?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Out of threads: that client sees a close, and is counted as an error.
            thread::Builder::new().stack_size(512 * 1024).spawn(move || echo(stream)).ok();
        }
    });
    Ok(address)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// The script's time in seconds, from the answer of a switch that succeeded.
fn script_time(answer: &str) -> Option<f64> {
    let rest = answer.contains("Switch OK").then(|| answer.split("script ").nth(1))??;
    rest.split(' ').next()?.parse().ok()
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}
