//! The dump: shows all transferred bytes on standard output. A slow, stopped or closed reader misses bytes, which the
//! dump counts and reports, and never makes a client wait.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::lines::{self, LineSender, LineWriter};
use crate::core::msg::PeerRole;

/// The bytes of one read.
#[derive(Debug)]
struct Chunk {
    sender: PeerRole,
    read: ReadResult,
}

#[derive(Debug)]
enum ReadResult {
    Bytes(Vec<u8>),
    End,
    Failed,
}

/// The running dump. Dropping it shows pending bytes, if the reader takes less than a second.
pub struct Dump {
    writer: LineWriter<Chunk>,
    waiting: Arc<AtomicUsize>,
}

/// Passes bytes to the dump, from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DumpHandle {
    line_sender: LineSender<Chunk>,
    /// Number of bytes not written yet.
    waiting: Arc<AtomicUsize>,
}

/// Maximum number of bytes that wait for the reader of standard output: the rest of a large answer while a pager stands
/// still.
const MOST: usize = 16 << 20;
/// Width in columns; a line is broken after the character that exceeds it.
const COLUMNS: usize = 80;

impl Dump {
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(name: &str) -> io::Result<Dump> {
        let waiting = Arc::<AtomicUsize>::default();
        let sink = DumpSink { waiting: Arc::clone(&waiting) };
        let hangs = format!("{name}: standard output is not read; the rest of the dump is lost");
        Ok(Dump { writer: LineWriter::start("dump", sink, hangs)?, waiting })
    }

    pub fn display(&self) -> DumpHandle {
        DumpHandle { line_sender: self.writer.line_sender(), waiting: Arc::clone(&self.waiting) }
    }
}

impl DumpHandle {
    pub fn bytes(&self, sender: PeerRole, bytes: &[u8]) {
        if self.waiting.load(Ordering::Relaxed) + bytes.len() > MOST {
            return self.line_sender.lose();
        }
        self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        if !self.line_sender.put(Chunk { sender, read: ReadResult::Bytes(bytes.to_vec()) }) {
            self.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }

    pub fn end(&self, sender: PeerRole) {
        self.line_sender.put(Chunk { sender, read: ReadResult::End });
    }

    pub fn failure(&self, sender: PeerRole) {
        self.line_sender.put(Chunk { sender, read: ReadResult::Failed });
    }
}

struct DumpSink {
    waiting: Arc<AtomicUsize>,
}

impl lines::LineSink<Chunk> for DumpSink {
    fn write(&mut self, chunk: &Chunk, lost: u64) -> io::Result<()> {
        let notice = if lost > 0 { format!("({lost} reads before this one are not shown)\n") } else { String::new() };
        let shown = format!("{notice}{chunk}");
        let written = lines::write_all(&io::stdout(), shown.as_bytes());
        if let ReadResult::Bytes(bytes) = &chunk.read {
            self.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        written
    }

    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn complain(&self, words: &str) {
        log::warn!("{words}");
    }
}

impl fmt::Display for DumpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output, where bytes are to be shown")
    }
}

/// A line `-> N` or `-< N`, then the bytes: printable ones as they are, `\` doubled, all others as `\` and two
/// hexadecimal digits. Lines are broken after a line feed and when they are full.
impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.sender {
            PeerRole::Client => "->",
            PeerRole::Backend => "-<",
        };
        let bytes = match &self.read {
            ReadResult::Bytes(bytes) => bytes.as_slice(),
            ReadResult::End => return write!(f, "{arrow} 0\n\n"),
            ReadResult::Failed => return write!(f, "{arrow} -1\n\n"),
        };
        writeln!(f, "{arrow} {}", bytes.len())?;
        let mut column = 0;
        for &byte in bytes {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                b' '..=b'~' => f.write_char(char::from(byte))?,
                _ => write!(f, "\\{byte:02X}")?,
            }
            column += match byte {
                b'\\' => 2,
                b' '..=b'~' => 1,
                _ => 3,
            };
            if byte == b'\n' || column > COLUMNS {
                f.write_char('\n')?;
                column = 0;
            }
        }
        f.write_char('\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> String {
        Chunk { sender: PeerRole::Client, read: ReadResult::Bytes(bytes.to_vec()) }.to_string()
    }

    #[test]
    fn what_can_be_printed_is_and_all_else_is_hexadecimal() {
        assert_eq!(shown(b"a b~\\c\x00\x7f\xff"), "-> 9\na b~\\\\c\\00\\7F\\FF\n");
        assert_eq!(shown(b"GET /\r\nx"), "-> 8\nGET /\\0D\\0A\nx\n");
        assert_eq!(
            Chunk { sender: PeerRole::Backend, read: ReadResult::Bytes(b"x".to_vec()) }.to_string(),
            "-< 1\nx\n"
        );
    }

    #[test]
    fn an_end_and_a_failure_are_reads_of_nothing() {
        assert_eq!(Chunk { sender: PeerRole::Client, read: ReadResult::End }.to_string(), "-> 0\n\n");
        assert_eq!(Chunk { sender: PeerRole::Backend, read: ReadResult::Failed }.to_string(), "-< -1\n\n");
    }

    #[test]
    fn a_line_is_broken_when_more_than_80_columns_are_filled() {
        let text = shown(&[b'x'; 81 + 80]);
        assert_eq!(text, format!("-> 161\n{}\n{}\n", "x".repeat(81), "x".repeat(80)));
        assert_eq!(shown(&[0; 27]), format!("-> 27\n{}\n\n", "\\00".repeat(27)));
    }
}
