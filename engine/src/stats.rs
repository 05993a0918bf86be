//! Numbers about a running engine.

use crate::cache::Part;
use crate::log::LogStats;
use crate::stripes::Stripes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    /// Entries that have an end, whether it has come or not.
    pub expiring: u64,
    /// Bytes of the value log that their pointers take.
    pub value_bytes: u64,
}

/// One bucket of the value log: the values of one generation. 0 is the youngest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BucketStats {
    /// Live segments in the bucket.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Bytes of them that tables point at; the rest is garbage.
    pub live_bytes: u64,
    /// Number and length of the newest segment.
    pub newest: Option<(u64, u64)>,
}

/// How long one kind of work took since the open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// How often it was done.
    pub count: u64,
    /// All of it together.
    pub total: Duration,
    /// The last time.
    pub last: Duration,
    /// The longest time.
    pub max: Duration,
}

/// Adds up a [`Timing`] without a lock.
#[derive(Default)]
pub(crate) struct Timer {
    count: AtomicU64,
    total: AtomicU64,
    last: AtomicU64,
    max: AtomicU64,
}

impl Timer {
    pub(crate) fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(nanos, Ordering::Relaxed);
        self.last.store(nanos, Ordering::Relaxed);
        self.max.fetch_max(nanos, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Timing {
        let time = |nanos: &AtomicU64| Duration::from_nanos(nanos.load(Ordering::Relaxed));
        Timing {
            count: self.count.load(Ordering::Relaxed),
            total: time(&self.total),
            last: time(&self.last),
            max: time(&self.max),
        }
    }
}

/// Tables that reads left out because their key ranges say that nothing is to be found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruning {
    /// Tables that there were when a key was looked up, added up over all lookups.
    pub point_candidates: u64,
    /// Of those, the ones whose range does not hold the key.
    pub point_pruned: u64,
    /// Tables that there were when a range was walked, added up over all walks.
    pub bounded_candidates: u64,
    /// Of those, the ones whose range does not touch that range.
    pub bounded_pruned: u64,
}

/// Blocks of tables that walks through ranges, compactions among them, fetched with a read for an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readahead {
    /// Reads that fetched more than the block that was needed just then.
    pub reads: u64,
    /// Blocks that they were to fetch besides that one.
    pub launched: u64,
    /// Of those, the ones that the walk came to: reads saved.
    pub completed: u64,
    /// Of those, the ones that were fetched in vain: the walk ended before, or the disk refused.
    pub aborted: u64,
}

/// What reads count. All threads read all the time, so each counts for itself.
#[derive(Default)]
pub(crate) struct ReadCounters(Stripes<Reads>);

/// The part of some threads.
#[derive(Default)]
pub(crate) struct Reads {
    pub(crate) index_hits: AtomicU64,
    pub(crate) index_misses: AtomicU64,
    pub(crate) data_hits: AtomicU64,
    pub(crate) data_misses: AtomicU64,
    pub(crate) filter_rejections: AtomicU64,
    point_candidates: AtomicU64,
    point_pruned: AtomicU64,
    bounded_candidates: AtomicU64,
    bounded_pruned: AtomicU64,
    pub(crate) ahead_reads: AtomicU64,
    pub(crate) ahead_launched: AtomicU64,
    pub(crate) ahead_completed: AtomicU64,
    pub(crate) ahead_aborted: AtomicU64,
}

impl ReadCounters {
    /// Keys were looked up, each where there are `all` tables. `asked` tables, in all, may have had one by their ranges, of which
    /// the filters denied `rejected`.
    pub(crate) fn point(&self, keys: usize, all: usize, asked: u64, rejected: u64) {
        let (mine, candidates) = (self.0.mine(), (keys * all) as u64);
        mine.point_candidates.fetch_add(candidates, Ordering::Relaxed);
        mine.point_pruned.fetch_add(candidates - asked, Ordering::Relaxed);
        mine.filter_rejections.fetch_add(rejected, Ordering::Relaxed);
    }

    /// A range was walked where there are `all` tables, and `asked` of them touch it.
    pub(crate) fn bounded(&self, all: usize, asked: usize) {
        let mine = self.0.mine();
        mine.bounded_candidates.fetch_add(all as u64, Ordering::Relaxed);
        mine.bounded_pruned.fetch_add((all - asked) as u64, Ordering::Relaxed);
    }

