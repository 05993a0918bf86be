//! Keys and values: cheap to make, cheap to check, and as compressible as asked for.
//!
//! A key is 16 bytes made of its index. A value is
//!
//! ```text
//! | first 8 bytes of its key | version u64 | body |
//! ```
//!
//! where the body is a piece of one pool of random bytes, at a place that key and version choose. So a value that
//! belongs to another key, or ends wrongly, is noticed, at the price of two comparisons.

use std::ops::Range;

/// Bytes of every key.
pub const KEY_BYTES: usize = 16;
/// Smallest value that can be checked.
pub const VALUE_BYTES_MIN: usize = 32;
const HEADER_BYTES: usize = 16;
/// Small enough for a second-level cache.
const POOL_BYTES: usize = 256 << 10;
/// In each piece of the pool the same share is compressible.
const PIECE_BYTES: usize = 64;

/// Mixes 64 bits into 64 others, one to one (the finisher of splitmix64).
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d049bb133111eb);
    number ^ (number >> 31)
}

/// The key of `index`; neighbours in index are nowhere near each other.
pub fn hashed_key(index: u64) -> [u8; KEY_BYTES] {
    key_of(mix(index.wrapping_add(0x9e3779b97f4a7c15)), index)
}

/// The key of `index`, in the order of indexes.
pub fn ordered_key(index: u64) -> [u8; KEY_BYTES] {
    key_of(index, index)
}

fn key_of(high: u64, index: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&high.to_be_bytes());
    key[8..].copy_from_slice(&mix(!index).to_be_bytes());
    key
}

/// Goes through all of `0..count` once, in an order that looks like chance.
pub fn shuffled(index: u64, count: u64) -> u64 {
    // A prime, so that it has no divisor in common with any smaller count.
    ((u128::from(index) * 2_654_435_761) % u128::from(count)) as u64
}

/// Makes and checks values of one size.
pub struct Values {
    pool: Vec<u8>,
    bytes: usize,
}

impl Values {
    /// Values of `bytes` bytes, of which about the share `compressible` can be compressed away.
    pub fn new(bytes: usize, compressible: f64) -> Self {
        assert!(bytes >= VALUE_BYTES_MIN, "values have at least {VALUE_BYTES_MIN} bytes");
        let mut random = Random::new(7);
        let mut pool: Vec<u8> = (0..POOL_BYTES + bytes).map(|_| random.next() as u8).collect();
        let constant = (PIECE_BYTES as f64 * compressible.clamp(0.0, 1.0)) as usize;
        for piece in pool.chunks_mut(PIECE_BYTES) {
            let len = piece.len();
            piece[..constant.min(len)].fill(b'.');
        }
        Self { pool, bytes }
    }

    /// Writes a value of `key` to `out`.
    pub fn make(&self, key: &[u8; KEY_BYTES], version: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&key[..8]);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&self.pool[self.body(&key[..8], version)]);
    }

    /// Whether `value` is one of `key`'s.
    pub fn is_right(&self, key: &[u8], value: &[u8]) -> bool {
        if value.len() != self.bytes || value[..8] != key[..8] {
            return false;
        }
        let version = value[8..HEADER_BYTES].try_into().map_or(0, u64::from_le_bytes);
        let body = self.body(&key[..8], version);
        value[value.len() - 8..] == self.pool[body.end - 8..body.end]
    }

    fn body(&self, key: &[u8], version: u64) -> Range<usize> {
        let high = key.try_into().map_or(0, u64::from_be_bytes);
        let at = mix(high ^ version) as usize % POOL_BYTES;
        at..at + self.bytes - HEADER_BYTES
    }
}

/// A generator of numbers that is good enough and nearly free (splitmix64).
pub struct Random(u64);

impl Random {
    /// Equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        mix(self.0)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks with zipfian popularity, as YCSB draws them.
pub struct Zipf {
    count: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

/// YCSB's skew.
const THETA: f64 = 0.99;

impl Zipf {
    /// Ranks below `count`; 0 is the most popular.
    pub fn new(count: u64) -> Self {
        let zeta: f64 = (1..=count).map(|rank| (rank as f64).powf(-THETA)).sum();
        let zeta2 = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta2 / zeta);
        Self { count, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    /// A rank.
    pub fn rank(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }

    /// An index whose popularity has nothing to do with its place among the keys.
    pub fn scrambled(&self, random: &mut Random) -> u64 {
        mix(self.rank(random)) % self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_value_is_right_for_its_key_only() {
        let values = Values::new(100, 0.5);
        let mut value = Vec::new();
        for version in 0..100 {
            values.make(&hashed_key(3), version, &mut value);
            assert!(values.is_right(&hashed_key(3), &value));
            assert!(!values.is_right(&hashed_key(4), &value));
            assert!(!values.is_right(&hashed_key(3), &value[..99]));
            value[99] ^= 1;
            assert!(!values.is_right(&hashed_key(3), &value));
        }
    }

    #[test]
    fn a_shuffle_meets_every_index_once() {
        for count in [1, 7, 1000, 65_536] {
            let met: BTreeSet<u64> = (0..count).map(|index| shuffled(index, count)).collect();
            assert_eq!((met.len() as u64, met.last().copied()), (count, Some(count - 1)));
        }
    }

    #[test]
    fn ordered_keys_ascend_and_hashed_keys_do_not() {
        let ascends = |key: fn(u64) -> [u8; KEY_BYTES]| (0..99).all(|index| key(index) < key(index + 1));
        assert!(ascends(ordered_key));
        assert!(!ascends(hashed_key));
    }

    #[test]
    fn zipf_prefers_low_ranks_as_much_as_it_should() {
        let zipf = Zipf::new(1000);
        let mut random = Random::new(1);
        let mut counts = vec![0u32; 1000];
        for _ in 0..100_000 {
            counts[zipf.rank(&mut random) as usize] += 1;
        }
        // 1 / zeta(1000, 0.99) is 0.129, and half of that to the power of 0.99 for the next.
        assert!((12_400..13_400).contains(&counts[0]), "{}", counts[0]);
        assert!((6_100..7_000).contains(&counts[1]), "{}", counts[1]);
        assert!(counts[999] < 100);
    }
}
