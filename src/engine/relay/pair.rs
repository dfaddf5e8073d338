//! A client and its backend, connected: two directions.
//!
//! Half-close is passed on as half-close: that direction ends and the other runs on. How a pair ends otherwise is decided
//! in `closing`; here its decisions are carried out. A pair that is dropped before its end is broken off, so that neither
//! side takes a truncated stream for a complete one (promise 1). Knows nothing of events, other clients or the core: its
//! owner gives it turns and reports.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::closing::{Closing, Facts, Farewell, Parting, Which};
use super::side::Side;
use super::way::{Failed, Pause, Tools, Way};
use crate::core::msg::Why;
use crate::engine::inbox::{Ending, Flow};
use crate::net::Stream;
use crate::observe::dump::Sender;

/// Both connections of a granted client.
#[derive(Debug)]
pub struct Pair {
    client: Side,
    backend: Side,
    /// From the client to the backend.
    up: Way,
    down: Way,
    /// Where others read how much has been passed on.
    flow: Arc<Flow>,
    closing: Closing,
    /// The first failure wins over everything, the first end in order over later ones.
    why: Option<(Why, Option<io::Error>)>,
    /// Each side has seen its end.
    over: bool,
}

/// What is to be done about a pair after its turn.
#[derive(Debug)]
pub enum Turn {
    /// Wait for an event.
    Waits,
    /// Give it another turn when others have had theirs.
    Yields,
    /// Close both sockets and report.
    Over(Ending),
}

