//! What was written and is not in a table yet: a concurrent ordered map of versions.
//!
//! Writers insert one batch at a time (the caller serialises them) while readers walk freely: a reader ignores
//! versions above its sequence, so it never sees half a batch. Nothing is ever removed; the whole memtable goes
//! when its table is installed.
//!
//! Keys and values are copied into an [`arena`], and out of it when they are read: a reader that keeps a value does not keep the
//! memtable. Large values are shared instead.

mod arena;
mod skiplist;

use crate::batch::WriteBatch;
use crate::iter::Direction;
use crate::key::{Entry, InternalKey, Span};
use crate::table::{Hit, Sought};
use crate::value::Value;
use arena::Spare;
use bytes::Bytes;
use nokv_env::Instant;
use skiplist::{Held, Node, SkipList};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A chunk is full with so many bytes of keys and values.
const CHUNK_BYTES: usize = 32 << 10;

/// An ordered map of versions.
pub(crate) struct Memtable {
    list: SkipList,
    entries: AtomicU64,
    /// Of those, the ones that have an end.
    expiring: AtomicU64,
    sequence_max: AtomicU64,
    /// The log segment in which its first record may stand. Older segments hold nothing of it.
    pub(crate) log_start: u64,
    /// When it took its last write, on the monotonic clock.
    sealed: AtomicU64,
}

impl Memtable {
    /// The first one. So many bytes of memory that its like do not need any more are kept for those that follow.
    pub(crate) fn new(log_start: u64, spare_bytes: usize) -> Self {
        Self::with(log_start, Arc::new(Spare::new(spare_bytes)))
    }

    /// The one that follows.
    pub(crate) fn successor(&self, log_start: u64) -> Self {
        Self::with(log_start, self.list.spare())
    }

    fn with(log_start: u64, spare: Arc<Spare>) -> Self {
        Self {
            list: SkipList::new(spare),
            entries: AtomicU64::new(0),
            expiring: AtomicU64::new(0),
            sequence_max: AtomicU64::new(0),
            log_start,
            sealed: AtomicU64::new(0),
        }
    }

    /// Inserts all changes under `sequence`, which is higher than any before.
    pub(crate) fn insert(&self, batch: WriteBatch, sequence: u64) {
        self.entries.fetch_add(batch.len() as u64, Ordering::Relaxed);
        if batch.expiring() > 0 {
            self.expiring.fetch_add(batch.expiring() as u64, Ordering::Relaxed);
        }
        self.list.insert(&batch.changes, sequence);
        self.sequence_max.store(sequence, Ordering::Release);
    }

    /// The newest version that is sought.
    pub(crate) fn get(&self, sought: &Sought) -> Option<Hit> {
        let node = self.list.version_of(sought.cf(), sought.user(), sought.sequence)?;
        Some(Hit { sequence: node.sequence(), value: value(node, Bytes::copy_from_slice) })
    }

