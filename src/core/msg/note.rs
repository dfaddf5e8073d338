//! What was decided, in three groups: about one client, about one backend, about the service as a whole. A listener
//! matches the group that concerns it and need not know the others.

use std::time::Duration;

use super::{BackendId, Change, ClientId, CloseReason, DialFailure, Outcome, RequestId, UpstreamId};

/// A decision. Notes are the only source of log lines, counters and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    Client(ClientId, ClientNote),
    Backend(BackendId, BackendNote),
    Service(ServiceNote),
}

/// About one client. The variants are in the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientNote {
    /// It was accepted and is now in the queue.
    Arrived,
    /// It left the queue for this backend.
    Assigned(BackendId),
    Connected,
    /// The dial to this backend failed.
    DialFailed(BackendId, DialFailure),
    /// After a failed dial it is back in the queue, at its old place.
    Requeued,
    /// Every backend has refused it. It stays in the queue and tries them again after a pause.
    Paused,
    /// Its connection has ended.
    Ended(CloseReason),
}

/// About one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendNote {
    /// It has failed. It is tried only after the others.
    Failed,
    /// It has recovered and is used like any other again.
    Back,
    /// It has failed, and its failure policy has disabled it.
    Disabled,
}

/// About the service as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceNote {
    PoolChanged(Change),
    /// More than `max_queued` clients are held, outside a switchover. Noted once each time the limit is crossed.
    QueueOverLimit {
        held: usize,
        limit: u32,
    },
    SwitchStarted {
        request: RequestId,
        from: UpstreamId,
        to: UpstreamId,
        timeout: Duration,
        max_queued: u32,
    },
    /// The last assigned client has left.
    Drained,
    SwitchEnded {
        from: UpstreamId,
        to: UpstreamId,
        outcome: Outcome,
    },
    SettingChanged,
    /// The program was told to stop and waits for these clients.
    Stopping {
        assigned: usize,
        held: usize,
    },
    /// A first Ctrl-C was ignored because clients are connected or held.
    InterruptIgnored {
        assigned: usize,
        held: usize,
    },
}
