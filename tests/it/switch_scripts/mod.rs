//! Pairs of real servers, the real switch scripts, real clients: MariaDB with contrib/switch/mariadb.sh, Redis with
//! redis.sh, and Redis again with the five functions of generic.sh. Twenty clients write through cbpx all the time.
//! Whatever happens, every acknowledged row is on the server the clients end up with, exactly once. (PostgreSQL has its
//! own: `postgres`.)

mod generic;
mod mariadb;
mod mysql;
mod redis;
mod server;
mod writers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use self::writers::{Visit, Writers};
use crate::proxy::{Proxy, finish};
use crate::support::{TempDir, eventually};

/// For steps of a whole server, on a machine that does much else.
pub const LONG: Duration = Duration::from_secs(60);

/// What the tests ask of a server, each time over a connection of its own and past the proxy.
pub trait Server {
    fn port(&self) -> u16;
    /// Whether an ordinary client's write succeeds. It leaves no row.
    fn takes_writes(&self) -> bool;
    /// Whether it follows `other` and is connected to it.
    fn follows(&self, other: &Self) -> bool;
    fn is_standby(&self) -> bool;
    /// Whether the guard of a switch script is still connected.
    fn is_guarded(&self) -> bool;
    /// The rows it has: client and number.
    fn rows(&self) -> Vec<(usize, usize)>;
}

/// A pair behind a proxy that switches it with one of the scripts.
pub struct Site<S> {
    pub proxy: Proxy,
    pub first: S,
    pub second: S,
    visit: Visit,
    settings: String,
    // After the servers: they must have ended before their directory goes.
    dir: TempDir,
}

impl<S: Server> Site<S> {
    /// `second` follows `first`; the script called `name` finds `settings` in its file.
    pub fn start(name: &str, dir: TempDir, [first, second]: [S; 2], visit: Visit, settings: &str) -> Site<S> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("contrib/switch/{name}.sh"));
        let at = |server: &S| format!("127.0.0.1:{}", server.port());
        let file = dir.path().join("script.env");
        let flags = ["-t", "60", "-x", script.to_str().unwrap()];
        let proxy = Proxy::start_with(&at(&first), &at(&second), &flags, |command| {
            command.env(format!("CBPX_{}_ENV", name.to_uppercase()), &file);
        });
        let settings = format!("GUARD_LOG={}\nQUERY_TIMEOUT=20\n{settings}\n", dir.path().join("guard.log").display());
        let site = Site { proxy, first, second, visit, settings, dir };
        site.set("");
        site.settled(&site.first, &site.second);
        site
    }

    /// What the script finds in its settings file from now on, besides what it always does.
    pub fn set(&self, lines: &str) {
        fs::write(self.file("script.env"), format!("{}{lines}\n", self.settings)).unwrap();
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn guard_log(&self) -> String {
        fs::read_to_string(self.file("guard.log")).unwrap_or_default()
    }

    pub fn writers(&self) -> Writers {
        Writers::start(self.proxy.addr(), self.visit)
    }

    /// Waits until `primary` takes writes, `standby` follows it and takes none, and no guard is left.
    pub fn settled(&self, primary: &S, standby: &S) {
        eventually(LONG, "the standby follows the primary", || standby.follows(primary));
        eventually(LONG, "the guards have gone", || !primary.is_guarded() && !standby.is_guarded());
        eventually(LONG, "the primary takes writes", || primary.takes_writes());
        assert!(!standby.takes_writes(), "two writable servers");
    }

    /// `switch`, which must end with that line and say all of these on its way.
    pub fn switch(&self, last_line: &str, said: &[&str]) {
        ends_with(&self.proxy.ask("switch"), last_line, said);
    }
}

pub fn ends_with(answer: &str, last_line: &str, said: &[&str]) {
    let last = answer.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains(last_line), "not {last_line:?} but: {answer}");
    for line in said {
        assert!(answer.contains(line), "no {line:?} in: {answer}");
    }
}

