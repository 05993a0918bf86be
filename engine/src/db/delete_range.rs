//! Ranges of keys that go as tables.
//!
//! ```text
//!              ┌──────── range ────────┐
//! level 0    ├─┼──── stays, buried ────┼──┤      tombstones, one for each of its keys in the range
//! level 1   ├──┼─┤├──┤├─────┤├───┤├───┼─┤        those in the middle leave, unread
//! level 2    ├─┼───┤├──────────────┤├──┼───┤
//! ```
//!
//! Snapshots keep the tables of their moment, so a table may leave the newest version without harm to anybody: no tombstone
//! of a range is needed that reads would have to ask. What is only partly in the range, two tables of a level at most besides
//! level 0, is buried key by key, under the sequence that the deletion got when it began; leaving tables and tombstones are one
//! edit of the manifest.
//!
//! Two things have to hold when that edit is made. *Everything older is in tables*: it is flushed first, or it would come
//! back from a memtable. *No compaction has a copy*: one that has to do with the range ends first, and none begins.
//! Writes that come meanwhile have a higher sequence and survive, wherever they are.
//!
//! Origin: the operation is RocksDB's `DeleteRange`, without its range tombstones; tables that leave unread are Pebble's
//! excise, which cuts tables at the borders where this writes tombstones. `docs/design/016` says why.

use crate::compaction::output::{Output, Written};
use crate::db::new_files::NewFiles;
use crate::db::{Db, Inner, add};
use crate::error::IoContext;
use crate::iter::merge::Newest;
use crate::iter::source::TableSource;
use crate::iter::{Direction, Source};
use crate::key::{Entry, InternalKey, Span};
use crate::table::Table;
use crate::value::Value;
use crate::version::Version;
use crate::{Cf, Result};
use bytes::Bytes;
use std::ops::RangeBounds;
use std::sync::Arc;

/// Bytes of keys between two yields.
const PIECE_BYTES: usize = 256 << 10;

/// What [`Db::delete_ranges`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RangesDeleted {
    /// Tables that left as a whole.
    pub tables: u64,
    /// Rows that got a tombstone, because their tables stay.
    pub tombstones: u64,
    /// What is older is deleted. 0 if no range holds a key.
    pub sequence: u64,
}

impl Db {
    /// [`Db::delete_ranges`] of one range.
    pub async fn delete_range(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> Result<RangesDeleted> {
        self.delete_ranges(&[(cf, range)]).await
    }

    /// Deletes all keys of these ranges that were written before the call, together and durably, with everything that was
    /// written before. Costs a flush, a look at the tables at the borders, and one edit of the manifest, whatever the ranges
    /// hold. Writes that come while this runs survive.
    ///
    /// The condition, which is the caller's to keep: no [`Db::import`] or [`Db::ingest`] of keys of the ranges is under way.
    ///
    /// Fails as [`Db::flush`] does, but for a full disk: it does not wait for room. Then nothing is deleted, and it may be
    /// tried again. A failure while the tables leave poisons the database, as that of a flush.
    pub async fn delete_ranges<R: RangeBounds<Bytes>>(&self, ranges: &[(Cf, R)]) -> Result<RangesDeleted> {
        let inner = &self.inner;
        inner.check()?;
        let spans = disjoint(ranges.iter().map(|(cf, range)| Span::of(*cf, range)));
        if spans.is_empty() {
            return Ok(RangesDeleted::default());
        }
        let deleted = inner.delete(&spans).await;
        if let Err(error) = &deleted
            && error.is_disk_full()
        {
            inner.refused(error);
        }
        let deleted = deleted?;
        let counters = &inner.counters;
        add(&counters.ranges_deleted, spans.len() as u64);
        add(&counters.range_tables, deleted.tables);
        add(&counters.range_tombstones, deleted.tombstones);
        Ok(deleted)
    }
}

/// The keys of all these spans, as spans that are apart from each other and in order.
fn disjoint(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut spans: Vec<Span> = spans.filter(|span| !span.is_empty()).collect();
    spans.sort_by(|a, b| a.low.cmp(&b.low));
    let mut apart: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match apart.last_mut().filter(|last| last.high.as_ref().is_none_or(|high| span.low <= *high)) {
            None => apart.push(span),
            Some(last) if last.high.is_none() || span.high.is_none() => last.high = None,
            Some(last) => last.high = last.high.take().max(span.high),
        }
    }
    apart
}

