//! Random histories of connections, many at once through one proxy: what arrives is what was sent, an end in order
//! comes after the last byte and never instead of it, a reset comes as a reset, and the log's counts are true (promise
//! 1).
//!
//! Every message names the seed and both ends' steps. `SEED=7 cargo test --test it histories` plays one of them again
//! and again; `SEEDS=50000` tries more.

use std::collections::HashMap;
use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::actor::{Actor, Left, Saw};
use crate::plan::{Part, Plan};
use crate::proxy::Proxy;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::vitals::Vitals;

/// Histories that run at once: this many on each of this many threads.
const AT_ONCE: usize = 8;
const THREADS: usize = 2;
/// Time in which nobody looked at a history does not count as time in which nothing happened, from here on.
const AWAY: Duration = Duration::from_millis(100);
const SILENT: &str = "silent for 5 s after the backend had ended";
/// Of connections with small buffers. A segment of the loopback interface has 64 KiB, and where that is more than there
/// is room for at the receiver, the sender's system waits a fifth of a second before each.
const SEGMENT: u32 = 2_048;
/// How often one is played again that was asked for by its seed.
const REPEATS: u32 = 300;

/// A proxy and the server behind it, where connections are made one at a time: so it is known which belongs to which.
struct Road {
    proxy: Proxy,
    listener: Mutex<Socket>,
    server_is_tcp: bool,
    _dir: TempDir,
    /// The standby's.
    _nobody: Reserved,
}

struct History {
    /// Its number on this road; its client's address is made of it, by which the log names it.
    number: u32,
    seed: u64,
    greets: bool,
    client: Actor,
    server: Actor,
    /// When something last happened, and when it was last looked at.
    moved: Instant,
    looked: Instant,
}

/// What is left of one when both ends have left, to be compared with the log.
struct Outcome {
    name: String,
    in_order: bool,
    greeted: bool,
    /// Sent and received.
    up: [u64; 2],
    down: [u64; 2],
}

/// What the log says about a client's end.
struct Told {
    why: String,
    up: u64,
    down: u64,
}

/// What was seen, so that the histories cannot become quiet unnoticed.
#[derive(Debug, Default)]
struct Found {
    in_order: u32,
    failed: u32,
    resets: u32,
    /// Closed for being silent, where no more can be said.
    silent: u32,
    bytes: u64,
}

#[test]
fn no_history_of_a_connection_loses_doubles_or_moves_a_byte_or_ends_otherwise_than_it_was_ended() {
    play(&Road::new(true), 800);
}

#[test]
fn no_history_of_a_connection_to_a_unix_socket_does_either() {
    play(&Road::new(false), 300);
}

/// A number from the environment, for people.
fn wish(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn play(road: &Road, usual: u32) {
    let number = match wish("SEED") {
        Some(_) => REPEATS,
        None => wish("SEEDS").map_or(usual, |seeds| seeds as u32),
    };
    let before = Vitals::at_rest(&road.proxy);
    let (next, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| perform(road, &next, number, &stop))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let mut found = Found::default();
    let outcomes: Vec<Outcome> =
        outcomes.into_iter().flat_map(|outcomes| outcomes.unwrap_or_else(|broken| panic!("{broken}"))).collect();
    let told = told(&road.proxy, outcomes.len());
    for (at, outcome) in &outcomes_by_address(&outcomes) {
        let told = told.get(at).unwrap_or_else(|| panic!("{}: the log does not tell of its end", outcome.name));
        outcome.agrees_with(told).unwrap_or_else(|broken| panic!("{}: {broken}", outcome.name));
        found.in_order += u32::from(outcome.in_order);
        found.silent += u32::from(told.why.starts_with(SILENT));
        found.failed += u32::from(told.why.contains("failed"));
        found.resets += u32::from(!outcome.in_order);
        found.bytes += outcome.up[1] + outcome.down[1];
    }
    println!("{found:?}");
    eventually(SOON, "no client is left", || road.proxy.stat("active") == 0);
    before.are_back(&road.proxy);
    if number >= usual && wish("SEED").is_none() {
        let (in_order, others) = (found.in_order, found.resets);
        assert!(in_order > number / 4 && others > number / 5, "the histories have become one-sided: {found:?}");
        assert!(found.silent < number / 50, "so few that they excuse nothing: {found:?}");
        assert!(found.bytes / u64::from(number) > 200_000, "the histories have become quiet: {found:?}");
    }
}

fn outcomes_by_address(outcomes: &[Outcome]) -> Vec<(Ipv4Addr, &Outcome)> {
    outcomes.iter().map(|outcome| (address(number_of(&outcome.name)), outcome)).collect()
}

fn number_of(name: &str) -> u32 {
    name.rsplit_once('#').unwrap().1.parse().unwrap()
}

/// The client's own address in this history: all of 127.0.0.0/8 is this machine.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 1).to_bits() + number)
}