    /// The cache was asked for a part of a table.
    pub(crate) fn looked(&self, part: Part, is_hit: bool) {
        let mine = self.0.mine();
        let counter = match (part, is_hit) {
            (Part::Filter | Part::Index, true) => &mine.index_hits,
            (Part::Filter | Part::Index, false) => &mine.index_misses,
            (Part::Data, true) => &mine.data_hits,
            (Part::Data, false) => &mine.data_misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What this thread counts in.
    pub(crate) fn mine(&self) -> &Reads {
        self.0.mine()
    }

    /// One of them, added up over all threads.
    pub(crate) fn sum(&self, counter: impl Fn(&Reads) -> &AtomicU64) -> u64 {
        self.0.iter().map(|reads| counter(reads).load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn readahead(&self) -> Readahead {
        Readahead {
            reads: self.sum(|reads| &reads.ahead_reads),
            launched: self.sum(|reads| &reads.ahead_launched),
            completed: self.sum(|reads| &reads.ahead_completed),
            aborted: self.sum(|reads| &reads.ahead_aborted),
        }
    }

    pub(crate) fn pruning(&self) -> Pruning {
        Pruning {
            point_candidates: self.sum(|reads| &reads.point_candidates),
            point_pruned: self.sum(|reads| &reads.point_pruned),
            bounded_candidates: self.sum(|reads| &reads.bounded_candidates),
            bounded_pruned: self.sum(|reads| &reads.bounded_pruned),
        }
    }
}

/// A moment of the engine in numbers. Counters run from the open.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stats {
    /// Upper estimate of live keys: all entries in memtables and tables, shadowed ones included.
    pub entries: u64,
    /// Of all entries in memtables and tables, shadowed ones included, those that have an end, whether it has come or not.
    pub expiring: u64,
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
    /// The value log, by bucket.
    pub buckets: Vec<BucketStats>,
    /// Collections of garbage in the value log that were made for their own sake.
    pub collections: u64,
    /// Bytes of values that moved from one segment into another, by collections and by compactions that passed.
    pub collected_bytes: u64,
    /// Segments of the value log that nobody pointed at any more, and that went.
    pub segments_removed: u64,
    /// Rows that had ended when a flush or compaction met them, and gave up their space.
    pub expired_rows: u64,
    /// Tables that left unread, because all of their rows had ended and hid nothing. Their rows are counted too.
    pub expired_tables: u64,
    /// The write-ahead log.
    pub wal: LogStats,
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
    /// Batches in the groups that were synced.
    pub wal_synced_batches: u64,
    /// Writes and syncs of synced groups.
    pub wal_sync_time: Timing,
    /// How often flushed segments were removed.
    pub wal_purges: u64,
    /// Segments that went then.
    pub wal_purged: u64,
    /// When that was last, by the wall clock, in milliseconds since 1970; 0: never.
    pub wal_purged_unix_ms: u64,
    /// Batches written or applied.
    pub batches: u64,
    /// Changes in them.
    pub changes: u64,
    /// Bytes of keys and values in them.
    pub change_bytes: u64,
    /// How long a written batch waited until its group was led. Applied ones never wait.
    pub write_wait: Timing,
    /// Waits of writers because background work fell behind: the slowdown before a stop.
    pub slowdown_time: Timing,
    /// Insertions of batches into the memtable.
    pub apply_time: Timing,
    /// Batches that wait for a leader just now.
    pub queue_depth: u64,
    /// Changes in them.
    pub queue_changes: u64,
    /// Bytes of keys and values in them.
    pub queue_bytes: u64,
    /// How long full memtables waited for their flush.
    pub flush_wait: Timing,
    /// Writing their tables.
    pub flush_build: Timing,
    /// Installing those, and removing what they made superfluous.
    pub flush_release: Timing,
    /// Whether a memtable is being flushed.
    pub flush_active: bool,
    /// Memtables flushed.
    pub flushes: u64,
    /// Bytes of the tables written by flushes.
    pub flush_bytes: u64,
    /// Compactions that rewrote tables.
    pub compactions: u64,
    /// Compactions that only moved tables a level down.
    pub compaction_moves: u64,
    /// Compactions that only made one of small tables of level 0.
    pub compaction_gathering: Timing,
    /// Tables that they took.
    pub compaction_gathered: u64,
    /// Compactions that merged all of level 0 with level 1.
    pub compaction_draining: Timing,
    /// Tables of level 0 that they took.
    pub compaction_drained: u64,
    /// Compactions that waited until writers paused: nothing was over its target, but newer rows hid many older ones.
    pub compactions_in_pauses: u64,
    /// Parts of compactions that were done in several at the same time.
    pub compaction_parts: u64,
    /// Bytes read by compactions.
    pub compaction_read_bytes: u64,
    /// Bytes written by compactions.
    pub compaction_write_bytes: u64,
    /// Compactions, moves included.
    pub compaction_time: Timing,
    /// Levels that are over their target.
    pub compaction_backlog: u64,
    /// How full the fullest level is; 1: at its target.
    pub compaction_score_max: f64,
    /// Whether compactions have done all that there is to do without another write. What is not urgent is done when nothing
    /// was flushed for five seconds.
    pub compaction_settled: bool,
    /// Bytes of background work that waited because of [`crate::Options::background_bytes_per_second`].
    pub background_waited_bytes: u64,
    /// Those waits.
    pub background_wait: Timing,
    /// Ranges of keys deleted as a whole, see [`crate::Db::delete_ranges`].
    pub ranges_deleted: u64,
    /// Tables that left that way, without being read.
    pub range_tables: u64,
    /// Tombstones that were written for rows in tables that stayed.
    pub range_tombstones: u64,
    /// Block reads answered by the cache, filters and index blocks included.
    pub cache_hits: u64,
    /// Block reads that the cache could not answer: they went to the disk, or to what a walk had fetched ahead.
    pub cache_misses: u64,
    /// Of the hits, those on filters and index blocks.
    pub cache_index_hits: u64,
    /// Of the misses, those on filters and index blocks.
    pub cache_index_misses: u64,
    /// What walks through tables fetched before they came to it.
    pub readahead: Readahead,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Lookups in a table that its filter answered.
    pub filter_rejections: u64,
    /// What key ranges of tables spared reads.
    pub pruning: Pruning,
    /// Tables out of use whose files are not removed yet.
    pub tables_obsolete: u64,
    /// The current manifest's number.
    pub manifest_number: u64,
    /// What [`crate::Db::pressure`] says.
    pub pressure: Pressure,
    /// How far the engine is from [`Pressure::None`] (0) to [`Pressure::Stop`] (1000).
    pub pressure_permille: u64,
}
