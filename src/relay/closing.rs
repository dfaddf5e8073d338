//! How a pair ends: which side has ended or failed, which bytes are still to be delivered, and what each side sees last
//! (promise 1).
//!
//! The rules are the same for both kinds of relay threads:
//! - Both streams have ended: both sockets are closed. The system delivers the bytes in flight.
//! - One side fails: the bytes it had sent are delivered first, then the other side sees a reset. A reset discards what
//!   waits in the socket's own send queue, so it is sent when that queue is empty, or has not moved for [`PATIENCE`].
//! - The backend has ended: a client that sends nothing afterwards is closed when it has received every byte and has
//!   then been silent for [`LINGER`], or at once when a switchover asks for it. Its backend sees a reset, because the
//!   client has not ended its stream. A client that sends something afterwards stays open for as long as it likes.
//! - The proxy ends the pair (idle timeout, reset): each side sees a reset, unless both streams of its connection have
//!   ended.
//!
//! Pure: no socket, no clock, no thread. The owner reports events and facts ([`Facts`], gathered only when a check is
//! due), and carries out the [`Parting`].

use std::time::{Duration, Instant};

use crate::core::msg::{CloseReason, PeerRole};

/// The state of a pair's sockets when it is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of the client written to the backend's socket so far.
    pub up: u64,
    /// Bytes of the backend written to the client's socket so far.
    pub down: u64,
    /// Bytes of the client are still to be written: they were read and kept, or have arrived and are not read yet.
    pub waiting: bool,
    /// Bytes written to the client's socket that the client's system has not acknowledged; `None` if unknown.
    pub to_client: Option<u32>,
    /// The same for the backend's socket.
    pub to_backend: Option<u32>,
}

/// What a side sees last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Only the end that was sent to it before: the socket is closed, and the system delivers the bytes in flight.
    Close,
    /// A failed connection. (If the system has seen both streams of this socket end, the owner closes it instead: a
    /// reset could then silently discard bytes in flight.)
    Reset,
}

/// How a pair ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting {
    pub client: Farewell,
    pub backend: Farewell,
    /// The reason, if the proxy decided to end the pair. Otherwise the first end or failure is the reason.
    pub why: Option<CloseReason>,
}

/// The state of one pair's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    stage: Stage,
    client_ended: bool,
    backend_ended: bool,
    /// The unacknowledged bytes of both sides when the pair last seemed to be idle.
    idle_queues: [Option<u32>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No side has failed, and the backend has not ended.
    Open,
    /// The backend has ended, and the client has sent nothing since.
    Lingering {
        /// Bytes of the client that the backend had received by then.
        had: u64,
        /// Since when the client is known to have received every byte.
        silent_since: Option<Instant>,
        look: Look,
    },
    /// The backend has ended, and the client has sent something since.
    Speaking,
    /// `from` has failed. The bytes it had sent are still to be delivered to the other side.
    Delivering {
        from: PeerRole,
        /// All of that was written to the other's socket.
        written: bool,
        /// The state of the delivery when it last made progress.
        progress: (u64, Option<u32>),
        since: Instant,
        look: Look,
    },
    Over,
}

/// When the facts are checked next, and the pause before the check after that if nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    at: Instant,
    pause: Duration,
}

