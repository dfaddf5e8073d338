//! Deadlines of many, in the order of time. None is ever cancelled: its owner says whether it still waits for it, or
//! ignores one that comes up and does not matter any more.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// All deadlines that were set and have not come up.
#[derive(Debug)]
pub struct Deadlines<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

/// So many that nobody waits for cost nothing worth the search.
const FEW: usize = 1024;

impl<K: Ord + Copy> Deadlines<K> {
    pub fn set(&mut self, at: Instant, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The next one, whether or not anybody waits for it.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next one that somebody waits for: the others wake nobody, and their memory is bounded by `waiting`, not by
    /// how many were set within the longest time limit. `waiting`: how many wait, each for one deadline at most.
    pub fn next_awaited(&mut self, waiting: usize, waits: impl Fn(K, Instant) -> bool) -> Option<Instant> {
        if self.heap.len() > FEW + 2 * waiting {
            self.heap.retain(|Reverse((at, key))| waits(*key, *at));
            self.heap.shrink_to(FEW + 2 * waiting);
        }
        while let Some(Reverse((at, key))) = self.heap.peek() {
            if waits(*key, *at) {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes out one whose time has come.
    pub fn due(&mut self, now: Instant) -> Option<K> {
        match self.next() {
            Some(at) if at <= now => self.heap.pop().map(|Reverse((_, key))| key),
            Some(_) | None => None,
        }
    }

    /// When the deadline with this key is, if it has not come up. Searches all of them.
    pub fn of(&self, key: K) -> Option<Instant> {
        self.heap.iter().find(|Reverse((_, set))| *set == key).map(|Reverse((at, _))| *at)
    }
}

impl<K: Ord> Default for Deadlines<K> {
    fn default() -> Deadlines<K> {
        Deadlines { heap: BinaryHeap::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_deadline_nobody_waits_for_wakes_nobody() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        for id in 0..3 {
            deadlines.set(at(id), id);
        }
        assert_eq!(deadlines.of(2), Some(at(2)));
        assert_eq!(deadlines.next(), Some(now));
        assert_eq!(deadlines.next_awaited(3, |id, time| id == 1 && time == at(1)), Some(at(1)));
        assert_eq!(deadlines.due(now), None);
        assert_eq!(deadlines.due(at(1)), Some(1));
        assert_eq!(deadlines.of(1), None);
        assert_eq!(deadlines.next_awaited(3, |_, _| false), None);
        assert!(deadlines.is_empty());
    }

    #[test]
    fn deadlines_of_clients_long_gone_take_no_memory_behind_one_that_lasts() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        for id in 0..100_000 {
            deadlines.set(now + Duration::from_millis(id), id);
            assert_eq!(deadlines.next_awaited(1, |id, _| id == 0), Some(now));
            assert!(deadlines.heap.len() <= FEW + 3, "{} deadlines", deadlines.heap.len());
        }
    }
}
