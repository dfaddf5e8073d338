//! Which server a client gets: the first that works, the next when it fails, the first again when it is back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use super::program::{Absent, Fallback};
use crate::backend::Backend;
use crate::ends::{Server, pattern, read_rest, read_text, read_until_reset, reset};
use crate::service::connect;
use crate::support::{Reserved, SOON, eventually};
use crate::talk::{is_turned_away, served_by};

#[test]
fn all_clients_go_to_the_first_that_works() {
    let (first, second) = (Backend::echo("first"), Backend::echo("second"));
    let fallback = Fallback::start(&[], &[&first.address(), &second.address()]);
    for _ in 0..20 {
        assert_eq!(served_by(&mut fallback.connect()), "first");
    }
    assert_eq!(second.greetings(), [""; 0], "the second was probed at the start, and had no client");
}

#[test]
fn a_client_that_one_refuses_is_given_the_next_with_all_it_has_sent() {
    let (absent, second) = (Absent::new(), Server::new());
    // With a first that failed before the client came it would not be tried.
    let first = absent.arrives();
    let fallback = Fallback::start(&["-probe-delay", "0s"], &[&absent.address(), &second.address()]);
    first.accept();
    second.accept();
    drop(first);
    let mut client = fallback.connect();
    let sent = pattern(100_000);
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&second.accept()), sent);
    fallback.says(&format!("Failed to connect to backend {}: ", absent.address()));
}

#[test]
fn who_is_back_is_used_again_after_its_probe_and_nobody_is_moved() {
    let (absent, second) = (Absent::new(), Backend::echo("second"));
    let fallback = Fallback::start(&["-probe-delay", "200ms"], &[&absent.address(), &second.address()]);
    fallback.says("Failed to connect to backend");
    let mut early = fallback.connect();
    assert_eq!(served_by(&mut early), "second");
    let first = absent.arrives();
    let back = fallback.says(&format!("Backend is back {}, downtime: ", absent.address()));
    assert!(back.ends_with("s"), "a duration: {back}");
    let mut late = fallback.connect();
    late.write_all(b"who?").unwrap();
    assert_eq!(first.accept_client().1, b"who?", "new clients go to the first again");
    assert_eq!(served_by(&mut early), "second", "and those who are served stay");
}

#[test]
fn a_connection_outlives_the_failure_of_its_server_to_take_others() {
    let (absent, second) = (Absent::new(), Backend::echo("second"));
    let first = absent.arrives();
    let fallback = Fallback::start(&[], &[&absent.address(), &second.address()]);
    let mut old = fallback.connect();
    old.write_all(b"who?").unwrap();
    let (mut served, _) = first.accept_client();
    drop(first);
    assert_eq!(served_by(&mut fallback.connect()), "second");
    fallback.says("Failed to connect to backend");
    served.write_all(b"still here").unwrap();
    assert_eq!(read_text(&old, 10), "still here");
}

#[test]
fn probe_delay_0s_probes_at_the_start_and_never_again() {
    let (absent, second) = (Absent::new(), Backend::echo("second"));
    let flags = ["-probe-delay", "0s", "-stats", "20ms"];
    let fallback = Fallback::start(&flags, &[&absent.address(), &second.address()]);
    fallback.says("Failed to connect to backend");
    let first = absent.arrives();
    let before = fallback.count("STATS:");
    fallback.says_times("STATS:", before + 40);
    assert!(first.nobody_connects(), "probed");
    assert_eq!(served_by(&mut fallback.connect()), "second");
    assert_eq!(fallback.count("Backend is back"), 0);
}

#[test]
fn a_server_that_works_is_never_probed_after_the_start() {
    let (first, second) = (Absent::new(), Absent::new());
    let (one, two) = (first.arrives(), second.arrives());
    let flags = ["-probe-delay", "10ms", "-stats", "20ms"];
    let fallback = Fallback::start(&flags, &[&first.address(), &second.address()]);
    for server in [&one, &two] {
        assert_eq!(server.accept().read(&mut [0]).unwrap(), 0, "connected, and closed again without a byte");
    }
    let before = fallback.count("STATS:");
    fallback.says_times("STATS:", before + 40);
    assert!(one.nobody_connects() && two.nobody_connects());
}

