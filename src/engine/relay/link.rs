//! One granted client on its relay thread, from the dial to the end: first the backend is waited for, then both are a
//! pair, which is closed when it has been idle for too long. Each method takes note of something that has happened and says what follows.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::carrier::Desk;
use super::closing::Which;
use super::pair::{Pair, Turn};
use crate::core::msg::{DialFailure, Why};
use crate::endpoint::Address;
use crate::engine::dial::{Attempt, Cue, Step, blame};
use crate::engine::inbox::{Ending, Flow};
use crate::net::Stream;

/// A client and what it has of a backend.
#[derive(Debug)]
pub struct Link {
    stage: Stage,
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
enum Stage {
    /// Nothing of the client has been read.
    Dialling {
        client: Stream,
        attempt: Box<Attempt>,
        flow: Arc<Flow>,
    },
    Paired(Box<Pair>),
    /// Only for the moment of a change.
    Over,
}

/// What follows for the link.
#[derive(Debug)]
pub enum Fate {
    Waits,
    /// It has more to do when others have had their turn.
    Yields,
    /// To be reported; it goes on.
    Connected(Address),
    /// The client's socket is to be given back.
    Refused {
        failure: DialFailure,
        cause: io::Error,
    },
    Over(Ending),
}

impl Link {
    pub fn new(client: Stream, attempt: Box<Attempt>, flow: Arc<Flow>) -> Link {
        Link {
            stage: Stage::Dialling { client, attempt, flow },
            due: None,
            stirred: None,
            yielding: false,
            dismissible: false,
        }
    }

    /// Begins to wait for the backend.
    pub fn start(&mut self, desk: &mut Desk<'_>) -> Fate {
        if let Stage::Dialling { attempt, .. } = &self.stage
            && let Some(stream) = attempt.stream()
            && let Err(cause) = desk.watch(stream, Which::Backend)
        {
            return Fate::Refused { failure: DialFailure::Local, cause };
        }
        self.dial(Cue::Clock, EventFlags::empty(), desk)
    }

    /// Something has happened on a socket.
    pub fn stirred(&mut self, which: Which, events: EventFlags, desk: &mut Desk<'_>) -> Fate {
        match &mut self.stage {
            Stage::Dialling { .. } => {
                let over = events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
                if over { self.dial(Cue::Stirred, events, desk) } else { Fate::Waits }
            }
            Stage::Paired(pair) => {
                pair.note(which, events);
                if self.yielding { Fate::Waits } else { self.turn(desk) }
            }
            Stage::Over => Fate::Waits,
        }
    }

    /// Another turn.
    pub fn resume(&mut self, desk: &mut Desk<'_>) -> Fate {
        self.yielding = false;
        self.turn(desk)
    }

    /// Whether an alarm set for then still matters.
    pub fn waits_for(&self, at: Instant) -> bool {
        self.due == Some(at)
    }

    /// An alarm has come up, perhaps one that does not matter any more.
    pub fn alarm(&mut self, now: Instant, desk: &mut Desk<'_>) -> Fate {
        if self.due.is_none_or(|due| now < due) {
            return Fate::Waits;
        }
        self.due = None;
        let idle_at = self.idle_at(desk);
        let over = idle_at.is_some_and(|at| at <= now);
        match &mut self.stage {
            Stage::Dialling { .. } => self.dial(Cue::Clock, EventFlags::empty(), desk),
            Stage::Paired(pair) => {
                if over {
                    pair.expire();
                    // If it lives on, something is reaching a slow reader.
                    self.stirred = Some(now);
                }
                if self.yielding { self.rearm(desk) } else { self.turn(desk) }
            }
            Stage::Over => Fate::Waits,
        }
    }

    /// When it will have been idle for too long, as far as is known now.
    fn idle_at(&self, desk: &Desk<'_>) -> Option<Instant> {
        Some(self.stirred? + desk.tools.idle_timeout?)
    }

    /// Arms for whatever is next, if that comes before what it is armed for. Bytes that pass meanwhile arm nothing: when the
    /// time has come it is looked at how long ago the last one was.
    fn rearm(&mut self, desk: &mut Desk<'_>) -> Fate {
        let look = match &self.stage {
            Stage::Paired(pair) => pair.next_look(),
            Stage::Dialling { .. } | Stage::Over => None,
        };
        let next = look.into_iter().chain(self.idle_at(desk)).min();
        if let Some(at) = next.filter(|at| self.due.is_none_or(|due| *at < due)) {
            self.wake_at(at, desk);
        }
        Fate::Waits
    }

