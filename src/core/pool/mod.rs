//! Which backend a client gets. The chosen backend is enabled, below its limit, and has not refused this client in this
//! round. A failed backend is chosen only if no other one is available. The pool knows groups, limits and the number of
//! clients of each backend. It does not know clients' sockets, the queue, timers or switchovers.
//!
//! `policy` puts the backends of a group in order, `health` remembers failures, `totals` counts, `hash` turns an
//! address into a number.

pub mod hash;
mod health;
mod policy;
mod totals;

pub use self::health::{Awaited, Health};
use self::totals::{Counters, Load};
use super::Mutation;
use super::msg::{BackendId, BackendView, ClientHash, GroupId, Totals, Traffic, UpstreamId};
use crate::config::{Failover, FailurePolicy, Policy, Service};

/// All backends of a service, in their groups and upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    upstreams: Vec<Vec<Group>>,
    /// Indexed by `BackendId`. Backends are never removed.
    members: Vec<Member>,
    /// State of the random number generator.
    random: u64,
    #[cfg(feature = "mutation")]
    pub(super) mutation: Option<Mutation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    policy: Policy,
    failover: Failover,
    failure_policy: FailurePolicy,
    members: Vec<BackendId>,
    /// Where round robin starts its next search. `next < members.len()`, or 0.
    next: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    group: GroupId,
    enabled: bool,
    limit: Option<u32>,
    /// Clients dialling or open. Exceeds `limit` only when an operator has lowered the limit.
    assigned: u32,
    health: Health,
    awaited: Awaited,
    load: Load,
    tally: Counters,
}

/// The client's properties on which a choice depends.
#[derive(Clone, Copy, Debug)]
pub struct Criteria<'a> {
    pub hash: ClientHash,
    /// Backends that have refused this client in this round.
    pub tried: &'a [BackendId],
    /// This is not the client's first dial.
    pub again: bool,
}

/// The result of choosing a backend for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This backend can take the client now.
    Backend(BackendId),
    /// The backends that this client has not tried yet are at their limits.
    Full,
    /// This client has tried every backend.
    Exhausted,
}

