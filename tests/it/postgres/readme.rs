//! README's chapter on PostgreSQL, typed as it stands: each command is taken from README.md, with its addresses, ports,
//! paths and users replaced by those of a real pair. What README does not say, nobody does here either.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::cluster::postgresql::{drop_privileges, give_away};
use super::cluster::{LONG, Server, program, run};
use super::crew::Crew;
use super::wire::Session;
use crate::proxy::{CBPX, Proxy};
use crate::support::{TempDir, eventually};

/// Where a server's configuration files are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// In a directory of their own, as Debian has it.
    Apart,
    /// Among the data, as `initdb` leaves them.
    Inside,
}

/// The machines of README: two servers, and the one of cbpx.
struct Pair {
    first: Server,
    second: Server,
    layout: Layout,
    // After the servers: they must have ended before their directory goes.
    dir: TempDir,
}

/// The indented blocks of a section of README.md, without their indent.
fn blocks(heading: &str) -> Vec<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme.split_once(heading).unwrap_or_else(|| panic!("README has no '{heading}'")).1;
    let section = section.split("\n### ").next().unwrap();
    let mut blocks = vec![String::new()];
    for line in section.lines() {
        let code = line.strip_prefix("    ");
        let last = blocks.last_mut().unwrap();
        match code {
            Some(code) => last.push_str(&format!("{code}\n")),
            None if line.is_empty() && !last.is_empty() => last.push('\n'),
            None if last.is_empty() => {}
            None => blocks.push(String::new()),
        }
    }
    blocks.into_iter().filter(|block| !block.trim().is_empty()).collect()
}

/// The one block of a section with these words in it.
fn block(heading: &str, words: &str) -> String {
    let found: Vec<String> = blocks(heading).into_iter().filter(|block| block.contains(words)).collect();
    assert_eq!(found.len(), 1, "README's '{heading}' should have one block with '{words}': {found:?}");
    found.into_iter().next().unwrap()
}

/// The commands of a block; a line that ends with `\` goes on in the next.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    joined.lines().map(str::to_owned).filter(|line| !line.trim().is_empty()).collect()
}

const SERVERS: &str = "### 1. The servers";
const SCRIPT: &str = "### 2. The script and its settings";
const PROXY: &str = "### 3. The proxy";
const REHEARSE: &str = "### 4. Rehearse";
const SWITCH: &str = "### 5. Switch";
const WAY_BACK: &str = "### 6. The old primary becomes the standby";

impl Pair {
    /// Steps 1 and 2. The primary exists before them, and its standby after them.
    fn start(layout: Layout) -> Pair {
        let dir = TempDir::new("readme");
        give_away(dir.path()).unwrap();
        let (first, second) = (Server::new(dir.path().join("first")), Server::new(dir.path().join("second")));
        let mut pair = Pair { first, second, layout, dir };
        for place in ["home", "bin"] {
            fs::create_dir(pair.path(place)).unwrap();
            give_away(&pair.path(place)).unwrap();
        }
        let data = pair.first.data().to_str().unwrap();
        // Small segments: pg_rewind copies all of them.
        let options = ["-U", "postgres", "-E", "UTF8", "--locale=C", "-N", "-A", "trust", "--wal-segsize=1"];
        run("initdb", &[&["-D", data][..], &options[..]].concat(), pair.dir.path());
        pair.configure_first();
        pair.first.start_with_options(pair.options("first"));
        let sql = pair.here(&block(SERVERS, "CREATE ROLE cbpx"), &pair.first, &pair.second);
        let sql = format!("{sql}CREATE TABLE ledger (client int, n int, port int); CREATE ROLE app LOGIN;\n");
        pair.types("psql -v ON_ERROR_STOP=1 -c \"$SQL\"", &pair.first, |command| {
            command.env("SQL", sql + "GRANT INSERT, SELECT ON ledger TO app");
        });
        for line in commands(&block(SERVERS, ".pgpass")) {
            pair.types(&pair.here(&line, &pair.first, &pair.second), &pair.first, |_| {});
        }
        // The pair README begins with: a standby that streams as `replicator`.
        let primary = format!("host=127.0.0.1 port={} user=replicator", pair.first.port());
        let primary = format!("{primary} passfile={}", pair.path("home/.pgpass").display());
        let data = pair.second.data().to_str().unwrap();
        run("pg_basebackup", &["-d", &primary, "-D", data, "-R", "-c", "fast"], pair.dir.path());
        pair.configure_second();
        pair.second.start_with_options(pair.options("second"));
        pair.first.wait_for_standby();
        for line in commands(&block(SCRIPT, "useradd")).iter().filter(|line| !line.starts_with("useradd ")) {
            let output = bash(&pair.here(line, &pair.first, &pair.second)).output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
        }
        let settings = fs::read_to_string(pair.path("etc/postgresql.env")).unwrap();
        let settings = settings.replace("/etc/cbpx", &pair.path("etc").display().to_string());
        // A machine that does much else needs more time for a statement.
        fs::write(pair.path("etc/postgresql.env"), settings + "QUERY_TIMEOUT=20\n").unwrap();
        pair
    }

