//! The backends in the witness's account: who is in which group, who may be used, who has failed, what is awaited, and
//! what each has had. Says whom a client may be given, by the words of `config` rather than by the core's code.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use cbpx::config::{Failover, Policy, Weights};
use cbpx::core::msg::{BackendId, ClientHash, ClientId, GroupId, TimerId, Totals, Traffic, UpstreamId};
use cbpx::core::pool::hash::rank;

use super::Rules;
use super::witness::{Place, Witness};

/// All backends, and the groups they are in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stock {
    /// By upstream.
    pub groups: Vec<Vec<Group>>,
    /// Indexed by backend.
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    pub policy: Policy,
    pub failover: Failover,
    pub members: Vec<BackendId>,
    /// Who was given a client last in turn.
    last: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    pub group: GroupId,
    pub enabled: bool,
    pub limit: Option<u32>,
    pub failed: bool,
    pub awaited: Awaited,
    /// Connections, bytes and microseconds, where they decide.
    charge: [u64; 3],
    pub totals: Unseen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    Nothing,
    Timer(TimerId),
    Probe,
}

/// Nothing depends on these: they do not make a state another one.
#[derive(Clone, Debug, Default)]
pub struct Unseen(pub Totals);

impl PartialEq for Unseen {
    fn eq(&self, _: &Unseen) -> bool {
        true
    }
}

impl Eq for Unseen {}

impl Hash for Unseen {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Stock {
    pub fn new(rules: &Rules) -> Stock {
        let mut backends = Vec::new();
        let mut groups = Vec::new();
        for (upstream, limits) in rules.shape.iter().enumerate() {
            groups.push(Vec::new());
            for (index, limits) in limits.iter().enumerate() {
                let first = backends.len();
                let group = GroupId { upstream: UpstreamId(upstream), index };
                for &limit in *limits {
                    let enabled = !rules.habit.disabled.contains(&backends.len());
                    backends.push(Backend { enabled, ..Backend::new(group, limit) });
                }
                let members = (first..backends.len()).map(BackendId).collect();
                let habit = rules.habit;
                groups[upstream].push(Group { policy: habit.policy, failover: habit.failover, members, last: None });
            }
        }
        Stock { groups, backends }
    }

    pub fn of(&mut self, id: BackendId) -> &mut Backend {
        &mut self.backends[id.0]
    }

    fn group(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(group.upstream.0)?.get(group.index)
    }

    pub fn group_of(&self, id: BackendId) -> &Group {
        self.group(self.backends[id.0].group).expect("every backend is in a group")
    }

    fn charge(&mut self, id: BackendId, more: [u64; 3]) {
        if matches!(self.group_of(id).policy, Policy::Least(_)) {
            (0..3).for_each(|at| self.of(id).charge[at] += more[at]);
        }
    }

    /// A backend that comes back is credited with what the least of the others has had.
    pub fn credit(&mut self, id: BackendId) {
        let others = self.group_of(id).members.iter().map(|other| (*other, &self.backends[other.0]));
        let others: Vec<[u64; 3]> = others
            .filter(|(other, backend)| *other != id && backend.enabled && !backend.failed)
            .map(|(_, backend)| backend.charge)
            .collect();
        for at in 0..3 {
            let least = others.iter().map(|charge| charge[at]).min().unwrap_or(0);
            self.of(id).charge[at] = self.backends[id.0].charge[at].max(least);
        }
    }

    /// A dial of this backend begins.
    fn dialled(&mut self, id: BackendId, at_random: bool) {
        self.of(id).totals.0.attempts += 1;
        self.charge(id, [1, 0, 0]);
        let group = self.backends[id.0].group;
        let group = &mut self.groups[group.upstream.0][group.index];
        let takes_turns = matches!(group.policy, Policy::RoundRobin | Policy::Least(_));
        if takes_turns && !at_random {
            // Whose turn it is next is all that matters.
            let at = group.members.iter().position(|member| *member == id);
            group.last = at.filter(|at| at + 1 < group.members.len());
        }
    }

    pub fn connected(&mut self, id: BackendId) {
        self.of(id).totals.0.connections += 1;
    }

    pub fn flowed(&mut self, id: BackendId, more: Traffic) {
        let totals = &mut self.of(id).totals.0;
        (totals.up, totals.down) = (totals.up + more.up, totals.down + more.down);
        totals.time += more.time;
        self.charge(id, [0, more.up + more.down, more.time.as_micros() as u64]);
    }
}

impl Backend {
    pub fn new(group: GroupId, limit: Option<u32>) -> Backend {
        let totals = Unseen::default();
        Backend { group, enabled: false, limit, failed: false, awaited: Awaited::Nothing, charge: [0; 3], totals }
    }
}

/// How a held client stands that does not pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Somebody has room for it.
    Servable,
    /// All that might take it are full.
    Full,
    /// Nobody might.
    Refused,
}

/// What a choice depends on besides the backends.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Asker<'a> {
    hash: ClientHash,
    tried: &'a [BackendId],
    again: bool,
}

