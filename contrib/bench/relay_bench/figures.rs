//! What is measured, as one table: its name, what each figure does, and its goals.

use crate::options::Mode;

/// One figure.
#[derive(Debug)]
pub struct Figure {
    pub name: &'static str,
    pub what: &'static str,
    /// Unit of the median.
    pub unit: &'static str,
    pub load: Load,
    /// Of a cbpx whose clients all have threads of their own.
    pub pairs: Goal,
    /// Of a cbpx whose clients all share threads.
    pub shared: Goal,
    pub cpu: Option<Cpu>,
}

/// The load. The number is the number of simultaneous connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Round trips of 64 bytes on persistent connections.
    Trips(usize),
    /// Connect, one round trip, close.
    Requests(usize),
    /// The server sends as much as it can.
    Down(usize),
    /// The client sends as much as it can.
    Up(usize),
    /// Clients that have made one round trip and are then silent.
    Idle,
    /// A real PostgreSQL under pgbench.
    Sql(Sql),
}

/// What pgbench does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sql {
    /// At once.
    pub clients: usize,
    pub transaction: Transaction,
    /// A connection for each transaction.
    pub connects: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// `pgbench -S`: one SELECT.
    Select,
    /// pgbench's own: five statements and a commit.
    TpcB,
}

/// The goal for cbpx.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At least this times HAProxy's figure.
    AtLeast(f64),
    /// At most this, in the figure's unit.
    AtMost(f64),
    /// Only for comparison.
    None,
}

/// How the proxy's CPU time is shown.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    pub unit: &'static str,
    /// Factor from microseconds of CPU per unit of work (a trip, a request, a byte) to the number shown.
    pub scale: f64,
    /// At most this times HAProxy's.
    pub goal: Option<f64>,
}

const PER_TRIP: Cpu = Cpu { unit: "us/trip", scale: 1.0, goal: None };
const PER_BYTE: Cpu = Cpu { unit: "ns/KiB", scale: 1024.0 * 1000.0, goal: Some(0.35) };
const PER_TRANSACTION: Cpu = Cpu { unit: "us/transaction", scale: 1.0, goal: None };

/// In the order of measuring.
pub const FIGURES: &[Figure] = &[
    Figure {
        name: "rr1",
        what: "round trips of 64 bytes, 1 connection",
        unit: "trips/s",
        load: Load::Trips(1),
        pairs: Goal::AtLeast(1.1),
        shared: Goal::AtLeast(1.0),
        cpu: Some(PER_TRIP),
    },
    Figure {
        name: "rr32",
        what: "the same, 32 connections",
        unit: "trips/s",
        load: Load::Trips(32),
        pairs: Goal::AtLeast(0.85),
        shared: Goal::AtLeast(1.1),
        cpu: Some(Cpu { goal: Some(1.3), ..PER_TRIP }),
    },
    Figure {
        name: "rr500",
        what: "the same, 500 connections",
        unit: "trips/s",
        load: Load::Trips(500),
        pairs: Goal::AtLeast(0.7),
        shared: Goal::AtLeast(1.16),
        cpu: Some(PER_TRIP),
    },
    Figure {
        name: "crr16",
        what: "connect, one request, close; 16 at once",
        unit: "conn/s",
        load: Load::Requests(16),
        pairs: Goal::AtLeast(0.85),
        shared: Goal::AtLeast(1.0),
        cpu: Some(Cpu { unit: "us/conn", scale: 1.0, goal: Some(1.5) }),
    },
    Figure {
        name: "bulk1",
        what: "server to client, 1 connection",
        unit: "Gbit/s",
        load: Load::Down(1),
        pairs: Goal::AtLeast(1.7),
        shared: Goal::AtLeast(2.0),
        cpu: Some(PER_BYTE),
    },
    Figure {
        name: "bulk16",
        what: "server to client, 16 connections",
        unit: "Gbit/s",
        load: Load::Down(16),
        pairs: Goal::AtLeast(1.4),
        shared: Goal::AtLeast(1.4),
        cpu: Some(PER_BYTE),
    },
    Figure {
        name: "push1",
        what: "client to server, 1 connection",
        unit: "Gbit/s",
        load: Load::Up(1),
        pairs: Goal::AtLeast(1.7),
        shared: Goal::AtLeast(2.0),
        cpu: Some(PER_BYTE),
    },
    Figure {
        name: "idle",
        what: "resident memory per idle client, both directions",
        unit: "KiB",
        load: Load::Idle,
        pairs: Goal::AtMost(16.0),
        shared: Goal::AtMost(16.0),
        cpu: None,
    },
    Figure {
        name: "pg1",
        what: "PostgreSQL, pgbench -S, 1 client",
        unit: "transactions/s",
        load: Load::Sql(Sql { clients: 1, transaction: Transaction::Select, connects: false }),
        pairs: Goal::None,
        shared: Goal::None,
        cpu: Some(PER_TRANSACTION),
    },
    Figure {
        name: "pg16",
        what: "the same, 16 clients",
        unit: "transactions/s",
        load: Load::Sql(Sql { clients: 16, transaction: Transaction::Select, connects: false }),
        pairs: Goal::AtLeast(0.92),
        shared: Goal::None,
        cpu: Some(PER_TRANSACTION),
    },
    Figure {
        name: "pg64",
        what: "the same, 64 clients",
        unit: "transactions/s",
        load: Load::Sql(Sql { clients: 64, transaction: Transaction::Select, connects: false }),
        pairs: Goal::None,
        shared: Goal::None,
        cpu: Some(PER_TRANSACTION),
    },
    Figure {
        name: "tpcb16",
        what: "PostgreSQL, pgbench (TPC-B), 16 clients",
        unit: "transactions/s",
        load: Load::Sql(Sql { clients: 16, transaction: Transaction::TpcB, connects: false }),
        pairs: Goal::None,
        shared: Goal::None,
        cpu: Some(PER_TRANSACTION),
    },
    Figure {
        name: "pgc16",
        what: "PostgreSQL, pgbench -C -S (a connection each time), 16 clients",
        unit: "transactions/s",
        load: Load::Sql(Sql { clients: 16, transaction: Transaction::Select, connects: true }),
        pairs: Goal::AtLeast(1.0),
        shared: Goal::None,
        cpu: Some(PER_TRANSACTION),
    },
];

impl Figure {
    /// Left to itself cbpx gives the first clients threads of their own.
    pub fn goal(&self, mode: Mode) -> Goal {
        match mode {
            Mode::Pairs | Mode::Default => self.pairs,
            Mode::Shared => self.shared,
        }
    }
}

impl Load {
    /// Whether bytes are the work, rather than trips.
    pub fn is_bulk(self) -> bool {
        match self {
            Load::Down(_) | Load::Up(_) => true,
            Load::Trips(_) | Load::Requests(_) | Load::Idle | Load::Sql(_) => false,
        }
    }

    /// From units of work in a second to the figure's unit.
    pub fn scale(self) -> f64 {
        if self.is_bulk() { 8.0 / 1e9 } else { 1.0 }
    }
}