/// Every client's end, by its address.
fn told(proxy: &Proxy, number: usize) -> HashMap<Ipv4Addr, Told> {
    let mut told = HashMap::new();
    eventually(SOON, "the log tells of every client's end", || {
        thread::sleep(Duration::from_millis(50));
        told = proxy.log().lines().filter_map(end_of_a_client).collect();
        told.len() >= number
    });
    told
}

/// Whether it was closed because it had sent nothing for some seconds after its server's end.
fn was_silent(proxy: &Proxy, number: u32) -> bool {
    let mut why = String::new();
    eventually(SOON, "the log tells of a client's end", || {
        let end = proxy.log().lines().filter_map(end_of_a_client).find(|(at, _)| *at == address(number));
        why = end.map(|(_, told)| told.why).unwrap_or_default();
        !why.is_empty()
    });
    why.starts_with(SILENT)
}

/// `... client 7 from ADDRESS:PORT: closed: WHY; N bytes up, N down, ...`
fn end_of_a_client(line: &str) -> Option<(Ipv4Addr, Told)> {
    let (before, after) = line.split_once(": closed: ")?;
    let peer: SocketAddr = before.rsplit(' ').next()?.parse().ok()?;
    let SocketAddr::V4(peer) = peer else { return None };
    let (why, counts) = after.rsplit_once("; ")?;
    let (up, counts) = counts.split_once(" bytes up, ")?;
    let (down, _) = counts.split_once(" down")?;
    Some((*peer.ip(), Told { why: why.to_owned(), up: up.parse().ok()?, down: down.parse().ok()? }))
}

/// One thread: keeps some histories going until there are no more, or one is broken anywhere.
fn perform(road: &Road, next: &AtomicU32, number: u32, stop: &AtomicBool) -> Result<Vec<Outcome>, String> {
    let mut outcomes = Vec::new();
    let mut running: Vec<History> = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        while running.len() < AT_ONCE && !stop.load(Ordering::Relaxed) {
            let number_of_this = next.fetch_add(1, Ordering::Relaxed);
            if number_of_this >= number {
                break;
            }
            let seed = wish("SEED").unwrap_or(u64::from(number_of_this));
            running.push(road.begin(number_of_this, seed));
        }
        if running.is_empty() || stop.load(Ordering::Relaxed) {
            return Ok(outcomes);
        }
        let mut moved = false;
        let mut at = 0;
        while at < running.len() {
            let history = &mut running[at];
            let step = history.step(&mut buffer);
            moved |= step.map_err(|broken| {
                stop.store(true, Ordering::Relaxed);
                history.tell(&broken)
            })?;
            if history.client.left.is_some() && history.server.left.is_some() {
                let history = running.swap_remove(at);
                let verdict = history.judge();
                // Its own silence may have ended a client, at any point.
                if verdict.is_ok() || !was_silent(&road.proxy, history.number) {
                    verdict.map_err(|broken| {
                        stop.store(true, Ordering::Relaxed);
                        history.tell(&broken)
                    })?;
                }
                outcomes.push(history.outcome());
            } else {
                at += 1;
            }
        }
        if !moved {
            wait(&running);
        }
    }
}

/// Until there is something to read or room to write, but not for long: some wait for time to pass.
fn wait(running: &[History]) {
    let mut fds = Vec::new();
    for actor in running.iter().flat_map(|history| [&history.client, &history.server]) {
        let (reads, writes) = actor.wants();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, reads);
        flags.set(PollFlags::OUT, writes);
        if let Some(socket) = actor.socket.as_ref().filter(|_| !flags.is_empty()) {
            fds.push(PollFd::new(socket, flags));
        }
    }
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).unwrap();
}

impl Road {
    fn new(server_is_tcp: bool) -> Road {
        let dir = TempDir::new("histories");
        let path = dir.path().join("server.sock");
        let (listener, at) = if server_is_tcp {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let at = listener.local_addr().unwrap().to_string();
            let listener = Socket::from(listener);
            listener.set_tcp_mss(SEGMENT).unwrap();
            (listener, at)
        } else {
            (Socket::from(UnixListener::bind(&path).unwrap()), path.display().to_string())
        };
        let nobody = Reserved::new();
        let proxy = Proxy::start(&at, &format!("127.0.0.1:{}", nobody.port()), &["-l", "DEBUG"]);
        Road { proxy, listener: Mutex::new(listener), server_is_tcp, _dir: dir, _nobody: nobody }
    }

    fn begin(&self, number: u32, seed: u64) -> History {
        let plan = Plan::of(seed);
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Or the port, bound by number only here, could be the one that another test has reserved.
        client.set_reuse_address(true).unwrap();
        client.bind(&SockAddr::from(SocketAddr::from((address(number), 0)))).unwrap();
        set_buffers(&client, &plan.client);
        if plan.client.receive_buffer.is_some() {
            client.set_tcp_mss(SEGMENT).unwrap();
        }
        let server = {
            let listener = self.listener.lock().unwrap();
            client.connect(&self.proxy.addr().into()).unwrap();
            let mut fds = [PollFd::new(&*listener, PollFlags::IN)];
            let limit = Timespec { tv_sec: SOON.as_secs() as i64, tv_nsec: 0 };
            assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1, "SEED={seed}: the client does not reach the server");
            listener.accept().unwrap().0
        };
        set_buffers(&server, &plan.server);
        let salts = [seed as usize * 7_919, seed as usize * 104_729 + 500_000];
        History {
            number,
            seed,
            greets: plan.greets,
            client: Actor::new(plan.client, client, true, salts),
            server: Actor::new(plan.server, server, self.server_is_tcp, [salts[1], salts[0]]),
            moved: Instant::now(),
            looked: Instant::now(),
        }
    }
}

