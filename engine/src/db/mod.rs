//! The front door: [`Db`], and what all of its parts share.
//!
//! - `recover`: opening, step by step.
//! - `write`: [`Db::write`] with group commit, [`Db::apply`], and the switch to a new memtable.
//! - `flush`, `compact`: the two background loops; a large compaction has further tasks for its parts.
//! - `delete_range`: ranges of keys that go as tables.
//! - `import`: many changes at once, as a table; `export`, `ingest`: rows as table files, from one database to another.
//! - `expiry`: rows that have an end.
//! - `checkpoint`: a copy of the whole database by hard links.
//! - `ranges`: how much there is between two keys.
//!
//! Locks, always taken in this order and never across an await: `wal` → `writer` → `view`, and apart from those
//! `manifest` → `compacting` → `view`. Invariants:
//!
//! - A segment of the write-ahead log holds records of one memtable only, or of that memtable's predecessors that
//!   are in tables already: the log rolls whenever the memtable switches while the segment is occupied.
//! - Sequences are given out under `writer` and become visible in order.
//! - Everything at or below `flushed_sequence` is in durable tables that a durable manifest names.

mod checkpoint;
mod compact;
mod delete_range;
mod expiry;
mod export;
mod flush;
mod import;
mod ingest;
mod new_files;
mod queue;
mod ranges;
mod recover;
#[cfg(test)]
mod tests;
mod write;

use crate::batch::WriteBatch;
use crate::cache::BlockCache;
use crate::compaction::pick;
use crate::log::Log;
use crate::manifest::Manifest;
use crate::pace::{Limiter, Relief};
use crate::stats::Timer;
use crate::table::{Sought, TableContext};
use crate::view::{View, Views};
use crate::{Cf, Error, Options, Pressure, Result, Snapshot, Stats, lock};
use bytes::Bytes;
use compact::Compacting;
use nokv_env::disk::LockGuard;
use nokv_env::task::Stop;
use nokv_env::{Disk, Env, Instant};
use queue::Queue;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use write::encode_batch;
pub(crate) use write::{KIND_BATCH, decode_batch};

pub use delete_range::RangesDeleted;
pub use export::ExportedTable;
pub use import::{Import, Imported};
pub use ingest::Ingested;

/// How [`Db::write`] acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Whether the write is on disk before it is acknowledged. Otherwise the operating system has it: it survives
    /// the end of the process, not of the machine.
    pub sync: bool,
}

/// An open database. Clones share it. When the last clone goes, background work stops by itself; to know that it
/// has (for instance to open the directory again), use [`Db::close`].
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
    _stop_on_drop: Arc<StopOnDrop>,
}

/// What the handles and the background loops share.
pub(crate) struct Inner {
    env: Option<Env>,
    options: Options,
    context: TableContext,
    view: Views,
    /// Writes up to this sequence are visible.
    visible: AtomicU64,
    /// Sequence of the newest batch: the last one that a flush makes durable. Imports take sequences too.
    written: AtomicU64,
    flushed: AtomicU64,
    next_file: AtomicU64,
    /// The time by which a database that is open for reading only judges rows that have an end.
    read_at: u64,
    /// `None` when open for reading only.
    wal: Mutex<Option<Log>>,
    /// Serialises insertion into the memtable; holds the last sequence given out.
    writer: Mutex<u64>,
    queue: Mutex<Queue>,
    manifest: Mutex<Option<Manifest>>,
    compacting: Mutex<Compacting>,
    /// The last thing that took room on the disk was refused it.
    disk_full: AtomicBool,
    /// Attempts at a flush that found the disk full, and what the last of them was told.
    flushes_refused: Mutex<(u64, Option<Error>)>,
    failure: Mutex<Option<Error>>,
    directory_lock: Mutex<Option<Box<dyn LockGuard>>>,
    stop: Stop,
    /// Background loops that are running.
    loops: AtomicU64,
    flush_work: Notify,
    /// The log was synced, and [`Log::settle`] has not been called since.
    settle_due: AtomicBool,
    compact_work: Notify,
    /// How often tables came or went that compactions have to look at.
    compact_asked: AtomicU64,
    /// How often that was so when nothing was left to do.
    compact_settled: AtomicU64,
    /// How fast background work may go.
    limiter: Limiter,
    /// Callers that wait for a flush.
    flush_waiters: AtomicU64,
    /// A flush or compaction was installed, something failed, or a loop ended.
    progress: Notify,
    counters: Counters,
}

