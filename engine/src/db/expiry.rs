//! Rows that have an end.
//!
//! ```text
//! sequence 1: k = old          for ever
//! sequence 2: k = new          until 100
//!
//! a read at 99   k = new
//! a read at 100  k is not there: sequence 2 is as good as a tombstone, and hides sequence 1
//! ```
//! Nothing happens when the time of a row comes. Whoever meets the row looks at the clock:
//!
//! - *A read* has one time for all that it looks at, the wall clock's when the snapshot was taken ([`crate::Snapshot`]; a
//!   [`Db::get`](crate::Db::get) is one of its own). It is asked for after the view: what is missing in a view because it had
//!   ended has ended for its readers too, as long as the clock does not go back.
//! - *A flush or compaction* has one time too. It takes a row that has ended for a tombstone: its value goes at once, and what
//!   it hides stays hidden. Snapshots have memtables and tables of their own, so it need not know what they see.
//! - *A table* knows when half of it will have ended; then it is compacted for that reason alone, also where nobody writes. If
//!   all of it has, and nothing below shares its range, it leaves unread.
//!
//! When the clock goes back, a row that had ended is there again for new snapshots, if no flush or compaction met it meanwhile.
//! What it hides never comes back, whatever the clock does.
//!
//! Who does not use this does not pay for it: values without an end look as before, in memory and on the disk, and the clock is
//! asked only where some layer has a row with an end. A store of a cluster refuses such rows: its replicas have clocks of their
//! own. `docs/design/018` says why it is so.

use crate::compaction::pick::next_expiry;
use crate::db::{Inner, add};
use crate::view::View;
use crate::{Error, Result};
use nokv_env::Env;
use std::time::Duration;

/// The wall clock is looked at again after so long: it may be set, and no sleep goes by it.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Tables whose time comes one shortly after the other are worth one job.
const PAUSE_MIN: Duration = Duration::from_secs(1);

impl Inner {
    /// Whether rows may have an end here.
    pub(super) fn may_expire(&self) -> Result<()> {
        if self.options.is_owner { Err(Error::ExpiryInStore) } else { Ok(()) }
    }

    /// By what a reader of `view` judges rows that have an end. Asked after the view and the sequence were taken; no clock is
    /// asked where there are no such rows.
    pub(super) fn read_time(&self, view: &View) -> u64 {
        if view.expiring() > 0 { self.unix_millis() } else { 0 }
    }

    /// The wall clock, milliseconds since the Unix epoch. It decides which rows have ended, and nothing else.
    pub(super) fn unix_millis(&self) -> u64 {
        self.env.as_ref().map_or(self.read_at, |env| env.clock.unix_millis())
    }

    /// So many rows had ended when a flush or compaction met them.
    pub(super) fn note_expired(&self, env: &Env, rows: u64) {
        if rows > 0 {
            add(&self.counters.expired_rows, rows);
            env.probe("engine.expired.rows");
        }
    }

