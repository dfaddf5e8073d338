//! When which client of a relay thread wants to be looked at. An alarm is never cancelled: its client says whether it
//! still waits for it. One that nobody waits for wakes nobody, and the memory of such alarms is bounded by the clients
//! there are, not by how many there were within the longest time limit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::core::msg::ClientId;

/// All alarms that were set and have not come up.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, ClientId)>>,
}

/// So many that nobody waits for cost nothing worth the search.
const FEW: usize = 1024;

impl Deadlines {
    pub fn set(&mut self, at: Instant, client: ClientId) {
        self.heap.push(Reverse((at, client)));
    }

    /// The next one that somebody waits for. `clients`: how many there are, of which each waits for one at most.
    pub fn next(&mut self, clients: usize, waits: impl Fn(ClientId, Instant) -> bool) -> Option<Instant> {
        if self.heap.len() > FEW + 2 * clients {
            self.heap.retain(|Reverse((at, client))| waits(*client, *at));
            self.heap.shrink_to(FEW + 2 * clients);
        }
        while let Some(Reverse((at, client))) = self.heap.peek() {
            if waits(*client, *at) {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes out one whose time has come.
    pub fn due(&mut self, now: Instant) -> Option<ClientId> {
        match self.heap.peek() {
            Some(Reverse((at, _))) if *at <= now => self.heap.pop().map(|Reverse((_, client))| client),
            Some(_) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_alarm_nobody_waits_for_wakes_nobody() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        for id in 0..3 {
            deadlines.set(at(id), ClientId(id));
        }
        assert_eq!(deadlines.next(3, |client, time| client == ClientId(1) && time == at(1)), Some(at(1)));
        assert_eq!(deadlines.due(now), None);
        assert_eq!(deadlines.due(at(1)), Some(ClientId(1)));
        assert_eq!(deadlines.next(3, |_, _| false), None);
        assert!(deadlines.heap.is_empty());
    }

    #[test]
    fn alarms_of_clients_long_gone_take_no_memory_behind_one_that_lasts() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        let lasts = |client: ClientId, _| client == ClientId(0);
        for id in 0..100_000 {
            deadlines.set(now + Duration::from_millis(id), ClientId(id));
            assert_eq!(deadlines.next(1, lasts), Some(now));
            assert!(deadlines.heap.len() <= FEW + 3, "{} alarms", deadlines.heap.len());
        }
    }
}
