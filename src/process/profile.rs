//! A CPU profile of the run, in the format of `go tool pprof`: stacks of the running threads, sampled a hundred times
//! per second of CPU time. Written at the end of the run, unless SIGKILL ends it.
//!
//! Sampling interrupts system calls (SIGPROF), so every blocking call of this program continues after EINTR. An idle
//! program is not interrupted, because the timer counts CPU time only. Time inside the C library, the vDSO and the
//! unwinder is not included, because stacks cannot be unwound safely there.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pprof::protos::Message;
use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tempfile::TempDir;

/// Samples per second of CPU time, as in Go's profiler.
const FREQUENCY: i32 = 100;
/// Libraries in which stacks must not be unwound, by parts of their names, as the crate recommends.
const UNSAFE_TO_WALK: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// A profile in progress. Dropped without [`Profile::write`], it leaves an empty file.
pub struct Profile {
    guard: ProfilerGuard<'static>,
    file: File,
    /// Directory for the profiler's overflow file, which it would otherwise leave behind elsewhere.
    spill: TempDir,
}

impl Profile {
    /// Opens the file and starts. At most once in the life of a process.
    ///
    /// # Errors
    /// When the file cannot be opened, or a FIFO there has no reader, or the profiler cannot start.
    pub fn start(path: &Path) -> io::Result<Profile> {
        // Without the flag, a FIFO without a reader would block the start.
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(nonblocking).open(path)?;
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        let spill = tempfile::Builder::new().prefix("cbpx-profile-").tempdir()?;
        tempfile::env::override_temp_dir(spill.path())
            .map_err(|_| io::Error::other("a profile was taken already by this process"))?;
        let builder = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&UNSAFE_TO_WALK);
        Ok(Profile { guard: builder.build().map_err(io::Error::other)?, file, spill })
    }

    /// Stops and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written to.
    pub fn write(mut self) -> io::Result<()> {
        let report = self.guard.report().build().map_err(io::Error::other)?;
        let profile = report.pprof().map_err(io::Error::other)?;
        self.file.write_all(&profile.encode_to_vec())?;
        drop(self.guard);
        // The profile is written; a leftover in the temporary directory does no harm.
        self.spill.close().ok();
        Ok(())
    }
}
