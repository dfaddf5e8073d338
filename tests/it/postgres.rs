//! Real PostgreSQL, the real switch script, real clients: a primary and a streaming standby, twenty clients that write
//! and read through cbpx, and contrib/switch/postgresql.sh. Whatever happens, every acknowledged row is on the server
//! the clients end up with, exactly once.

mod cluster;
mod crew;
mod fallback;
mod readme;
mod refusals;
mod wire;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use self::cluster::{Cluster, LONG, Server};
use self::crew::Crew;
use crate::proxy::{Proxy, finish};
use crate::support::eventually;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/switch/postgresql.sh");

/// A cluster behind a proxy that switches it with the real script.
struct Site {
    proxy: Proxy,
    cluster: Cluster,
}

impl Site {
    /// With `-t time_limit`.
    fn start(time_limit: &str) -> Site {
        let cluster = Cluster::start();
        let (active, standby) = (cluster.first.addr().to_string(), cluster.second.addr().to_string());
        let settings = cluster.dir().join("script.env");
        let proxy = Proxy::start_with(&active, &standby, &["-t", time_limit, "-x", SCRIPT], |command| {
            command.env("CBPX_POSTGRESQL_ENV", settings);
        });
        let site = Site { proxy, cluster };
        site.settings("");
        site
    }

    /// What the script finds in its settings file from now on.
    fn settings(&self, lines: &str) {
        let text =
            format!("PGUSER=postgres\nGUARD_LOG={}\nQUERY_TIMEOUT=20\n{lines}\n", self.file("guard.log").display());
        fs::write(self.file("script.env"), text).unwrap();
    }

    /// From now on the script hangs as soon as it has fenced the old primary, and believes that it has all the time
    /// there is. It leaves a file `fenced`. (It lets go when the test's directory is gone, should the test fail.)
    fn hang_when_fenced(&self) {
        let (dir, fenced) = (self.cluster.dir().display(), self.file("fenced"));
        self.settings(&format!(
            "CBPX_SECONDS_LEFT=1000\nFENCE_COMMAND='touch {}; while [ -d {dir} ]; do sleep 0.05; done'",
            fenced.display()
        ));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    fn guard_log(&self) -> String {
        fs::read_to_string(self.file("guard.log")).unwrap_or_default()
    }

    /// Waits until `first` takes writes again, and its guard is gone.
    fn is_as_before(&self) {
        eventually(LONG, "the old primary is un-fenced", || !self.cluster.first.is_fenced());
        eventually(LONG, "the guard has gone", || !self.cluster.first.is_guarded());
        assert!(!self.cluster.first.is_fenced(), "fenced again");
        assert!(self.cluster.second.is_standby(), "the standby was promoted");
    }
}

fn ends_with(answer: &str, last_line: &str) {
    let last = answer.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains(last_line), "not {last_line:?} but: {answer}");
}

#[test]
fn a_switch_loses_no_row_and_no_client_notices() {
    let site = Site::start("60");
    let Cluster { first, second, .. } = &site.cluster;
    // A standby that is always a little behind: the script has something to wait for.
    second.configure("recovery_min_apply_delay = '500ms'\n");
    second.ask("SELECT pg_reload_conf()");
    let crew = Crew::start(site.proxy.addr());
    let answer = site.proxy.ask("switch");
    ends_with(&answer, "Switch OK!: all connections closed, script returned: 0");
    assert!(answer.contains(" script: "), "no line of the script in: {answer}");
    crew.works_on(200);
    let ledger = crew.come_home();
    ledger.is_spotless();
    ledger.moved(first, second);
    ledger.equals(second);
    assert!(!second.is_standby() && !second.is_fenced());
    let refusal = first.try_ask("INSERT INTO ledger VALUES (0, 0, 0)").unwrap_err();
    assert!(refusal.is_fence(), "the old primary is not fenced: {refusal}");
}

