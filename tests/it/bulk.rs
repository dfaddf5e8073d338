//! Large transfers beside everything else: who talks little is served meanwhile, a switch waits for them, a shortage of
//! descriptors costs them no byte, and urgent bytes (MSG_OOB) keep their place in them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::backend::Backend;
use crate::ends::{Server, fill, pattern, read_rest, read_text};
use crate::proxy::Proxy;
use crate::relay::{connected, nobody_is_connected, proxy_for, the_log_tells};
use crate::support::{SOON, eventually};
use crate::talk::{Session, served_by};
use crate::vitals::Vitals;

/// Sends one byte as urgent.
fn send_urgent(stream: &TcpStream, byte: u8) {
    assert_eq!(send(stream, &[byte], SendFlags::OOB).unwrap(), 1);
}

/// Reads to the end on a thread of its own.
fn reading(stream: &TcpStream) -> JoinHandle<Vec<u8>> {
    let stream = stream.try_clone().unwrap();
    thread::spawn(move || read_rest(&stream))
}

/// How many pipes the proxy has made: it has one for each direction in bulk. Those it was started with, such as that of
/// its output, do not count: this process has them, too.
fn pipes(proxy: &Proxy) -> usize {
    let of = |process: &str| {
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
        let targets = descriptors.filter_map(|one| std::fs::read_link(one.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).collect::<BTreeSet<PathBuf>>()
    };
    of(&proxy.pid().to_string()).difference(&of("self")).count()
}

#[test]
fn an_urgent_byte_keeps_its_place_among_single_bytes() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    let (mut client, mut far) = connected(&proxy, &server);
    for round in 0..100_u8 {
        let both = [(&client, &far), (&far, &client)];
        for (mut from, to) in both {
            // Alone, before, between and after others; each arrived before the next is sent, or together.
            send_urgent(from, b'A');
            if round % 2 == 0 {
                assert_eq!(read_text(to, 1), "A");
            }
            from.write_all(b"bc").unwrap();
            send_urgent(from, b'D');
            send_urgent(from, b'E');
            from.write_all(b"f").unwrap();
            let expected = if round % 2 == 0 { "bcDEf" } else { "AbcDEf" };
            assert_eq!(read_text(to, expected.len()), expected, "round {round}");
        }
    }
    client.write_all(b"z").unwrap();
    far.write_all(b"z").unwrap();
    for (from, to) in [(&client, &far), (&far, &client)] {
        send_urgent(from, b'!');
        from.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_rest(to), b"z!", "directly before the end");
    }
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "; 603 bytes up, 602 down", 1);
}

#[test]
fn urgent_bytes_keep_their_places_in_a_bulk_transfer() {
    const LENGTH: usize = 24 << 20;
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    let (client, far) = connected(&proxy, &server);
    for (from, to) in [(&client, &far), (&far, &client)] {
        let arriving = reading(to);
        let all = pattern(LENGTH);
        let mut sender = from;
        // First in the middle of what is being spliced, then ever closer together, the last directly before the end.
        let (mut at, mut distance) = (0, LENGTH / 2);
        let mut has_spliced = false;
        while at < LENGTH - 1 {
            let next = (at + distance).min(LENGTH - 1);
            sender.write_all(&all[at..next]).unwrap();
            has_spliced |= pipes(&proxy) > 0;
            send_urgent(sender, all[next]);
            at = next + 1;
            distance = (distance / 2).max(100_000);
        }
        from.shutdown(Shutdown::Write).unwrap();
        assert!(has_spliced, "the transfer is one that is spliced");
        assert!(arriving.join().unwrap() == all, "every byte arrived in its place");
    }
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, &format!("; {} bytes up, {LENGTH} down", LENGTH + 1), 1);
}