    /// How long it is at least until the next table will be worth a job because of rows that have ended, if any ever is.
    pub(super) fn until_next_expiry(&self) -> Option<Duration> {
        let version = self.view().version.clone();
        let now = if version.expiring() > 0 { self.unix_millis() } else { 0 };
        let next = next_expiry(&version, now)?;
        Some(Duration::from_millis(next - now).clamp(PAUSE_MIN, PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Map, World, content, delete, put};
    use crate::value::NEVER;
    use crate::{Cf, Compression, Db, Error, Options, Result, Snapshot, WriteBatch, WriteOptions, inspect};
    use bytes::Bytes;
    use nokv_env::mem_disk::{CrashMode, DiskFaults};
    use nokv_env::{BoxFuture, Clock, Env, Instant};
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    const NOW: u64 = 1_700_000_000_000;
    const SECOND: u64 = 1000;

    fn options() -> Options {
        Options { table_bytes: 4 << 10, compression: Compression::None, ..Options::tiny() }
    }

    fn world() -> World {
        let world = World::new(1);
        world.set_clock(NOW);
        world
    }

    fn key(n: usize) -> Bytes {
        format!("key{n:04}").into()
    }

    /// Every ninth one belongs into the value log.
    fn value(n: usize, what: &str) -> Bytes {
        format!("{what} {n} ").repeat(if n.is_multiple_of(9) { 40 } else { 8 }).into()
    }

    fn until(key: impl Into<Bytes>, value: impl Into<Bytes>, unix_millis: u64) -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.put_until(Cf(0), key, value, unix_millis);
        batch
    }

    fn of_snapshot(snapshot: &Snapshot) -> Map {
        snapshot.iter(Cf(0), ..).map(Result::unwrap).collect()
    }

    fn tables(db: &Db) -> u64 {
        db.stats().levels.iter().map(|level| level.tables).sum()
    }

    fn rest(world: &World, db: &Db) {
        world.run(db.flush()).unwrap();
        world.settle();
    }

    /// A key that ends every second, above an old version that never would: in a memtable, in tables, after a restart.
    #[test]
    fn a_row_is_there_until_its_time_has_come() {
        let mut world = world();
        let mut db = world.open(&options()).unwrap();
        let mut old = WriteBatch::new();
        (0..200).for_each(|n| old.put(Cf(0), key(n), value(n, "old")));
        db.apply(old).unwrap();
        rest(&world, &db);
        let mut new = WriteBatch::new();
        // Every fourth one keeps what it has.
        let changed = |n: &usize| !n.is_multiple_of(4);
        let end = |n: usize| NOW + (n as u64 + 1) * SECOND;
        (0..200).filter(changed).for_each(|n| new.put_until(Cf(0), key(n), value(n, "new"), end(n)));
        world.run(db.write(new, WriteOptions { sync: true })).unwrap();
        for second in 0..=200 {
            world.set_clock(NOW + second * SECOND - u64::from(second > 0));
            for _ in 0..2 {
                let is_there = |n: &usize| !changed(n) || end(*n) > world.unix_millis();
                let row = |n: usize| (key(n), value(n, if changed(&n) { "new" } else { "old" }));
                let expected: Map = (0..200).filter(is_there).map(row).collect();
                // Forward, backward, key by key.
                assert_eq!(content(&db).unwrap(), expected, "second {second}");
                let keys: Vec<_> = (0..200).map(|n| (Cf(0), key(n))).collect();
                let found = db.multi_get(&keys).unwrap();
                assert!(keys.iter().zip(&found).all(|((_, key), found)| found.as_ref() == expected.get(key)));
                assert!(keys.iter().all(|(cf, key)| db.get(*cf, key).unwrap().as_ref() == expected.get(key)));
                let mut iter = db.snapshot().iter(Cf(0), ..);
                iter.skip_to(&key(57));
                let next = expected.range(key(57)..).next();
                assert_eq!(iter.next().transpose().unwrap(), next.map(|(k, v)| (k.clone(), v.clone())));
                // To the very moment.
                world.set_clock(NOW + second * SECOND);
            }
            match second {
                20 => world.run(db.flush()).unwrap(),
                40 => world.settle(),
                60 | 120 => {
                    drop(db);
                    world.crash([CrashMode::PowerLossWorst, CrashMode::ProcessKill][second as usize / 120]);
                    db = world.open(&options()).unwrap();
                }
                80 => {
                    db.apply(put("other", "row")).unwrap();
                    db.apply(delete("other")).unwrap();
                    rest(&world, &db);
                }
                _ => {}
            }
        }
        // All of them ended before an end: none is left of either version.
        rest(&world, &db);
        assert_eq!(content(&db).unwrap().len(), 50);
        let entries: u64 = db.stats().levels.iter().map(|level| level.entries).sum();
        assert_eq!((entries, db.stats().expiring), (50, 0), "{:?}", db.stats().levels);
    }

    #[test]
    fn a_snapshot_has_one_time() {
        let world = world();
        let db = world.open(&options()).unwrap();
        let (mut batch, mut model) = (WriteBatch::new(), Map::new());
        for n in 0..100 {
            batch.put_until(Cf(0), key(n), value(n, "row"), NOW + SECOND + n as u64 % 2 * SECOND);
            model.insert(key(n), value(n, "row"));
        }
        db.apply(batch).unwrap();
        let in_memory = db.snapshot();
        world.run(db.flush()).unwrap();
        let in_tables = db.snapshot();
        let mut begun = db.snapshot().iter(Cf(0), ..);
        assert!(begun.next().is_some());
        world.set_clock(NOW + SECOND);
        let half = db.snapshot();
        for _ in 0..2 {
            assert_eq!(of_snapshot(&half).len(), 50);
            for snapshot in [&in_memory, &in_tables] {
                assert_eq!(of_snapshot(snapshot), model);
                assert_eq!(snapshot.iter_rev(Cf(0), ..).count(), 100);
                let until = snapshot.get_until(Cf(0), &key(3)).unwrap();
                assert_eq!(until, Some((value(3, "row"), NOW + 2 * SECOND)));
            }
            // Compactions take what has ended; the snapshots have their own.
            world.set_clock(NOW + 9 * SECOND);
            rest(&world, &db);
            assert_eq!((content(&db).unwrap(), tables(&db)), (Map::new(), 0));
        }
        assert_eq!(begun.by_ref().map(Result::unwrap).count(), 99);
        drop((in_memory, in_tables, half, begun));
        db.apply(put("k", "v")).unwrap();
        rest(&world, &db);
        world.expect_no_strays(&db);
    }

    /// A wall clock whose reader is held up once, for as long as it takes others to do something and time to pass.
    struct Interrupted {
        clock: Arc<dyn Clock>,
        unix_millis: Mutex<u64>,
        /// So many readers later, this; it says what time it is then.
        by: Mutex<(usize, Option<Interrupt>)>,
    }

    type Interrupt = Box<dyn FnOnce() -> u64 + Send>;

    impl Clock for Interrupted {
        fn now(&self) -> Instant {
            self.clock.now()
        }

        fn unix_millis(&self) -> u64 {
            let due = {
                let mut by = self.by.lock().unwrap();
                by.0 = by.0.saturating_sub(1);
                if by.0 == 0 { by.1.take() } else { None }
            };
            if let Some(interrupt) = due {
                let later = interrupt();
                *self.unix_millis.lock().unwrap() = later;
            }
            *self.unix_millis.lock().unwrap()
        }

        fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
            self.clock.sleep_until(deadline)
        }
    }

