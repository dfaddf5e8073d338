//! How many clients there may be. Counted where they are accepted: a listener is faster than the coordinator, and each
//! client that waits between the two holds a descriptor that one accepted before it will need for its backend. So the
//! newest is refused, and nobody else (promise 5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Places for clients. Cheap to clone; all clones are the same places.
#[derive(Clone, Debug)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `0 <= taken <= limit`.
    taken: AtomicUsize,
    limit: usize,
}

impl Room {
    pub fn new(limit: usize) -> Room {
        Room(Arc::new(Inner { taken: AtomicUsize::new(0), limit }))
    }

    /// Takes a place for a client, if there is one.
    pub fn enter(&self) -> bool {
        let next = |taken| (taken < self.0.limit).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// A client's sockets are closed.
    pub fn leave(&self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
