//! The clients of the soak test. Well-behaved clients must get every answer, byte for byte, from the active server,
//! without an error. The others must not affect them, and the server must see what they do to a connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::ledger::{Era, Ledger};
use super::server::SLOW;
use super::wire::{Broken, Random, Task, Work, expect, expect_end, reset, send};

/// How a client spends its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Connect, ask, read, close.
    Short,
    /// Small questions on one connection, for a while.
    Long,
    /// Large transfers, in both directions at the same time.
    Bulk,
    /// Ask, end the sending side, read to the end.
    HalfClose,
    /// The server ends its side first.
    ServerEndsFirst,
    /// One side pauses while bytes are waiting.
    Slow,
    /// Ask for much and read none of it, then close.
    NeverRead,
    /// Reset the connection anywhere.
    Reset,
    /// Connect and hang up without a byte.
    Leave,
    /// The server resets the connection.
    ServerResets,
}

/// Each habit, and how many clients have it in one crew.
pub const CREW: [(Habit, usize); 10] = [
    (Habit::Short, 4),
    (Habit::Long, 4),
    (Habit::Bulk, 1),
    (Habit::HalfClose, 2),
    (Habit::ServerEndsFirst, 1),
    (Habit::Slow, 2),
    (Habit::NeverRead, 1),
    (Habit::Reset, 2),
    (Habit::Leave, 1),
    (Habit::ServerResets, 2),
];

/// Otherwise badly behaved clients would fill the queue of the others.
const PAUSE: Duration = Duration::from_millis(20);

/// One client.
pub struct Client<'a> {
    pub habit: Habit,
    pub to: SocketAddr,
    /// Names of the servers, in the order of the ledger.
    pub names: [u8; 2],
    pub ledger: &'a Ledger,
    pub stop: &'a AtomicBool,
    pub random: Random,
}

