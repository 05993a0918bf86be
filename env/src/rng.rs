//! Randomness: one seed split into independent ChaCha8 streams, one a purpose and node.
//!
//! What one part draws never shifts what another part draws, so a run stays recognisable when one
//! component changes.

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// Makes the streams of one node.
#[derive(Debug, Clone, Copy)]
pub struct RngSource {
    seed: u64,
    node: u64,
}

impl RngSource {
    /// Streams of `node` in the world of `seed`. Production seeds from the operating system.
    pub fn new(seed: u64, node: u64) -> Self {
        Self { seed, node }
    }

    /// The stream for `purpose`; equal arguments give equal streams.
    pub fn stream(&self, purpose: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(derive(self.seed, self.node, purpose))
    }

    /// A number that is a pure function of the seed, the node, `purpose` and `salt`.
    pub fn pure(&self, purpose: &str, salt: u64) -> u64 {
        let key = derive(self.seed, self.node, purpose);
        let word = u64::from_le_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]]);
        mix(word ^ mix(salt))
    }
}

/// Spreads (seed, node, purpose) over a 256-bit key: FNV-1a over the purpose, SplitMix64 for the rest.
fn derive(seed: u64, node: u64, purpose: &str) -> [u8; 32] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in purpose.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut state =
        mix(seed) ^ mix(node.wrapping_add(0x5bd1_e995)).rotate_left(17) ^ mix(hash).rotate_left(41);
    let mut key = [0; 32];
    for chunk in key.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&mix(state).to_le_bytes());
    }
    key
}

/// SplitMix64's finalizer (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::Rng;

    #[test]
    fn streams_depend_on_seed_node_and_purpose_only() {
        let draw = |seed, node, purpose| RngSource::new(seed, node).stream(purpose).next_u64();
        assert_eq!(draw(7, 1, "election"), draw(7, 1, "election"));
        assert_ne!(draw(7, 1, "election"), draw(8, 1, "election"));
        assert_ne!(draw(7, 1, "election"), draw(7, 2, "election"));
        assert_ne!(draw(7, 1, "election"), draw(7, 1, "backoff"));
    }
}
