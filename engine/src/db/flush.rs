//! The flush loop: turns immutable memtables, oldest first, into tables of level 0.
//!
//! For each: write the table, sync it and its name, install the edit (table, start of the log, flushed sequence),
//! then show the new view, then remove the log segments that nobody needs.
//!
//! Only the newest version of a key is written: older ones are visible to snapshots only, and those keep the
//! memtable. A tombstone is not written if no table may hold its key, so a key that was put and deleted between
//! two flushes leaves no trace. A row that has ended is a tombstone.

use crate::compaction::output::{Output, Written};
use crate::db::new_files::NewFiles;
use crate::db::{Inner, add};
use crate::edit::Edit;
use crate::error::IoContext;
use crate::iter::Direction;
use crate::iter::merge::Newest;
use crate::iter::source::MemtableSource;
use crate::key::{Entry, InternalKey, SEQUENCE_MAX, Span};
use crate::log::Log;
use crate::memtable::Memtable;
use crate::pace::{Pace, Work};
use crate::table::format::TableMeta;
use crate::table::{Sought, Table};
use crate::version::Version;
use crate::view::View;
use crate::vlog::SegmentMeta;
use crate::vlog::segment::Segment;
use crate::{Cf, Error, Result, lock};
use nokv_env::{ClockExt, Env, TasksExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// So long after a sync the log says how much of it is durable, unless a later record has said so. Where syncs follow each
/// other one does, and a write for nothing else would be a twentieth of what each of them costs.
const SETTLE_AFTER: Duration = Duration::from_millis(20);
/// Time between two attempts on a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// Tells the database when a background loop ends, whatever ends it.
struct LoopGuard {
    inner: Arc<Inner>,
    ended_well: bool,
}

impl LoopGuard {
    fn end(mut self) {
        self.ended_well = true;
    }
}

impl Drop for LoopGuard {
    fn drop(&mut self) {
        if !self.ended_well {
            let what = "a background loop of the engine ended before its time";
            self.inner.fail(&Error::Poisoned(what.to_owned()));
        }
        self.inner.loops.fetch_sub(1, Ordering::AcqRel);
        self.inner.progress.notify_waiters();
    }
}

/// Somebody who waits for a flush.
struct FlushWaiter<'a>(&'a Inner);

impl<'a> FlushWaiter<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.flush_waiters.fetch_add(1, Ordering::Relaxed);
        Self(inner)
    }
}