    /// Some entries of `span` that follow `after` in `direction`, at most `count`. None: there are no more.
    pub(crate) fn chunk(
        &self,
        span: &Span,
        after: Option<&InternalKey>,
        direction: Direction,
        count: usize,
    ) -> Vec<Entry> {
        match direction {
            Direction::Forward => {
                let first = self.list.at_or_behind(after.unwrap_or(&span.low));
                let first = first
                    .filter(|node| after.is_some_and(|after| node.compare(after).is_eq()))
                    .map_or(first, Node::next);
                let is_inside =
                    |node: &Node<'_>| span.high.as_ref().is_none_or(|high| node.compare(high).is_lt());
                copy(std::iter::successors(first, |node| node.next()).take_while(is_inside).take(count))
            }
            Direction::Reverse => {
                let last = self.list.before(after.or(span.high.as_ref()));
                let is_inside = |node: &Node<'_>| node.compare(&span.low).is_ge();
                let nodes = std::iter::successors(last, |node| self.list.before_node(*node));
                copy(nodes.take_while(is_inside).take(count))
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
        self.list.bytes()
    }

    /// Versions inserted.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Of those, the ones that have an end. Whoever may see a write finds it counted.
    pub(crate) fn expiring(&self) -> u64 {
        self.expiring.load(Ordering::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries() == 0
    }

    /// The sequence of the last batch.
    pub(crate) fn sequence_max(&self) -> u64 {
        self.sequence_max.load(Ordering::Acquire)
    }
}

/// What `node` holds, with `owned` for what is in the arena.
fn value<'a>(node: Node<'a>, owned: impl FnOnce(&'a [u8]) -> Bytes) -> Value {
    let value = match node.value() {
        Held::Tombstone => return Value::Tombstone,
        Held::Copied(value) => Value::Inline(owned(value)),
        Held::Shared(value) => Value::Inline(value.clone()),
    };
    value.until(node.until())
}

/// Copies entries until the chunk is full. Keys and values share one piece of memory, as those of a block do.
fn copy<'a>(nodes: impl Iterator<Item = Node<'a>>) -> Vec<Entry> {
    let mut bytes = 0;
    let fits = |node: &Node<'_>| {
        let fits = bytes < CHUNK_BYTES;
        bytes += if fits { node.user().len() + node.value().copied_bytes() } else { 0 };
        fits
    };
    let nodes: Vec<Node<'_>> = nodes.take_while(fits).collect();
    let mut memory = Vec::with_capacity(bytes);
    for node in &nodes {
        memory.extend_from_slice(node.user());
        if let Held::Copied(value) = node.value() {
            memory.extend_from_slice(value);
        }
    }
    let mut memory = Bytes::from(memory);
    let entry = |node: Node<'_>| {
        let user = memory.split_to(node.user().len());
        let value = value(node, |value| memory.split_to(value.len()));
        Entry { key: InternalKey { cf: node.cf(), user, sequence: node.sequence() }, value }
    };
    nodes.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cf;
    use crate::batch::Change;
    use crate::value::NEVER;
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_reader_sees_its_sequence() {
        let memtable = Memtable::new(1, 0);
        for sequence in 1..=3 {
            let mut batch = WriteBatch::new();
            batch.put(Cf(0), "k", format!("{sequence}"));
            memtable.insert(batch, sequence);
        }
        let mut batch = WriteBatch::new();
        batch.put(Cf(0), "k", "shadowed");
        batch.delete(Cf(0), "k");
        memtable.insert(batch, 4);
        let get =
            |sequence| memtable.get(&Sought::new(Cf(0), b"k", sequence)).map(|hit| (hit.sequence, hit.value));
        assert_eq!(get(0), None);
        assert_eq!(get(2), Some((2, Value::Inline("2".into()))));
        assert_eq!(get(9), Some((4, Value::Tombstone)));
        assert_eq!(memtable.get(&Sought::new(Cf(1), b"k", 9)).map(|hit| hit.sequence), None);
        let all = memtable.chunk(&Span::all(), None, Direction::Forward, 10);
        let mut back = memtable.chunk(&Span::all(), None, Direction::Reverse, 10);
        back.reverse();
        assert_eq!(all, back);
        assert_eq!(all.iter().map(|entry| entry.key.sequence).collect::<Vec<_>>(), [4, 3, 2, 1]);
    }

    /// A value that tells key and sequence; some are too large to be copied, some are deletions.
    fn value_of(key: &[u8], sequence: u64) -> Option<Bytes> {
        let len = if sequence.is_multiple_of(7) { 5000 } else { sequence as usize % 20 };
        let value = [key, &sequence.to_le_bytes(), &vec![7; len]].concat();
        (!sequence.is_multiple_of(5)).then(|| value.into())
    }

    /// Some values have an end.
    fn until_of(sequence: u64) -> u64 {
        if sequence.is_multiple_of(3) { sequence * 1000 } else { NEVER }
    }

    fn change_of(cf: Cf, key: &[u8], sequence: u64) -> Change {
        let value = value_of(key, sequence);
        let until = value.as_ref().map_or(NEVER, |_| until_of(sequence));
        Change { cf, key: Bytes::copy_from_slice(key), value, until }
    }

    fn held(key: &[u8], sequence: u64) -> Value {
        value_of(key, sequence)
            .map_or(Value::Tombstone, |value| Value::Inline(value).until(until_of(sequence)))
    }

    /// Keys that are prefixes of others, end in zeros, or differ only behind the prefix that nodes keep.
    fn key_of(n: u64) -> Vec<u8> {
        let long = [b"a long common prefix".as_slice(), &n.to_be_bytes()].concat();
        match n % 4 {
            0 => vec![0; n as usize % 11],
            1 => b"abcdefg\0\0\xff"[..n as usize % 10].to_vec(),
            2 => long,
            _ => n.to_be_bytes()[6..].to_vec(),
        }
    }

