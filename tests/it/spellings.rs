//! Every spelling of an address that the system takes, in every place where one can be given.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use crate::alone::{ip, is_alone};
use crate::backend::Backend;
use crate::balance::{self, Balance};
use crate::command::{Killed, cbpx};
use crate::ends::Server;
use crate::proxy::{CBPX, Proxy};
use crate::pumpkin::Pumpkin;
use crate::service::connect;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::served_by;

/// 127.0.0.1.
const SPELLINGS: [&str; 5] = ["127.0.0.1", "127.1", "::ffff:127.0.0.1", "[::ffff:127.0.0.1]", "::ffff:7f00:1"];

/// With a port, where that can be read in one way only.
fn with_port(spelling: &str, port: impl std::fmt::Display) -> Option<String> {
    (spelling != "::ffff:7f00:1").then(|| format!("{spelling}:{port}"))
}

#[test]
fn cbpx_takes_each_spelling_of_an_address() {
    let a = Backend::echo("A");
    let port = a.address().replace("127.0.0.1:", "");
    for spelling in SPELLINGS {
        let backend = with_port(spelling, &port).unwrap_or_else(|| format!("[{spelling}]:{port}"));
        let proxy = Proxy::start(&backend, "127.0.0.1:9", &["--bind", spelling, "--rc_bind", spelling]);
        assert_eq!(served_by(&mut proxy.connect()), "A", "{spelling}");
        let own = proxy.addr().port();
        assert!(TcpStream::connect(("127.0.0.2", own)).is_err(), "{spelling} is one address");
        let to = with_port(spelling, proxy.control().port()).unwrap_or_else(|| proxy.control().to_string());
        let ran = cbpx(&["ctl", "--to", &to, "hello"], TempDir::new("spellings").path());
        assert_eq!(ran.code, Some(0), "{to}: {ran:?}");
    }
}

/// `balance -b ::ffff:127.0.0.1` was an `Invalid argument`.
#[test]
fn balance_takes_each_spelling_of_an_address() {
    let server = Server::new();
    let port = server.address().replace("127.0.0.1:", "");
    for spelling in SPELLINGS {
        let bare = spelling.trim_matches(['[', ']']);
        let balance = Balance::start(&["-b", bare, "-B", spelling], &[&format!("[::ffff:127.0.0.1]:{port}")]);
        let _client = balance.connect();
        assert_eq!(server.accept().peer_addr().unwrap().ip(), Ipv4Addr::LOCALHOST, "{spelling}");
        balance.answers("disable 0", "channel 0 disabled");
        balance.answers(&format!("assign 0 {spelling} {port}"), "channel reassigned");
        balance.answers("enable 0", "channel 0 enabled");
        let _client = balance.connect();
        server.accept();
        balance.answers(&format!("create {spelling} {port}"), "channel created");
    }
    let (a, dir) = (Backend::echo("A"), TempDir::new("spellings"));
    let port = Reserved::new();
    let mut command = Command::new(CBPX);
    command.args(["balance", "-f", "-b", "[::ffff:127.0.0.1]", &port.port().to_string(), &a.address()]);
    let balance = Balance::spawn(command, port, &["-b", "::ffff:127.0.0.1"], dir);
    assert_eq!(balance::served(&mut balance.connect()).as_deref(), Some("A"), "brackets are no part of its name");
}

#[test]
fn pumpkin_takes_each_spelling_of_an_address() {
    let a = Backend::echo("A");
    let port = a.address().replace("127.0.0.1:", "");
    for spelling in SPELLINGS {
        let Some(worker) = with_port(spelling, &port) else { continue };
        for resolve in [0, 1] {
            let options = format!("[options]\nbuffer_size=4096\npre_resolve_workers={resolve}\n");
            let pumpkin = Pumpkin::start(1, &format!("{options}[mappings]\n{spelling}:P0={worker}\n"));
            assert_eq!(served_by(&mut pumpkin.connect(0)), "A", "{spelling}");
            assert_eq!(pumpkin.err(), "", "{spelling}");
        }
    }
}