    #[test]
    fn a_row_that_is_written_again_in_time_never_seems_to_have_ended() {
        let readers: [fn(&Db) -> Option<Bytes>; 3] = [
            |db| db.get(Cf(0), b"k").unwrap(),
            |db| db.multi_get(&[(Cf(0), b"k")]).unwrap().pop().unwrap(),
            |db| of_snapshot(&db.snapshot()).remove(&b"k"[..]),
        ];
        for (reader, held_up) in readers.into_iter().flat_map(|reader| [1, 2, 3].map(|at| (reader, at))) {
            let world = world();
            let clock = Arc::new(Interrupted {
                clock: world.env().clock,
                unix_millis: Mutex::new(NOW),
                by: Mutex::default(),
            });
            let env = Env { clock: clock.clone(), ..world.env() };
            let db = world.run(Db::open(&env, World::dir(), options())).unwrap();
            db.apply(until("k", "v", NOW + SECOND)).unwrap();
            let other = db.clone();
            let interrupt = move || {
                other.apply(until("k", "again", NOW + 9 * SECOND)).unwrap();
                NOW + 2 * SECOND
            };
            *clock.by.lock().unwrap() = (held_up, Some(Box::new(interrupt)));
            let found = reader(&db);
            assert!(found.is_some(), "held up when it asks for the time number {held_up}");
            drop(clock.by.lock().unwrap().1.take());
        }
    }

    /// What leaves unread does not wait for what would have to be written again, for which there is no room.
    #[test]
    fn what_has_ended_leaves_a_full_disk() {
        let world = world();
        let options = Options { level0_tables_compact: 1, level_bytes_base: 1 << 20, ..options() };
        let db = world.open(&options).unwrap();
        for n in 0..1600 {
            // Of the first half every second one stays.
            let end = if n < 800 && n % 2 == 0 { NEVER } else { NOW + SECOND };
            db.apply(until(key(n), "a row ".repeat(12), end)).unwrap();
            if n % 40 == 39 {
                rest(&world, &db);
            }
        }
        let count = tables(&db);
        assert!(count > 30, "{:?}", db.stats().levels);
        world.platter.set_faults(DiskFaults { free_space: Some(8 << 10), ..DiskFaults::default() });
        world.set_clock(NOW + SECOND);
        world.go_on_for_a_while();
        let stats = db.stats();
        assert_eq!((stats.expired_tables, stats.tables_obsolete, db.failed()), (count / 2, 0, None));
        // The others follow when there is room to write them again.
        assert!(db.is_disk_full());
        world.platter.set_faults(DiskFaults::default());
        world.settle();
        let stats = db.stats();
        assert_eq!((stats.expiring, stats.expired_rows, db.is_disk_full()), (0, 1200, false));
        assert_eq!(content(&db).unwrap().len(), 400);
        world.expect_no_strays(&db);
    }

