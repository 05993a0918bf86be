//! [`StatsSnapshot`]: what there is to count about a store, in one structure with the reference's names.
//!
//! The same structure is the `NoKV.Stats` of `/debug/vars`, made by the running store, and what `nokv stats` reads out of
//! a directory that nobody needs to have open. The names are an interface; what they mean here:
//!
//! - *Two logs.* The reference keeps raft records and engine records in one log. Here the engine's log (`NNNNN.wal`) holds
//!   what was written past raft, in a store little more than its first regions, and the raft log (`raft/NNNNN.raft`) is the
//!   log of everything else. `wal.active_segment`, `segment_count`, `active_size` and `segments_removed` are the engine's,
//!   `wal.raft_log` has the same of the raft log. Records are counted in the segments that are there.
//! - *The value log* is written once by flushes and compactions: nothing is appended to it, so heads never move
//!   (`head_updates`), and what nobody points at leaves with the edit of the manifest that removed the last pointer, so no
//!   deletion is pending and no discard is queued. Densities are value bytes for each byte of tables.
//! - *No ingest buffer.* Tables of level 0 are merged into level 1 at once, so all `ingest_*` members are 0.
//! - *No hot-key ring.* Load is measured per region (see `auto_split`), so `hot` is empty and nothing is limited by it.
//! - *One block cache* for all levels: `block_l0_hit_rate` and `block_l1_hit_rate` are both that of all data blocks,
//!   `index_hit_rate` that of index blocks and filters.
//! - *Range filter*: the tables that a read leaves out because of their key ranges; that always works, so there are no
//!   `fallbacks`.
//! - *No redis gateway and no transport watchdog*: their members are 0.
//!
//! Numbers of a running process are 0 when they are read from a directory, and [`StatsSnapshot::unavailable_offline`]
//! lists them.

