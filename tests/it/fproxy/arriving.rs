//! `-y`, `-t`, ends of clients, and where they may come from and go to.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use super::Fproxy;
use crate::backend::Backend;
use crate::ends::{Server, read_rest, read_text, read_until_reset};
use crate::support::TempDir;
use crate::talk::served_by;

#[test]
fn y_holds_a_client_off_until_it_has_sent_so_much_and_passes_all_of_it_on() {
    let server = Server::new();
    let proxy = Fproxy::start(&["-y6"], &[&server.address()]);
    let mut slow = proxy.connect();
    slow.write_all(b"12345").unwrap();
    let mut other = proxy.connect();
    other.write_all(b"abcdef").unwrap();
    let far = server.accept();
    assert_eq!(read_text(&far, 6), "abcdef");
    assert!(server.try_accept().is_none(), "five bytes are not enough");
    slow.write_all(b"6").unwrap();
    assert_eq!(read_text(&server.accept(), 6), "123456");
}

#[test]
fn with_y_an_empty_connection_reaches_no_backend_and_the_method_is_post() {
    let backend = Backend::echo("A");
    let proxy = Fproxy::start(&["-y1"], &[&backend.address()]);
    drop(proxy.connect());
    let accesses = proxy.has_accesses(1);
    assert!(accesses[0].contains("] \"POST -\" 499 0 "), "{accesses:?}");
    assert_eq!(backend.connections(), 0);
    assert_eq!(proxy.serves(), "A");
    assert!(proxy.accesses()[1].contains("] \"POST 127.0.0.1\" 200 "), "{:?}", proxy.accesses());
}

#[test]
fn without_y_a_backend_is_connected_to_at_once() {
    let server = Server::new();
    let proxy = Fproxy::start(&[], &[&server.address()]);
    let _silent = proxy.connect();
    server.accept();
}

#[test]
fn t_closes_a_client_that_is_idle_for_so_long() {
    let server = Server::new();
    let proxy = Fproxy::start(&["-t1"], &[&server.address()]);
    let mut client = proxy.connect();
    let far = server.accept();
    client.write_all(b"x").unwrap();
    assert_eq!(read_text(&far, 1), "x");
    assert_eq!(read_until_reset(&client), 0, "the server has not ended its stream");
    let accesses = proxy.has_accesses(1);
    let fields: Vec<&str> = accesses[0].rsplit(' ').collect();
    assert!(fields[2].parse::<u64>().unwrap() >= 1, "it was here for a second: {accesses:?}");
}

#[test]
fn t_closes_one_that_never_sends_what_y_asks_for() {
    let backend = Backend::echo("A");
    let proxy = Fproxy::start(&["-y6", "-t1"], &[&backend.address()]);
    let mut client = proxy.connect();
    client.write_all(b"12345").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_or_default(), 0);
    assert!(proxy.has_accesses(1)[0].contains("] \"POST -\" 408 "), "{:?}", proxy.accesses());
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_client_that_has_ended_its_sending_gets_its_answer() {
    let server = Server::new();
    let proxy = Fproxy::start(&[], &[&server.address()]);
    let mut client = proxy.connect();
    let mut far = server.accept();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&far), b"question");
    far.write_all(b"answer").unwrap();
    drop(far);
    assert_eq!(read_rest(&client), b"answer");
    let accesses = proxy.has_accesses(1);
    let line = &accesses[0];
    let (_, numbers) = line.split_once("\" 200 ").unwrap_or_else(|| panic!("{line}"));
    let numbers: Vec<&str> = numbers.split(' ').collect();
    assert_eq!((numbers.len(), numbers[0], numbers[2]), (4, "8", "6"), "{line}");
}

#[test]
fn clusters_and_backends_may_be_unix_sockets_ipv4_and_ipv6_in_any_mix() {
    let dir = TempDir::new("fproxy");
    let listener = UnixListener::bind(dir.path().join("server.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 64];
            if let Ok(length @ 1..) = stream.read(&mut bytes) {
                stream.write_all(b"unix:").unwrap();
                stream.write_all(&bytes[..length]).unwrap();
            }
        }
    });
    let six = Backend::echo_on(std::net::TcpListener::bind("[::1]:0").unwrap(), "six");
    let four = Backend::echo("four");
    let six_port = crate::support::Reserved::six();
    let own_six = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, six_port.port()));
    let clusters = ["-s0", "./front.sock", &own_six.to_string()];
    let proxy = Fproxy::start_in(dir, &clusters, &["./server.sock", &four.address(), &six.address()]);
    let mut by_path = UnixStream::connect(proxy.path("front.sock")).unwrap();
    by_path.write_all(b"hello").unwrap();
    let mut answer = [0; 10];
    by_path.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"unix:hello");
    drop(by_path);
    proxy.has_accesses(1);
    assert_eq!(served_by(&mut crate::service::connect(own_six)), "four");
    proxy.has_accesses(2);
    assert_eq!(served_by(&mut proxy.connect()), "six");
    let accesses = proxy.has_accesses(3);
    let shown =
        |line: &String| (line.split(' ').next().unwrap().to_owned(), line.split('"').nth(1).unwrap().to_owned());
    let expected = [("unix:", "GET ./server.sock"), ("::1", "GET 127.0.0.1"), ("127.0.0.1", "GET ::1")];
    assert_eq!(accesses.iter().map(shown).collect::<Vec<_>>(), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}
