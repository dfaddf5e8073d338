//! Which backend a client is given. Knows groups, policies, limits and how many clients each backend has; knows
//! nothing of clients' sockets, of the queue or of switchovers.

use crate::config::{Policy, Upstream};
use crate::core::msg::{BackendId, UpstreamId};

/// All backends of a service, in their groups and upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    upstreams: Vec<Vec<Group>>,
    /// Indexed by `BackendId`.
    members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    policy: Policy,
    members: Vec<BackendId>,
    /// Where the next round-robin search begins; `0 <= next < members.len()`.
    next: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    upstream: UpstreamId,
    limit: Option<u32>,
    /// Clients dialling or open; `granted <= limit`.
    granted: u32,
}

/// The answer to "who may serve this client".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// This one, now.
    Backend(BackendId),
    /// One that this client has not tried yet has no room at the moment.
    Full,
    /// This client has tried all there are.
    Nobody,
}

impl Pool {
    pub fn new(upstreams: &[Upstream]) -> Pool {
        let mut members = Vec::new();
        let mut add = |upstream, limit| {
            members.push(Member { upstream: UpstreamId(upstream), limit, granted: 0 });
            BackendId(members.len() - 1)
        };
        let upstreams = upstreams
            .iter()
            .enumerate()
            .map(|(index, upstream)| {
                let group = |group: &crate::config::Group| Group {
                    policy: group.policy,
                    members: group.backends.iter().map(|backend| add(index, backend.limit)).collect(),
                    next: 0,
                };
                upstream.groups.iter().map(group).collect()
            })
            .collect();
        Pool { upstreams, members }
    }

    /// Chooses for a client that has been refused by `tried`: the first group with somebody it has not tried.
    pub fn pick(&mut self, upstream: UpstreamId, tried: &[BackendId]) -> Pick {
        let Some(groups) = self.upstreams.get_mut(upstream.0) else { return Pick::Nobody };
        let mut answer = Pick::Nobody;
        for group in groups {
            match group.policy {
                Policy::RoundRobin => {
                    for step in 0..group.members.len() {
                        let at = (group.next + step) % group.members.len();
                        let id = group.members[at];
                        if tried.contains(&id) {
                            continue;
                        }
                        if self.members[id.0].has_room() {
                            group.next = (at + 1) % group.members.len();
                            return Pick::Backend(id);
                        }
                        answer = Pick::Full;
                    }
                }
            }
        }
        answer
    }

    /// A client was given this backend. Called by `State::move_to` only.
    pub fn grant(&mut self, id: BackendId) {
        self.members[id.0].granted += 1;
    }

    /// A client left this backend. Called by `State::move_to` only.
    pub fn release(&mut self, id: BackendId) {
        self.members[id.0].granted -= 1;
    }

    /// How many upstreams there are to switch between.
    pub fn upstreams(&self) -> usize {
        self.upstreams.len()
    }

    /// The upstream a backend belongs to.
    pub fn upstream_of(&self, id: BackendId) -> UpstreamId {
        self.members[id.0].upstream
    }

    /// Clients that have this backend, dialling or open.
    pub fn granted_to(&self, id: BackendId) -> u32 {
        self.members[id.0].granted
    }

    /// Every backend with the number of clients it has.
    pub fn loads(&self) -> impl Iterator<Item = (BackendId, u32)> {
        self.members.iter().enumerate().map(|(index, member)| (BackendId(index), member.granted))
    }

    /// A backend that has more clients than its limit, if the rules were broken.
    pub fn overfull(&self) -> Option<BackendId> {
        let over = |member: &Member| member.limit.is_some_and(|limit| member.granted > limit);
        self.members.iter().position(over).map(BackendId)
    }
}

impl Member {
    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.granted < limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backend, Group as GroupConfig};
    use crate::endpoint::Endpoint;

    fn pool(groups: &[&[Option<u32>]]) -> Pool {
        let group = |limits: &&[Option<u32>]| GroupConfig {
            policy: Policy::RoundRobin,
            backends: limits.iter().map(|&limit| Backend { endpoint: Endpoint::tcp("h", 1), limit }).collect(),
        };
        Pool::new(&[Upstream { groups: groups.iter().map(group).collect() }])
    }

    fn picks(pool: &mut Pool, tried: &[usize], expected: &[Pick]) {
        let tried: Vec<_> = tried.iter().copied().map(BackendId).collect();
        for (turn, want) in expected.iter().enumerate() {
            let got = pool.pick(UpstreamId(0), &tried);
            assert_eq!(got, *want, "turn {turn}");
            if let Pick::Backend(id) = got {
                pool.grant(id);
            }
        }
    }

    const B0: Pick = Pick::Backend(BackendId(0));
    const B1: Pick = Pick::Backend(BackendId(1));
    const B2: Pick = Pick::Backend(BackendId(2));

    #[test]
    fn round_robin_gives_each_its_turn() {
        picks(&mut pool(&[&[None, None, None]]), &[], &[B0, B1, B2, B0, B1]);
    }

    #[test]
    fn a_full_backend_is_passed_over_and_the_next_group_waits_for_the_first_to_be_full() {
        picks(&mut pool(&[&[Some(1), Some(2)], &[Some(1)]]), &[], &[B0, B1, B1, B2, Pick::Full]);
    }

    #[test]
    fn a_backend_that_refused_the_client_is_not_offered_to_it_again() {
        picks(&mut pool(&[&[None, None]]), &[0], &[B1, B1]);
        picks(&mut pool(&[&[None], &[Some(1)]]), &[0], &[B1, Pick::Full]);
        picks(&mut pool(&[&[None], &[None]]), &[0, 1], &[Pick::Nobody]);
    }
}
