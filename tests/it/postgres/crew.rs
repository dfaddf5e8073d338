//! Applications without a pool: each of a crew makes a connection, writes a row or two, reads what it wrote so far,
//! leaves, and comes back. Every attempt is recorded with its moment and its outcome; a row is never tried twice.

use std::fmt;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::cluster::{LONG, Server, program};
use super::wire::{Failure, Session};
use crate::support::eventually;

/// At work until it is called home, or dropped.
pub struct Crew {
    home: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    members: Vec<JoinHandle<Vec<Attempt>>>,
}

/// One row, once.
#[derive(Debug)]
pub struct Attempt {
    pub client: usize,
    pub n: usize,
    /// Before connecting, if it was the first of its connection.
    pub from: Instant,
    pub until: Instant,
    /// The port of the server that acknowledged it.
    pub outcome: Result<u16, Failure>,
}

/// How a member talks to the server.
#[derive(Clone, Copy)]
enum Means {
    /// This crate's own few messages.
    Wire,
    /// The real thing: one process for each connection.
    Psql,
}

struct Member {
    client: usize,
    means: Means,
    addr: SocketAddr,
    user: &'static str,
    attempts: Vec<Attempt>,
}

impl Crew {
    /// Twenty clients of `addr`, four of them psql. Returns when each way of working has been seen to work.
    pub fn start(addr: SocketAddr) -> Crew {
        Crew::start_as("postgres", addr)
    }

    /// Likewise, as another user.
    pub fn start_as(user: &'static str, addr: SocketAddr) -> Crew {
        let (home, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let member = |client| {
            let means = if client < 4 { Means::Psql } else { Means::Wire };
            let (home, acknowledged) = (Arc::clone(&home), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let mut member = Member { client, means, addr, user, attempts: Vec::new() };
                while !home.load(Ordering::SeqCst) {
                    let before = member.attempts.len();
                    member.visit();
                    let new = member.attempts[before..].iter().filter(|attempt| attempt.outcome.is_ok()).count();
                    acknowledged.fetch_add(new, Ordering::SeqCst);
                    // Time to think: the servers, the proxy and other tests share two processors.
                    thread::sleep(Duration::from_millis(20));
                }
                member.attempts
            })
        };
        let members = (0..20).map(member).collect();
        let crew = Crew { home, acknowledged, members };
        crew.works_on(100);
        crew
    }

    /// Waits until that many more rows have been acknowledged.
    pub fn works_on(&self, rows: usize) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + rows;
        eventually(LONG, "the clients' rows are acknowledged", || self.acknowledged.load(Ordering::SeqCst) >= goal);
    }

    /// Ends the work; nobody is in the middle of anything when this returns.
    pub fn come_home(mut self) -> Ledger {
        self.home.store(true, Ordering::SeqCst);
        let attempts = self.members.drain(..).flat_map(|member| member.join().unwrap()).collect();
        Ledger(attempts)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.home.store(true, Ordering::SeqCst);
        for member in self.members.drain(..) {
            // Only when a test has failed already: that failure is the one to be seen.
            member.join().ok();
        }
    }
}

impl Member {
    /// One connection.
    fn visit(&mut self) {
        let from = Instant::now();
        match self.means {
            Means::Wire => {
                let mut session = match Session::open_as(self.user, self.addr) {
                    Ok(session) => session,
                    Err(failure) => return self.record(from, Err(failure)),
                };
                for from in [from, Instant::now()] {
                    let outcome = self.write(&mut session);
                    self.record(from, outcome);
                }
                // What matters has been acknowledged; an error here is an error all the same.
                if let Err(failure) = session.close() {
                    self.record(from, Err(failure));
                }
            }
            Means::Psql => {
                let outcome = self.write_with_psql();
                self.record(from, outcome);
            }
        }
    }

    /// Writes the next row in one transaction, then counts this client's rows in another.
    fn write(&self, session: &mut Session) -> Result<u16, Failure> {
        let port = session.query(&self.insert())?;
        let count = session.query(&self.count())?;
        self.judge(&port.concat().concat(), &count.concat().concat())
    }