impl Pool {
    pub fn new(service: &Service) -> Pool {
        let mut members = Vec::new();
        let mut groups_of = |(upstream, config): (usize, &crate::config::Upstream)| {
            let group = |(index, config): (usize, &crate::config::Group)| {
                let first = members.len();
                let group = GroupId { upstream: UpstreamId(upstream), index };
                members.extend(config.backends.iter().map(|one| Member::new(group, one.limit, one.enabled)));
                Group {
                    policy: config.policy,
                    failover: config.failover,
                    failure_policy: config.failure_policy,
                    members: (first..members.len()).map(BackendId).collect(),
                    next: 0,
                }
            };
            config.groups.iter().enumerate().map(group).collect()
        };
        let upstreams = service.upstreams.iter().enumerate().map(&mut groups_of).collect();
        Pool {
            upstreams,
            members,
            random: service.seed,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }

    /// Chooses a backend: from the first group that has one for this client. A failed backend is chosen only if no
    /// group has another. Changes nothing; see `take`.
    pub fn choose(&self, upstream: UpstreamId, criteria: &Criteria<'_>) -> Choice {
        let groups = self.upstreams.get(upstream.0).map_or(&[][..], Vec::as_slice);
        let offers: Vec<_> = groups.iter().map(|group| self.in_order(group, criteria)).collect();
        for health in [Health::Up, Health::Failed] {
            let fits = |id: &&BackendId| self.members[id.0].health == health && self.has_room(**id, criteria);
            if let Some(&id) = offers.iter().flatten().find(fits) {
                return Choice::Backend(id);
            }
        }
        if offers.iter().flatten().next().is_some() { Choice::Full } else { Choice::Exhausted }
    }

    /// Records that the client is about to be dialled to the backend that `choose` returned.
    pub fn take(&mut self, id: BackendId, criteria: &Criteria<'_>) {
        let member = &mut self.members[id.0];
        member.tally.0.attempts += 1;
        let group = &mut self.upstreams[member.group.upstream.0][member.group.index];
        if group.chooses_at_random(criteria) {
            self.random = hash::mix(self.random.wrapping_add(1));
        } else if let (Policy::RoundRobin | Policy::Least(_), Some(at)) =
            (group.policy, group.members.iter().position(|member| *member == id))
        {
            group.next = (at + 1) % group.members.len();
        }
        self.add_load(id, Load { connections: 1, ..Load::default() });
    }

    /// A client was assigned to this backend. Called by `State::move_to` only.
    pub fn assign(&mut self, id: BackendId) {
        self.members[id.0].assigned += 1;
    }

    /// A client left this backend. Called by `State::move_to` only.
    pub fn release(&mut self, id: BackendId) {
        self.members[id.0].assigned -= 1;
    }

    /// A dial to this backend succeeded.
    pub fn connected(&mut self, id: BackendId) {
        self.members[id.0].tally.0.connections += 1;
    }

    /// A dial to this backend, or a probe of it, failed.
    pub fn dial_failed(&mut self, id: BackendId) {
        self.members[id.0].tally.0.errors += 1;
    }

    /// Adds the new traffic of a connection to this backend.
    pub fn flowed(&mut self, id: BackendId, more: Traffic) {
        self.members[id.0].tally.add(more);
        self.add_load(id, Load::of(more));
    }

    // Changes by an operator. The caller has rejected unknown ids.

    /// Adds a backend at the end of a group, disabled and without a limit.
    pub fn create(&mut self, group: GroupId) -> BackendId {
        let id = BackendId(self.members.len());
        self.members.push(Member::new(group, None, false));
        self.upstreams[group.upstream.0][group.index].members.push(id);
        id
    }

    pub fn set_policy(&mut self, group: GroupId, policy: Policy, failover: Failover) {
        let group = &mut self.upstreams[group.upstream.0][group.index];
        (group.policy, group.failover) = (policy, failover);
    }

    pub fn set_limit(&mut self, id: BackendId, limit: Option<u32>) {
        self.members[id.0].limit = limit;
    }

    /// Resets the counters for people. The load that the policies compare is kept.
    pub fn reset(&mut self, id: BackendId) {
        self.members[id.0].tally = Counters::default();
    }

    // Queries.

    /// Number of upstreams to switch between.
    pub fn upstreams(&self) -> usize {
        self.upstreams.len()
    }

    pub fn has_group(&self, group: GroupId) -> bool {
        self.upstreams.get(group.upstream.0).is_some_and(|groups| group.index < groups.len())
    }

    pub fn has(&self, id: BackendId) -> bool {
        id.0 < self.members.len()
    }

    /// The upstream a backend belongs to.
    pub fn upstream_of(&self, id: BackendId) -> UpstreamId {
        self.members[id.0].group.upstream
    }

    /// Number of clients that have this backend, dialling or open.
    pub fn assigned_to(&self, id: BackendId) -> u32 {
        self.members[id.0].assigned
    }

    pub fn limit_of(&self, id: BackendId) -> Option<u32> {
        self.members[id.0].limit
    }

    /// Whether all clients that no backend has refused may get the same backends. If so, when one of them has to wait,
    /// all the others have to wait too.
    pub fn treats_all_alike(&self, upstream: UpstreamId) -> bool {
        let alike = |group: &Group| (group.policy, group.failover) != (Policy::ClientHash, Failover::NextGroup);
        self.upstreams.get(upstream.0).is_none_or(|groups| groups.iter().all(alike))
    }

    pub fn ids(&self) -> impl Iterator<Item = BackendId> + use<> {
        (0..self.members.len()).map(BackendId)
    }

    /// Every backend with its number of clients.
    pub fn assigned_counts(&self) -> impl Iterator<Item = (BackendId, u32)> {
        self.ids().map(|id| (id, self.members[id.0].assigned))
    }

    /// The state that an operator may see, upstream by upstream, group by group.
    pub fn views(&self) -> impl Iterator<Item = BackendView> {
        let groups = self.upstreams.iter().flatten();
        groups.flat_map(|group| {
            group.members.iter().enumerate().map(|(number, &id)| {
                let member = &self.members[id.0];
                BackendView {
                    id,
                    group: member.group,
                    number,
                    policy: group.policy,
                    enabled: member.enabled,
                    failed: member.health == Health::Failed,
                    limit: member.limit,
                    assigned: member.assigned,
                    totals: member.tally.0,
                }
            })
        })
    }

    fn group(&self, group: GroupId) -> &Group {
        &self.upstreams[group.upstream.0][group.index]
    }

    fn has_room(&self, id: BackendId, criteria: &Criteria<'_>) -> bool {
        let member = &self.members[id.0];
        let overfill = criteria.again && self.broken(Mutation::OverfillOnFailover);
        member.limit.is_none_or(|limit| member.assigned < limit) || overfill
    }

    #[cfg(feature = "mutation")]
    fn broken(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    #[cfg(not(feature = "mutation"))]
    fn broken(&self, _: Mutation) -> bool {
        false
    }
}

impl Member {
    fn new(group: GroupId, limit: Option<u32>, enabled: bool) -> Member {
        Member {
            group,
            enabled,
            limit,
            assigned: 0,
            health: Health::Up,
            awaited: Awaited::Nothing,
            load: Load::default(),
            tally: Counters(Totals::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Backend, Group as GroupConfig, RetryPolicy, Settings, Upstream, WhenFull};
    use crate::endpoint::Endpoint;

    /// The settings shared by all groups of a pool under test.
    #[derive(Clone, Copy)]
    pub(super) struct Setup {
        pub policy: Policy,
        pub failover: Failover,
    }

    impl Setup {
        pub fn plain() -> Setup {
            Setup { policy: Policy::RoundRobin, failover: Failover::WithinGroup }
        }

        /// One upstream whose backends have these limits.
        pub fn pool(self, groups: &[&[Option<u32>]]) -> Pool {
            let backend =
                |limit: &Option<u32>| Backend { endpoint: Endpoint::tcp("h", 1), limit: *limit, enabled: true };
            let group = |limits: &&[Option<u32>]| GroupConfig {
                policy: self.policy,
                failover: self.failover,
                failure_policy: FailurePolicy::AvoidFor(Duration::from_secs(1)),
                backends: limits.iter().map(backend).collect(),
            };
            Pool::new(&Service {
                name: "test".to_owned(),
                listeners: Vec::new(),
                network: crate::config::Network::plain(),
                upstreams: vec![Upstream { groups: groups.iter().map(group).collect() }],
                settings: Settings {
                    switch_max_time: Duration::ZERO,
                    max_queued: 1,
                    max_open: None,
                    switch_loop_wait: Duration::ZERO,
                    net_buffer_size: 1,
                    thread_pairs: 1,
                },
                script: None,
                max_dials: 1,
                when_full: WhenFull::Wait,
                retry: RetryPolicy { most: 1, pause: Duration::ZERO },
                seed: 0,
                grace: Duration::ZERO,
            })
        }
    }

    pub(super) fn criteria(tried: &[BackendId]) -> Criteria<'_> {
        Criteria { hash: ClientHash(7), tried, again: !tried.is_empty() }
    }

    /// Asserts that clients refused by `tried` get these backends, one after the other.
    pub(super) fn picks(pool: &mut Pool, tried: &[usize], expected: &[usize]) {
        let tried: Vec<_> = tried.iter().copied().map(BackendId).collect();
        for (turn, want) in expected.iter().enumerate() {
            let got = pool.choose(UpstreamId(0), &criteria(&tried));
            assert_eq!(got, Choice::Backend(BackendId(*want)), "turn {turn}");
            pool.take(BackendId(*want), &criteria(&tried));
            pool.assign(BackendId(*want));
        }
    }

    fn pool(groups: &[&[Option<u32>]]) -> Pool {
        Setup::plain().pool(groups)
    }

    fn finds(pool: &Pool, tried: &[BackendId]) -> Choice {
        pool.choose(UpstreamId(0), &criteria(tried))
    }

    #[test]
    fn round_robin_gives_each_its_turn() {
        picks(&mut pool(&[&[None, None, None]]), &[], &[0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_full_backend_is_passed_over_and_the_next_group_waits_for_the_first_to_be_full() {
        let mut pool = pool(&[&[Some(1), Some(2)], &[Some(1)]]);
        picks(&mut pool, &[], &[0, 1, 1, 2]);
        assert_eq!(finds(&pool, &[]), Choice::Full);
    }

    #[test]
    fn a_backend_that_refused_the_client_is_not_offered_to_it_again() {
        picks(&mut pool(&[&[None, None]]), &[0], &[1, 1]);
        let mut fallback = pool(&[&[None], &[Some(1)]]);
        picks(&mut fallback, &[0], &[1]);
        assert_eq!(finds(&fallback, &[BackendId(0)]), Choice::Full);
        assert_eq!(finds(&fallback, &[BackendId(0), BackendId(1)]), Choice::Exhausted);
    }

    #[test]
    fn a_disabled_backend_serves_nobody_and_an_empty_group_is_passed_over() {
        let mut pool = pool(&[&[], &[None, None], &[None]]);
        assert!(pool.disable(BackendId(0)) && !pool.disable(BackendId(0)));
        picks(&mut pool, &[], &[1, 1]);
        picks(&mut pool, &[1], &[2]);
        pool.disable(BackendId(1));
        pool.disable(BackendId(2));
        assert_eq!(finds(&pool, &[]), Choice::Exhausted);
        assert!(pool.enable(BackendId(0)) && !pool.enable(BackendId(0)));
        picks(&mut pool, &[], &[0]);
    }

    #[test]
    fn the_failed_are_the_last_resort() {
        let mut pool = pool(&[&[None, None], &[Some(1)]]);
        assert!(pool.fail(BackendId(0)) && !pool.fail(BackendId(0)));
        picks(&mut pool, &[], &[1, 1]);
        picks(&mut pool, &[1], &[2, 0]);
        assert!(pool.recover(BackendId(0)) && !pool.recover(BackendId(0)));
        picks(&mut pool, &[1], &[0]);
    }

    #[test]
    fn a_created_backend_is_the_last_of_its_group_has_no_past_and_is_disabled() {
        let mut pool = pool(&[&[None], &[None]]);
        let first = GroupId { upstream: UpstreamId(0), index: 0 };
        let id = pool.create(first);
        picks(&mut pool, &[], &[0, 0]);
        pool.enable(id);
        picks(&mut pool, &[], &[id.0]);
        let view = pool.views().nth(1).unwrap();
        assert_eq!((view.id, view.group, view.number, view.assigned), (id, first, 1, 1));
        assert_eq!((view.limit, view.totals), (None, Totals { attempts: 1, ..Totals::default() }));
    }

    #[test]
    fn a_lowered_limit_keeps_newcomers_out_and_a_reset_leaves_the_current_clients() {
        let mut pool = pool(&[&[None]]);
        picks(&mut pool, &[], &[0, 0]);
        pool.set_limit(BackendId(0), Some(1));
        assert_eq!(finds(&pool, &[]), Choice::Full);
        pool.reset(BackendId(0));
        let view = pool.views().next().unwrap();
        assert_eq!((view.assigned, view.totals), (2, Totals::default()));
    }
}
