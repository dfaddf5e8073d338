//! PostgreSQL's programs where Debian puts them, run as its servers want to be run. For the benchmarks and the tests.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the newest version installed, if all of these programs are there.
pub fn programs(needed: &[&str]) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max()?;
    let folder = PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"));
    needed.iter().all(|name| folder.join(name).is_file()).then_some(folder)
}

/// Runs a program of a server: as somebody else than root, with messages in English.
///
/// # Errors
/// When there is nobody to run it as.
pub fn server_command(program: &Path) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    drop_privileges(&mut command)?;
    Ok(command)
}

/// Runs a command as the user that runs the servers.
///
/// # Errors
/// When there is nobody to run it as.
pub fn drop_privileges(command: &mut Command) -> io::Result<()> {
    if let Some((uid, gid)) = unprivileged()? {
        command.uid(uid).gid(gid);
    }
    Ok(())
}

/// Gives a file or directory to that user.
///
/// # Errors
/// When there is no such user, or the file cannot be given away.
pub fn give_away(path: &Path) -> io::Result<()> {
    match unprivileged()? {
        Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// Whom to become when we are root, as whom PostgreSQL does not run.
fn unprivileged() -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let id_of = |name: &str| -> Option<(u32, u32)> {
        let fields: Vec<&str> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    let found = id_of("postgres").or_else(|| id_of("nobody"));
    found.map(Some).ok_or_else(|| io::Error::other("no user postgres or nobody to run PostgreSQL as"))
}
