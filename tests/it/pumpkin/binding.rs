//! Ports that cannot be listened on.

use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use rustix::process::Signal;

use super::{Pumpkin, refused};
use crate::backend::Backend;
use crate::support::{SOON, eventually};
use crate::talk::served_by;

#[test]
fn defect_10_a_port_in_use_is_told_and_tried_again_while_the_others_run() {
    let (a, taken) = (Backend::echo("A"), TcpListener::bind("127.0.0.1:0").unwrap());
    let place = taken.local_addr().unwrap();
    let pumpkin = Pumpkin::spawn(1, &format!("[mappings]\n{place}={0}\nP0={0}\n", a.address()));
    let told = format!(" ] Failed to bind to {place}. \"Address already in use\" Retrying in 5 seconds.\n");
    pumpkin.warns(&told, 1);
    let since = Instant::now();
    pumpkin.says("Starting up listener on 0.0.0.0:", 1);
    assert_eq!(served_by(&mut pumpkin.connect(0)), "A");
    pumpkin.warns(&told, 2);
    assert!(since.elapsed().as_secs() >= 4, "again after {:?}", since.elapsed());
    assert!(!pumpkin.out().contains(&format!("listener on {place}")), "{}", pumpkin.out());
    drop(taken);
    pumpkin.says(&format!("Starting up listener on {place} with mappings: {}\n", a.address()), 1);
    assert_eq!(served_by(&mut crate::service::connect(place)), "A");
}

#[test]
fn a_stop_does_not_wait_for_a_port() {
    let (a, taken) = (Backend::echo("A"), TcpListener::bind("127.0.0.1:0").unwrap());
    let place = taken.local_addr().unwrap();
    let mut pumpkin = Pumpkin::spawn(0, &format!("[mappings]\n{place}={}\n", a.address()));
    pumpkin.warns("Failed to bind to ", 1);
    // Signals are heeded from when everything that can be bound is.
    eventually(SOON, "it stops", || {
        pumpkin.signal(Signal::TERM);
        !pumpkin.is_running()
    });
    let status = pumpkin.wait();
    assert!(status.code() == Some(0) || std::os::unix::process::ExitStatusExt::signal(&status) == Some(15));
    assert_eq!(pumpkin.err().matches("Failed to bind to ").count(), 1);
}

#[test]
fn defect_10_with_strict_start_a_port_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap();
    let options = "[options]\nbuffer_size=4096\nstrict_start=1\n";
    let ran = refused(&format!("{options}[mappings]\n{place}=127.0.0.1:1\n"));
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.err, format!("PumpkinLB: cannot listen on {place}: address in use\n"));
    assert!(TcpStream::connect(place).is_ok());
}

#[test]
fn a_mapping_to_itself_is_an_error() {
    let port = crate::support::Reserved::new();
    let port = port.port();
    let ran = refused(&format!("[mappings]\n{port}=127.0.0.1:{port}\n"));
    assert_eq!(ran.code, Some(1));
    let told = format!("PumpkinLB: cannot use 127.0.0.1:{port} as a backend: this proxy listens there itself\n");
    assert_eq!(ran.err, told);
}
