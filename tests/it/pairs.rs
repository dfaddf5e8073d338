//! Threads of each client's own: who has them, what they cost, and that a stopped service leaves nothing behind.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::service::{address, connect, running};
use crate::support::{SOON, eventually};
use crate::talk::served_by;

/// Whose threads are there: the numbers of clients that have both.
fn pairs(proxy: &Proxy) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
    // A thread that ends between the two reads is left out.
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let names: Vec<_> = names.map(|name| name.trim_end().to_owned()).collect();
    let of = |prefix: &str| {
        let numbers = names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        numbers
    };
    let (clients, backends) = (of("client-"), of("backend-"));
    if clients == backends { clients } else { Vec::new() }
}

fn has_pairs(proxy: &Proxy, expected: &[u64]) {
    eventually(SOON, "the clients that are to have threads have them", || pairs(proxy) == expected);
}

fn client(proxy: &Proxy) -> TcpStream {
    let mut client = proxy.connect();
    assert_eq!(served_by(&mut client), "s");
    client
}

#[test]
fn the_first_clients_have_threads_of_their_own_and_the_others_are_served_too() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &["--thread_pairs", "2"]);
    let first = client(&proxy);
    let _second = client(&proxy);
    has_pairs(&proxy, &[0, 1]);
    let _third = client(&proxy);
    has_pairs(&proxy, &[0, 1]);
    assert!(proxy.ask("threads").contains(" client-1"), "they are listed");
    drop(first);
    eventually(SOON, "the first has left", || proxy.stat("active") == 2);
    let _fourth = client(&proxy);
    has_pairs(&proxy, &[1, 3]);
}

#[test]
fn a_new_number_of_pairs_counts_for_clients_to_come() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &["--thread_pairs", "0"]);
    let _zero = client(&proxy);
    has_pairs(&proxy, &[]);
    proxy.ask("set thread_pairs 1");
    let mut one = client(&proxy);
    has_pairs(&proxy, &[1]);
    proxy.ask("set thread_pairs 0");
    let _two = client(&proxy);
    has_pairs(&proxy, &[1]);
    assert_eq!(served_by(&mut one), "s", "who has threads keeps them");
}

#[test]
fn threads_are_used_again_and_a_surplus_ends() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &["--thread_pairs", "256"]);
    drop(client(&proxy));
    eventually(SOON, "it has left", || proxy.stat("active") == 0);
    let (before, _) = proxy.threads_and_descriptors();
    for _ in 0..50 {
        drop(client(&proxy));
        eventually(SOON, "it has left", || proxy.stat("active") == 0);
    }
    let (after, _) = proxy.threads_and_descriptors();
    // Control sessions are threads, too, and a client may come before the last one's threads are idle.
    assert!(after <= before + 6, "{after} threads instead of {before} after fifty clients, one after the other");
    let crowd: Vec<_> = (0..50).map(|_| client(&proxy)).collect();
    assert!(proxy.threads_and_descriptors().0 >= before + 90);
    drop(crowd);
    eventually(2 * SOON, "they have ended", || proxy.threads_and_descriptors().0 < before + 10);
}

/// Kilobytes of this process that the system has given it memory for, beyond files.
fn anonymous(proxy: &Proxy) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let row = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    row.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_client_that_has_said_nothing_has_no_buffer() {
    const CLIENTS: usize = 200;
    let server = Backend::echo("s");
    let flags = ["--thread_pairs", "256", "--net_buffer_size", "65536"];
    let proxy = Proxy::start(&server.address(), &server.address(), &flags);
    // What the program needs once is there.
    drop((0..20).map(|_| proxy.connect()).collect::<Vec<_>>());
    eventually(SOON, "they have left", || proxy.stat("active") == 0);
    let before = anonymous(&proxy);
    let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    eventually(SOON, "all have threads", || pairs(&proxy).len() == CLIENTS);
    let each = (anonymous(&proxy).saturating_sub(before)) as f64 / CLIENTS as f64;
    // The stacks of both threads and what the allocator keeps for each.
    assert!(each <= 40.0, "{each:.1} KiB for each");
    drop(clients);
}

#[test]
fn pipes_of_a_large_transfer_are_given_back_while_the_client_says_nothing() {
    const CLIENTS: usize = 20;
    let server = Backend::start(|mut stream, _| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::start(&server.address(), &server.address(), &["--thread_pairs", "256"]);
    let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    eventually(SOON, "all have threads", || pairs(&proxy).len() == CLIENTS);
    let before = pipes(&proxy);
    let mut most = 0;
    for mut client in &clients {
        let reading = client.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            (&reading).read_exact(&mut vec![0; 1 << 20]).unwrap();
        });
        client.write_all(&vec![7; 1 << 20]).unwrap();
        reader.join().unwrap();
        most = most.max(pipes(&proxy));
    }
    assert!(most > before, "they were needed");
    eventually(SOON, "all pipes have been given back", || pipes(&proxy) == before);
    drop(clients);
}

/// Ends of pipes, of which its standard output may be one.
fn pipes(proxy: &Proxy) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
    let targets = descriptors.filter_map(|one| fs::read_link(one.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
}

/// A service of a process was stopped, and its epoll and eventfds stayed: each was held by itself in a circle.
#[test]
fn a_stopped_service_gives_every_descriptor_back() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "pairs::this_is_no_test_but_starts_and_stops_services", "--ignored", "--nocapture"]);
    let output = child.env(PROGRAM, "yes").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = text.lines().find_map(|line| line.split_once("descriptors: ")).map(|(_, counts)| counts);
    let counts: Vec<usize> =
        counts.unwrap_or_else(|| panic!("{text}")).split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(counts.len() == 3 && counts[1] == counts[0] && counts[2] == counts[0], "{counts:?}");
}

const PROGRAM: &str = "CBPX_TEST_STOPPED_SERVICES";

#[test]
#[ignore = "a program that another test starts"]
fn this_is_no_test_but_starts_and_stops_services() {
    if std::env::var_os(PROGRAM).is_none() {
        return;
    }
    let server = Backend::echo("s");
    let address_of_server = server.address();
    let counts = (0..3).map(|_| {
        let proxy = running(&[&address_of_server], |_| {});
        let mut clients = [connect(address(&proxy)), connect(address(&proxy))];
        clients.iter_mut().for_each(|client| assert_eq!(served_by(client), "s"));
        drop(clients);
        drop(proxy);
        let targets = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("anon_inode:")).count().to_string()
    });
    println!("descriptors: {}", counts.collect::<Vec<_>>().join(" "));
}
