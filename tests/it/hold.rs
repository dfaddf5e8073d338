//! Held clients: who is held from when on, who reaches which server in which order, and who has left meanwhile.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::backend::Backend;
use crate::ends::{Deaf, Server, read_rest, read_text, reset};
use crate::proxy::{Proxy, finish};
use crate::support::{SOON, TempDir, allow_descriptors, eventually};
use crate::vitals::Vitals;

/// A switchover that has told its first row.
struct Started(BufReader<TcpStream>);

impl Started {
    fn on(proxy: &Proxy) -> Started {
        let mut answer = BufReader::new(proxy.begin("switch"));
        let mut line = String::new();
        while !line.contains(" 0.00 ") {
            line.clear();
            assert!(answer.read_line(&mut line).unwrap() > 0, "the answer ended before its first row");
        }
        Started(answer)
    }

    /// The rest of the answer.
    fn outcome(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// A script that says in `began` that it runs, and ends with this status once there is a file `end`, or the directory
/// has gone with its test.
pub fn waiting_script(dir: &TempDir, status: u8) -> String {
    let text = format!(
        "#!/bin/sh\ncd '{dir}'\ntouch began\nwhile [ -d '{dir}' ] && [ ! -e end ]; do sleep 0.02; done\nexit {status}\n",
        dir = dir.path().display()
    );
    dir.script("promote", &text).display().to_string()
}

pub fn has_begun(dir: &TempDir) {
    eventually(SOON, "the script runs", || dir.path().join("began").exists());
}

fn let_end(dir: &TempDir) {
    std::fs::write(dir.path().join("end"), "").unwrap();
}

fn are_held(proxy: &Proxy, number: u64) {
    eventually(SOON, &format!("{number} clients are held"), || {
        thread::sleep(Duration::from_millis(10));
        proxy.stat("in queue") == number
    });
}

/// A new client that has asked and is not answered yet.
fn asking(proxy: &Proxy, question: &str) -> TcpStream {
    let mut client = proxy.connect();
    client.write_all(question.as_bytes()).unwrap();
    client
}

#[test]
fn from_the_first_row_on_no_new_client_reaches_the_old_server() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let proxy = Proxy::start(&old.address(), &new.address(), &["-t", "60"]);
    for _ in 0..10 {
        let mut open = asking(&proxy, "a");
        assert_eq!(read_text(&open, 5), "old:a");
        let before = old.connections();
        let switch = Started::on(&proxy);
        let held: Vec<_> = (0..20).map(|_| asking(&proxy, "b")).collect();
        are_held(&proxy, 20);
        // The one who is connected works on.
        open.write_all(b"c").unwrap();
        assert_eq!(read_text(&open, 5), "old:c");
        assert_eq!((old.connections(), new.connections()), (before, 0), "nobody new reached any server");
        proxy.ask("abort");
        assert!(switch.outcome().contains("Switch failed: aborted"));
        // As if nothing had happened.
        held.iter().for_each(|client| assert_eq!(read_text(client, 5), "old:b"));
        assert_eq!((old.connections(), new.connections()), (before + 20, 0));
        drop((open, held));
        eventually(SOON, "all have left", || proxy.stat("active") == 0);
    }
}

#[test]
fn while_the_script_runs_no_client_reaches_any_server() {
    for (status, name) in [(0, "new"), (1, "old")] {
        let (old, new, dir) = (Backend::echo("old"), Backend::echo("new"), TempDir::new("hold"));
        let script = waiting_script(&dir, status);
        let proxy = Proxy::start(&old.address(), &new.address(), &["-t", "60", "-x", &script]);
        let switch = Started::on(&proxy);
        has_begun(&dir);
        let held: Vec<_> = (0..20).map(|_| asking(&proxy, "x")).collect();
        are_held(&proxy, 20);
        assert_eq!((old.connections(), new.connections()), (0, 0));
        let_end(&dir);
        let outcome = switch.outcome();
        assert!(outcome.contains(if status == 0 { "Switch OK" } else { "Switch failed" }), "{outcome}");
        held.iter().for_each(|client| assert_eq!(read_text(client, 5), format!("{name}:x")));
        let served = if status == 0 { (0, 20) } else { (20, 0) };
        assert_eq!((old.connections(), new.connections()), served);
    }
}

#[test]
fn five_thousand_held_clients_are_served_in_order_of_arrival() {
    const CLIENTS: usize = 5000;
    allow_descriptors(3 * CLIENTS as u64);
    let (old, new) = (Server::new(), patient_listener());
    let address = new.local_addr().unwrap().to_string();
    let proxy = Proxy::start(&old.address(), &address, &["-t", "300", "-c", "10000"]);
    let open = asking(&proxy, "?");
    let open_far = old.accept();
    assert_eq!(read_text(&open_far, 1), "?");
    let switch = Started::on(&proxy);
    let clients: Vec<_> = (0..CLIENTS).map(|number| asking(&proxy, &format!("{number:06}"))).collect();
    are_held(&proxy, CLIENTS as u64);
    let serving = thread::spawn(move || {
        let reached: Vec<_> = (0..CLIENTS).map(|_| new.accept().unwrap().0).collect();
        let answer = |mut far: TcpStream| {
            let number = read_text(&far, 6);
            far.write_all(number.as_bytes()).unwrap();
            number.parse().unwrap()
        };
        (reached.into_iter().map(answer).collect::<Vec<usize>>(), new)
    });
    assert_eq!(proxy.stat("in queue"), CLIENTS as u64, "nobody is served before the switch has ended");
    drop((open, open_far));
    let released = Instant::now();
    assert!(switch.outcome().contains("Switch OK"));
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(read_text(client, 6), format!("{number:06}"), "everybody is served, with the own answer");
    }
    println!("{CLIENTS} clients released and served in {:?}", released.elapsed());
    let (order, new) = serving.join().unwrap();
    let late: Vec<_> = order.windows(2).filter(|pair| pair[0] >= pair[1]).collect();
    assert!(late.is_empty(), "out of order: {late:?}");
    new.set_nonblocking(true).unwrap();
    assert!(new.accept().is_err() && old.try_accept().is_none(), "nobody came twice or to the old server");
}

