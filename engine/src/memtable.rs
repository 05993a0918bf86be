//! What was written and is not in a table yet: a concurrent ordered map of versions.
//!
//! Writers insert one batch at a time (the caller serialises them) while readers walk freely: a reader ignores
//! versions above its sequence, so it never sees half a batch. Nothing is ever removed; the whole memtable goes
//! when its table is installed.

use crate::batch::WriteBatch;
use crate::iter::Direction;
use crate::key::{Entry, InternalKey, Span};
use crate::table::Hit;
use crate::value::Value;
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map;
use nokv_env::Instant;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Memory of an entry besides key and value, about.
const ENTRY_BYTES: usize = 128;

/// An ordered map of versions.
pub(crate) struct Memtable {
    map: SkipMap<InternalKey, Option<Bytes>>,
    bytes: AtomicUsize,
    entries: AtomicU64,
    sequence_max: AtomicU64,
    /// The log segment in which its first record may stand. Older segments hold nothing of it.
    pub(crate) log_start: u64,
    /// When it took its last write, on the monotonic clock.
    sealed: AtomicU64,
}

impl Memtable {
    pub(crate) fn new(log_start: u64) -> Self {
        Self {
            map: SkipMap::new(),
            bytes: AtomicUsize::new(0),
            entries: AtomicU64::new(0),
            sequence_max: AtomicU64::new(0),
            log_start,
            sealed: AtomicU64::new(0),
        }
    }

    /// Inserts all changes under `sequence`, which is higher than any before.
    pub(crate) fn insert(&self, batch: WriteBatch, sequence: u64) {
        self.bytes.fetch_add(batch.bytes() + batch.len() * ENTRY_BYTES, Ordering::Relaxed);
        self.entries.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for change in batch.changes {
            self.map.insert(InternalKey::new(change.cf, change.key, sequence), change.value);
        }
        self.sequence_max.store(sequence, Ordering::Release);
    }

    /// The newest version at or below the target's sequence.
    pub(crate) fn get(&self, target: &InternalKey) -> Option<Hit> {
        let entry = self.map.lower_bound(Bound::Included(target))?;
        let hit = || Hit { sequence: entry.key().sequence, value: Value::of(entry.value().clone()) };
        entry.key().same_user_key(target).then(hit)
    }

    /// Up to `count` entries of `span` that follow `after` in `direction`.
    pub(crate) fn chunk(
        &self,
        span: &Span,
        after: Option<&InternalKey>,
        direction: Direction,
        count: usize,
    ) -> Vec<Entry> {
        let owned = |entry: map::Entry<'_, InternalKey, Option<Bytes>>| Entry {
            key: entry.key().clone(),
            value: Value::of(entry.value().clone()),
        };
        let high = span.high.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        match direction {
            Direction::Forward => {
                let low = after.map_or(Bound::Included(&span.low), Bound::Excluded);
                self.map.range::<InternalKey, _>((low, high)).take(count).map(owned).collect()
            }
            Direction::Reverse => {
                let high = after.map_or(high, Bound::Excluded);
                let range = self.map.range::<InternalKey, _>((Bound::Included(&span.low), high));
                range.rev().take(count).map(owned).collect()
            }
        }
    }

    /// It takes no more writes from `now` on.
    pub(crate) fn seal(&self, now: Instant) {
        self.sealed.store(now.0, Ordering::Relaxed);
    }

    /// Since when it takes no more writes.
    pub(crate) fn sealed_at(&self) -> Instant {
        Instant(self.sealed.load(Ordering::Relaxed))
    }

    /// Memory in use, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Versions inserted.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries() == 0
    }

    /// The sequence of the last batch.
    pub(crate) fn sequence_max(&self) -> u64 {
        self.sequence_max.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cf;

    #[test]
    fn a_reader_sees_its_sequence() {
        let memtable = Memtable::new(1);
        for sequence in 1..=3 {
            let mut batch = WriteBatch::new();
            batch.put(Cf(0), "k", format!("{sequence}"));
            memtable.insert(batch, sequence);
        }
        let mut batch = WriteBatch::new();
        batch.put(Cf(0), "k", "shadowed");
        batch.delete(Cf(0), "k");
        memtable.insert(batch, 4);
        let get = |sequence| {
            memtable.get(&InternalKey::new(Cf(0), "k".into(), sequence)).map(|hit| (hit.sequence, hit.value))
        };
        assert_eq!(get(0), None);
        assert_eq!(get(2), Some((2, Value::Inline("2".into()))));
        assert_eq!(get(9), Some((4, Value::Tombstone)));
        assert_eq!(memtable.get(&InternalKey::new(Cf(1), "k".into(), 9)).map(|hit| hit.sequence), None);
        let all = memtable.chunk(&Span::all(), None, Direction::Forward, 10);
        let mut back = memtable.chunk(&Span::all(), None, Direction::Reverse, 10);
        back.reverse();
        assert_eq!(all, back);
        assert_eq!(all.iter().map(|entry| entry.key.sequence).collect::<Vec<_>>(), [4, 3, 2, 1]);
    }
}
