//! One group's part of the raft log, in memory: its hard state, and its entries behind the base.
//!
//! ```text
//!        base        first               last
//!         │            │                   │
//!  gone   ▼  (hole)    ▼  entries in memory ▼
//! ────────●............■■■■■■■■■■■■■■■■■■■■■
//! ```
//! Everything up to `base` is in the machine's durable state or in a snapshot. Behind it the entries follow without a
//! hole, except while the log is replayed from disk: there, old segments with entries below a later base are gone.
//! `runs` remembers which segments hold the entries, so that segments nobody needs can be removed.

use crate::record::{Hard, Place};
use bytes::Bytes;
use raft::eraftpb::Entry;
use std::collections::VecDeque;

/// What an entry weighs in memory besides its data.
const ENTRY_BYTES: u64 = 128;
/// Data up to this size is copied when it is kept, so that it does not pin the much larger buffer it came in.
const COPY_BYTES: usize = 64 << 10;

/// One group's log.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupLog {
    /// The raft id of this node's peer.
    pub(crate) peer: u64,
    pub(crate) hard: Hard,
    /// A snapshot that the machine may have installed, though the log does not say so yet.
    pub(crate) installing: Option<Place>,
    base: Place,
    /// Index of the front of `entries`. Invariant outside replay: `first == base.index + 1`.
    first: u64,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// (segment, index of the first entry in it), ascending in both.
    runs: VecDeque<(u64, u64)>,
}

impl GroupLog {
    /// A log that begins behind `base`.
    pub(crate) fn new(peer: u64, base: Place) -> Self {
        let hard = Hard { term: base.term, vote: 0, commit: base.index };
        Self { peer, hard, base, first: base.index + 1, ..Self::default() }
    }

