//! The splitmix64 generator: numbers that are the same on every machine and in every release.

/// The golden ratio as a fraction of 2^64: the generator visits every number once.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Every bit of the input changes half of the bits of the output, and no two inputs have the same.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
