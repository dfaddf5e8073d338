//! How the end of a connection is reported: one of several reasons to the log, and the last event to each side.

use std::io;

use super::closing::Farewell;
use crate::core::msg::{CloseReason, PeerRole};
use crate::net::Stream;

/// The reason so far. The first failure takes precedence over all else, the first end of stream over later ones.
#[derive(Debug, Default)]
pub struct Reason(Option<(CloseReason, Option<io::Error>)>);

impl Reason {
    /// A side has ended its stream in order. The first end counts.
    pub fn ended(&mut self, role: PeerRole) {
        let why = match role {
            PeerRole::Client => CloseReason::ClientEnded,
            PeerRole::Backend => CloseReason::BackendEnded,
        };
        self.0.get_or_insert((why, None));
    }

    /// A side has failed.
    pub fn failed(&mut self, role: PeerRole, cause: io::Error) {
        let why = match role {
            PeerRole::Client => CloseReason::ClientFailed,
            PeerRole::Backend => CloseReason::BackendFailed,
        };
        self.give(why, Some(cause));
    }

    /// Records any other reason.
    pub fn give(&mut self, why: CloseReason, cause: Option<io::Error>) {
        if self.0.as_ref().is_none_or(|(first, _)| gives_way(*first, why)) {
            self.0 = Some((why, cause));
        }
    }

    /// Returns the reason and its error.
    pub fn take(&mut self) -> (CloseReason, Option<io::Error>) {
        self.0.take().unwrap_or((CloseReason::Panicked, None))
    }
}

/// Whether a later reason replaces an end of stream: a half-closed connection is not over before the other half is. But
/// a backend that had ended is not at fault if it accepts no more bytes.
fn gives_way(first: CloseReason, later: CloseReason) -> bool {
    match first {
        CloseReason::ClientEnded => true,
        CloseReason::BackendEnded => later != CloseReason::BackendFailed,
        CloseReason::Lingered
        | CloseReason::ClosedForSwitch
        | CloseReason::ClientFailed
        | CloseReason::BackendFailed => false,
        CloseReason::Idle | CloseReason::Terminated | CloseReason::Panicked => false,
        // Never the reason of a pair.
        CloseReason::HungUp
        | CloseReason::NoBackend
        | CloseReason::Full
        | CloseReason::NoRoom
        | CloseReason::Shutdown => false,
    }
}

/// Closes or resets one side. `both_ended`: the side has ended its stream and was sent the end of the other one.
pub fn part_from(stream: &Stream, farewell: Farewell, both_ended: impl FnOnce() -> bool) {
    match farewell {
        Farewell::Close => {}
        // See `Stream::abort`. (If it has sent bytes that were not read, the close is a reset.)
        Farewell::Reset if both_ended() => {}
        Farewell::Reset => stream.abort(),
    }
}
