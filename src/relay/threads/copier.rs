//! One direction of a connection, in a thread of its own: it relays bytes until there are no more, then waits for the
//! connection's end. `connection` decides how that ends; `direction` moves the bytes.
//!
//! A client that has not sent anything has no buffer: the thread waits for its first bytes in poll(2). An active client
//! has a small one. What a thread needed beyond that is released after a pause, before the thread blocks without a time
//! limit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::connection::{Connection, End};
use super::sockets::Sockets;
use crate::core::msg::PeerRole;
use crate::net::wait_for;
use crate::relay::RelayConfig;
use crate::relay::direction::{Direction, Progress, RelayError, Resources, Taken};
use crate::relay::peer::Peer;
use crate::relay::report::Reporter;

/// The state of one thread.
pub struct Copier {
    connection: Arc<Connection>,
    reporter: Arc<dyn Reporter>,
    own: PeerRole,
    from: Peer,
    to: Peer,
    direction: Direction,
    resources: Resources,
    /// When the connection is to be looked at, at the latest, although nothing has happened.
    look: Option<Instant>,
}

/// How long a large buffer or a pipe is kept for its next use: the pause between two transfers of one client.
const TIDY: Duration = Duration::from_secs(2);

impl Copier {
    /// The direction that reads from this side.
    pub fn new(
        connection: Arc<Connection>,
        reporter: Arc<dyn Reporter>,
        own: PeerRole,
        sockets: &Sockets,
        config: &RelayConfig,
    ) -> Copier {
        let nonblocking = config.idle_timeout.is_some();
        let peer = |role| Peer::by_trial(Arc::clone(sockets.of(role)), nonblocking);
        let mut resources = Resources::new(Arc::clone(&config.pipes), config.idle_timeout, config.display.clone());
        let count = Arc::clone(&connection.up_taken);
        resources.taken = Some(match own {
            PeerRole::Client => Taken::Count(count),
            PeerRole::Backend => Taken::Other { count, answered: Arc::clone(&connection.answered) },
        });
        resources.first_size = config.first_size.load(Ordering::Relaxed);
        Copier {
            connection,
            reporter,
            own,
            from: peer(own),
            to: peer(own.other()),
            direction: Direction::from(own),
            resources,
            look: None,
        }
    }

    /// Runs until the connection's end.
    ///
    /// # Errors
    /// If the system is short of memory.
    pub fn run(&mut self) -> io::Result<()> {
        while self.moves() {
            self.from.waits = self.resources.idle_timeout.is_none() && !self.resources.hold_much();
            if self.resources.have_no_buffer() {
                self.from.leave_to_poll();
            }
            let before = self.direction.moved;
            let outcome = self.direction.step(&mut self.from, &mut self.to, &mut self.resources);
            if self.direction.moved != before {
                self.passed_on();
            }
            if self.own == PeerRole::Client {
                self.connection.up_is_stuck.store(self.direction.is_stuck(), Ordering::Relaxed);
            }
            match outcome {
                Ok(Progress::Yields) => {}
                Ok(Progress::Waits) => self.wait()?,
                Ok(Progress::Ended(())) => match self.connection.ended(self.own) {
                    End::InOrder => self.direction.show_end(&self.resources),
                    End::Failed => self.direction.show_failure(&self.resources),
                    End::Woken => {}
                },
                Err(RelayError::Reading(e)) => self.connection.reading_failed(self.own, e),
                Err(RelayError::Writing(e)) => self.connection.writing_failed(self.own.other(), e),
            }
        }
        self.release();
        self.wait_for_the_end()
    }

    /// Whether there is more to pass on.
    fn moves(&mut self) -> bool {
        if !self.connection.attention.load(Ordering::Acquire) {
            return true;
        }
        // The other thread may be waiting in a read, so it cannot be relied on to do this.
        self.look = self.connection.do_what_is_due();
        let moves = self.connection.moves(self.own);
        self.connection.report_dismissible(&*self.reporter);
        moves
    }

    fn passed_on(&self) {
        let flow = match self.own {
            PeerRole::Client => &self.connection.flow.up,
            PeerRole::Backend => &self.connection.flow.down,
        };
        flow.store(self.direction.moved, Ordering::Relaxed);
        if self.resources.idle_timeout.is_some() {
            self.connection.note_movement();
        }
    }

    /// Waits for the side that blocks this direction.
    fn wait(&mut self) -> io::Result<()> {
        let stuck = self.direction.is_stuck();
        let idle_at = self.idle_at();
        let tidy_at = (!stuck && self.resources.hold_much()).then(|| Instant::now() + TIDY);
        let waker = PollFd::new(self.connection.waker(), PollFlags::IN);
        let mut fds = if stuck {
            let to = PollFd::new(&*self.to.stream, PollFlags::OUT);
            // This side is not being read now, so only this poll can report its failure.
            let from = PollFd::new(&*self.from.stream, PollFlags::empty());
            if self.from.is_over() { vec![waker, to] } else { vec![waker, to, from] }
        } else {
            vec![waker, PollFd::new(&*self.from.stream, PollFlags::IN)]
        };
        wait_for(&mut fds, idle_at.into_iter().chain(tidy_at).chain(self.look).min())?;
        let happened = !fds[1].revents().is_empty();
        let from_state = fds.get(2).map_or(PollFlags::empty(), PollFd::revents);
        if happened && stuck {
            self.to.writable = true;
        } else if happened {
            self.from.tell_readable();
        }
        self.note_poll(from_state);
        let now = Instant::now();
        if !happened && idle_at.is_some_and(|at| at <= now) {
            self.expire();
        }
        if !happened && tidy_at.is_some_and(|at| at <= now) {
            self.release();
        }
        Ok(())
    }

    /// Waits while the other direction may still move. Notices a failure of the side that was read here.
    fn wait_for_the_end(&mut self) -> io::Result<()> {
        while let Some((look, can_fail)) = self.connection.attend(self.own) {
            self.connection.report_dismissible(&*self.reporter);
            let idle_at = self.idle_at();
            let mut fds = vec![PollFd::new(self.connection.waker(), PollFlags::IN)];
            if can_fail && !self.from.is_over() {
                fds.push(PollFd::new(&*self.from.stream, PollFlags::empty()));
            }
            wait_for(&mut fds, look.into_iter().chain(idle_at).min())?;
            let from_state = fds.get(1).map_or(PollFlags::empty(), PollFd::revents);
            self.note_poll(from_state);
            if idle_at.is_some_and(|at| at <= Instant::now()) {
                self.expire();
            }
        }
        Ok(())
    }

    /// Handles what a poll reports about the side that is not being read. Each poll reports it again, so it is
    /// recorded.
    fn note_poll(&mut self, state: PollFlags) {
        if state.is_empty() {
            return;
        }
        self.from.note_over();
        if state.contains(PollFlags::ERR) {
            self.connection.poll_failed(self.own);
        }
    }

    fn idle_at(&self) -> Option<Instant> {
        self.resources.idle_timeout.map(|timeout| self.connection.idle_at(timeout))
    }

    /// The other thread may have passed something on since the time was read, so the connection looks again.
    fn expire(&self) {
        if let Some(timeout) = self.resources.idle_timeout {
            self.connection.idle(timeout);
        }
    }

    /// Releases what an idle client does not need.
    fn release(&mut self) {
        self.direction.rest(&mut self.resources);
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.direction.clear(&mut self.resources);
    }
}
