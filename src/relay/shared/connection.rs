//! One assigned client on its relay thread, from the dial to the end: first the backend is waited for, then both are a
//! pair, which is closed when it has been idle for too long. Each method takes note of something that has happened and
//! says what follows.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::worker::WorkerContext;
use crate::core::msg::{CloseReason, DialFailure};
use crate::endpoint::Address;
use crate::net::Stream;
use crate::relay::closing::Which;
use crate::relay::dial::{Dial, DialProgress, Wakeup, blame};
use crate::relay::pair::{Pair, PairProgress};
use crate::relay::report::{ByteCounters, CloseSummary};

/// A client and what it has of a backend.
#[derive(Debug)]
pub struct Connection {
    stage: ConnectionState,
    /// When it wants to be looked at although nothing has happened.
    due: Option<Instant>,
    /// When a byte passed last. Kept only where clients that are idle are closed.
    stirred: Option<Instant>,
    /// It has said `Yields`, so that another turn is on its way.
    yielding: bool,
    /// The core knows that a switchover need not wait for it.
    dismissible: bool,
}

#[derive(Debug)]
enum ConnectionState {
    /// Nothing of the client has been read.
    Dialling {
        client: Stream,
        dial: Box<Dial>,
        flow: Arc<ByteCounters>,
    },
    Paired(Box<Pair>),
    /// Only for the moment of a change.
    Over,
}

/// What follows for the link.
#[derive(Debug)]
pub enum Outcome {
    Waits,
    /// It has more to do when others have had their turn.
    Yields,
    /// To be reported; it goes on.
    Connected(Address),
    /// The client's socket is to be given back.
    DialFailed {
        failure: DialFailure,
        cause: io::Error,
    },
    Over(CloseSummary),
}

impl Connection {
    pub fn new(client: Stream, dial: Box<Dial>, flow: Arc<ByteCounters>) -> Connection {
        Connection {
            stage: ConnectionState::Dialling { client, dial, flow },
            due: None,
            stirred: None,
            yielding: false,
            dismissible: false,
        }
    }

    /// Begins to wait for the backend.
    pub fn start(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        if let ConnectionState::Dialling { dial, .. } = &self.stage
            && let Some(stream) = dial.stream()
            && let Err(cause) = context.watch(stream, Which::Backend)
        {
            return Outcome::DialFailed { failure: DialFailure::Local, cause };
        }
        self.dial(Wakeup::Clock, EventFlags::empty(), context)
    }

    /// Something has happened on a socket.
    pub fn stirred(&mut self, role: Which, events: EventFlags, context: &mut WorkerContext<'_>) -> Outcome {
        match &mut self.stage {
            ConnectionState::Dialling { .. } => {
                let over = events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
                if over { self.dial(Wakeup::Stirred, events, context) } else { Outcome::Waits }
            }
            ConnectionState::Paired(pair) => {
                pair.note(role, events);
                if self.yielding { Outcome::Waits } else { self.advance(context) }
            }
            ConnectionState::Over => Outcome::Waits,
        }
    }

    /// Another turn.
    pub fn resume(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        self.yielding = false;
        self.advance(context)
    }

    /// Whether an alarm set for then still matters.
    pub fn waits_for(&self, at: Instant) -> bool {
        self.due == Some(at)
    }

    /// An alarm has come up, perhaps one that does not matter any more.
    pub fn deadline(&mut self, now: Instant, context: &mut WorkerContext<'_>) -> Outcome {
        if self.due.is_none_or(|due| now < due) {
            return Outcome::Waits;
        }
        self.due = None;
        let idle_at = self.idle_at(context);
        let over = idle_at.is_some_and(|at| at <= now);
        match &mut self.stage {
            ConnectionState::Dialling { .. } => self.dial(Wakeup::Clock, EventFlags::empty(), context),
            ConnectionState::Paired(pair) => {
                if over {
                    pair.expire();
                    // If it lives on, something is reaching a slow reader.
                    self.stirred = Some(now);
                }
                if self.yielding { self.rearm(context) } else { self.advance(context) }
            }
            ConnectionState::Over => Outcome::Waits,
        }
    }

    /// When it will have been idle for too long, as far as is known now.
    fn idle_at(&self, context: &WorkerContext<'_>) -> Option<Instant> {
        Some(self.stirred? + context.resources.idle_timeout?)
    }

