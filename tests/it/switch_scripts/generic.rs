//! contrib/switch/generic.sh: the five functions of an operator's settings file, here for a Redis pair, with redis-cli.

use super::redis::{Redis, visit};
use super::server::hand_over;
use super::{Server, Site, ends_with};
use crate::proxy::finish;
use crate::support::{TempDir, eventually};

/// As an operator would write it. `say` is also the name of a function of the script itself, which it must not replace.
const FUNCTIONS: &str = r#"
say() { redis-cli -h "$1" -p "$2" "${@:3}"; }
active() { say "$ACTIVE_HOST" "$ACTIVE_PORT" "$@"; }
standby() { say "$STANDBY_HOST" "$STANDBY_PORT" "$@"; }
value() { tr -d '\r' | sed -n "s/^$1://p"; }
expect() { grep -q "$1" || { echo "not $1"; return 1; }; }
check() {
    [ "$(standby INFO replication | value role)" = slave ] || return 10
    standby INFO replication | expect 'master_link_status:up'
}
fence() {
    active CONFIG SET min-replicas-to-write 1000 | expect OK || return 1
    # So that the guard can be seen.
    touch "$HERE/guarded"
}
caught_up() {
    local offset
    offset=$(active INFO replication | value master_repl_offset)
    [ "$(standby INFO replication | value slave_repl_offset)" -ge "$offset" ] && return
    echo 'the standby is behind'
    return 1
}
promote() { standby REPLICAOF NO ONE | expect OK || return 1; }
unfence() { active CONFIG SET min-replicas-to-write 0 | expect OK; }
settle() {
    active REPLICAOF "$STANDBY_HOST" "$STANDBY_PORT" | expect OK
    active CONFIG SET min-replicas-to-write 0 | expect OK
}
"#;

fn site() -> Site<Redis> {
    let dir = TempDir::new("generic");
    hand_over(dir.path());
    let pair = Redis::pair(&dir);
    let settings = format!("HERE={}\n{FUNCTIONS}", dir.path().display());
    Site::start("generic", dir, pair, visit, &settings)
}

#[test]
fn five_functions_are_enough_to_go_there_and_back_unnoticed() {
    super::goes_there_and_back_unnoticed(&site());
}

#[test]
fn a_switch_whose_functions_fail_leaves_everything_as_it_was() {
    let site = site();
    let refuse = |functions: &str, why: &str| {
        site.set(functions);
        site.switch("Switch failed: script exited with code: 1", &[why, "nothing was touched"]);
        assert!(site.first.takes_writes() && site.second.is_standby() && !site.file("guarded").exists());
    };
    refuse("check() { echo no quorum; return 3; }", "check ended with status 3: no quorum");
    refuse("unset -f unfence", "has no function unfence");
    refuse("check() {", "cannot read the settings file");

    let undone = |functions: &str, why: &str| {
        site.set(functions);
        site.switch("Switch failed: script exited with code: 2", &[why, "undone: "]);
        site.settled(&site.first, &site.second);
    };
    undone("promote() { echo out of order; return 1; }", "promote ended with status 1: out of order");
    undone("QUERY_TIMEOUT=2\nfence() { sleep 60; }", "fence has not ended within 2");
    // The answer to `fence` comes when the script has given up: it must not be taken for the answer to `unfence`.
    undone(
        "CBPX_SECONDS_LEFT=6\nPROMOTE_RESERVE=2\nfence() { sleep 7; active CONFIG SET min-replicas-to-write 1000; }",
        "the guard gives no answer",
    );

    site.set("");
    let lost = |second: &Redis| drop(second.ask(&["REPLICAOF", "127.0.0.1", "1"]));
    let port = site.first.port().to_string();
    let follow = |second: &Redis| drop(second.ask(&["REPLICAOF", "127.0.0.1", &port]));
    super::leaves_everything_as_it_was(&site, lost, follow, "not master_link_status:up");
}

#[test]
fn a_script_that_is_killed_is_undone_by_the_function_of_the_operator() {
    super::is_undone_by_its_guard(&site());
}

#[test]
fn a_script_killed_while_the_operators_promotion_runs_undoes_nothing() {
    let site = site();
    let go = site.file("go");
    let functions = format!(
        "promote() {{ standby REPLICAOF NO ONE; until [ -e {} ] || [ ! -d $HERE ]; do sleep 0.05; done; }}",
        go.display()
    );
    site.set(&functions);
    let switching = site.proxy.begin("switch");
    eventually(super::LONG, "the standby is promoted", || !site.second.is_standby());
    site.proxy.ask("abort");
    ends_with(&finish(switching), "Switch failed: aborted", &["promoting: "]);
    assert!(!site.first.takes_writes(), "two writable servers");
    std::fs::write(&go, "").unwrap();
    eventually(super::LONG, "the guard says so", || site.guard_log().contains("IS the primary now"));
    assert!(!site.first.takes_writes(), "two writable servers");
    site.set("");
    site.switch("Switch OK", &["finishing an earlier switch"]);
    site.settled(&site.second, &site.first);
}
