//! What both ends of one connection are going to do, drawn from a seed: the same for the same seed.

use cbpx::core::pool::hash;

/// Choices that look random (splitmix64).
pub struct Random(u64);

/// One end's part.
#[derive(Clone, Debug)]
pub struct Part {
    pub says: Vec<Say>,
    /// What it reads, and how; afterwards everything there is, in large pieces.
    pub hears: Vec<Hear>,
    /// Sizes of the socket's buffers, where the system's own are not to be used.
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
    /// When the other end has reset the connection: waits to be told instead of sending on.
    pub waits_for_reset: bool,
}

/// What an end does on its sending side, one after the other. A wait is over, too, when it could never end.
#[derive(Clone, Copy, Debug)]
pub enum Say {
    Bulk {
        length: usize,
        /// At most this much at once.
        chunk: usize,
    },
    /// So many single bytes, each when the one before has arrived.
    Singles(usize),
    /// Until no more is taken, or this much was.
    Stuff(usize),
    /// Waits until all it sent has arrived.
    Heard,
    /// Waits until it has received so much.
    Received(u64),
    /// Waits until the other end has finished.
    Quiet,
    /// Ends its stream.
    End,
    Reset,
    /// Closes its socket, whatever is on its way.
    Leave,
}

/// How an end reads.
#[derive(Clone, Copy, Debug)]
pub enum Hear {
    Some {
        length: usize,
        chunk: usize,
    },
    /// Stops until the other end's writes are not taken any more.
    Stop,
}

/// A connection's two parts.
#[derive(Clone, Debug)]
pub struct Plan {
    pub client: Part,
    pub server: Part,
    /// The client's first byte has arrived before anything else happens: the backend has been reached for certain.
    pub greets: bool,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(hash::mix(seed))
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (hash::next(&mut self.0) % bound as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Often little, sometimes megabytes.
    fn length(&mut self, narrow: bool) -> usize {
        let most = match self.below(100) {
            0..35 => 300,
            35..60 => 20_000,
            _ if narrow => 60_000,
            60..80 => 300_000,
            80..94 => 1_200_000,
            _ => 4_000_000,
        };
        1 + self.below(most)
    }

    fn chunk(&mut self, length: usize) -> usize {
        let least = length / 2_000 + 1;
        self.pick(&[1, 2, 100, 1_460, 4_096, 65_536, 65_536, 262_144]).max(least)
    }
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let random = &mut Random::new(seed);
        let (greets, narrow) = (random.chance(85), random.chance(25));
        let mut plan = Plan { client: Part::draw(random, narrow), server: Part::draw(random, narrow), greets };
        // How it ends: most in order, so that much is checked to the last byte.
        for part in [&mut plan.client, &mut plan.server] {
            match random.below(100) {
                0..70 => part.says.push(Say::End),
                70..76 => part.says.extend([Say::End, Say::Reset]),
                76..79 => part.says.extend([Say::End, Say::Quiet, Say::Reset]),
                79..90 => part.says.push(Say::Reset),
                90..92 => part.says.extend([Say::Stuff(if narrow { 200_000 } else { 16 << 20 }), Say::Reset]),
                92..94 => {
                    part.says.extend([Say::End, Say::Received(random.length(narrow) as u64)]);
                    part.says.push(Say::Leave);
                }
                _ => part.says.push(Say::Leave),
            }
        }
        if random.chance(4) {
            // Directly after the connect.
            let part = if random.chance(50) { &mut plan.client } else { &mut plan.server };
            let last = part.says.len() - 1;
            part.says.drain(..last);
        }
        if greets {
            plan.client.says.insert(0, Say::Singles(1));
            plan.server.says.insert(0, Say::Received(1));
            plan.server.hears.insert(0, Hear::Some { length: 1, chunk: 1 });
        } else {
            // A server that has reset may have refused the client, which is closed in order then.
            plan.client.waits_for_reset = false;
        }
        plan
    }
}

impl Part {
    /// `narrow`: with small buffers at both ends, and lengths to match.
    fn draw(random: &mut Random, narrow: bool) -> Part {
        let says = (0..random.below(6)).map(|_| match random.below(20) {
            0..10 => {
                let length = random.length(narrow);
                Say::Bulk { length, chunk: random.chunk(length) }
            }
            10..13 => Say::Singles(1 + random.below(12)),
            13 if narrow => Say::Stuff(200_000),
            13 => Say::Stuff(random.pick(&[1 << 20, 4 << 20, 12 << 20])),
            14..16 => Say::Heard,
            16..18 => Say::Received(random.length(narrow) as u64),
            _ => Say::Quiet,
        });
        let says = says.collect();
        let hears = (0..random.below(5)).map(|_| match random.below(4) {
            0 => Hear::Stop,
            _ => {
                let length = random.length(narrow);
                Hear::Some { length, chunk: random.chunk(length) }
            }
        });
        let hears = hears.collect();
        Part {
            says,
            hears,
            receive_buffer: narrow.then(|| random.pick(&[8_192, 16_384, 65_536])),
            send_buffer: narrow.then(|| random.pick(&[4_096, 16_384, 65_536])),
            waits_for_reset: random.chance(60),
        }
    }
}