/// After its backend has ended, a client that sends nothing for this long is closed. Connection pools keep such dead
/// connections for hours, and each would keep a switchover from completing.
pub const LINGER: Duration = Duration::from_secs(5);
/// A side that accepts nothing for this long loses the rest of what a failed side had sent. Without the proxy that rest
/// would have been lost in the failed side's own send queue.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Most clients end within this time after their backends. Then no check is needed.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// An acknowledgement takes a round trip, or 40 ms if the peer's system delays it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Closing {
    /// The state of a pair that was just made.
    pub fn new() -> Closing {
        Closing { stage: Stage::Open, client_ended: false, backend_ended: false, idle_queues: [None; 2] }
    }

    /// Whether bytes of this side are still to be read and passed on.
    pub fn moves(&self, from: PeerRole) -> bool {
        match self.stage {
            Stage::Open | Stage::Lingering { .. } | Stage::Speaking => !self.has_ended(from),
            Stage::Delivering { from: failed, written, .. } => failed == from && !written,
            Stage::Over => false,
        }
    }

    /// Whether this side's stream has ended in order, and that was passed on.
    pub fn has_ended(&self, role: PeerRole) -> bool {
        match role {
            PeerRole::Client => self.client_ended,
            PeerRole::Backend => self.backend_ended,
        }
    }

    /// Whether this side has failed. An end that is read from it afterwards is none: the system tells of a failure once
    /// (a write may have heard of it), and of an end in order afterwards.
    pub fn has_failed(&self, role: PeerRole) -> bool {
        matches!(self.stage, Stage::Delivering { from, .. } if from == role)
    }

    /// Whether a switchover need not wait for this pair.
    pub fn is_dismissible(&self) -> bool {
        match self.stage {
            Stage::Open | Stage::Speaking | Stage::Over => false,
            Stage::Lingering { silent_since, .. } => silent_since.is_some(),
            Stage::Delivering { .. } => true,
        }
    }

    /// When [`Closing::look`] must be called, even if nothing happens until then.
    pub fn next_look(&self) -> Option<Instant> {
        match self.stage {
            Stage::Open | Stage::Speaking | Stage::Over => None,
            Stage::Lingering { look, .. } | Stage::Delivering { look, .. } => Some(look.at),
        }
    }

    // Events.

    /// A stream has ended in order, and its end was passed on. `had`: bytes of the client that the other side had had
    /// by then. Of what was passed on at the same time as the end, or is still in our send queue, that cannot be said.
    pub fn ended(&mut self, role: PeerRole, had: u64, now: Instant) -> Option<Parting> {
        match role {
            PeerRole::Client => self.client_ended = true,
            PeerRole::Backend => self.backend_ended = true,
        }
        if self.client_ended && self.backend_ended {
            return Some(self.part(Farewell::Close, Farewell::Close, None));
        }
        if role == PeerRole::Backend {
            let look = Look { at: now + FIRST_LOOK, pause: FIRST_LOOK };
            self.stage = Stage::Lingering { had, silent_since: None, look };
        }
        None
    }

    /// A side has failed: by a read, a write, or as an event has told.
    pub fn failed(&mut self, role: PeerRole, now: Instant) -> Option<Parting> {
        match self.stage {
            Stage::Open | Stage::Lingering { .. } | Stage::Speaking => {
                let written = self.has_ended(role);
                let look = Look { at: now, pause: FIRST_PAUSE };
                self.stage = Stage::Delivering { from: role, written, progress: (0, None), since: now, look };
                None
            }
            Stage::Delivering { from, .. } if from == role => None,
            // Both sides have failed.
            Stage::Delivering { .. } => Some(self.break_off(None)),
            Stage::Over => None,
        }
    }

    /// Every byte of a failed side was written to the other side's socket.
    pub fn written(&mut self, now: Instant) {
        if let Stage::Delivering { written, look, .. } = &mut self.stage
            && !std::mem::replace(written, true)
        {
            *look = Look { at: now, pause: FIRST_PAUSE };
        }
    }

    /// Bytes of the client were relayed. `up` is their total.
    pub fn sent(&mut self, up: u64) {
        if matches!(self.stage, Stage::Lingering { had, .. } if up > had) {
            self.stage = Stage::Speaking;
        }
    }

    /// A check is due. Returns what follows from the facts.
    pub fn look(&mut self, info: &Facts, now: Instant) -> Option<Parting> {
        self.hear(info);
        match &mut self.stage {
            Stage::Open | Stage::Speaking | Stage::Over => None,
            // The client is still receiving at its own pace.
            Stage::Lingering { look, .. } if info.to_client.is_some_and(|bytes| bytes > 0) => {
                look.again(now);
                None
            }
            Stage::Lingering { silent_since: silent_since @ None, look, .. } => {
                *silent_since = Some(now);
                look.at = now + LINGER;
                None
            }
            Stage::Lingering { silent_since: Some(since), look, .. } => {
                if now < *since + LINGER {
                    look.at = *since + LINGER;
                    return None;
                }
                Some(self.part(Farewell::Close, Farewell::Reset, Some(CloseReason::Lingered)))
            }
            Stage::Delivering { from, written, progress, since, look } => {
                let (moved, queue) = match from {
                    PeerRole::Client => (info.up, info.to_backend),
                    PeerRole::Backend => (info.down, info.to_client),
                };
                if *written && queue == Some(0) {
                    return Some(self.break_off(None));
                }
                if *progress != (moved, queue) {
                    (*progress, *since) = ((moved, queue), now);
                }
                if now >= *since + PATIENCE {
                    return Some(self.break_off(None));
                }
                look.again(now);
                None
            }
        }
    }

    /// A switchover asks to close this pair, which was reported dismissible.
    pub fn close_gracefully(&mut self, info: &Facts) -> Option<Parting> {
        self.hear(info);
        match self.stage {
            Stage::Open | Stage::Speaking | Stage::Over | Stage::Lingering { silent_since: None, .. } => None,
            Stage::Lingering { silent_since: Some(_), .. } => {
                Some(self.part(Farewell::Close, Farewell::Reset, Some(CloseReason::ClosedForSwitch)))
            }
            // Bytes are still to be delivered, so this side sees the connection fail in any case.
            Stage::Delivering { .. } => Some(self.break_off(None)),
        }
    }

    /// No byte was relayed for the idle timeout. Bytes that a slow reader takes from a send queue count as relayed too.
    pub fn idle(&mut self, info: &Facts) -> Option<Parting> {
        let queues = [info.to_client, info.to_backend];
        let before = std::mem::replace(&mut self.idle_queues, queues);
        let gets_on = |(now, before): (&Option<u32>, &Option<u32>)| now.is_some_and(|bytes| bytes > 0) && now != before;
        if queues.iter().zip(&before).any(gets_on) {
            return None;
        }
        Some(self.break_off(Some(CloseReason::Idle)))
    }

    /// The proxy ends the pair at once. Bytes in flight may be lost.
    pub fn reset(&mut self, why: CloseReason) -> Parting {
        self.break_off(Some(why))
    }

    /// Notices that the client has sent something since its backend ended, or that its bytes were in flight then.
    fn hear(&mut self, info: &Facts) {
        if let Stage::Lingering { had, .. } = self.stage
            && (info.up > had || info.waiting || info.to_backend.is_some_and(|bytes| bytes > 0))
        {
            self.stage = Stage::Speaking;
        }
    }

    /// Each side sees the connection fail, with one exception: a side that has ended its stream and was sent the end of
    /// the other one. It has sent everything, and receives the rest of what it was sent.
    fn break_off(&mut self, why: Option<CloseReason>) -> Parting {
        let farewell = if self.client_ended && self.backend_ended { Farewell::Close } else { Farewell::Reset };
        self.part(farewell, farewell, why)
    }

    fn part(&mut self, client: Farewell, backend: Farewell, why: Option<CloseReason>) -> Parting {
        self.stage = Stage::Over;
        Parting { client, backend, why }
    }
}

