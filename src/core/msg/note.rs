//! What was decided, in three groups: about one client, about one backend, about the service as a whole. Whoever listens
//! matches the group that concerns it, and need not know of the others.

use std::time::Duration;

use super::{BackendId, Change, ClientId, CloseReason, DialFailure, Outcome, RequestId, UpstreamId};

/// What was decided: the only source of log lines, counters and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    Client(ClientId, ClientNote),
    Backend(BackendId, BackendNote),
    Service(ServiceNote),
}

/// About one client, in the order of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientNote {
    /// It was accepted and is in the queue now.
    Arrived,
    /// It left the queue for this backend.
    Assigned(BackendId),
    Connected,
    /// The dial of this backend failed.
    DialFailed(BackendId, DialFailure),
    /// After a failed dial it is in the queue again, at its old place.
    Requeued,
    /// Every backend has refused it. It stays in the queue and will be offered to them again.
    Paused,
    /// It is gone for good.
    Ended(CloseReason),
}

/// About one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendNote {
    /// It has failed and is passed over where there is another.
    Failed,
    /// It had failed and is used like any other again.
    Back,
    /// It has failed and was disabled for that.
    Disabled,
}

/// About the service as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceNote {
    PoolChanged(Change),
    /// More clients are held than `max_queued`, outside a switchover. Once each time the limit is crossed.
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
    /// The program was told to stop and waits for this many clients.
    Stopping {
        assigned: usize,
        held: usize,
    },
    /// Ctrl-C was not enough.
    InterruptIgnored {
        assigned: usize,
        held: usize,
    },
}
