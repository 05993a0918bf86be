//! What is left to do when writers pause: give back the space of rows that newer ones hide.
//!
//! While somebody writes, level 0 goes down when it is full, and hides meanwhile what it will replace: up to a third of a small
//! database. Where nobody writes any more, that would stay for ever. So when no table was added for a while, tables that
//! hide much go down, until what is hidden is a small share of all.
//!
//! How much a table hides is estimated, in memory: of some of its keys, the filters of the tables below say whether they have
//! them too. A database whose upper levels cannot hide as much, by the number of their rows, is not looked at.

use crate::table::{Sought, Table};
use crate::version::Version;
use std::sync::Arc;

/// So much of all may be hidden.
const HIDDEN_PERCENT: u128 = 15;
/// So many keys are looked for, at most.
const SAMPLES_MAX: usize = 256;

/// Whether there are so many rows above the deepest level that they may hide much.
pub(crate) fn may_hide_much(version: &Version) -> bool {
    let rows = |tables: &mut dyn Iterator<Item = (usize, &Arc<Table>)>| -> u64 {
        tables.map(|(_, table)| table.meta.entries).sum()
    };
    version.table_count() > 1 && is_much(rows(&mut upper(version)), rows(&mut version.tables()))
}

/// The number of the table that hides most, if all of them together hide too much. Reads filters that are not in memory.
pub(crate) fn most_hiding(version: &Version) -> Option<u64> {
    if !may_hide_much(version) {
        return None;
    }
    let upper = || upper(version);
    let samples: usize = upper().map(|(_, table)| table.samples().count()).sum();
    let step = samples.div_ceil(SAMPLES_MAX).max(1);
    let hiding = upper().map(|(level, table)| (hidden_bytes(version, level, table, step), table.meta.number));
    let hiding: Vec<(u64, u64)> = hiding.collect();
    let hidden = hiding.iter().map(|(bytes, _)| bytes).sum();
    let bytes = version.tables().map(|(_, table)| table.meta.bytes_with_values()).sum();
    let most = hiding.into_iter().max_by_key(|(bytes, number)| (*bytes, u64::MAX - number));
    most.filter(|_| is_much(hidden, bytes)).map(|(_, number)| number)
}

/// The tables that may hide something: level 0, and what has a level below.
fn upper(version: &Version) -> impl Iterator<Item = (usize, &Arc<Table>)> {
    let deepest = version.deepest();
    version.tables().filter(move |(level, _)| *level < deepest.max(1))
}

fn is_much(part: u64, all: u64) -> bool {
    u128::from(part) * 100 > u128::from(all) * HIDDEN_PERCENT
}

/// About how many bytes below a table its rows hide: those of one row in each table that seems to have the key.
fn hidden_bytes(version: &Version, level: usize, table: &Arc<Table>, step: usize) -> u64 {
    let samples: Vec<Sought> = table.samples().step_by(step).collect();
    let row_bytes = |below: &Arc<Table>| below.meta.bytes_with_values() / below.meta.entries.max(1);
    // One that cannot be asked hides nothing; whoever reads it next will say why.
    let has = |below: &&Arc<Table>, sought: &Sought| below.may_hold(sought).unwrap_or(false);
    let hidden = |sought: &Sought| -> u64 {
        let below = version.covering_below(level, table.meta.number, sought.cf(), sought.user());
        below.filter(|below| has(below, sought)).map(row_bytes).sum()
    };
    let bytes: u128 = samples.iter().map(|sought| u128::from(hidden(sought))).sum();
    (bytes * u128::from(table.meta.entries) / (samples.len() as u128).max(1)) as u64
}

#[cfg(test)]
mod tests {
    use crate::testing::{Map, World, content, delete, put};
    use crate::{Compression, Db, Options, WriteOptions};
    use bytes::Bytes;
    use nokv_env::mem_disk::DiskFaults;

    const ROWS: usize = 1000;

    /// Level 0 goes down when it has four tables.
    fn options() -> Options {
        Options {
            memtable_bytes: 1 << 20,
            table_bytes: 8 << 10,
            block_bytes: 128,
            level0_tables_compact: 4,
            level_bytes_base: 1 << 20,
            compression: Compression::None,
            value_threshold: usize::MAX,
            ..Options::tiny()
        }
    }

    fn key(n: usize) -> Bytes {
        format!("key{n:05}").into()
    }

    /// All rows in the last level, and nothing else.
    fn filled(world: &World) -> (Db, Map) {
        let db = world.open(&options()).unwrap();
        let mut model = Map::new();
        for n in 0..ROWS {
            let value = Bytes::from(format!("{n} ").repeat(8));
            db.apply(put(key(n), value.clone())).unwrap();
            model.insert(key(n), value);
            if n % (ROWS / 4) == ROWS / 4 - 1 {
                world.run(db.flush()).unwrap();
            }
        }
        world.settle();
        assert_eq!(shape(&db), (0, ROWS as u64));
        (db, model)
    }

