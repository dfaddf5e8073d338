//! The rules that the core can be made to break, each once.

#![cfg(feature = "mutation")]

use cbpx::core::Mutation;

/// All of them. `after` stops the build when one is missing.
pub fn all() -> impl Iterator<Item = Mutation> {
    std::iter::successors(Some(Mutation::DialWhileShut), |&mutation| after(mutation))
}

fn after(mutation: Mutation) -> Option<Mutation> {
    match mutation {
        Mutation::DialWhileShut => Some(Mutation::ForgetTheDialling),
        Mutation::ForgetTheDialling => Some(Mutation::ForgetTheRefused),
        Mutation::ForgetTheRefused => Some(Mutation::NewestFirst),
        Mutation::NewestFirst => Some(Mutation::ServeOnlyOne),
        Mutation::ServeOnlyOne => Some(Mutation::KeepTheHungUp),
        Mutation::KeepTheHungUp => Some(Mutation::MoveOnTimeout),
        Mutation::MoveOnTimeout => Some(Mutation::AnswerTwice),
        Mutation::AnswerTwice => Some(Mutation::TakeAnyTimer),
        Mutation::TakeAnyTimer => Some(Mutation::SpareTheScript),
        Mutation::SpareTheScript => Some(Mutation::IgnoreThrottle),
        Mutation::IgnoreThrottle => Some(Mutation::GiveTheDisabled),
        Mutation::GiveTheDisabled => Some(Mutation::OverfillOnFailover),
        Mutation::OverfillOnFailover => Some(Mutation::ForgetTheProbe),
        Mutation::ForgetTheProbe => Some(Mutation::BlockTheQueue),
        Mutation::BlockTheQueue => Some(Mutation::WaitForTheFailed),
        Mutation::WaitForTheFailed => Some(Mutation::CutTheUpload),
        Mutation::CutTheUpload => None,
    }
}
