//! Many clients at once: what it costs to release held clients, and whether a proxy full of idle clients can still
//! switch. Every client must get its own answer, in order of arrival.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::median;
use crate::subject::{PATIENCE, Subject, finish};
use crate::vitals::Vitals;

const RELEASED: [usize; 3] = [100, 1000, 5000];
const ROUNDS: usize = 5;
const IDLE: usize = 10_000;
const HELD: usize = 5000;
/// Both ends of every connection are in this process, and the proxy needs as many, plus its pipes, and keeps a sixteenth
/// for pairs of threads.
const DESCRIPTORS: u64 = (2 * (IDLE + HELD) as u64 + 2000) * 16 / 15;

/// The script waits for a file, so that all clients are held before it ends.
const SCRIPT: &str = "#!/bin/sh\nwhile [ ! -e \"$0.go\" ]; do sleep 0.02; done\ndate +%s%N >\"$0.end\"\n";

/// Releases different numbers of clients; returns whether all were served in order.
///
/// # Errors
/// On any error except a wrong order.
pub fn releases(cbpx: &Path) -> io::Result<bool> {
    let mut in_order = true;
    raise_descriptor_limit(4 * HELD as u64);
    for number in RELEASED {
        let (mut first, mut last, mut cpu, mut direct) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let released = release(cbpx, number)?;
            in_order &= released.in_order;
            first.push(released.first);
            last.push(released.last);
            cpu.push(released.cpu);
            direct.push(without_a_proxy(number)?);
        }
        let (first, last) = (median(first), median(last));
        println!(
            "release of {number} held clients: first served {first:.1} ms, last {last:.1} ms after the script's end, \
             {:.3} ms each; CPU of the proxy {:.3} ms each; without a proxy, one after the other, {:.1} ms \
             (medians of {ROUNDS})",
            (last - first) / number as f64,
            median(cpu) / number as f64,
            median(direct),
        );
    }
    Ok(in_order)
}

/// In milliseconds.
struct Released {
    first: f64,
    last: f64,
    cpu: f64,
    in_order: bool,
}

fn release(cbpx: &Path, number: usize) -> io::Result<Released> {
    let (old, new) = (listen()?, listen()?);
    let subject = Subject::start(cbpx, old.local_addr()?, new.local_addr()?, SCRIPT)?;
    let switch = shut_the_gate(&subject)?;
    let clients = ask(subject.listening, 0..number)?;
    wait_until_held(&subject, number)?;
    let serving = serve(new, number);
    let before = cpu(subject.pid())?;
    fs::write(subject.file("script.go"), "")?;
    let mut served = answers(&clients, 0)?;
    let cpu = cpu(subject.pid())?.saturating_sub(before);
    let order = order(serving)?.0;
    finish(switch)?;
    let end: u128 = fs::read_to_string(subject.file("script.end"))?.trim().parse().map_err(io::Error::other)?;
    let after = |at: Option<u128>| at.map_or(0.0, |at| at.saturating_sub(end) as f64 / 1e6);
    let (first, last) = (after(served.next()), after(served.next()));
    Ok(Released { first, last, cpu: cpu.as_secs_f64() * 1e3, in_order: order.is_sorted() })
}

/// The time that server and clients need without a proxy: milliseconds until the last client is served.
fn without_a_proxy(number: usize) -> io::Result<f64> {
    let listener = listen()?;
    let to = listener.local_addr()?;
    let start = Instant::now();
    let serving = serve(listener, number);
    let clients = ask(to, 0..number)?;
    answers(&clients, 0)?;
    let took = start.elapsed();
    order(serving)?;
    Ok(took.as_secs_f64() * 1e3)
}

/// A switch while a proxy is full of idle clients; returns whether all held clients were served in order.
///
/// # Errors
/// On any error except a wrong order.
pub fn many_idle(cbpx: &Path) -> io::Result<bool> {
    let descriptors = raise_descriptor_limit(DESCRIPTORS);
    let part = |number: usize| number * descriptors.min(DESCRIPTORS) as usize / DESCRIPTORS as usize / 10 * 10;
    let (idle_number, held_number) = (part(IDLE), part(HELD));
    if idle_number < IDLE {
        println!("not {IDLE} idle clients but {idle_number}: only {descriptors} descriptors are permitted here");
    }
    let (old, new) = (listen()?, listen()?);
    let subject = Subject::start(cbpx, old.local_addr()?, new.local_addr()?, "#!/bin/sh\n")?;
    let pid = subject.pid();
    let start = Vitals::at_rest(pid)?;
    let serving = serve(old, idle_number);
    let idle = ask(subject.listening, 0..idle_number)?;
    answers(&idle, 0)?;
    let (_, mut far) = order(serving)?;
    let full = Vitals::of(pid)?;
    let begun = cpu(pid)?;
    let switch = shut_the_gate(&subject)?;
    let held = ask(subject.listening, idle_number..idle_number + held_number)?;
    wait_until_held(&subject, held_number)?;
    let holding = cpu(pid)?.saturating_sub(begun);
    let fullest = Vitals::of(pid)?;
    // While the switch waits for connected clients, these still work.
    for (number, client) in idle.iter().enumerate() {
        (&*client).write_all(&(number as u32).to_be_bytes())?;
    }
    far.iter_mut().try_for_each(|far| answer(far).map(drop))?;
    answers(&idle, 0)?;
    let serving = serve(new, held_number);
    let (ended, begun) = (Instant::now(), cpu(pid)?);
    drop(idle);
    drop(far);
    answers(&held, idle_number)?;
    let (took, releasing) = (ended.elapsed(), cpu(pid)?.saturating_sub(begun));
    let (order, far) = order(serving)?;
    let answer = finish(switch)?;
    if !answer.contains("Switch OK") {
        return Err(io::Error::other(format!("the switch failed: {answer}")));
    }
    let released = Vitals::of(pid)?;
    drop((held, far));
    let end = Instant::now() + PATIENCE;
    let mut after = Vitals::at_rest(pid)?;
    while after.descriptors > start.descriptors && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
        after = Vitals::at_rest(pid)?;
    }
    let each = |time: Duration, number: usize| time.as_secs_f64() * 1e6 / number as f64;
    println!(
        "{idle_number} idle clients, then a switch with {held_number} held ones: the idle ones worked on, all held ones were served"
    );
    println!("  at the start              {start}");
    println!(
        "  {idle_number} idle clients        {full} ({:.1} KiB each)",
        (full.resident - start.resident) as f64 / idle_number as f64
    );
    println!("  and {held_number} held ones       {fullest}");
    println!("  after the switch          {released}");
    println!("  when everybody has left   {after}; at the peak {:.1} MiB", peak(pid)? as f64 / 1024.0);
    println!(
        "  CPU of the proxy: {:.1} us for each client to be accepted and held; {:.1} us to end an idle one or",
        each(holding, held_number),
        each(releasing, idle_number + held_number)
    );
    println!("  release a held one; from the idle ones' end to the last held one's answer {:.2} s", took.as_secs_f64());
    Ok(order.is_sorted())
}

