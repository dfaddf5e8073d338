//! One direction of a pair. Every byte read is written, in order, or the writing side's failure is reported. Does not
//! time out, count clients or decide when the pair is over: see `pair`.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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
        if let Err(e) = (&mut &*to).write_all(&buffer[..length]) {
            return End::WriteFailed(e);
        }
        moved.fetch_add(length as u64, Ordering::Relaxed);
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
