//! One assigned client on its shared relay thread, from the dial to the end: it waits for the backend, then relays, and
//! is closed when it has been idle for too long. Each method handles one event and returns what follows.

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

/// A client with its dial or its backend connection.
#[derive(Debug)]
pub struct Connection {
    stage: ConnectionState,
    /// When it must be checked even if nothing has happened.
    due: Option<Instant>,
    /// When a byte was last relayed. Kept only if there is an idle timeout.
    stirred: Option<Instant>,
    /// It has returned `Yields`, so another turn is scheduled.
    yielding: bool,
    /// The core knows that a switchover need not wait for it.
    dismissible: bool,
}

#[derive(Debug)]
enum ConnectionState {
    /// Nothing has been read from the client.
    Dialling {
        client: Stream,
        dial: Box<Dial>,
        flow: Arc<ByteCounters>,
    },
    Paired(Box<Pair>),
    /// Only during a change of state.
    Over,
}

/// What the thread does with the connection next.
#[derive(Debug)]
pub enum Outcome {
    Waits,
    /// Give it another turn after the others.
    Yields,
    /// Report that it is connected. It continues.
    Connected(Address),
    /// Return the client's socket.
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

    /// Starts to wait for the backend.
    pub fn start(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        if let ConnectionState::Dialling { dial, .. } = &self.stage
            && let Some(stream) = dial.stream()
            && let Err(cause) = context.watch(stream, Which::Backend)
        {
            return Outcome::DialFailed { failure: DialFailure::Local, cause };
        }
        self.dial(Wakeup::Clock, EventFlags::empty(), context)
    }

    /// Handles an event on a socket.
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

    /// Gives it another turn.
    pub fn resume(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        self.yielding = false;
        self.advance(context)
    }

    /// Whether a deadline at this time still matters.
    pub fn waits_for(&self, at: Instant) -> bool {
        self.due == Some(at)
    }

    /// Handles a deadline, which may not matter any more.
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
                    // If it was not closed, bytes are still reaching a slow reader.
                    self.stirred = Some(now);
                }
                if self.yielding { self.rearm(context) } else { self.advance(context) }
            }
            ConnectionState::Over => Outcome::Waits,
        }
    }

    /// When it will have been idle for too long if no byte is relayed until then.
    fn idle_at(&self, context: &WorkerContext<'_>) -> Option<Instant> {
        Some(self.stirred? + context.resources.idle_timeout?)
    }

    /// Sets a deadline for what is due next, if that is earlier than the current one. Relayed bytes set no deadline:
    /// when the deadline comes, the time of the last byte decides.
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

    /// Cancels a dial. A connected client continues.
    pub fn cancel_dial(&mut self) -> Outcome {
        match &self.stage {
            ConnectionState::Dialling { .. } => Outcome::DialFailed {
                failure: DialFailure::Cancelled,
                cause: io::Error::other("cancelled by a switchover"),
            },
            ConnectionState::Paired(_) | ConnectionState::Over => Outcome::Waits,
        }
    }

    /// Closes it, if only its end is still to come.
    pub fn close_gracefully(&mut self, context: &mut WorkerContext<'_>) -> Outcome {
        match &mut self.stage {
            ConnectionState::Paired(pair) => {
                pair.close_gracefully();
                self.advance(context)
            }
            ConnectionState::Dialling { .. } | ConnectionState::Over => Outcome::Waits,
        }
    }

    /// Ends it at once: both sides of a pair see a reset, and a client without a backend is closed.
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

    /// The client's socket, if nothing has been read from it.
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
                // Its first turn comes with the first event on the client's socket. That event comes at once, because
                // the socket has room to write.
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
