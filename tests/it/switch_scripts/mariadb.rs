//! MariaDB: a primary and its GTID replica, and contrib/switch/mariadb.sh. Clients are `mariadb` and this crate's own
//! few packets.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use super::mysql::Session;
use super::server::{Process, hand_over, unprivileged};
use super::{LONG, Server, Site};
use crate::support::{Reserved, TempDir, eventually};

pub struct MariaDb(Process);

/// `app` is an ordinary account; `cbpx` has what README says the script needs; `admin` may write in spite of read_only.
const ACCOUNTS: &str = "\
    CREATE TABLE test.ledger (client INT, n INT, PRIMARY KEY (client, n)) ENGINE=InnoDB;\n\
    CREATE USER app@'%', cbpx@'%', admin@'%', replicator@'%' IDENTIFIED BY 'it''s \\\\ secret';\n\
    GRANT SELECT, INSERT, DELETE ON test.* TO app@'%';\n\
    GRANT READ_ONLY ADMIN, CONNECTION ADMIN, RELOAD, PROCESS, REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, REPLICA MONITOR ON *.* TO cbpx@'%';\n\
    GRANT ALL ON *.* TO admin@'%';\n\
    GRANT REPLICATION SLAVE ON *.* TO replicator@'%';\n";

impl MariaDb {
    /// `second` is a copy of `first`, before anything was written, and follows it.
    fn pair(dir: &Path) -> [MariaDb; 2] {
        let data = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        // A server that starts removes all temporary tables it finds in its tmpdir: each has its own.
        for name in ["first.tmp", "second.tmp"] {
            fs::create_dir(dir.join(name)).unwrap();
            hand_over(&dir.join(name));
        }
        let output = unprivileged("mariadb-install-db")
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
            .args(FRUGAL)
            .args([format!("--datadir={}", data("first")), format!("--tmpdir={}", data("first.tmp"))])
            .current_dir(dir)
            .output()
            .unwrap_or_else(|e| panic!("cannot run mariadb-install-db: {e}: contrib/run-tests installs it"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let copied = unprivileged("cp").args(["-a", "--sparse=always", &data("first"), &data("second")]).status();
        assert!(copied.unwrap().success());
        fs::write(dir.join("init.sql"), format!("CREATE DATABASE test;\n{ACCOUNTS}")).unwrap();
        let first = MariaDb::start(dir, "first", 1, &[&format!("--init-file={}", data("init.sql"))]);
        let second = MariaDb::start(dir, "second", 2, &["--read-only"]);
        // Its own accounts arrive with the first events; until then there is root alone, over the socket.
        let follow = format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='replicator', \
             MASTER_PASSWORD='it''s \\\\ secret', MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos; START SLAVE",
            first.port()
        );
        let status = Command::new("mariadb")
            .args(["--no-defaults", "-uroot", &format!("--socket={}", data("second.sock")), "-e", &follow])
            .status();
        assert!(status.unwrap().success());
        // The accounts come one statement after another; the last one makes them complete.
        let written = first.ask("SELECT @@gtid_binlog_pos");
        eventually(LONG, "the accounts have arrived", || {
            second.try_ask("admin", "SELECT @@gtid_slave_pos").is_ok_and(|applied| applied == written)
        });
        [first, second]
    }

    fn start(dir: &Path, name: &str, id: u32, more: &[&str]) -> MariaDb {
        let port = Reserved::new();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port()));
        let file = |ending: &str| dir.join(format!("{name}{ending}")).to_str().unwrap().to_owned();
        let mut command = unprivileged("mariadbd");
        command
            .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--log-bin=bin"])
            .args(["--log-slave-updates", "--binlog-format=ROW", "--gtid-strict-mode", "--slave-net-timeout=10"])
            .args(FRUGAL)
            .args([format!("--datadir={}", file("")), format!("--socket={}", file(".sock"))])
            .args([format!("--pid-file={}", file(".pid")), format!("--port={}", port.port())])
            .args([format!("--server-id={id}"), format!("--tmpdir={}", file(".tmp"))])
            .args(more)
            .current_dir(dir);
        // A refusal will do: on the replica nobody has an account yet.
        let answers = || match Session::open(addr, "app") {
            Ok(_) => true,
            Err(cause) => cause.contains("refuses"),
        };
        MariaDb(Process::start(command, port, file(".log").into(), answers))
    }

    fn try_ask(&self, user: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
        Session::open((Ipv4Addr::LOCALHOST, self.port()).into(), user)?.query(sql)
    }

    fn ask(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_ask("admin", sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    fn is_read_only(&self) -> bool {
        self.ask("SELECT @@global.read_only").concat() == ["1"]
    }
}

/// As little memory, disk and waiting as will do.
const FRUGAL: &[&str] = &[
    "--innodb-buffer-pool-size=8M",
    "--innodb-log-file-size=4M",
    "--innodb-flush-method=nosync",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--sync-binlog=0",
    "--innodb-use-native-aio=0",
];

impl Server for MariaDb {
    fn port(&self) -> u16 {
        self.0.port()
    }

    /// The commit of an ordinary account, of a transaction that leaves nothing behind.
    fn takes_writes(&self) -> bool {
        self.try_ask("app", "DELETE FROM test.ledger WHERE client = -1").is_ok()
    }

    fn follows(&self, other: &MariaDb) -> bool {
        // A session of the replication user on the one, and a running connection and applier on the other.
        let connected = "SELECT COUNT(*) FROM information_schema.processlist WHERE command = 'Binlog Dump'";
        let running =
            "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'SLAVE_RUNNING'";
        self.ask(running).concat() == ["ON"] && other.ask(connected).concat() == ["1"]
    }

    fn is_standby(&self) -> bool {
        self.is_read_only()
    }

    fn is_guarded(&self) -> bool {
        self.ask("SELECT IS_USED_LOCK('cbpx')").concat() != ["NULL"]
    }

    fn rows(&self) -> Vec<(usize, usize)> {
        let rows = self.ask("SELECT client, n FROM test.ledger");
        rows.iter().map(|row| (row[0].parse().unwrap(), row[1].parse().unwrap())).collect()
    }
}

fn visit(addr: SocketAddr, client: usize, n: usize) -> Result<(u16, usize), String> {
    let insert = format!("INSERT INTO test.ledger VALUES ({client}, {n})");
    let count = format!("SELECT @@port, COUNT(*) FROM test.ledger WHERE client = {client}");
    let row = if client < 4 {
        let (host, port) = (addr.ip().to_string(), addr.port().to_string());
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-uapp", "-NB", "-h", &host, "-P", &port, "-e", &format!("{insert}; {count}")])
            .output()
            .map_err(|e| format!("mariadb: {e}"))?;
        if !output.status.success() {
            return Err(format!("mariadb: {}", String::from_utf8_lossy(&output.stderr)));
        }
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    } else {
        let mut session = Session::open(addr, "app")?;
        session.query(&insert)?;
        let rows = session.query(&count)?;
        session.close()?;
        rows.concat()
    };
    match &row[..] {
        [port, count] => {
            let number = |text: &String| text.parse::<usize>().map_err(|e| format!("{text}: {e}"));
            Ok((number(port)? as u16, number(count)?))
        }
        _ => Err(format!("a wrong answer: {row:?}")),
    }
}

const REJOIN: &str = "MARIADB_USER=cbpx\nREJOIN=yes\nREPLICATION_USER=replicator\nREPLICATION_PASSWORD=\"it's \\\\ secret\"\n\
    REJOIN_OPTIONS=MASTER_CONNECT_RETRY=1";

fn site() -> Site<MariaDb> {
    let dir = TempDir::new("mariadb");
    hand_over(dir.path());
    let pair = MariaDb::pair(dir.path());
    Site::start("mariadb", dir, pair, visit, REJOIN)
}

#[test]
fn mariadb_goes_there_and_back_and_no_client_notices() {
    super::goes_there_and_back_unnoticed(&site());
}

#[test]
fn a_mariadb_switch_that_fails_leaves_everything_as_it_was() {
    super::leaves_everything_as_it_was(
        &site(),
        |second| drop(second.ask("STOP SLAVE SQL_THREAD")),
        |second| drop(second.ask("START SLAVE SQL_THREAD")),
        "does not apply what it gets",
    );
}

#[test]
fn a_mariadb_script_that_is_killed_is_undone_by_its_guard() {
    super::is_undone_by_its_guard(&site());
}

#[test]
fn a_mariadb_script_killed_after_the_promotion_leaves_one_writable_server() {
    // The script waits for its first write on the new primary, and that fails.
    super::stands_once_it_is_promoted(&site(), |site| site.set("PROBE_SQL='SELECT nothing'"), |site| site.set(""));
}

/// The symptom would be a row that the old primary acknowledged after the new one had everything.
#[test]
fn the_mariadb_fence_holds_against_admins_and_against_transactions_begun_before() {
    let site = site();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, site.first.port()));
    let mut begun = Session::open(addr, "app").unwrap();
    begun.query("START TRANSACTION").unwrap();
    begun.query("INSERT INTO test.ledger VALUES (100, 1)").unwrap();
    let fenced = site.file("fenced");
    let command =
        format!("touch {}; while [ -d {} ]; do sleep 0.05; done", fenced.display(), site.dir.path().display());
    site.set(&format!("FENCE_COMMAND='{command}'"));
    let switching = site.proxy.begin("switch");
    eventually(LONG, "the script hangs", || fenced.exists());
    let insert = "SET STATEMENT lock_wait_timeout=1 FOR INSERT INTO test.ledger VALUES (101, 1)";
    let refused = site.first.try_ask("admin", insert).unwrap_err();
    assert!(refused.contains("Lock wait timeout"), "not held by the read lock: {refused}");
    assert!(site.first.try_ask("app", insert).is_err(), "an ordinary account wrote");
    assert!(begun.query("COMMIT").is_err(), "a transaction begun before was committed");
    site.proxy.ask("abort");
    super::ends_with(&crate::proxy::finish(switching), "Switch failed: aborted", &["fenced: "]);
    site.settled(&site.first, &site.second);
    assert_eq!(site.first.rows(), []);
}

/// A row that only the standby has would be lost to everybody, or stop the old primary from following.
#[test]
fn a_mariadb_switch_is_refused_if_the_standby_has_a_row_of_its_own_or_takes_writes() {
    let site = site();
    let refused = |why: &str| {
        site.switch("Switch failed: script exited with code: 1", &[why, "nothing was touched"]);
        assert!(site.first.takes_writes());
    };
    site.second.ask("SET GLOBAL read_only = 0");
    refused("is not read_only");
    site.second.ask("SET GLOBAL read_only = 1");
    site.second.ask("INSERT INTO test.ledger VALUES (100, 1)");
    refused("has a transaction of its own, 0-2-");
    assert!(site.second.is_standby() && site.second.follows(&site.first));
}
