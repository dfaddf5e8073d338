//! Returns the memory of large tables to the system.

use std::collections::HashMap;
use std::hash::Hash;

/// Shrinks a table that once had many entries and now has few.
pub fn give_back_memory<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    const FEW: usize = 1024;
    if table.capacity() > FEW && table.len() < table.capacity() / 8 {
        table.shrink_to(FEW.max(table.len() * 2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_large_shrinks_and_keeps_its_entries() {
        let mut table: HashMap<u32, u32> = (0..100_000).map(|number| (number, number)).collect();
        table.retain(|number, _| *number < 10);
        let before = table.capacity();
        give_back_memory(&mut table);
        assert!(table.capacity() < before / 8, "{} of {before}", table.capacity());
        assert_eq!((table.len(), table.get(&9)), (10, Some(&9)));
    }

    #[test]
    fn a_table_that_is_half_full_keeps_its_memory() {
        let mut table: HashMap<u32, u32> = (0..100_000).map(|number| (number, number)).collect();
        table.retain(|number, _| *number < 50_000);
        let before = table.capacity();
        give_back_memory(&mut table);
        assert_eq!(table.capacity(), before);
    }
}