    /// Arms for whatever is next, if that comes before what it is armed for. Bytes that pass meanwhile arm nothing:
    /// when the time has come it is looked at how long ago the last one was.
    fn rearm(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        let look = match &self.stage {
            ConnectionState::Paired(pair) => pair.next_look(),
            ConnectionState::Dialling { .. } | ConnectionState::Over => None,
        };
        let next = look.into_iter().chain(self.idle_at(context)).min();
        if let Some(at) = next.filter(|at| self.due.is_none_or(|due| *at < due)) {
            self.wake_at(at, context);
        }
        Outcome::Waits
    }

    /// Ends a dial; a connected client goes on.
    pub fn cancel_dial(&mut self) -> Outcome {
        match &self.stage {
            ConnectionState::Dialling { .. } => Outcome::DialFailed {
                failure: DialFailure::Cancelled,
                cause: io::Error::other("cancelled by a switchover"),
            },
            ConnectionState::Paired(_) | ConnectionState::Over => Outcome::Waits,
        }
    }

    /// Ends it, if only its end is still to come.
    pub fn close_gracefully(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        match &mut self.stage {
            ConnectionState::Paired(pair) => {
                pair.close_gracefully();
                self.advance(context)
            }
            ConnectionState::Dialling { .. } | ConnectionState::Over => Outcome::Waits,
        }
    }

    /// Ends it at once: both sides of a pair see it fail, a client that has no backend yet is closed.
    pub fn reset(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        match &mut self.stage {
            ConnectionState::Paired(pair) => {
                pair.reset();
                self.advance(context)
            }
            ConnectionState::Dialling { .. } | ConnectionState::Over => {
                Outcome::Over(CloseSummary { why: CloseReason::Terminated, up: 0, down: 0, cause: None })
            }
        }
    }

    /// The client's socket, if nothing of it has been read.
    pub fn into_client(self) -> Option<Stream> {
        match self.stage {
            ConnectionState::Dialling { client, .. } => Some(client),
            ConnectionState::Paired(_) | ConnectionState::Over => None,
        }
    }

    fn dial(&mut self, wakeup: Wakeup, events: EventFlags, context: &mut WorkerContext<'_>) -> Outcome {
        let ConnectionState::Dialling { dial, client, .. } = &mut self.stage else { return Outcome::Waits };
        match dial.step(wakeup, Instant::now()) {
            DialProgress::Waits(until) => {
                self.wake_at(until, context);
                Outcome::Waits
            }
            DialProgress::WaitsAnew(until) => {
                if let Some(stream) = dial.stream()
                    && let Err(cause) = context.watch(stream, Which::Backend)
                {
                    return Outcome::DialFailed { failure: DialFailure::Local, cause };
                }
                self.wake_at(until, context);
                Outcome::Waits
            }
            DialProgress::Connected(backend, address) => {
                if let Err(cause) = context.watch(client, Which::Client) {
                    return Outcome::DialFailed { failure: DialFailure::Local, cause };
                }
                self.due = None;
                if let ConnectionState::Dialling { client, flow, .. } =
                    mem::replace(&mut self.stage, ConnectionState::Over)
                {
                    let mut pair = Box::new(Pair::new(client, backend, flow));
                    pair.note(Which::Backend, events);
                    self.stage = ConnectionState::Paired(pair);
                }
                self.stirred = context.resources.idle_timeout.map(|_| Instant::now());
                self.rearm(context);
                // Its first turn comes with the first event of the client's socket: it has room to write, so being
                // watched is an event at once.
                Outcome::Connected(address)
            }
            DialProgress::Failed(cause) => Outcome::DialFailed { failure: blame(&cause), cause },
        }
    }

    fn advance(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        let pair = match &mut self.stage {
            ConnectionState::Paired(pair) => pair,
            ConnectionState::Dialling { .. } | ConnectionState::Over => return Outcome::Waits,
        };
        let before = pair.moved();
        let advance = pair.advance(context.resources);
        if self.stirred.is_some() && pair.moved() != before {
            self.stirred = Some(Instant::now());
        }
        if let PairProgress::Over(ending) = advance {
            return Outcome::Over(ending);
        }
        let dismissible = pair.is_dismissible();
        if mem::replace(&mut self.dismissible, dismissible) != dismissible {
            context.tell_dismissible(dismissible);
        }
        self.rearm(context);
        match advance {
            PairProgress::Yields if !mem::replace(&mut self.yielding, true) => Outcome::Yields,
            PairProgress::Yields | PairProgress::Waits | PairProgress::Over(_) => Outcome::Waits,
        }
    }

    fn wake_at(&mut self, at: Instant, context: &mut WorkerContext<'_>) {
        if self.due != Some(at) {
            self.due = Some(at);
            context.wake_at(at);
        }
    }
}