/// A program of this dialect that listens at `port`.
fn started(words: &[&str], port: &Reserved, dir: &TempDir) -> (Killed, SocketAddr) {
    let mut command = Command::new(CBPX);
    command.args(words).current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(dir.path().join("err")).unwrap());
    let place = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port()));
    let mut program = Killed::start(&mut command);
    eventually(SOON, &format!("{words:?} listens"), || {
        let ended = program.0.try_wait().unwrap();
        assert!(ended.is_none(), "{words:?}: {}", fs::read_to_string(dir.path().join("err")).unwrap());
        TcpStream::connect(place).is_ok()
    });
    (program, place)
}

#[test]
fn fallback_and_fproxy_take_each_spelling_of_an_address() {
    let a = Backend::echo("A");
    let port = a.address().replace("127.0.0.1:", "");
    for spelling in SPELLINGS {
        let (own, dir) = (Reserved::new(), TempDir::new("spellings"));
        let (Some(local), Some(remote)) = (with_port(spelling, own.port()), with_port(spelling, &port)) else {
            continue;
        };
        for words in [&["fallback", &local, &remote][..], &["fproxy", "-f", &local, "--", &remote]] {
            let (_program, place) = started(words, &own, &dir);
            assert_eq!(served_by(&mut connect(place)), "A", "{words:?}");
        }
    }
}

/// Addresses of a link were taken in one place and refused in the next.
#[test]
fn an_address_of_a_link_is_taken_with_its_zone_everywhere() {
    if !is_alone("spellings::an_address_of_a_link_is_taken_with_its_zone_everywhere") {
        return;
    }
    ip("address add fe80::7/64 dev lo nodad");
    ip("address add fe80::8/64 dev lo nodad");
    let server = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // The server that answered, and the address it was asked from.
    let serving = std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap();
            stream.write_all(format!("{}\n", peer.ip()).as_bytes()).unwrap();
        }
    });
    let backend = format!("[fe80::7%lo]:{port}");
    let bare = format!("fe80::7%lo:{port}");
    let source = |place: SocketAddr| {
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut connect(place), &mut answer).unwrap();
        answer
    };
    let link = |port: u16| SocketAddr::V6(std::net::SocketAddrV6::new("fe80::7".parse().unwrap(), port, 0, 1));
    let dir = TempDir::new("spellings");
    let mut number = 20_000;
    for zone in ["fe80::7%lo", "[fe80::7%lo]", "fe80::7%1"] {
        number += 2;
        let (own, control) = (number.to_string(), (number + 1).to_string());
        let brackets = format!("[{}]:{own}", zone.trim_matches(['[', ']']));
        let pumpkin = dir.path().join("pumpkin");
        let worker = backend.replace('%', "%%");
        fs::write(&pumpkin, format!("[mappings]\n{brackets} = {worker}\n")).unwrap();
        for words in [
            &[
                "-p",
                &own,
                "-r",
                &control,
                "-a",
                &backend,
                "-s",
                "127.0.0.1:9",
                "-t",
                "5",
                "-c",
                "9",
                "-o",
                "0",
                "--bind",
                zone,
                "--rc_bind",
                zone,
            ][..],
            &["balance", "-f", "-b", zone, "-B", zone, &own, &backend],
            &["balance", "-f", "-b", zone, "-B", zone, &own, "fe80::8%lo", "!", &backend],
            &["fallback", &brackets, &backend],
            &["fallback", &brackets, &bare],
            &["fproxy", "-f", &brackets, "--", &backend],
            &["pumpkin", pumpkin.to_str().unwrap()],
        ] {
            let mut command = Command::new(CBPX);
            command.args(words).current_dir(dir.path()).env("BALANCE_RUNDIR", dir.path().join("run"));
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(dir.path().join("err")).unwrap());
            let mut program = Killed::start(&mut command);
            let place = link(number);
            eventually(SOON, &format!("{words:?} listens"), || {
                let said = || fs::read_to_string(dir.path().join("err")).unwrap();
                assert!(program.is_running(), "{words:?}: {}", said());
                TcpStream::connect(place).is_ok()
            });
            assert_eq!(source(place), "fe80::7\n", "{words:?}");
            if words[0] == "-p" {
                let to = format!("fe80::7%lo:{control}");
                assert_eq!(cbpx(&["ctl", "--to", &to, "hello"], dir.path()).code, Some(0), "{to}");
            }
        }
    }
    let nowhere = cbpx(&["ctl", "--to", "[fe80::7%nosuch]:9", "hello"], dir.path());
    nowhere.failed_with(3, &["this machine has no network interface 'nosuch'"]);
    drop(serving);
}