use crate::catalog;
use crate::mode::{self, Mode};
use crate::status::{self, StoreStatus};
use crate::store::Shared;
use crate::{Error, Result};
use nokv_engine::{BucketStats, Db, Options, Pressure, Timing};
use nokv_env::Disk;
use nokv_proto::meta::v1::{RegionDescriptor, RegionReplicaState};
use nokv_replica::{BIRTH, Counters, LogStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Kind of the records in the engine's log.
const ENGINE_BATCH: u8 = 1;

/// Members that only a running process can fill. One that holds others stands for all of them.
pub const UNAVAILABLE_OFFLINE: [&str; 23] = [
    "cache",
    "compaction.ingest_merge_ms",
    "compaction.ingest_merge_runs",
    "compaction.ingest_merge_tables",
    "compaction.ingest_ms",
    "compaction.ingest_runs",
    "compaction.ingest_tables",
    "compaction.last_duration_ms",
    "compaction.max_duration_ms",
    "compaction.parts",
    "compaction.range_tables",
    "compaction.ranges_deleted",
    "compaction.runs",
    "compaction.waited_bytes",
    "compaction.waited_ms",
    "flush",
    "lsm.range_filter",
    "redis",
    "transport",
    "wal.auto_gc_last_unix",
    "wal.auto_gc_removed",
    "wal.auto_gc_runs",
    "write",
];

macro_rules! members {
    ($($(#[$doc:meta])* $name:ident { $($(#[$member:meta])* $field:ident: $kind:ty,)* })*) => {
        $(
            #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
            #[serde(default)]
            $(#[$doc])*
            pub struct $name {
                $($(#[$member])* pub $field: $kind,)*
            }
        )*
    };
}

members! {
    /// Everything.
    StatsSnapshot {
        /// Upper estimate of live entries: shadowed versions count until a compaction drops them.
        entries: u64,
        /// Making tables out of memtables.
        flush: FlushStats,
        /// Merging tables.
        compaction: CompactionStats,
        /// The value log.
        value_log: ValueLogStats,
        /// The engine's log, and the raft log.
        wal: WalStats,
        /// Raft groups and the log segments that they need.
        raft: RaftStats,
        /// Writes to the engine.
        write: WriteStats,
        /// Regions in the local catalog.
        region: RegionStats,
        /// Empty: there is no hot-key ring.
        hot: HotStats,
        /// The block cache.
        cache: CacheStats,
        /// The tree.
        lsm: LsmStats,
        /// Raft messages to other stores.
        transport: TransportStats,
        /// All 0: there is no redis gateway in a store.
        redis: RedisStats,
        /// Ours: members that are 0 because they live in a running process only; empty when this is one.
        unavailable_offline: Vec<String>,
        /// Ours: members that are 0 because the caller did not want them.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        omitted: Vec<String>,
        /// What else there is: of a running store `store`, its regions one by one.
        #[serde(flatten)]
        extra: BTreeMap<String, Value>,
    }

    /// Making tables out of memtables.
    FlushStats {
        /// Memtables that wait for their flush, or are in it.
        pending: u64,
        /// The same; the queue is the memtables themselves.
        queue_length: u64,
        /// Whether one is being flushed: 0 or 1.
        active: u64,
        /// How long full memtables waited, all together.
        wait_ms: f64,
        /// How long the last one waited.
        last_wait_ms: f64,
        /// How long the most patient one waited.
        max_wait_ms: f64,
        /// Writing the tables, all together.
        build_ms: f64,
        /// Writing the last one.
        last_build_ms: f64,
        /// Writing the one that took longest.
        max_build_ms: f64,
        /// Installing tables and removing log segments, all together.
        release_ms: f64,
        /// The last time.
        last_release_ms: f64,
        /// The longest time.
        max_release_ms: f64,
        /// Memtables flushed.
        completed: u64,
    }

    /// Merging tables.
    CompactionStats {
        /// Levels that are over their target.
        backlog: u64,
        /// How full the fullest level is; 1 is at its target. Offline by the targets that `nokv serve` works with.
        max_score: f64,
        /// How long the last compaction took.
        last_duration_ms: f64,
        /// How long the longest took.
        max_duration_ms: f64,
        /// Compactions, tables that were only moved included.
        runs: u64,
        /// Compactions that merged all of level 0, which takes the bursts, with level 1.
        ingest_runs: u64,
        /// Compactions that only made one of small tables of level 0.
        ingest_merge_runs: u64,
        /// How long the former took, all together.
        ingest_ms: f64,
        /// How long the latter took, all together.
        ingest_merge_ms: f64,
        /// Tables of level 0 that the former took.
        ingest_tables: u64,
        /// Tables that the latter took.
        ingest_merge_tables: u64,
        /// 0: values have no weight of their own.
        value_weight: f64,
        /// 0.
        value_weight_suggested: f64,
        /// Ours: ranges of keys that were deleted as a whole, as those of regions that left.
        ranges_deleted: u64,
        /// Ours: tables that left that way, unread.
        range_tables: u64,
        /// Ours: parts of compactions that were done in several at the same time.
        parts: u64,
        /// Ours: bytes of flushes and compactions that waited for `--background-bytes-per-second`.
        waited_bytes: u64,
        /// Ours: those waits, all together.
        waited_ms: f64,
    }

    /// The value log.
    ValueLogStats {
        /// Live segments.
        segments: u64,
        /// 0: what nobody points at is gone already.
        pending_deletes: u64,
        /// 0: what nobody points at is gone already.
        discard_queue: u64,
        /// The newest segment of every bucket that has one, by bucket.
        heads: BTreeMap<String, ValueLogHead>,
        /// Collecting garbage.
        gc: ValueLogGc,
        /// Ours: bytes of live segments.
        total_bytes: u64,
        /// Ours: bytes of them that tables point at; the rest is garbage.
        live_bytes: u64,
    }

    /// The end of one bucket.
    #[serde(rename_all = "PascalCase")]
    ValueLogHead {
        /// 0: a segment ends where it ends.
        len: u64,
        /// Length of the segment.
        offset: u64,
        /// The segment's number.
        fid: u64,
        /// The bucket.
        bucket: u64,
    }

    /// Collecting garbage of the value log.
    ValueLogGc {
        /// Collections made for their own sake; compactions that pass collect too.
        gc_runs: u64,
        /// Segments that nobody pointed at any more, and that went.
        segments_removed: u64,
        /// 0.
        head_updates: u64,
        /// 0.
        gc_active: u64,
        /// 0.
        gc_scheduled: u64,
        /// 0.
        gc_throttled: u64,
        /// 0.
        gc_skipped: u64,
        /// 0.
        gc_rejected: u64,
        /// 0.
        gc_parallelism: u64,
        /// Ours: bytes of values that moved into new segments.
        moved_bytes: u64,
    }

    /// The engine's log, and the raft log.
    WalStats {
        /// The engine's segment that takes writes.
        active_segment: u64,
        /// The engine's segments.
        segment_count: u64,
        /// Bytes of the active one.
        active_size: u64,
        /// Segments of the engine that were removed since the directory was made.
        segments_removed: u64,
        /// Records in the segments of both logs.
        record_counts: RecordCounts,
        /// Segments of the raft log: the engine's hold no raft records.
        segments_with_raft_records: u64,
        /// Segments of the raft log that no group needs.
        removable_raft_segments: u64,
        /// Share of raft records among all.
        typed_record_ratio: f64,
        /// Never: raft records hold no segment of the engine back.
        typed_record_warning: bool,
        /// Empty.
        typed_record_reason: String,
        /// How often segments that nobody needs were removed, of either log, since the start.
        auto_gc_runs: u64,
        /// Segments that went then.
        auto_gc_removed: u64,
        /// When that was last, in seconds since 1970; 0: never.
        auto_gc_last_unix: u64,
        /// Ours: bytes of all segments of the engine.
        total_size: u64,
        /// Ours: bytes of an unfinished write at the end of the engine's log: cut at the start of this process, or, of a
        /// directory, what the next start cuts.
        torn_bytes: u64,
        /// Ours: the raft log.
        raft_log: RaftLogStats,
    }

    /// Records by what they hold.
    RecordCounts {
        /// Batches of the engine.
        entries: u64,
        /// Records with raft entries; each may hold many.
        raft_entries: u64,
        /// Records of where a group stands: hard state, members of the log, truncations.
        raft_states: u64,
        /// Records of snapshots that are, or were, installed.
        raft_snapshots: u64,
        /// All other.
        other: u64,
    }

    /// The raft log of a store.
    RaftLogStats {
        /// The segment that takes writes; 0: there is no raft log.
        active_segment: u64,
        /// Segments.
        segment_count: u64,
        /// Bytes of the active one.
        active_size: u64,
        /// Bytes of them all.
        total_size: u64,
        /// Segments that were removed since the directory was made.
        segments_removed: u64,
        /// Syncs since the start.
        sync_count: u64,
    }

    /// Raft groups and the log segments that they need.
    RaftStats {
        /// Groups that have something in the raft log.
        group_count: u64,
        /// Groups that hold more than `lag_warn_threshold` segments back.
        lagging_groups: u64,
        /// The oldest segment that some group needs.
        min_log_segment: u64,
        /// The newest segment.
        max_log_segment: u64,
        /// How far both are apart.
        max_lag_segments: u64,
        /// From how many segments on groups are pressed to let go of the oldest.
        lag_warn_threshold: u64,
        /// Whether any group lags.
        lag_warning: bool,
    }

    /// Writes to the engine. In a store what raft has agreed upon is applied without a second log, so the log that is
    /// synced is the raft log.
    WriteStats {
        /// Batches that wait for the group that takes them along.
        queue_depth: u64,
        /// Changes in them.
        queue_entries: u64,
        /// Bytes of their keys and values.
        queue_bytes: u64,
        /// Changes of a batch.
        avg_batch_entries: f64,
        /// Bytes of keys and values of a batch.
        avg_batch_bytes: f64,
        /// How long a batch waited for its group; applied ones do not wait.
        avg_request_wait_ms: f64,
        /// 0: writes do not touch the value log.
        avg_vlog_ms: f64,
        /// Inserting a batch into the memtable.
        avg_apply_ms: f64,
        /// A write and sync of either log.
        avg_sync_ms: f64,
        /// What shares one sync: batches in the engine's log, entries in the raft log.
        avg_sync_batch: f64,
        /// Syncs of both logs.
        sync_count: u64,
        /// Batches written or applied.
        batches_total: u64,
        /// Whether writers are held back at all.
        throttle_active: bool,
        /// Whether they are asked for less.
        slowdown_active: bool,
        /// `none`, `slowdown` or `stop`.
        throttle_mode: String,
        /// From 0 (slow down) to 1000 (stop).
        throttle_pressure_permille: u64,
        /// 0: writers are not held to a rate.
        throttle_rate_bytes_per_sec: u64,
        /// 0: no key is limited.
        hot_key_limited: u64,
    }

    /// Regions in the local catalog by their state here.
    RegionStats {
        /// All.
        total: u64,
        /// Not running yet.
        new: u64,
        /// Running.
        running: u64,
        /// On their way out.
        removing: u64,
        /// What is left of those that went.
        tombstone: u64,
        /// All other: being merged, or of an unknown state.
        other: u64,
        /// Ours: of `other`, those that are being merged.
        merging: u64,
    }

    /// Keys that are written most.
    HotStats {
        /// Empty.
        write_keys: Vec<HotKey>,
        /// All 0.
        write_ring: HotRing,
    }

    /// A key and how often it was written.
    HotKey {
        /// The key.
        key: String,
        /// Writes.
        count: u64,
    }

    /// The ring that there is not.
    HotRing {
        /// 0.
        buckets: u64,
        /// 0.
        nodes: u64,
        /// 0.
        load_factor: f64,
        /// 0.
        window_slots: u64,
        /// 0.
        window_slot_duration: u64,
        /// 0.
        decay_interval: u64,
        /// 0.
        decay_shift: u64,
        /// 0.
        node_cap: u64,
        /// 0.
        sample_mask: u64,
        /// 0.
        touches: u64,
        /// 0.
        inserts: u64,
        /// 0.
        removes: u64,
        /// 0.
        clamps: u64,
        /// 0.
        sample_drops: u64,
        /// 0.
        decay_runs: u64,
        /// 0.
        last_decay_unix: u64,
    }

    /// The block cache since the start.
    CacheStats {
        /// Share of reads of data blocks that the cache answered; one cache for all levels.
        block_l0_hit_rate: f64,
        /// The same number.
        block_l1_hit_rate: f64,
        /// Share of reads of index blocks and filters that the cache answered.
        index_hit_rate: f64,
        /// 0: iterators are not kept.
        iterator_reused: u64,
    }

    /// The tree.
    LsmStats {
        /// All levels, newest first.
        levels: Vec<LevelStats>,
        /// Bytes of the value log that tables point at.
        value_bytes_total: u64,
        /// The largest density of a level.
        value_density_max: f64,
        /// Never: a high density is what the value log is for.
        value_density_alert: bool,
        /// What key ranges of tables spared reads.
        range_filter: RangeFilterStats,
    }

    /// One level.
    LevelStats {
        /// Which; 0 is the newest.
        level: u64,
        /// Tables.
        tables: u64,
        /// Bytes of their files.
        size_bytes: u64,
        /// Bytes of the value log that its tables point at.
        value_bytes: u64,
        /// 0: tables do not know what of them is stale; `tombstones` hints at it.
        stale_bytes: u64,
        /// 0.
        ingest_tables: u64,
        /// 0.
        ingest_size_bytes: u64,
        /// 0.
        ingest_value_bytes: u64,
        /// Value bytes for each byte of its tables.
        value_density: f64,
        /// 0.
        ingest_value_density: f64,
        /// 0.
        ingest_runs: u64,
        /// 0.
        ingest_ms: f64,
        /// 0.
        ingest_tables_compacted: u64,
        /// 0.
        ingest_merge_runs: u64,
        /// 0.
        ingest_merge_ms: f64,
        /// 0.
        ingest_merge_tables: u64,
        /// Ours: entries, tombstones included.
        entries: u64,
        /// Ours: tombstones.
        tombstones: u64,
    }

    /// Tables that reads left out.
    RangeFilterStats {
        /// Tables there were at each lookup of a key, added up.
        point_candidates: u64,
        /// Of those, left out by their key range.
        point_pruned: u64,
        /// Tables there were at each walk of a range, added up.
        bounded_candidates: u64,
        /// Of those, left out by their key range.
        bounded_pruned: u64,
        /// 0: the ranges of tables are always known.
        fallbacks: u64,
        /// Ours: lookups in a table that its bloom filter answered.
        bloom_rejections: u64,
    }

    /// Raft messages to other stores since the start.
    #[serde(rename_all = "PascalCase")]
    TransportStats {
        /// Streams opened.
        dials_total: u64,
        /// Streams that broke, or could not be opened.
        dial_failures: u64,
        /// Messages that were to be sent.
        send_attempts: u64,
        /// Of those, messages that went to a stream.
        send_successes: u64,
        /// Of those, messages that were dropped; raft sends again what matters.
        send_failures: u64,
        /// 0: the transport itself never repeats.
        retries: u64,
        /// 0.
        retry_exhausted: u64,
        /// 0: no peer is ever blocked.
        blocked_peers: u64,
        /// When a stream was lost last, in seconds since 1970; 0: never.
        last_failure_unix: u64,
        /// Never: there is no watchdog.
        watchdog_active: bool,
        /// 0.
        watchdog_consecutive_fails: u64,
        /// 0.
        watchdog_threshold: u64,
        /// Empty.
        watchdog_reason: String,
    }

    /// A redis gateway.
    RedisStats {
        /// 0.
        commands_total: u64,
        /// 0.
        errors_total: u64,
        /// 0.
        connections_active: u64,
        /// 0.
        connections_accepted: u64,
        /// `null`.
        commands_per_operation: Option<BTreeMap<String, u64>>,
    }
}

impl StatsSnapshot {
    /// Reads a directory and changes nothing in it. `regions`: whether to count regions.
    ///
    /// A stand-alone database has no regions and no raft log.
    pub fn offline(disk: &Arc<dyn Disk>, workdir: &Path, regions: bool) -> Result<Self> {
        let mode = mode::read(&**disk, workdir)?;
        let db = Db::open_read_only(disk.clone(), workdir, Options::default())?;
        let raft = nokv_replica::inspect::read(disk, &workdir.join(RAFT_DIR))?;
        let catalog = match mode.mode {
            _ if !regions => Vec::new(),
            Mode::Standalone => Vec::new(),
            _ => catalog::read(&db)?,
        };
        let mut snapshot = Self::of(&db.stats(), &raft.status, None, catalog.iter());
        // What the open itself did to counters is no news of the database.
        (snapshot.flush, snapshot.cache) = (FlushStats::default(), CacheStats::default());
        snapshot.write = WriteStats { throttle_mode: mode_name(Pressure::None), ..WriteStats::default() };
        snapshot.lsm.range_filter = RangeFilterStats::default();
        snapshot.unavailable_offline = UNAVAILABLE_OFFLINE.map(str::to_owned).to_vec();
        Ok(if regions { snapshot } else { snapshot.without_regions() })
    }

    /// Takes the regions out, and says so.
    pub fn without_regions(mut self) -> Self {
        self.region = RegionStats::default();
        self.omitted = vec!["region".to_owned()];
        self
    }

    fn of<'a>(
        engine: &nokv_engine::Stats,
        log: &LogStatus,
        raft: Option<&Counters>,
        regions: impl Iterator<Item = &'a RegionDescriptor>,
    ) -> Self {
        Self {
            entries: engine.entries,
            flush: flush(engine),
            compaction: CompactionStats {
                backlog: engine.compaction_backlog,
                max_score: rounded(engine.compaction_score_max),
                last_duration_ms: ms(engine.compaction_time.last),
                max_duration_ms: ms(engine.compaction_time.max),
                runs: engine.compaction_time.count,
                ingest_runs: engine.compaction_draining.count,
                ingest_merge_runs: engine.compaction_gathering.count,
                ingest_ms: ms(engine.compaction_draining.total),
                ingest_merge_ms: ms(engine.compaction_gathering.total),
                ingest_tables: engine.compaction_drained,
                ingest_merge_tables: engine.compaction_gathered,
                ranges_deleted: engine.ranges_deleted,
                range_tables: engine.range_tables,
                parts: engine.compaction_parts,
                waited_bytes: engine.background_waited_bytes,
                waited_ms: ms(engine.background_wait.total),
                ..CompactionStats::default()
            },
            wal: wal(engine, log, raft),
            raft: RaftStats {
                group_count: log.groups,
                lagging_groups: log.lagging,
                min_log_segment: log.oldest_needed,
                max_log_segment: log.log.active_segment,
                max_lag_segments: log.lag_max,
                lag_warn_threshold: LogStatus::LAG_WARN,
                lag_warning: log.lagging > 0,
            },
            write: write(engine, raft),
            region: count(regions),
            cache: CacheStats {
                block_l0_hit_rate: data_hit_rate(engine),
                block_l1_hit_rate: data_hit_rate(engine),
                index_hit_rate: ratio(
                    engine.cache_index_hits,
                    engine.cache_index_hits + engine.cache_index_misses,
                ),
                iterator_reused: 0,
            },
            value_log: value_log(engine),
            lsm: lsm(engine),
            transport: raft.map(transport).unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// Where a store keeps its raft log.
pub const RAFT_DIR: &str = "raft";

/// A running store, with its regions one by one.
pub(crate) fn collect(shared: &Shared) -> StatsSnapshot {
    let regions: Vec<_> = shared.door.regions.all().into_iter().map(|region| region.descriptor()).collect();
    let (log, counters) = (shared.raft.log_status(), shared.raft.counters());
    let mut snapshot =
        StatsSnapshot::of(&shared.db.stats(), &log, Some(counters), regions.iter().map(|region| &**region));
    let status: StoreStatus = status::collect(shared);
    if let Ok(status) = serde_json::to_value(&status) {
        snapshot.extra.insert("store".to_owned(), status);
    }
    snapshot
}

fn flush(engine: &nokv_engine::Stats) -> FlushStats {
    FlushStats {
        pending: engine.memtables_immutable,
        queue_length: engine.memtables_immutable,
        active: u64::from(engine.flush_active),
        wait_ms: ms(engine.flush_wait.total),
        last_wait_ms: ms(engine.flush_wait.last),
        max_wait_ms: ms(engine.flush_wait.max),
        build_ms: ms(engine.flush_build.total),
        last_build_ms: ms(engine.flush_build.last),
        max_build_ms: ms(engine.flush_build.max),
        release_ms: ms(engine.flush_release.total),
        last_release_ms: ms(engine.flush_release.last),
        max_release_ms: ms(engine.flush_release.max),
        completed: engine.flushes,
    }
}

fn wal(engine: &nokv_engine::Stats, log: &LogStatus, raft: Option<&Counters>) -> WalStats {
    let load = |counter: fn(&Counters) -> &AtomicU64| {
        raft.map_or(0, |counters| counter(counters).load(Ordering::Relaxed))
    };
    let batches = engine.wal.records.of(ENGINE_BATCH);
    let raft_records = log.log.records.total();
    WalStats {
        active_segment: engine.wal.active_segment,
        segment_count: engine.wal.segments,
        active_size: engine.wal.active_bytes,
        segments_removed: engine.wal.segments_removed,
        record_counts: RecordCounts {
            entries: batches,
            raft_entries: log.appends(),
            raft_states: log.states(),
            raft_snapshots: log.snapshots(),
            other: log.others() + engine.wal.records.total() - batches,
        },
        segments_with_raft_records: log.log.segments,
        removable_raft_segments: removable(log),
        typed_record_ratio: ratio(raft_records, raft_records + engine.wal.records.total()),
        auto_gc_runs: engine.wal_purges + load(|raft| &raft.purges),
        auto_gc_removed: engine.wal_purged + load(|raft| &raft.purged),
        auto_gc_last_unix: engine.wal_purged_unix_ms.max(load(|raft| &raft.purged_unix_ms)) / 1000,
        total_size: engine.wal.bytes,
        torn_bytes: engine.wal_torn_bytes,
        raft_log: RaftLogStats {
            active_segment: log.log.active_segment,
            segment_count: log.log.segments,
            active_size: log.log.active_bytes,
            total_size: log.log.bytes,
            segments_removed: log.log.segments_removed,
            sync_count: load(|raft| &raft.syncs),
        },
        ..WalStats::default()
    }
}

/// Segments from the oldest that is there up to the oldest that is needed.
fn removable(log: &LogStatus) -> u64 {
    let oldest = log.log.segments_removed + 1;
    log.oldest_needed.saturating_sub(oldest)
}

fn write(engine: &nokv_engine::Stats, raft: Option<&Counters>) -> WriteStats {
    let load = |counter: fn(&Counters) -> &AtomicU64| {
        raft.map_or(0, |counters| counter(counters).load(Ordering::Relaxed))
    };
    let (raft_syncs, raft_nanos) = (load(|raft| &raft.syncs), load(|raft| &raft.sync_nanos));
    let sync_count = engine.wal_syncs + raft_syncs;
    let synced = engine.wal_synced_batches + load(|raft| &raft.entries);
    let sync_time = engine.wal_sync_time.total + Duration::from_nanos(raft_nanos);
    WriteStats {
        queue_depth: engine.queue_depth,
        queue_entries: engine.queue_changes,
        queue_bytes: engine.queue_bytes,
        avg_batch_entries: ratio(engine.changes, engine.batches),
        avg_batch_bytes: ratio(engine.change_bytes, engine.batches),
        avg_request_wait_ms: average(engine.write_wait),
        avg_vlog_ms: 0.0,
        avg_apply_ms: average(engine.apply_time),
        avg_sync_ms: average(Timing { count: sync_count, total: sync_time, ..Timing::default() }),
        avg_sync_batch: ratio(synced, sync_count),
        sync_count,
        batches_total: engine.batches,
        throttle_active: engine.pressure != Pressure::None,
        slowdown_active: engine.pressure == Pressure::Slowdown,
        throttle_mode: mode_name(engine.pressure),
        throttle_pressure_permille: engine.pressure_permille,
        throttle_rate_bytes_per_sec: 0,
        hot_key_limited: 0,
    }
}

fn mode_name(pressure: Pressure) -> String {
    let name = match pressure {
        Pressure::None => "none",
        Pressure::Slowdown => "slowdown",
        Pressure::Stop => "stop",
    };
    name.to_owned()
}

fn value_log(engine: &nokv_engine::Stats) -> ValueLogStats {
    let head = |(bucket, stats): (usize, &BucketStats)| {
        let (fid, offset) = stats.newest?;
        Some((bucket.to_string(), ValueLogHead { len: 0, offset, fid, bucket: bucket as u64 }))
    };
    let sum = |of: fn(&BucketStats) -> u64| engine.buckets.iter().map(of).sum();
    ValueLogStats {
        segments: sum(|bucket| bucket.segments),
        heads: engine.buckets.iter().enumerate().filter_map(head).collect(),
        gc: ValueLogGc {
            gc_runs: engine.collections,
            segments_removed: engine.segments_removed,
            moved_bytes: engine.collected_bytes,
            ..ValueLogGc::default()
        },
        total_bytes: sum(|bucket| bucket.bytes),
        live_bytes: sum(|bucket| bucket.live_bytes),
        ..ValueLogStats::default()
    }
}

fn lsm(engine: &nokv_engine::Stats) -> LsmStats {
    let level = |(number, level): (usize, &nokv_engine::LevelStats)| LevelStats {
        level: number as u64,
        tables: level.tables,
        size_bytes: level.bytes,
        entries: level.entries,
        tombstones: level.tombstones,
        value_bytes: level.value_bytes,
        value_density: rounded(ratio(level.value_bytes, level.bytes)),
        ..LevelStats::default()
    };
    let levels: Vec<LevelStats> = engine.levels.iter().enumerate().map(level).collect();
    LsmStats {
        value_bytes_total: levels.iter().map(|level| level.value_bytes).sum(),
        value_density_max: levels.iter().map(|level| level.value_density).fold(0.0, f64::max),
        levels,
        range_filter: RangeFilterStats {
            point_candidates: engine.pruning.point_candidates,
            point_pruned: engine.pruning.point_pruned,
            bounded_candidates: engine.pruning.bounded_candidates,
            bounded_pruned: engine.pruning.bounded_pruned,
            fallbacks: 0,
            bloom_rejections: engine.filter_rejections,
        },
        ..LsmStats::default()
    }
}

fn transport(raft: &Counters) -> TransportStats {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (sent, dropped) = (load(&raft.messages_sent), load(&raft.messages_dropped));
    TransportStats {
        dials_total: load(&raft.streams),
        dial_failures: load(&raft.streams_lost),
        send_attempts: sent + dropped,
        send_successes: sent,
        send_failures: dropped,
        last_failure_unix: load(&raft.stream_lost_unix_ms) / 1000,
        ..TransportStats::default()
    }
}

fn count<'a>(regions: impl Iterator<Item = &'a RegionDescriptor>) -> RegionStats {
    let mut stats = RegionStats::default();
    for region in regions {
        stats.total += 1;
        match region.state() {
            RegionReplicaState::New => stats.new += 1,
            RegionReplicaState::Running => stats.running += 1,
            RegionReplicaState::Removing => stats.removing += 1,
            RegionReplicaState::Tombstone => stats.tombstone += 1,
            RegionReplicaState::Merging => {
                (stats.other, stats.merging) = (stats.other + 1, stats.merging + 1);
            }
            RegionReplicaState::Unspecified => stats.other += 1,
        }
    }
    stats
}

fn data_hit_rate(engine: &nokv_engine::Stats) -> f64 {
    let hits = engine.cache_hits - engine.cache_index_hits;
    ratio(hits, hits + engine.cache_misses - engine.cache_index_misses)
}

/// Three decimals are enough for people and spare the others noise.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn ms(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0)
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { rounded(part as f64 / whole as f64) }
}

fn average(timing: Timing) -> f64 {
    if timing.count == 0 { 0.0 } else { rounded(timing.total.as_secs_f64() * 1000.0 / timing.count as f64) }
}

/// Reads the local catalog of a directory and changes nothing in it. Empty when it is stand-alone.
pub fn offline_regions(disk: &Arc<dyn Disk>, workdir: &Path) -> Result<(Mode, Vec<RegionDescriptor>)> {
    let mode = mode::read(&**disk, workdir)?.mode;
    let db = Db::open_read_only(disk.clone(), workdir, Options::default())?;
    let regions = if mode == Mode::Standalone { Vec::new() } else { catalog::read(&db)? };
    Ok((mode, regions))
}

/// Checks everything in a store's directory: mode file, engine, raft log, and whether catalog and raft log fit together.
///
/// `deep` also decodes what is sound and compares it. Nothing is changed; damage is in what it returns.
pub fn check_workdir(
    disk: &Arc<dyn Disk>,
    workdir: &Path,
    deep: bool,
) -> Result<nokv_engine::inspect::Checked> {
    let mut checked = nokv_engine::inspect::check(&**disk, workdir, deep)?;
    let mode = match mode::read(&**disk, workdir) {
        Ok(state) => Some(state),
        Err(Error::BadMode { path, what }) => {
            checked.found(&path, 0, what);
            None
        }
        Err(error) => return Err(error),
    };
    nokv_replica::inspect::check(disk, &workdir.join(RAFT_DIR), &mut checked)?;
    // What follows from damage that is listed already is no second one.
    if let Some(mode) = mode.filter(|mode| mode.mode != Mode::Standalone && checked.findings.is_empty()) {
        check_catalog(disk, workdir, mode.store_id, &mut checked)?;
    }
    Ok(checked)
}

/// Each region that runs here must find in the raft log what it lacks.
fn check_catalog(
    disk: &Arc<dyn Disk>,
    workdir: &Path,
    store_id: u64,
    checked: &mut nokv_engine::inspect::Checked,
) -> Result<()> {
    let manifest = nokv_engine::inspect::manifest(&**disk, workdir)?.map(|manifest| manifest.file);
    let manifest = manifest.unwrap_or_else(|| workdir.to_owned());
    let db = Db::open_read_only(disk.clone(), workdir, Options::default())?;
    let entries = match catalog::read_entries(&db) {
        Ok(entries) => entries,
        Err(error @ Error::BadCatalog { .. }) => {
            checked.found(&manifest, 0, error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let log = nokv_replica::inspect::read(disk, &workdir.join(RAFT_DIR))?;
    for entry in &entries {
        let Some(config) = crate::store::group_config(entry, store_id) else { continue };
        let (id, applied) = (entry.region.region_id, entry.applied.index);
        let Some(group) = log.groups.get(&config.group) else {
            // Only a region that has not begun yet has no log.
            let newborn = config.born && (config.applied_index, config.applied_term) == BIRTH;
            if applied > 0 && !newborn {
                let what = format!("region {id}: applied up to {applied}, but the raft log does not know it");
                checked.found(&workdir.join(RAFT_DIR), 0, what);
            }
            continue;
        };
        let what = if group.peer != config.peer {
            format!(
                "region {id}: the raft log is of peer {}, the catalog of peer {}",
                group.peer, config.peer
            )
        } else if group.is_installing {
            continue; // the next start completes it or forgets it
        } else if applied < group.base_index {
            format!(
                "region {id}: applied up to {applied}, but the raft log begins behind {}",
                group.base_index
            )
        } else if applied > group.last_index {
            format!("region {id}: applied up to {applied}, but the raft log ends at {}", group.last_index)
        } else {
            continue;
        };
        checked.found(&workdir.join(RAFT_DIR), 0, what);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_the_reference_are_there() {
        let json = serde_json::to_value(StatsSnapshot::default()).unwrap();
        for path in UNAVAILABLE_OFFLINE {
            let found = path.split('.').try_fold(&json, |value, name| value.get(name));
            assert!(found.is_some(), "{path}");
        }
        assert_eq!(json["transport"]["WatchdogConsecutiveFails"], 0);
        assert_eq!(json["redis"]["commands_per_operation"], Value::Null);
        let head = serde_json::to_value(ValueLogHead::default()).unwrap();
        assert_eq!(head, serde_json::json!({"Len": 0, "Offset": 0, "Fid": 0, "Bucket": 0}));
    }

    #[test]
    fn a_snapshot_comes_back_from_its_json_whatever_else_is_in_it() {
        let mut snapshot = StatsSnapshot { entries: 7, ..StatsSnapshot::default() };
        snapshot.extra.insert("store".to_owned(), serde_json::json!({"store_id": 3}));
        let text = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<StatsSnapshot>(&text).unwrap(), snapshot);
        let partial: StatsSnapshot =
            serde_json::from_str(r#"{"entries": 1, "flush": {"pending": 2}}"#).unwrap();
        assert_eq!((partial.entries, partial.flush.pending, partial.lsm.levels.len()), (1, 2, 0));
    }
}