    /// Nobody writes, and nobody reads: the clock is enough. What lies alone leaves unread.
    #[test]
    fn space_comes_back_by_itself() {
        let world = world();
        let db = world.open(&options()).unwrap();
        for n in 0..600 {
            let end = NOW + 30 * SECOND + n as u64 / 100 * 60 * SECOND;
            db.apply(until(key(n), value(n, "row"), end)).unwrap();
            if n % 100 == 99 {
                rest(&world, &db);
            }
        }
        let begun = db.stats();
        assert!(tables(&db) >= 6 && begun.buckets[0].live_bytes > 0, "{begun:?}");
        let info = inspect::manifest(&*world.disk, World::dir()).unwrap().unwrap();
        let of = |table: &inspect::TableInfo| table.expiry.map_or(0, |of| of.entries);
        assert_eq!(info.tables.iter().map(of).sum::<u64>(), 600);
        let reads = begun.cache_hits + begun.cache_misses;
        for minute in 1..=6 {
            world.set_clock(NOW + minute * 60 * SECOND);
            world.settle();
            let left: u64 = db.stats().levels.iter().map(|level| level.entries).sum();
            assert_eq!(left, 600 - 100 * minute, "minute {minute}");
        }
        let stats = db.stats();
        assert_eq!((tables(&db), stats.expired_rows, stats.expiring), (0, 600, 0));
        // What is at level 0 may hide something there, so it goes down the ordinary way.
        assert!(stats.expired_tables >= 5, "{} tables left unread", stats.expired_tables);
        assert!(stats.cache_hits + stats.cache_misses - reads < 40, "blocks of tables that left were read");
        assert_eq!(stats.buckets.iter().map(|bucket| bucket.segments).sum::<u64>(), 0);
        world.expect_no_strays(&db);
        assert_eq!(inspect::check(&*world.disk, World::dir(), true).unwrap().findings, []);
    }

    /// The clock goes on while parts of a compaction are under way: what ends meanwhile stays, in all of them.
    #[test]
    fn parts_of_a_compaction_have_one_time() {
        let idle = Options {
            memtable_bytes: 4 << 20,
            level0_tables_compact: 100,
            level0_tables_slowdown: 100,
            level0_tables_stop: 100,
            level_bytes_base: 1 << 20,
            value_threshold: usize::MAX,
            ..options()
        };
        let world = world();
        let db = world.open(&idle).unwrap();
        for round in 0..4 {
            for n in 0..240 {
                // Some have ended when it begins, some end while it goes on.
                let end = [NOW + SECOND, NOW + 2 * SECOND].get(n % 8).copied().unwrap_or(NEVER);
                db.apply(until(key(n), value(n, &format!("round {round}")), end)).unwrap();
            }
            world.run(db.flush()).unwrap();
        }
        world.run(db.close()).unwrap();
        drop(db);
        world.set_clock(NOW + SECOND);
        let slow = Options { background_bytes_per_second: 50 << 10, ..idle.clone() };
        let busy = Options { level0_tables_compact: 2, subcompactions: 4, ..slow };
        let db = world.open(&busy).unwrap();
        (0..3).for_each(|_| world.step());
        assert_eq!(db.stats().compactions, 0, "it has only begun");
        world.set_clock(NOW + 2 * SECOND);
        world.settle();
        let stats = db.stats();
        let entries: u64 = stats.levels.iter().map(|level| level.entries).sum();
        assert!(stats.compactions == 1 && stats.compaction_parts >= 3, "{stats:?}");
        assert_eq!((entries, stats.expiring, stats.expired_rows), (210, 30, 30));
        assert_eq!(content(&db).unwrap().len(), 180);
    }