#[test]
fn without_a_server_that_works_a_client_is_closed_without_data_and_the_program_goes_on() {
    let absent = [Absent::new(), Absent::new()];
    let remotes = [absent[0].address(), absent[1].address()];
    let mut fallback = Fallback::start(&[], &[&remotes[0], &remotes[1]]);
    assert!(is_turned_away(&mut fallback.connect()));
    fallback.says("Failed to connect to any backend");
    assert!(fallback.is_running());
}

#[test]
fn half_close_is_passed_on_each_way() {
    let server = Server::new();
    let fallback = Fallback::start(&[], &[&server.address()]);
    server.accept();
    for client_first in [true, false] {
        let (mut client, mut served) = (fallback.connect(), server.accept());
        let (one, other) = if client_first { (&mut client, &mut served) } else { (&mut served, &mut client) };
        one.write_all(b"that was all").unwrap();
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_rest(other), b"that was all", "the end arrives");
        other.write_all(b"and the other way still carries").unwrap();
        other.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_rest(one), b"and the other way still carries");
    }
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let server = Server::new();
    let fallback = Fallback::start(&[], &[&server.address()]);
    server.accept();
    let (mut client, served) = (fallback.connect(), server.accept());
    // A reset before anything has passed could still be a failure to connect.
    client.write_all(b"x").unwrap();
    read_text(&served, 1);
    reset(served);
    read_until_reset(&client);
}

#[test]
fn without_a_host_it_listens_on_all_addresses_of_both_kinds() {
    let server = Backend::echo("s");
    let fallback = Fallback::start_at(":PORT", &[], &[&server.address()]);
    assert!(fallback.says("Listening on").ends_with(&format!("Listening on :{}", fallback.port())));
    for host in ["127.0.0.1", "127.0.0.2", "::1"] {
        let mut client = connect((host.parse::<std::net::IpAddr>().unwrap(), fallback.port()).into());
        assert_eq!(served_by(&mut client), "s", "{host}");
    }
}

#[test]
fn ipv6_and_names_work_on_both_sides() {
    // A port that is not given to another process.
    let port = Reserved::new();
    let six = TcpListener::bind(("::1", port.port())).unwrap();
    let address = six.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in six.incoming() {
            stream.and_then(|mut stream| stream.write_all(b"six")).ok();
        }
    });
    let fallback = Fallback::start_at("[::1]:PORT", &[], &[&address]);
    assert_eq!(read_rest(&connect((std::net::Ipv6Addr::LOCALHOST, fallback.port()).into())), b"six");

    let four = Backend::echo("four");
    let named = four.address().replace("127.0.0.1", "localhost");
    let fallback = Fallback::start_at("localhost:PORT", &[], &["nosuch.invalid:5432", &named]);
    fallback.says(&format!("Backend {named} added"));
    fallback.says("Failed to connect to backend nosuch.invalid:5432: ");
    assert_eq!(served_by(&mut fallback.connect()), "four");
    assert_eq!(fallback.count("Listening on"), 1, "a name is one place to listen, whatever it stands for");
}

#[test]
fn a_backend_without_a_host_is_on_this_machine() {
    let server = Backend::echo("s");
    let here = server.address().replace("127.0.0.1", "");
    let fallback = Fallback::start(&[], &[&here]);
    fallback.says(&format!("Backend {here} added"));
    assert_eq!(served_by(&mut fallback.connect()), "s");
}

#[test]
fn port_0_is_chosen_by_the_system_and_told() {
    let server = Backend::echo("s");
    let fallback = Fallback::start_at("127.0.0.1:0", &[], &[&server.address()]);
    let line = fallback.says("Listening on ");
    let at: std::net::SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(served_by(&mut connect(at)), "s");
}

#[test]
fn a_thousand_clients_at_once_are_all_served() {
    let server = Backend::echo("s");
    let fallback = Fallback::start(&["-debug"], &[&server.address()]);
    let mut clients: Vec<TcpStream> = (0..1000).map(|_| fallback.connect()).collect();
    assert!(clients.iter_mut().all(|client| served_by(client) == "s"));
    drop(clients);
    eventually(SOON, "every end is told", || fallback.count("Finished transfer") == 1000);
}
