//! When level 0 goes down, and when its small tables are gathered where they are.
//!
//! ```text
//! full      ├────────────────────┤├────────────────────┤     count for themselves: so many, and all of the level goes down
//! small     ├──┤├─┤├─┤├┤                                     many of them: some become one, and stay
//! level 1   ├──────────┼───────────┼──────────┼─────────┤
//! ```
//!
//! Going down rewrites what level 1 has in the range of level 0: for a few kilobytes that somebody flushed early (a checkpoint,
//! a close, a log that is to shrink) often all of it. So a table that is far smaller than a memtable counts for its share only.
//! Small tables are what a burst of flushes leaves; reads have to look at each. They are gathered while they are small: the few
//! that cost least for each table that is one less then. What grows is left alone until the others have grown too, so no
//! row is gathered often.
//!
//! Origin: RocksDB's compactions within level 0, chosen by the same cost; size-tiered compaction (Cassandra) for the shape.

use crate::options::Options;
use crate::table::Table;
use crate::version::Version;
use std::sync::Arc;

/// A table of less than this share of a memtable is small.
const SMALL_SHARE: u64 = 8;
/// Going down is cheap while it rewrites no more than so many bytes for a byte that goes down.
const CHEAP_BYTES: u64 = 2;

/// How far level 0 is from going down, and from gathering its small tables; 1: it is time.
pub(super) struct Load {
    pub(super) down: f64,
    pub(super) gather: f64,
}

/// What level 0 asks for.
pub(super) fn load(version: &Version, options: &Options) -> Load {
    let tables = version.level(0);
    let due = options.level0_tables_compact;
    let shares = tables.iter().map(|table| share(table, options));
    let full: f64 = shares.sum();
    let small = tables.iter().filter(|table| is_small(table, options)).count();
    let of_due = |count: f64| count / due as f64;
    // One table cannot be gathered.
    let gathers = due > 1 && !is_cheap(version);
    Load {
        down: of_due(if gathers { full } else { tables.len() as f64 }),
        gather: if gathers { of_due(small as f64) } else { 0.0 },
    }
}

/// The small tables to make one of: those that cost the fewest bytes for each table that is one less then.
pub(super) fn gathered(version: &Version, options: &Options) -> Vec<Arc<Table>> {
    let small = version.level(0).iter().filter(|table| is_small(table, options));
    let mut small: Vec<Arc<Table>> = small.cloned().collect();
    small.sort_by_key(|table| (table.meta.bytes, table.meta.number));
    let sums = small.iter().scan(0, |sum, table| {
        *sum += table.meta.bytes;
        Some(*sum)
    });
    // Of the cheapest, the most.
    let costs = sums.zip(1u64..).skip(1).map(|(bytes, count)| (bytes / (count - 1), count));
    let cheapest = costs.min_by_key(|(cost, count)| (*cost, u64::MAX - count));
    small.truncate(cheapest.map_or(0, |(_, count)| count as usize));
    small
}

fn share(table: &Table, options: &Options) -> f64 {
    if is_small(table, options) {
        (table.meta.bytes * SMALL_SHARE) as f64 / options.memtable_bytes as f64
    } else {
        1.0
    }
}

/// Values outside the table do not count: they are not rewritten.
fn is_small(table: &Table, options: &Options) -> bool {
    table.meta.bytes < options.memtable_bytes as u64 / SMALL_SHARE
}