    #[test]
    fn it_is_a_sorted_map() {
        let (memtable, mut model) = (Memtable::new(1, 0), BTreeMap::new());
        let mut state = 1_u64;
        let mut dice = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        };
        let rounds = if cfg!(miri) { 60 } else { 1500 };
        for sequence in 1..=rounds {
            let mut batch = WriteBatch::new();
            for _ in 0..dice() % 4 {
                let (cf, key) = (Cf(dice() as u8 % 2), key_of(dice() % 60));
                // An earlier change of the batch is replaced, or the later one is the same.
                if dice().is_multiple_of(3) {
                    batch.put(cf, key.clone(), "replaced");
                }
                let change = change_of(cf, &key, sequence);
                model.insert(InternalKey::new(cf, change.key.clone(), sequence), held(&key, sequence));
                batch.push(change);
            }
            memtable.insert(batch, sequence);
        }
        let entry = |(key, value): (&InternalKey, &Value)| Entry { key: key.clone(), value: value.clone() };
        for _ in 0..rounds {
            let at =
                InternalKey::new(Cf(dice() as u8 % 2), key_of(dice() % 64).into(), dice() % (rounds + 2));
            let expected = model.range(&at..).next().filter(|(key, _)| key.same_user_key(&at));
            let found = memtable
                .get(&Sought::new(Cf(at.cf), &at.user, at.sequence))
                .map(|hit| (hit.sequence, hit.value));
            assert_eq!(found, expected.map(|(key, value)| (key.sequence, value.clone())));

            let span = Span { low: at.clone(), high: None };
            let ahead = memtable.chunk(&span, None, Direction::Forward, 3);
            assert_eq!(ahead, model.range(&at..).take(3).map(entry).collect::<Vec<_>>());
            let back = memtable.chunk(&Span::all(), Some(&at), Direction::Reverse, 3);
            assert_eq!(back, model.range(..&at).rev().take(3).map(entry).collect::<Vec<_>>());
            let span = Span { low: InternalKey::before(Cf(0), Bytes::new()), high: Some(at.clone()) };
            let after = InternalKey::new(Cf(0), key_of(dice() % 64).into(), dice() % rounds);
            let inside = memtable.chunk(&span, Some(&after), Direction::Forward, 3);
            let expected = model.iter().filter(|(key, _)| **key > after && **key < at);
            assert_eq!(inside, expected.take(3).map(entry).collect::<Vec<_>>());
        }
        for direction in [Direction::Forward, Direction::Reverse] {
            let (mut all, mut last) = (Vec::new(), None);
            loop {
                let chunk = memtable.chunk(&Span::all(), last.as_ref(), direction, 40);
                let Some(entry) = chunk.last() else { break };
                last = Some(entry.key.clone());
                all.extend(chunk);
            }
            let mut expected: Vec<_> = model.iter().map(entry).collect();
            if direction == Direction::Reverse {
                expected.reverse();
            }
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn a_chunk_ends_before_it_grows_large() {
        let memtable = Memtable::new(1, 0);
        let mut batch = WriteBatch::new();
        for n in 0..100 {
            batch.put(Cf(0), format!("{n:03}"), vec![7; 1000]);
        }
        let bytes = batch.bytes();
        memtable.insert(batch, 1);
        assert_eq!(memtable.chunk(&Span::all(), None, Direction::Forward, 100).len(), 33);
        assert!((bytes..bytes * 11 / 10).contains(&memtable.bytes()), "{}", memtable.bytes());
    }

    /// Values remain when the memtable is gone.
    #[test]
    fn a_value_outlives_the_memtable() {
        let memtable = Memtable::new(1, 0);
        for sequence in 1..=14 {
            let mut batch = WriteBatch::new();
            batch.push(change_of(Cf(0), b"k", sequence));
            memtable.insert(batch, sequence);
        }
        let hit = memtable.get(&Sought::new(Cf(0), b"k", 7)).map(|hit| hit.value);
        let all = memtable.chunk(&Span::all(), None, Direction::Forward, 99);
        drop(memtable);
        let value = |sequence| held(b"k", sequence);
        assert_eq!(hit, Some(value(7)));
        assert!(
            all.iter().map(|entry| &entry.value).eq((1..=14).rev().map(value).collect::<Vec<_>>().iter())
        );
    }

    /// Readers beside the writer see all of each batch that was there when they began, in order.
    #[test]
    fn readers_see_whole_batches_in_order() {
        let (memtable, done) = (Memtable::new(1, 0), AtomicBool::new(false));
        let (batches, keys) = if cfg!(miri) { (12, 3) } else { (2000, 5) };
        let read = || {
            let visible = memtable.sequence_max();
            let sought = Sought::new(Cf(0), &key_of(0), visible);
            if let Some(hit) = memtable.get(&sought).filter(|_| visible > 0) {
                assert_eq!((hit.sequence, hit.value), (visible, held(&key_of(0), hit.sequence)));
            }
            for direction in [Direction::Forward, Direction::Reverse] {
                let (mut found, mut last): (u64, Option<InternalKey>) = (0, None);
                loop {
                    let chunk = memtable.chunk(&Span::all(), last.as_ref(), direction, 7);
                    for entry in &chunk {
                        assert_eq!(entry.value, held(&entry.key.user, entry.key.sequence));
                        assert!(
                            last.is_none_or(|last| (last < entry.key) == (direction == Direction::Forward))
                        );
                        last = Some(entry.key.clone());
                        found += u64::from(entry.key.sequence <= visible);
                    }
                    if chunk.is_empty() {
                        break;
                    }
                }
                assert_eq!(found, visible * keys);
            }
        };
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while !done.load(Ordering::Acquire) {
                        read();
                    }
                });
            }
            for sequence in 1..=batches {
                let mut batch = WriteBatch::new();
                for n in 0..keys {
                    let key = key_of(4 * n + n % 4);
                    batch.push(change_of(Cf(0), &key, sequence));
                }
                memtable.insert(batch, sequence);
            }
            done.store(true, Ordering::Release);
        });
        read();
    }
}