impl Witness {
    fn asker(&self, id: ClientId) -> Asker<'_> {
        let client = &self.clients[&id];
        let again = client.rounds > 0 || !client.tried.is_empty();
        Asker { hash: client.hash, tried: &client.tried, again }
    }

    /// The first held client of those `among` that stands so. Those who are offered the same stand alike.
    pub fn first_held(&self, among: impl Fn(&ClientId) -> bool, so: impl Fn(Standing) -> bool) -> Option<ClientId> {
        let mut known = BTreeMap::new();
        let held = self.clients.iter().filter(|(_, client)| client.place == Place::Held && client.pause.is_none());
        let mut held = held.map(|(id, _)| *id).take_while(among);
        held.find(|id| so(*known.entry(self.asker(*id)).or_insert_with(|| self.standing(*id))))
    }

    fn standing(&self, id: ClientId) -> Standing {
        if !self.choices(id).is_empty() {
            Standing::Servable
        } else if self.tried_all(id) {
            Standing::Refused
        } else {
            Standing::Full
        }
    }

    /// Whom a client may be given sooner or later, group by group.
    fn candidates(&self, id: ClientId) -> Vec<Vec<BackendId>> {
        let Asker { hash, tried, .. } = self.asker(id);
        let of = |group: &Group| -> Vec<BackendId> {
            let mut all = group.members.clone();
            if group.failover == Failover::NextGroup {
                if all.iter().any(|one| tried.contains(one)) {
                    return Vec::new();
                }
                if group.policy == Policy::ClientHash {
                    all = all.into_iter().max_by_key(|one| rank(hash, *one)).into_iter().collect();
                }
            }
            all.retain(|one| self.stock.backends[one.0].enabled && !tried.contains(one));
            all
        };
        self.stock.groups[self.active.0].iter().map(of).collect()
    }

    /// Nobody is left who might ever take this client in this round.
    pub fn tried_all(&self, id: ClientId) -> bool {
        self.candidates(id).iter().all(Vec::is_empty)
    }

    /// Whom this client may be given now: those of one group, of which its policy allows each. Empty when it must wait.
    pub fn choices(&self, id: ClientId) -> Vec<BackendId> {
        if self.clients[&id].pause.is_some() {
            return Vec::new();
        }
        let candidates = self.candidates(id);
        for failed in [false, true] {
            for (group, candidates) in self.stock.groups[self.active.0].iter().zip(&candidates) {
                let usable =
                    |one: &&BackendId| self.stock.backends[one.0].failed == failed && self.takes_one_more(**one);
                let usable: Vec<BackendId> = candidates.iter().filter(usable).copied().collect();
                if !usable.is_empty() {
                    return self.allowed(group, &usable, &self.asker(id));
                }
            }
        }
        Vec::new()
    }

    fn takes_one_more(&self, id: BackendId) -> bool {
        let limit = self.stock.backends[id.0].limit;
        limit.is_none_or(|limit| self.load(id) < limit as usize)
    }

    pub fn load(&self, id: BackendId) -> usize {
        self.clients.values().filter(|client| client.backend() == Some(id)).count()
    }

    fn allowed(&self, group: &Group, usable: &[BackendId], asker: &Asker<'_>) -> Vec<BackendId> {
        if picks_at_random(group, asker) {
            return usable.to_vec();
        }
        let turn = |one: &BackendId| {
            let at = group.members.iter().position(|member| member == one).unwrap_or(0);
            group.last.map_or(at, |last| if at > last { at } else { at + group.members.len() })
        };
        match group.policy {
            Policy::RoundRobin => usable.iter().copied().min_by_key(turn).into_iter().collect(),
            Policy::InOrder => usable[..1].to_vec(),
            Policy::ClientHash => usable.iter().copied().max_by_key(|one| rank(asker.hash, *one)).into_iter().collect(),
            Policy::Least(weights) => self.least(group, usable, weights),
        }
    }

    /// Those whose weighted share is the smallest, but for what floating point cannot tell apart.
    fn least(&self, group: &Group, usable: &[BackendId], weights: Weights) -> Vec<BackendId> {
        let charge = |one: &BackendId| self.stock.backends[one.0].charge;
        let weights = [weights.connections, weights.bytes, weights.time];
        let share = |one: &BackendId| -> f64 {
            (0..3)
                .map(|at| {
                    let sum: u64 = group.members.iter().map(|member| charge(member)[at]).sum();
                    f64::from(weights[at]) * charge(one)[at] as f64 / sum.max(1) as f64
                })
                .sum()
        };
        let least = usable.iter().map(share).fold(f64::MAX, f64::min);
        usable.iter().copied().filter(|one| share(one) <= least + 1e-6).collect()
    }

    /// Takes down that a client was given a backend.
    pub fn given(&mut self, id: ClientId, backend: BackendId) {
        let at_random = picks_at_random(self.stock.group_of(backend), &self.asker(id));
        self.stock.dialled(backend, at_random);
    }
}

fn picks_at_random(group: &Group, asker: &Asker<'_>) -> bool {
    group.failover == Failover::RandomOther && asker.again
}
