//! Which tables and segments of the value log are live, and in which level. Immutable; a change makes a new one.
//!
//! Level 0 holds flushed memtables, newest first, their ranges overlap. Every deeper level is sorted by key and its
//! tables are disjoint (by user key).

use crate::fences::{Fences, prefix};
use crate::iter::source::{LevelSource, TableSource};
use crate::iter::{Direction, Source};
use crate::key::{InternalKey, Span};
use crate::stats::{BucketStats, LevelStats};
use crate::table::Table;
use crate::table::format::TableMeta;
use crate::value::Pointer;
use crate::vlog::segment::Segment;
use crate::vlog::{BUCKETS, SegmentMeta};
use crate::{Error, Result};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Number of levels.
pub(crate) const LEVELS: usize = 7;

/// The live tables and segments.
#[derive(Clone, Default)]
pub(crate) struct Version {
    levels: [Vec<Arc<Table>>; LEVELS],
    /// Of the largest keys of the tables in each level but the first, which is not sorted by key.
    fences: [Fences; LEVELS],
    table_count: usize,
    segments: BTreeMap<u64, Arc<Segment>>,
    /// Bytes of segments that tables point at, by segment. Those that nobody points at are not in it.
    referenced: BTreeMap<u64, u64>,
    /// Entries of all tables that have an end.
    expiring: u64,
}

impl Version {
    /// A version of these tables; says what is wrong with them, if anything is.
    pub(crate) fn of(
        tables: impl IntoIterator<Item = (usize, Arc<Table>)>,
        segments: impl IntoIterator<Item = Arc<Segment>>,
    ) -> Result<Self, String> {
        let segments = segments.into_iter().map(|segment| (segment.meta.number, segment)).collect();
        let mut version = Self { segments, ..Self::default() };
        for (level, table) in tables {
            version.levels.get_mut(level).ok_or("a table is in a level that does not exist")?.push(table);
        }
        version.sort();
        version.count_references();
        version.check()?;
        version.set_fences();
        Ok(version)
    }

    /// This version without the tables `removed` and with the tables and segments `added`; also without the segments that
    /// no table points at then, which it returns.
    pub(crate) fn changed(
        &self,
        removed: &BTreeSet<u64>,
        added: &[(usize, Arc<Table>)],
        segments: &[Arc<Segment>],
    ) -> (Self, Vec<Arc<Segment>>) {
        let mut next = self.clone();
        next.segments.extend(segments.iter().map(|segment| (segment.meta.number, segment.clone())));
        for level in &mut next.levels {
            level.retain(|table| !removed.contains(&table.meta.number));
        }
        for (level, table) in added {
            next.levels[*level].push(table.clone());
        }
        next.sort();
        next.count_references();
        let is_dead = |segment: &&Arc<Segment>| !next.referenced.contains_key(&segment.meta.number);
        let dead: Vec<_> = next.segments.values().filter(is_dead).cloned().collect();
        next.segments.retain(|number, _| next.referenced.contains_key(number));
        debug_assert_eq!(next.check(), Ok(()));
        next.set_fences();
        (next, dead)
    }

    fn count_references(&mut self) {
        self.referenced.clear();
        self.expiring = self.tables().filter_map(|(_, table)| table.meta.expiry).map(|of| of.entries).sum();
        for table in self.levels.iter().flatten() {
            for (segment, bytes) in &table.meta.references {
                *self.referenced.entry(*segment).or_default() += bytes;
            }
        }
    }

    fn sort(&mut self) {
        self.levels[0].sort_by_key(|table| Reverse((table.meta.sequence_max, table.meta.number)));
        for level in &mut self.levels[1..] {
            level.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
        }
        self.table_count = self.levels.iter().map(Vec::len).sum();
    }

    /// Only for levels whose tables are apart.
    fn set_fences(&mut self) {
        for (level, fences) in self.levels.iter().zip(&mut self.fences).skip(1) {
            let largest = level.iter().map(|table| &table.meta.largest);
            *fences = Fences::of(largest.map(|key| prefix(key.cf, &key.user)));
        }
    }

