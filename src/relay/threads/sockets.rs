//! The two sockets of a client with threads of its own.

use std::net::Shutdown;
use std::sync::Arc;

use crate::core::msg::PeerRole;
use crate::net::Stream;
use crate::relay::closing::Facts;

/// Both sockets. They are closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Sockets {
    pub client: Arc<Stream>,
    pub backend: Arc<Stream>,
}

/// Which sides had ended their streams when reading was stopped. A poll says so of both afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    client: bool,
    backend: bool,
}

impl Sockets {
    pub fn of(&self, role: PeerRole) -> &Arc<Stream> {
        match role {
            PeerRole::Client => &self.client,
            PeerRole::Backend => &self.backend,
        }
    }

    /// Wakes a thread that blocks in a read: it finds the end of what has arrived. The peers see nothing of it.
    pub fn stop_reading(&self) -> Stopped {
        let stopped = Stopped { client: self.client.has_ended(), backend: self.backend.has_ended() };
        self.client.shutdown(Shutdown::Read);
        self.backend.shutdown(Shutdown::Read);
        stopped
    }

    /// Whether this side has ended its stream.
    pub fn has_ended(&self, role: PeerRole, stopped: Option<Stopped>) -> bool {
        let stream = self.of(role);
        let before = match (stopped, role) {
            (None, _) => return stream.has_ended(),
            (Some(stopped), PeerRole::Client) => stopped.client,
            (Some(stopped), PeerRole::Backend) => stopped.backend,
        };
        before || stream.has_sent_its_end().unwrap_or(false)
    }

    /// What the system knows of both connections, for the closing rules. It takes some system calls: for rare moments.
    /// `up` and `down` are bytes passed on; `stuck`: bytes of the client were read and are not written yet.
    pub fn facts(&self, up: u64, down: u64, stuck: bool) -> Facts {
        let undelivered = |moved: u64, stream: &Stream| if moved == 0 { Some(0) } else { stream.undelivered() };
        Facts {
            up,
            down,
            waiting: stuck || self.client.has_unread_bytes(),
            to_client: undelivered(down, &self.client),
            to_backend: undelivered(up, &self.backend),
        }
    }
}
