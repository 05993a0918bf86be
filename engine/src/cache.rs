//! The block cache: decoded blocks and filters of all tables and values of the value log, weighted by bytes.
//!
//! What is evicted decides which reads reach the disk, and a simulation sees those: so the hasher and the number
//! of shards are fixed, not the process's or the machine's.

use crate::table::block::Block;
use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 8;
/// Memory besides the bytes themselves.
const OVERHEAD_BYTES: usize = 96;

/// Something of a table.
#[derive(Clone)]
pub(crate) enum Cached {
    Block(Block),
    Filter(Bytes),
    /// Key and value of a record of the value log.
    Record(Bytes, Bytes),
}

/// What a read is after, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A filter.
    Filter,
    /// An index block.
    Index,
    /// A data block.
    Data,
}

/// Hits and misses.
#[derive(Default)]
struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Keyed by table number and offset.
pub(crate) struct BlockCache {
    cache: Cache<(u64, u64), Cached, ByBytes, Mixer>,
    index: Tally,
    data: Tally,
}

impl BlockCache {
    pub(crate) fn new(bytes: u64, block_bytes: usize) -> Self {
        let blocks = (bytes / (block_bytes + OVERHEAD_BYTES) as u64).clamp(SHARDS as u64, 1 << 24) as usize;
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(blocks)
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are given");
        let cache = Cache::with_options(options, ByBytes, Mixer::default(), Default::default());
        Self { cache, index: Tally::default(), data: Tally::default() }
    }

    pub(crate) fn get(&self, table: u64, offset: u64, part: Part) -> Option<Cached> {
        let found = self.cache.get(&(table, offset));
        let tally = self.tally(part);
        let counter = if found.is_some() { &tally.hits } else { &tally.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    fn tally(&self, part: Part) -> &Tally {
        match part {
            Part::Filter | Part::Index => &self.index,
            Part::Data => &self.data,
        }
    }

    pub(crate) fn insert(&self, table: u64, offset: u64, cached: Cached) {
        self.cache.insert((table, offset), cached);
    }

    pub(crate) fn hits(&self, part: Part) -> u64 {
        self.tally(part).hits.load(Ordering::Relaxed)
    }

    pub(crate) fn misses(&self, part: Part) -> u64 {
        self.tally(part).misses.load(Ordering::Relaxed)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<(u64, u64), Cached> for ByBytes {
    fn weight(&self, _key: &(u64, u64), cached: &Cached) -> u64 {
        let bytes = match cached {
            Cached::Block(block) => block.bytes(),
            Cached::Filter(filter) => filter.len(),
            Cached::Record(key, value) => key.len() + value.len(),
        };
        (bytes + OVERHEAD_BYTES) as u64
    }
}

/// A fixed hash for pairs of numbers.
#[derive(Clone, Default)]
struct Mixer(u64);

impl BuildHasher for Mixer {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(0)
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20)
    }
}
