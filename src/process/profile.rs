//! A CPU profile of the run, in the format that `go tool pprof` reads: stacks of whichever thread is on a processor, a
//! hundred times a second of CPU time. Written at the end of the run, whatever ends it but SIGKILL.
//!
//! Sampling interrupts system calls (SIGPROF), so every blocking call of this program goes on after EINTR. An idle
//! program is not interrupted: the timer counts CPU time only. Not counted is time spent inside the C library, the vDSO
//! and the unwinder: a stack cannot be walked safely from there.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pprof::protos::Message;
use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tempfile::TempDir;

/// Samples in a second of CPU time: what Go's profiler takes.
const FREQUENCY: i32 = 100;
/// Libraries in which no stack is walked, by a part of their names: as the crate advises.
const UNSAFE_TO_WALK: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// A profile being taken. Dropped without [`Profile::write`], it leaves an empty file.
pub struct Profile {
    guard: ProfilerGuard<'static>,
    file: File,
    /// Where the profiler keeps what does not fit into its memory. It would leave its file behind elsewhere.
    spill: TempDir,
}

impl Profile {
    /// Opens the file and begins. At most one is taken in the life of a process.
    ///
    /// # Errors
    /// When the file cannot be opened, or a FIFO there has no reader, or the profiler cannot start.
    pub fn start(path: &Path) -> io::Result<Profile> {
        // Nobody may ever read from a FIFO: without the flag this would wait for that, and no client would be served.
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(nonblocking).open(path)?;
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        let spill = tempfile::Builder::new().prefix("cbpx-profile-").tempdir()?;
        tempfile::env::override_temp_dir(spill.path())
            .map_err(|_| io::Error::other("a profile was taken already by this process"))?;
        let builder = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&UNSAFE_TO_WALK);
        Ok(Profile { guard: builder.build().map_err(io::Error::other)?, file, spill })
    }

    /// Ends it and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written to.
    pub fn write(mut self) -> io::Result<()> {
        let report = self.guard.report().build().map_err(io::Error::other)?;
        let profile = report.pprof().map_err(io::Error::other)?;
        self.file.write_all(&profile.encode_to_vec())?;
        drop(self.guard);
        // The file was written; what is left of the spill is the system's to clean up.
        self.spill.close().ok();
        Ok(())
    }
}
