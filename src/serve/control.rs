//! Where operators reach the program.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::StartError;
use crate::config::Control;
use crate::endpoint::Endpoint;
use crate::listen;
use crate::net::{Listener, Queue};

/// Operators are few.
const BACKLOG: i32 = 128;

/// Binds all listeners.
///
/// # Errors
/// The first one that cannot be bound.
pub fn bind(control: &Control) -> Result<Vec<Listener>, StartError> {
    if let Some(directory) = &control.directory {
        let at = || Endpoint::Unix(directory.clone());
        make_shared(directory).map_err(|cause| StartError::Control { at: at(), cause })?;
    }
    let queue = Queue { length: BACKLOG, shares_port: false };
    let mut bound = Vec::new();
    for at in &control.listeners {
        let listeners = listen::bind(at, queue);
        bound.extend(listeners.map_err(|e| StartError::of_bind(at, e, |at, cause| StartError::Control { at, cause }))?);
    }
    Ok(bound)
}

/// Everybody may make files there, and only their owner may remove them.
const SHARED: u32 = 0o1777;

/// Makes a directory in which everybody may have sockets of their own, unless it is there.
fn make_shared(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(SHARED).create(directory) {
        // The mode that was asked for was subject to the umask.
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(SHARED)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}
