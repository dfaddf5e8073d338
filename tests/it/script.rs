//! The switch script: what it is given, what becomes of what it says and leaves behind, and how it is ended.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::support::{SOON, TempDir, eventually};
use crate::talk::{Session, served_by};

/// A proxy with this switch script. In the script `$DIR` is the directory, which is also the working directory.
fn with_script(text: &str, extra: &[&str]) -> (Proxy, [Backend; 2], TempDir) {
    let (backends, dir) = ([Backend::echo("A"), Backend::echo("B")], TempDir::new("script"));
    dir.script("switch.sh", text);
    let arguments = [&["-x", "switch.sh"], extra].concat();
    let proxy = Proxy::start_with(&backends[0].address(), &backends[1].address(), &arguments, |command| {
        command.current_dir(dir.path()).env("DIR", dir.path()).env("KEPT", "yes");
    });
    (proxy, backends, dir)
}

fn said(answer: &str) -> Vec<&str> {
    answer.lines().filter_map(|line| line.strip_prefix(" script: ")).collect()
}

/// The number a script wrote into a file, once it is complete.
fn number_in(path: &Path) -> i32 {
    let mut number = None;
    eventually(SOON, "the script has written its number", || {
        let text = fs::read_to_string(path).unwrap_or_default();
        number = text.strip_suffix('\n').and_then(|text| text.trim().parse().ok());
        number.is_some()
    });
    number.unwrap()
}

/// Whether a process exists and has not ended: nobody reaps what is nobody's child.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn it_is_given_both_backends_in_the_direction_of_the_switch() {
    let (proxy, [a, b], _dir) = with_script("#!/bin/sh\necho $# \"$@\"\n", &[]);
    let words = |backend: &Backend| backend.address().replace(':', " ");
    for (from, to) in [(&a, &b), (&b, &a)] {
        let answer = proxy.ask("switch");
        assert_eq!(said(&answer), [format!("4 {} {}", words(from), words(to))]);
        assert!(answer.ends_with(" Switch OK!: all connections closed, script returned: 0\n"), "{answer}");
    }
}

#[test]
fn it_inherits_environment_and_directory_but_no_input_and_no_descriptor() {
    // The parent process may have left this one open.
    let _left_open = rustix::io::dup(fs::File::open("/dev/zero").unwrap()).unwrap();
    let (proxy, _backends, dir) = with_script(
        "#!/bin/sh\necho $KEPT; pwd -P; cat | wc -c\nfor fd in /proc/$$/fd/*; do readlink $fd; done\n",
        &["-l", "DEBUG"],
    );
    let mut client = proxy.connect();
    served_by(&mut client);
    drop(client);
    let answer = proxy.ask("switch");
    let lines = said(&answer);
    let here = dir.path().canonicalize().unwrap();
    assert_eq!(lines[..3], ["yes", here.to_str().unwrap(), "0"]);
    let open: Vec<_> = lines[3..].iter().filter(|to| !to.is_empty() && !to.ends_with("/switch.sh")).collect();
    // Both ends of its output are one pipe; the shell itself may have the script open.
    assert!(
        open.len() == 3 && *open[0] == "/dev/null" && open[1] == open[2] && open[1].starts_with("pipe:"),
        "{open:?}"
    );
}

#[test]
fn it_is_told_how_many_seconds_are_left() {
    let (proxy, _backends, _dir) = with_script("#!/bin/sh\necho $CBPX_SECONDS_LEFT\n", &["-t", "7"]);
    let answer = proxy.ask("switch");
    let left: f64 = said(&answer)[0].parse().unwrap();
    assert!((1.0..=7.0).contains(&left), "{left}");
}

#[test]
fn only_a_missing_interpreter_or_an_unknown_kind_of_file_is_blamed_on_the_first_line() {
    let (proxy, _backends, dir) = with_script("#!/nosuch/interpreter\n", &[]);
    let path = dir.path().join("switch.sh");
    let says = |cause: &str, hint: &str| {
        let answer = proxy.ask("switch");
        assert_eq!(said(&answer), [format!("cannot start switch.sh: {cause}{hint}")]);
        assert!(answer.ends_with(&format!("Switch failed: script exec failed: {cause}\n")), "{answer}");
    };
    let hint = " (the file is there: see its first line, #!)";
    says("No such file or directory", hint);
    // A shell would run it.
    dir.script("switch.sh", "echo run all the same\n");
    says("Exec format error", hint);
    // A program that is being written.
    fs::copy("/bin/true", &path).unwrap();
    let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
    says("Text file busy", "");
    drop(writer);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    says("Permission denied", "");
    fs::remove_file(&path).unwrap();
    says("No such file or directory", "");
}

#[test]
fn a_pipe_in_its_place_keeps_the_proxy_from_nothing() {
    let (backend, dir) = (Backend::echo("A"), TempDir::new("script"));
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").args(["-m", "755"]).arg(&pipe).status().unwrap().success());
    let proxy = Proxy::start(&backend.address(), &backend.address(), &["-x", pipe.to_str().unwrap()]);
    assert!(proxy.ask("switch").ends_with("Switch failed: script exec failed: Permission denied\n"));
    assert_eq!(served_by(&mut proxy.connect()), "A");
}