    #[test]
    fn a_table_waits_until_half_of_it_has_ended() {
        let world = world();
        let db =
            world.open(&Options { table_bytes: 64 << 10, level_bytes_base: 64 << 10, ..options() }).unwrap();
        for n in 0..100 {
            let end = if n < 90 { NOW + (n as u64 + 1) * 10 * SECOND } else { NEVER };
            db.apply(until(key(n), "a value", end)).unwrap();
        }
        rest(&world, &db);
        let info = || inspect::manifest(&*world.disk, World::dir()).unwrap().unwrap().tables;
        let expiry = info()[0].expiry.unwrap();
        assert_eq!((expiry.entries, expiry.first_unix_ms), (90, NOW + 10 * SECOND));
        assert_eq!(
            (expiry.last_unix_ms, expiry.half_unix_ms),
            (NOW + 900 * SECOND, Some(NOW + 490 * SECOND))
        );
        world.set_clock(NOW + 489 * SECOND);
        world.settle();
        assert_eq!(info()[0].entries, 100);
        world.set_clock(NOW + 560 * SECOND);
        world.settle();
        assert_eq!((info().len(), info()[0].entries), (1, 44));
        assert_eq!(db.stats().expired_rows, 56);
        // Of the ten that stay no half ends with the last of the others.
        world.set_clock(NOW + 2000 * SECOND);
        world.settle();
        assert_eq!(info()[0].entries, 10);
        assert_eq!(info()[0].expiry, None);
    }

    /// Tables are written again where they are, leave unread, and go down, while the machine goes down in each operation.
    #[test]
    fn a_crash_while_space_comes_back_breaks_nothing() {
        for at in 1.. {
            let mut world = world();
            let db = world.open(&Options { level0_tables_compact: 1, ..options() }).unwrap();
            let write = |rows: std::ops::Range<usize>, what: &str, end: u64| {
                for n in rows {
                    db.apply(until(key(n), value(n, what), end)).unwrap();
                }
                rest(&world, &db);
            };
            write(0..60, "old", NEVER);
            write(100..160, "gone", NOW + SECOND);
            write(20..40, "new", NOW + SECOND);
            write(50..100, "half", NOW + SECOND);
            let crash_at_op = Some(world.platter.ops() + at);
            world.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            world.set_clock(NOW + 2 * SECOND);
            world.settle();
            let crashed = world.platter.crashed();
            let expired_tables = db.stats().expired_tables;
            world.platter.set_faults(DiskFaults::default());
            drop(db);
            world.crash(
                [CrashMode::PowerLossWorst, CrashMode::PowerLoss, CrashMode::ProcessKill][at as usize % 3],
            );
            assert_eq!(inspect::check(&*world.disk, World::dir(), true).unwrap().findings, []);
            let db = world.open(&options()).unwrap();
            let left = (0..20).chain(40..50).map(|n| (key(n), value(n, "old")));
            let left: Map = left.collect();
            assert_eq!(content(&db).unwrap(), left, "crash at {at}");
            world.settle();
            assert_eq!((content(&db).unwrap(), db.stats().expiring), (left, 0), "crash at {at}");
            world.run(db.close()).unwrap();
            drop(db);
            world.expect_no_strays(&world.open(&options()).unwrap());
            if !crashed {
                assert!(at > 20 && expired_tables > 0, "{at} operations, {expired_tables} tables left");
                break;
            }
        }
    }

    /// Old versions at the very bottom, where an import put them; what is above them may not leave unread.
    #[test]
    fn what_ends_above_an_old_version_goes_on_hiding_it() {
        let world = world();
        world.disk.create_dir_all(Path::new("/db/staged")).unwrap();
        let db = world.open(&Options { level0_tables_compact: 1, ..options() }).unwrap();
        let mut import = db.import(Path::new("/db/staged/import.sst")).unwrap();
        (0..100).for_each(|n| import.put(Cf(0), key(n), value(n, "old")).unwrap());
        db.adopt(&mut world.run(import.finish()).unwrap()).unwrap();
        for n in 20..40 {
            db.apply(until(key(n), value(n, "new"), NOW + SECOND)).unwrap();
        }
        rest(&world, &db);
        let of_level = |level: usize| db.stats().levels[level].entries;
        assert_eq!((of_level(1), of_level(6)), (20, 100));
        world.set_clock(NOW + 2 * SECOND);
        let left: Map = (0..20).chain(40..100).map(|n| (key(n), value(n, "old"))).collect();
        assert_eq!(content(&db).unwrap(), left);
        world.settle();
        assert_eq!(content(&db).unwrap(), left);
        let entries: u64 = (0..7).map(of_level).sum();
        assert_eq!((entries, db.stats().expired_tables), (80, 0), "tombstones met what they hide");
    }

