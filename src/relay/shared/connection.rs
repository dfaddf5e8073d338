//! One assigned client on its relay thread, from the dial to the end: first the backend is waited for, then both are a
//! pair, which is closed when it has been idle for too long. Each method takes note of something that has happened and
//! says what follows; with its end comes the last report.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::worker::WorkerContext;
use crate::core::msg::{CloseReason, DialFailure, PeerRole};
use crate::net::Stream;
use crate::relay::dial::{Dial, DialProgress, Wakeup, blame, cancelled};
use crate::relay::direction::Progress;
use crate::relay::pair::Pair;
use crate::relay::report::{ByteCounters, CloseSummary, Report};

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
    pub fn start(&mut self, context: &mut WorkerContext<'_>) -> Progress<Report> {
        if let ConnectionState::Dialling { dial, .. } = &self.stage
            && let Some(stream) = dial.stream()
            && let Err(cause) = context.watch(stream, PeerRole::Backend)
        {
            return self.dial_failed(DialFailure::Local, cause, context);
        }
        self.dial(Wakeup::Clock, EventFlags::empty(), context)
    }

    /// Something has happened on a socket.
    pub fn stirred(&mut self, role: PeerRole, events: EventFlags, context: &mut WorkerContext<'_>) -> Progress<Report> {
        match &mut self.stage {
            ConnectionState::Dialling { .. } => {
                let over = events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
                if over { self.dial(Wakeup::Stirred, events, context) } else { Progress::Waits }
            }
            ConnectionState::Paired(pair) => {
                pair.note(role, events);
                if self.yielding { Progress::Waits } else { self.advance(context) }
            }
            ConnectionState::Over => Progress::Waits,
        }
    }

    /// Another turn.
    pub fn resume(&mut self, context: &mut WorkerContext<'_>) -> Progress<Report> {
        self.yielding = false;
        self.advance(context)
    }

    /// Whether a deadline set for then still matters.
    pub fn waits_for(&self, at: Instant) -> bool {
        self.due == Some(at)
    }

    /// A deadline has come up, perhaps one that does not matter any more.
    pub fn deadline(&mut self, now: Instant, context: &mut WorkerContext<'_>) -> Progress<Report> {
        if self.due.is_none_or(|due| now < due) {
            return Progress::Waits;
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
            ConnectionState::Over => Progress::Waits,
        }
    }

    /// When it will have been idle for too long if no byte is relayed until then.
    fn idle_at(&self, context: &WorkerContext<'_>) -> Option<Instant> {
        Some(self.stirred? + context.resources.idle_timeout?)
    }

    /// Arms for whatever is next, if that comes before what it is armed for. Bytes that pass meanwhile arm nothing:
    /// when the time has come it is looked at how long ago the last one was.
    fn rearm(&mut self, context: &mut WorkerContext<'_>) -> Progress<Report> {
        let look = match &self.stage {
            ConnectionState::Paired(pair) => pair.next_look(),
            ConnectionState::Dialling { .. } | ConnectionState::Over => None,
        };
        let next = look.into_iter().chain(self.idle_at(context)).min();
        if let Some(at) = next.filter(|at| self.due.is_none_or(|due| *at < due)) {
            self.wake_at(at, context);
        }
        Progress::Waits
    }

    /// Ends a dial; a connected client goes on.
    pub fn cancel_dial(&mut self, context: &WorkerContext<'_>) -> Progress<Report> {
        let (failure, cause) = cancelled();
        self.dial_failed(failure, cause, context)
    }

    /// Ends it, if only its end is still to come.
    pub fn close_gracefully(&mut self, context: &mut WorkerContext<'_>) -> Progress<Report> {
        match &mut self.stage {
            ConnectionState::Paired(pair) => {
                pair.close_gracefully();
                self.advance(context)
            }
            ConnectionState::Dialling { .. } | ConnectionState::Over => Progress::Waits,
        }
    }

    /// Ends it at once: both sides of a pair see it fail, a client that has no backend yet is closed.
    pub fn reset(&mut self, context: &mut WorkerContext<'_>) -> Progress<Report> {
        match &mut self.stage {
            ConnectionState::Paired(pair) => {
                pair.reset();
                self.advance(context)
            }
            ConnectionState::Dialling { .. } | ConnectionState::Over => {
                let summary = CloseSummary::of_none(CloseReason::Terminated);
                Progress::Ended(Report::Closed(context.client, summary))
            }
        }
    }

    /// The end of a dial: the client's socket, of which nothing has been read, is given back.
    fn dial_failed(&mut self, failure: DialFailure, cause: io::Error, context: &WorkerContext<'_>) -> Progress<Report> {
        match mem::replace(&mut self.stage, ConnectionState::Over) {
            ConnectionState::Dialling { client: stream, .. } => {
                Progress::Ended(Report::DialFailed { client: context.client, stream, failure, cause })
            }
            other @ (ConnectionState::Paired(_) | ConnectionState::Over) => {
                self.stage = other;
                Progress::Waits
            }
        }
    }

    fn dial(&mut self, wakeup: Wakeup, events: EventFlags, context: &mut WorkerContext<'_>) -> Progress<Report> {
        let ConnectionState::Dialling { dial, client, .. } = &mut self.stage else { return Progress::Waits };
        match dial.step(wakeup, Instant::now()) {
            DialProgress::Waits(until) => {
                self.wake_at(until, context);
                Progress::Waits
            }
            DialProgress::WaitsAnew(until) => {
                if let Some(stream) = dial.stream()
                    && let Err(cause) = context.watch(stream, PeerRole::Backend)
                {
                    return self.dial_failed(DialFailure::Local, cause, context);
                }
                self.wake_at(until, context);
                Progress::Waits
            }
            DialProgress::Connected(backend, address) => {
                if let Err(cause) = context.watch(client, PeerRole::Client) {
                    return self.dial_failed(DialFailure::Local, cause, context);
                }
                self.due = None;
                if let ConnectionState::Dialling { client, flow, .. } =
                    mem::replace(&mut self.stage, ConnectionState::Over)
                {
                    let mut pair = Box::new(Pair::new(client, backend, flow));
                    pair.note(PeerRole::Backend, events);
                    self.stage = ConnectionState::Paired(pair);
                }
                self.stirred = context.resources.idle_timeout.map(|_| Instant::now());
                self.rearm(context);
                // Its first turn comes with the first event of the client's socket: it has room to write, so being
                // watched is an event at once.
                context.report(Report::Connected(context.client, address));
                Progress::Waits
            }
            DialProgress::Failed(cause) => self.dial_failed(blame(&cause), cause, context),
        }
    }

    fn advance(&mut self, context: &mut WorkerContext<'_>) -> Progress<Report> {
        let pair = match &mut self.stage {
            ConnectionState::Paired(pair) => pair,
            ConnectionState::Dialling { .. } | ConnectionState::Over => return Progress::Waits,
        };
        let before = pair.moved();
        let advance = pair.advance(context.resources);
        if self.stirred.is_some() && pair.moved() != before {
            self.stirred = Some(Instant::now());
        }
        let yields = match advance {
            Progress::Ended(summary) => return Progress::Ended(Report::Closed(context.client, summary)),
            Progress::Yields => true,
            Progress::Waits => false,
        };
        let dismissible = pair.is_dismissible();
        if mem::replace(&mut self.dismissible, dismissible) != dismissible {
            let client = context.client;
            context.report(if dismissible { Report::Dismissible(client) } else { Report::Resumed(client) });
        }
        self.rearm(context);
        if yields && !mem::replace(&mut self.yielding, true) { Progress::Yields } else { Progress::Waits }
    }

    fn wake_at(&mut self, at: Instant, context: &mut WorkerContext<'_>) {
        if self.due != Some(at) {
            self.due = Some(at);
            context.wake_at(at);
        }
    }
}
