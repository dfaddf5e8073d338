//! What clients and servers of the soak say to each other. A client sends a task and what belongs to it; the server
//! does the task. Every byte after a task is one of a pattern, so that each lost, doubled, moved or foreign one shows.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

use cbpx::core::pool::hash;
use socket2::SockRef;

/// What a server is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Read, then answer. Another task may follow.
    Answer,
    /// Read and answer at the same time. Another task may follow.
    Both,
    /// Read to the end of the stream, then answer and end.
    ToEnd,
    /// Answer and end, then read to the end of the stream.
    EndFirst,
    /// Wait before reading, then like `Answer`.
    Slowly,
    /// Answer and go on reading: the client resets the connection before everything is there.
    UntilReset,
    /// Answer with less than was asked for, and reset the connection.
    Reset,
}

const WORKS: [Work; 7] =
    [Work::Answer, Work::Both, Work::ToEnd, Work::EndFirst, Work::Slowly, Work::UntilReset, Work::Reset];

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    pub work: Work,
    pub seed: u64,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client, after one that names the server.
    pub down: u64,
}

pub const TASK: usize = 32;
const MAGIC: [u8; 7] = *b"soaking";

impl Task {
    pub fn bytes(&self) -> [u8; TASK] {
        let mut bytes = [0; TASK];
        bytes[..7].copy_from_slice(&MAGIC);
        bytes[7] = WORKS.iter().position(|work| *work == self.work).unwrap_or_default() as u8;
        for (at, number) in [(8, self.seed), (16, self.up), (24, self.down)] {
            bytes[at..at + 8].copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// `None` when these bytes were never sent as a task.
    pub fn parse(bytes: &[u8; TASK]) -> Option<Task> {
        let number = |at: usize| Some(u64::from_be_bytes(bytes[at..at + 8].try_into().ok()?));
        let work = *WORKS.get(usize::from(bytes[7]))?;
        (bytes[..7] == MAGIC).then_some(())?;
        Some(Task { work, seed: number(8)?, up: number(16)?, down: number(24)? })
    }

    pub fn upward(&self) -> Pattern {
        Pattern::new(self.seed)
    }

    pub fn downward(&self) -> Pattern {
        Pattern::new(!self.seed)
    }
}

/// A stream of bytes that follows from a seed: a place in a circle of random ones.
#[derive(Clone, Debug)]
pub struct Pattern {
    at: usize,
}

/// Not a multiple of any buffer's size, so that a lost buffer shows.
const CIRCLE: usize = (1 << 20) + 7;
/// Of one read or write.
const CHUNK: usize = 64 * 1024;

impl Pattern {
    fn new(seed: u64) -> Pattern {
        Pattern { at: (Random(seed).next() % CIRCLE as u64) as usize }
    }

    /// The next bytes, at least one and at most so many.
    fn next(&mut self, most: u64) -> &'static [u8] {
        let rest = &circle()[self.at..];
        let length = rest.len().min(CHUNK).min(usize::try_from(most).unwrap_or(CHUNK));
        self.at = (self.at + length) % CIRCLE;
        &rest[..length]
    }

    /// Whether these are the next bytes.
    fn is(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.next(bytes.len() as u64);
            let (now, later) = bytes.split_at(expected.len());
            if now != expected {
                return false;
            }
            bytes = later;
        }
        true
    }
}

fn circle() -> &'static [u8] {
    static CIRCLE_BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    CIRCLE_BYTES.get_or_init(|| {
        let mut random = Random(1);
        (0..CIRCLE).map(|_| random.next() as u8).collect()
    })
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        hash::next(&mut self.0)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn up_to(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(limit.as_micros() as u64))
    }
}

/// Sends so many bytes of the pattern.
///
/// # Errors
/// What the system says.
pub fn send(mut to: &TcpStream, pattern: &mut Pattern, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let bytes = pattern.next(length);
        to.write_all(bytes)?;
        length -= bytes.len() as u64;
    }
    Ok(())
}

/// How a stream of the pattern ended before all of it was there.
#[derive(Debug)]
pub enum Broken {
    /// In order, after so many bytes.
    Ended(u64),
    /// Other bytes than were sent.
    Wrong,
    Failed(io::Error),
}

impl Broken {
    /// The connection was reset, as it has to be when the other end was.
    pub fn is_reset(&self) -> bool {
        match self {
            Broken::Failed(e) => matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            Broken::Ended(_) | Broken::Wrong => false,
        }
    }
}

impl From<io::Error> for Broken {
    fn from(cause: io::Error) -> Broken {
        Broken::Failed(cause)
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Ended(after) => write!(f, "the stream ended, as if in order, after {after} bytes"),
            Broken::Wrong => write!(f, "other bytes than were sent"),
            Broken::Failed(cause) => write!(f, "{cause}"),
        }
    }
}

/// Reads so many bytes, all of the pattern.
///
/// # Errors
/// When they are not, or do not come.
pub fn expect(mut from: &TcpStream, pattern: &mut Pattern, length: u64) -> Result<(), Broken> {
    let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
    let mut left = length;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(CHUNK));
        match from.read(&mut buffer[..most]) {
            Ok(0) => return Err(Broken::Ended(length - left)),
            Ok(some) if pattern.is(&buffer[..some]) => left -= some as u64,
            Ok(_) => return Err(Broken::Wrong),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Reads the end of the stream and nothing before it.
///
/// # Errors
/// When something else comes.
pub fn expect_end(mut from: &TcpStream) -> Result<(), Broken> {
    match from.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(Broken::Wrong),
    }
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    // Of a socket that is reset already nothing more can be wanted.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
    drop(stream);
}
