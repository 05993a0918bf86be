//! A bloom filter over the user keys of one table: "certainly not here" without reading a block.
//!
//! ```text
//! filter = | line [64] (repeated) | probes u8 |
//! ```
//! A key has all its bits in one line of 64 bytes, so a lookup costs one cache miss. The line is chosen by the
//! upper half of the key's hash, the bits by multiplying the lower half again and again.

use bytes::Bytes;

const LINE_BYTES: usize = 64;

/// Hash of a key (family byte and user key). Part of the file format.
pub(crate) fn hash(prefixed: &[u8]) -> u64 {
    mix(u64::from(crc32c::crc32c(prefixed)) | (prefixed.len() as u64) << 32)
}

/// Builds the filter of these key hashes.
pub(crate) fn build(hashes: &[u64], bits_per_key: u32) -> Vec<u8> {
    let probes = (bits_per_key * 7 / 10).clamp(1, 30) as u8;
    let lines = (hashes.len() * bits_per_key as usize).div_ceil(LINE_BYTES * 8).max(1);
    let mut data = vec![0; lines * LINE_BYTES + 1];
    for &hash in hashes {
        let start = line(hash, lines) * LINE_BYTES;
        for bit in bits(hash, probes) {
            data[start + bit / 8] |= 1 << (bit % 8);
        }
    }
    data[lines * LINE_BYTES] = probes;
    data
}

/// A filter that was read. Cheap to clone. Lines and probes are apart, so that a lookup touches one line of the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    lines: Bytes,
    probes: u8,
}

impl Filter {
    pub(crate) fn parse(mut data: Bytes) -> Self {
        let probes = data.last().copied().unwrap_or(0);
        data.truncate(data.len().saturating_sub(1));
        Self { lines: data, probes }
    }

    /// Whether a key of this hash may be in the table.
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        let (lines, _) = self.lines.as_chunks::<LINE_BYTES>();
        let Some(line) = lines.get(line(hash, lines.len())) else { return true };
        bits(hash, self.probes).all(|bit| line[bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// Memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() + 1
    }
}

fn line(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize
}

fn bits(hash: u64, probes: u8) -> impl Iterator<Item = usize> {
    let mut state = hash as u32;
    (0..probes).map(move |_| {
        let bit = state >> 23;
        state = state.wrapping_mul(0x9e37_79b9);
        bit as usize
    })
}

/// SplitMix64's finalizer.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_denied_and_few_are_mistaken() {
        let key = |n: u32| hash(format!("\0key{n}").as_bytes());
        let present: Vec<u64> = (0..10_000).map(key).collect();
        let filter = build(&present, 10);
        let filter = Filter::parse(filter.into());
        assert!(present.iter().all(|hash| filter.may_hold(*hash)));
        let mistaken = (10_000..30_000).filter(|n| filter.may_hold(key(*n))).count();
        assert!(mistaken < 400, "{mistaken} of 20000");
    }

    #[test]
    fn the_bytes_are_these() {
        let filter = build(&[hash(b"\0a")], 10);
        let set: Vec<(usize, u8)> =
            filter.iter().copied().enumerate().filter(|(_, byte)| *byte != 0).collect();
        assert_eq!(filter.len(), 65);
        assert_eq!(set, [(4, 64), (13, 4), (20, 8), (51, 8), (53, 32), (57, 8), (61, 8), (64, 7)]);
    }
}
