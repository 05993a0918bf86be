//! Every entry that anybody wrote into a group's log, by index: there is one for an (index, term).
//!
//! Nearly always there is one entry at an index, and it stands in `slots`. Entries of other terms, which some
//! leader wrote in vain, stand aside in `others`. Up to `committed` the slot is the committed entry.

use std::collections::{BTreeMap, VecDeque};

/// One entry. Term 0: nobody told of an entry here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Entry {
    pub(super) term: u64,
    pub(super) digest: u64,
    /// Term of the entry before it; 0 = unknown.
    pub(super) before: u64,
}

/// The entries of one group.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Index of the front of `slots`.
    first: u64,
    slots: VecDeque<Entry>,
    others: BTreeMap<(u64, u64), Entry>,
    committed: u64,
}

/// Slots are dropped this many at a time.
const PRUNE: u64 = 4096;

impl Entries {
    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// Everything up to `index` is committed, though nobody tells what it was: a group that begins there.
    pub(super) fn begin(&mut self, index: u64) {
        if self.slots.is_empty() && self.committed < index {
            (self.committed, self.first) = (index, index + 1);
        }
    }

    /// The committed entry at `index`, if it is committed and known.
    pub(super) fn committed_at(&self, index: u64) -> Option<Entry> {
        (index <= self.committed).then(|| self.slot(index)).flatten().filter(|entry| entry.term != 0)
    }

    /// Notes an entry; gives back the one that contradicts it, if any.
    pub(super) fn note(&mut self, index: u64, entry: Entry) -> Option<Entry> {
        if self.slots.is_empty() {
            self.first = index;
        }
        let at = index.checked_sub(self.first)? as usize;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, Entry::default());
        }
        let slot = &mut self.slots[at];
        if slot.term == 0 {
            *slot = entry;
            return None;
        }
        let known = if slot.term == entry.term {
            slot
        } else {
            self.others.entry((index, entry.term)).or_insert(entry)
        };
        let before_differs = known.before != entry.before && known.before != 0 && entry.before != 0;
        (known.digest != entry.digest || before_differs).then_some(*known)
    }

    /// Everything up to `index` is committed now, with the terms that `term` tells.
    pub(super) fn commit(&mut self, index: u64, term: impl Fn(u64) -> Option<u64>) {
        for at in self.committed + 1..=index {
            let Some(term) = term(at).filter(|term| *term != 0) else { continue };
            let Some(slot) = at.checked_sub(self.first).and_then(|at| self.slots.get_mut(at as usize)) else {
                continue;
            };
            if slot.term != term && slot.term != 0 {
                let loser = std::mem::take(slot);
                *slot = self.others.remove(&(at, term)).unwrap_or_default();
                self.others.insert((at, loser.term), loser);
            }
        }
        self.committed = self.committed.max(index);
    }

    /// No peer has anything up to `index` in its log any more.
    pub(super) fn prune(&mut self, index: u64) {
        let index = index.min(self.committed);
        if index < self.first + PRUNE {
            return;
        }
        let gone = ((index - self.first) as usize).min(self.slots.len());
        self.slots.drain(..gone);
        self.first += gone as u64;
        self.others = self.others.split_off(&(self.first, 0));
    }

    fn slot(&self, index: u64) -> Option<Entry> {
        self.slots.get(index.checked_sub(self.first)? as usize).copied()
    }
}
