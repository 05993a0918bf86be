//! Timers: a heap of due times over a slab of wakers.
//!
//! Most timers are timeouts that never fire. Cancelling one frees its slab slot at once and leaves a stale
//! entry in the heap, which is skipped when it surfaces; `seq` tells a stale entry from its slot's successor.

use super::Node;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::task::Waker;

/// What a heap entry that is due asks for.
pub(super) enum Due {
    Wake(Waker),
    Unpark(Node),
}

/// Names a timer until it fires or is cancelled.
#[derive(Clone, Copy)]
pub(super) struct TimerId {
    slot: u32,
    seq: u64,
}

/// Heap entries of nodes that finish a slow poll carry `UNPARK + node` in place of a slot.
const UNPARK: u32 = u32::MAX - (u16::MAX as u32) - 1;

/// A due time in the heap; the earliest is the greatest, those of one instant come in the order in which they were set.
struct Entry {
    at: u64,
    seq: u64,
    slot: u32,
}

impl Entry {
    fn key(&self) -> u128 {
        u128::from(self.at) << 64 | u128::from(self.seq)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Entry>,
    slots: Vec<(u64, Option<Waker>)>,
    free: Vec<u32>,
    seq: u64,
}

impl Timers {
    pub(super) fn insert(&mut self, at: u64, waker: Waker) -> TimerId {
        self.seq += 1;
        let seq = self.seq;
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = (seq, Some(waker));
            slot
        } else {
            self.slots.push((seq, Some(waker)));
            (self.slots.len() - 1) as u32
        };
        self.heap.push(Entry { at, seq, slot });
        TimerId { slot, seq }
    }

    pub(super) fn insert_unpark(&mut self, at: u64, node: Node) {
        self.seq += 1;
        self.heap.push(Entry { at, seq: self.seq, slot: UNPARK + u32::from(node.0) });
    }

    /// Frees the timer; the caller drops the waker outside any lock.
    pub(super) fn cancel(&mut self, id: TimerId) -> Option<Waker> {
        let entry = self.slots.get_mut(id.slot as usize).filter(|entry| entry.0 == id.seq)?;
        let waker = entry.1.take();
        if waker.is_some() {
            entry.0 = 0;
            self.free.push(id.slot);
        }
        waker
    }

    /// Gives a waiting timer another waker; false if it is gone.
    pub(super) fn rewake(&mut self, id: TimerId, waker: &Waker) -> bool {
        match self.slots.get_mut(id.slot as usize) {
            Some((seq, Some(old))) if *seq == id.seq => {
                old.clone_from(waker);
                true
            }
            _ => false,
        }
    }

    /// Takes one timer that is due at `now`.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<Due> {
        while let Some(&Entry { at, seq, slot }) = self.heap.peek() {
            if at > now {
                return None;
            }
            self.heap.pop();
            if let Some(due) = self.take(seq, slot) {
                return Some(due);
            }
        }
        None
    }

    /// When the next live timer is due.
    pub(super) fn next(&mut self) -> Option<u64> {
        while let Some(&Entry { at, seq, slot }) = self.heap.peek() {
            if slot >= UNPARK || self.slots[slot as usize].0 == seq {
                return Some(at);
            }
            self.heap.pop();
        }
        None
    }

    /// Forgets every timer. `seq` goes on, so old ids stay dead.
    pub(super) fn clear(&mut self) -> Vec<(u64, Option<Waker>)> {
        self.heap.clear();
        self.free.clear();
        std::mem::take(&mut self.slots)
    }

    fn take(&mut self, seq: u64, slot: u32) -> Option<Due> {
        if slot >= UNPARK {
            return Some(Due::Unpark(Node((slot - UNPARK) as u16)));
        }
        let entry = &mut self.slots[slot as usize];
        if entry.0 != seq {
            return None;
        }
        entry.0 = 0;
        self.free.push(slot);
        entry.1.take().map(Due::Wake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelled_timers_never_fire_and_their_slots_are_reused() {
        let mut timers = Timers::default();
        let a = timers.insert(10, Waker::noop().clone());
        timers.insert(20, Waker::noop().clone());
        assert!(timers.cancel(a).is_some());
        assert!(timers.cancel(a).is_none());
        timers.insert(30, Waker::noop().clone());
        assert_eq!(timers.next(), Some(20));
        assert!(timers.pop_due(19).is_none());
        assert!(timers.pop_due(20).is_some());
        assert_eq!(timers.next(), Some(30));
        assert_eq!(timers.slots.len(), 2);
    }
}