    fn write_with_psql(&self) -> Result<u16, Failure> {
        let output = Command::new(program("psql"))
            .args(["-XAtqw", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate", "-h", "127.0.0.1", "-U", self.user])
            .args(["-d", "postgres", "-p", &self.addr.port().to_string(), "-c", &self.insert(), "-c", &self.count()])
            .output()?;
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let code = error.trim().strip_prefix("ERROR:  ").unwrap_or_default().to_owned();
            return Err(Failure::Refused { code, text: format!("psql: {error}") });
        }
        match said.split_whitespace().collect::<Vec<_>>()[..] {
            [port, count] => self.judge(port, count),
            _ => Err(Failure::Wrong(format!("psql said {said:?} {error:?}"))),
        }
    }

    /// The row just written is the last of all that were acknowledged, and none of those is missing.
    fn judge(&self, port: &str, count: &str) -> Result<u16, Failure> {
        let expected = self.attempts.iter().filter(|attempt| attempt.outcome.is_ok()).count() + 1;
        if count != expected.to_string() {
            return Err(Failure::Wrong(format!("{count} rows, expected {expected}, on port {port}")));
        }
        port.parse().map_err(|_| Failure::Wrong(format!("port {port:?}")))
    }

    fn insert(&self) -> String {
        let (client, n) = (self.client, self.attempts.len());
        format!("INSERT INTO ledger VALUES ({client}, {n}, inet_server_port()) RETURNING port")
    }

    fn count(&self) -> String {
        format!("SELECT count(*) FROM ledger WHERE client = {}", self.client)
    }

    fn record(&mut self, from: Instant, outcome: Result<u16, Failure>) {
        let (client, n) = (self.client, self.attempts.len());
        self.attempts.push(Attempt { client, n, from, until: Instant::now(), outcome });
    }
}

/// All attempts of a crew.
pub struct Ledger(Vec<Attempt>);

impl Ledger {
    /// What went wrong.
    pub fn failures(&self) -> impl Iterator<Item = (&Attempt, &Failure)> {
        self.0.iter().filter_map(|attempt| attempt.outcome.as_ref().err().map(|failure| (attempt, failure)))
    }

    /// No client saw any error.
    pub fn is_spotless(&self) {
        let failures: Vec<String> = self.failures().map(|(attempt, failure)| format!("{attempt}: {failure}")).collect();
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    }

    /// `primary` has every acknowledged row exactly once, by the server that acknowledged it, and no other row.
    pub fn equals(&self, primary: &Server) {
        let acknowledged = self.0.iter().filter_map(|a| Some((a.client, a.n, *a.outcome.as_ref().ok()?)));
        let mut acknowledged: Vec<String> =
            acknowledged.map(|(client, n, port)| format!("{client}|{n}|{port}")).collect();
        let rows = primary.ask("SELECT client, n, port FROM ledger");
        let mut rows: Vec<&str> = rows.lines().collect();
        acknowledged.sort_unstable();
        rows.sort_unstable();
        let missing: Vec<_> = acknowledged.iter().filter(|row| !rows.contains(&row.as_str())).take(5).collect();
        assert!(acknowledged == rows, "{} acknowledged, {} found; missing {missing:?}", acknowledged.len(), rows.len());
    }

    /// Everything was acknowledged by `server`.
    pub fn is_by(&self, server: &Server) {
        let elsewhere = self.0.iter().filter(|a| a.outcome.as_ref().is_ok_and(|port| *port != server.port())).count();
        assert_eq!(elsewhere, 0, "rows acknowledged by the wrong server");
    }

    /// Some rows were acknowledged by `old` and some by `new`, and the last of the old ones before the first of the
    /// new.
    pub fn moved(&self, old: &Server, new: &Server) {
        let by = |server: &Server| {
            let port = server.port();
            self.0.iter().filter(move |attempt| attempt.outcome.as_ref().is_ok_and(|by| *by == port))
        };
        let last_old = by(old).max_by_key(|attempt| attempt.until).expect("rows by the old server");
        let first_new = by(new).min_by_key(|attempt| attempt.until).expect("rows by the new server");
        assert!(last_old.until < first_new.until, "{last_old} on the old server, {first_new} on the new one");
        let total = by(old).count() + by(new).count() + self.failures().count();
        assert_eq!(total, self.0.len(), "a third server");
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.until - self.from;
        write!(f, "row {} of client {} ({took:?}, until {:?} ago)", self.n, self.client, self.until.elapsed())
    }
}