    fn check(&self) -> Result<(), String> {
        for (number, level) in self.levels.iter().enumerate().skip(1) {
            if let Some(pair) = level.windows(2).find(|pair| pair[0].meta.overlaps(&pair[1].meta)) {
                let (a, b) = (pair[0].meta.number, pair[1].meta.number);
                return Err(format!("tables {a} and {b} of level {number} overlap"));
            }
        }
        match self.referenced.keys().find(|segment| !self.segments.contains_key(segment)) {
            Some(segment) => {
                Err(format!("tables point at segment {segment} of the value log, which is not there"))
            }
            None => Ok(()),
        }
    }

    /// Entries of all tables that have an end.
    pub(crate) fn expiring(&self) -> u64 {
        self.expiring
    }

    /// The value at `pointer`, which must be one of `key` (family and user key), and the bucket it is in.
    pub(crate) fn read_stored(&self, key: &[u8], pointer: Pointer, fill_cache: bool) -> Result<(u8, Bytes)> {
        // Every version holds all segments that its tables point at.
        let segment = self.segments.get(&pointer.segment).ok_or_else(|| {
            let what =
                format!("a table points at segment {} of the value log, which is not live", pointer.segment);
            Error::Poisoned(what)
        })?;
        Ok((segment.meta.bucket, segment.read(pointer, key, fill_cache)?))
    }