#[test]
fn its_name_is_not_searched_for_in_the_path() {
    let elsewhere = TempDir::new("path");
    elsewhere.script("switch.sh", "#!/bin/sh\necho the wrong one\n");
    let (backend, dir) = (Backend::echo("A"), TempDir::new("script"));
    dir.script("switch.sh", "#!/bin/sh\necho the right one\n");
    let proxy = Proxy::start_with(&backend.address(), &backend.address(), &["-x", "switch.sh"], |command| {
        let path = format!("{}:{}", elsewhere.path().display(), std::env::var("PATH").unwrap());
        command.current_dir(dir.path()).env("PATH", path);
    });
    assert_eq!(said(&proxy.ask("switch")), ["the right one"]);
}

#[test]
fn it_runs_when_the_last_client_has_left_and_holds_whoever_comes() {
    let (proxy, [a, _b], dir) = with_script(
        "#!/bin/sh\ntouch begun\nuntil [ -e go ] || [ ! -d \"$PWD\" ]; do sleep 0.02; done\n",
        &["-t", "60"],
    );
    let mut client = proxy.connect();
    served_by(&mut client);
    let switch = Session::switch(&proxy);
    assert!(!dir.path().join("begun").exists());
    drop(client);
    eventually(SOON, "it has begun", || dir.path().join("begun").exists());
    let mut held: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    eventually(SOON, "they are held", || proxy.stat("in queue") == 3);
    fs::write(dir.path().join("go"), "").unwrap();
    assert_eq!(switch.last_line(), " Switch OK!: all connections closed, script returned: 0");
    held.iter_mut().for_each(|client| assert_eq!(served_by(client), "B"));
    assert_eq!(a.connections(), 1, "nobody reached the old one while it ran");
}

#[test]
fn what_it_says_comes_line_by_line_into_the_answer_and_the_log() {
    let (proxy, _backends, dir) = with_script(
        "#!/bin/sh\necho one; echo two >&2; printf '\\033[2Jthree'\nuntil [ -e go ] || [ ! -d \"$PWD\" ]; do sleep 0.02; done\necho; echo last\n",
        &["-t", "60"],
    );
    let mut switch = Session::switch(&proxy);
    assert_eq!(switch.line_with(" script: "), " script: one");
    assert_eq!(switch.line_with(" script: "), " script: two", "before the script has ended");
    fs::write(dir.path().join("go"), "").unwrap();
    let answer = switch.rest();
    assert_eq!(said(&answer), ["[2Jthree", "last"], "it cannot steer a terminal");
    let log = || fs::read_to_string(dir.path().join("cbpx.log")).unwrap();
    eventually(SOON, "the log has been written", || log().contains("Switch OK"));
    let log = log();
    for line in ["script: one", "script: two", "script: last", "running switch script: switch.sh", "script returned: 0"]
    {
        assert!(log.lines().any(|logged| logged.contains(" INFO ") && logged.contains(line)), "no '{line}' in {log}");
    }
}

#[test]
fn it_may_say_as_much_as_it_likes_and_is_cut() {
    let (proxy, _backends, _dir) = with_script(
        "#!/bin/sh\nhead -c 10000 /dev/zero | tr '\\0' x; echo\nyes 0123456789 | head -n 100000\ntouch said-all\n",
        &[],
    );
    let answer = proxy.ask("switch");
    let lines = said(&answer);
    assert_eq!(lines[0], "x".repeat(4096));
    let total: usize = lines.iter().map(|line| line.len() + 1).sum();
    assert!((60 * 1024..66 * 1024).contains(&total), "{total}");
    assert!(lines.last().unwrap().contains("64 KiB"), "the cut is told");
    assert!(answer.ends_with("script returned: 0\n"), "a script that says a lot is not held up");
}

#[test]
fn what_it_leaves_running_does_not_delay_the_outcome() {
    let (proxy, _backends, dir) = with_script("#!/bin/sh\nsleep 1000 &\necho $! >left\necho begun\n", &["-t", "60"]);
    let begun = Instant::now();
    let answer = proxy.ask("switch");
    assert!(answer.ends_with("script returned: 0\n"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    let left = number_in(&dir.path().join("left"));
    assert!(lives(left), "a success leaves alone what it started");
    rustix::process::kill_process(rustix::process::Pid::from_raw(left).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
}

/// Ignores SIGTERM, as do its children and grandchildren; all of them write down who they are.
const STUBBORN: &str = "#!/bin/sh
trap '' TERM INT HUP
(trap '' TERM INT HUP; sh -c 'echo $$ >grandchild; sleep 1000') &
echo $! >child
echo $$ >script
sleep 1000
";

#[test]
fn it_is_killed_with_everything_it_started_however_the_switch_fails() {
    for how in ["timeout", "abort", "quit force", "stop"] {
        let limit = if how == "timeout" { "1.5" } else { "60" };
        let (mut proxy, _backends, dir) = with_script(STUBBORN, &["-t", limit]);
        let switch = Session::switch(&proxy);
        let family = ["script", "child", "grandchild"].map(|name| number_in(&dir.path().join(name)));
        let reason = match how {
            "timeout" => "switch timeout",
            "abort" => {
                proxy.ask("abort");
                "aborted"
            }
            "quit force" => {
                proxy.ask("quit force");
                "quit force"
            }
            _ => {
                proxy.signal(rustix::process::Signal::TERM);
                "program stopped"
            }
        };
        assert_eq!(switch.last_line(), format!(" Switch failed: {reason}"), "{how}");
        eventually(SOON, &format!("all of them are gone after {how}"), || !family.iter().any(|pid| lives(*pid)));
        if matches!(how, "quit force" | "stop") {
            assert_eq!(proxy.wait().code(), Some(0));
        } else {
            assert_eq!(served_by(&mut proxy.connect()), "A");
        }
    }
}