impl Inner {
    async fn delete(&self, spans: &[Span]) -> Result<RangesDeleted> {
        let sequence = self.skip_sequence();
        // What is older has to be in tables: a later flush must not bring it back.
        self.flush().await?;
        let hold = self.hold_compactions(spans).await?;
        // A table that holds something newer too stays, and what is older in it is buried.
        let leaves = |table: &Table| {
            table.meta.sequence_max < sequence && spans.iter().any(|span| table.lies_in(span))
        };
        let files = NewFiles::new(self);
        let version = self.view().version.clone();
        let written = self.write_tombstones(&files, &version, spans, &leaves, sequence).await?;
        let tombstones = written.tables.iter().map(|meta| meta.entries).sum();
        let mut tables = 0;
        if tombstones > 0 || version.tables().any(|(_, table)| leaves(table)) {
            tables = files.join(|| self.replace(leaves, written.tables, written.segments, sequence))?;
        }
        drop((hold, version));
        // It removes the files that nobody reads any more.
        self.flush_work.notify_one();
        let env = self.env()?;
        // The time that the disk took passes here.
        env.tasks.yield_now().await;
        if tables > 0 {
            env.probe("engine.delete_range.tables");
        }
        if tombstones > 0 {
            env.probe("engine.delete_range.tombstones");
        }
        Ok(RangesDeleted { tables, tombstones, sequence })
    }

