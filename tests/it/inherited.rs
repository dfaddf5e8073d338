//! What the process inherits from whoever started it, and signals that mean nothing to it: neither changes what it
//! does.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::command::Killed;
use crate::processes::catches;
use crate::proxy::{CBPX, Proxy};
use crate::service::connect;
use crate::starved::become_by;
use crate::support::{Reserved, SOON, TempDir, eventually};
use crate::talk::served_by;

/// A parent that has ignored and blocked whatever it could.
const HOSTILE: [&str; 2] = [
    "--ignore-signal=CHLD,USR1,USR2,TSTP,TTIN,TTOU,ALRM,WINCH,INT,TERM,HUP,QUIT",
    "--block-signal=CHLD,USR1,TSTP,INT,TERM,HUP,QUIT",
];

/// Signals 32 and 33, which it lets nobody touch: they are here as they are in the test program.
const OF_THE_C_LIBRARY: u64 = 3 << 31;

#[test]
fn a_script_succeeds_and_has_every_signal_as_it_is_by_default_whatever_the_parent_ignored_and_blocked() {
    let (backends, dir) = ([Backend::echo("A"), Backend::echo("B")], TempDir::new("inherited"));
    // Not the shell's own: that blocks signals for moments.
    let script = dir.script("s.sh", "#!/bin/sh\nexec grep -E 'Sig(Blk|Ign)' /proc/self/status\n");
    let extra = ["-x", script.to_str().unwrap()];
    let mut proxy = Proxy::start_with(&backends[0].address(), &backends[1].address(), &extra, |command| {
        become_by(command, "env", &HOSTILE);
    });
    let answer = proxy.ask("switch");
    assert!(answer.ends_with("Switch OK!: all connections closed, script returned: 0\n"), "{answer}");
    for name in ["SigBlk", "SigIgn"] {
        let numbers = answer.lines().find_map(|line| line.strip_prefix(&format!(" script: {name}:\t"))).unwrap();
        let numbers = u64::from_str_radix(numbers, 16).unwrap();
        assert_eq!(numbers & !OF_THE_C_LIBRARY, 0, "{answer}");
    }
    // The terminal's signals could not stop it; all others are heard.
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_script_that_a_real_time_signal_ended_is_told_so() {
    let (backends, dir) = ([Backend::echo("A"), Backend::echo("B")], TempDir::new("inherited"));
    let script = dir.script("s.sh", "#!/bin/sh\nkill -40 $$\n");
    let proxy =
        Proxy::start_with(&backends[0].address(), &backends[1].address(), &["-x", script.to_str().unwrap()], |_| {});
    assert!(proxy.ask("switch").ends_with("Switch failed: script terminated by signal: 40\n"));
}

/// Their default action would end or stop the program. SIGUSR1 is another matter, and so are those of faults.
const MEANINGLESS: [i32; 14] = [
    12, // SIGUSR2
    13, // SIGPIPE
    14, // SIGALRM
    16, // SIGSTKFLT
    20, // SIGTSTP
    21, // SIGTTIN
    22, // SIGTTOU
    24, // SIGXCPU
    25, // SIGXFSZ
    26, // SIGVTALRM
    27, // SIGPROF
    29, // SIGIO
    30, // SIGPWR
    40, // a real-time one
];

/// One command line running in a directory of its own, where what it says ends up in `out` and in the log, `log`.
struct Dialect {
    child: Killed,
    port: Reserved,
    dir: TempDir,
}

impl Dialect {
    fn start(name: &'static str, backend: &str) -> Dialect {
        let (port, dir) = (Reserved::new(), TempDir::new(name));
        let (number, at) = (port.port().to_string(), format!("127.0.0.1:{}", port.port()));
        let host = backend.rsplit_once(':').unwrap();
        fs::write(dir.path().join("conf"), format!("[mappings]\n{at}={backend}\n")).unwrap();
        let to = format!("{}:{}", host.0, host.1);
        let words: Vec<&str> = match name {
            "cbpx" => vec!["-p", &number, "-a", backend, "-s", "127.0.0.1:9", "-t5", "-c9", "-o0", "-flog"],
            "balance" => vec![name, "-f", "-b", "127.0.0.1", &number, &to],
            "fallback" => vec![name, "-logfile", "log", &at, backend],
            "pumpkin" => vec![name, "conf"],
            _ => vec![name, "-f", &at, "--", backend],
        };
        let mut command = Command::new(CBPX);
        command.args(words).current_dir(dir.path()).stdin(Stdio::null());
        command.env("BALANCE_RUNDIR", dir.path().join("run"));
        become_by(&mut command, "env", &HOSTILE);
        let out = File::create(dir.path().join("out")).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let dialect = Dialect { child: Killed::start(&mut command), port, dir };
        eventually(SOON, "it listens", || TcpStream::connect(dialect.at()).is_ok());
        dialect
    }

    fn at(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.port()).into()
    }

    fn said(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        read("out") + &read("log")
    }

    fn send(&self, number: i32) {
        // A shell can send all of them, also those without a name.
        let sent = Command::new("sh").args(["-c", &format!("kill -{number} {}", self.child.0.id())]).status();
        assert!(sent.unwrap().success());
    }
}

const DIALECTS: [&str; 5] = ["cbpx", "balance", "fallback", "pumpkin", "fproxy"];

#[test]
fn signals_without_a_meaning_end_stop_and_disturb_no_dialect_and_sigusr1_is_told() {
    let backend = Backend::echo("A");
    for name in DIALECTS {
        let mut dialect = Dialect::start(name, &backend.address());
        let pid = dialect.child.0.id();
        catches(pid, Signal::QUIT);
        let mut client = connect(dialect.at());
        assert_eq!(served_by(&mut client), "A");
        MEANINGLESS.iter().for_each(|number| dialect.send(*number));
        dialect.child.send(Signal::USR1);
        eventually(SOON, &format!("{name} tells of SIGUSR1"), || {
            let ended = dialect.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ended: {:?}", ended.unwrap().signal());
            dialect.said().contains("SIGUSR1")
        });
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert!(!stat.rsplit_once(") ").unwrap().1.starts_with('T'), "{name} is stopped");
        assert_eq!(served_by(&mut client), "A", "{name}");
        assert_eq!(served_by(&mut connect(dialect.at())), "A", "{name}");
        assert!(!dialect.said().contains("shutting down"), "{name}");
        drop(client);
        // Blocked and ignored when it was started.
        dialect.child.send(Signal::TERM);
        assert_eq!(dialect.child.wait().code(), Some(0), "{name}");
    }
}

#[test]
fn a_file_that_may_grow_no_more_costs_log_lines_and_not_the_proxy() {
    let backend = Backend::echo("A");
    let proxy = Proxy::start_with(&backend.address(), &backend.address(), &["-l", "DEBUG"], |command| {
        become_by(command, "sh", &["-c", "ulimit -f 8; exec \"$0\" \"$@\""]);
    });
    let size = || fs::metadata(proxy.log_path()).unwrap().len();
    // In blocks of 512 bytes.
    eventually(SOON, "the file is full", || {
        assert!(proxy.ask(&["hello"; 50].join(";")).contains("Hello!"));
        size() == 8 * 512
    });
    for _ in 0..20 {
        assert_eq!(served_by(&mut proxy.connect()), "A");
        assert!(proxy.ask("hello").contains("Hello!"));
    }
}
