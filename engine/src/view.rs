//! All layers at one moment: what a read looks at.
//!
//! A view never changes except that its active memtable grows, with sequences that a reader of an older sequence
//! ignores. A reader takes the view first and the sequence second: whatever a later view may have merged away is
//! still in this one.

use crate::Result;
use crate::iter::merge::Newest;
use crate::iter::source::MemtableSource;
use crate::iter::{Direction, Source};
use crate::key::Span;
use crate::lock;
use crate::memtable::Memtable;
use crate::stats::ReadCounters;
use crate::stripes::Stripes;
use crate::table::cursor::TableCursor;
use crate::table::{Hit, Sought, Table};
use crate::value::Value;
use crate::version::{Version, find};
use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// Memtables and tables.
#[derive(Clone)]
pub(crate) struct View {
    /// Takes writes.
    pub(crate) active: Arc<Memtable>,
    /// Wait for their flush; newest first.
    pub(crate) immutables: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
    /// Of all views of a database.
    pub(crate) reads: Arc<ReadCounters>,
}

impl View {
    /// Versions that have an end, in all layers.
    pub(crate) fn expiring(&self) -> u64 {
        let waiting: u64 = self.immutables.iter().map(|memtable| memtable.expiring()).sum();
        self.version.expiring() + self.active.expiring() + waiting
    }

    /// The value of the newest version that is sought, if it has not ended at `now`.
    pub(crate) fn get(&self, sought: &Sought, now: u64) -> Result<Option<Bytes>> {
        let value = self.find(sought)?;
        self.resolve(|| sought.prefixed(), value, now, true)
    }

    /// What the newest version that is sought holds, from whichever layer has it.
    ///
    /// A layer is skipped only if all it holds is older than what was found.
    pub(crate) fn find(&self, sought: &Sought) -> Result<Option<Value>> {
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
                found = offer(memtable.get(sought));
            }
        }
        let (mut asked, mut rejected) = (0, 0);
        for table in self.version.covering(sought.cf(), sought.user()) {
            asked += 1;
            if table.meta.sequence_max <= found {
                continue;
            }
            if table.may_hold(sought)? {
                found = offer(table.get(sought)?);
            } else {
                rejected += 1;
            }
        }
        self.reads.point(1, self.version.table_count(), asked, rejected);
        Ok(best.map(|hit| hit.value))
    }

    /// The value that a version of `key` (family and user key) stands for at `now`, wherever it is. It is kept in the cache
    /// if `fill_cache`.
    pub(crate) fn resolve<K: AsRef<[u8]>>(
        &self,
        key: impl FnOnce() -> K,
        value: Option<Value>,
        now: u64,
        fill_cache: bool,
    ) -> Result<Option<Bytes>> {
        match value {
            Some(Value::Until(until)) if until.unix_millis <= now => Ok(None),
            Some(Value::Until(until)) => self.resolve(key, Some(until.value), now, fill_cache),
            Some(Value::Stored(pointer)) => {
                self.version.read_stored(key().as_ref(), pointer, fill_cache).map(|(_, value)| Some(value))
            }
            Some(Value::Inline(value)) => Ok(Some(value)),
            Some(Value::Tombstone) | None => Ok(None),
        }
    }

    /// What [`View::get`] says of each key, for keys in ascending order. A layer is asked for all of them before the
    /// next one, so that neighbours meet in a block that is at hand.
    pub(crate) fn multi_get(&self, keys: &[Sought], now: u64) -> Result<Vec<Option<Bytes>>> {
        debug_assert!(keys.is_sorted_by_key(Sought::prefixed));
        let mut best: Vec<Option<Hit>> = keys.iter().map(|_| None).collect();
        let newer = |best: &Option<Hit>, sequence| best.as_ref().is_none_or(|best| best.sequence < sequence);
        for memtable in std::iter::once(&self.active).chain(&self.immutables) {
            for (sought, best) in keys.iter().zip(&mut best) {
                if newer(best, memtable.sequence_max())
                    && let Some(hit) = memtable.get(sought).filter(|hit| newer(best, hit.sequence))
                {
                    *best = Some(hit);
                }
            }
        }
        let (mut asked, mut rejected) = (0, 0);
        for layer in self.version.layers().filter(|layer| !layer.is_empty()) {
            let mut open: Option<(&Arc<Table>, TableCursor)> = None;
            for (sought, best) in keys.iter().zip(&mut best) {
                let Some(table) = find(layer, sought.cf(), sought.user()) else { continue };
                asked += 1;
                if !newer(best, table.meta.sequence_max) {
                    continue;
                }
                if !table.may_hold(sought)? {
                    rejected += 1;
                    continue;
                }
                let (_, cursor) = match &mut open {
                    Some(open) if Arc::ptr_eq(open.0, table) => open,
                    other => other.insert((table, TableCursor::new(table.clone(), true))),
                };
                let hit = cursor.get(sought)?;
                if let Some(hit) = hit.filter(|hit| newer(best, hit.sequence)) {
                    *best = Some(hit);
                }
            }
        }
        self.reads.point(keys.len(), self.version.table_count(), asked, rejected);
        keys.iter()
            .zip(best)
            .map(|(sought, best)| self.resolve(|| sought.prefixed(), best.map(|hit| hit.value), now, true))
            .collect()
    }

    /// The newest version of every key in `span` at or below `sequence`, tombstones and what has ended included.
    pub(crate) fn scan(&self, span: &Span, direction: Direction, sequence: u64, fill_cache: bool) -> Newest {
        let mut sources: Vec<Source> = Vec::new();
        for memtable in std::iter::once(&self.active).chain(&self.immutables) {
            if !memtable.is_empty() {
                sources.push(Box::new(MemtableSource::new(memtable.clone(), span.clone(), direction)));
            }
        }
        let asked = self.version.sources(span, direction, fill_cache, &mut sources);
        self.reads.bounded(self.version.table_count(), asked);
        Newest::new(sources, direction, sequence)
    }
}

/// The view that is in force. Every read takes it, so there are copies of it, each with a count of its own of those who hold
/// it: threads that only read do not wait for each other's caches.
pub(crate) struct Views(Stripes<Mutex<Arc<View>>>);

impl Views {
    pub(crate) fn new(view: View) -> Self {
        Self(Stripes::of(|| Mutex::new(Arc::new(view.clone()))))
    }

    pub(crate) fn get(&self) -> Arc<View> {
        lock(self.0.mine()).clone()
    }

    /// Whether nobody has replaced it.
    pub(crate) fn is_in_force(&self, view: &Arc<View>) -> bool {
        Arc::ptr_eq(&lock(self.0.mine()), view)
    }

    /// Puts another one in force, for all at once: nobody gets the old one after somebody got the new one.
    pub(crate) fn change(&self, change: impl FnOnce(&mut View)) {
        let mut all: Vec<_> = self.0.iter().map(lock).collect();
        let mut next = View::clone(&all[0]);
        change(&mut next);
        // The old ones go when nobody waits for the locks: they may be the last that hold a table.
        let old: Vec<_> =
            all.iter_mut().map(|view| std::mem::replace(&mut **view, Arc::new(next.clone()))).collect();
        drop(all);
        drop(old);
    }
}
