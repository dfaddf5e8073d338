//! A connected client and its backend: two directions.
//!
//! Half-close is passed on as half-close: that direction ends and the other continues. `closing` decides how a pair
//! ends; this module carries that out. A pair that is dropped before its end is reset, so that neither side takes a
//! truncated stream for a complete one (promise 1). A pair does not know events, other clients or the core: its owner
//! gives it turns and reports its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::closing::{Closing, Facts, Parting};
use super::direction::{Direction, Progress, RelayError, Resources};
use super::peer::Peer;
use super::reason::{Reason, part_from};
use super::report::{ByteCounters, CloseSummary};
use crate::core::msg::{CloseReason, PeerRole};
use crate::net::Stream;

/// Both connections of an assigned client.
#[derive(Debug)]
pub struct Pair {
    client: Peer,
    backend: Peer,
    /// From the client to the backend.
    up: Direction,
    down: Direction,
    /// Read by other threads: the bytes relayed so far.
    flow: Arc<ByteCounters>,
    /// Bytes of the client that had been relayed before the backend's last bytes were.
    answered: u64,
    closing: Closing,
    reason: Reason,
    /// Both sides have seen their end.
    over: bool,
}

impl Pair {
    pub fn new(client: Stream, backend: Stream, flow: Arc<ByteCounters>) -> Pair {
        Pair {
            client: Peer::new(client),
            backend: Peer::new(backend),
            up: Direction::from(PeerRole::Client),
            down: Direction::from(PeerRole::Backend),
            flow,
            answered: 0,
            closing: Closing::new(),
            reason: Reason::default(),
            over: false,
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, role: PeerRole, events: EventFlags) {
        match role {
            PeerRole::Client => self.client.note(events),
            PeerRole::Backend => self.backend.note(events),
        }
    }

    /// Moves what can be moved, in both directions, and looks at how it ends when that is due. At its end the owner
    /// closes both sockets and reports.
    pub fn advance(&mut self, resources: &mut Resources) -> Progress<CloseSummary> {
        let sent = self.up.moved;
        let (mut up, mut down) = (Progress::Waits, Progress::Waits);
        if self.closing.moves(PeerRole::Client) {
            let outcome = self.up.advance(&mut self.client, &mut self.backend, resources);
            up = self.after(outcome, PeerRole::Client, sent, resources);
        }
        if self.closing.moves(PeerRole::Backend) {
            let before = self.down.moved;
            let outcome = self.down.advance(&mut self.backend, &mut self.client, resources);
            if self.down.moved != before {
                self.answered = sent;
            }
            down = self.after(outcome, PeerRole::Backend, sent, resources);
        }
        // A write has told that the client has failed: no event will tell that what it had sent is to be read.
        if self.closing.has_failed(PeerRole::Client) && self.closing.moves(PeerRole::Client) {
            let outcome = self.up.advance(&mut self.client, &mut self.backend, resources);
            up = self.after(outcome, PeerRole::Client, sent, resources);
        }
        self.notice_failures();
        self.closing.sent(self.up.moved);
        self.look();
        self.flow.up.store(self.up.moved, Ordering::Relaxed);
        self.flow.down.store(self.down.moved, Ordering::Relaxed);
        if self.over {
            return Progress::Ended(self.end(resources));
        }
        if up == Progress::Yields || down == Progress::Yields { Progress::Yields } else { Progress::Waits }
    }

    /// Handles the result of a turn of the direction that reads from this side. `sent`: bytes of the client that were
    /// relayed before the turn.
    fn after(
        &mut self,
        outcome: Result<Progress<()>, RelayError>,
        from: PeerRole,
        sent: u64,
        resources: &Resources,
    ) -> Progress<()> {
        match outcome {
            Ok(Progress::Ended(())) => {
                self.direction(from).show_end(resources);
                self.pass_on_end(from, sent);
            }
            Ok(Progress::Waits) => {
                // The peer may be alive (a Unix socket that accepts nothing more), but everything it had sent was read.
                if self.closing.has_failed(from) && !self.direction(from).is_stuck() {
                    self.closing.written(Instant::now());
                }
                return Progress::Waits;
            }
            Ok(Progress::Yields) => return Progress::Yields,
            Err(RelayError::Reading(e)) => {
                self.fail(from, e);
                self.closing.written(Instant::now());
            }
            Err(RelayError::Writing(e)) => self.fail(from.other(), e),
        }
        Progress::Ended(())
    }

    fn pass_on_end(&mut self, from: PeerRole, sent: u64) {
        self.reason.ended(from);
        // Asked before the client learns of the end, because its reaction must not change the answer.
        let had = match from {
            PeerRole::Client => sent,
            PeerRole::Backend => sent.saturating_sub(self.unheard()),
        };
        let told = self.peer(from.other()).stream.end_writing();
        let parting = self.closing.ended(from, had, Instant::now());
        let both_ended = parting.is_some();
        self.part(parting);
        // A peer that had ended and closed lost nothing. A peer that reset the connection lost bytes.
        match told {
            Err(e) if both_ended => self.reason.failed(from.other(), e),
            Err(e) => self.fail(from.other(), e),
            Ok(()) => {}
        }
    }

    /// Bytes of the client that the backend had not received when it ended. Asked only if they were the last bytes
    /// relayed in either direction, so an exchange that ends with the backend's answer costs no system call.
    fn unheard(&self) -> u64 {
        let client_was_last = self.up.moved > self.answered;
        let unheard = client_was_last.then(|| self.backend.stream.undelivered()).flatten();
        unheard.map_or(0, u64::from)
    }

    /// A side has failed. What it had sent is still passed on.
    fn fail(&mut self, role: PeerRole, cause: io::Error) {
        self.reason.failed(role, cause);
        self.peer_mut(role).drain();
        let parting = self.closing.failed(role, Instant::now());
        self.part(parting);
    }

    /// Notices a failure of a side that is not being read: its bytes wait for the other side, its stream has ended, or
    /// the other side has failed. Asked after the turn, because the event may be older than the turn: an end and a
    /// failure are often reported together.
    fn notice_failures(&mut self) {
        for role in [PeerRole::Client, PeerRole::Backend] {
            let unread = !self.closing.moves(role) || self.direction(role).is_stuck();
            if unread
                && !self.over
                && !self.closing.has_failed(role)
                && let Some(cause) = self.peer_mut(role).failure()
            {
                self.fail(role, cause);
            }
        }
    }

    /// Runs the check of `closing` if it is due.
    fn look(&mut self) {
        let Some(at) = self.closing.next_look() else { return };
        let now = Instant::now();
        if at <= now {
            let info = self.info();
            let parting = self.closing.look(&info, now);
            self.part(parting);
        }
    }

    /// Makes several system calls, so it is called rarely.
    fn info(&self) -> Facts {
        let undelivered = |moved: u64, peer: &Peer| if moved == 0 { Some(0) } else { peer.stream.undelivered() };
        Facts {
            up: self.up.moved,
            down: self.down.moved,
            waiting: self.up.is_stuck() || self.client.stream.has_unread_bytes(),
            to_client: undelivered(self.down.moved, &self.client),
            to_backend: undelivered(self.up.moved, &self.backend),
        }
    }

    /// Shows each side its end. The next turn is the last.
    fn part(&mut self, parting: Option<Parting>) {
        let Some(Parting { client, backend, why }) = parting else { return };
        if let Some(why) = why {
            self.reason.give(why, None);
        }
        self.over = true;
        for (role, farewell) in [(PeerRole::Client, client), (PeerRole::Backend, backend)] {
            let stream = &self.peer(role).stream;
            part_from(stream, farewell, || self.closing.has_ended(role.other()) && stream.has_ended());
        }
    }

    /// Resets both sides.
    pub fn reset(&mut self) {
        if !self.over {
            let parting = self.closing.reset(CloseReason::Terminated);
            self.part(Some(parting));
        }
    }

    /// A switchover closes this pair, if only its end is still to come.
    pub fn close_gracefully(&mut self) {
        if self.closing.is_dismissible() {
            let parting = self.closing.close_gracefully(&self.info());
            self.part(parting);
        }
    }

    /// No byte was relayed for the idle timeout. The check may find that bytes are still reaching a slow reader.
    pub fn expire(&mut self) {
        if !self.over {
            let parting = self.closing.idle(&self.info());
            self.part(parting);
        }
    }

    /// Bytes relayed, in both directions together.
    pub fn moved(&self) -> u64 {
        self.up.moved + self.down.moved
    }

    /// Whether a switchover need not wait for this pair.
    pub fn is_dismissible(&self) -> bool {
        self.closing.is_dismissible()
    }

    /// When it needs another turn even if nothing has happened.
    pub fn next_look(&self) -> Option<Instant> {
        self.closing.next_look()
    }

    fn peer(&self, role: PeerRole) -> &Peer {
        match role {
            PeerRole::Client => &self.client,
            PeerRole::Backend => &self.backend,
        }
    }

    fn peer_mut(&mut self, role: PeerRole) -> &mut Peer {
        match role {
            PeerRole::Client => &mut self.client,
            PeerRole::Backend => &mut self.backend,
        }
    }

    /// The direction that reads from this side.
    fn direction(&self, from: PeerRole) -> &Direction {
        match from {
            PeerRole::Client => &self.up,
            PeerRole::Backend => &self.down,
        }
    }

    fn end(&mut self, resources: &mut Resources) -> CloseSummary {
        self.up.clear(resources);
        self.down.clear(resources);
        let (why, cause) = self.reason.take();
        CloseSummary { why, up: self.up.moved, down: self.down.moved, cause }
    }
}

/// A pair dropped before its end is reset: neither side may take its stream for complete.
impl Drop for Pair {
    fn drop(&mut self) {
        if !self.over {
            let parting = self.closing.reset(CloseReason::Panicked);
            self.part(Some(parting));
        }
    }
}
