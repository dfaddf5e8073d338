//! The pid file: written when everything is up, locked while its process lives, removed at the end. A file without a
//! lock is stale and is replaced, whatever number it contains, because numbers are reused. A locked file is an error,
//! unless both processes share a port: then the new process takes it over, and the old one leaves it alone at its end.

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
    /// Holds the lock.
    file: File,
}

/// Mode of the file, less the umask: everybody may read it, only its owner may write it.
const MODE: u32 = 0o644;
/// How often to retry if the file changes while it is examined.
const ATTEMPTS: usize = 10;

impl PidFile {
    /// Writes the configured file, if it is one that can be removed again. A reader always finds a complete number, old
    /// or new.
    ///
    /// # Errors
    /// When it cannot be written, or belongs to another process.
    pub fn of(config: &Config) -> io::Result<Option<PidFile>> {
        let Some(path) = config.process.pid_file.clone() else { return Ok(None) };
        let text = format!("{}\n", process::id());
        if Standard::of(&path).is_some() || fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            // A pipe or a device such as /dev/null: it cannot be locked, and a file must not replace it.
            lines::open(&path, MODE)?.write_all(text.as_bytes())?;
            return Ok(None);
        }
        let shared = config.services.iter().any(|service| service.network.share_port);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let new = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), process::id()));
        let placed = write_locked(&new, &text).and_then(|file| place(&new, &path, shared).map(|()| file));
        // Already renamed, or not wanted.
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

/// Creates a file with this text, locked by this process.
fn write_locked(path: &Path, text: &str) -> io::Result<File> {
    // A leftover of a process that was killed and had the same number.
    fs::remove_file(path).ok();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Renames `new` to `path`. An existing file is replaced if its process is gone, or shares the port.
fn place(new: &Path, path: &Path, shared: bool) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        let Some(mut old) = open(path)? else {
            // Unlike rename(2), this does not replace a file that another process has just created.
            match fs::hard_link(new, path) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && fs::metadata(path).is_ok() => continue,
                // A dangling link, or a file system without hard links.
                Err(_) => return fs::rename(new, path),
            }
        };
        match flock(&old, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if !shared => return Err(io::Error::other(owner(&mut old))),
            // While its lock is held here, no other process replaces it.
            Ok(()) | Err(Errno::WOULDBLOCK) if is_at(&old, path) => return fs::rename(new, path),
            Ok(()) | Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other("other processes write it at the same time"))
}

/// The file at this path, if there is one.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    // For writing if allowed, because some network file systems lock only writable files.
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

/// The owner of the lock, for a message.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok()) {
        Some(number) => format!("it belongs to process {number}, which is running"),
        None => "it belongs to another process, which is running".to_owned(),
    }
}

/// Whether this is still the file at that path.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().map(identity).ok().is_some_and(|own| fs::metadata(path).map(identity).ok() == Some(own))
}
