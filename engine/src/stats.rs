//! Numbers about a running engine.

/// How much the engine asks its writers to hold back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// Write on.
    #[default]
    None,
    /// Background work falls behind: admit less.
    Slowdown,
    /// Admit nothing until this is over. [`crate::Db::write`] waits; [`crate::Db::apply`] goes on.
    Stop,
}

/// One level of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LevelStats {
    /// Tables in the level.
    pub tables: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Entries in them, tombstones included.
    pub entries: u64,
    /// Tombstones in them.
    pub tombstones: u64,
}

/// A moment of the engine in numbers. Counters run from the open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Upper estimate of live keys: all entries in memtables and tables, shadowed ones included.
    pub entries: u64,
    /// Sequence of the newest visible write.
    pub last_sequence: u64,
    /// See [`crate::Db::flushed_sequence`].
    pub flushed_sequence: u64,
    /// Bytes in the memtable that takes writes.
    pub memtable_bytes: u64,
    /// Memtables waiting for their flush.
    pub memtables_immutable: u64,
    /// Bytes in them.
    pub memtables_immutable_bytes: u64,
    /// Level 0 first.
    pub levels: Vec<LevelStats>,
    /// Segments of the write-ahead log.
    pub wal_segments: u64,
    /// Bytes in them.
    pub wal_bytes: u64,
    /// Bytes of an unfinished write that were cut off the log at open.
    pub wal_torn_bytes: u64,
    /// Commit groups written to the log.
    pub wal_groups: u64,
    /// Of those, groups that were synced.
    pub wal_syncs: u64,
    /// Batches written or applied.
    pub batches: u64,
    /// Memtables flushed.
    pub flushes: u64,
    /// Bytes of the tables written by flushes.
    pub flush_bytes: u64,
    /// Compactions that rewrote tables.
    pub compactions: u64,
    /// Compactions that only moved tables a level down.
    pub compaction_moves: u64,
    /// Bytes read by compactions.
    pub compaction_read_bytes: u64,
    /// Bytes written by compactions.
    pub compaction_write_bytes: u64,
    /// Block reads answered by the cache.
    pub cache_hits: u64,
    /// Block reads that went to the disk.
    pub cache_misses: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Lookups in a table that its filter answered.
    pub filter_rejections: u64,
    /// Tables out of use whose files are not removed yet.
    pub tables_obsolete: u64,
    /// The current manifest's number.
    pub manifest_number: u64,
    /// What [`crate::Db::pressure`] says.
    pub pressure: Pressure,
}
