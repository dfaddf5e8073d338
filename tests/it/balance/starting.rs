//! Start and end: exit statuses, names, signals.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::process::Command;

use rustix::process::Signal;

use super::{Balance, served};
use crate::backend::Backend;
use crate::command::{Ran, run};
use crate::proxy::CBPX;
use crate::support::{Reserved, SOON, TempDir, eventually};

/// Runs a command line that does not start.
fn fails(arguments: &[&str]) -> Ran {
    let dir = TempDir::new("balance");
    run(Command::new(CBPX).arg("balance").args(arguments).env("BALANCE_RUNDIR", dir.path().join("run")))
}

/// Defect 10: in the background every error after the fork was hidden, and the exit status 0.
#[test]
fn errors_are_reported_before_it_detaches_with_their_exit_status() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let free = Reserved::new();
    let free = free.port().to_string();
    let many: Vec<&str> = std::iter::once(free.as_str()).chain(std::iter::repeat_n("h", 64)).collect();
    for foreground in [&["-f"][..], &[]] {
        let fails = |arguments: &[&str]| fails(&[foreground, arguments].concat());
        fails(&["-Q"]).failed_with(64, &["-Q", "usage: balance"]);
        fails(&[]).failed_with(64, &["PORT"]);
        fails(&["nosuchservice", "localhost"]).failed_with(64, &["invalid port", "nosuchservice"]);
        fails(&many).failed_with(64, &["too many destinations", "64"]);
        fails(&[&free, "nosuch.invalid"]).failed_with(65, &["unknown or invalid address [nosuch.invalid]"]);
        fails(&[&free, "localhost", "!", "!", "localhost"]).failed_with(69, &["group 1 is empty"]);
        fails(&[&taken, "localhost"]).failed_with(71, &["bind(): Address already in use", &taken]);
        fails(&["-b", "192.0.2.1", &free, "localhost"]).failed_with(71, &["192.0.2.1"]);
    }
}

#[test]
fn help_and_version_are_for_standard_output_and_h_is_a_usage_error() {
    let help = fails(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("usage: balance") && help.out.contains("BALANCE_RUNDIR"), "{help:?}");
    assert_eq!(fails(&["--version"]).code, Some(0));
    fails(&["-h"]).failed_with(64, &["usage: balance"]);
    let all = run(Command::new(CBPX).arg("--help"));
    assert!(all.out.contains("cbpx balance"), "{}", all.out);
}

#[test]
fn a_link_with_the_old_name_is_the_old_program() {
    let (dir, a, port) = (TempDir::new("balance"), Backend::echo("A"), Reserved::new());
    let link = dir.path().join("balance");
    symlink(CBPX, &link).unwrap();
    let mut command = Command::new(&link);
    command.args(["-f", &port.port().to_string(), &a.address()]);
    let balance = Balance::spawn(command, port, &[], dir);
    assert_eq!(served(&mut balance.connect()).as_deref(), Some("A"));
    let mut control = Command::new(&link);
    control.args(["-c", "version", &balance.port().to_string()]);
    let ran = run(control.env("BALANCE_RUNDIR", balance.socket().parent().unwrap()));
    assert_eq!((ran.code, ran.out.lines().next()), (Some(0), Some("  This is balance 3.54")));
}

#[test]
fn without_destinations_it_runs_and_closes_every_client() {
    let mut balance = Balance::start(&[], &[]);
    for _ in 0..3 {
        assert_eq!(served(&mut balance.connect()), None);
    }
    assert!(balance.is_running());
    assert_eq!(balance.ask("show").lines().count(), 1);
}

#[test]
fn on_a_signal_nobody_is_accepted_any_more_and_connections_in_progress_live_on() {
    let a = Backend::echo("A");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut balance = Balance::start(&[], &[&a.address()]);
        let mut client = balance.connect();
        assert_eq!(served(&mut client).as_deref(), Some("A"));
        balance.signal(signal);
        eventually(SOON, "nobody listens any more", || TcpStream::connect(balance.addr()).is_err());
        assert_eq!(served(&mut client).as_deref(), Some("A"), "{signal:?}");
        assert!(balance.is_running());
        eventually(SOON, "control has gone with it", || !balance.socket().exists());
        client.shutdown(Shutdown::Both).unwrap();
        assert!(balance.wait().success(), "{signal:?}");
    }
}

