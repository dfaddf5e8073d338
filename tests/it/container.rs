//! Process number 1 of a container: to it come the orphans of its scripts.

use std::fs;
use std::process::Command;

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::support::{SOON, TempDir, eventually};

/// The children of a process, and what state they are in.
fn children(pid: u32) -> Vec<(u32, char)> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let state = |number: u32| {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()?.parse() == Ok(pid)).then_some((number, state))
    };
    entries.filter_map(state).collect()
}

#[test]
fn orphans_of_scripts_are_collected_and_the_scripts_own_status_is_not_lost() {
    let (backends, dir) = ([Backend::echo("A"), Backend::echo("B")], TempDir::new("container"));
    // One orphan that ends before the script, one that a signal without a name ends, and one that ends later.
    let text =
        "#!/bin/sh\n(sh -c 'exit 3' &)\n(sh -c 'kill -40 $$' &)\n(sh -c 'sleep 0.3; exit 4' &)\nsleep 0.1\nexit ";
    let script = dir.script("s.sh", &format!("{text}0\n"));
    let extra = ["-x", script.to_str().unwrap()];
    let mut proxy = Proxy::start_with(&backends[0].address(), &backends[1].address(), &extra, |command| {
        let mut contained = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            contained.args(["--user", "--map-root-user"]);
        }
        contained.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        contained.arg(command.get_program()).args(command.get_args());
        contained.current_dir(command.get_current_dir().unwrap());
        *command = contained;
    });
    let &[(first, _)] = &children(proxy.pid())[..] else { panic!("{:?}", children(proxy.pid())) };
    for round in 0..5 {
        let answer = proxy.ask("switch");
        assert!(answer.ends_with("Switch OK!: all connections closed, script returned: 0\n"), "{round}: {answer}");
    }
    eventually(SOON, "nobody is left behind", || children(first).is_empty());
    dir.script("s.sh", &format!("{text}7\n"));
    let answer = proxy.ask("switch");
    assert!(answer.ends_with("Switch failed: script exited with code: 7\n"), "{answer}");
    eventually(SOON, "nobody is left behind", || children(first).is_empty());
    proxy.ask("quit force");
    assert_eq!(proxy.wait().code(), Some(0));
}
