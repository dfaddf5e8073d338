//! One end of a connection, doing its part of a plan with calls that never wait. Each byte that arrives is compared
//! with what was sent; how the stream ended is kept for the judge.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::ends::{on_the_way, unacknowledged};
use crate::plan::{Hear, Part, Say};

/// One end.
#[derive(Debug)]
pub struct Actor {
    part: Part,
    /// `None` when it has left.
    pub socket: Option<Socket>,
    pub is_tcp: bool,
    /// Where in the pattern its own stream begins, and the other end's.
    salt: usize,
    other_salt: usize,
    /// The step of its sending side, and how much of it is done.
    at: usize,
    within: usize,
    hearing: usize,
    heard_within: usize,
    pub sent: u64,
    /// Of that, what the other side's system is known to have had when it reset the connection.
    pub taken: u64,
    pub got: u64,
    /// It has ended its stream in order.
    pub ended: bool,
    /// A write has told that the connection is gone: no end that is read later is one in order.
    broken: bool,
    pub saw: Option<Saw>,
    pub left: Option<Left>,
    /// Since when writes have not been taken.
    blocked: Option<Instant>,
}

/// How what it reads ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saw {
    End,
    Failure,
}

/// How it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Both streams had ended in order.
    Done,
    /// It was told that the connection has failed.
    Failed,
    Reset,
    Closed,
}

/// What the other end may know.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    sent: u64,
    got: u64,
    left: Option<Left>,
    saw: Option<Saw>,
    /// It does not read at the moment.
    stopped: bool,
    /// It will not send a byte before something else happens.
    silent: bool,
    quiet: bool,
    finished: bool,
}

/// No progress for this long means that the buffers on the way are full.
const STUCK: Duration = Duration::from_millis(25);
/// What one call of `step` moves at most, each way.
const TURN: usize = 256 * 1024;
/// Not a power of two, so that no buffer's size is a period.
const PERIOD: usize = 1_000_003;

/// Bytes in which each lost, doubled or moved one shows.
fn pattern(salt: usize, at: u64, length: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut random = crate::plan::Random::new(1);
        let first: Vec<u8> = (0..PERIOD).map(|_| random.below(256) as u8).collect();
        [&first[..], &first[..TURN]].concat()
    });
    let from = (salt + at as usize) % PERIOD;
    &table[from..from + length]
}

impl Actor {
    pub fn new(part: Part, socket: Socket, is_tcp: bool, [salt, other_salt]: [usize; 2]) -> Actor {
        socket.set_nonblocking(true).unwrap();
        if is_tcp {
            socket.set_tcp_nodelay(true).unwrap();
        }
        Actor {
            part,
            socket: Some(socket),
            is_tcp,
            salt,
            other_salt,
            at: 0,
            within: 0,
            hearing: 0,
            heard_within: 0,
            sent: 0,
            taken: 0,
            got: 0,
            ended: false,
            broken: false,
            saw: None,
            left: None,
            blocked: None,
        }
    }

    pub fn glance(&self) -> Glance {
        let say = self.part.says.get(self.at);
        let waits = matches!(say, Some(Say::Heard | Say::Received(_) | Say::Quiet) | None);
        Glance {
            sent: self.sent,
            got: self.got,
            left: self.left,
            saw: self.saw,
            stopped: self.is_stopped(),
            silent: self.broken || self.ended || self.left.is_some() || waits || self.is_stuck(),
            quiet: matches!(say, Some(Say::Quiet)),
            finished: self.ended || self.broken || self.left.is_some(),
        }
    }

    /// Whether it waits for room or for bytes: to be polled for.
    pub fn wants(&self) -> (bool, bool) {
        let reads = self.left.is_none() && self.saw.is_none() && !self.is_stopped();
        (reads, self.left.is_none() && self.blocked.is_some())
    }

