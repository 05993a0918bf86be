//! Timers: due times over a slab of wakers; a heap of those that are due soon, the others in buckets by time.
//!
//! Most timers are timeouts that never fire. Cancelling one frees its slab slot at once and leaves a stale
//! entry behind; `seq` tells a stale entry from its slot's successor. Nearly all of them are dropped when their bucket
//! is opened, so the heap, where each costs a logarithm, never sees them.

use super::Node;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
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

/// What is due within 2^24 ns (17 ms) shares a bucket.
const BUCKET_BITS: u32 = 24;

#[derive(Default)]
pub(super) struct Timers {
    /// What is due at `horizon` at the latest.
    heap: BinaryHeap<Entry>,
    horizon: u64,
    /// What is due later, by the time's upper bits.
    later: BTreeMap<u64, Vec<Entry>>,
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
        self.push(Entry { at, seq, slot });
        TimerId { slot, seq }
    }

    pub(super) fn insert_unpark(&mut self, at: u64, node: Node) {
        self.seq += 1;
        self.push(Entry { at, seq: self.seq, slot: UNPARK + u32::from(node.0) });
    }

    fn push(&mut self, entry: Entry) {
        if entry.at <= self.horizon {
            self.heap.push(entry);
        } else {
            self.later.entry(entry.at >> BUCKET_BITS).or_default().push(entry);
        }
    }

    /// The live entry that is due next. The heap is empty only when nothing is set.
    fn first(&mut self) -> Option<&Entry> {
        loop {
            match self.heap.peek() {
                Some(entry) if is_live(&self.slots, entry) => break,
                Some(_) => _ = self.heap.pop(),
                None => {
                    let (bucket, entries) = self.later.pop_first()?;
                    self.horizon = bucket << BUCKET_BITS | ((1 << BUCKET_BITS) - 1);
                    self.heap.extend(entries.into_iter().filter(|entry| is_live(&self.slots, entry)));
                }
            }
        }
        self.heap.peek()
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
        let slot = self.first().filter(|entry| entry.at <= now)?.slot;
        self.heap.pop();
        if slot >= UNPARK {
            return Some(Due::Unpark(Node((slot - UNPARK) as u16)));
        }
        let (seq, waker) = &mut self.slots[slot as usize];
        *seq = 0;
        self.free.push(slot);
        waker.take().map(Due::Wake)
    }

    /// When the next live timer is due.
    pub(super) fn next(&mut self) -> Option<u64> {
        self.first().map(|entry| entry.at)
    }

    /// Forgets every timer. `seq` goes on, so old ids stay dead.
    pub(super) fn clear(&mut self) -> Vec<(u64, Option<Waker>)> {
        self.heap.clear();
        self.later.clear();
        self.free.clear();
        std::mem::take(&mut self.slots)
    }
}

/// Whether the entry's timer was neither cancelled nor fired.
fn is_live(slots: &[(u64, Option<Waker>)], entry: &Entry) -> bool {
    entry.slot >= UNPARK || slots[entry.slot as usize].0 == entry.seq
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

    #[test]
    fn near_and_far_timers_fire_in_the_order_of_time_and_then_of_setting() {
        let mut timers = Timers::default();
        let bucket = 1_u64 << BUCKET_BITS;
        let times = [5 * bucket, 3, bucket - 1, bucket, 5 * bucket, 9 * bucket + 7, 4, u64::MAX, 2 * bucket];
        let nodes = |node: usize| Node(node as u16);
        for (node, at) in times.iter().enumerate() {
            timers.insert_unpark(*at, nodes(node));
        }
        let cancelled = timers.insert(7 * bucket, Waker::noop().clone());
        timers.cancel(cancelled);
        let mut expected: Vec<(u64, Node)> = times.iter().copied().zip((0..).map(nodes)).collect();
        expected.sort_by_key(|(at, _)| *at);
        // One more, due before what the buckets hold, set while they are being emptied.
        let mut fired = Vec::new();
        while let Some(at) = timers.next() {
            assert!(at == 0 || timers.pop_due(at - 1).is_none());
            let Some(Due::Unpark(node)) = timers.pop_due(at) else { panic!("a node was parked") };
            fired.push((at, node));
            if fired.len() == 4 {
                timers.insert_unpark(bucket + 1, nodes(99));
                expected.insert(4, (bucket + 1, nodes(99)));
            }
        }
        assert_eq!(fired, expected);
    }
}