impl Drop for FlushWaiter<'_> {
    fn drop(&mut self) {
        self.0.flush_waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    /// Starts the background loops.
    pub(super) fn start_loops(inner: &Arc<Inner>, env: &Env) {
        inner.loops.store(2, Ordering::Release);
        let guard = || LoopGuard { inner: inner.clone(), ended_well: false };
        let (this, world, flush_guard) = (inner.clone(), env.clone(), guard());
        env.tasks.go_dedicated("engine-flush", async move {
            drop(this.noted(this.flush_loop(&world).await));
            flush_guard.end();
        });
        let (this, world, compact_guard) = (inner.clone(), env.clone(), guard());
        env.tasks.go_dedicated("engine-compact", async move {
            drop(this.noted(this.compact_loop(&world).await));
            compact_guard.end();
        });
        inner.flush_work.notify_one();
        inner.look_for_compact_work();
    }

    async fn flush_loop(&self, env: &Env) -> Result<()> {
        let mut settle_at = None;
        loop {
            let work = self.flush_work.notified();
            if self.settle_due.load(Ordering::Acquire) {
                let at = *settle_at.get_or_insert_with(|| env.clock.now() + SETTLE_AFTER);
                if env.clock.timeout_at(at, work).await.is_err() {
                    settle_at = None;
                    self.settle_log()?;
                    continue;
                }
            } else {
                work.await;
            }
            let oldest = || self.view().immutables.last().cloned();
            while self.check().is_ok() {
                if let Some(memtable) = oldest() {
                    self.counters.flush_active.store(true, Ordering::Relaxed);
                    let flushed = self.flush_memtable(env, &memtable).await;
                    self.counters.flush_active.store(false, Ordering::Relaxed);
                    if let Err(error) = &flushed
                        && error.is_disk_full()
                    {
                        let mut refused = lock(&self.flushes_refused);
                        *refused = (refused.0 + 1, Some(error.clone()));
                        self.progress.notify_waiters();
                    }
                    self.or_room(env, flushed).await?;
                    env.tasks.yield_now().await;
                } else {
                    let switched = self.switch_full_memtable();
                    if self.or_room(env, switched).await? == Some(false) {
                        break;
                    }
                }
            }
            // A failure elsewhere ends this loop quietly: it is on record already.
            if self.check().is_err() {
                return Ok(());
            }
            self.bury()?;
        }
    }

    /// Whoever has the log right now writes: its record is the claim, and its sync asks for another one. To wait for it would
    /// cost it a wake-up, and a lone writer would be there first again and again.
    fn settle_log(&self) -> Result<()> {
        self.settle_due.store(false, Ordering::Release);
        match self.wal.try_lock() {
            Ok(mut wal) => wal.as_mut().map_or(Ok(()), Log::settle),
            Err(_) => {
                self.settle_due.store(true, Ordering::Release);
                Ok(())
            }
        }
    }

    /// What background work came to; `None`, after a pause, when the disk was full: it is to be tried again.
    pub(super) async fn or_room<T>(&self, env: &Env, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(error) if error.is_disk_full() => {
                self.refused(&error);
                env.clock.sleep(FULL_PAUSE).await;
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Switches a memtable that is full although nobody switched it; whether there was one.
    fn switch_full_memtable(&self) -> Result<bool> {
        let is_full = || self.view().active.bytes() >= self.options.memtable_bytes;
        if !is_full() {
            return Ok(false);
        }
        match &mut *lock(&self.wal) {
            Some(wal) if is_full() => self.switch_memtable(wal).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Makes the oldest immutable memtable a table.
    async fn flush_memtable(&self, env: &Env, memtable: &Arc<Memtable>) -> Result<()> {
        let begun = env.clock.now();
        self.counters.flush_wait.add(begun.since(memtable.sealed_at()));
        let files = NewFiles::new(self);
        let next_file = || files.next_number();
        let version = self.view().version.clone();
        let output = Output::new(&self.context, &self.options, 0, u64::MAX, &version, &next_file);
        let now = if memtable.expiring() > 0 { env.clock.unix_millis() } else { 0 };
        let output = output.expiring(now);
        let relief = || self.relief();
        let pace = Pace::new(env, &self.limiter, Work::Flush, &relief);
        let written = write_memtable(memtable, &version, output, pace).await?;
        if !written.tables.is_empty() {
            self.disk().sync_dir(self.dir()).at(self.dir(), "sync")?;
        }
        let built = env.clock.now();
        self.counters.flush_build.add(built.since(begun));
        add(&self.counters.flush_bytes, written.bytes());
        self.note_expired(env, written.expired);
        let edit = Edit {
            added: written.tables.into_iter().map(|meta| (0, meta)).collect(),
            segments_added: written.segments,
            log_start: Some(self.log_start_after(memtable)),
            flushed_sequence: Some(memtable.sequence_max()),
            ..Edit::default()
        };
        let log_start = edit.log_start;
        if !edit.segments_added.is_empty() {
            env.probe("engine.vlog");
        }
        files.join(|| {
            self.install(edit, |view| {
                view.immutables.pop();
            })
        })?;
        self.took();
        // The time that the disk took passes here, before anybody hears of success.
        env.tasks.yield_now().await;
        self.flushed.store(memtable.sequence_max(), Ordering::Release);
        add(&self.counters.flushes, 1);
        env.probe("engine.flush");
        self.progress.notify_waiters();
        self.look_for_compact_work();
        if let (Some(wal), Some(start)) = (&mut *lock(&self.wal), log_start) {
            let before = wal.segment_count();
            wal.purge_below(start)?;
            self.note_purge(env, before - wal.segment_count());
        }
        self.counters.flush_release.add(env.clock.now().since(built));
        Ok(())
    }

    /// Log segments were removed, or none.
    fn note_purge(&self, env: &Env, segments: usize) {
        if segments > 0 {
            add(&self.counters.wal_purges, 1);
            add(&self.counters.wal_purged, segments as u64);
            self.counters.wal_purged_unix_ms.store(env.clock.unix_millis(), Ordering::Relaxed);
        }
    }

    /// Where the log starts to matter once `memtable`, the oldest, is in a table.
    fn log_start_after(&self, memtable: &Arc<Memtable>) -> u64 {
        let view = self.view();
        let others = view.immutables.iter().rev().chain(std::iter::once(&view.active));
        others
            .filter(|other| !Arc::ptr_eq(other, memtable))
            .map(|other| other.log_start)
            .next()
            .unwrap_or(memtable.log_start)
    }

    /// Makes `edit` durable, then shows it: its tables and segments, and what `change` does to the memtables. Segments that
    /// no table points at any more leave with it.
    pub(super) fn install(&self, edit: Edit, change: impl FnOnce(&mut View)) -> Result<()> {
        self.install_with(|_| edit, change)
    }

    /// The same for an edit that depends on the version which it changes.
    pub(super) fn install_with(
        &self,
        edit: impl FnOnce(&Version) -> Edit,
        change: impl FnOnce(&mut View),
    ) -> Result<()> {
        let open = |(level, meta): &(usize, TableMeta)| {
            Ok((*level, Arc::new(Table::open(&self.context, meta.clone())?)))
        };
        let mut manifest = lock(&self.manifest);
        let manifest = manifest.as_mut().ok_or(Error::ReadOnly)?;
        let current = self.view().version.clone();
        let mut edit = edit(&current);
        let moved: Vec<_> =
            current.tables().filter(|(_, table)| edit.removed.contains(&table.meta.number)).collect();
        let added = edit.added.iter().map(|added| {
            // A table that only changes its level stays open.
            match moved.iter().find(|(_, table)| table.meta.number == added.1.number) {
                Some((_, table)) => Ok((added.0, Arc::clone(table))),
                None => open(added),
            }
        });
        let added = added.collect::<Result<Vec<_>>>()?;
        let removed = std::mem::take(&mut edit.removed);
        edit.removed.clone_from(&removed);
        let open_segment = |meta: &SegmentMeta| Segment::open(&self.context, *meta).map(Arc::new);
        let segments = edit.segments_added.iter().map(open_segment).collect::<Result<Vec<_>>>()?;
        // Nobody else installs meanwhile: the manifest is ours.
        let (version, dead) = current.changed(&removed, &added, &segments);
        edit.segments_removed = dead.iter().map(|segment| segment.meta.number).collect();
        edit.next_file = Some(self.next_file.load(Ordering::Relaxed));
        manifest.install(edit)?;
        self.view.change(|view| {
            view.version = Arc::new(version);
            change(view);
        });
        let stays = |number: u64| added.iter().any(|(_, table)| table.meta.number == number);
        for (_, table) in moved.iter().filter(|(_, table)| !stays(table.meta.number)) {
            table.mark_obsolete();
        }
        for segment in &dead {
            segment.mark_obsolete();
        }
        add(&self.counters.segments_removed, dead.len() as u64);
        if manifest.is_long() {
            match manifest.rewrite(self.next_file_number()) {
                // The edit is in. The long one serves until there is room.
                Err(error) if error.is_disk_full() => {}
                rewritten => rewritten?,
            }
        }
        Ok(())
    }

    /// Removes the files of tables and segments that nobody uses any more.
    pub(super) fn bury(&self) -> Result<()> {
        for path in self.context.graveyard.drain() {
            self.disk().remove_file(&path).at(&path, "remove")?;
        }
        Ok(())
    }

    /// Waits until everything that is visible now is in tables, or an attempt finds the disk full; others follow.
    pub(super) async fn flush(&self) -> Result<()> {
        self.check()?;
        let target = self.written.load(Ordering::Acquire);
        let before = lock(&self.flushes_refused).0;
        let done = || match (self.check(), &*lock(&self.flushes_refused)) {
            (Err(error), _) => Some(Err(error)),
            (Ok(()), _) if self.flushed.load(Ordering::Acquire) >= target => Some(Ok(())),
            (Ok(()), (count, Some(error))) if *count > before => Some(Err(error.clone())),
            (Ok(()), _) => None,
        };
        if let Some(result) = done() {
            return result;
        }
        self.switch_for(target)?;
        let _waiter = FlushWaiter::new(self);
        self.until(done).await
    }

    /// Starts a flush of everything that is visible now.
    pub(super) fn request_flush(&self) {
        if self.check().is_ok() {
            let target = self.written.load(Ordering::Acquire);
            drop(self.switch_for(target));
        }
    }

    /// Makes sure that all writes up to `target` are in immutable memtables.
    fn switch_for(&self, target: u64) -> Result<()> {
        let mut wal = lock(&self.wal);
        let wal = wal.as_mut().ok_or(Error::ReadOnly)?;
        let sealed = self.view().immutables.first().map_or(0, |memtable| memtable.sequence_max());
        if sealed.max(self.flushed.load(Ordering::Acquire)) < target {
            self.noted(self.switch_memtable(wal))?;
        }
        Ok(())
    }
}

/// Writes what has to be kept of `memtable`; at most one table.
async fn write_memtable(
    memtable: &Arc<Memtable>,
    version: &Version,
    mut output: Output<'_>,
    mut pace: Pace<'_>,
) -> Result<Written> {
    let source = MemtableSource::new(memtable.clone(), Span::all(), Direction::Forward);
    for entry in Newest::new(vec![Box::new(source)], Direction::Forward, SEQUENCE_MAX) {
        let entry = output.judged(entry?);
        let bytes = entry.table_bytes();
        if !entry.value.is_tombstone() || may_hold(version, &entry)? {
            output.add(entry)?;
        }
        pace.after(bytes, || output.bytes()).await;
    }
    output.cut()?;
    pace.end(output.bytes());
    output.finish()
}

/// Whether a table may hold the key of this tombstone.
fn may_hold(version: &Version, tombstone: &Entry) -> Result<bool> {
    let InternalKey { cf, user, sequence } = &tombstone.key;
    let sought = Sought::new(Cf(*cf), user, *sequence);
    for table in version.covering(*cf, user) {
        if table.may_hold(&sought)? {
            return Ok(true);
        }
    }
    Ok(false)
}