/// Running totals.
#[derive(Default)]
struct Counters {
    torn_bytes: AtomicU64,
    wal_groups: AtomicU64,
    wal_syncs: AtomicU64,
    wal_synced_batches: AtomicU64,
    wal_sync_time: Timer,
    wal_purges: AtomicU64,
    wal_purged: AtomicU64,
    wal_purged_unix_ms: AtomicU64,
    batches: AtomicU64,
    changes: AtomicU64,
    change_bytes: AtomicU64,
    write_wait: Timer,
    /// Nanoseconds that writers owe to a slowdown and have not waited yet.
    slowdown_owed: AtomicU64,
    slowdown_time: Timer,
    apply_time: Timer,
    flush_wait: Timer,
    flush_build: Timer,
    flush_release: Timer,
    flush_active: AtomicBool,
    flushes: AtomicU64,
    flush_bytes: AtomicU64,
    compactions: AtomicU64,
    compaction_moves: AtomicU64,
    gathering: Timer,
    gathered: AtomicU64,
    draining: Timer,
    drained: AtomicU64,
    compactions_in_pauses: AtomicU64,
    compaction_parts: AtomicU64,
    compaction_read_bytes: AtomicU64,
    compaction_write_bytes: AtomicU64,
    compaction_time: Timer,
    ranges_deleted: AtomicU64,
    range_tables: AtomicU64,
    range_tombstones: AtomicU64,
    collections: AtomicU64,
    collected_bytes: AtomicU64,
    segments_removed: AtomicU64,
    expired_rows: AtomicU64,
    expired_tables: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Where between `low` and `high` a value is, from 0 to 1000.
fn between(value: usize, low: usize, high: usize) -> u64 {
    match value.checked_sub(low) {
        None => 0,
        Some(_) if value >= high => 1000,
        Some(over) => over as u64 * 1000 / (high - low) as u64,
    }
}

struct StopOnDrop(Arc<Inner>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.begin_stop();
    }
}

impl Db {
    /// Opens the database in `dir`, creating it if the directory holds none. Takes the directory's `LOCK`, recovers
    /// what a crash left, and starts background work on `env.tasks`.
    ///
    /// Fails with [`Error::Locked`] when somebody has it open, [`Error::Owned`] when it is a store's and the caller is not the
    /// store, [`Error::InvalidOption`], [`Error::MissingCurrent`] or [`Error::Corrupt`] when something is missing or damaged
    /// (nothing has changed then that the next attempt could miss), and [`Error::Io`].
    pub async fn open(env: &Env, dir: &Path, options: Options) -> Result<Db> {
        let inner = recover::open(env, dir, options)?;
        env.tasks.yield_now().await;
        Inner::start_loops(&inner, env);
        Ok(Self::of(inner))
    }

    /// Opens the database in `dir` as it is: takes no lock, changes nothing on disk, and holds the log's records
    /// in memory. Writes fail with [`Error::ReadOnly`]. There is no clock, so rows that have an end are there whether it has
    /// come or not; see [`Self::open_read_only_at`].
    pub fn open_read_only(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Db> {
        Self::open_read_only_at(disk, dir, options, 0)
    }

    /// The same, as of a time in milliseconds since the Unix epoch: every read judges rows that have an end by it. What a
    /// flush or compaction has removed does not come back for an earlier time.
    pub fn open_read_only_at(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        unix_millis: u64,
    ) -> Result<Db> {
        recover::open_read_only(disk, dir, options, unix_millis).map(Self::of)
    }

    fn of(inner: Arc<Inner>) -> Self {
        Self { _stop_on_drop: Arc::new(StopOnDrop(inner.clone())), inner }
    }

    /// Writes through the log and returns the batch's sequence. Writers that meet share one write (and one sync).
    /// Waits while [`Db::pressure`] is [`Pressure::Stop`]. If the future is dropped, the batch may be written or not. One that
    /// has begun must be polled when it is woken, or dropped: it may be its turn to write, and others wait for that.
    ///
    /// Fails with [`Error::TooLarge`] and [`Error::ExpiryInStore`] (nothing has changed), with [`Error::Io`] when the disk refused, with
    /// [`Error::Poisoned`] from then on, and with [`Error::Closed`] or [`Error::ReadOnly`] when the database is that. After an
    /// [`Error::Io`] for which [`Error::is_disk_full`] holds the batch may be written again; after any other one it may be
    /// there after the next open, or not.
    pub async fn write(&self, batch: WriteBatch, options: WriteOptions) -> Result<u64> {
        batch.validate()?;
        if batch.expiring() > 0 {
            self.inner.may_expire()?;
        }
        write::write(&self.inner, batch, options.sync).await
    }

    /// Writes to the memtable only and returns the batch's sequence. For callers with a log of their own: the batch
    /// is durable once [`Db::flushed_sequence`] has reached it. Never waits, whatever the pressure.
    ///
    /// Fails with [`Error::TooLarge`], [`Error::ExpiryInStore`], [`Error::Poisoned`], [`Error::Closed`] or
    /// [`Error::ReadOnly`].
    pub fn apply(&self, batch: WriteBatch) -> Result<u64> {
        batch.validate()?;
        if batch.expiring() > 0 {
            self.inner.may_expire()?;
        }
        self.inner.apply(batch)
    }

    /// The newest value of `key`. Fails, as every read, with [`Error::Corrupt`] or [`Error::Io`] when what has to be looked
    /// at cannot be read; works on a closed or failed database too.
    pub fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let view = self.inner.view();
        let sequence = self.last_sequence();
        if view.expiring() > 0 {
            return self.snapshot().get(cf, key);
        }
        // A view that was replaced meanwhile will do: what it lacks came after this call began.
        view.get(&Sought::new(cf, key, sequence), 0)
    }

