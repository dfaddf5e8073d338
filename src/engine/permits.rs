//! Limits the number of clients of the process: one count for all services, from accepting a client until it has ended
//! (promise 5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The permits of the process. Cheap to clone; all clones share one count.
#[derive(Clone, Debug)]
pub struct Permits(Arc<PermitCount>);

#[derive(Debug)]
struct PermitCount {
    /// 0 <= `taken` <= `most`.
    taken: AtomicUsize,
    most: usize,
}

/// The permit of one client. Given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<PermitCount>);

impl Permits {
    pub fn new(most: usize) -> Permits {
        Permits(Arc::new(PermitCount { taken: AtomicUsize::new(0), most }))
    }

    /// Takes a permit, if one is left.
    pub fn take(&self) -> Option<Permit> {
        let more = |taken: usize| (taken < self.0.most).then_some(taken + 1);
        let taken = self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Permit(Arc::clone(&self.0)))
    }

    /// Number of permits in all.
    pub fn most(&self) -> usize {
        self.0.most
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_there_is_room_for_and_one_given_back_is_there_for_the_next() {
        let permits = Permits::new(2);
        let (first, second) = (permits.take(), permits.clone().take());
        assert!(first.is_some() && second.is_some() && permits.take().is_none());
        drop(first);
        assert!(permits.take().is_some());
    }
}