impl Look {
    /// Nothing has changed: schedules the next check, after a longer pause than this one.
    fn again(&mut self, now: Instant) {
        self.at = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUES: [Option<u32>; 3] = [None, Some(0), Some(9)];

    /// Everything that can happen to a pair next. Time passes in steps of one second.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Step {
        Ended(PeerRole),
        Failed(PeerRole),
        Written,
        Sent,
        Looked { waiting: bool, to_client: Option<u32>, to_backend: Option<u32> },
        Dismissed { waiting: bool, to_backend: Option<u32> },
        Idle { to_client: Option<u32> },
        Cut,
    }

    fn steps() -> Vec<Step> {
        let mut all = vec![Step::Written, Step::Sent, Step::Cut];
        for role in [PeerRole::Client, PeerRole::Backend] {
            all.extend([Step::Ended(role), Step::Failed(role)]);
        }
        for waiting in [false, true] {
            for to_backend in QUEUES {
                all.extend(QUEUES.map(|to_client| Step::Looked { waiting, to_client, to_backend }));
                all.push(Step::Dismissed { waiting, to_backend });
            }
        }
        all.extend(QUEUES.map(|to_client| Step::Idle { to_client }));
        all
    }

    /// What the test knows independently of `Closing`.
    #[derive(Clone, Copy, Default)]
    struct Notes {
        ended: [bool; 2],
        failed: [bool; 2],
        /// The client has sent since the backend's end, or its bytes were seen in flight.
        spoke: bool,
        written: bool,
        up: u64,
    }

    fn at(role: PeerRole) -> usize {
        match role {
            PeerRole::Client => 0,
            PeerRole::Backend => 1,
        }
    }

