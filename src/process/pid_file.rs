//! The pid file: written when everything is up, locked as long as its process lives, removed at the end. One that
//! nobody has locked was left behind and is replaced, whatever number is in it: numbers are used again. One that is
//! locked is an error, except where both processes want to share a port: then the new one takes it over, and the old
//! one leaves it alone at its end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::config::Config;
use crate::observe::lines::{self, Standard};

/// Removed when dropped, if it is still ours.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Has the lock.
    file: File,
}

/// Of the file, less the umask: everybody may know the number, and only its owner change it.
const MODE: u32 = 0o644;
/// How often a file that changes while it is looked at is looked at again.
const ATTEMPTS: usize = 10;

impl PidFile {
    /// Writes the one this configuration wants, if it wants one that can be removed again. Whoever reads it finds a
    /// whole number, old or new.
    ///
    /// # Errors
    /// When it cannot be written, or is somebody else's.
    pub fn of(config: &Config) -> io::Result<Option<PidFile>> {
        let Some(path) = config.process.pid_file.clone() else { return Ok(None) };
        let text = format!("{}\n", process::id());
        if Standard::of(&path).is_some() || fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            // A pipe, or /dev/null: there is nothing to lock, and it must not be replaced by a file.
            lines::open(&path, MODE)?.write_all(text.as_bytes())?;
            return Ok(None);
        }
        let shared = config.services.iter().any(|service| service.network.share_port);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let new = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), process::id()));
        let placed = write_locked(&new, &text).and_then(|file| place(&new, &path, shared).map(|()| file));
        // It has its name, or none is wanted.
        fs::remove_file(&new).ok();
        placed.map(|file| Some(PidFile { path, file }))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// A new file with this text that is locked by this process.
fn write_locked(path: &Path, text: &str) -> io::Result<File> {
    // One of a process that was killed and had the same number.
    fs::remove_file(path).ok();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Gives the file `new` its name. One that has the name already is replaced if its process is gone, or shares.
fn place(new: &Path, path: &Path, shared: bool) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        let Some(mut old) = open(path)? else {
            // Unlike rename(2) this replaces nobody's file that has come into being meanwhile.
            match fs::hard_link(new, path) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && fs::metadata(path).is_ok() => continue,
                // A link to nothing, or a file system that knows one name a file.
                Err(_) => return fs::rename(new, path),
            }
        };
        match flock(&old, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if !shared => return Err(io::Error::other(owner(&mut old))),
            // As long as its lock is held here nobody else replaces it.
            Ok(()) | Err(Errno::WOULDBLOCK) if is_at(&old, path) => return fs::rename(new, path),
            Ok(()) | Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other("others write it at the same time"))
}

/// The file of this name, if there is one.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    // For writing, where that is allowed: some network file systems lock no others.
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let opened = match opened {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            OpenOptions::new().read(true).custom_flags(flags).open(path)
        }
        opened => opened,
    };
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Who has locked it, for a message.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok()) {
        Some(number) => format!("process {number} is running, and it is its"),
        None => "another process is running, and it is its".to_owned(),
    }
}

/// Whether this is still the file of that name.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().map(identity).ok().is_some_and(|own| fs::metadata(path).map(identity).ok() == Some(own))
}
