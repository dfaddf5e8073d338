//! The order in which a group offers its backends to a client. Each policy orders all members. One function then
//! removes the disabled ones, those that have refused the client and those that the failover rule excludes.

use std::cmp::Reverse;

use super::{Criteria, Group, Pool, hash};
use crate::config::{Failover, Policy, Weights};
use crate::core::Mutation;
use crate::core::msg::BackendId;

impl Group {
    /// Whether this client gets a random backend instead of the policy's next one.
    pub(super) fn chooses_at_random(&self, criteria: &Criteria<'_>) -> bool {
        match self.failover {
            Failover::RandomOther => criteria.again,
            Failover::WithinGroup | Failover::NextGroup => false,
        }
    }

    /// All members in round-robin order, starting with the next one.
    fn by_turn(&self) -> Vec<BackendId> {
        let (before, after) = self.members.split_at(self.next.min(self.members.len()));
        [after, before].concat()
    }
}

impl Pool {
    /// The backends that this group offers to this client, best first, whether or not they are full or have failed.
    pub(super) fn in_order(&self, group: &Group, criteria: &Criteria<'_>) -> Vec<BackendId> {
        let mut order = match group.policy {
            Policy::RoundRobin | Policy::Least(_) => group.by_turn(),
            Policy::InOrder | Policy::ClientHash => group.members.clone(),
        };
        if group.chooses_at_random(criteria) {
            order.sort_by_key(|id| hash::mix(self.random ^ hash::mix(id.0 as u64)));
        } else {
            match group.policy {
                Policy::RoundRobin | Policy::InOrder => {}
                Policy::ClientHash => order.sort_by_key(|id| Reverse(hash::rank(criteria.hash, *id))),
                Policy::Least(weights) => self.least_first(&mut order, weights),
            }
        }
        if group.failover == Failover::NextGroup {
            if order.iter().any(|id| criteria.tried.contains(id)) {
                return Vec::new();
            }
            if group.policy == Policy::ClientHash {
                order.truncate(1);
            }
        }
        order.retain(|id| self.may_be_given(*id) && !criteria.tried.contains(id));
        order
    }

    fn may_be_given(&self, id: BackendId) -> bool {
        self.members[id.0].enabled || self.broken(Mutation::GiveTheDisabled)
    }

    /// Sorts by load, smallest first. Backends with equal load keep their order.
    fn least_first(&self, order: &mut [BackendId], weights: Weights) {
        let sum = order.iter().map(|id| self.members[id.0].load).fold(Default::default(), super::Load::plus);
        order.sort_by_key(|id| self.members[id.0].load.share_of(&sum, weights));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Setup, criteria, picks};
    use super::super::{Choice, Criteria};
    use super::*;
    use crate::core::msg::{ClientHash, Traffic, UpstreamId};

    const NONE: Option<u32> = None;

    #[test]
    fn in_order_gives_the_first_one_that_can_be_used() {
        let mut pool = Setup { policy: Policy::InOrder, ..Setup::plain() }.pool(&[&[Some(2), NONE]]);
        picks(&mut pool, &[], &[0, 0, 1, 1]);
    }

    #[test]
    fn a_hash_group_keeps_each_client_and_moves_only_those_of_the_one_that_is_gone() {
        let mut pool = Setup { policy: Policy::ClientHash, ..Setup::plain() }.pool(&[&[NONE, NONE, NONE, NONE]]);
        let of = |pool: &Pool, client: u64| {
            pool.choose(UpstreamId(0), &Criteria { hash: ClientHash(hash::mix(client)), tried: &[], again: false })
        };
        let before: Vec<Choice> = (0..400).map(|client| of(&pool, client)).collect();
        for id in pool.ids() {
            let its = before.iter().filter(|choice| **choice == Choice::Backend(id)).count();
            assert!((60..140).contains(&its), "{id:?} has {its} of 400");
        }
        pool.disable(BackendId(2));
        let mut new_homes = [0; 4];
        for (client, before) in before.iter().enumerate() {
            let now = of(&pool, client as u64);
            if *before == Choice::Backend(BackendId(2)) {
                let Choice::Backend(id) = now else { panic!("{now:?}") };
                new_homes[id.0] += 1;
            } else {
                assert_eq!(now, *before, "client {client} moved without need");
            }
        }
        assert!(new_homes[2] == 0 && [0, 1, 3].iter().all(|&at| new_homes[at] > 10), "{new_homes:?}");
    }