    fn configure_first(&self) {
        let (data, etc) = (self.first.data(), self.path("first.etc"));
        append(
            &data.join("postgresql.conf"),
            &format!(
                "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\nshared_buffers = 16MB\n\
                 max_wal_senders = 4\nwal_retrieve_retry_interval = 100ms\nport = {}\n{}",
                self.dir.path().display(),
                self.first.port(),
                block(SERVERS, "wal_log_hints")
            ),
        );
        // The local line stands for Debian's `peer`; the others let in the application, and this test's own questions.
        let rules = "local all all trust\nhost postgres app,postgres 127.0.0.1/32 trust\n";
        let rules = rules.to_owned() + &self.here(&block(SERVERS, "scram-sha-256"), &self.first, &self.second);
        fs::write(data.join("pg_hba.conf"), rules).unwrap();
        if self.layout == Layout::Apart {
            fs::create_dir(&etc).unwrap();
            give_away(&etc).unwrap();
            for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
                fs::rename(data.join(name), etc.join(name)).unwrap();
            }
            append(&etc.join("postgresql.conf"), &rule_files(&etc));
        }
    }

    /// The standby has the same configuration, and its own port.
    fn configure_second(&self) {
        let port = format!("port = {}\n", self.second.port());
        match self.layout {
            Layout::Inside => append(&self.second.data().join("postgresql.conf"), &port),
            Layout::Apart => {
                let (theirs, ours) = (self.path("first.etc"), self.path("second.etc"));
                fs::create_dir(&ours).unwrap();
                for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
                    fs::copy(theirs.join(name), ours.join(name)).unwrap();
                    give_away(&ours.join(name)).unwrap();
                }
                give_away(&ours).unwrap();
                append(&ours.join("postgresql.conf"), &(port + &rule_files(&ours)));
            }
        }
    }

    fn options(&self, name: &str) -> Vec<String> {
        match self.layout {
            Layout::Inside => Vec::new(),
            Layout::Apart => {
                let file = self.path(&format!("{name}.etc/postgresql.conf"));
                vec!["-c".to_owned(), format!("config_file={}", file.display())]
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// README's words on the machine of `old`, when `new` is the other server.
    fn here(&self, words: &str, old: &Server, new: &Server) -> String {
        let dir = self.dir.path().display();
        let (data, programs) = (old.data().display(), program("pg_rewind"));
        let programs = programs.parent().unwrap().display();
        let (user, group) = ("$(id -un)", "$(id -gn)");
        let mut text = words.to_owned();
        for (theirs, ours) in [
            ("host=10.0.0.2 port=5432", format!("host=127.0.0.1 port={}", new.port())),
            ("10.0.0.1 5432 10.0.0.2 5432", format!("127.0.0.1 {} 127.0.0.1 {}", old.port(), new.port())),
            ("10.0.0.1/32", "127.0.0.1/32".to_owned()),
            ("10.0.0.2/32", "127.0.0.1/32".to_owned()),
            ("10.0.0.9/32", "127.0.0.1/32".to_owned()),
            ("/var/lib/postgresql/15/main", data.to_string()),
            ("/etc/postgresql/15/main", format!("{data}.etc")),
            ("/usr/lib/postgresql/15/bin", programs.to_string()),
            ("/var/lib/postgresql/.pgpass", format!("{dir}/home/.pgpass")),
            ("/var/lib/pgsql/15/data", data.to_string()),
            ("/usr/pgsql-15/bin", programs.to_string()),
            ("/var/lib/pgsql/.pgpass", format!("{dir}/home/.pgpass")),
            ("/var/lib/pgsql/own.tar", format!("{dir}/own.tar")),
            ("cargo build --release && install target/release/cbpx", format!("install {CBPX}")),
            ("/usr/local/bin", format!("{dir}/bin")),
            ("/usr/local/lib/cbpx", format!("{dir}/lib")),
            ("/etc/cbpx", format!("{dir}/etc")),
            ("-g cbpx", format!("-g {group}")),
            ("chown cbpx", format!("chown {user}")),
            ("chown postgres", format!("chown {user}")),
            ("runuser -u cbpx -- ", String::new()),
            ("runuser -l postgres -c", "bash -c".to_owned()),
            // A test's disk need not outlive the machine.
            ("pg_rewind -R", "pg_rewind -N -R".to_owned()),
            // The limit of a machine that does nothing else.
            ("CBPX_SECONDS_LEFT=10", "CBPX_SECONDS_LEFT=60".to_owned()),
        ] {
            text = text.replace(theirs, &ours);
        }
        for foreign in ["10.0.0.", "/var/lib", "/etc/cbpx", "/etc/postgresql/", "/usr/local", "runuser", "useradd"] {
            assert!(!text.contains(foreign), "'{foreign}' is not replaced in: {text}");
        }
        text
    }

    /// A command on the machine of a server, as its user. Returns what it said; it must succeed.
    fn types(&self, line: &str, server: &Server, adjust: impl FnOnce(&mut Command)) -> String {
        let mut command = bash(line);
        drop_privileges(&mut command).unwrap();
        let programs = program("psql").parent().unwrap().display().to_string();
        command.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap())).env("HOME", self.path("home"));
        // What a local psql finds without being told.
        command.env("PGHOST", self.dir.path()).env("PGPORT", server.port().to_string()).env("PGUSER", "postgres");
        command.current_dir(self.path("home"));
        adjust(&mut command);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let (said, error) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{line}\nfailed ({status}): {said}{error}");
        said.into_owned()
    }

    fn servers(&self, there: bool) -> (&Server, &Server) {
        if there { (&self.first, &self.second) } else { (&self.second, &self.first) }
    }

    /// Step 6, on the machine of the old primary: the first server after a switch `there`.
    fn old_primary_becomes_the_standby(&mut self, there: bool) {
        let words = match self.layout {
            Layout::Apart => "systemctl stop postgresql@15-main",
            Layout::Inside => "systemctl stop postgresql-15",
        };
        let mut assigned = String::new();
        for line in commands(&block(WAY_BACK, words)) {
            let (old, new) = self.servers(there);
            if line.starts_with("systemctl ") {
                let old = if there { &mut self.first } else { &mut self.second };
                if line.starts_with("systemctl stop ") { old.stop() } else { old.start() }
            } else if line.starts_with("new=") {
                assigned = self.here(&line, old, new);
            } else {
                self.types(&format!("{assigned}\n{}", self.here(&line, old, new)), old, |_| {});
            }
        }
        let (old, new) = self.servers(there);
        let question = self.here(&block(WAY_BACK, "pg_stat_wal_receiver"), old, new);
        eventually(LONG, "the old primary is a standby that streams", || {
            self.types(&question, old, |_| {}).trim() == "streaming"
        });
        // The role cbpx may not end a superuser's session, and this test's own may still be about to end.
        let own = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'postgres' AND datname = 'postgres'";
        eventually(LONG, "this test's sessions have ended", || {
            Session::open_as("app", new.addr()).unwrap().query(own).unwrap().concat().concat() == "0"
        });
    }
}