#[test]
fn an_instance_that_was_killed_is_in_nobodys_way() {
    let a = Backend::echo("A");
    let dir = TempDir::new("balance");
    let start = |port: Reserved| {
        let mut command = Command::new(CBPX);
        command.args(["balance", "-f", &port.port().to_string(), &a.address()]);
        (command, port)
    };
    let (mut command, port) = start(Reserved::new());
    let socket = dir.path().join(format!("balance.{}.0.0.0.0.sock", port.port()));
    let mut first = crate::command::Killed::start(command.env("BALANCE_RUNDIR", dir.path()));
    eventually(SOON, "it runs", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    assert!(socket.exists(), "it had no time to remove it");
    let (mut command, _port) = start(port);
    let _second = crate::command::Killed::start(command.env("BALANCE_RUNDIR", dir.path()));
    eventually(SOON, "the next one runs", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
}

/// The arguments of a line as a shell makes them; `#` begins a comment.
fn arguments(line: &str) -> Vec<String> {
    let line = line.split(" #").next().unwrap();
    let quoted = line.split('\'').enumerate();
    let part = |(at, part): (usize, &str)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    };
    quoted.flat_map(part).collect()
}

/// README's examples, with our own servers for `web1` to `web3`.
#[test]
fn the_examples_of_the_readme_do_what_they_say() {
    let (a, b, c) = (Backend::echo("web1"), Backend::echo("web2"), Backend::echo("web3"));
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let lines: Vec<_> = readme.lines().filter_map(|line| line.strip_prefix("    balance ")).map(arguments).collect();
    let (controls, starts): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|words| words.iter().any(|word| word == "-c" || word == "-i"));
    assert!(controls.len() >= 4 && starts.len() >= 5, "{controls:?} {starts:?}");
    for words in starts {
        let at = words.iter().position(|word| word == "8080").unwrap();
        let server = |word: &String| {
            word.replace("web1:80", &a.address()).replace("web2:80", &b.address()).replace("web3:80", &c.address())
        };
        let options: Vec<&str> = words[..at].iter().map(String::as_str).collect();
        let destinations: Vec<String> = words[at + 1..].iter().map(server).collect();
        let destinations: Vec<&str> = destinations.iter().map(String::as_str).collect();
        let balance = Balance::start(&options, &destinations);
        assert!(served(&mut balance.connect()).is_some(), "{words:?}");
        let bind = words.contains(&"-b".to_owned());
        for control in controls.iter().filter(|control| control.contains(&"-b".to_owned()) == bind) {
            let port = balance.port().to_string();
            let control: Vec<&str> =
                control.iter().map(|word| if word == "8080" { &port } else { word.as_str() }).collect();
            let ran = balance.control(&control);
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{control:?}");
            assert!(!ran.out.is_empty() && !ran.out.contains("error"), "{control:?}: {ran:?}");
        }
    }
}

#[test]
fn every_combination_of_options_in_its_documentation_starts() {
    let (a, b, c) = (Backend::echo("A"), Backend::echo("B"), Backend::echo("C"));
    let [a, b, c] = [&a, &b, &c].map(Backend::address);
    let lines: [(&[&str], &[&str], usize); 8] = [
        (&[], &[&a, &b], 2),
        (&["-b", "127.0.0.1"], &[&a, &b, "!", &c], 3),
        (&["-t1", "-T60"], &[&a, &b, "!", &c, "!"], 3),
        (&["-H"], &[&a, &b, &c, "%"], 3),
        (&["-aHM"], &[&a, "%", &b, "!", &c], 3),
        (&["-6"], &[&a], 1),
        (&["-B", "127.0.0.5"], &[&a], 1),
        (&["-dp"], &[&format!("{a}:256"), &format!("{b}:10")], 2),
    ];
    for (options, destinations, channels) in lines {
        let balance = Balance::start(options, destinations);
        assert_eq!(balance.ask("show").lines().count(), channels + 1, "{options:?} {destinations:?}");
        assert!(served(&mut balance.connect()).is_some(), "{options:?} {destinations:?}");
    }
}

/// An empty port is the own one; on this machine every client would come back as a new one.
#[test]
fn a_destination_that_is_the_listener_itself_is_refused() {
    let port = Reserved::new();
    let port = port.port().to_string();
    for destination in ["localhost", "127.0.0.1:", "localhost::16"] {
        fails(&["-f", &port, destination]).failed_with(71, &["this proxy listens there itself"]);
    }
}

/// `-T`: an idle connection is reset, and this is logged on standard error.
#[test]
fn an_idle_connection_is_closed_after_capital_t_seconds() {
    let a = Backend::echo("A");
    let balance = Balance::start(&["-T", "1"], &[&a.address()]);
    let mut client = balance.connect();
    assert_eq!(served(&mut client).as_deref(), Some("A"));
    let began = std::time::Instant::now();
    let ended = std::io::Read::read(&mut client, &mut [0; 8]);
    assert!(
        ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
        "the server has not ended its stream"
    );
    assert!(began.elapsed() >= std::time::Duration::from_millis(900), "{:?}", began.elapsed());
    let own = client.local_addr().unwrap().to_string();
    eventually(SOON, "that is told", || balance.told().contains(&format!("client {own} closed: ")));
}