    /// Ends a dial; a connected client goes on.
    pub fn call_off(&mut self) -> Fate {
        match &self.stage {
            Stage::Dialling { .. } => {
                Fate::Refused { failure: DialFailure::CalledOff, cause: io::Error::other("called off by a switchover") }
            }
            Stage::Paired(_) | Stage::Over => Fate::Waits,
        }
    }

    /// Ends it, if only its end is still to come.
    pub fn dismiss(&mut self, desk: &mut Desk<'_>) -> Fate {
        match &mut self.stage {
            Stage::Paired(pair) => {
                pair.dismiss();
                self.turn(desk)
            }
            Stage::Dialling { .. } | Stage::Over => Fate::Waits,
        }
    }

    /// Ends it at once: both sides of a pair see it fail, a client that has no backend yet is closed.
    pub fn cut(&mut self, desk: &mut Desk<'_>) -> Fate {
        match &mut self.stage {
            Stage::Paired(pair) => {
                pair.cut();
                self.turn(desk)
            }
            Stage::Dialling { .. } | Stage::Over => Fate::Over(Ending { why: Why::Cut, up: 0, down: 0, cause: None }),
        }
    }

    /// The client's socket, if nothing of it has been read.
    pub fn into_client(self) -> Option<Stream> {
        match self.stage {
            Stage::Dialling { client, .. } => Some(client),
            Stage::Paired(_) | Stage::Over => None,
        }
    }

    fn dial(&mut self, cue: Cue, events: EventFlags, desk: &mut Desk<'_>) -> Fate {
        let Stage::Dialling { attempt, client, .. } = &mut self.stage else { return Fate::Waits };
        match attempt.step(cue, Instant::now()) {
            Step::Waits(until) => {
                self.wake_at(until, desk);
                Fate::Waits
            }
            Step::WaitsAnew(until) => {
                if let Some(stream) = attempt.stream()
                    && let Err(cause) = desk.watch(stream, Which::Backend)
                {
                    return Fate::Refused { failure: DialFailure::Local, cause };
                }
                self.wake_at(until, desk);
                Fate::Waits
            }
            Step::Connected(backend, address) => {
                if let Err(cause) = desk.watch(client, Which::Client) {
                    return Fate::Refused { failure: DialFailure::Local, cause };
                }
                self.due = None;
                if let Stage::Dialling { client, flow, .. } = mem::replace(&mut self.stage, Stage::Over) {
                    let mut pair = Box::new(Pair::new(client, backend, flow));
                    pair.note(Which::Backend, events);
                    self.stage = Stage::Paired(pair);
                }
                self.stirred = desk.tools.idle_timeout.map(|_| Instant::now());
                self.rearm(desk);
                // Its first turn comes with the first event of the client's socket: it has room to write, so being watched
                // is an event at once.
                Fate::Connected(address)
            }
            Step::Failed(cause) => Fate::Refused { failure: blame(&cause), cause },
        }
    }

    fn turn(&mut self, desk: &mut Desk<'_>) -> Fate {
        let pair = match &mut self.stage {
            Stage::Paired(pair) => pair,
            Stage::Dialling { .. } | Stage::Over => return Fate::Waits,
        };
        let before = pair.moved();
        let turn = pair.turn(desk.tools);
        if self.stirred.is_some() && pair.moved() != before {
            self.stirred = Some(Instant::now());
        }
        if let Turn::Over(ending) = turn {
            return Fate::Over(ending);
        }
        let dismissible = pair.is_dismissible();
        if mem::replace(&mut self.dismissible, dismissible) != dismissible {
            desk.tell_dismissible(dismissible);
        }
        self.rearm(desk);
        match turn {
            Turn::Yields if !mem::replace(&mut self.yielding, true) => Fate::Yields,
            Turn::Yields | Turn::Waits | Turn::Over(_) => Fate::Waits,
        }
    }

    fn wake_at(&mut self, at: Instant, desk: &mut Desk<'_>) {
        if self.due != Some(at) {
            self.due = Some(at);
            desk.wake_at(at);
        }
    }
}
