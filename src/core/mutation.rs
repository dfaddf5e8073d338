//! Rules that can be broken on purpose, so that `tests/model.rs` and `tests/sim.rs` can prove that they would notice.
//! In a build without the feature `mutation` nothing can be.

use super::State;

/// A rule that can be broken on purpose, so that the tests can prove that they would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Promise 2: clients are dialled although the gate is shut.
    DialWhileShut,
    /// Promise 2: clients that are still connecting do not count for the drain.
    ForgetTheDialling,
    /// Promise 3: a client refused while the gate is shut is forgotten.
    ForgetTheRefused,
    /// Promise 3: the newest held client is served first.
    NewestFirst,
    /// Promise 3: held clients are served one at each event, not as many as there is room for: a lost wake-up.
    ServeOnlyOne,
    /// Promise 3: a held client that has hung up is kept.
    KeepTheHungUp,
    /// Promise 4: a timed-out switchover moves the service all the same.
    MoveOnTimeout,
    /// Promise 4: the switch is answered twice.
    AnswerTwice,
    /// Promise 4: any timer ends the switchover, one left from an earlier one too.
    TakeAnyTimer,
    /// Promise 4: the script of a switchover that is undone runs on.
    SpareTheScript,
    /// The throttle is ignored.
    IgnoreThrottle,
    /// A disabled backend is given clients.
    GiveTheDisabled,
    /// The limit of a backend does not hold for clients that another one has refused.
    OverfillOnFailover,
    /// A backend that failed is never probed.
    ForgetTheProbe,
    /// Promise 3: who waits for a full backend keeps those behind it waiting, though others could take them.
    BlockTheQueue,
    /// Who is being connected to a backend that has failed stays there, though others could take it.
    WaitForTheFailed,
    /// Promise 1: a switchover cuts off a client that has sent something after its backend's end.
    CutTheUpload,
}

impl State {
    /// Breaks one rule from now on.
    #[cfg(feature = "mutation")]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
        self.pool.mutation = Some(mutation);
    }

    #[cfg(feature = "mutation")]
    pub(super) fn broken(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    #[cfg(not(feature = "mutation"))]
    pub(super) fn broken(&self, _: Mutation) -> bool {
        false
    }
}