#[test]
fn idle_clients_work_on_until_they_end_and_then_the_held_ones_come_in_order() {
    // Each fewer than the 128 that wait in a server's queue: the system repeats others a second later.
    const IDLE: usize = 120;
    const HELD: usize = 100;
    let (old, new) = (Server::new(), Server::new());
    let proxy = Proxy::start(&old.address(), &new.address(), &["-t", "60"]);
    let before = Vitals::at_rest(&proxy);
    let idle: Vec<_> = (0..IDLE).map(|number| asking(&proxy, &format!("{number:06}"))).collect();
    let number_of = |far: &TcpStream| read_text(far, 6).parse::<usize>().unwrap();
    let far: Vec<_> = idle.iter().map(|_| old.accept()).map(|far| (number_of(&far), far)).collect();
    let switch = Started::on(&proxy);
    let held: Vec<_> = (0..HELD).map(|number| asking(&proxy, &format!("{number:06}"))).collect();
    are_held(&proxy, HELD as u64);
    for (number, far) in &far {
        let (mut client, mut far) = (&idle[*number], far);
        client.write_all(b"still there?").unwrap();
        assert_eq!(read_text(far, 12), "still there?");
        far.write_all(b"yes").unwrap();
        assert_eq!(read_text(client, 3), "yes");
    }
    assert!(new.try_accept().is_none(), "nobody comes before the idle ones have ended");
    drop((idle, far));
    let order: Vec<_> = held.iter().map(|_| read_text(&new.accept(), 6)).collect();
    assert!(switch.outcome().contains("Switch OK"));
    assert!(order.is_sorted(), "{order:?}");
    assert!(old.try_accept().is_none(), "nobody came to the old server");
    drop(held);
    before.are_back(&proxy);
}

/// One that loses no client however slowly it accepts: when a queue is full the system drops connects, which are
/// repeated a second later, in an order of its own.
fn patient_listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