impl Pair {
    pub fn new(client: Stream, backend: Stream, flow: Arc<Flow>) -> Pair {
        Pair {
            client: Side::new(client),
            backend: Side::new(backend),
            up: Way::from(Sender::Client),
            down: Way::from(Sender::Backend),
            flow,
            closing: Closing::new(),
            why: None,
            over: false,
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, which: Which, events: EventFlags) {
        match which {
            Which::Client => self.client.note(events),
            Which::Backend => self.backend.note(events),
        }
    }

    /// Moves what can be moved, in both directions, and looks at how it ends when that is due.
    pub fn turn(&mut self, tools: &mut Tools) -> Turn {
        let sent = self.up.moved;
        let (mut up, mut down) = (Pause::Waits, Pause::Waits);
        if self.closing.moves(Which::Client) {
            let outcome = self.up.advance(&mut self.client, &mut self.backend, tools);
            up = self.after(outcome, Which::Client, sent);
        }
        if self.closing.moves(Which::Backend) {
            let outcome = self.down.advance(&mut self.backend, &mut self.client, tools);
            down = self.after(outcome, Which::Backend, sent);
        }
        // A write has told that the client has failed: no event will tell that what it had sent is to be read.
        if self.closing.has_failed(Which::Client) && self.closing.moves(Which::Client) {
            let outcome = self.up.advance(&mut self.client, &mut self.backend, tools);
            up = self.after(outcome, Which::Client, sent);
        }
        self.notice_failures();
        self.closing.sent(self.up.moved);
        self.look();
        self.flow.up.store(self.up.moved, Ordering::Relaxed);
        self.flow.down.store(self.down.moved, Ordering::Relaxed);
        if self.over {
            return Turn::Over(self.end(tools));
        }
        if up == Pause::Yields || down == Pause::Yields { Turn::Yields } else { Turn::Waits }
    }

    /// What follows from a turn of the direction that reads from this side. `sent`: bytes of the client that were passed on
    /// before the turn.
    fn after(&mut self, outcome: Result<Pause, Failed>, from: Which, sent: u64) -> Pause {
        match outcome {
            Ok(Pause::Ended) => self.pass_on_end(from, sent),
            Ok(Pause::Waits) => {
                // It may still be there (a Unix socket that takes nothing more), but what it had sent has been read.
                if self.closing.has_failed(from) && !self.way(from).is_stuck() {
                    self.closing.written(Instant::now());
                }
                return Pause::Waits;
            }
            Ok(Pause::Yields) => return Pause::Yields,
            Err(Failed::Reading(e)) => {
                self.fail(from, e);
                self.closing.written(Instant::now());
            }
            Err(Failed::Writing(e)) => self.fail(from.other(), e),
        }
        Pause::Ended
    }

    fn pass_on_end(&mut self, from: Which, sent: u64) {
        let why = match from {
            Which::Client => Why::ClientEnded,
            Which::Backend => Why::BackendEnded,
        };
        // The first end gives the reason.
        self.why.get_or_insert((why, None));
        let told = self.side(from.other()).stream.end_writing();
        let parting = self.closing.ended(from, sent, Instant::now());
        let both_ended = parting.is_some();
        self.part(parting);
        // A side that had ended and gone is not harmed; one that reset the connection lost bytes.
        match told {
            Err(e) if both_ended => self.blame(from.other(), e),
            Err(e) => self.fail(from.other(), e),
            Ok(()) => {}
        }
    }

    /// A side has failed. What it had sent is still passed on.
    fn fail(&mut self, which: Which, cause: io::Error) {
        self.blame(which, cause);
        self.side_mut(which).drain();
        let parting = self.closing.failed(which, Instant::now());
        self.part(parting);
    }

    fn blame(&mut self, which: Which, cause: io::Error) {
        let why = match which {
            Which::Client => Why::ClientFailed,
            Which::Backend => Why::BackendFailed,
        };
        self.give_reason(why, Some(cause));
    }

    fn give_reason(&mut self, why: Why, cause: Option<io::Error>) {
        if self.why.as_ref().is_none_or(|(first, _)| gives_way(*first, why)) {
            self.why = Some((why, cause));
        }
    }

    /// A side that fails while nobody reads it is noticed here: its bytes wait for the other side, its stream has ended, or
    /// the other one has failed. Asked after the turn, because the event may be older than that: an end and a failure are
    /// often told at once.
    fn notice_failures(&mut self) {
        for which in [Which::Client, Which::Backend] {
            let unread = !self.closing.moves(which) || self.way(which).is_stuck();
            if unread
                && !self.over
                && !self.closing.has_failed(which)
                && let Some(cause) = self.side_mut(which).failure()
            {
                self.fail(which, cause);
            }
        }
    }

    /// Lets a look be taken that is due.
    fn look(&mut self) {
        let Some(at) = self.closing.next_look() else { return };
        let now = Instant::now();
        if at <= now {
            let facts = self.facts();
            let parting = self.closing.look(&facts, now);
            self.part(parting);
        }
    }

    /// Some system calls: for moments that are rare.
    fn facts(&self) -> Facts {
        let undelivered = |moved: u64, side: &Side| if moved == 0 { Some(0) } else { side.stream.undelivered() };
        Facts {
            up: self.up.moved,
            down: self.down.moved,
            waiting: self.up.is_stuck() || self.client.stream.has_unread_bytes(),
            to_client: undelivered(self.down.moved, &self.client),
            to_backend: undelivered(self.up.moved, &self.backend),
        }
    }

    /// Lets each side see its end. The next turn is the last.
    fn part(&mut self, parting: Option<Parting>) {
        let Some(Parting { client, backend, why }) = parting else { return };
        if let Some(why) = why {
            self.give_reason(why, None);
        }
        self.over = true;
        for (which, farewell) in [(Which::Client, client), (Which::Backend, backend)] {
            let stream = &self.side(which).stream;
            match farewell {
                Farewell::Close => {}
                // See `Stream::abort`. (Bytes of its own that nobody has read make the close a reset.)
                Farewell::Reset if self.closing.has_ended(which.other()) && stream.has_ended() => {}
                Farewell::Reset => stream.abort(),
            }
        }
    }

    /// Breaks the connection off.
    pub fn cut(&mut self) {
        if !self.over {
            let parting = self.closing.cut(Why::Cut);
            self.part(Some(parting));
        }
    }

    /// A switchover does not wait for this pair, if only its end is to come.
    pub fn dismiss(&mut self) {
        if self.closing.is_dismissible() {
            let parting = self.closing.dismiss(&self.facts());
            self.part(parting);
        }
    }

    /// No byte was passed on for the idle timeout. It may turn out that bytes are reaching a slow reader.
    pub fn expire(&mut self) {
        if !self.over {
            let parting = self.closing.idle(&self.facts());
            self.part(parting);
        }
    }

    /// Bytes passed on, both ways together.
    pub fn moved(&self) -> u64 {
        self.up.moved + self.down.moved
    }

    /// Whether a switchover need not wait for it.
    pub fn is_dismissible(&self) -> bool {
        self.closing.is_dismissible()
    }

    /// When it wants another turn although nothing has happened.
    pub fn next_look(&self) -> Option<Instant> {
        self.closing.next_look()
    }

    fn side(&self, which: Which) -> &Side {
        match which {
            Which::Client => &self.client,
            Which::Backend => &self.backend,
        }
    }

    fn side_mut(&mut self, which: Which) -> &mut Side {
        match which {
            Which::Client => &mut self.client,
            Which::Backend => &mut self.backend,
        }
    }

    /// The direction that reads from this side.
    fn way(&self, from: Which) -> &Way {
        match from {
            Which::Client => &self.up,
            Which::Backend => &self.down,
        }
    }

    fn end(&mut self, tools: &mut Tools) -> Ending {
        self.up.clear(tools);
        self.down.clear(tools);
        let (why, cause) = self.why.take().unwrap_or((Why::Panicked, None));
        Ending { why, up: self.up.moved, down: self.down.moved, cause }
    }
}

/// Whether an end in order, told so far, turns out to have been something else: a half-closed connection is not done
/// before the other half is. A backend that had ended is not at fault when it takes no more bytes.
fn gives_way(first: Why, later: Why) -> bool {
    match first {
        Why::ClientEnded => true,
        Why::BackendEnded => later != Why::BackendFailed,
        Why::Lingered | Why::Dismissed | Why::ClientFailed | Why::BackendFailed => false,
        Why::Idle | Why::Cut | Why::Panicked => false,
        // Never told of a pair.
        Why::HungUp | Why::NoBackend | Why::Full | Why::NoRoom | Why::Shutdown => false,
    }
}

/// Nobody was told how it ended, so nobody may take it for complete.
impl Drop for Pair {
    fn drop(&mut self) {
        if !self.over {
            let parting = self.closing.cut(Why::Panicked);
            self.part(Some(parting));
        }
    }
}
