//! The command line from outside: names it goes by, exit statuses, where its words go.

use std::net::TcpListener;
use std::process::Command;

use super::program::{Fallback, run_linked};
use crate::backend::Backend;
use crate::command::{Ran, cbpx};
use crate::proxy::CBPX;
use crate::support::{SOON, TempDir, eventually};
use crate::talk::served_by;

fn run(arguments: &[&str]) -> Ran {
    let mut all = vec!["fallback"];
    all.extend(arguments);
    cbpx(&all, TempDir::new("fallback").path())
}

#[test]
fn help_goes_to_standard_error_with_status_0_and_names_each_flag() {
    for flag in ["-h", "-help", "--help"] {
        let ran = run(&[flag]);
        ran.failed_with(0, &["Usage: cbpx fallback [flags] LOCAL:PORT REMOTE:PORT..."]);
        for (flag, default) in [
            ("timeout", "5s"),
            ("probe-delay", "30s"),
            ("stats", "15m0s"),
            ("logfile", ""),
            ("syslog", ""),
            ("quiet", ""),
            ("debug", ""),
            ("maxthreads", "4"),
            ("cpuprofile", ""),
            ("grace", "0s"),
        ] {
            let line = ran.err.lines().find(|line| line.starts_with(&format!("  -{flag}")));
            assert!(line.is_some_and(|line| line.contains(default)), "-{flag}, {default}: {}", ran.err);
        }
    }
}

#[test]
fn what_is_missing_is_status_1_and_what_is_wrong_status_2_each_with_the_usage() {
    run(&[]).failed_with(1, &["at least one backend", "Usage: "]);
    run(&["127.0.0.1:9"]).failed_with(1, &["Usage: "]);
    run(&["-nosuch", ":9", "a:9"]).failed_with(2, &["-nosuch", "Usage: "]);
    run(&["-timeout", "5", ":9", "a:9"]).failed_with(2, &["-timeout", "'5'", "Usage: "]);
    run(&["-timeout"]).failed_with(2, &["-timeout needs a value", "Usage: "]);
    run(&["-syslog=maybe", ":9", "a:9"]).failed_with(2, &["-syslog", "'maybe'"]);
}

#[test]
fn what_keeps_it_from_starting_is_status_1_and_told_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let ran = run(&[&taken, "127.0.0.1:9"]);
    ran.failed_with(1, &["tcp_fallback: cannot listen on", &taken, "in use"]);
    assert_eq!(ran.err.matches("cannot listen").count(), 1, "{}", ran.err);
    run(&["-quiet", &taken, "127.0.0.1:9"]).failed_with(1, &["cannot listen on", &taken]);
    run(&["nowhere", "127.0.0.1:9"]).failed_with(1, &["cannot listen", "'nowhere'"]);
    run(&["nosuch.invalid:5432", "127.0.0.1:9"]).failed_with(1, &["nosuch.invalid:5432"]);
    let lost = ["-logfile", "no/such/place", "127.0.0.1:0", "127.0.0.1:9"];
    run(&lost).failed_with(1, &["log file no/such/place", "no such file"]);
}

#[test]
fn a_link_with_the_old_name_is_the_old_program() {
    let dir = TempDir::new("fallback");
    let help = run_linked("tcp_fallback", &["-h"], dir.path());
    help.failed_with(0, &["Usage: tcp_fallback [flags]"]);
    run_linked("tcp_fallback", &["-timeout", "5"], dir.path()).failed_with(2, &["tcp_fallback: -timeout"]);
    assert_eq!(run_linked("cbpx", &["--version"], dir.path()).code, Some(0), "another link is cbpx");

    let server = Backend::echo("s");
    let fallback = Fallback::spawn("127.0.0.1:PORT", &[], &[&server.address()], |command| {
        let link = dir.path().join("tcp_fallback");
        std::os::unix::fs::symlink(CBPX, &link).unwrap();
        let mut linked = Command::new(link);
        linked.args(command.get_args().skip(1));
        *command = linked;
    });
    fallback.says("Listening on");
    assert_eq!(served_by(&mut fallback.connect()), "s");
}

#[test]
fn cbpx_help_lists_it() {
    let help = cbpx(&["--help"], TempDir::new("fallback").path());
    assert!(help.out.contains("cbpx fallback ...") && help.out.contains("tcp_fallback"), "{}", help.out);
}