/// There and back, twice, while everybody writes.
fn goes_there_and_back_unnoticed<S: Server>(site: &Site<S>) {
    let writers = site.writers();
    let (mut old, mut new) = (&site.first, &site.second);
    for _ in 0..4 {
        site.switch("Switch OK!: all connections closed, script returned: 0", &["fenced: ", "replicated: ", "done: "]);
        writers.work_on(100);
        site.settled(new, old);
        (old, new) = (new, old);
    }
    let ledger = writers.come_home();
    ledger.is_spotless();
    for server in [&site.first, &site.second] {
        assert!(ledger.by(server.port()) > 0, "nothing was written on {}", server.port());
    }
    ledger.equals(&site.first.rows());
    eventually(LONG, "the standby has the rows, too", || site.second.rows().len() == ledger.acknowledged());
    ledger.equals(&site.second.rows());
}

/// A switch that is refused because of `spoil`, then one that fails with the fence up, then a good one.
fn leaves_everything_as_it_was<S: Server>(site: &Site<S>, spoil: impl Fn(&S), repair: impl Fn(&S), why: &str) {
    let writers = site.writers();
    spoil(&site.second);
    site.switch("Switch failed: script exited with code: 1", &[why, "nothing was touched"]);
    assert!(site.first.takes_writes() && site.second.is_standby());
    repair(&site.second);
    site.settled(&site.first, &site.second);
    writers.work_on(50);

    site.set("FENCE_COMMAND='echo no such thing; false'");
    site.switch("Switch failed: script exited with code: 2", &["fenced: ", "no such thing", "undone: "]);
    site.settled(&site.first, &site.second);
    writers.work_on(50);
    site.set("");

    site.switch("Switch OK", &[]);
    writers.work_on(50);
    site.settled(&site.second, &site.first);
    let ledger = writers.come_home();
    ledger.is_spotless();
    ledger.equals(&site.second.rows());
}

/// The script gets SIGKILL with the fence up. Nobody notices: they are let through when the guard has taken it down.
fn is_undone_by_its_guard<S: Server>(site: &Site<S>) {
    let writers = site.writers();
    // (It lets go when the test's directory is gone, should the test fail.)
    let (dir, fenced) = (site.dir.path().display(), site.file("fenced"));
    site.set(&format!("FENCE_COMMAND='touch {}; while [ -d {dir} ]; do sleep 0.05; done'", fenced.display()));
    let switching = site.proxy.begin("switch");
    eventually(LONG, "the script hangs", || fenced.exists());
    assert!(!site.first.takes_writes(), "not fenced");
    site.proxy.ask("abort");
    ends_with(&finish(switching), "Switch failed: aborted", &[]);
    site.settled(&site.first, &site.second);
    assert!(site.guard_log().contains("takes writes again"), "the guard says: {}", site.guard_log());
    writers.work_on(100);
    let ledger = writers.come_home();
    ledger.is_spotless();
    assert_eq!(ledger.by(site.second.port()), 0, "rows acknowledged by the wrong server");
    ledger.equals(&site.first.rows());
}

/// The script is killed when the standby is the primary already, but takes no writes yet: `late` makes it so, `repair`
/// ends it.
fn stands_once_it_is_promoted<S: Server>(site: &Site<S>, late: impl Fn(&Site<S>), repair: impl Fn(&Site<S>)) {
    late(site);
    let switching = site.proxy.begin("switch");
    eventually(LONG, "the standby is promoted", || !site.second.is_standby());
    site.proxy.ask("abort");
    ends_with(&finish(switching), "Switch failed: aborted", &["promoting: "]);
    eventually(LONG, "the guard says so", || site.guard_log().contains("IS the primary now"));
    assert!(!site.first.takes_writes(), "two writable servers");
    repair(site);
    site.switch("Switch OK", &["finishing an earlier switch", "done: "]);
    site.settled(&site.second, &site.first);
    let writers = site.writers();
    let ledger = writers.come_home();
    ledger.is_spotless();
    assert_eq!(ledger.by(site.first.port()), 0, "rows acknowledged by the wrong server");
    ledger.equals(&site.second.rows());
}

#[test]
fn shellcheck_finds_nothing_in_the_scripts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts =
        ["common", "generic", "mariadb", "postgresql", "redis"].map(|name| format!("contrib/switch/{name}.sh"));
    let mut command = Command::new("shellcheck");
    let output = command.current_dir(root).args(["-x", "contrib/run-tests"]).args(scripts).output();
    let output = output.unwrap_or_else(|e| panic!("cannot run shellcheck: {e}: contrib/run-tests installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