    /// Tombstones for the rows of `spans` in tables that stay. Those of a span are in tables of their own.
    async fn write_tombstones(
        &self,
        files: &NewFiles<'_>,
        version: &Version,
        spans: &[Span],
        leaves: &(impl Fn(&Table) -> bool + Sync),
        sequence: u64,
    ) -> Result<Written> {
        let next_file = || files.next_number();
        let options = &self.options;
        let mut output = Output::new(&self.context, options, 0, options.table_bytes, version, &next_file);
        let mut piece = 0;
        for span in spans {
            let is_partly_in = |table: &&Arc<Table>| {
                let meta = &table.meta;
                span.overlaps(&meta.smallest, &meta.largest) && meta.sequence_min < sequence && !leaves(table)
            };
            let source = |table: &Arc<Table>| {
                Box::new(TableSource::new(table.clone(), span.clone(), Direction::Forward, false)) as Source
            };
            let tables = version.tables().map(|(_, table)| table);
            let sources = tables.filter(is_partly_in).map(source).collect();
            for row in Newest::new(sources, Direction::Forward, sequence) {
                let row = row?;
                piece += row.table_bytes();
                if !row.value.is_tombstone() {
                    let key = InternalKey { sequence, ..row.key };
                    output.add(Entry { key, value: Value::Tombstone })?;
                }
                if piece >= PIECE_BYTES {
                    piece = 0;
                    self.env()?.tasks.yield_now().await;
                    self.check()?;
                }
            }
            output.cut()?;
        }
        let written = output.finish()?;
        if !written.tables.is_empty() {
            self.disk().sync_dir(self.dir()).at(self.dir(), "sync")?;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Map, World, content, put};
    use crate::{Compression, Error, Options, Snapshot, WriteBatch, inspect, lock};
    use futures_util::poll;
    use nokv_env::mem_disk::{CrashMode, DiskFaults};
    use std::pin::pin;

    const ROWS: usize = 600;

    fn options() -> Options {
        Options {
            memtable_bytes: 8 << 10,
            table_bytes: 4 << 10,
            level_bytes_base: 16 << 10,
            compression: Compression::None,
            value_threshold: usize::MAX,
            ..Options::tiny()
        }
    }

    fn key(n: usize) -> Bytes {
        format!("key{n:05}").into()
    }

    fn value(n: usize, round: usize) -> Bytes {
        format!("{n} in round {round} ").repeat(4).into()
    }

    /// Rows in tables of several levels and in memtables, the newest ones everywhere; some of them were deleted.
    fn filled(world: &World, options: &Options) -> (Db, Map) {
        let db = world.open(options).unwrap();
        let mut model = Map::new();
        for round in 0..4 {
            for n in (0..ROWS).filter(|n| (n + round).is_multiple_of(round + 1)) {
                // Out of order, so that the tables of a level 0 overlap.
                let n = n * 7 % ROWS;
                if (n + round).is_multiple_of(9) {
                    db.apply(crate::testing::delete(key(n))).unwrap();
                    model.remove(&key(n));
                } else {
                    db.apply(put(key(n), value(n, round))).unwrap();
                    model.insert(key(n), value(n, round));
                }
            }
            let mut other = WriteBatch::new();
            other.put(Cf(1), key(round), "other");
            db.apply(other).unwrap();
            if round < 3 {
                world.run(db.flush()).unwrap();
                world.settle();
            }
        }
        assert!(db.stats().levels.iter().filter(|level| level.tables > 0).count() > 1);
        (db, model)
    }

    fn cut(model: &mut Map, low: usize, high: usize) {
        model.retain(|row, _| *row < key(low) || *row >= key(high));
    }

    fn of_snapshot(snapshot: &Snapshot) -> Map {
        snapshot.iter(Cf(0), ..).map(Result::unwrap).collect()
    }

    fn tables(db: &Db) -> u64 {
        db.stats().levels.iter().map(|level| level.tables).sum()
    }

    #[test]
    fn a_range_goes_and_what_is_around_it_stays() {
        for (low, high) in [(0, ROWS), (100, 500), (250, 251), (0, 300), (300, 9999), (590, 600), (700, 800)]
        {
            let mut world = World::new(1);
            let (db, old) = filled(&world, &options());
            let (before, mut model) = (db.snapshot(), old.clone());
            let deleted = world.run(db.delete_range(Cf(0), key(low)..key(high))).unwrap();
            cut(&mut model, low, high);
            assert_eq!(deleted.sequence, db.last_sequence());
            assert_eq!(content(&db).unwrap(), model, "{low}..{high}");
            assert_eq!(of_snapshot(&before), old);
            assert_eq!(db.snapshot().iter(Cf(1), ..).count(), 4);
            drop(before);
            // What is written later wins, before and after compactions and a restart.
            for n in [low, low + 7, high - 1] {
                db.apply(put(key(n), "later")).unwrap();
                model.insert(key(n), "later".into());
            }
            assert_eq!(content(&db).unwrap(), model);
            world.run(db.flush()).unwrap();
            assert_eq!(content(&db).unwrap(), model);
            world.settle();
            assert_eq!(content(&db).unwrap(), model);
            drop(db);
            world.crash(CrashMode::PowerLossWorst);
            let db = world.open(&options()).unwrap();
            assert_eq!(content(&db).unwrap(), model);
            assert_eq!(db.snapshot().iter(Cf(1), ..).count(), 4);
        }
    }

    #[test]
    fn tables_in_the_middle_leave_unread() {
        let world = World::new(1);
        // In parts there would be more tables, and more of them at the borders; at level 0 they are as wide as all.
        let options = Options { subcompactions: 1, level0_tables_compact: 1, ..options() };
        let (db, _) = filled(&world, &options);
        world.run(db.flush()).unwrap();
        world.settle();
        let (all, reads) = (tables(&db), db.stats().cache_misses + db.stats().cache_hits);
        let deleted = world.run(db.delete_range(Cf(0), key(50)..key(550))).unwrap();
        let reads = db.stats().cache_misses + db.stats().cache_hits - reads;
        assert!(deleted.tables * 3 > all * 2, "{deleted:?} of {all} tables");
        assert!(reads < 40, "{reads} blocks read, {deleted:?}");
        let stats = db.stats();
        assert_eq!(
            (stats.ranges_deleted, stats.range_tables, stats.range_tombstones),
            (1, deleted.tables, deleted.tombstones)
        );
        world.settle();
        assert_eq!(db.stats().tables_obsolete, 0, "the files are gone");
        // The whole family: nothing of it is read.
        let reads = db.stats().cache_misses + db.stats().cache_hits;
        world.run(db.delete_ranges(&[(Cf(0), ..), (Cf(1), ..)])).unwrap();
        assert_eq!((tables(&db), db.stats().cache_misses + db.stats().cache_hits), (0, reads));
    }

    #[test]
    fn several_ranges_go_together() {
        let world = World::new(1);
        let (db, mut model) = filled(&world, &options());
        let range = |low, high| (Cf(0), key(low)..key(high));
        // They touch, overlap, repeat each other, and hold nothing.
        let some = [range(300, 320), range(10, 20), range(20, 40), range(30, 60), range(10, 20), range(9, 3)];
        world.run(db.delete_ranges(&some)).unwrap();
        cut(&mut model, 10, 60);
        cut(&mut model, 300, 320);
        assert_eq!(content(&db).unwrap(), model);
        assert_eq!(db.stats().ranges_deleted, 2);
        let nothing = world.run(db.delete_ranges(&[range(9, 3), range(5, 5)])).unwrap();
        assert_eq!(nothing, RangesDeleted::default());
        assert_eq!(db.snapshot().iter(Cf(1), ..).count(), 4);
        world.run(db.close()).unwrap();
        assert!(matches!(world.run(db.delete_range(Cf(0), ..)), Err(Error::Closed)));
    }

    #[test]
    fn reads_do_not_pay_for_ranges_that_went() {
        let world = World::new(1);
        let (db, mut model) = filled(&world, &options());
        world.run(db.flush()).unwrap();
        world.settle();
        let kept = |model: &Map| model.keys().filter(|row| **row < key(100)).cloned().collect::<Vec<_>>();
        let cost = |db: &Db| {
            let looks = || {
                let stats = db.stats();
                stats.cache_hits + stats.cache_misses + stats.filter_rejections
            };
            let begun = looks();
            for row in kept(&model) {
                assert!(db.get(Cf(0), &row).unwrap().is_some());
            }
            assert_eq!(db.snapshot().iter(Cf(0), ..key(100)).count(), kept(&model).len());
            looks() - begun
        };
        let (before, tables_before) = (cost(&db), tables(&db));
        for n in 0..100 {
            world.run(db.delete_range(Cf(0), key(100 + n * 5)..key(105 + n * 5))).unwrap();
            world.settle();
        }
        let after = cost(&db);
        assert!(after <= before, "{after} looks at blocks and filters, {before} before");
        assert!(tables(&db) * 3 < tables_before, "{} of {tables_before}", tables(&db));
        let begun = db.stats().cache_hits + db.stats().cache_misses;
        assert_eq!(db.snapshot().iter(Cf(0), key(110)..).count(), 0);
        let looks = db.stats().cache_hits + db.stats().cache_misses - begun;
        assert!(looks < 10, "{looks} looks at what is not there any more");
        cut(&mut model, 100, ROWS);
        assert_eq!(content(&db).unwrap(), model);
    }

    #[test]
    fn what_is_written_meanwhile_survives() {
        for flushed in [false, true] {
            let mut world = World::new(1);
            let (db, mut model) = filled(&world, &options());
            let mut delete = Box::pin(db.delete_range(Cf(0), key(100)..key(500)));
            world.run(async {
                assert!(poll!(&mut delete).is_pending(), "what is older is being flushed");
            });
            cut(&mut model, 100, 500);
            for n in [100, 200, 499] {
                db.apply(put(key(n), "meanwhile")).unwrap();
                model.insert(key(n), "meanwhile".into());
            }
            if flushed {
                // A table that lies in the range and is newer.
                db.request_flush();
                world.settle();
            }
            world.run(&mut delete).unwrap();
            drop(delete);
            assert_eq!(content(&db).unwrap(), model);
            world.run(db.flush()).unwrap();
            world.settle();
            assert_eq!(content(&db).unwrap(), model);
            drop(db);
            world.crash(CrashMode::PowerLossWorst);
            assert_eq!(content(&world.open(&options()).unwrap()).unwrap(), model);
        }
    }

    /// Rows that take a compaction many steps to merge.
    fn heavy(n: usize, round: usize) -> Bytes {
        value(n, round).repeat(60).into()
    }

    /// Deletes at every step of compactions, from several callers at once.
    #[test]
    fn a_compaction_brings_nothing_back() {
        let options = Options {
            memtable_bytes: 4 << 20,
            table_bytes: 16 << 10,
            level0_tables_compact: 2,
            level_bytes_base: 64 << 20,
            ..options()
        };
        let (mut met, mut missed) = (0, 0);
        for steps in 0..30 {
            let options = Options { subcompactions: 1 + steps as usize % 2, ..options.clone() };
            let mut world = World::new(steps);
            let db = world.open(&options).unwrap();
            let mut model = Map::new();
            for round in 0..4 {
                for n in 0..ROWS {
                    db.apply(put(key(n), heavy(n, round))).unwrap();
                    model.insert(key(n), heavy(n, round));
                }
                world.run(db.flush()).unwrap();
                if round == 1 {
                    // Level 1 has tables that lie in the range, and the last compaction will merge them.
                    world.settle();
                }
            }
            for _ in 0..steps {
                world.step();
            }
            let running = lock(&db.inner.compacting).running.is_some();
            (met, missed) = (met + u64::from(running), missed + u64::from(!running));
            let (first, second) =
                (db.delete_range(Cf(0), key(100)..key(300)), db.delete_range(Cf(0), key(200)..key(450)));
            let (first, second) = world.run(async { futures_util::join!(first, second) });
            assert!(first.unwrap().sequence < second.unwrap().sequence);
            cut(&mut model, 100, 450);
            assert_eq!(content(&db).unwrap(), model, "after {steps} steps");
            world.settle();
            assert_eq!(content(&db).unwrap(), model, "after {steps} steps");
            assert_eq!(db.failed(), None);
            drop(db);
            world.crash(CrashMode::PowerLossWorst);
            let db = world.open(&options).unwrap();
            assert_eq!(content(&db).unwrap(), model, "after {steps} steps");
        }
        assert!(met > 5 && missed > 0, "{met} met a compaction, {missed} did not");
    }

    #[test]
    fn compactions_go_on_when_a_deletion_is_given_up() {
        let options = Options { memtable_bytes: 1 << 20, level0_tables_compact: 2, ..options() };
        let world = World::new(1);
        let db = world.open(&options).unwrap();
        for round in 0..2 {
            for n in 0..ROWS {
                db.apply(put(key(n), heavy(n, round))).unwrap();
            }
            world.run(db.flush()).unwrap();
        }
        while lock(&db.inner.compacting).running.is_none() {
            world.step();
        }
        {
            let mut delete = pin!(db.delete_range(Cf(0), ..));
            world.run(async { assert!(poll!(&mut delete).is_pending(), "a compaction is in the way") });
        }
        db.apply(put("later", "row")).unwrap();
        world.run(db.flush()).unwrap();
        db.apply(put("later", "row")).unwrap();
        world.run(db.flush()).unwrap();
        world.settle();
        assert!(db.stats().levels[0].tables < 2 && db.stats().compactions > 1, "{:?}", db.stats().levels);
    }

    #[test]
    fn the_space_of_large_values_comes_back_at_once() {
        let options = Options {
            value_threshold: 48,
            value_segment_bytes: 8 << 10,
            level_bytes_base: 4 << 10,
            ..options()
        };
        let world = World::new(1);
        let (db, mut model) = filled(&world, &options);
        world.run(db.flush()).unwrap();
        world.settle();
        let log = |db: &Db| -> (u64, u64) {
            let buckets = db.stats().buckets;
            (buckets.iter().map(|b| b.live_bytes).sum(), buckets.iter().map(|b| b.segments).sum())
        };
        let (before, removed) = (log(&db), db.stats().segments_removed);
        world.run(db.delete_range(Cf(0), key(40)..)).unwrap();
        cut(&mut model, 40, ROWS);
        assert_eq!(content(&db).unwrap(), model);
        let after = log(&db);
        assert!(after.0 * 3 < before.0 * 2 && db.stats().segments_removed > removed, "{before:?} {after:?}");
        // The rest is garbage that is collected.
        world.settle();
        let files = inspect::segment_files(&*world.disk, World::dir()).unwrap();
        assert_eq!(files.len() as u64, log(&db).1);
        world.run(db.delete_range(Cf(0), ..)).unwrap();
        world.settle();
        assert_eq!(log(&db), (0, 0));
        assert_eq!(inspect::segment_files(&*world.disk, World::dir()).unwrap(), []);
    }

    /// Content of both families.
    fn both(db: &Db) -> (Map, Map) {
        let other = db.snapshot().iter(Cf(1), ..).map(Result::unwrap).collect();
        (content(db).unwrap(), other)
    }

    #[test]
    fn every_operation_of_a_deletion_is_a_place_to_crash() {
        let (mut before, mut after) = (0, 0);
        let ranges = [(Cf(0), key(100)..key(500)), (Cf(1), key(1)..key(3))];
        for at in 1.. {
            let mut world = World::new(at);
            let (db, old) = filled(&world, &options());
            world.run(db.flush()).unwrap();
            world.settle();
            let old = (old, both(&db).1);
            let mut new = old.clone();
            cut(&mut new.0, 100, 500);
            new.1.retain(|row, _| *row < key(1) || *row >= key(3));
            // Something to flush, too.
            db.apply(put(key(200), value(200, 3))).unwrap();
            let crash_at_op = Some(world.platter.ops() + at);
            world.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            let done = world.run(db.delete_ranges(&ranges));
            let crashed = world.platter.crashed();
            world.platter.set_faults(DiskFaults::default());
            drop(db);
            let modes = [CrashMode::PowerLossWorst, CrashMode::PowerLoss, CrashMode::ProcessKill];
            world.crash(modes[at as usize % 3]);
            let db = world.open(&options()).unwrap();
            let mut found = both(&db);
            if done.is_ok() || found == new {
                after += 1;
                assert_eq!(found, new, "crash at {at}");
            } else {
                before += 1;
                found.0.insert(key(200), value(200, 3));
                let mut flushed = old.clone();
                flushed.0.insert(key(200), value(200, 3));
                assert_eq!(found, flushed, "crash at {at}");
                world.run(db.delete_ranges(&ranges)).unwrap();
                assert_eq!(both(&db), new, "crash at {at}");
            }
            // No file is left of what was interrupted, once a manifest is in force that knows of it.
            world.settle();
            world.run(db.close()).unwrap();
            drop(db);
            let db = world.open(&options()).unwrap();
            assert_eq!(both(&db), new);
            world.expect_no_strays(&db);
            if !crashed {
                assert!(done.is_ok());
                break;
            }
        }
        assert!(before > 10 && after >= 2, "{before} before, {after} after");
    }

    #[test]
    fn a_full_disk_refuses_a_deletion_and_nothing_has_happened() {
        let world = World::new(1);
        let (db, mut model) = filled(&world, &options());
        world.run(db.flush()).unwrap();
        world.settle();
        let leave = |free_space| {
            world.platter.set_faults(DiskFaults { free_space, ..DiskFaults::default() });
        };
        let mut refused = [0, 0];
        // Tombstones need a file, which is refused; what leaves whole needs room in the manifest, which may be there.
        for round in 0..40 {
            let is_whole = round % 2 == 1;
            let (low, high) = if is_whole { (0, ROWS) } else { (10 + round, 60 + round) };
            let names = world.disk.list(World::dir()).unwrap();
            leave(Some(0));
            let done = world.run(db.delete_range(Cf(0), key(low)..key(high)));
            if let Err(error) = done {
                refused[round % 2] += 1;
                assert!(error.is_disk_full() && db.is_disk_full(), "{error}");
                assert_eq!(world.disk.list(World::dir()).unwrap(), names);
                assert_eq!(content(&db).unwrap(), model, "round {round}");
                leave(None);
                world.run(db.delete_range(Cf(0), key(low)..key(high))).unwrap();
                assert!(!db.is_disk_full());
            }
            leave(None);
            cut(&mut model, low, high);
            assert_eq!(content(&db).unwrap(), model, "round {round}");
            for n in (0..ROWS).filter(|_| is_whole) {
                db.apply(put(key(n), value(n, round))).unwrap();
                model.insert(key(n), value(n, round));
            }
            world.run(db.flush()).unwrap();
            world.settle();
        }
        assert!(refused[0] >= 15 && refused[1] >= 1, "{refused:?}");
        assert_eq!(db.failed(), None);
    }
}