fn set_buffers(socket: &Socket, part: &Part) {
    part.receive_buffer.into_iter().for_each(|size| socket.set_recv_buffer_size(size).unwrap());
    part.send_buffer.into_iter().for_each(|size| socket.set_send_buffer_size(size).unwrap());
}

impl History {
    fn step(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        // Its thread was busy with another one.
        self.moved += Some(self.looked.elapsed()).filter(|away| *away > AWAY).unwrap_or_default();
        self.looked = Instant::now();
        let glance = self.server.glance();
        let client = self.client.step(glance, buffer).map_err(|broken| format!("at the client: {broken}"))?;
        let glance = self.client.glance();
        let server = self.server.step(glance, buffer).map_err(|broken| format!("at the server: {broken}"))?;
        if client || server {
            self.moved = Instant::now();
        } else if self.moved.elapsed() > SOON {
            let [client, server] =
                [(&self.client, &self.server), (&self.server, &self.client)].map(|(one, other)| one.waits_for(other));
            return Err(format!("nothing has happened for {SOON:?}\nthe client {client}\nthe server {server}"));
        }
        Ok(client || server)
    }

    fn name(&self) -> String {
        format!("SEED={} #{}", self.seed, self.number)
    }

    fn tell(&self, broken: &str) -> String {
        let part = |name: &str, actor: &Actor| format!("{name} at step {}: {actor:?}", actor.step_number());
        let (client, server) = (part("client", &self.client), part("server", &self.server));
        format!("{}: {broken}\n{client}\n{server}", self.name())
    }

    /// Both have left: whether each saw what the other did.
    fn judge(&self) -> Result<(), String> {
        // A server that was gone before the proxy had noticed the connection has refused its client, who is closed.
        let refused = !self.greets && self.client.got == 0 && self.server.left != Some(Left::Done);
        let in_order = self.is_in_order();
        for (from, to, name, excused) in
            [(&self.client, &self.server, "up", false), (&self.server, &self.client, "down", refused)]
        {
            let complete = from.sent == to.got && (from.ended || from.left == Some(Left::Closed));
            if to.got > from.sent {
                return Err(format!("{name}: more arrived than was sent"));
            }
            // A Unix socket has no reset: the reader sees an end of stream.
            let can_tell = to.is_tcp || in_order;
            if to.saw == Some(Saw::End) && !complete && can_tell && !excused {
                return Err(format!("{name}: an end in order after {} of {} bytes", to.got, from.sent));
            }
            if in_order && (to.saw != Some(Saw::End) || !complete) {
                return Err(format!("{name}: nobody failed, and {:?} after {} of {} bytes", to.saw, to.got, from.sent));
            }
            // What the system had taken before a reset arrives before it, unless the reader broke off itself.
            let reader_left = matches!(to.left, Some(Left::Reset | Left::Closed));
            if from.left == Some(Left::Reset) && to.got < from.taken && !reader_left && !excused {
                return Err(format!("{name}: the reset came after {} of {} bytes", to.got, from.taken));
            }
            // The other one was told, or had had everything and was done.
            let done = to.left == Some(Left::Done) && !complete;
            if from.left == Some(Left::Reset) && done && can_tell && !excused {
                return Err(format!("{name}: a reset was not passed on"));
            }
        }
        Ok(())
    }

    /// Whether neither broke anything off.
    fn is_in_order(&self) -> bool {
        ![self.client.left, self.server.left].iter().any(|left| matches!(left, Some(Left::Reset | Left::Closed)))
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            name: self.name(),
            in_order: self.is_in_order(),
            greeted: self.greets,
            up: [self.client.sent, self.server.got],
            down: [self.server.sent, self.client.got],
        }
    }
}

impl Outcome {
    /// Whether the log tells what has happened.
    fn agrees_with(&self, told: &Told) -> Result<(), String> {
        let counts = format!("{} up, {} down, closed: {}", told.up, told.down, told.why);
        for ([sent, got], told) in [(self.up, told.up), (self.down, told.down)] {
            if !(got..=sent).contains(&told) {
                return Err(format!("the log tells of {counts}; sent {sent}, received {got}"));
            }
        }
        let refused = told.why.starts_with("no backend took it");
        if told.why.starts_with(SILENT) {
            return Ok(());
        }
        if self.in_order && !told.why.starts_with("done, ") || self.greeted && refused {
            return Err(format!("the log tells of {counts}"));
        }
        Ok(())
    }
}