fn rule_files(etc: &Path) -> String {
    format!("hba_file = '{0}/pg_hba.conf'\nident_file = '{0}/pg_ident.conf'\n", etc.display())
}

fn append(path: &Path, lines: &str) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

/// From the root of the repository.
fn bash(line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", line]).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// Steps 3 to 6, there and back twice, with clients at work all the time.
fn there_and_back_twice(layout: Layout) {
    let mut pair = Pair::start(layout);
    for name in ["etc/pgpass", "home/.pgpass"] {
        assert_eq!(fs::metadata(pair.path(name)).unwrap().mode() & 0o077, 0, "others can read {name}");
    }
    let start = pair.here(&block(PROXY, "cbpx -p").replace("10.0.0.", "-"), &pair.first, &pair.second);
    let script = start.split_once("-x ").expect("a script").1.trim().to_owned();
    let (first, second) = (pair.first.addr().to_string(), pair.second.addr().to_string());
    let settings = pair.path("etc/postgresql.env");
    let proxy = Proxy::start_with(&first, &second, &["-t", "60", "-x", &script], |command| {
        command.env("CBPX_POSTGRESQL_ENV", &settings);
    });

    let rehearsal = pair.here(&block(REHEARSE, "FENCE_COMMAND=false"), &pair.first, &pair.second);
    let output = bash(&rehearsal).env("CBPX_POSTGRESQL_ENV", &settings).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let steps = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.split_whitespace().nth(2)?.to_owned())).collect()
    };
    assert_eq!(steps(&said), steps(&block(REHEARSE, "undone: ")), "README shows what is said: {said}");

    let crew = Crew::start_as("app", proxy.addr());
    for there in [true, false, true, false] {
        let switch = block(SWITCH, "ctl").replace("cbpx ctl", &format!("{CBPX} ctl"));
        let switch = switch.replace("127.0.0.1:5433", &proxy.control().to_string());
        let output = bash(&switch).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("Switch OK!"), "{said}");
        pair.old_primary_becomes_the_standby(there);
        crew.works_on(50);
    }
    let ledger = crew.come_home();
    ledger.is_spotless();
    ledger.equals(&pair.first);
    assert!(pair.second.is_standby() && !pair.first.is_fenced());
}

#[test]
fn readmes_way_back_works_as_it_is_written_twice() {
    there_and_back_twice(Layout::Apart);
}

#[test]
fn readmes_way_back_with_the_configuration_among_the_data_works_as_it_is_written_twice() {
    there_and_back_twice(Layout::Inside);
}