/// The part of README.md about this program.
fn readme() -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, from) = text.split_once("## Coming from tcp_fallback\n").unwrap();
    from.split("\n## ").next().unwrap().to_owned()
}

#[test]
fn the_readme_explains_every_flag() {
    let (readme, help) = (readme(), run(&["-h"]).err);
    let flags: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  -")?.split(' ').next()).collect();
    assert_eq!(flags.len(), 11, "{flags:?}");
    for flag in flags {
        assert!(readme.contains(&format!("| `-{flag}` |")), "README lacks -{flag}");
    }
}

#[test]
fn the_readmes_examples_start_and_do_what_they_say() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("fallback"));
    let examples: Vec<String> =
        readme().lines().filter_map(|line| line.strip_prefix("    ").map(str::to_owned)).collect();
    let examples: Vec<&String> = examples.iter().filter(|line| !line.starts_with("ln ")).collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        // The same line with addresses and a directory of this test.
        let mut words: Vec<String> = example.split(' ').map(str::to_owned).collect();
        words.drain(..if words[0] == "cbpx" { 2 } else { 1 });
        let log = dir.path().join("log").display().to_string();
        for word in &mut words {
            *word = word.replace("/var/log/tcp_fallback.log", &log);
            if word.starts_with("10.0.0.") {
                // The first server of each does not answer.
                *word = if word.contains("10.0.0.1:") { "127.0.0.1:1".to_owned() } else { server.address() };
            }
        }
        // The system's logger is another test's.
        words.retain(|word| word != "-syslog");
        let first = words.iter().position(|word| word.ends_with(":3306") || word.ends_with(":5432")).unwrap();
        let host = words[first].rsplit_once(':').unwrap().0.to_owned();
        let (flags, remotes) = (&words[..first], &words[first + 1..]);
        let (flags, remotes): (Vec<&str>, Vec<&str>) =
            (flags.iter().map(String::as_str).collect(), remotes.iter().map(String::as_str).collect());
        let fallback = Fallback::spawn(&format!("{host}:PORT"), &flags, &remotes, |_| {});
        eventually(SOON, "it listens", || std::net::TcpStream::connect(fallback.addr()).is_ok());
        assert_eq!(served_by(&mut fallback.connect()), "s", "{example}");
    }
}

/// With flags in every form.
#[test]
fn a_line_of_an_old_init_script_starts_as_it_is() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("fallback"));
    let log = dir.path().join("tcp_fallback.log");
    let logfile = format!("--logfile={}", log.display());
    let flags = ["-timeout=2s", "--probe-delay", "1m", "-stats", "1h", &logfile, "-debug=true", "-maxthreads", "2"];
    let profile = dir.path().join("profile");
    let more = ["-cpuprofile", profile.to_str().unwrap(), "-syslog=false", "--quiet=0"];
    let flags: Vec<&str> = flags.into_iter().chain(more).collect();
    let mut fallback = Fallback::spawn("0.0.0.0:PORT", &flags, &[&server.address(), "192.0.2.1:9"], |command| {
        command.env("TMPDIR", dir.path());
    });
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(SOON, "it listens", || read().contains("Listening on 0.0.0.0:"));
    assert_eq!(served_by(&mut fallback.connect()), "s");
    eventually(SOON, "debugging is on", || read().contains("DEBUG: <"));
    assert!(fallback.is_running() && profile.exists(), "it is written at the end");
}

#[test]
fn quiet_is_quiet_also_with_a_logfile() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("fallback"));
    let log = dir.path().join("log");
    let flags = ["-quiet", "-syslog", "-debug", "-stats", "1ms", "-logfile", log.to_str().unwrap()];
    let fallback = Fallback::spawn("127.0.0.1:PORT", &flags, &[&server.address(), "nowhere"], |_| {});
    eventually(SOON, "it listens", || std::net::TcpStream::connect(fallback.addr()).is_ok());
    for _ in 0..20 {
        assert_eq!(served_by(&mut fallback.connect()), "s");
    }
    assert!(fallback.lines().is_empty(), "{:?}", fallback.lines());
    assert!(!log.exists());
}

#[test]
fn a_flag_after_an_address_is_warned_of() {
    let server = Backend::echo("s");
    let fallback = Fallback::start(&[], &[&server.address(), "-debug"]);
    fallback.says("tcp_fallback: warning: '-debug' is taken for a backend");
    assert_eq!(served_by(&mut fallback.connect()), "s");
}
