//! Peers that break off, push or crawl in the middle of things. Each is noticed at once, told to the other side as what it
//! was, and costs nobody else anything.

use std::net::Shutdown;

use socket2::SockRef;

use crate::ends::{Server, read_rest, reset};
use crate::relay::{connected, nobody_is_connected, proxy_for, the_log_tells};
use crate::support::{SOON, eventually};

/// Both told by one event: the failure was forgotten over the end, and the other side kept waiting.
#[test]
fn a_side_that_ends_and_fails_at_once_is_not_taken_for_one_that_has_only_ended() {
    let server = Server::new();
    let proxy = proxy_for(&server, &["-l", "DEBUG"]);
    let (client, far) = connected(&proxy, &server);
    proxy.frozen(|| {
        client.shutdown(Shutdown::Write).unwrap();
        reset(client);
    });
    // Everything it sent was complete; that nobody waits for the answer any more is told, too.
    assert_eq!(read_rest(&far), b"");
    let is_told = |stream| SockRef::from(stream).take_error().unwrap().is_some();
    eventually(SOON, "the server is told that its client has failed", || is_told(&far));
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "closed: the client failed", 1);
    let (client, far) = connected(&proxy, &server);
    proxy.frozen(|| {
        far.shutdown(Shutdown::Write).unwrap();
        reset(far);
    });
    assert_eq!(read_rest(&client), b"");
    eventually(SOON, "the client is told that its server has failed", || is_told(&client));
    nobody_is_connected(&proxy);
    the_log_tells(&proxy, "closed: done, the backend ended first", 1);
}