/// Whether level 0 is no less than a fair part of what it would be merged with.
fn is_cheap(version: &Version) -> bool {
    let overlapped = version.overlapped(1, version.level(0)).map(|table| table.meta.bytes).sum::<u64>();
    overlapped <= version.level_bytes(0).saturating_mul(CHEAP_BYTES)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Map, World, content, delete, put};
    use crate::{Compression, Db, Options};
    use bytes::Bytes;
    use nokv_env::mem_disk::CrashMode;

    const ROWS: usize = 2000;

    fn options() -> Options {
        Options {
            memtable_bytes: 256 << 10,
            table_bytes: 8 << 10,
            block_bytes: 128,
            level0_tables_compact: 4,
            level_bytes_base: 1 << 20,
            compression: Compression::None,
            value_threshold: usize::MAX,
            subcompactions: 1,
            ..Options::tiny()
        }
    }

    fn key(n: usize) -> Bytes {
        format!("key{n:05}").into()
    }

    /// A level 1 that is large for what comes then.
    fn filled(world: &World) -> (Db, Map) {
        let db = world.open(&options()).unwrap();
        let mut model = Map::new();
        for n in 0..ROWS {
            let value = Bytes::from(format!("{n} ").repeat(16));
            db.apply(put(key(n), value.clone())).unwrap();
            model.insert(key(n), value);
        }
        while db.stats().levels[1].tables == 0 {
            db.apply(put("last", "v")).unwrap();
            world.run(db.flush()).unwrap();
            world.settle();
        }
        model.insert("last".into(), "v".into());
        (db, model)
    }

    /// Rows of all of the range and behind it, some of them deleted, flushed at once.
    fn burst(world: &World, db: &Db, model: &mut Map, n: usize) {
        for n in [n * 7 % ROWS, n * 1301 % ROWS] {
            db.apply(put(key(n), format!("newer {n}"))).unwrap();
            model.insert(key(n), format!("newer {n}").into());
        }
        // Level 1 has none of these.
        let behind = |n: usize| Bytes::from(format!("z{}", n % 32));
        db.apply(put(behind(n), "v")).unwrap();
        model.insert(behind(n), "v".into());
        for gone in [key(n * 499 % ROWS), behind(n * 5 + 7)] {
            db.apply(delete(gone.clone())).unwrap();
            model.remove(&gone);
        }
        world.run(db.flush()).unwrap();
        world.settle();
    }

    #[test]
    fn small_tables_become_one_and_stay() {
        let mut world = World::new(1);
        let (db, mut model) = filled(&world);
        let before = db.stats();
        let (mut most, mut flushed) = (0, 0);
        for n in 0..100 {
            burst(&world, &db, &mut model, n);
            let stats = db.stats();
            most = most.max(stats.levels[0].tables);
            flushed = stats.flush_bytes - before.flush_bytes;
            assert_eq!(content(&db).unwrap(), model);
        }
        let stats = db.stats();
        assert_eq!(
            stats.compaction_gathering.count,
            stats.compactions - before.compactions,
            "level 1 was not touched"
        );
        assert!(stats.compaction_gathering.count > 20 && most <= 4, "{most}, {stats:?}");
        // Each row is rewritten a few times: half of a hundred flushes would be fifty times.
        let rewritten = stats.compaction_write_bytes - before.compaction_write_bytes;
        assert!(rewritten < 8 * flushed, "{rewritten} bytes for {flushed}");
        assert_eq!(stats.levels[1], before.levels[1]);
        // What was deleted stays deleted, however tables came together.
        drop(db);
        world.crash(CrashMode::PowerLossWorst);
        let db = world.open(&options()).unwrap();
        assert_eq!(content(&db).unwrap(), model);
        world.expect_no_strays(&db);
    }

    #[test]
    fn gathered_tables_go_down_when_they_are_as_much_as_full_ones() {
        let world = World::new(1);
        let (db, mut model) = filled(&world);
        let before = db.stats();
        for n in 0.. {
            burst(&world, &db, &mut model, n);
            let stats = db.stats();
            if stats.levels[1] != before.levels[1] {
                break;
            }
            let due = 4 * options().memtable_bytes as u64 / super::SMALL_SHARE;
            assert!(stats.levels[0].bytes < due, "{stats:?}");
        }
        assert_eq!(content(&db).unwrap(), model);
    }

    /// Where level 1 is no more than level 0, nothing is saved by waiting.
    #[test]
    fn a_small_level_is_merged_with_at_once() {
        let world = World::new(1);
        let db = world.open(&options()).unwrap();
        let mut model = Map::new();
        (0..16).for_each(|n| burst(&world, &db, &mut model, n));
        let stats = db.stats();
        assert!(stats.levels[0].tables < 4 && stats.levels[1].tables > 0, "{stats:?}");
        assert_eq!(content(&db).unwrap(), model);
    }

    #[test]
    fn a_snapshot_sees_what_it_saw() {
        let world = World::new(1);
        let (db, mut model) = filled(&world);
        let mut held = Vec::new();
        for n in 0..30 {
            burst(&world, &db, &mut model, n);
            held.push((db.snapshot(), model.clone()));
        }
        assert!(db.stats().compaction_gathering.count > 3);
        for (snapshot, model) in held {
            let rows = snapshot.iter(crate::Cf(0), ..).collect::<crate::Result<Map>>().unwrap();
            assert_eq!(rows, model);
        }
    }
}
