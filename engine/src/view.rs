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
use crate::table::Hit;
use crate::value::Value;
use crate::version::Version;
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
        match best {
            Some(Hit { value: Value::Stored(pointer), .. }) => {
                self.version.read_stored(&target.prefixed(), pointer).map(|(_, value)| Some(value))
            }
            Some(Hit { value: Value::Inline(value), .. }) => Ok(Some(value)),
            Some(Hit { value: Value::Tombstone, .. }) | None => Ok(None),
        }
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
