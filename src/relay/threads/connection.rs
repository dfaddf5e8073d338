//! The state shared by the two threads of a client: how the connection ends, and how a blocked thread is woken. No
//! thread blocks or reports while it holds this lock, because the dispatcher calls `cancel_dial`, `close_gracefully`
//! and `reset` under its own lock, and takes reports under that.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dial::{self, Dialled, Wish};
use super::sockets::Sockets;
use super::state::State;
use crate::core::msg::{ClientId, CloseReason, PeerRole};
use crate::net::{Stream, Waker};
use crate::relay::closing::{Facts, Parting};
use crate::relay::dial::Dial;
use crate::relay::reason::part_from;
use crate::relay::report::{ByteCounters, CloseSummary, Report, Reporter};

/// One client's connection, from its dial to its end.
#[derive(Debug)]
pub struct Connection {
    client: ClientId,
    /// Readable when a thread that waits in poll(2) is to look at the state.
    waker: Waker,
    /// Not only bytes are to be passed on: the state is to be looked at before each step.
    pub attention: AtomicBool,
    /// Bytes of the client were read and cannot be written to the backend at the moment.
    pub up_is_stuck: AtomicBool,
    pub flow: Arc<ByteCounters>,
    /// Bytes of the client that were read, including those not written yet.
    pub up_taken: Arc<AtomicU64>,
    /// `up_taken` when the backend's last bytes were read: what it had sent by then may be an answer to these.
    pub answered: Arc<AtomicU64>,
    began: Instant,
    /// When a byte was last relayed, in microseconds since the start. Kept only if there is an idle timeout.
    moved_at: AtomicU64,
    state: Mutex<State>,
}

/// What it means that a read has returned the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    InOrder,
    /// The side has failed, and everything that had arrived before was read.
    Failed,
    /// Reading was stopped here.
    Woken,
}

impl Connection {
    /// # Errors
    /// When there is no descriptor.
    pub fn new(client: ClientId, flow: Arc<ByteCounters>) -> io::Result<Connection> {
        Ok(Connection {
            client,
            waker: Waker::new()?,
            attention: AtomicBool::new(false),
            up_is_stuck: AtomicBool::new(false),
            flow,
            up_taken: Arc::default(),
            answered: Arc::default(),
            began: Instant::now(),
            moved_at: AtomicU64::new(0),
            state: Mutex::new(State::new()),
        })
    }

    // Called by the dispatcher: see `ClientHandle`.

    pub fn cancel_dial(&self) {
        let mut state = self.state.lock();
        if !state.connected && state.wish.is_none() {
            state.wish = Some(Wish::Cancel);
            self.wake(&mut state);
        }
    }

    pub fn close_gracefully(&self) {
        let mut state = self.state.lock();
        if state.closing.is_dismissible() {
            state.asked = true;
            self.wake(&mut state);
        }
    }

    pub fn reset(&self) {
        let mut state = self.state.lock();
        if state.connected {
            self.reset_both(&mut state, CloseReason::Terminated);
        } else {
            state.wish = Some(Wish::Reset);
            self.wake(&mut state);
        }
    }

    // Called by the two threads.

    /// Waits for the dial, or until it is cancelled or reset.
    pub fn dial(&self, dial: Dial) -> Dialled {
        let dialled = dial::wait(dial, &self.waker, || self.state.lock().wish);
        let mut state = self.state.lock();
        match (dialled, state.wish) {
            (Dialled::Connected(..), Some(wish)) => wish.end_of_dial(),
            (Dialled::Connected(backend, address), None) => {
                state.connected = true;
                Dialled::Connected(backend, address)
            }
            (other @ (Dialled::Failed { .. } | Dialled::Reset), _) => other,
        }
    }

