//! This test binary as a program of its own: `process::run` with a `Config` from a few words. For what concerns a whole
//! process (signals, standard output, the background) and has no flag in some command line.

use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use cbpx::config::{Config, LogTarget, OnHangup, OnInterrupt, OnUnresolved, Service, Statuses};
use cbpx::endpoint::Endpoint;
use cbpx::process;
use rustix::process::Signal;

use crate::command::Killed;
use crate::service::{config, service};
use crate::support::{Reserved, SOON, TempDir, eventually};

const WORDS: &str = "CBPX_TEST_PROGRAM";

/// A command that runs it with these words, `key=value` each; a word `service` begins another service.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "program::this_is_no_test_but_a_program", "--ignored", "--nocapture", "--quiet"]);
    command.env(WORDS, words.join("\n")).stdin(Stdio::null());
    command
}

#[test]
#[ignore = "a program that other tests start"]
fn this_is_no_test_but_a_program() {
    let Ok(words) = env::var(WORDS) else { return };
    let config = configuration(&words);
    let status = match process::run(&config, &[]) {
        Ok(()) => 0,
        Err(failure) => {
            if failure.is_news() {
                eprintln!("{}: {failure}", config.process.name);
            }
            failure.status
        }
    };
    std::process::exit(status.into());
}

fn configuration(words: &str) -> Config {
    let services = words.split("\nservice\n").map(one_service).collect();
    let mut config = config(services);
    config.process.name = "tester".to_owned();
    config.process.statuses = Statuses { resolve: 65, listen: 71, other: 69 };
    for (key, value) in words.lines().filter_map(|word| word.split_once('=')) {
        match key {
            "log" => config.log.target = LogTarget::File(value.into()),
            "access" => config.access_log = Some(value.into()),
            "pid" => config.process.pid_file = Some(value.into()),
            "tally" => config.process.tally = Some(seconds(value)),
            "background" => config.process.background = true,
            "hangup" => config.process.on_hangup = OnHangup::Stop,
            "interrupt" => config.process.on_interrupt = OnInterrupt::Stop,
            _ => {}
        }
    }
    config
}

fn one_service(words: &str) -> Service {
    let values = |name: &str| {
        let words = words.lines().filter_map(|word| word.split_once('='));
        words.filter(|(key, _)| *key == name).map(|(_, value)| value).collect::<Vec<_>>()
    };
    let mut service = service(&values("backend"));
    let listen = |text: &&str| text.parse::<Endpoint>().unwrap();
    service.listeners = values("listen").iter().map(listen).collect();
    service.grace = SOON;
    let network = &mut service.network;
    network.unresolved = OnUnresolved::Unreachable;
    network.show_bytes = !values("show").is_empty();
    network.share_port = !values("share").is_empty();
    network.source = values("source").first().map(|source| source.parse().unwrap());
    network.bind_retry = values("retry").first().map(|retry| seconds(retry));
    network.first_bytes = values("first_bytes").first().map_or(0, |number| number.parse().unwrap());
    service
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs_f64(text.parse().unwrap())
}

/// It, running, with a directory of its own as the current one.
pub struct Program {
    pub child: Killed,
    pub dir: TempDir,
    port: Reserved,
}

impl Program {
    /// Starts it and waits until it accepts clients.
    pub fn start(words: &[&str], adjust: impl FnOnce(&mut Command)) -> Program {
        let (dir, port) = (TempDir::new("program"), Reserved::new());
        let listen = format!("listen=127.0.0.1:{}", port.port());
        let mut command = command(&[&[listen.as_str()], words].concat());
        command.current_dir(dir.path());
        adjust(&mut command);
        let mut program = Program { child: Killed::start(&mut command), dir, port };
        eventually(SOON, "it accepts clients", || {
            let ended = program.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}");
            TcpStream::connect(program.address()).is_ok()
        });
        program
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.port()).into()
    }

    /// Sends a signal, which is caught once clients are accepted and a moment has passed.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait()
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}
