//! Rules that can be broken on purpose, so that `tests/model.rs` and `tests/sim.rs` can prove that they detect it.
//! Without the feature `mutation` no rule can be broken.

use super::State;

/// A rule that can be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Promise 2: clients are dialled although the gate is shut.
    DialWhileShut,
    /// Promise 2: the drain does not count clients that are still dialling.
    ForgetTheDialling,
    /// Promise 3: a client refused while the gate is shut is forgotten.
    ForgetTheRefused,
    /// Promise 3: the newest held client is served first.
    NewestFirst,
    /// Promise 3: each event serves only one held client, even if more can be served: a lost wake-up.
    ServeOnlyOne,
    /// Promise 3: a held client that has hung up is kept.
    KeepTheHungUp,
    /// Promise 4: a switchover that timed out moves the service.
    MoveOnTimeout,
    /// Promise 4: the switch is answered twice.
    AnswerTwice,
    /// Promise 4: any timer ends the switchover, even one of an earlier switchover.
    TakeAnyTimer,
    /// Promise 4: rolling back a switchover does not kill its script.
    SpareTheScript,
    /// The throttle is ignored.
    IgnoreThrottle,
    /// A disabled backend is assigned clients.
    GiveTheDisabled,
    /// A backend's limit does not apply to clients that another backend has refused.
    OverfillOnFailover,
    /// A backend that failed is never probed.
    ForgetTheProbe,
    /// Promise 3: a client that waits for a full backend blocks later clients that other backends could take.
    BlockTheQueue,
    /// A dial to a failed backend is not cancelled although another backend could take the client.
    WaitForTheFailed,
    /// Promise 1: a switchover closes a client that has sent something after its backend's end.
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
