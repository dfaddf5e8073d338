//! Applications without a pool: each of twenty writers makes a connection, writes a row, reads how many it has, leaves,
//! and comes back. Every attempt is recorded; a row is never tried twice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::LONG;
use crate::support::eventually;

/// One connection of a client: writes its row `n` and returns the port of the server that acknowledged it, and how many
/// rows of this client that server has, the new one included.
pub type Visit = fn(SocketAddr, client: usize, n: usize) -> Result<(u16, usize), String>;

/// At work until they are called home, or dropped.
pub struct Writers {
    home: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Attempt>>>,
}

struct Attempt {
    client: usize,
    n: usize,
    outcome: Result<u16, String>,
}

/// All attempts.
pub struct Ledger(Vec<Attempt>);

impl Writers {
    /// Returns when they have been seen to work.
    pub fn start(addr: SocketAddr, visit: Visit) -> Writers {
        let (home, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let writer = |client| {
            let (home, acknowledged) = (Arc::clone(&home), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let (mut attempts, mut rows) = (Vec::new(), 0);
                while !home.load(Ordering::SeqCst) {
                    let n = attempts.len();
                    let outcome = match visit(addr, client, n) {
                        Ok((port, count)) if count == rows + 1 => Ok(port),
                        Ok((port, count)) => Err(format!("{count} rows on {port}, expected {}", rows + 1)),
                        Err(cause) => Err(cause),
                    };
                    if outcome.is_ok() {
                        rows += 1;
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    attempts.push(Attempt { client, n, outcome });
                    // Time to think: the servers, the proxy and other tests share two processors.
                    thread::sleep(Duration::from_millis(20));
                }
                attempts
            })
        };
        let threads = (0..20).map(writer).collect();
        let writers = Writers { home, acknowledged, threads };
        writers.work_on(100);
        writers
    }

    /// Waits until that many more rows have been acknowledged.
    pub fn work_on(&self, rows: usize) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + rows;
        eventually(LONG, "the clients' rows are acknowledged", || self.acknowledged.load(Ordering::SeqCst) >= goal);
    }

    /// Ends the work; nobody is in the middle of anything when this returns.
    pub fn come_home(mut self) -> Ledger {
        self.home.store(true, Ordering::SeqCst);
        Ledger(self.threads.drain(..).flat_map(|thread| thread.join().unwrap()).collect())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.home.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // Only when a test has failed already: that failure is the one to be seen.
            thread.join().ok();
        }
    }
}

impl Ledger {
    /// No client saw any error.
    pub fn is_spotless(&self) {
        let failed = |attempt: &Attempt| {
            let cause = attempt.outcome.as_ref().err()?;
            Some(format!("row {} of client {}: {cause}", attempt.n, attempt.client))
        };
        let failures: Vec<String> = self.0.iter().filter_map(failed).collect();
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    }

    pub fn acknowledged(&self) -> usize {
        self.0.iter().filter(|attempt| attempt.outcome.is_ok()).count()
    }

    /// How many rows the server on this port has acknowledged.
    pub fn by(&self, port: u16) -> usize {
        self.0.iter().filter(|attempt| attempt.outcome.as_ref() == Ok(&port)).count()
    }

    /// These are the acknowledged rows, each exactly once, and no others.
    pub fn equals(&self, rows: &[(usize, usize)]) {
        let good = self.0.iter().filter(|attempt| attempt.outcome.is_ok());
        let mut acknowledged: Vec<(usize, usize)> = good.map(|attempt| (attempt.client, attempt.n)).collect();
        let mut rows = rows.to_vec();
        acknowledged.sort_unstable();
        rows.sort_unstable();
        let missing: Vec<_> = acknowledged.iter().filter(|row| !rows.contains(row)).take(5).collect();
        assert!(acknowledged == rows, "{} acknowledged, {} found; missing {missing:?}", acknowledged.len(), rows.len());
    }
}