    /// Where it is in its part, for messages.
    pub fn step_number(&self) -> String {
        format!("{} {:?}, reading {} {:?}", self.at, self.part.says.get(self.at), self.hearing, self.hear())
    }

    /// What each of its sides waits for, and where the bytes are, for messages.
    pub fn waits_for(&self, other: &Actor) -> String {
        if let Some(left) = self.left {
            return format!("has left ({left:?})");
        }
        let (sent, got) = (self.sent, self.got);
        let sending = match self.part.says.get(self.at) {
            _ if self.broken => format!("was told after {sent} bytes that the connection has failed"),
            _ if self.waits_for_reset_of(other.left) => format!("waits after {sent} bytes to be told of the reset"),
            None if self.ended => format!("has ended after {sent} bytes"),
            None => format!("has sent all of its {sent} bytes"),
            Some(Say::Bulk { .. } | Say::Stuff(_)) => format!("waits for room after {sent} bytes"),
            Some(Say::Singles(_) | Say::Heard) => format!("waits for the arrival of {sent} bytes ({} have)", other.got),
            Some(Say::Received(much)) => format!("waits until it has received {much} bytes"),
            Some(Say::Quiet) => "waits until the other one has finished".to_owned(),
            Some(step @ (Say::End | Say::Reset | Say::Leave)) => format!("is about to do {step:?} after {sent} bytes"),
        };
        let reading = match (self.saw, self.hear()) {
            (Some(saw), _) => format!("saw {saw:?} after {got} bytes"),
            (None, Some(Hear::Stop)) => format!("has stopped to read after {got} bytes until the other one is stuck"),
            (None, Some(Hear::Some { .. })) => format!("waits for more than {got} bytes of {}", other.sent),
            (None, None) => format!("waits for the end, or for more than {got} bytes of {}", other.sent),
        };
        let connection = self.socket.as_ref().map_or_else(|| "closed".to_owned(), on_the_way);
        format!("{sending} and {reading}; its connection: {connection}")
    }

    /// Goes on as far as it can; whether it came any further.
    ///
    /// # Errors
    /// What arrived that must not.
    pub fn step(&mut self, other: Glance, buffer: &mut [u8]) -> Result<bool, String> {
        if self.left.is_some() {
            return Ok(false);
        }
        let mut moved = self.speak(other);
        if self.left.is_none() {
            moved |= self.listen(other, buffer)?;
        }
        if self.left.is_none() && (self.saw == Some(Saw::Failure) || self.broken && self.saw.is_some()) {
            moved = true;
            self.leave(Left::Failed);
        }
        let said_all = self.at == self.part.says.len();
        if self.left.is_none() && said_all && self.saw == Some(Saw::End) {
            moved = true;
            self.leave(Left::Done);
        }
        Ok(moved)
    }

    fn leave(&mut self, how: Left) {
        self.left = Some(how);
        self.socket = None;
    }

    fn hear(&self) -> Option<Hear> {
        self.part.hears.get(self.hearing).copied()
    }

    fn is_stopped(&self) -> bool {
        matches!(self.hear(), Some(Hear::Stop)) && self.saw.is_none() && self.left.is_none()
    }

    fn is_stuck(&self) -> bool {
        self.blocked.is_some_and(|since| since.elapsed() >= STUCK)
    }

    fn waits_for_reset_of(&self, other: Option<Left>) -> bool {
        other == Some(Left::Reset) && self.part.waits_for_reset && !self.ended && self.is_tcp
    }

