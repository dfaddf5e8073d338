//! Choices that look random and depend on their seed only.

use cbpx::core::pool::hash;

/// A sequence that depends on its seed only.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        hash::next(&mut self.0) % bound
    }

    /// True this many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these, unless there is none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let bound = u64::try_from(of.len()).ok().filter(|&len| len > 0)?;
        of.get(usize::try_from(self.below(bound)).ok()?).copied()
    }
}