    /// The newest values of `keys`, all of one moment; see [`Snapshot::multi_get`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[(Cf, K)]) -> Result<Vec<Option<Bytes>>> {
        self.snapshot().multi_get(keys)
    }

    /// The database as it is now, for as long as the snapshot lives.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    /// Makes everything written or applied before the call durable in tables. Waits as long as the disk is full; fails with
    /// [`Error::Io`], [`Error::Poisoned`], [`Error::Closed`] or [`Error::ReadOnly`].
    pub async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    /// Starts a flush of everything written or applied so far, without waiting for it.
    pub fn request_flush(&self) {
        self.inner.request_flush();
    }

    /// Every write with a sequence up to this one is durable in tables.
    pub fn flushed_sequence(&self) -> u64 {
        self.inner.flushed.load(Ordering::Acquire)
    }

    /// Sequence of the newest visible write.
    pub fn last_sequence(&self) -> u64 {
        self.inner.visible.load(Ordering::Acquire)
    }

    /// Whether writers should hold back, for admission.
    pub fn pressure(&self) -> Pressure {
        self.inner.pressure()
    }

    /// Numbers.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// The failure that poisoned the engine, if any: all writes fail from then on. Or the first part of a table that
    /// could not be read: what lies there is missing, so the data as a whole cannot be trusted with more.
    pub fn failed(&self) -> Option<String> {
        let unreadable = || self.inner.context.unreadable.get().map(ToString::to_string);
        lock(&self.inner.failure).as_ref().map(ToString::to_string).or_else(unreadable)
    }

    /// Whether the last thing that took room on the disk was refused it. Nothing is lost by that: writes fail or wait,
    /// reads go on, and background work tries again.
    pub fn is_disk_full(&self) -> bool {
        self.inner.disk_full.load(Ordering::Relaxed)
    }

    /// Whether the database was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.inner.env.is_none()
    }

    /// Stops background work, makes logged writes durable and releases the lock. Applied data that was not flushed
    /// is not made durable. Further writes fail with [`Error::Closed`]; reads still work. Idempotent. A database that
    /// failed earlier says so again; the lock is released in any case.
    pub async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

impl Inner {
    fn view(&self) -> Arc<View> {
        self.view.get()
    }

    /// The database as it is at one moment: a view, the newest sequence in it, and the time by which rows that have an end are
    /// judged, all of one millisecond. A reader that stood still between them would find a row ended that was written again in
    /// time.
    fn snapshot(&self) -> Snapshot {
        let mut begun = None;
        loop {
            let view = self.view();
            let Some(sequence) = self.sequence_of(&view) else { continue };
            let now = self.read_time(&view);
            if now == 0 || begun == Some(now) {
                return Snapshot::new(view, sequence, now);
            }
            begun = Some(now);
        }
    }

    /// The newest visible sequence, if `view` has everything up to it: it has not if it was replaced before that sequence came.
    fn sequence_of(&self, view: &Arc<View>) -> Option<u64> {
        let sequence = self.visible.load(Ordering::Acquire);
        self.view.is_in_force(view).then_some(sequence)
    }

    /// The world; only background loops and writers get here, and they do not exist on a read-only database.
    fn env(&self) -> Result<&Env> {
        self.env.as_ref().ok_or(Error::ReadOnly)
    }

    /// The time, for counters.
    fn now(&self) -> Instant {
        self.env.as_ref().map_or(Instant(0), |env| env.clock.now())
    }

    fn disk(&self) -> &dyn Disk {
        &*self.context.disk
    }

    fn dir(&self) -> &Path {
        &self.context.dir
    }

    fn cache(&self) -> &BlockCache {
        &self.context.cache
    }

