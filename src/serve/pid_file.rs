//! The pid file: written when everything is up, removed at the end. One that a process left behind that was killed is
//! replaced; so is one of another program. One of this program that still runs is an error, except where both want to
//! share a port: then the new one takes it over, and the old one leaves it alone at its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use crate::config::Config;

/// Removed when dropped, if it is still ours.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    text: String,
}

impl PidFile {
    /// Writes the one this configuration wants, if it wants one. Whoever reads it finds a whole number, old or new.
    ///
    /// # Errors
    /// When it cannot be written, or is somebody else's.
    pub fn of(config: &Config) -> io::Result<Option<PidFile>> {
        let Some(path) = config.process.pid_file.clone() else { return Ok(None) };
        let shared = config.services.iter().any(|service| service.network.share_port);
        if let (Some(owner), false) = (living_owner(&path), shared) {
            return Err(io::Error::other(format!("process {owner} is running, and it is its")));
        }
        let text = format!("{}\n", process::id());
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let new = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), process::id()));
        let written = fs::write(&new, &text).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            fs::remove_file(&new).ok();
        }
        written.map(|()| Some(PidFile { path, text }))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// The process whose number is in the file, if it runs this program. The number of one that has ended may be another
/// program's by now.
fn living_owner(path: &Path) -> Option<u32> {
    let owner = fs::read_to_string(path).ok()?.trim().parse::<u32>().ok()?;
    let own = match (program(&owner.to_string()), program("self")) {
        (Ok(program), Ok(own)) => program == own,
        // Not everybody may know which file a process runs, but its name.
        (Err(e), _) if e.kind() == io::ErrorKind::PermissionDenied => {
            let name = |process: &str| fs::read_to_string(format!("/proc/{process}/comm")).ok();
            name(&owner.to_string()) == name("self")
        }
        (Ok(_) | Err(_), _) => false,
    };
    (own && owner != process::id()).then_some(owner)
}

/// The file's name; also of a program whose file has been replaced since it was started.
fn program(process: &str) -> io::Result<String> {
    let file = fs::read_link(format!("/proc/{process}/exe"))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(name.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(name))
}