#[test]
fn small_requests_are_answered_while_bulk_transfers_run() {
    let flood = |mut stream: TcpStream| {
        while stream.write_all(&[b'F'; 64 * 1024]).is_ok() {}
    };
    let server = Backend::start(move |mut stream, _| {
        let mut wish = [0];
        while let Ok(1) = stream.read(&mut wish) {
            match wish {
                [b'F'] => return flood(stream),
                [other] => stream.write_all(&[other]).unwrap(),
            }
        }
    });
    let proxy = Proxy::start(&server.address(), &server.address(), &[]);
    // As many as there are relay threads, and more: none is without.
    let transfers: Vec<_> = (0..4)
        .map(|_| {
            let mut client = proxy.connect();
            client.write_all(b"F").unwrap();
            let control = client.try_clone().unwrap();
            let reading = thread::spawn(move || {
                let (mut total, mut buffer) = (0, vec![0; 256 * 1024]);
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    total += length;
                }
                total
            });
            (control, reading)
        })
        .collect();
    eventually(SOON, "the transfers are spliced", || pipes(&proxy) > 0);
    let clients: Vec<_> = (0..100).map(|_| proxy.connect()).collect();
    for round in 0..5_u8 {
        for mut client in &clients {
            client.write_all(&[round]).unwrap();
        }
        for mut client in &clients {
            let mut answer = [0];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [round]);
        }
    }
    assert_eq!(proxy.stat("active"), 104, "the transfers still run");
    for (client, reading) in transfers {
        client.shutdown(Shutdown::Both).unwrap();
        assert!(reading.join().unwrap() > 1 << 20);
    }
}

#[test]
fn without_a_descriptor_for_a_pipe_bulk_transfers_are_copied_to_the_last_byte() {
    const LENGTH: usize = 12 << 20;
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    let (client, far) = connected(&proxy, &server);
    // Sessions that are ending have descriptors, too.
    Vitals::at_rest(&proxy);
    let is_free = |number: &u64| !std::path::Path::new(&format!("/proc/{}/fd/{number}", proxy.pid())).is_symlink();
    let next = (0..).find(is_free).unwrap();
    let limit = |number: u64| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let new = Rlimit { current: Some(number), maximum };
        prlimit(Pid::from_raw(proxy.pid() as i32), Resource::Nofile, new).unwrap();
    };
    for round in 0..2 {
        // First no descriptor is available, then one, which is half a pipe.
        limit(next + round);
        for (mut from, to) in [(&client, &far), (&far, &client)] {
            let to = to.try_clone().unwrap();
            let arriving = thread::spawn(move || {
                let mut all = vec![0; LENGTH];
                (&to).read_exact(&mut all).unwrap();
                all
            });
            from.write_all(&pattern(LENGTH)).unwrap();
            assert!(arriving.join().unwrap() == pattern(LENGTH), "round {round}");
            assert_eq!(pipes(&proxy), 0, "round {round}");
        }
    }
    limit(1_000);
    let arriving = reading(&far);
    (&client).write_all(&pattern(LENGTH)).unwrap();
    eventually(SOON, "pipes are used again", || pipes(&proxy) > 0);
    client.shutdown(Shutdown::Write).unwrap();
    assert!(arriving.join().unwrap() == pattern(LENGTH));
    far.shutdown(Shutdown::Write).unwrap();
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, &format!("; {} bytes up, {} down", 3 * LENGTH + 1, 2 * LENGTH), 1);
}

#[test]
fn a_switch_waits_for_bulk_transfers_and_the_held_are_served_by_the_new_server() {
    let (old, new) = (Server::new(), Backend::echo("new"));
    let proxy = Proxy::start(&old.address(), &new.address(), &["-t", "60"]);
    let (up, up_far) = connected(&proxy, &old);
    let (down, down_far) = connected(&proxy, &old);
    // Both are stuck in the middle when the switch begins.
    let sent_up = fill(&up);
    let sent_down = fill(&down_far);
    let switch = Session::switch(&proxy);
    let mut held = proxy.connect();
    eventually(SOON, "a new client is held", || proxy.stat("in queue") == 1);
    let arriving = [reading(&up_far), reading(&down)];
    for mut sender in [&up, &down_far] {
        sender.write_all(&pattern(4 << 20)).unwrap();
        assert_eq!(new.connections(), 0, "nobody is at the new server before all have left the old one");
        sender.shutdown(Shutdown::Write).unwrap();
    }
    for (arriving, sent) in arriving.into_iter().zip([sent_up, sent_down]) {
        let got = arriving.join().unwrap();
        assert_eq!(got.len(), sent + (4 << 20));
        assert!(got[sent..] == pattern(4 << 20));
    }
    // The other one has been closed: during a switch a server's end is the end.
    eventually(SOON, "who waits for an answer has it", || proxy.stat("active") == 1);
    assert_eq!(new.connections(), 0, "it is waited for");
    up_far.shutdown(Shutdown::Write).unwrap();
    let answer = switch.last_line();
    assert!(answer.contains("Switch OK"), "{answer}");
    assert_eq!(served_by(&mut held), "new");
}