    /// Plays a step. `None` if the owner would not take it in this state.
    fn play(closing: &mut Closing, notes: &mut Notes, step: Step, now: Instant) -> Option<Option<Parting>> {
        let dismissible = closing.is_dismissible();
        let info = |waiting, to_client, to_backend| Facts { up: notes.up, down: 5, waiting, to_client, to_backend };
        let parting = match step {
            Step::Ended(role) => {
                if !closing.moves(role) || closing.has_failed(role) {
                    return None;
                }
                notes.ended[at(role)] = true;
                closing.ended(role, notes.up, now)
            }
            Step::Failed(role) => {
                notes.failed[at(role)] = true;
                closing.failed(role, now)
            }
            Step::Written => {
                notes.written = true;
                closing.written(now);
                None
            }
            Step::Sent => {
                if !closing.moves(PeerRole::Client) {
                    return None;
                }
                notes.up += 1;
                notes.spoke |= notes.ended[1];
                closing.sent(notes.up);
                None
            }
            Step::Looked { waiting, to_client, to_backend } => {
                closing.next_look()?;
                notes.spoke |= notes.ended[1] && (waiting || to_backend == Some(9));
                closing.look(&info(waiting, to_client, to_backend), now)
            }
            Step::Dismissed { waiting, to_backend } => {
                if !dismissible {
                    return None;
                }
                notes.spoke |= notes.ended[1] && (waiting || to_backend == Some(9));
                closing.close_gracefully(&info(waiting, Some(0), to_backend))
            }
            Step::Idle { to_client } => closing.idle(&info(false, to_client, Some(0))),
            Step::Cut => Some(closing.reset(CloseReason::Terminated)),
        };
        Some(parting)
    }

    /// Asserts promise 1 for this end, whatever path led to it.
    fn judge(notes: &Notes, step: Step, parting: Parting, path: &[Step]) {
        let both = notes.ended == [true; 2];
        for (farewell, other) in [(parting.client, PeerRole::Backend), (parting.backend, PeerRole::Client)] {
            let invented = farewell == Farewell::Close && !notes.ended[at(other)];
            assert!(!invented, "an end is invented: {path:?}");
            assert!(farewell == Farewell::Reset || !notes.failed[at(other)] || both, "a failure is hidden: {path:?}");
        }
        match parting.why {
            Some(CloseReason::Lingered | CloseReason::ClosedForSwitch) => {
                assert!(notes.ended[1] && !notes.spoke, "a client that has sent since is closed: {path:?}");
                assert_eq!((parting.client, parting.backend), (Farewell::Close, Farewell::Reset), "{path:?}");
            }
            None if !both && notes.failed != [true; 2] => match step {
                Step::Looked { to_client, to_backend, .. } => {
                    let queue = if notes.failed[0] { to_backend } else { to_client };
                    let own_end = notes.ended[usize::from(!notes.failed[0])];
                    let delivered = queue == Some(0) && (notes.written || own_end);
                    assert!(delivered || path.len() > 5, "the reset overtakes data: {path:?}");
                }
                Step::Dismissed { .. } => {}
                Step::Ended(_) | Step::Failed(_) | Step::Written | Step::Sent | Step::Idle { .. } | Step::Cut => {
                    panic!("an end without a reason: {path:?}")
                }
            },
            Some(_) | None => {}
        }
    }

    fn explore(closing: Closing, notes: Notes, now: Instant, path: &mut Vec<Step>, all: &[Step]) -> u32 {
        let mut partings = 0;
        for &step in all {
            let (mut next, mut notes) = (closing, notes);
            let Some(parting) = play(&mut next, &mut notes, step, now) else { continue };
            path.push(step);
            match parting {
                Some(parting) => {
                    partings += 1;
                    judge(&notes, step, parting, path);
                    assert_eq!(next.stage, Stage::Over);
                    assert!(!next.moves(PeerRole::Client) && !next.moves(PeerRole::Backend) && !next.is_dismissible());
                }
                None if path.len() < 5 => {
                    partings += explore(next, notes, now + Duration::from_secs(1), path, all);
                }
                None => {}
            }
            path.pop();
        }
        partings
    }

    #[test]
    fn in_every_order_no_end_is_invented_no_failure_hidden_and_no_reset_overtakes_data() {
        let partings = explore(Closing::new(), Notes::default(), Instant::now(), &mut Vec::new(), &steps());
        assert!(partings > 100_000, "{partings} ends are too few");
    }

    /// Checks whenever a check is due, with these facts, until the end. Returns how long that took.
    fn lasts(closing: &mut Closing, mut now: Instant, info: impl Fn(Duration) -> Facts) -> Option<(Duration, Parting)> {
        let start = now;
        for _ in 0..1_000 {
            now = now.max(closing.next_look()?);
            if let Some(parting) = closing.look(&info(now - start), now) {
                return Some((now - start, parting));
            }
        }
        None
    }

    const DELIVERED: Facts = Facts { up: 7, down: 5, waiting: false, to_client: Some(0), to_backend: Some(0) };

    fn after_the_backends_end(now: Instant) -> Closing {
        let mut closing = Closing::new();
        assert_eq!(closing.ended(PeerRole::Backend, 7, now), None);
        closing
    }

