//! The block cache: decoded blocks and filters of all tables and values of the value log, weighted by bytes.
//!
//! What is evicted decides which reads reach the disk, and a simulation sees those: so the hasher and the number
//! of shards are fixed, not the process's or the machine's.

use crate::stats::ReadCounters;
use crate::table::block::Block;
use crate::table::filter::Filter;
use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Shards of a cache: enough that threads seldom meet in one.
const SHARDS_MIN: usize = 8;
const SHARDS_MAX: usize = 64;
/// A shard that is smaller than so many blocks may have no room for some of them.
const SHARD_BLOCKS_MIN: u64 = 64;
/// Memory besides the bytes themselves.
const OVERHEAD_BYTES: usize = 96;

/// Something of a table.
#[derive(Clone)]
pub(crate) enum Cached {
    Block(Block),
    Filter(Filter),
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

/// Keyed by table number and offset.
pub(crate) struct BlockCache {
    cache: Cache<(u64, u64), Cached, ByBytes, Mixer>,
    reads: Arc<ReadCounters>,
}

impl BlockCache {
    pub(crate) fn new(bytes: u64, block_bytes: usize, reads: Arc<ReadCounters>) -> Self {
        let blocks = (bytes / (block_bytes + OVERHEAD_BYTES) as u64).clamp(SHARDS_MIN as u64, 1 << 24);
        let shards = (blocks / SHARD_BLOCKS_MIN).clamp(SHARDS_MIN as u64, SHARDS_MAX as u64) as usize;
        let shards = 1 << shards.ilog2();
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(blocks as usize)
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are given");
        let cache = Cache::with_options(options, ByBytes, Mixer::default(), Default::default());
        Self { cache, reads }
    }

    pub(crate) fn get(&self, table: u64, offset: u64, part: Part) -> Option<Cached> {
        let found = self.cache.get(&(table, offset));
        self.reads.looked(part, found.is_some());
        found
    }

    pub(crate) fn insert(&self, table: u64, offset: u64, cached: Cached) {
        self.cache.insert((table, offset), cached);
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
            Cached::Filter(filter) => filter.bytes(),
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
