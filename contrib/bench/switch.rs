//! What a switch costs, measured through real sockets against a real cbpx process on this machine:
//!
//! 1. N clients make short connections while switches go back and forth: errors (must be 0), and the longest wait of
//!    any client beyond the script's own time.
//! 2. 1,000 held clients: from the end of the script to the first and the last of them served.
//! 3. A first look at the relay against a direct connection: round trips and bulk, interleaved, medians.
//!
//! Prints figures and asserts none of them but the errors. Start it with `contrib/bench/switch`.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// How long the script of part 1 takes.
const SCRIPT: &str = "0.2";
const SWITCHES: usize = 10;
const HELD: usize = 1000;
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

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
    release_of_held_clients(cbpx, blue, green)?;
    relay_against_direct(cbpx, blue, green)?;
    Ok(flawless)
}

/// Part 1.
fn switches_under_load(cbpx: &Path, blue: SocketAddr, green: SocketAddr, n: usize) -> io::Result<bool> {
    let proxy = Proxy::start(cbpx, blue, green, &format!("#!/bin/sh\nexec sleep {SCRIPT}\n"))?;
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

/// Part 2. The script waits for a file, so that everybody is held before it ends.
fn release_of_held_clients(cbpx: &Path, blue: SocketAddr, green: SocketAddr) -> io::Result<()> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let script = "#!/bin/sh\nwhile [ ! -e \"$0.go\" ]; do sleep 0.02; done\ndate +%s%N >\"$0.end\"\n";
        let proxy = Proxy::start(cbpx, blue, green, script)?;
        let switch = proxy.begin("switch")?;
        let mut held = Vec::new();
        for _ in 0..HELD {
            let mut stream = TcpStream::connect(proxy.listening)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"question")?;
            held.push(stream);
        }
        let waiting = format!(" {HELD} ");
        while !proxy.ask("stats")?.contains(&waiting) {
            thread::sleep(Duration::from_millis(5));
        }
        let readers: Vec<_> = held
            .into_iter()
            .map(|mut stream| {
                thread::Builder::new().stack_size(64 * 1024).spawn(move || -> io::Result<u128> {
                    let mut answer = [0; 8];
                    stream.read_exact(&mut answer)?;
                    Ok(now())
                })
            })
            .collect::<io::Result<_>>()?;
        fs::write(proxy.dir.join("script.go"), "")?;
        let mut served = Vec::new();
        for reader in readers {
            served.push(reader.join().map_err(|_| io::Error::other("a client panicked"))??);
        }
        let end: u128 = fs::read_to_string(proxy.dir.join("script.end"))?.trim().parse().map_err(io::Error::other)?;
        let ms = |at: Option<&u128>| at.map_or(0.0, |at| at.saturating_sub(end) as f64 / 1e6);
        first.push(ms(served.iter().min()));
        last.push(ms(served.iter().max()));
        finish(switch)?;
    }
    let mut direct = Vec::new();
    for _ in 0..ROUNDS {
        direct.push(all_at_once(blue)?);
    }
    println!("for comparison, {HELD} clients at once without a proxy: last served after {:.1} ms", median(direct));
    println!(
        "release of {HELD} held clients: first served {:.1} ms, last {:.1} ms after the script's end (medians of {ROUNDS})",
        median(first),
        median(last)
    );
    Ok(())
}

/// What the server and the clients of part 2 need by themselves: milliseconds until the last one is served.
fn all_at_once(to: SocketAddr) -> io::Result<f64> {
    let start = Arc::new(Barrier::new(HELD + 1));
    let client = |start: Arc<Barrier>| {
        move || -> io::Result<u128> {
            start.wait();
            request(to)?;
            Ok(now())
        }
    };
    let spawn = |_| thread::Builder::new().stack_size(64 * 1024).spawn(client(Arc::clone(&start)));
    let clients: Vec<_> = (0..HELD).map(spawn).collect::<io::Result<_>>()?;
    start.wait();
    let began = now();
    let mut last = began;
    for client in clients {
        last = last.max(client.join().map_err(|_| io::Error::other("a client panicked"))??);
    }
    Ok((last - began) as f64 / 1e6)
}

fn now() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}

/// Part 3.
fn relay_against_direct(cbpx: &Path, blue: SocketAddr, green: SocketAddr) -> io::Result<()> {
    let proxy = Proxy::start(cbpx, blue, green, "#!/bin/sh\n")?;
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
    // With the standard library's queue of 128 the kernel would drop part of a burst and repeat it a second later: that
    // would measure the server.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
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

/// A cbpx process with a directory of its own; killed when dropped.
struct Proxy {
    child: Child,
    dir: PathBuf,
    listening: SocketAddr,
    control: SocketAddr,
}

impl Proxy {
    fn start(cbpx: &Path, active: SocketAddr, standby: SocketAddr, script: &str) -> io::Result<Proxy> {
        use std::os::unix::fs::PermissionsExt;
        let dir = env::temp_dir().join(format!("cbpx-bench-{}-{}", std::process::id(), now()));
        fs::create_dir_all(&dir)?;
        let path = dir.join("script");
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let free = || -> io::Result<SocketAddr> { TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr() };
        let (listening, control) = (free()?, free()?);
        let child = Command::new(fs::canonicalize(cbpx)?)
            .args(["-t", "30", "-c", "10000", "-o", "0", "-b", "4096"])
            .args(["-p", &listening.port().to_string(), "-r", &control.port().to_string()])
            .args(["-a", &active.to_string(), "-s", &standby.to_string()])
            .arg("-x")
            .arg(&path)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .spawn()?;
        let proxy = Proxy { child, dir, listening, control };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(proxy.control).is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::other("cbpx does not answer"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(proxy)
    }

    fn begin(&self, line: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.control)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "{line}")?;
        Ok(stream)
    }

    fn ask(&self, line: &str) -> io::Result<String> {
        finish(self.begin(line)?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn finish(stream: TcpStream) -> io::Result<String> {
    let lines: io::Result<Vec<String>> = BufReader::new(stream).lines().collect();
    lines.map(|lines| lines.join("\n"))
}

/// The script's time in seconds, from the answer of a switch that succeeded.
fn script_time(answer: &str) -> Option<f64> {
    let rest = answer.contains("Switch OK").then(|| answer.split("script ").nth(1))??;
    rest.split(' ').next()?.parse().ok()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}