    /// Tables at level 0, and entries of all levels.
    fn shape(db: &Db) -> (u64, u64) {
        let levels = db.stats().levels;
        (levels[0].tables, levels.iter().map(|level| level.entries).sum())
    }

    fn flushed(world: &World, db: &Db) {
        world.run(db.flush()).unwrap();
        world.settle();
        assert_eq!(db.stats().levels[0].tables, 1, "nothing is urgent");
    }

    #[test]
    fn what_newer_rows_hide_goes_when_nobody_writes() {
        for (every, goes) in [(1, true), (3, true), (20, false)] {
            let world = World::new(1);
            let (db, mut model) = filled(&world);
            for n in (0..ROWS).step_by(every) {
                db.apply(put(key(n), "newer")).unwrap();
                model.insert(key(n), "newer".into());
            }
            flushed(&world, &db);
            assert_eq!(db.stats().compaction_settled, !goes, "one in {every}");
            world.pause();
            let hidden = if goes { 0 } else { ROWS.div_ceil(every) };
            assert_eq!(shape(&db), (u64::from(!goes), (ROWS + hidden) as u64), "one in {every}");
            assert_eq!(db.stats().compactions_in_pauses, u64::from(goes));
            assert!(db.stats().compaction_settled);
            assert_eq!(content(&db).unwrap(), model);
            assert_eq!(world.sleepers(), 0);
        }
    }

    /// As many rows, but they hide nothing.
    #[test]
    fn rows_that_are_new_stay_where_they_are() {
        let world = World::new(1);
        let (db, mut model) = filled(&world);
        for n in 0..ROWS {
            let between = Bytes::from([&key(n)[..], b"x"].concat());
            db.apply(put(between.clone(), "new")).unwrap();
            model.insert(between, "new".into());
        }
        flushed(&world, &db);
        world.pause();
        assert_eq!((shape(&db), db.stats().compactions_in_pauses), ((1, 2 * ROWS as u64), 0));
        assert_eq!(content(&db).unwrap(), model);
    }

    /// A tombstone is small, and what it hides is not.
    #[test]
    fn what_was_deleted_goes_with_its_tombstones() {
        let world = World::new(1);
        let (db, mut model) = filled(&world);
        for n in (0..ROWS).step_by(4) {
            db.apply(delete(key(n))).unwrap();
            model.remove(&key(n));
        }
        flushed(&world, &db);
        world.pause();
        assert_eq!(shape(&db), (0, model.len() as u64));
        assert_eq!(content(&db).unwrap(), model);
    }

    /// What is not urgent is not worth a full disk: writes go on as long as there is room for them.
    #[test]
    fn without_room_it_stays_and_nobody_is_told() {
        let world = World::new(1);
        let (db, mut model) = filled(&world);
        for n in 0..ROWS {
            db.apply(put(key(n), "newer")).unwrap();
            model.insert(key(n), "newer".into());
        }
        flushed(&world, &db);
        world.platter.set_faults(DiskFaults { free_space: Some(16 << 10), ..DiskFaults::default() });
        world.pause();
        let stats = db.stats();
        assert_eq!((stats.compactions_in_pauses, stats.compaction_settled), (0, true));
        assert!(!db.is_disk_full());
        assert_eq!(content(&db).unwrap(), model);
        world.run(db.write(put("one", "more"), WriteOptions { sync: true })).unwrap();
        model.insert("one".into(), "more".into());
        world.platter.set_faults(DiskFaults::default());
        world.expect_no_strays(&db);
        world.run(db.flush()).unwrap();
        world.pause();
        assert_eq!((db.stats().compactions_in_pauses, shape(&db)), (1, (0, ROWS as u64 + 1)));
        assert_eq!(content(&db).unwrap(), model);
    }

    #[test]
    fn there_is_no_pause_while_somebody_flushes() {
        let world = World::new(1);
        let (db, _) = filled(&world);
        (0..ROWS).for_each(|n| assert!(db.apply(put(key(n), "newer")).is_ok()));
        flushed(&world, &db);
        for n in 0..2 {
            world.set_clock(world.unix_millis() + 4_000);
            world.settle();
            assert_eq!(db.stats().compactions_in_pauses, 0);
            db.apply(put(key(n), "newest")).unwrap();
            world.run(db.flush()).unwrap();
        }
        world.pause();
        assert_eq!((db.stats().compactions_in_pauses, shape(&db)), (1, (0, ROWS as u64)));
    }
}