    fn speak(&mut self, other: Glance) -> bool {
        let Some(say) = self.part.says.get(self.at).copied().filter(|_| !self.broken) else { return false };
        // Who has had both ends has nothing more to be told; everybody else will be.
        if self.waits_for_reset_of(other.left) {
            return self.is_told();
        }
        let deaf = other.stopped || other.left.is_some() || other.saw.is_some();
        let (moved, done) = match say {
            Say::Bulk { length, chunk } => {
                let moved = self.write(length - self.within, chunk);
                (moved, self.within == length)
            }
            Say::Singles(number) => {
                let moved = (other.got >= self.sent || deaf) && self.write(1, 1);
                (moved, self.within == number)
            }
            Say::Stuff(most) => {
                let moved = self.write(most - self.within, 64 * 1024);
                (moved, self.within == most || self.is_stuck())
            }
            Say::Heard => (false, other.got >= self.sent || deaf),
            Say::Received(much) => {
                let no_more = other.silent && self.got >= other.sent;
                (false, self.got >= much || self.saw.is_some() || self.is_stopped() || no_more)
            }
            Say::Quiet => (false, other.finished || other.quiet),
            Say::End => {
                self.ended = true;
                // Fails when the connection has failed, which the next read tells.
                self.socket.as_ref().map(|socket| socket.shutdown(Shutdown::Write).ok());
                (true, true)
            }
            Say::Reset => {
                let socket = self.socket.take().unwrap();
                self.taken = unacknowledged(&socket).map_or(0, |lost| self.sent.saturating_sub(lost));
                // Of a Unix socket that is a plain close.
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                self.left = Some(if self.is_tcp { Left::Reset } else { Left::Closed });
                (true, true)
            }
            Say::Leave => {
                self.leave(Left::Closed);
                (true, true)
            }
        };
        if done {
            self.at += 1;
            self.within = 0;
            self.blocked = None;
        }
        let idle = !moved && !done && (self.saw.is_some());
        (idle && self.is_told()) || moved || done
    }

    /// Asks the socket whether the connection has failed.
    fn is_told(&mut self) -> bool {
        let failed = self.socket.as_ref().is_some_and(|socket| socket.take_error().unwrap().is_some());
        self.broken |= failed;
        failed
    }

    fn write(&mut self, most: usize, chunk: usize) -> bool {
        let mut moved = 0;
        while moved < most.min(TURN) {
            let length = chunk.min(most - moved).min(TURN);
            let bytes = pattern(self.salt, self.sent, length);
            match self.socket.as_ref().unwrap().write(bytes) {
                Ok(length) => {
                    moved += length;
                    self.sent += length as u64;
                    self.within += length;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if moved > 0 || self.blocked.is_none() {
                        self.blocked = Some(Instant::now());
                    }
                    return moved > 0;
                }
                Err(_) => {
                    self.broken = true;
                    return true;
                }
            }
        }
        self.blocked = None;
        moved > 0
    }

    fn listen(&mut self, other: Glance, buffer: &mut [u8]) -> Result<bool, String> {
        if self.saw.is_some() {
            return Ok(false);
        }
        let mut moved = 0;
        while moved < TURN {
            let (left, chunk) = match self.hear() {
                Some(Hear::Some { length, chunk }) => (length - self.heard_within, chunk),
                Some(Hear::Stop) if other.silent || self.broken => {
                    self.hearing += 1;
                    return Ok(true);
                }
                Some(Hear::Stop) => return Ok(moved > 0),
                None => (usize::MAX, buffer.len()),
            };
            let room = left.min(chunk).min(buffer.len());
            let got = match self.socket.as_ref().unwrap().read(&mut buffer[..room]) {
                Ok(0) => {
                    self.saw = Some(if self.broken { Saw::Failure } else { Saw::End });
                    return Ok(true);
                }
                Ok(length) => length,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(moved > 0),
                Err(_) => {
                    self.saw = Some(Saw::Failure);
                    return Ok(true);
                }
            };
            let expected = pattern(self.other_salt, self.got, got);
            if expected != &buffer[..got] {
                let at = expected.iter().zip(&*buffer).take_while(|(a, b)| a == b).count() as u64;
                return Err(format!("byte {} is not what was sent", self.got + at));
            }
            self.got += got as u64;
            moved += got;
            self.heard_within += got;
            if left == got {
                self.hearing += 1;
                self.heard_within = 0;
            }
        }
        Ok(true)
    }
}