    /// What had ended may be there again. What it hid, and what was deleted, never is.
    #[test]
    fn a_clock_that_goes_back_brings_no_older_version_back() {
        for flushed in [false, true] {
            let world = world();
            let db = world.open(&options()).unwrap();
            for (n, what) in [(1, "old"), (2, "old"), (3, "old")] {
                db.apply(put(key(n), what)).unwrap();
            }
            rest(&world, &db);
            for n in 1..=3 {
                db.apply(until(key(n), "new", NOW + SECOND)).unwrap();
            }
            world.set_clock(NOW + SECOND);
            assert_eq!(content(&db).unwrap(), Map::new());
            db.apply(delete(key(2))).unwrap();
            if flushed {
                rest(&world, &db);
            }
            world.set_clock(NOW);
            let found = content(&db).unwrap();
            let both = Map::from([1, 3].map(|n| (key(n), Bytes::from("new"))));
            assert_eq!(found, if flushed { Map::new() } else { both });
            world.run(db.delete_range(Cf(0), key(3)..key(4))).unwrap();
            world.set_clock(NOW - 9 * SECOND);
            assert_eq!(content(&db).unwrap().get(&key(3)), None);
            rest(&world, &db);
            assert_eq!(content(&db).unwrap().len(), usize::from(!flushed));
            // A row that is written by the earlier clock lives by it.
            db.apply(until(key(1), "newer", NOW)).unwrap();
            assert_eq!(db.get(Cf(0), &key(1)).unwrap(), Some("newer".into()));
        }
    }

    #[test]
    fn a_value_that_moves_keeps_its_end() {
        let world = world();
        let small = Options {
            value_segment_bytes: 4 << 10,
            value_garbage_percent: 20,
            level0_tables_compact: 1,
            ..options()
        };
        let db = world.open(&small).unwrap();
        let large = |n: usize, what: &str| Bytes::from(format!("{what} {n} ").repeat(60));
        for n in 0..60 {
            let end = NOW + if n % 3 == 0 { 10 } else { 10_000 } * SECOND;
            db.apply(until(key(n), large(n, "row"), end)).unwrap();
        }
        rest(&world, &db);
        // Some are replaced, so there is garbage to collect.
        for n in (0..60).filter(|n| n % 3 == 1) {
            db.apply(until(key(n), "short", NEVER)).unwrap();
        }
        rest(&world, &db);
        assert!(db.stats().collected_bytes > 0, "{:?}", db.stats());
        for n in (0..60).filter(|n| n % 3 != 1) {
            let (value, end) = db.snapshot().get_until(Cf(0), &key(n)).unwrap().unwrap();
            assert_eq!((value, end), (large(n, "row"), NOW + if n % 3 == 0 { 10 } else { 10_000 } * SECOND));
        }
        let live = |db: &Db| db.stats().buckets.iter().map(|bucket| bucket.live_bytes).sum::<u64>();
        let before = live(&db);
        world.set_clock(NOW + 10 * SECOND);
        db.apply(put("z", "z")).unwrap();
        db.apply(put("a", "a")).unwrap();
        rest(&world, &db);
        rest(&world, &db);
        world.set_clock(NOW + 10_000 * SECOND);
        world.settle();
        assert!(live(&db) < before, "{before}");
        assert_eq!(content(&db).unwrap().len(), 22);
        assert_eq!(inspect::check(&*world.disk, World::dir(), true).unwrap().findings, []);
    }