#[test]
fn a_held_client_that_has_left_reaches_no_server_and_does_not_count() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    // Room for four: those who leave must make room.
    let proxy = Proxy::start(&old.address(), &new.address(), &["-t", "60", "-c", "4", "-l", "DEBUG"]);
    let open = asking(&proxy, "a");
    assert_eq!(read_text(&open, 5), "old:a");
    let switch = Started::on(&proxy);
    let stays = asking(&proxy, "stays");
    for _ in 0..5 {
        let closes = proxy.connect();
        let resets = proxy.connect();
        let resets_after_sending = asking(&proxy, "lost");
        are_held(&proxy, 4);
        drop(closes);
        reset(resets);
        reset(resets_after_sending);
        are_held(&proxy, 1);
    }
    drop(open);
    let outcome = switch.outcome();
    assert!(outcome.contains("Switch OK"), "{outcome}");
    assert_eq!(read_text(&stays, 9), "new:stays");
    assert_eq!((old.connections(), new.connections()), (1, 1));
    eventually(SOON, "the log says why", || proxy.log().matches("closed: left while it was held").count() == 15);
}

#[test]
fn a_held_client_that_has_asked_and_ended_its_side_is_served() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let proxy = Proxy::start(&old.address(), &new.address(), &["-t", "60"]);
    let open = asking(&proxy, "a");
    assert_eq!(read_text(&open, 5), "old:a");
    let switch = Started::on(&proxy);
    let half_closed = asking(&proxy, "question");
    half_closed.shutdown(Shutdown::Write).unwrap();
    let half_closed_and_gone = asking(&proxy, "question");
    half_closed_and_gone.shutdown(Shutdown::Write).unwrap();
    are_held(&proxy, 2);
    // That it ended its side was noticed and is not held against it; a reset still is.
    reset(half_closed_and_gone);
    are_held(&proxy, 1);
    drop(open);
    assert!(switch.outcome().contains("Switch OK"));
    assert_eq!(read_rest(&half_closed), b"new:question");
    assert_eq!(new.connections(), 1);
}

#[test]
fn a_server_that_drops_syns_keeps_neither_the_switch_nor_anybody_waiting() {
    let (deaf, new) = (Deaf::new(), Backend::echo("new"));
    // More than the whole test may take: whatever waits for the dead server fails it.
    let flags = ["-t", "10", "--connect_timeout", "60"];
    let proxy = Proxy::start(&deaf.address(), &new.address(), &flags);
    let stuck: Vec<_> = (0..100).map(|_| asking(&proxy, "x")).collect();
    are_held(&proxy, 36);
    assert_eq!(proxy.stat("active"), 64, "as many as may are being connected");
    let outcome = Started::on(&proxy).outcome();
    assert!(outcome.contains("Switch OK"), "{outcome}");
    stuck.iter().for_each(|client| assert_eq!(read_text(client, 5), "new:x"));
    assert_eq!(read_text(&asking(&proxy, "y"), 5), "new:y");
    assert_eq!(new.connections(), 101, "each came once");
    drop(stuck);
    // On the way back its clients wait no longer than they were told to.
    let proxy = Proxy::start(&deaf.address(), &new.address(), &["--connect_timeout", "0.5"]);
    assert_eq!(read_rest(&proxy.connect()), b"", "closed");
    eventually(SOON, "the log says why", || proxy.log().contains("no answer within the connect timeout"));
}

#[test]
fn a_client_whose_dial_was_called_off_keeps_its_place_when_the_switch_fails() {
    let (deaf, new, dir) = (Deaf::new(), Backend::echo("new"), TempDir::new("hold"));
    let script = waiting_script(&dir, 1);
    let flags = ["-t", "60", "--connect_timeout", "60", "-x", &script];
    let proxy = Proxy::start(&deaf.address(), &new.address(), &flags);
    let _stuck: Vec<_> = (0..5).map(|_| asking(&proxy, "x")).collect();
    eventually(SOON, "all are being connected", || proxy.stat("active") == 5);
    let switch = Started::on(&proxy);
    has_begun(&dir);
    assert_eq!((proxy.stat("active"), proxy.stat("in queue")), (0, 5), "they wait for the outcome");
    let_end(&dir);
    assert!(switch.outcome().contains("script exited with code: 1"));
    eventually(SOON, "all are being connected again", || proxy.stat("active") == 5);
    assert_eq!(new.connections(), 0);
}

