//! How much there is between two keys, and where to part it.

use crate::db::Db;
use crate::key::{InternalKey, Span};
use crate::table::extent::Extent;
use crate::{Cf, Result};
use bytes::Bytes;
use std::ops::RangeBounds;

/// A table that is smaller than this share of a part is taken as a lump.
const LUMP_SHARE: u64 = 16;

impl Db {
    /// About how many bytes the keys of `range` take in tables, after compression, without asking the disk. Tables that
    /// lie in the range are counted exactly; one that is only partly in it counts to half of what one of its index blocks
    /// points at, some hundred blocks. Values in the value log count as spread evenly over the rows of a table. What is in
    /// memtables is not seen.
    pub fn approximate_bytes(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> u64 {
        let span = Span::of(cf, &range);
        self.inner.view().version.tables().map(|(_, table)| table.bytes_at_a_glance(&span)).sum()
    }

    /// How many bytes the keys of `range` take in tables, after compression, to a block or two of each table that is only
    /// partly in it; values in the value log count as spread evenly over the rows of a table. Reads the index blocks of
    /// tables at the edges. What is in memtables is not seen.
    pub fn range_bytes(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> Result<u64> {
        let span = Span::of(cf, &range);
        let mut bytes = 0;
        for (_, table) in self.inner.view().version.tables() {
            if table.lies_in(&span) {
                bytes += table.meta.bytes_with_values();
            } else if !span.is_empty() && span.overlaps(&table.meta.smallest, &table.meta.largest) {
                bytes += table.extents(&span)?.iter().map(|extent| extent.bytes).sum::<u64>();
            }
        }
        Ok(bytes)
    }

    /// Keys that part `range` into `parts` of about the same number of bytes: the first part ends before the first key,
    /// the second begins with it, and so on. Ascending, inside of the range and not at its begin; fewer than asked for
    /// where there are not enough blocks. Made of what the indexes of tables say: exact to a block of each, or to a
    /// sixteenth of a part; what is in memtables is not seen.
    pub fn split_keys(&self, cf: Cf, range: impl RangeBounds<Bytes>, parts: usize) -> Result<Vec<Bytes>> {
        let span = Span::of(cf, &range);
        if span.is_empty() || parts < 2 {
            return Ok(Vec::new());
        }
        let mut extents = self.extents(&span, parts as u64)?;
        extents.sort_by(|a, b| a.last.cmp(&b.last));
        let mut total = 0;
        let ends = extents.into_iter().map(|Extent { last, bytes }| {
            total += bytes;
            (total, last)
        });
        let mut ends: Vec<(u64, InternalKey)> = ends.collect();
        // Behind the last one there is nothing to part from.
        ends.pop();
        let mut keys: Vec<Bytes> = Vec::new();
        for part in 1..parts {
            let target = (u128::from(total) * part as u128 / parts as u128) as u64;
            let at = ends.partition_point(|(end, _)| *end < target);
            let around = ends[at.saturating_sub(1)..].iter().take(2);
            let Some((_, key)) = around.min_by_key(|(end, _)| end.abs_diff(target)) else { break };
            let is_new = keys.last().unwrap_or(&span.low.user) < &key.user;
            if is_new && span.holds(key) {
                keys.push(key.user.clone());
            }
        }
        Ok(keys)
    }

    /// What the tables have in `span`, in no order.
    fn extents(&self, span: &Span, parts: u64) -> Result<Vec<Extent>> {
        let view = self.inner.view();
        let touched = view.version.tables().map(|(_, table)| (table, table.bytes_at_a_glance(span)));
        let touched: Vec<_> = touched.filter(|(_, bytes)| *bytes > 0).collect();
        let part_bytes = touched.iter().map(|(_, bytes)| bytes).sum::<u64>() / parts;
        let mut extents = Vec::new();
        for (table, bytes) in touched {
            if table.lies_in(span) && bytes * LUMP_SHARE < part_bytes {
                extents.push(Extent { last: table.meta.largest.clone(), bytes });
            } else {
                extents.extend(table.extents(span)?);
            }
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, delete, put};
    use crate::{Compression, Options};
    use std::collections::BTreeMap;
    use std::ops::Bound;

    const ROWS: usize = 3000;
    const BLOCK_BYTES: u64 = 512;

    fn key(n: usize) -> Bytes {
        format!("key{n:05}").into()
    }

    /// Rows of very different sizes, each once, in the tables of several levels.
    fn filled(world: &World) -> (Db, BTreeMap<Bytes, u64>) {
        let small = Options {
            table_bytes: 64 << 10,
            level_bytes_base: 64 << 10,
            compression: Compression::None,
            value_threshold: usize::MAX,
            ..Options::tiny()
        };
        let db = world.open(&small).unwrap();
        let mut sizes = BTreeMap::new();
        for n in 0..ROWS {
            // Out of order, so that tables of level 0 overlap.
            let n = n * 1009 % ROWS;
            let value = vec![b'x'; if n < ROWS / 2 { 20 } else { 120 + n % 50 }];
            sizes.insert(key(n), (value.len() + key(n).len() + 12) as u64);
            db.apply(put(key(n), value)).unwrap();
            world.settle();
        }
        world.run(db.flush()).unwrap();
        world.settle();
        let tables = db.stats().levels.iter().filter(|level| level.tables > 0).count();
        assert!(tables > 1, "{:?}", db.stats().levels);
        (db, sizes)
    }

    fn naive(sizes: &BTreeMap<Bytes, u64>, low: &Bytes, high: &Bytes) -> u64 {
        sizes.range::<Bytes, _>((Bound::Included(low), Bound::Excluded(high))).map(|(_, bytes)| bytes).sum()
    }

    #[test]
    fn ranges_are_measured_to_a_block_a_table() {
        let world = World::new(1);
        let (db, sizes) = filled(&world);
        for (low, high) in [(0, 3000), (0, 1), (10, 1400), (1000, 2000), (1700, 1750), (2999, 9999), (0, 0)] {
            let naive = naive(&sizes, &key(low), &key(high));
            let found = db.range_bytes(Cf(0), key(low)..key(high)).unwrap();
            let span = Span::of(Cf(0), &(key(low)..key(high)));
            let view = db.inner.view();
            let at_edge = |table: &crate::table::Table| {
                !table.lies_in(&span) && span.overlaps(&table.meta.smallest, &table.meta.largest)
            };
            let at_edges = view.version.tables().filter(|(_, table)| at_edge(table)).count() as u64;
            // Shared prefixes make blocks smaller than their rows, filters and indexes tables larger.
            let error = naive / 4 + at_edges * 2 * BLOCK_BYTES;
            assert!(found.abs_diff(naive) <= error, "{low}..{high}: {found}, is {naive} +- {error}");
            // An index block points at 16 blocks or so; both ends of the range may be in one table.
            let glance = db.approximate_bytes(Cf(0), key(low)..key(high));
            let error = at_edges * 16 * BLOCK_BYTES;
            assert!(glance.abs_diff(found) <= error, "{low}..{high}: {glance}, is {found} +- {error}");
        }
        let files: u64 = db.stats().levels.iter().map(|level| level.bytes).sum();
        assert_eq!(db.range_bytes(Cf(0), ..).unwrap(), files);
        assert_eq!(db.approximate_bytes(Cf(0), ..), files);
        assert_eq!(db.range_bytes(Cf(1), ..).unwrap(), 0);
        assert_eq!(db.approximate_bytes(Cf(1), ..), 0);
    }

    #[test]
    fn a_glance_asks_no_disk() {
        let world = World::new(1);
        let (db, _) = filled(&world);
        let ops = world.platter.ops();
        assert!(db.approximate_bytes(Cf(0), key(100)..key(2000)) > 0);
        assert_eq!(world.platter.ops(), ops);
    }

    #[test]
    fn parts_are_about_even() {
        let world = World::new(1);
        let (db, sizes) = filled(&world);
        for (low, high) in [(0, ROWS), (0, 1400), (700, 2100), (1600, 2999)] {
            for parts in [2, 3, 7, 16] {
                let keys = db.split_keys(Cf(0), key(low)..key(high), parts).unwrap();
                assert_eq!(keys.len(), parts - 1);
                let edges = [vec![key(low)], keys, vec![key(high)]].concat();
                assert!(edges.is_sorted_by(|a, b| a < b), "{edges:?}");
                let even = naive(&sizes, &key(low), &key(high)) / parts as u64;
                for edge in edges.windows(2) {
                    let bytes = naive(&sizes, &edge[0], &edge[1]);
                    // Rows are weighed with what they would take alone; small ones share more.
                    let error = even / 3 + 12 * BLOCK_BYTES;
                    assert!(
                        bytes.abs_diff(even) <= error,
                        "{low}..{high} in {parts}: {bytes}, even is {even}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_parted_is_left_whole() {
        let world = World::new(1);
        let (db, _) = filled(&world);
        let none = |range: (Bound<Bytes>, Bound<Bytes>), parts| {
            assert_eq!(db.split_keys(Cf(0), range, parts).unwrap(), Vec::<Bytes>::new());
        };
        let within = |low: usize, high: usize| (Bound::Included(key(low)), Bound::Excluded(key(high)));
        none(within(5, 5), 4);
        none(within(9, 3), 4);
        none(within(0, 3000), 1);
        none(within(0, 3000), 0);
        none((Bound::Included("zzz".into()), Bound::Unbounded), 4);
        // More parts than blocks: as many as there are, all inside.
        let keys = db.split_keys(Cf(0), key(100)..key(140), 1000).unwrap();
        assert!(!keys.is_empty() && keys.len() < 40 && keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        assert!(keys.iter().all(|found| *found > key(100) && *found < key(140)), "{keys:?}");
        // Nothing in tables, then tombstones only.
        let world = World::new(2);
        let db = world.open(&Options::tiny()).unwrap();
        db.apply(delete("a")).unwrap();
        assert_eq!(db.split_keys(Cf(0), .., 2).unwrap(), Vec::<Bytes>::new());
        assert_eq!(db.range_bytes(Cf(0), ..).unwrap(), 0);
    }

    #[test]
    fn many_small_tables_are_taken_as_lumps() {
        let world = World::new(1);
        let small = Options { table_bytes: 4 << 10, compression: Compression::None, ..Options::tiny() };
        let db = world.open(&small).unwrap();
        for n in 0..8000 {
            db.apply(put(key(n), vec![b'x'; 60])).unwrap();
            world.settle();
        }
        world.run(db.flush()).unwrap();
        world.settle();
        let looks = || db.stats().cache_index_hits + db.stats().cache_index_misses;
        let begun = looks();
        let keys = db.split_keys(Cf(0), .., 2).unwrap();
        let tables: u64 = db.stats().levels.iter().map(|level| level.tables).sum();
        assert!(looks() - begun < tables / 2, "{} of {tables}", looks() - begun);
        assert!(keys.len() == 1 && keys[0] > key(3500) && keys[0] < key(4500), "{keys:?}");
    }
}
