//! What the switch script says on the first day, when a file it needs is missing or is not for the user who runs it:
//! one line with the file, the user and the cause.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use super::cluster::postgresql::drop_privileges;
use super::cluster::program;
use crate::support::{Reserved, TempDir};

/// Runs the script as an ordinary user, between two ports nobody listens on unless `port` says otherwise.
struct Rehearsal {
    dir: TempDir,
    user: String,
    port: u16,
    /// Nobody listens there.
    nobody: Reserved,
}

impl Rehearsal {
    fn new() -> Rehearsal {
        let dir = TempDir::new("refusals");
        for name in ["postgresql.sh", "common.sh"] {
            fs::copy(Path::new(super::SCRIPT).with_file_name(name), dir.path().join(name)).unwrap();
        }
        let mut id = Command::new("id");
        drop_privileges(&mut id).unwrap();
        let user = String::from_utf8(id.arg("-un").output().unwrap().stdout).unwrap().trim().to_owned();
        let nobody = Reserved::new();
        Rehearsal { dir, user, port: nobody.port(), nobody }
    }

    /// A file in its directory.
    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    /// All it says, with these variables set. It must refuse.
    fn says(&self, variables: &[(&str, &str)]) -> String {
        let mut command = Command::new("bash");
        command.arg(self.dir.path().join("postgresql.sh")).current_dir("/").env_remove("PGPASSFILE");
        command.args(["127.0.0.1", &self.port.to_string(), "127.0.0.1", &self.port.to_string()]);
        drop_privileges(&mut command).unwrap();
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let unasked = String::from_utf8(output.stderr).unwrap();
        assert!(unasked.is_empty(), "besides: {unasked}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    /// Exactly one line, which ends with this.
    fn refuses(&self, variables: &[(&str, &str)], words: &str) {
        let said = self.says(variables);
        let line = said.trim_end().split_once(" s  ").unwrap_or_default().1;
        assert_eq!(line, format!("refused: {words}; nothing was touched"));
    }
}

/// A server that greets each client so.
fn server(greet: fn(TcpStream) -> io::Result<()>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process; it holds nothing.
    thread::spawn(move || {
        for client in listener.incoming() {
            // A client that leaves early is no fault here.
            client.and_then(greet).ok();
        }
    });
    port
}

/// Without encryption; it asks for a password.
fn asks_for_a_password(mut client: TcpStream) -> io::Result<()> {
    loop {
        let mut head = [0; 8];
        client.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > 8 {
            client.read_exact(&mut vec![0; length - 8])?;
            break;
        }
        // A request for encryption.
        client.write_all(b"N")?;
    }
    client.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3])?;
    client.read_to_end(&mut Vec::new()).map(drop)
}

/// It agrees to encryption and leaves when the client begins with it.
fn agrees_to_encryption(mut client: TcpStream) -> io::Result<()> {
    client.read_exact(&mut [0; 8])?;
    client.write_all(b"S")?;
    client.read_exact(&mut [0; 1])
}

#[test]
fn settings_that_cannot_be_read_are_told_with_file_user_and_cause() {
    let rehearsal = Rehearsal::new();
    let user = &rehearsal.user;
    let refuses = |file: &str, cause: &str| {
        let words = format!("cannot read the settings file {file} as user {user}: {cause}");
        rehearsal.refuses(&[("CBPX_POSTGRESQL_ENV", file)], &words);
    };
    refuses(&rehearsal.file("secret.env", "PGUSER=cbpx\n", 0o000), "Permission denied");
    refuses(&rehearsal.dir.path().join("no.env").display().to_string(), "No such file or directory");
    refuses(
        &rehearsal.file("broken.env", "PGUSER='cbpx\n", 0o644),
        "line 1: unexpected EOF while looking for matching `''",
    );

    // The one beside the script is found without being named.
    let beside = rehearsal.file("postgresql.env", "", 0o000);
    let hidden = Path::new("/etc/cbpx/postgresql.env").exists();
    let words = format!("cannot read the settings file {beside} as user {user}: Permission denied");
    if !hidden {
        rehearsal.refuses(&[], &words);
    }
}