/// The log told the dial's trouble as the reason, and counted only the time before the dial as held.
#[test]
fn the_log_tells_of_a_called_off_client_that_left_that_it_was_held() {
    let (deaf, dir) = (Deaf::new(), TempDir::new("hold"));
    let script = waiting_script(&dir, 1);
    let flags = ["-t", "60", "--connect_timeout", "60", "-x", &script, "-l", "DEBUG"];
    let proxy = Proxy::start(&deaf.address(), &deaf.address(), &flags);
    let client = proxy.connect();
    eventually(SOON, "it is being connected", || proxy.stat("active") == 1);
    let _switch = Started::on(&proxy);
    has_begun(&dir);
    // So long that the two times differ as they are written.
    let held = Instant::now();
    eventually(SOON, "it has been held for a while", || held.elapsed() > Duration::from_millis(50));
    drop(client);
    eventually(SOON, "the log tells", || proxy.log().contains("closed: left while it was held; 0 bytes up"));
    assert!(!proxy.log().contains(" in all, 0.000 s held"), "{}", proxy.log());
}

#[test]
fn more_clients_than_a_unix_servers_queue_holds_are_all_served() {
    let dir = TempDir::new("hold");
    let path = dir.path().join("server");
    let listener = unix_listener(&path, 4);
    let old = Backend::echo("old");
    let path = path.display().to_string();
    let proxy = Proxy::start(&old.address(), &path, &["-t", "60"]);
    let open = asking(&proxy, "a");
    assert_eq!(read_text(&open, 5), "old:a");
    let switch = Started::on(&proxy);
    let held: Vec<_> = (0..50).map(|_| asking(&proxy, "x")).collect();
    are_held(&proxy, 50);
    drop(open);
    assert!(switch.outcome().contains("Switch OK"));
    // The server has accepted no client so far: most found the queue full.
    let serving = thread::spawn(move || {
        for _ in 0..50 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(b"unix").unwrap();
        }
    });
    held.iter().for_each(|client| assert_eq!(read_text(client, 4), "unix"));
    serving.join().unwrap();
}

fn unix_listener(path: &Path, backlog: i32) -> UnixListener {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

#[test]
fn twenty_switches_there_and_back_under_load_cost_nobody_an_error() {
    let (blue, green, dir) = (Backend::echo("b"), Backend::echo("g"), TempDir::new("hold"));
    let script = dir.script("promote", "#!/bin/sh\nexit 0\n").display().to_string();
    let proxy = Proxy::start(&blue.address(), &green.address(), &["-t", "10", "-x", &script]);
    let before = Vitals::at_rest(&proxy);
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (address, stop) = (proxy.addr(), Arc::clone(&stop));
            thread::spawn(move || {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.set_read_timeout(Some(SOON)).unwrap();
                    client.write_all(b"x").unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                    let answer = read_rest(&client);
                    assert!(answer == b"b:x" || answer == b"g:x", "after {served}: {answer:?}");
                    served += 1;
                }
                served
            })
        })
        .collect();
    for _ in 0..20 {
        let answer = finish(proxy.begin("switch"));
        assert!(answer.contains("Switch OK"), "{answer}");
    }
    stop.store(true, Ordering::Relaxed);
    let served: usize = load.into_iter().map(|thread| thread.join().unwrap()).sum();
    // A dial that a switch cancelled may have reached its server for a moment, without a byte.
    let greeted = blue.greetings().len() + green.greetings().len();
    assert_eq!(greeted, served, "each client spoke to one server, once");
    assert!(!blue.greetings().is_empty() && !green.greetings().is_empty());
    before.are_back(&proxy);
}