#[test]
fn a_switch_that_fails_leaves_everything_as_it_was() {
    let mut site = Site::start("60");
    let crew = Crew::start(site.proxy.addr());

    site.cluster.second.ask("SELECT pg_wal_replay_pause()");
    let answer = site.proxy.ask("switch");
    ends_with(&answer, "Switch failed: script exited with code: 1");
    assert!(answer.contains("replay is paused") && answer.contains("nothing was touched"), "{answer}");
    site.cluster.second.ask("SELECT pg_wal_replay_resume()");
    site.is_as_before();
    crew.works_on(50);

    site.settings("FENCE_COMMAND='echo no such switch; false'");
    let answer = site.proxy.ask("switch");
    ends_with(&answer, "Switch failed: script exited with code: 2");
    for line in ["fenced: ", "no such switch", "undone: "] {
        assert!(answer.contains(line), "no {line:?} in: {answer}");
    }
    site.is_as_before();
    crew.works_on(50);
    site.settings("");

    site.cluster.second.crash();
    let answer = site.proxy.ask("switch");
    ends_with(&answer, "Switch failed: script exited with code: 1");
    assert!(answer.contains("cannot query the standby"), "{answer}");
    site.cluster.second.start();
    site.is_as_before();
    crew.works_on(50);

    // None of this is in the way of a switch that can succeed.
    site.cluster.first.wait_for_standby();
    ends_with(&site.proxy.ask("switch"), "Switch OK");
    crew.works_on(50);
    let ledger = crew.come_home();
    ledger.is_spotless();
    ledger.moved(&site.cluster.first, &site.cluster.second);
    ledger.equals(&site.cluster.second);
}

#[test]
fn a_script_killed_at_the_time_limit_is_undone_by_its_guard() {
    let site = Site::start("10");
    let crew = Crew::start(site.proxy.addr());
    site.hang_when_fenced();
    let answer = site.proxy.ask("switch");
    ends_with(&answer, "Switch failed: switch timeout");
    all_go_on_after_a_kill(&site, crew);
}

#[test]
fn a_script_killed_by_abort_is_undone_by_its_guard() {
    let site = Site::start("60");
    let crew = Crew::start(site.proxy.addr());
    site.hang_when_fenced();
    let switching = site.proxy.begin("switch");
    eventually(LONG, "the script hangs", || site.file("fenced").exists());
    assert!(site.cluster.first.is_fenced());
    site.proxy.ask("abort");
    ends_with(&finish(switching), "Switch failed: aborted");
    all_go_on_after_a_kill(&site, crew);
}

/// The script was killed with the fence up. No client has noticed: they were let through when the guard had taken it
/// down.
fn all_go_on_after_a_kill(site: &Site, crew: Crew) {
    assert!(site.file("fenced").exists(), "the script was killed before it had fenced: {}", site.proxy.log());
    site.is_as_before();
    assert!(site.guard_log().contains("takes writes again"), "the guard says: {}", site.guard_log());
    crew.works_on(100);
    let ledger = crew.come_home();
    ledger.is_spotless();
    ledger.is_by(&site.cluster.first);
    ledger.equals(&site.cluster.first);
}

#[test]
fn a_script_killed_after_it_ordered_the_promotion_leaves_one_writable_server() {
    let site = Site::start("60");
    let Cluster { first, second, .. } = &site.cluster;
    // The standby takes its time to become a primary: until there is a file `go`, or the test is over.
    let (dir, go) = (site.cluster.dir().display(), site.file("go"));
    let wait = format!("while [ -d {dir} ] && [ ! -e {} ]; do sleep 0.05; done", go.display());
    second.configure(&format!("recovery_end_command = '{wait}'\n"));
    second.ask("SELECT pg_reload_conf()");
    eventually(LONG, "the standby knows", || second.ask("SHOW recovery_end_command") == wait);
    let crew = Crew::start(site.proxy.addr());

    let switching = site.proxy.begin("switch");
    let mut answer = BufReader::new(switching.try_clone().unwrap()).lines().map(Result::unwrap);
    assert!(answer.any(|line| line.contains("promoting: ")), "no promotion: {}", site.proxy.log());
    // The receiver ends when the standby has seen the order.
    let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
    eventually(LONG, "the standby is being promoted", || second.ask(receivers) == "0");
    site.proxy.ask("abort");
    assert_eq!(answer.last().as_deref().map(str::trim), Some("Switch failed: aborted"));

    fs::write(&go, "").unwrap();
    eventually(LONG, "the standby is promoted", || !second.is_standby());
    eventually(LONG, "the guard has gone", || !first.is_guarded());
    assert!(first.is_fenced(), "two writable servers");
    assert!(site.guard_log().contains("IS the primary now"), "the guard says: {}", site.guard_log());

    // Typing it again finishes the job.
    ends_with(&site.proxy.ask("switch"), "Switch OK");
    crew.works_on(100);
    let ledger = crew.come_home();
    for (attempt, failure) in ledger.failures() {
        assert!(failure.is_fence(), "{attempt}: {failure}");
    }
    ledger.moved(first, second);
    ledger.equals(second);
}