    pub(crate) fn base(&self) -> Place {
        self.base
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// What the entries weigh in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The term of an entry, or of the base.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Entries from `low` on, in order.
    pub(crate) fn iter_from(&self, low: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(usize::try_from(low.saturating_sub(self.first)).unwrap_or(usize::MAX))
    }

    /// Adds entries that stand in `segment`, replacing what was at their indices and behind. True when that replaced
    /// anything. A gap before them is left as a hole; only replay has gaps.
    pub(crate) fn append(&mut self, segment: u64, entries: Vec<Entry>) -> bool {
        let Some(first) = entries.first().map(|entry| entry.index) else { return false };
        let replaces = first <= self.last_index();
        if first > self.last_index() + 1 || first < self.first {
            self.clear_entries(first);
        }
        while self.last_index() >= first {
            let Some(old) = self.entries.pop_back() else { break };
            self.bytes -= weight(&old);
        }
        while self.runs.back().is_some_and(|(_, start)| *start >= first) {
            self.runs.pop_back();
        }
        if self.runs.back().is_none_or(|(last, _)| *last != segment) {
            self.runs.push_back((segment, first));
        }
        for entry in entries {
            let entry = compact(entry);
            self.bytes += weight(&entry);
            self.entries.push_back(entry);
        }
        replaces
    }

    /// Forgets entries up to `base`.
    pub(crate) fn truncate(&mut self, base: Place) {
        if base.index <= self.base.index {
            return;
        }
        self.base = base;
        while self.first <= base.index {
            match self.entries.pop_front() {
                Some(old) => self.bytes -= weight(&old),
                None => {
                    self.first = base.index + 1;
                    break;
                }
            }
            self.first += 1;
        }
        while self.runs.get(1).is_some_and(|(_, start)| *start <= self.first) {
            self.runs.pop_front();
        }
        if self.entries.is_empty() {
            self.runs.clear();
        }
    }

    /// Starts again behind a snapshot.
    pub(crate) fn reset(&mut self, base: Place) {
        self.base = base;
        self.clear_entries(base.index + 1);
        self.installing = None;
        self.hard.commit = self.hard.commit.max(base.index);
    }

    /// The oldest segment that holds an entry of this group.
    pub(crate) fn oldest_segment(&self) -> Option<u64> {
        self.runs.front().map(|(segment, _)| *segment)
    }

    /// All entries now stand in `segment`.
    pub(crate) fn relocated(&mut self, segment: u64) {
        self.runs.clear();
        if !self.entries.is_empty() {
            self.runs.push_back((segment, self.first));
        }
    }

    /// All entries, to write them again.
    pub(crate) fn to_vec(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }

    /// First index missing between base and entries, if any: the log lacks something.
    pub(crate) fn hole(&self) -> Option<u64> {
        (!self.entries.is_empty() && self.first > self.base.index + 1).then_some(self.base.index + 1)
    }

    /// The largest index up to which entries weigh at least `bytes` less than all of them: truncating there keeps
    /// `bytes` at most.
    pub(crate) fn index_keeping(&self, bytes: u64) -> u64 {
        let mut kept = 0;
        for entry in self.entries.iter().rev() {
            kept += weight(entry);
            if kept > bytes {
                return entry.index;
            }
        }
        self.base.index
    }

    fn clear_entries(&mut self, first: u64) {
        self.entries.clear();
        self.runs.clear();
        self.bytes = 0;
        self.first = first;
    }
}

fn weight(entry: &Entry) -> u64 {
    ENTRY_BYTES + entry.data.len() as u64 + entry.context.len() as u64
}

fn compact(mut entry: Entry) -> Entry {
    if entry.data.len() <= COPY_BYTES {
        entry.data = Bytes::copy_from_slice(&entry.data);
    }
    if entry.context.len() <= COPY_BYTES {
        entry.context = Bytes::copy_from_slice(&entry.context);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        range.map(|index| Entry { index, term, data: Bytes::from_static(b"x"), ..Entry::default() }).collect()
    }

    fn log() -> GroupLog {
        GroupLog::new(1, Place { index: 10, term: 2 })
    }

    fn terms(log: &GroupLog) -> Vec<(u64, u64)> {
        log.iter_from(0).map(|entry| (entry.index, entry.term)).collect()
    }

    #[test]
    fn an_empty_log_ends_at_its_base() {
        let log = log();
        assert_eq!((log.last_index(), log.term(10), log.term(11)), (10, Some(2), None));
        assert_eq!(log.oldest_segment(), None);
    }

    #[test]
    fn appending_replaces_the_suffix() {
        let mut log = log();
        assert!(!log.append(1, entries(11..=13, 2)));
        assert!(log.append(2, entries(12..=14, 3)));
        assert_eq!(terms(&log), [(11, 2), (12, 3), (13, 3), (14, 3)]);
        assert!(log.append(3, entries(11..=11, 4)));
        assert_eq!(terms(&log), [(11, 4)]);
        assert_eq!(log.oldest_segment(), Some(3));
        assert_eq!(log.bytes(), ENTRY_BYTES + 1);
    }

    #[test]
    fn segments_are_let_go_as_the_base_moves() {
        let mut log = log();
        log.append(1, entries(11..=12, 2));
        log.append(2, entries(13..=14, 2));
        log.append(4, entries(15..=15, 2));
        assert_eq!(log.oldest_segment(), Some(1));
        log.truncate(Place { index: 11, term: 2 });
        assert_eq!(log.oldest_segment(), Some(1));
        log.truncate(Place { index: 12, term: 2 });
        assert_eq!(log.oldest_segment(), Some(2));
        log.truncate(Place { index: 15, term: 2 });
        assert_eq!((log.oldest_segment(), log.last_index(), log.bytes()), (None, 15, 0));
        assert_eq!(log.term(15), Some(2));
    }

    #[test]
    fn a_hole_lasts_until_the_base_passes_it() {
        let mut log = log();
        log.append(5, entries(14..=16, 3));
        assert_eq!(log.hole(), Some(11));
        log.truncate(Place { index: 12, term: 2 });
        assert_eq!(log.hole(), Some(13));
        log.truncate(Place { index: 14, term: 3 });
        assert_eq!(log.hole(), None);
        assert_eq!(terms(&log), [(15, 3), (16, 3)]);
    }

    #[test]
    fn a_reset_forgets_everything_before() {
        let mut log = log();
        log.append(1, entries(11..=12, 2));
        log.reset(Place { index: 50, term: 4 });
        assert_eq!((log.last_index(), log.hard.commit, log.oldest_segment()), (50, 50, None));
    }

    #[test]
    fn weight_decides_how_much_is_kept() {
        let mut log = log();
        log.append(1, entries(11..=14, 2));
        assert_eq!(log.index_keeping(u64::MAX), 10);
        assert_eq!(log.index_keeping(2 * (ENTRY_BYTES + 1)), 12);
        assert_eq!(log.index_keeping(0), 14);
    }
}
