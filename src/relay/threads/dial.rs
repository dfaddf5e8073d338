//! The dial of a client with threads of its own: its thread waits in poll(2), until the dial ends or is cancelled.

use std::io;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use crate::core::msg::DialFailure;
use crate::endpoint::Address;
use crate::net::{Stream, Waker, wait_until};
use crate::relay::dial::{Dial, DialProgress, Wakeup, blame, cancelled};

/// What the dispatcher wants of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Cancel,
    Reset,
}

/// How a dial ended.
pub enum Dialled {
    Connected(Stream, Address),
    Failed {
        failure: DialFailure,
        cause: io::Error,
    },
    /// Close the client.
    Reset,
}

/// Waits for the dial. The waker is readable when there is a wish.
pub fn wait(mut dial: Dial, waker: &Waker, wish: impl Fn() -> Option<Wish>) -> Dialled {
    let mut wakeup = Wakeup::Clock;
    loop {
        let until = match dial.step(wakeup, Instant::now()) {
            DialProgress::Waits(until) | DialProgress::WaitsAnew(until) => until,
            DialProgress::Connected(backend, address) => return Dialled::Connected(backend, address),
            DialProgress::Failed(cause) => return Dialled::Failed { failure: blame(&cause), cause },
        };
        let mut fds = vec![PollFd::new(waker, PollFlags::IN)];
        fds.extend(dial.stream().map(|stream| PollFd::new(stream, PollFlags::OUT)));
        let happened = match wait_until(&mut fds, until) {
            Ok(happened) => happened,
            Err(cause) => return Dialled::Failed { failure: DialFailure::Local, cause },
        };
        if let Some(wish) = wish() {
            return wish.end_of_dial();
        }
        wakeup = if happened { Wakeup::Stirred } else { Wakeup::Clock };
    }
}

impl Wish {
    /// How the dial ends when this is wanted.
    pub fn end_of_dial(self) -> Dialled {
        match self {
            Wish::Cancel => {
                let (failure, cause) = cancelled();
                Dialled::Failed { failure, cause }
            }
            Wish::Reset => Dialled::Reset,
        }
    }
}