    #[test]
    fn a_silent_client_is_closed_after_five_seconds_and_its_backend_is_reset() {
        let now = Instant::now();
        let (time, parting) = lasts(&mut after_the_backends_end(now), now, |_| DELIVERED).unwrap();
        assert_eq!(time, FIRST_LOOK + LINGER);
        let expected = Parting { client: Farewell::Close, backend: Farewell::Reset, why: Some(CloseReason::Lingered) };
        assert_eq!(parting, expected);
        // The system does not tell: treated as if all were delivered. The reset makes that harmless.
        let unknown = |_| Facts { to_client: None, to_backend: None, ..DELIVERED };
        assert_eq!(lasts(&mut after_the_backends_end(now), now, unknown), Some((time, expected)));
    }

    #[test]
    fn the_five_seconds_begin_when_the_client_has_its_last_byte() {
        let now = Instant::now();
        let slow = Duration::from_secs(60);
        let downloads = |time| Facts { to_client: Some(if time < slow { 1 } else { 0 }), ..DELIVERED };
        let (time, _) = lasts(&mut after_the_backends_end(now), now, downloads).unwrap();
        assert!((slow + LINGER..=slow + LINGER + LONGEST_PAUSE).contains(&time), "{time:?}");
        let mut closing = after_the_backends_end(now);
        closing.look(&downloads(Duration::ZERO), now);
        assert!(!closing.is_dismissible(), "a switchover does not cut off a download");
        assert_eq!(closing.close_gracefully(&downloads(Duration::ZERO)), None);
    }

    #[test]
    fn a_client_that_has_sent_since_is_never_closed_for_its_silence() {
        let now = Instant::now();
        for info in [
            Facts { up: 8, ..DELIVERED },
            Facts { waiting: true, ..DELIVERED },
            Facts { to_backend: Some(1), ..DELIVERED },
        ] {
            let mut closing = after_the_backends_end(now);
            assert_eq!(lasts(&mut closing, now, |_| info), None, "{info:?}");
            assert!(closing.moves(PeerRole::Client) && closing.next_look().is_none());
            // Also when the core has been told already that it may be dismissed, and does so.
            let mut closing = after_the_backends_end(now);
            closing.look(&DELIVERED, now);
            assert!(closing.is_dismissible());
            assert_eq!(closing.close_gracefully(&info), None, "{info:?}");
            assert!(!closing.is_dismissible());
        }
    }

    #[test]
    fn what_a_failed_side_had_sent_is_waited_for_while_it_gets_on_and_five_seconds_more() {
        let now = Instant::now();
        for role in [PeerRole::Client, PeerRole::Backend] {
            let failed = |written| {
                let mut closing = Closing::new();
                assert_eq!(closing.failed(role, now), None);
                assert!(closing.is_dismissible() && closing.moves(role));
                if written {
                    closing.written(now);
                }
                closing
            };
            let rest = |bytes| Facts { to_client: bytes, to_backend: bytes, ..DELIVERED };
            let reset = Parting { client: Farewell::Reset, backend: Farewell::Reset, why: None };
            assert_eq!(lasts(&mut failed(true), now, |_| rest(Some(0))), Some((Duration::ZERO, reset)));
            for (written, bytes) in [(false, Some(0)), (true, Some(1)), (true, None)] {
                let (time, parting) = lasts(&mut failed(written), now, |_| rest(bytes)).unwrap();
                assert!((PATIENCE..=PATIENCE + LONGEST_PAUSE).contains(&time), "{time:?}");
                assert_eq!(parting, reset);
            }
            let slow = |time: Duration| rest(Some(60 - time.as_secs().min(60) as u32));
            assert_eq!(lasts(&mut failed(true), now, slow).map(|(time, _)| time.as_secs()), Some(60));
            assert_eq!(failed(true).close_gracefully(&rest(Some(1))), Some(reset), "a switchover does not wait for it");
        }
    }

    #[test]
    fn a_slow_reader_of_what_was_written_is_not_idle() {
        let mut closing = Closing::new();
        for bytes in [5, 4, 3] {
            assert_eq!(closing.idle(&Facts { to_client: Some(bytes), ..DELIVERED }), None);
        }
        let reset = Parting { client: Farewell::Reset, backend: Farewell::Reset, why: Some(CloseReason::Idle) };
        assert_eq!(closing.idle(&Facts { to_client: Some(3), ..DELIVERED }), Some(reset));
        assert_eq!(Closing::new().idle(&DELIVERED), Some(reset), "nothing is in flight: neither stream was complete");
    }
}