    /// Files and copies of rows that have an end, read elsewhere by another clock.
    #[test]
    fn an_end_goes_along_wherever_the_row_goes() {
        let world = world();
        world.disk.create_dir_all(Path::new("/db/staged")).unwrap();
        let db = world.open(&options()).unwrap();
        let mut import = db.import(Path::new("/db/staged/import.sst")).unwrap();
        for n in 0..50 {
            import.put_until(Cf(0), key(n), value(n, "row"), NOW + (n as u64 / 10 + 1) * SECOND).unwrap();
        }
        import.put(Cf(0), "stays".into(), "v".into()).unwrap();
        let mut imported = world.run(import.finish()).unwrap();
        db.adopt(&mut imported).unwrap();
        let snapshot = db.snapshot();
        world.set_clock(NOW + SECOND);
        let all = world.run(db.export(&snapshot, &[Cf(0)], .., Path::new("/all"))).unwrap();
        let now = world.run(db.export(&db.snapshot(), &[Cf(0)], .., Path::new("/now"))).unwrap();
        let rows = |tables: &[crate::ExportedTable]| tables.iter().map(|table| table.rows).sum::<u64>();
        assert_eq!((rows(&all), rows(&now)), (51, 41));
        world.run(db.checkpoint(Path::new("/copy"))).unwrap();
        let other = world.open_at(Path::new("/other"), &options()).unwrap();
        other.apply(put(key(0), "what the row that has ended replaces")).unwrap();
        let files: Vec<PathBuf> = all.into_iter().map(|table| table.file).collect();
        world.run(other.ingest(&files)).unwrap();
        let copy = world.open_at(Path::new("/copy"), &options()).unwrap();
        let read_only = |at| {
            let copy = Path::new("/copy");
            Db::open_read_only_at(world.disk.clone(), copy, options(), NOW + at * SECOND).unwrap()
        };
        for second in 1..=6 {
            world.set_clock(NOW + second * SECOND);
            let left = 51_usize.saturating_sub(second as usize * 10).max(1);
            for db in [&db, &other, &copy] {
                assert_eq!(content(db).unwrap().len(), left);
                assert_eq!(db.get(Cf(0), &key(0)).unwrap(), None);
                world.settle();
            }
        }
        // The copy gave up what has ended; who reads as of an earlier time finds what is left.
        assert_eq!(content(&read_only(9)).unwrap().len(), 1);
        world.run(copy.close()).unwrap();
    }

    #[test]
    fn one_who_only_reads_says_what_time_it_is() {
        let world = world();
        let db = world.open(&options()).unwrap();
        db.apply(until("a", "v", NOW + SECOND)).unwrap();
        world.run(db.flush()).unwrap();
        world.run(db.write(until("b", "v", NOW + 2 * SECOND), WriteOptions { sync: true })).unwrap();
        world.run(db.close()).unwrap();
        let count = |db: Db| content(&db).unwrap().len();
        let at = |now| Db::open_read_only_at(world.disk.clone(), World::dir(), options(), now).unwrap();
        assert_eq!([0, 1, 2].map(|second| count(at(NOW + second * SECOND))), [2, 1, 0]);
        assert_eq!(count(Db::open_read_only(world.disk.clone(), World::dir(), options()).unwrap()), 2);
    }

    /// Replicas have clocks of their own.
    #[test]
    fn a_store_refuses_rows_that_end() {
        let world = world();
        let elsewhere = world.open_at(Path::new("/other"), &options()).unwrap();
        elsewhere.apply(until("k", "v", NOW + SECOND)).unwrap();
        let rows = world.run(elsewhere.export(&elsewhere.snapshot(), &[Cf(0)], .., Path::new("/rows")));
        let files: Vec<PathBuf> = rows.unwrap().into_iter().map(|table| table.file).collect();
        let db = world.open(&Options { is_owner: true, ..options() }).unwrap();
        let refused = |result: Result<()>| assert!(matches!(result, Err(Error::ExpiryInStore)));
        refused(db.apply(until("k", "v", NOW)).map(drop));
        refused(world.run(db.write(until("k", "v", NOW), WriteOptions::default())).map(drop));
        refused(world.run(db.ingest(&files)).map(drop));
        let mut import = db.import(Path::new("/import.sst")).unwrap();
        refused(import.put_until(Cf(0), "k".into(), "v".into(), NOW));
        import.put_until(Cf(0), "k".into(), "v".into(), NEVER).unwrap();
        db.apply(until("k", "v", NEVER)).unwrap();
        assert_eq!((content(&db).unwrap().len(), db.failed(), db.stats().expiring), (1, None, 0));
    }

    /// The clock is asked for rows that have an end, and for nothing else.
    #[test]
    fn without_such_rows_nothing_waits_for_the_clock() {
        let world = world();
        let db = world.open(&options()).unwrap();
        for n in 0..200 {
            db.apply(put(key(n), value(n, "row"))).unwrap();
        }
        rest(&world, &db);
        assert_eq!(world.sleepers(), 0);
        (0..50).for_each(|n| assert!(db.apply(put(key(n), "v")).is_ok()));
        db.apply(until(key(7), "v", NOW + 500 * SECOND)).unwrap();
        rest(&world, &db);
        world.pause();
        assert_eq!(world.sleepers(), 0, "a row of many is no reason");
        for n in 0..200 {
            db.apply(until(key(n), "v", NOW + 500 * SECOND)).unwrap();
        }
        rest(&world, &db);
        world.pause();
        assert_eq!(world.sleepers(), 1);
    }
}