/// With the standard library's queue of 128 the kernel would drop part of a burst and retry it a second later: that
/// would measure the server.
pub fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Clients that each have sent their number, in order of arrival.
fn ask(to: SocketAddr, numbers: std::ops::Range<usize>) -> io::Result<Vec<TcpStream>> {
    let client = |number: usize| {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&(number as u32).to_be_bytes())?;
        Ok(stream)
    };
    numbers.map(client).collect()
}

/// Reads each client's own number, from `offset` on; returns when the first and the last client had it.
fn answers(clients: &[TcpStream], offset: usize) -> io::Result<std::array::IntoIter<u128, 2>> {
    let mut first = 0;
    for (at, mut client) in clients.iter().enumerate() {
        let mut answer = [0; 4];
        client.read_exact(&mut answer)?;
        if u32::from_be_bytes(answer) as usize != at + offset {
            return Err(io::Error::other("a wrong answer"));
        }
        if at == 0 {
            first = now();
        }
    }
    Ok([first, now()].into_iter())
}

/// The numbers in order of arrival, and the connections.
type Served = (Vec<u32>, Vec<TcpStream>);

/// Accepts `number` clients and answers each with its number.
fn serve(listener: TcpListener, number: usize) -> JoinHandle<io::Result<Served>> {
    thread::spawn(move || {
        let (accepted, arrivals) = mpsc::channel();
        // Accepting continues while an accepted client waits for its answer, so that no queue overflows.
        let answering = thread::spawn(move || -> io::Result<Served> {
            let (mut order, mut streams) = (Vec::new(), Vec::new());
            for mut stream in arrivals {
                order.push(answer(&mut stream)?);
                streams.push(stream);
            }
            Ok((order, streams))
        });
        for stream in listener.incoming().take(number) {
            if accepted.send(stream?).is_err() {
                break;
            }
        }
        drop(accepted);
        answering.join().map_err(|_| io::Error::other("the server panicked"))?
    })
}

fn order(serving: JoinHandle<io::Result<Served>>) -> io::Result<Served> {
    serving.join().map_err(|_| io::Error::other("the server panicked"))?
}

fn answer(stream: &mut TcpStream) -> io::Result<u32> {
    let mut number = [0; 4];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut number)?;
    stream.write_all(&number)?;
    Ok(u32::from_be_bytes(number))
}

/// Starts a switch and waits for its first row: from then on no new client reaches a server.
fn shut_the_gate(subject: &Subject) -> io::Result<TcpStream> {
    let mut switch = subject.begin("switch")?;
    let mut answer = Vec::new();
    while !answer.windows(FIRST_ROW.len()).any(|words| words == FIRST_ROW) {
        let mut byte = [0];
        switch.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    Ok(switch)
}

const FIRST_ROW: &[u8] = b"\n 0.00 ";

fn wait_until_held(subject: &Subject, number: usize) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let waiting = |answer: &str| {
        answer.lines().last().is_some_and(|row| row.split_whitespace().nth(3) == Some(&number.to_string()))
    };
    while !waiting(&subject.ask("stats")?) {
        if Instant::now() > end {
            return Err(io::Error::other(format!("{number} clients are not held: {}", subject.ask("stats")?)));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Returns the resulting limit: only root may raise the hard limit, and not everywhere.
fn raise_descriptor_limit(number: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < number) {
        let most = maximum.map(|maximum| maximum.max(number));
        let raised = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
        raised.or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })).ok();
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// CPU time of all threads of a process so far.
fn cpu(pid: u32) -> io::Result<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    // A thread that ends between the two reads is omitted.
    let run = |task: io::Result<fs::DirEntry>| {
        let times = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<u64>().ok()
    };
    Ok(Duration::from_nanos(tasks.filter_map(run).sum()))
}

/// In KiB.
fn peak(pid: u32) -> io::Result<usize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let row = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    row.ok_or_else(|| io::Error::other("no VmHWM"))
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}
