//! A fast hash of an entry for [`nokv_env::Fact`]. Never stored, so it may change with any release.

/// Hash of (term, data).
pub(crate) fn entry(term: u64, data: &[u8]) -> u64 {
    let mut words = data.chunks_exact(8);
    let mut hash = mix(0x51_7c_c1_b7_27_22_0a_95 ^ term).wrapping_add(data.len() as u64);
    for word in &mut words {
        hash = step(hash, word.try_into().map_or(0, u64::from_le_bytes));
    }
    let rest = words.remainder().iter().rev().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte));
    mix(step(hash, rest))
}

/// Folds eight bytes into the hash.
fn step(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// SplitMix64's finalizer.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_the_length_and_the_term_count() {
        let base = entry(1, b"abcdefghij");
        for other in [
            entry(2, b"abcdefghij"),
            entry(1, b"abcdefghik"),
            entry(1, b"Xbcdefghij"),
            entry(1, b"abcdefghij\0"),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, entry(1, b"abcdefghij"));
    }
}