impl Client<'_> {
    /// Runs until it is told to stop.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.once() {
                Ok(bytes) => self.ledger.count(bytes),
                Err(broken) => {
                    self.ledger.fault(&format!("client ({:?}): {broken}", self.habit));
                    // Limits the output when nothing works any more.
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    /// One connection. Returns how many bytes were checked.
    fn once(&mut self) -> Result<u64, Broken> {
        let era = self.ledger.era();
        let stream = TcpStream::connect(self.to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        match self.habit {
            Habit::Short => {
                let task = self.task(Work::Answer, 2_000, 10_000);
                self.ask(&stream, task, era)?;
                if self.random.below(2) == 0 {
                    stream.shutdown(Shutdown::Write)?;
                    expect_end(&stream)?;
                }
                Ok(task.up + task.down)
            }
            Habit::Long => {
                let until = Instant::now() + self.random.up_to(Duration::from_secs(2));
                let mut bytes = 0;
                while Instant::now() < until && !self.stop.load(Ordering::Relaxed) {
                    let task = self.task(Work::Answer, 500, 500);
                    self.ask(&stream, task, era)?;
                    bytes += task.up + task.down;
                    thread::sleep(self.random.up_to(PAUSE));
                }
                stream.shutdown(Shutdown::Write)?;
                expect_end(&stream)?;
                Ok(bytes)
            }
            Habit::Bulk => {
                let task = self.task(Work::Both, 32 << 20, 32 << 20);
                thread::scope(|scope| {
                    let sending = scope.spawn(|| self.send(&stream, task));
                    self.read(&stream, task, era)?;
                    sending.join().map_err(|_| Broken::Wrong)?
                })?;
                Ok(task.up + task.down)
            }
            Habit::HalfClose => {
                let task = self.task(Work::ToEnd, 300_000, 300_000);
                self.send(&stream, task)?;
                stream.shutdown(Shutdown::Write)?;
                self.read(&stream, task, era)?;
                expect_end(&stream)?;
                Ok(task.up + task.down)
            }
            Habit::ServerEndsFirst => {
                let task = self.task(Work::EndFirst, 300_000, 300_000);
                match self.upload_to_a_server_that_has_ended(&stream, task, era) {
                    // A switch does not wait for data sent to a server that has ended its side; that server checks
                    // whether it arrived.
                    Err(Broken::Ended(_) | Broken::Failed(_)) if self.ledger.may_have_switched_since(era) => Ok(0),
                    outcome => outcome.map(|()| task.up + task.down),
                }
            }
            Habit::Slow => {
                let task = self.task(Work::Slowly, 16 << 20, 16 << 20);
                self.send(&stream, task)?;
                thread::sleep(self.random.up_to(SLOW));
                self.read(&stream, task, era)?;
                Ok(task.up + task.down)
            }
            Habit::NeverRead => {
                let task = Task { down: 64 << 20, ..self.task(Work::UntilReset, 1000, 1) };
                order(&stream, task)?;
                thread::sleep(self.random.up_to(Duration::from_secs(1)));
                reset(stream);
                Ok(0)
            }
            Habit::Reset => self.be_reset(stream),
            Habit::Leave => {
                thread::sleep(self.random.up_to(PAUSE));
                if self.random.below(2) == 0 {
                    reset(stream);
                }
                Ok(0)
            }
            Habit::ServerResets => self.see_a_reset(&stream),
        }
    }

    fn upload_to_a_server_that_has_ended(&self, stream: &TcpStream, task: Task, era: Era) -> Result<(), Broken> {
        order(stream, task)?;
        self.read(stream, task, era)?;
        expect_end(stream)?;
        Ok(send(stream, &mut task.upward(), task.up)?)
    }

    /// Sends a random part of the task, reads a random part of the answer, and resets.
    fn be_reset(&mut self, stream: TcpStream) -> Result<u64, Broken> {
        let task = self.task(Work::UntilReset, 500_000, 500_000);
        let sent = self.random.below(task.up);
        let cut = self.random.below(8);
        if cut == 0 {
            // In the middle of the task itself.
            let bytes = task.bytes();
            (&stream).write_all(&bytes[..1 + self.random.below(30) as usize])?;
        } else {
            stream.set_write_timeout(Some(SLOW))?;
            stream.set_read_timeout(Some(SLOW))?;
            // Neither needs to succeed: the server does not read while its answer is not read.
            order(&stream, task).and_then(|()| send(&stream, &mut task.upward(), sent)).ok();
            let some = self.random.below(task.down);
            let seen = expect_one(&stream).and_then(|_| expect(&stream, &mut task.downward(), some));
            if let Err(broken @ (Broken::Wrong | Broken::Ended(_))) = seen {
                return Err(broken);
            }
        }
        thread::sleep(self.random.up_to(PAUSE));
        reset(stream);
        Ok(0)
    }

    /// What comes before the reset is the beginning of the answer, and it does not look complete.
    fn see_a_reset(&mut self, stream: &TcpStream) -> Result<u64, Broken> {
        let largest = if self.random.below(2) == 0 { 1000 } else { 1_000_000 };
        let task = self.task(Work::Reset, 1, largest);
        order(stream, task)?;
        let first = expect_one(stream);
        match first.and_then(|_| expect(stream, &mut task.downward(), task.down)) {
            Err(broken) if broken.is_reset() => Ok(0),
            Err(broken) => Err(broken),
            Ok(()) => Err(Broken::Wrong),
        }
    }

    fn task(&mut self, work: Work, up: u64, down: u64) -> Task {
        let random = &mut self.random;
        // All sizes are as likely as their half: small ones find other faults than large ones.
        let mut size = |most: u64| {
            let top = most >> random.below(u64::from(most.max(2).ilog2()));
            1 + random.below(top)
        };
        let (up, down) = (size(up), size(down));
        Task { work, seed: self.random.next(), up, down }
    }

    fn ask(&self, stream: &TcpStream, task: Task, era: Era) -> Result<(), Broken> {
        self.send(stream, task)?;
        self.read(stream, task, era)
    }

    fn send(&self, stream: &TcpStream, task: Task) -> Result<(), Broken> {
        order(stream, task)?;
        Ok(send(stream, &mut task.upward(), task.up)?)
    }

    fn read(&self, stream: &TcpStream, task: Task, era: Era) -> Result<(), Broken> {
        let name = expect_one(stream)?;
        if self.ledger.active_since(era).is_some_and(|active| self.names[active] != name) {
            return Err(Broken::Failed(io::Error::other("the server that is not active has answered")));
        }
        expect(stream, &mut task.downward(), task.down)
    }
}

/// Sends the task alone.
fn order(mut stream: &TcpStream, task: Task) -> io::Result<()> {
    stream.write_all(&task.bytes())
}

fn expect_one(mut stream: &TcpStream) -> Result<u8, Broken> {
    let mut byte = [0];
    match stream.read(&mut byte)? {
        0 => Err(Broken::Ended(0)),
        _ => Ok(byte[0]),
    }
}
