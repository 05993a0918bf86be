//! Which tables are live, and in which level. Immutable; a change makes a new one.
//!
//! Level 0 holds flushed memtables, newest first, their ranges overlap. Every deeper level is sorted by key and its
//! tables are disjoint (by user key).

use crate::Result;
use crate::iter::source::{LevelSource, TableSource};
use crate::iter::{Direction, Source};
use crate::key::Span;
use crate::stats::LevelStats;
use crate::table::Table;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Number of levels.
pub(crate) const LEVELS: usize = 7;

/// The live tables.
#[derive(Clone, Default)]
pub(crate) struct Version {
    levels: [Vec<Arc<Table>>; LEVELS],
}

impl Version {
    /// A version of these tables; says what is wrong with them, if anything is.
    pub(crate) fn of(tables: impl IntoIterator<Item = (usize, Arc<Table>)>) -> Result<Self, String> {
        let mut version = Self::default();
        for (level, table) in tables {
            version.levels.get_mut(level).ok_or("a table is in a level that does not exist")?.push(table);
        }
        version.sort();
        version.check()?;
        Ok(version)
    }

    /// This version without the tables `removed` and with the tables `added`.
    pub(crate) fn changed(&self, removed: &BTreeSet<u64>, added: &[(usize, Arc<Table>)]) -> Self {
        let mut next = self.clone();
        for level in &mut next.levels {
            level.retain(|table| !removed.contains(&table.meta.number));
        }
        for (level, table) in added {
            next.levels[*level].push(table.clone());
        }
        next.sort();
        debug_assert_eq!(next.check(), Ok(()));
        next
    }

    fn sort(&mut self) {
        self.levels[0].sort_by_key(|table| Reverse((table.meta.sequence_max, table.meta.number)));
        for level in &mut self.levels[1..] {
            level.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
        }
    }

    fn check(&self) -> Result<(), String> {
        for (number, level) in self.levels.iter().enumerate().skip(1) {
            if let Some(pair) = level.windows(2).find(|pair| pair[0].meta.overlaps(&pair[1].meta)) {
                let (a, b) = (pair[0].meta.number, pair[1].meta.number);
                return Err(format!("tables {a} and {b} of level {number} overlap"));
            }
        }
        Ok(())
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
    pub(crate) fn covering(&self, cf: u8, user: &[u8]) -> impl Iterator<Item = &Arc<Table>> {
        let level0 = self.levels[0].iter().filter(move |table| table.meta.covers(cf, user));
        level0.chain(self.levels[1..].iter().filter_map(move |level| find(level, cf, user)))
    }

    /// Whether a table in a level below `level` has this user key in its range.
    pub(crate) fn covered_below(&self, level: usize, cf: u8, user: &[u8]) -> bool {
        self.levels.iter().skip(level + 1).any(|tables| find(tables, cf, user).is_some())
    }

    /// How many tables there are.
    pub(crate) fn table_count(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
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

    /// About how many bytes of tables lie in `span`: of a table that is only partly in it, half.
    pub(crate) fn bytes_in(&self, span: &Span) -> u64 {
        let inside = |table: &Arc<Table>| {
            let (smallest, largest) = (&table.meta.smallest, &table.meta.largest);
            *smallest >= span.low && span.high.as_ref().is_none_or(|high| largest < high)
        };
        let touched =
            self.tables().filter(|(_, table)| span.overlaps(&table.meta.smallest, &table.meta.largest));
        touched.map(|(_, table)| if inside(table) { table.meta.bytes } else { table.meta.bytes / 2 }).sum()
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
            })
        };
        self.levels.iter().map(of_level).collect()
    }
}

/// The one table of disjoint, sorted `tables` whose range holds the key.
fn find<'a>(tables: &'a [Arc<Table>], cf: u8, user: &[u8]) -> Option<&'a Arc<Table>> {
    let at =
        tables.partition_point(|table| (table.meta.largest.cf, &table.meta.largest.user[..]) < (cf, user));
    tables.get(at).filter(|table| table.meta.covers(cf, user))
}
