//! What passes, and how it ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Pumpkin;
use crate::backend::Backend;
use crate::ends::{Server, read_rest, read_until_reset};
use crate::support::{SOON, eventually, nobody};
use crate::talk::served_by;

#[test]
fn workers_take_turns_in_list_order_for_each_mapping_alone() {
    let backends = ["A", "B", "C"].map(Backend::echo);
    let [a, b, c] = backends.each_ref().map(Backend::address);
    let pumpkin = Pumpkin::start(2, &format!("[mappings]\nP0={a},{b},{c}\n127.0.0.1:P1={c},{a}\n"));
    let mut served = [String::new(), String::new()];
    for _ in 0..6 {
        for (number, served) in served.iter_mut().enumerate() {
            served.push_str(&served_by(&mut pumpkin.connect(number)));
        }
    }
    assert_eq!(served, ["ABCABC", "CACACA"]);
}

#[test]
fn defect_3_short_answers_are_all_delivered() {
    const ANSWER: [u8; 1000] = [b'x'; 1000];
    let backend = Backend::start(|mut stream, _| {
        stream.write_all(&ANSWER).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={}\n", backend.address()));
    let whole = (0..20).filter(|_| read_rest(&pumpkin.connect(0)) == ANSWER).count();
    assert_eq!(whole, 20);
}

#[test]
fn defect_4_half_close_is_relayed() {
    let backend = Backend::start(|mut stream, _| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={}\n", backend.address()));
    let mut client = pumpkin.connect(0);
    client.write_all(&[7; 5000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&client), b"5000 bytes");
}

#[test]
fn defect_11_a_client_that_does_not_read_stalls_nobody_and_fills_no_memory() {
    const MOST: usize = 40 << 20;
    let server = Server::new();
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={}\n", server.address()));
    let mut client = pumpkin.connect(0);
    let mut far = server.accept();
    // Server to client until it stops: the client does not read.
    far.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    while let Ok(length) = far.write(&[1; 64 * 1024]) {
        sent += length;
        assert!(sent < MOST, "it has taken {sent} bytes that nobody reads");
    }
    // The other direction continues.
    client.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
    far.shutdown(Shutdown::Both).unwrap();
    assert_eq!(read_rest(&client).len(), sent);
}

/// With a client of the first mapping, in mid-talk.
fn with_client() -> (Pumpkin, Backend, TcpStream) {
    let backend = Backend::echo("A");
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={}\n", backend.address()));
    let mut client = pumpkin.connect(0);
    assert_eq!(served_by(&mut client), "A");
    (pumpkin, backend, client)
}

#[test]
fn defect_8_a_stop_lets_clients_finish_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut pumpkin, _backend, mut client) = with_client();
        pumpkin.signal(signal);
        pumpkin.says("Caught signal, shutting down listeners...\n", 1);
        eventually(SOON, "the port is closed", || TcpStream::connect(("127.0.0.1", pumpkin.port(0))).is_err());
        assert_eq!(served_by(&mut client), "A", "it goes on");
        drop(client);
        assert_eq!(pumpkin.wait().code(), Some(0));
        assert!(pumpkin.out().ends_with(" ] exiting...\n"), "{}", pumpkin.out());
        assert_eq!(pumpkin.err(), "");
    }
}

#[test]
fn defect_8_clients_that_do_not_finish_are_cut_after_6_s_and_it_exits_with_0() {
    let (mut pumpkin, _backend, client) = with_client();
    let begun = Instant::now();
    pumpkin.signal(Signal::TERM);
    assert_eq!(read_until_reset(&client), 0);
    assert!(begun.elapsed() >= Duration::from_secs(6), "only after {:?}", begun.elapsed());
    assert_eq!(pumpkin.wait().code(), Some(0));
    pumpkin.warns("Closed ", 1);
}

#[test]
fn a_second_signal_does_not_wait() {
    let (mut pumpkin, _backend, client) = with_client();
    let begun = Instant::now();
    pumpkin.signal(Signal::INT);
    pumpkin.says("Caught signal", 1);
    pumpkin.signal(Signal::INT);
    assert_eq!(pumpkin.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(6));
    read_until_reset(&client);
}

#[test]
fn defect_8_a_stop_during_retries_is_in_order() {
    let (_port, gone) = nobody();
    let mut pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={gone}\n"));
    let client = pumpkin.connect(0);
    pumpkin.warns("Retrying request from ", 2);
    let ended = thread::spawn(move || read_rest(&client));
    pumpkin.signal(Signal::TERM);
    assert_eq!(pumpkin.wait().code(), Some(0));
    assert_eq!(ended.join().unwrap(), b"");
    assert!(pumpkin.out().ends_with(" ] exiting...\n"), "{}", pumpkin.out());
    assert!(pumpkin.err().lines().all(|line| line.starts_with("[ ")), "{}", pumpkin.err());
}
