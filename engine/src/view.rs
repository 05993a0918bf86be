//! All layers at one moment: what a read looks at.
//!
//! A view never changes except that its active memtable grows, with sequences that a reader of an older sequence
//! ignores. A reader takes the view first and the sequence second: whatever a later view may have merged away is
//! still in this one.

use crate::Result;
use crate::iter::merge::Newest;
use crate::iter::source::MemtableSource;
use crate::iter::{Direction, Source};
use crate::key::{InternalKey, Span};
use crate::memtable::Memtable;
use crate::stats::PruningCounters;
use crate::table::cursor::TableCursor;
use crate::table::{Hit, Table};
use crate::value::Value;
use crate::version::{Version, find};
use bytes::Bytes;
use std::sync::Arc;

/// Memtables and tables.
#[derive(Clone)]
pub(crate) struct View {
    /// Takes writes.
    pub(crate) active: Arc<Memtable>,
    /// Wait for their flush; newest first.
    pub(crate) immutables: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
    /// Of all views of a database.
    pub(crate) pruning: Arc<PruningCounters>,
}

impl View {
    /// The value of the newest version at or below the target's sequence, from whichever layer has it.
    ///
    /// A layer is skipped only if all it holds is older than what was found.
    pub(crate) fn get(&self, target: &InternalKey) -> Result<Option<Bytes>> {
        let mut best: Option<Hit> = None;
        let mut offer = |hit: Option<Hit>| {
            if let Some(hit) = hit
                && best.as_ref().is_none_or(|best| best.sequence < hit.sequence)
            {
                best = Some(hit);
            }
            best.as_ref().map_or(0, |best| best.sequence)
        };
        let mut found = 0;
        for memtable in std::iter::once(&self.active).chain(&self.immutables) {
            if memtable.sequence_max() > found {
                found = offer(memtable.get(target));
            }
        }
        let mut encoded = Vec::new();
        let mut asked = 0;
        for table in self.version.covering(target.cf, &target.user) {
            asked += 1;
            if table.meta.sequence_max > found {
                if encoded.is_empty() {
                    target.encode_to(&mut encoded);
                }
                found = offer(table.get(target, &encoded)?);
            }
        }
        self.pruning.point(self.version.table_count(), asked);
        self.resolve(target, best.map(|hit| hit.value), true)
    }

    /// The value that a version of `key` stands for, wherever it is. It is kept in the cache if `fill_cache`.
    pub(crate) fn resolve(
        &self,
        key: &InternalKey,
        value: Option<Value>,
        fill_cache: bool,
    ) -> Result<Option<Bytes>> {
        match value {
            Some(Value::Stored(pointer)) => {
                self.version.read_stored(&key.prefixed(), pointer, fill_cache).map(|(_, value)| Some(value))
            }
            Some(Value::Inline(value)) => Ok(Some(value)),
            Some(Value::Tombstone) | None => Ok(None),
        }
    }

    /// What [`View::get`] says of each target, for targets in ascending order. A layer is asked for all of them before the
    /// next one, so that neighbours meet in a block that is at hand.
    pub(crate) fn multi_get(&self, targets: &[InternalKey]) -> Result<Vec<Option<Bytes>>> {
        debug_assert!(targets.is_sorted());
        let encoded: Vec<Vec<u8>> = targets.iter().map(InternalKey::encode).collect();
        let mut best: Vec<Option<Hit>> = targets.iter().map(|_| None).collect();
        let newer = |best: &Option<Hit>, sequence| best.as_ref().is_none_or(|best| best.sequence < sequence);
        for memtable in std::iter::once(&self.active).chain(&self.immutables) {
            for (target, best) in targets.iter().zip(&mut best) {
                if newer(best, memtable.sequence_max())
                    && let Some(hit) = memtable.get(target).filter(|hit| newer(best, hit.sequence))
                {
                    *best = Some(hit);
                }
            }
        }
        let mut asked = 0;
        for layer in self.version.layers().filter(|layer| !layer.is_empty()) {
            let mut open: Option<(&Arc<Table>, TableCursor)> = None;
            for ((target, encoded), best) in targets.iter().zip(&encoded).zip(&mut best) {
                let Some(table) = find(layer, target.cf, &target.user) else { continue };
                asked += 1;
                if !newer(best, table.meta.sequence_max) {
                    continue;
                }
                let (_, cursor) = match &mut open {
                    Some(open) if Arc::ptr_eq(open.0, table) => open,
                    other => other.insert((table, TableCursor::new(table.clone(), true))),
                };
                let hit = table.get_by(cursor, target, encoded)?;
                if let Some(hit) = hit.filter(|hit| newer(best, hit.sequence)) {
                    *best = Some(hit);
                }
            }
        }
        self.pruning.point(self.version.table_count() * targets.len(), asked);
        targets
            .iter()
            .zip(best)
            .map(|(target, best)| self.resolve(target, best.map(|hit| hit.value), true))
            .collect()
    }

    /// The newest version of every key in `span` at or below `sequence`, tombstones included.
    pub(crate) fn scan(&self, span: &Span, direction: Direction, sequence: u64, fill_cache: bool) -> Newest {
        let mut sources: Vec<Source> = Vec::new();
        for memtable in std::iter::once(&self.active).chain(&self.immutables) {
            if !memtable.is_empty() {
                sources.push(Box::new(MemtableSource::new(memtable.clone(), span.clone(), direction)));
            }
        }
        let asked = self.version.sources(span, direction, fill_cache, &mut sources);
        self.pruning.bounded(self.version.table_count(), asked);
        Newest::new(sources, direction, sequence)
    }
}
