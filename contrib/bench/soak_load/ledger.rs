//! What the soak's clients and servers have seen, and which server is active when.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Shared by everybody.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Bit 0: a switch is running. Bit 1: which server is active. Above: how often that has changed.
    era: AtomicU64,
    done: AtomicU64,
    bytes: AtomicU64,
    faults: AtomicU64,
    /// What the first faults were.
    first: Mutex<Vec<String>>,
}

/// A time in which nothing about the service changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era(u64);

/// Faults that are told in words.
const TOLD: usize = 20;

impl Ledger {
    pub fn era(&self) -> Era {
        Era(self.era.load(Ordering::SeqCst))
    }

    /// A switch is about to begin.
    pub fn switch_begins(&self) {
        self.era.fetch_or(1, Ordering::SeqCst);
    }

    /// It has ended, and the other server is active if it succeeded.
    pub fn switch_ended(&self, moved: bool) {
        let era = self.era.load(Ordering::SeqCst);
        let active = era & 2 ^ if moved { 2 } else { 0 };
        self.era.store(((era >> 2) + 1) << 2 | active, Ordering::SeqCst);
    }

    /// Whether a switch was running then or began later.
    pub fn may_have_switched_since(&self, then: Era) -> bool {
        then.0 & 1 == 1 || self.era() != then
    }

    /// Which server must have answered whoever connected after `then` and was answered before now; `None` when it may
    /// have been either.
    pub fn active_since(&self, then: Era) -> Option<usize> {
        (!self.may_have_switched_since(then)).then_some((then.0 >> 1 & 1) as usize)
    }

    /// One task was done as it should.
    pub fn count(&self, bytes: u64) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn fault(&self, words: &str) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first.lock();
        if first.len() < TOLD {
            first.push(words.to_owned());
        }
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    pub fn first_faults(&self) -> Vec<String> {
        self.first.lock().clone()
    }
}