    #[test]
    fn without_failover_a_hash_group_has_one_backend_for_a_client() {
        let setup = Setup { policy: Policy::ClientHash, failover: Failover::NextGroup };
        let mut pool = setup.pool(&[&[NONE, NONE], &[NONE]]);
        let Choice::Backend(first) = pool.choose(UpstreamId(0), &criteria(&[])) else { panic!("nobody") };
        picks(&mut pool, &[first.0], &[2]);
        pool.disable(first);
        picks(&mut pool, &[], &[2]);
    }

    #[test]
    fn without_failover_a_refused_client_leaves_the_group() {
        let mut pool = Setup { failover: Failover::NextGroup, ..Setup::plain() }.pool(&[&[NONE, NONE], &[NONE]]);
        picks(&mut pool, &[1], &[2]);
    }

    #[test]
    fn a_random_other_does_not_take_anybodys_turn_and_reaches_all_others() {
        let mut pool = Setup { failover: Failover::RandomOther, ..Setup::plain() }.pool(&[&[NONE; 4]]);
        picks(&mut pool, &[], &[0, 1]);
        let mut reached = [0; 4];
        for _ in 0..90 {
            let criteria = criteria(&[BackendId(1)]);
            let Choice::Backend(id) = pool.choose(UpstreamId(0), &criteria) else { panic!("nobody") };
            pool.take(id, &criteria);
            reached[id.0] += 1;
        }
        assert!(reached[1] == 0 && [0, 2, 3].iter().all(|&at| reached[at] > 10), "{reached:?}");
        picks(&mut pool, &[], &[2, 3]);
    }

    const CONNECTIONS: Weights = Weights { connections: 1, bytes: 0, time: 0 };
    const BYTES: Weights = Weights { connections: 0, bytes: 1, time: 0 };

    fn least(weights: Weights) -> Pool {
        Setup { policy: Policy::Least(weights), ..Setup::plain() }.pool(&[&[NONE, NONE, NONE]])
    }

    #[test]
    fn fewest_connections_counts_each_dial() {
        let mut pool = least(CONNECTIONS);
        picks(&mut pool, &[], &[0, 1, 2, 0]);
        picks(&mut pool, &[1], &[2, 0]);
        picks(&mut pool, &[], &[1]);
    }

    #[test]
    fn fewest_bytes_goes_by_both_directions_and_those_alike_take_turns() {
        let mut pool = least(BYTES);
        picks(&mut pool, &[], &[0, 1]);
        pool.flowed(BackendId(0), Traffic { up: 5, ..Traffic::default() });
        pool.flowed(BackendId(2), Traffic { down: 4, ..Traffic::default() });
        picks(&mut pool, &[], &[1, 1]);
        pool.flowed(BackendId(1), Traffic { down: 9, ..Traffic::default() });
        picks(&mut pool, &[], &[2]);
    }

    #[test]
    fn a_mix_weighs_shares_so_that_no_unit_outweighs_another() {
        let mut pool = least(Weights { connections: 1, bytes: 1, time: 1 });
        for id in pool.ids() {
            pool.flowed(id, Traffic { up: 1_000_000, ..Traffic::default() });
        }
        picks(&mut pool, &[], &[0, 1, 2]);
        pool.flowed(BackendId(1), Traffic { up: 1_000, ..Traffic::default() });
        picks(&mut pool, &[], &[0, 2, 1]);
    }

    #[test]
    fn one_that_returns_does_not_have_to_catch_up() {
        let mut pool = least(CONNECTIONS);
        assert!(pool.fail(BackendId(1)));
        picks(&mut pool, &[], &[0, 2, 0, 2, 0]);
        assert!(pool.recover(BackendId(1)));
        picks(&mut pool, &[], &[1, 2, 0, 1]);
    }
}