    /// Both sides are connected: returns their sockets.
    pub fn open(&self, client: Stream, backend: Stream) -> Sockets {
        let sockets = Sockets { client: Arc::new(client), backend: Arc::new(backend) };
        self.note_movement();
        self.state.lock().sockets = Some(sockets.clone());
        sockets
    }

    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// A byte was relayed; or time counts as if one had been.
    pub fn note_movement(&self) {
        self.moved_at.store(self.began.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// When it will have been idle for this long if no byte is relayed until then.
    pub fn idle_at(&self, timeout: Duration) -> Instant {
        self.began + Duration::from_micros(self.moved_at.load(Ordering::Relaxed)) + timeout
    }

    /// Whether bytes of this side are still to be passed on.
    pub fn moves(&self, from: PeerRole) -> bool {
        let mut state = self.state.lock();
        state.closing.sent(self.flow.up.load(Ordering::Relaxed));
        state.parting.is_none() && state.closing.moves(from)
    }

    /// A read of this side has returned its end. Passes it on, if it is one.
    pub fn ended(&self, from: PeerRole) -> End {
        let mut state = self.state.lock();
        if state.parting.is_some() || !state.closing.moves(from) {
            return End::Woken;
        }
        let Some(sockets) = state.sockets.clone() else { return End::Woken };
        let (own, to) = (sockets.of(from), sockets.of(from.other()));
        if state.closing.has_failed(from) {
            state.closing.written(Instant::now());
            return End::Failed;
        }
        // The system reports a failure once, and an end afterwards. If the connection is over and its failure cannot be
        // read any more, a write of the other thread has received it and waits for the lock: this is not the end of the
        // stream. If the failure can still be read, the end came before it.
        let mut failure = None;
        if own.is_tcp() && !state.closing.has_ended(from.other()) && own.is_over() {
            failure = if own.has_failure() { own.connection_error().unwrap_or_default() } else { None };
            if failure.is_none() {
                self.fail(&mut state, from, io::ErrorKind::ConnectionReset.into());
                state.closing.written(Instant::now());
                return End::Failed;
            }
        }
        state.reason.ended(from);
        // What the backend has answered was taken before, though the thread that has passed it on may not have said so
        // yet. Asked before the client hears of the end: what it makes of that must not change the answer.
        let taken = self.up_taken.load(Ordering::Acquire);
        let had = match from {
            PeerRole::Client => taken,
            PeerRole::Backend => taken.saturating_sub(self.unheard(taken, own)),
        };
        let told = to.end_writing();
        let parting = state.closing.ended(from, had, Instant::now());
        self.attention.store(true, Ordering::Release);
        let both_ended = parting.is_some();
        self.part(&mut state, parting);
        // A peer that had ended and closed lost nothing. A peer that reset the connection lost bytes.
        match told {
            Err(e) if both_ended => state.reason.failed(from.other(), e),
            Err(e) => self.fail(&mut state, from.other(), e),
            Ok(()) => {}
        }
        if let Some(cause) = failure {
            self.fail(&mut state, from, cause);
        }
        End::InOrder
    }

    /// Bytes of the client that the backend has not had when it ends. That is asked only if they are the last ones that
    /// were taken either way: an exchange that the backend has ended with an answer costs no system call.
    fn unheard(&self, taken: u64, backend: &Stream) -> u64 {
        if taken <= self.answered.load(Ordering::Relaxed) {
            return 0;
        }
        let stuck = self.up_is_stuck.load(Ordering::Relaxed);
        let kept = if stuck { taken.saturating_sub(self.flow.up.load(Ordering::Relaxed)) } else { 0 };
        kept + backend.undelivered().map_or(0, u64::from)
    }

    /// A read of this side has failed: what it had sent has been passed on.
    pub fn reading_failed(&self, from: PeerRole, cause: io::Error) {
        let mut state = self.state.lock();
        self.fail(&mut state, from, cause);
        state.closing.written(Instant::now());
    }

    /// A write to this side has failed.
    pub fn writing_failed(&self, to: PeerRole, cause: io::Error) {
        let mut state = self.state.lock();
        self.fail(&mut state, to, cause);
        // A Unix peer that takes no more bytes may live on, and a read of it would wait. What has arrived is its last.
        if let Some(sockets) = &state.sockets
            && state.parting.is_none()
            && !sockets.of(to).is_tcp()
        {
            sockets.of(to).shutdown(Shutdown::Read);
        }
    }

    /// A poll of this side, which is not being read, says that it has failed. The error is asked for under the lock:
    /// who reads an end afterwards finds the failure noted.
    pub fn poll_failed(&self, role: PeerRole) {
        let mut state = self.state.lock();
        let error = state.sockets.as_ref().and_then(|sockets| sockets.of(role).connection_error().unwrap_or_default());
        if let Some(cause) = error {
            self.fail(&mut state, role, cause);
        }
    }

    /// No byte was passed on for the idle timeout. Both threads come here at the same time: the second one finds that
    /// the first has set the time anew.
    pub fn idle(&self, timeout: Duration) {
        let mut state = self.state.lock();
        if state.parting.is_none() && self.idle_at(timeout) <= Instant::now() {
            let info = self.info(&state);
            let parting = state.closing.idle(&info);
            self.part(&mut state, parting);
            // If it was not closed, bytes are still reaching a slow reader.
            self.note_movement();
        }
    }

    /// A thread that has nothing more to pass on does what is due. Returns when it is to come again at the latest, and
    /// whether its own side can still fail; `None` at the end.
    pub fn attend(&self, own: PeerRole) -> Option<(Option<Instant>, bool)> {
        let mut state = self.state.lock();
        let look = self.due(&mut state);
        state.parting.is_none().then(|| (look, !state.closing.has_failed(own)))
    }

    /// The same, for a thread that may have more to pass on.
    pub fn do_what_is_due(&self) -> Option<Instant> {
        self.due(&mut self.state.lock())
    }

    fn due(&self, state: &mut State) -> Option<Instant> {
        if state.parting.is_some() {
            return None;
        }
        if std::mem::take(&mut state.woken) {
            self.waker.reset();
        }
        let now = Instant::now();
        if std::mem::take(&mut state.asked) && state.closing.is_dismissible() {
            let info = self.info(state);
            let parting = state.closing.close_gracefully(&info);
            self.part(state, parting);
        }
        if state.parting.is_none() && state.closing.next_look().is_some_and(|at| at <= now) {
            let info = self.info(state);
            let parting = state.closing.look(&info, now);
            self.part(state, parting);
        }
        state.closing.next_look()
    }

    /// Reports whether a switchover needs to wait for this client, if that has changed. One thread reports at a time;
    /// another one leaves the report to it.
    pub fn report_dismissible(&self, reporter: &dyn Reporter) {
        loop {
            let report = {
                let mut state = self.state.lock();
                let dismissible = state.closing.is_dismissible();
                if state.reporting || state.parting.is_some() || state.dismissible == dismissible {
                    return;
                }
                (state.dismissible, state.reporting) = (dismissible, true);
                if dismissible { Report::Dismissible(self.client) } else { Report::Resumed(self.client) }
            };
            reporter.report(&mut vec![report]);
            self.state.lock().reporting = false;
        }
    }

    /// A thread cannot continue: it panicked, or there is no memory.
    pub fn give_up(&self, cause: Option<io::Error>) {
        let mut state = self.state.lock();
        state.reason.give(CloseReason::Panicked, cause);
        self.reset_both(&mut state, CloseReason::Panicked);
    }

    /// A thread does not use the sockets any more. The last one closes them and receives the summary to report.
    pub fn leave(&self) -> Option<CloseSummary> {
        let mut state = self.state.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return None;
        }
        if let (Some(parting), Some(sockets)) = (state.parting, state.sockets.take()) {
            for (role, farewell) in [(PeerRole::Client, parting.client), (PeerRole::Backend, parting.backend)] {
                let (was_told, stopped) = (state.closing.has_ended(role.other()), state.stopped);
                part_from(sockets.of(role), farewell, || was_told && sockets.has_ended(role, stopped));
            }
        }
        let (why, cause) = state.reason.take();
        let (up, down) = (self.flow.up.load(Ordering::Relaxed), self.flow.down.load(Ordering::Relaxed));
        Some(CloseSummary { why, up, down, cause })
    }

    // Called with the lock held.

    /// What the side had sent is still passed on; the other one is not read any more.
    fn fail(&self, state: &mut State, role: PeerRole, cause: io::Error) {
        if state.parting.is_some() {
            return;
        }
        state.reason.failed(role, cause);
        let parting = state.closing.failed(role, Instant::now());
        self.attention.store(true, Ordering::Release);
        match parting {
            Some(_) => self.part(state, parting),
            // The other side is not read any more, but its reading half stays open: one that still sends would be reset
            // by the system otherwise, before it has had the rest.
            None => self.wake(state),
        }
    }

    fn reset_both(&self, state: &mut State, why: CloseReason) {
        if state.parting.is_none() {
            let parting = state.closing.reset(why);
            self.part(state, Some(parting));
        }
    }

    fn part(&self, state: &mut State, parting: Option<Parting>) {
        let Some(parting) = parting else { return };
        if let Some(why) = parting.why {
            state.reason.give(why, None);
        }
        state.parting = Some(parting);
        self.attention.store(true, Ordering::Release);
        self.wake_both(state);
    }

    /// Wakes both threads: one that reads finds the end of what has arrived, one that polls finds the waker.
    fn wake_both(&self, state: &mut State) {
        let in_order = state.closing.has_ended(PeerRole::Client) && state.closing.has_ended(PeerRole::Backend);
        if let Some(sockets) = &state.sockets
            && !in_order
            && state.stopped.is_none()
        {
            state.stopped = Some(sockets.stop_reading());
        }
        self.wake(state);
    }

    fn wake(&self, state: &mut State) {
        state.woken = true;
        self.waker.wake();
    }

    fn info(&self, state: &State) -> Facts {
        let (up, down) = (self.flow.up.load(Ordering::Relaxed), self.flow.down.load(Ordering::Relaxed));
        let stuck = self.up_is_stuck.load(Ordering::Relaxed);
        let mut facts = state.sockets.as_ref().map_or_else(Facts::default, |sockets| sockets.facts(up, down, stuck));
        // Bytes that the other thread has read and not passed on yet. Asked after the queue, which they have left.
        facts.waiting |= self.up_taken.load(Ordering::Acquire) > up;
        facts
    }
}