    /// Segments of the value log, each with the bytes of it that tables point at.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (&SegmentMeta, u64)> {
        let referenced = |number: &u64| self.referenced.get(number).copied().unwrap_or(0);
        self.segments.iter().map(move |(number, segment)| (&segment.meta, referenced(number)))
    }

    /// The tables of a level, in its order.
    pub(crate) fn level(&self, level: usize) -> &[Arc<Table>] {
        &self.levels[level]
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = (usize, &Arc<Table>)> {
        self.levels
            .iter()
            .enumerate()
            .flat_map(|(level, tables)| tables.iter().map(move |table| (level, table)))
    }

    /// The tables whose range holds this user key, upper levels first.
    pub(crate) fn covering<'a>(&'a self, cf: u8, user: &'a [u8]) -> impl Iterator<Item = &'a Arc<Table>> {
        let level0 = self.levels[0].iter().filter(move |table| table.meta.covers(cf, user));
        let prefix = prefix(cf, user);
        let level_of = move |(level, fences): (&'a Vec<Arc<Table>>, &'a Fences)| {
            if level.is_empty() {
                return None;
            }
            let ends_before = |at: usize| {
                let largest = &level[at].meta.largest;
                (largest.cf, &largest.user[..]) < (cf, user)
            };
            let table = level.get(fences.before(prefix, ends_before))?;
            table.meta.begins_by(cf, user).then_some(table)
        };
        level0.chain(self.levels.iter().zip(&self.fences).skip(1).filter_map(level_of))
    }

    /// Groups of disjoint tables, sorted by key, upper levels first: every table of level 0 alone, every other level as a
    /// whole.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &[Arc<Table>]> {
        self.levels[0].chunks(1).chain(self.levels[1..].iter().map(Vec::as_slice))
    }

    /// Whether a table in a level below `level` has this user key in its range.
    pub(crate) fn covered_below(&self, level: usize, cf: u8, user: &[u8]) -> bool {
        self.levels.iter().skip(level + 1).any(|tables| find(tables, cf, user).is_some())
    }

    /// Whether a table in a level below `level` shares its range with this one.
    pub(crate) fn overlapped_below(&self, level: usize, meta: &TableMeta) -> bool {
        self.levels.iter().skip(level + 1).flatten().any(|table| table.meta.overlaps(meta))
    }

    /// The tables of `level` between the smallest and the largest key of `tables`.
    pub(crate) fn overlapped<'a>(
        &'a self,
        level: usize,
        tables: &[Arc<Table>],
    ) -> impl Iterator<Item = &'a Arc<Table>> {
        let smallest = tables.iter().map(|table| &table.meta.smallest).min().cloned();
        let largest = tables.iter().map(|table| &table.meta.largest).max().cloned();
        let is_inside = move |table: &&Arc<Table>| {
            let meta = &table.meta;
            let is_behind = |low: &InternalKey| (meta.largest.cf, &meta.largest.user) >= (low.cf, &low.user);
            let is_before =
                |high: &InternalKey| (meta.smallest.cf, &meta.smallest.user) <= (high.cf, &high.user);
            smallest.as_ref().is_some_and(is_behind) && largest.as_ref().is_some_and(is_before)
        };
        self.levels[level].iter().filter(is_inside)
    }

    /// The tables whose range holds this user key, and whose rows are older than those of table `number` of `level`.
    pub(crate) fn covering_below<'a>(
        &'a self,
        level: usize,
        number: u64,
        cf: u8,
        user: &'a [u8],
    ) -> impl Iterator<Item = &'a Arc<Table>> {
        let newer_first = self.levels[0].iter().skip_while(move |table| table.meta.number != number).skip(1);
        let level0 = newer_first.take_while(move |_| level == 0);
        let older = level0.filter(move |table| table.meta.covers(cf, user));
        older.chain(self.levels.iter().skip(level + 1).filter_map(move |tables| find(tables, cf, user)))
    }

    /// How many tables there are.
    pub(crate) fn table_count(&self) -> usize {
        self.table_count
    }

    /// Adds the sources of all levels that overlap `span`, and gives the number of their tables. What they read is kept in
    /// the cache if `fill_cache`.
    pub(crate) fn sources(
        &self,
        span: &Span,
        direction: Direction,
        fill_cache: bool,
        out: &mut Vec<Source>,
    ) -> usize {
        let inside = |table: &&Arc<Table>| span.overlaps(&table.meta.smallest, &table.meta.largest);
        let mut count = 0;
        for table in self.levels[0].iter().filter(inside) {
            count += 1;
            out.push(Box::new(TableSource::new(table.clone(), span.clone(), direction, fill_cache)));
        }
        for level in &self.levels[1..] {
            let start = level.partition_point(|table| table.meta.largest < span.low);
            let tables: std::collections::VecDeque<_> =
                level[start..].iter().take_while(inside).cloned().collect();
            if !tables.is_empty() {
                count += tables.len();
                out.push(Box::new(LevelSource::new(tables, span.clone(), direction, fill_cache)));
            }
        }
        count
    }

    /// The deepest level that has tables.
    pub(crate) fn deepest(&self) -> usize {
        self.levels.iter().rposition(|level| !level.is_empty()).unwrap_or(0)
    }

    pub(crate) fn level_bytes(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|table| table.meta.bytes).sum()
    }

    pub(crate) fn stats(&self) -> Vec<LevelStats> {
        let of_level = |level: &Vec<Arc<Table>>| {
            level.iter().fold(LevelStats::default(), |sum, table| LevelStats {
                tables: sum.tables + 1,
                bytes: sum.bytes + table.meta.bytes,
                entries: sum.entries + table.meta.entries,
                tombstones: sum.tombstones + table.meta.tombstones,
                expiring: sum.expiring + table.meta.expiry.map_or(0, |of| of.entries),
                value_bytes: sum.value_bytes + table.meta.references.values().sum::<u64>(),
            })
        };
        self.levels.iter().map(of_level).collect()
    }

    pub(crate) fn bucket_stats(&self) -> Vec<BucketStats> {
        let mut buckets = vec![BucketStats::default(); usize::from(BUCKETS)];
        for (meta, live) in self.segments() {
            let bucket = &mut buckets[usize::from(meta.bucket)];
            bucket.segments += 1;
            bucket.bytes += meta.bytes;
            bucket.live_bytes += live;
            bucket.newest = Some((meta.number, meta.bytes));
        }
        buckets
    }
}

/// The one table of disjoint, sorted `tables` whose range holds the key.
pub(crate) fn find<'a>(tables: &'a [Arc<Table>], cf: u8, user: &[u8]) -> Option<&'a Arc<Table>> {
    let at =
        tables.partition_point(|table| (table.meta.largest.cf, &table.meta.largest.user[..]) < (cf, user));
    tables.get(at).filter(|table| table.meta.covers(cf, user))
}