    fn next_file_number(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether writes are accepted.
    fn check(&self) -> Result<()> {
        if let Some(failure) = &*lock(&self.failure) {
            return Err(failure.for_later_callers());
        }
        if self.stop.is_stopped() { Err(Error::Closed) } else { self.env().map(drop) }
    }

    /// Poisons the engine.
    fn fail(&self, error: &Error) {
        let mut failure = lock(&self.failure);
        if failure.is_none() {
            if !error.is_crashed() && !matches!(error, Error::Poisoned(_)) {
                tracing::error!(%error, dir = %self.dir().display(), "the engine failed and accepts no more writes");
            }
            *failure = Some(error.clone());
        }
        drop(failure);
        self.progress.notify_waiters();
    }

    /// Remembers a failure on its way out. What a full disk refused is none: it was taken back, or is tried again.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) | Err(Error::Closed | Error::ReadOnly) => {}
            Err(error) if error.is_disk_full() => {}
            Err(error) => self.fail(error),
        }
        result
    }

    /// The disk is full. Whoever says so tries again until it has [taken](Inner::took) what is asked of it.
    fn refused(&self, error: &Error) {
        if !self.disk_full.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, dir = %self.dir().display(), "the disk is full: nothing is written until there is room");
        }
        if let Ok(env) = self.env() {
            env.probe("engine.disk_full");
        }
    }

    /// The disk took something.
    fn took(&self) {
        if self.disk_full.swap(false, Ordering::Relaxed) {
            tracing::info!(dir = %self.dir().display(), "there is room on the disk again");
        }
    }

    fn begin_stop(&self) {
        self.stop.stop();
        self.flush_work.notify_one();
        self.compact_work.notify_one();
        self.progress.notify_waiters();
    }

    async fn close(&self) -> Result<()> {
        self.begin_stop();
        self.until(|| (self.loops.load(Ordering::Acquire) == 0).then_some(())).await;
        let result = match (&mut *lock(&self.wal), &*lock(&self.failure)) {
            (_, Some(failure)) => Err(failure.for_later_callers()),
            (Some(wal), None) if self.env.is_some() => wal.close(),
            _ => Ok(()),
        };
        if let Some(env) = &self.env {
            env.tasks.yield_now().await;
        }
        *lock(&self.directory_lock) = None;
        self.noted(result)
    }

    /// Waits until `done` says so, asking after every progress.
    async fn until<T>(&self, mut done: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if let Some(value) = done() {
                return value;
            }
            progress.await;
        }
    }

    fn pressure(&self) -> Pressure {
        let (level0, memory) = self.load();
        let limit = self.options.memtable_bytes;
        if level0 >= self.options.level0_tables_stop || memory >= limit.saturating_mul(6) {
            Pressure::Stop
        } else if level0 >= self.options.level0_tables_slowdown || memory >= limit.saturating_mul(3) {
            Pressure::Slowdown
        } else {
            Pressure::None
        }
    }

    /// Tables at level 0, and bytes in memtables.
    fn load(&self) -> (usize, usize) {
        let view = self.view();
        let waiting: usize = view.immutables.iter().map(|memtable| memtable.bytes()).sum();
        (view.version.level(0).len(), waiting + view.active.bytes())
    }

    /// Where between slowing down and stopping the engine is, by whichever of both is worse.
    fn pressure_permille(&self) -> u64 {
        let (level0, memory) = self.load();
        let (options, limit) = (&self.options, self.options.memtable_bytes);
        let tables = between(level0, options.level0_tables_slowdown, options.level0_tables_stop);
        tables.max(between(memory, limit.saturating_mul(3), limit.saturating_mul(6)))
    }

    /// How far the limit on background work gives way: all the way before writers are slowed down, when
    /// somebody waits for the work, and for the end.
    fn relief(&self) -> Relief {
        if self.check().is_err() {
            return Relief::FULL;
        }
        let (level0, memory) = self.load();
        let (options, limit) = (&self.options, self.options.memtable_bytes);
        let is_awaited = self.flush_waiters.load(Ordering::Relaxed) > 0;
        let is_in_the_way = lock(&self.compacting).is_in_the_way();
        // One memtable that is being flushed while another one fills is nothing unusual.
        let flush = between(memory, limit.saturating_mul(2), limit.saturating_mul(3));
        let last_table = options.level0_tables_slowdown.saturating_sub(1);
        let tables = between(level0, options.level0_tables_compact, last_table);
        Relief {
            flush: if is_awaited { 1000 } else { flush },
            all: if is_in_the_way { 1000 } else { tables },
        }
    }

    /// Whether nothing is left to do for compactions but what the next write brings.
    fn is_settled(&self) -> bool {
        self.compact_settled.load(Ordering::Acquire) == self.compact_asked.load(Ordering::Acquire)
    }

    fn stats(&self) -> Stats {
        let view = self.view();
        let levels = view.version.stats();
        let immutable_entries: u64 = view.immutables.iter().map(|memtable| memtable.entries()).sum();
        let table_entries: u64 = levels.iter().map(|level| level.entries - level.tombstones).sum();
        let wal = lock(&self.wal).as_ref().map(Log::stats).unwrap_or_default();
        let (queue_depth, queue_changes, queue_bytes) = lock(&self.queue).load();
        let (compaction_backlog, compaction_score_max) = pick::backlog(&view.version, &self.options);
        let cache = self.cache();
        let reads = &self.context.reads;
        let index_hits = reads.sum(|reads| &reads.index_hits);
        let index_misses = reads.sum(|reads| &reads.index_misses);
        let counters = &self.counters;
        Stats {
            entries: view.active.entries() + immutable_entries + table_entries,
            expiring: view.expiring(),
            last_sequence: self.visible.load(Ordering::Acquire),
            flushed_sequence: self.flushed.load(Ordering::Acquire),
            memtable_bytes: view.active.bytes() as u64,
            memtables_immutable: view.immutables.len() as u64,
            memtables_immutable_bytes: view.immutables.iter().map(|memtable| memtable.bytes() as u64).sum(),
            levels,
            buckets: view.version.bucket_stats(),
            collections: read(&counters.collections),
            collected_bytes: read(&counters.collected_bytes),
            segments_removed: read(&counters.segments_removed),
            expired_rows: read(&counters.expired_rows),
            expired_tables: read(&counters.expired_tables),
            wal_segments: wal.segments,
            wal_bytes: wal.bytes,
            wal,
            wal_torn_bytes: read(&counters.torn_bytes),
            wal_groups: read(&counters.wal_groups),
            wal_syncs: read(&counters.wal_syncs),
            wal_synced_batches: read(&counters.wal_synced_batches),
            wal_sync_time: counters.wal_sync_time.read(),
            wal_purges: read(&counters.wal_purges),
            wal_purged: read(&counters.wal_purged),
            wal_purged_unix_ms: read(&counters.wal_purged_unix_ms),
            batches: read(&counters.batches),
            changes: read(&counters.changes),
            change_bytes: read(&counters.change_bytes),
            write_wait: counters.write_wait.read(),
            slowdown_time: counters.slowdown_time.read(),
            apply_time: counters.apply_time.read(),
            queue_depth,
            queue_changes,
            queue_bytes,
            flush_wait: counters.flush_wait.read(),
            flush_build: counters.flush_build.read(),
            flush_release: counters.flush_release.read(),
            flush_active: counters.flush_active.load(Ordering::Relaxed),
            flushes: read(&counters.flushes),
            flush_bytes: read(&counters.flush_bytes),
            compactions: read(&counters.compactions),
            compaction_moves: read(&counters.compaction_moves),
            compaction_gathering: counters.gathering.read(),
            compaction_gathered: read(&counters.gathered),
            compaction_draining: counters.draining.read(),
            compaction_drained: read(&counters.drained),
            compactions_in_pauses: read(&counters.compactions_in_pauses),
            compaction_parts: read(&counters.compaction_parts),
            compaction_read_bytes: read(&counters.compaction_read_bytes),
            compaction_write_bytes: read(&counters.compaction_write_bytes),
            compaction_time: counters.compaction_time.read(),
            compaction_backlog,
            compaction_score_max,
            compaction_settled: self.is_settled(),
            background_waited_bytes: self.limiter.waited_bytes(),
            background_wait: self.limiter.waits(),
            ranges_deleted: read(&counters.ranges_deleted),
            range_tables: read(&counters.range_tables),
            range_tombstones: read(&counters.range_tombstones),
            cache_hits: index_hits + reads.sum(|reads| &reads.data_hits),
            cache_misses: index_misses + reads.sum(|reads| &reads.data_misses),
            cache_index_hits: index_hits,
            cache_index_misses: index_misses,
            cache_bytes: cache.bytes() + self.context.pinned.bytes(),
            filter_rejections: reads.sum(|reads| &reads.filter_rejections),
            pruning: reads.pruning(),
            readahead: reads.readahead(),
            tables_obsolete: self.context.graveyard.len() as u64,
            manifest_number: lock(&self.manifest).as_ref().map_or(0, Manifest::number),
            pressure: self.pressure(),
            pressure_permille: self.pressure_permille(),
        }
    }
}
