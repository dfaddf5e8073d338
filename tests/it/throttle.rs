//! `max_open_conns`: never more clients at the server than that, the others in order, and the limit can be lifted.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::backend::Backend;
use crate::ends::{Deaf, Server, read_rest, read_text};
use crate::proxy::Proxy;
use crate::support::{SOON, eventually};

fn queue_is(proxy: &Proxy, active: u64, held: u64) {
    eventually(SOON, &format!("{active} are served and {held} wait"), || {
        thread::sleep(Duration::from_millis(10));
        proxy.stat("active") == active && proxy.stat("in queue") == held
    });
}

/// Clients that have sent their number, from 0 on.
fn numbered(proxy: &Proxy, count: usize) -> Vec<TcpStream> {
    let client = |number| {
        let mut client = proxy.connect();
        client.write_all(format!("{number:03}").as_bytes()).unwrap();
        client
    };
    (0..count).map(client).collect()
}

#[test]
fn the_limit_is_never_exceeded() {
    const CLIENTS: usize = 200;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(0)));
    let (own_now, own_most) = (Arc::clone(&now), Arc::clone(&most));
    let server = Backend::start(move |stream, _| {
        let open = own_now.fetch_add(1, Ordering::SeqCst) + 1;
        {
            let mut most = own_most.lock().unwrap();
            *most = open.max(*most);
        }
        assert_eq!(read_rest(&stream), b"x");
        (&stream).write_all(b"y").unwrap();
        // Not open any more from the moment on at which the proxy may know.
        own_now.fetch_sub(1, Ordering::SeqCst);
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let proxy = Proxy::start(&server.address(), &server.address(), &["-o", "3"]);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let address = proxy.addr();
            thread::spawn(move || {
                for _ in 0..CLIENTS / 8 {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.set_read_timeout(Some(SOON)).unwrap();
                    client.write_all(b"x").unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(read_rest(&client), b"y");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let most = *most.lock().unwrap();
    assert!(most <= 3, "{most} were open at once");
    assert_eq!(server.connections(), CLIENTS, "everybody was served");
}

#[test]
fn those_who_wait_are_served_in_order_as_others_leave() {
    let server = Server::new();
    let proxy = Proxy::start(&server.address(), &server.address(), &["-o", "1"]);
    let clients = numbered(&proxy, 20);
    queue_is(&proxy, 1, 19);
    for (number, client) in clients.into_iter().enumerate() {
        let mut far = server.accept();
        assert_eq!(read_text(&far, 3), format!("{number:03}"));
        assert!(server.try_accept().is_none(), "nobody else before this one has left");
        far.write_all(b"done").unwrap();
        drop(far);
        assert_eq!(read_rest(&client), b"done");
    }
    queue_is(&proxy, 0, 0);
}

#[test]
fn a_limit_of_0_lifts_the_throttle_and_a_lower_one_closes_nobody() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &["-o", "2"]);
    let clients = numbered(&proxy, 30);
    queue_is(&proxy, 2, 28);
    assert!(proxy.ask("set max_open_conns 12").contains("set to '12'"));
    queue_is(&proxy, 12, 18);
    assert!(proxy.ask("set max_open_conns 10").contains("set to '10'"));
    queue_is(&proxy, 12, 18);
    clients[..12].iter().for_each(|client| assert_eq!(read_text(client, 5).len(), 5));
    assert!(proxy.ask("set max_open_conns 0").contains("set to '0'"));
    queue_is(&proxy, 30, 0);
    clients[12..].iter().for_each(|client| assert_eq!(read_text(client, 5).len(), 5));
}

#[test]
fn a_client_that_is_being_connected_counts_as_open() {
    let deaf = Deaf::new();
    let flags = ["-o", "2", "--connect_timeout", "60"];
    let proxy = Proxy::start(&deaf.address(), &deaf.address(), &flags);
    let clients: Vec<_> = (0..5).map(|_| proxy.connect()).collect();
    queue_is(&proxy, 2, 3);
    // Those who give up make no room: their connects are still under way. Those who wait do.
    drop(clients);
    queue_is(&proxy, 2, 0);
}

#[test]
fn a_client_that_leaves_just_before_its_turn_reaches_no_server() {
    let server = Server::new();
    let proxy = Proxy::start(&server.address(), &server.address(), &["-o", "1"]);
    let mut open = (proxy.connect(), server.accept());
    for _ in 0..50 {
        let leaves = proxy.connect();
        let next = proxy.connect();
        queue_is(&proxy, 1, 2);
        drop(leaves);
        drop(open);
        let far = server.accept();
        (&next).write_all(b"x").unwrap();
        assert_eq!(read_text(&far, 1), "x", "this is the one who stayed");
        open = (next, far);
    }
}

#[test]
fn waiting_clients_are_not_served_by_a_failed_switch() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &["-o", "1", "-t", "0.2"]);
    let clients = numbered(&proxy, 3);
    queue_is(&proxy, 1, 2);
    assert!(proxy.ask("switch").contains("Switch failed: switch timeout"));
    queue_is(&proxy, 1, 2);
    assert_eq!(server.connections(), 1);
    for client in clients {
        assert_eq!(read_text(&client, 5).len(), 5);
    }
    assert_eq!(server.connections(), 3, "one after the other they are served all the same");
}