#[test]
fn there_and_back_with_a_server_that_is_stopped_and_carries_its_fence() {
    let mut site = Site::start("60");
    // Stops whichever server is the old one, and waits until it has.
    let by_port = |server: &Server| format!("{}) data={};;", server.port(), server.data().display());
    let data = by_port(&site.cluster.first) + &by_port(&site.cluster.second);
    site.settings(&format!(
        "FENCE=stop\nUNFENCE_COMMAND=false\nFENCE_COMMAND='case $FENCE_PORT in {data} esac; \
         kill -INT $(head -n 1 $data/postmaster.pid); while [ -e $data/postmaster.pid ]; do sleep 0.02; done'"
    ));
    let crew = Crew::start(site.proxy.addr());
    let answer = site.proxy.ask("switch");
    ends_with(&answer, "Switch OK");
    assert!(answer.contains("stopped: "), "{answer}");
    crew.works_on(50);

    // It was stopped cleanly, so it can follow the new primary as it is, its fence included.
    let Cluster { first, second, .. } = &mut site.cluster;
    first.has_stopped();
    first.configure(&format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n", second.port()));
    fs::write(first.data().join("standby.signal"), "").unwrap();
    first.start();
    second.wait_for_standby();
    assert!(first.is_fenced() && first.is_standby());

    let answer = site.proxy.ask("switch");
    ends_with(&answer, "Switch OK");
    assert!(answer.contains("cleared: "), "{answer}");
    crew.works_on(50);
    let ledger = crew.come_home();
    ledger.is_spotless();
    ledger.equals(&site.cluster.first);
    assert!(!site.cluster.first.is_fenced());
    site.cluster.second.has_stopped();
}

/// The symptom: `refused: the active ... has no standby ''`, on the way back to a server that had been stopped cleanly.
/// Once its receiver has followed a promotion, an older server (15.18 does it, 15.20 does not) shows `primary_conninfo`
/// as it was written and not as libpq understood it, defaults included. A view makes a server of any version show it
/// so.
#[test]
fn a_standby_is_known_by_its_name_however_its_connection_string_is_written() {
    let mut site = Site::start("60");
    let port = site.cluster.first.port();
    site.cluster.first.ask(
        "CREATE SCHEMA as_written; CREATE VIEW as_written.pg_stat_wal_receiver AS SELECT status, slot_name, \
         current_setting('primary_conninfo') AS conninfo FROM pg_catalog.pg_stat_wal_receiver",
    );
    // pg_basebackup wrote no application_name.
    is_known_as(&site, "walreceiver");
    let named = [
        ("plain", format!("host=127.0.0.1 port={port} user=postgres application_name=plain")),
        ("quoted", format!("application_name = 'quoted' host=127.0.0.1 port={port} user=postgres")),
        ("uri", format!("postgresql://postgres@127.0.0.1:{port}/?application_name=uri&connect_timeout=9")),
    ];
    for (name, string) in named {
        connect_with(&site.cluster.second, &string);
        is_known_as(&site, name);
    }

    // Restarted first: from then on only the reload can change the name.
    let Cluster { first, second, .. } = &mut site.cluster;
    second.crash();
    second.configure("cluster_name = 'the cluster'\n");
    second.start();
    first.wait_for_standby();
    connect_with(second, &format!("host=127.0.0.1 port={port} user=postgres"));
    is_known_as(&site, "the cluster");
}

/// Gives a standby another connection string.
fn connect_with(standby: &Server, string: &str) {
    standby.ask(&format!("ALTER SYSTEM SET primary_conninfo = '{}'", string.replace('\'', "''")));
    standby.ask("SELECT pg_reload_conf()");
}

/// The primary calls the standby `name`, and the script finds it under that name, whether the standby shows its
/// connection string as libpq understood it or as it was written.
fn is_known_as(site: &Site, name: &str) {
    let standbys =
        "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn IS NOT NULL";
    eventually(LONG, "the standby streams by its name", || site.cluster.first.ask(standbys) == name);
    for first_schema in ["pg_catalog", "as_written"] {
        site.settings(&format!("PGOPTIONS='-c search_path={first_schema},pg_catalog'\nFENCE_COMMAND=false"));
        let answer = site.proxy.ask("switch");
        ends_with(&answer, "Switch failed: script exited with code: 2");
        assert!(answer.contains(&format!("its standby '{name}', streaming")), "{first_schema}, {name}: {answer}");
    }
}
