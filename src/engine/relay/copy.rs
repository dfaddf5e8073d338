//! One direction of a pair. Every byte read is written, in order, or the writing side's failure is reported. Does not
//! time out, count clients or decide when the pair is over: see `pair`.

use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::net::Stream;

/// How a direction ended. No byte is ever half-way: what was read was written, unless writing failed.
#[derive(Debug)]
pub enum End {
    /// The reading side ended its stream, and everything it sent was passed on.
    Eof,
    ReadFailed(io::Error),
    WriteFailed(io::Error),
}

/// A buffer grows up to this size while reads come back full. The gain beyond it is small, and thousands of clients
/// may be busy at once.
const LARGEST: usize = 64 * 1024;

/// Reads from one side and writes to the other until one of them ends. `moved` counts bytes as they are passed on;
/// `initial` is the buffer's first size and may change while this runs.
pub fn copy(from: &Stream, to: &Stream, moved: &AtomicU64, initial: &AtomicUsize) -> End {
    let mut buffer = vec![0; initial.load(Ordering::Relaxed)];
    loop {
        let length = match read(from, &mut buffer) {
            Ok(0) => return End::Eof,
            Ok(length) => length,
            Err(e) => return End::ReadFailed(e),
        };
        if let Err(end) = pass_on(&buffer[..length], from, to, moved) {
            return end;
        }
        let wanted = initial.load(Ordering::Relaxed);
        if length == buffer.len() && length < LARGEST {
            buffer.resize((length * 2).min(LARGEST), 0);
        } else if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
    }
}

fn read(from: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match (&mut &*from).read(buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Writes all of it, however long that takes.
fn pass_on(mut bytes: &[u8], from: &Stream, to: &Stream, moved: &AtomicU64) -> Result<(), End> {
    while !bytes.is_empty() {
        match to.write_now(bytes) {
            Ok(0) => return Err(End::WriteFailed(ErrorKind::WriteZero.into())),
            Ok(length) => {
                moved.fetch_add(length as u64, Ordering::Relaxed);
                bytes = &bytes[length..];
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait_for_room(from, to)?,
            Err(e) => return Err(End::WriteFailed(e)),
        }
    }
    Ok(())
}

/// Waits until the writing side takes more, or has failed, which the next write tells. Nobody reads meanwhile, so a
/// reset of the reading side must be noticed here: it would be held back until the writing side reads, for ever if
/// that never does.
fn wait_for_room(from: &Stream, to: &Stream) -> Result<(), End> {
    let mut watched = 2;
    loop {
        let mut fds = [PollFd::new(to, PollFlags::OUT), PollFd::new(from, PollFlags::empty())];
        match poll(&mut fds[..watched], None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(End::WriteFailed(e.into())),
        }
        if fds[1].revents().contains(PollFlags::ERR) {
            let reset = || Errno::CONNRESET.into();
            return Err(End::ReadFailed(from.connection_error().ok().flatten().unwrap_or_else(reset)));
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        // It has ended in order in both directions, which is reported as long as anybody asks.
        watched = 1;
    }
}