#[test]
fn a_settings_file_may_name_a_variable_that_is_not_set_and_end_with_a_test_that_fails() {
    let rehearsal = Rehearsal::new();
    let file = rehearsal.file("odd.env", "PGUSER=$NOBODY_SETS_THIS\n[ -e /nonexistent ] && PGUSER=other\n", 0o644);
    let said = rehearsal.says(&[("CBPX_POSTGRESQL_ENV", &file)]);
    assert!(said.contains(&format!("settings: {file}")) && said.contains("Connection refused"), "{said}");
}

#[test]
fn a_missing_psql_is_told_with_the_package_and_the_setting() {
    let rehearsal = Rehearsal::new();
    let user = &rehearsal.user;
    let settings = |psql: &str| rehearsal.file("psql.env", &format!("PSQL={psql}\n"), 0o644);
    let refuses = |psql: &str, cause: &str| {
        let words = format!("cannot run {psql} as user {user}: {cause}; install postgresql-client, or set PSQL");
        rehearsal.refuses(&[("CBPX_POSTGRESQL_ENV", &settings(psql))], &words);
    };
    refuses("/nonexistent/psql", "No such file or directory");
    refuses("no-such-psql", "not found in PATH");
    refuses(&rehearsal.file("psql", "", 0o644), "not executable");
}

#[test]
fn a_missing_password_is_told_with_the_file_it_should_have_come_from() {
    let mut rehearsal = Rehearsal::new();
    rehearsal.port = server(asks_for_a_password);
    assert_ne!(rehearsal.port, rehearsal.nobody.port());
    let user = rehearsal.user.clone();
    let psql = program("psql").display().to_string();
    let says = |passfile: &str| {
        let settings = format!("PSQL={psql}\nPGUSER=cbpx\nPGPASSFILE={passfile}\nPGSSLMODE=prefer\n");
        let said = rehearsal.says(&[("CBPX_POSTGRESQL_ENV", &rehearsal.file("script.env", &settings, 0o644))]);
        let refused = said.lines().last().unwrap_or_default().to_owned();
        assert!(refused.contains("cannot query the standby"), "{said}");
        refused
    };
    let secret = rehearsal.file("pgpass", "*:*:postgres:cbpx:secret\n", 0o000);
    let told = says(&secret);
    let words = format!("(user {user} cannot read the password file {secret}: Permission denied)");
    assert!(told.contains(&words), "not '{words}': {told}");
    let told = says("/nonexistent/pgpass");
    assert!(told.contains("the password file /nonexistent/pgpass: No such file or directory"), "{told}");
    let other = rehearsal.file("other", "*:*:postgres:somebody:secret\n", 0o644);
    let told = says(&other);
    assert!(told.contains("has group or world access") || told.contains("has no line for"), "{told}");
}

#[test]
fn a_guard_log_that_cannot_be_written_is_told_and_keeps_nobody_from_switching() {
    let rehearsal = Rehearsal::new();
    let settings = rehearsal.file("script.env", "GUARD_LOG=/nonexistent/guard.log\n", 0o644);
    let said = rehearsal.says(&[("CBPX_POSTGRESQL_ENV", &settings)]);
    let words = "cannot write GUARD_LOG /nonexistent/guard.log: No such file or directory";
    assert!(said.contains(&format!("note: user {} {words}", rehearsal.user)), "{said}");
    assert!(said.contains("Connection refused"), "it goes on: {said}");
}

/// The symptom: `could not open certificate file "/root/.postgresql/postgresql.crt": Permission denied`, with any
/// server that insists on encryption, when root typed `runuser -u cbpx -- ...`.
#[test]
fn the_home_directory_of_another_user_is_not_searched_for_certificates() {
    let mut rehearsal = Rehearsal::new();
    rehearsal.port = server(agrees_to_encryption);
    let home = rehearsal.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, Permissions::from_mode(0o000)).unwrap();
    let settings = format!("PSQL={}\nPGSSLMODE=require\n", program("psql").display());
    let settings = rehearsal.file("script.env", &settings, 0o644);
    let said = rehearsal.says(&[("CBPX_POSTGRESQL_ENV", &settings), ("HOME", home.to_str().unwrap())]);
    // So that it can be removed.
    fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    let got_as_far = said.contains("server closed the connection") || said.contains("SSL");
    assert!(got_as_far && !said.contains("Permission denied"), "{said}");
}
