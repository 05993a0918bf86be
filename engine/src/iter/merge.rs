//! Merging layers, and choosing one version a key.

use crate::Result;
use crate::iter::{Direction, Source};
use crate::key::Entry;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// The next entry of one source; the greatest of the heap goes first.
struct Head {
    entry: Entry,
    source: usize,
    direction: Direction,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = self.entry.key.cmp(&other.entry.key);
        match self.direction {
            Direction::Forward => by_key.reverse(),
            Direction::Reverse => by_key,
        }
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// All versions of all sources, in order.
struct Merge {
    heap: BinaryHeap<Head>,
    sources: Vec<Source>,
}

impl Merge {
    fn start(mut sources: Vec<Source>, direction: Direction) -> Result<Self> {
        let mut heap = BinaryHeap::with_capacity(sources.len());
        for (source, entries) in sources.iter_mut().enumerate() {
            if let Some(entry) = entries.next() {
                heap.push(Head { entry: entry?, source, direction });
            }
        }
        Ok(Self { heap, sources })
    }

    fn peek(&self) -> Option<&Entry> {
        self.heap.peek().map(|head| &head.entry)
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        let Some(mut head) = self.heap.peek_mut() else { return Ok(None) };
        match self.sources[head.source].next() {
            Some(entry) => Ok(Some(std::mem::replace(&mut head.entry, entry?))),
            None => Ok(Some(PeekMut::pop(head).entry)),
        }
    }
}

/// Of every key, the newest version at or below a sequence; tombstones included. Ends after an error.
///
/// All versions of a key are looked at, whichever layer they come from: no layer is trusted to be the newest.
pub(crate) struct Newest {
    state: State,
    direction: Direction,
    sequence: u64,
    /// Versions that were passed over because a newer one is visible.
    pub(crate) shadowed: u64,
}

enum State {
    Fresh(Vec<Source>),
    Running(Merge),
    Done,
}

impl Newest {
    /// No source is touched before the first call of `next`.
    pub(crate) fn new(sources: Vec<Source>, direction: Direction, sequence: u64) -> Self {
        Self { state: State::Fresh(sources), direction, sequence, shadowed: 0 }
    }

    /// Nothing comes any more.
    pub(crate) fn end(&mut self) {
        self.state = State::Done;
    }

    fn step(&mut self) -> Result<Option<Entry>> {
        if let State::Fresh(sources) = &mut self.state {
            self.state = State::Running(Merge::start(std::mem::take(sources), self.direction)?);
        }
        let State::Running(merge) = &mut self.state else { return Ok(None) };
        while let Some(mut best) = merge.next()? {
            let mut visible = best.key.sequence <= self.sequence;
            while merge.peek().is_some_and(|next| next.key.same_user_key(&best.key)) {
                let Some(other) = merge.next()? else { break };
                if other.key.sequence <= self.sequence {
                    self.shadowed += u64::from(visible);
                    if !visible || other.key.sequence > best.key.sequence {
                        best = other;
                    }
                    visible = true;
                }
            }
            if visible {
                return Ok(Some(best));
            }
        }
        Ok(None)
    }
}

impl Iterator for Newest {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.end();
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::InternalKey;
    use crate::value::Value;
    use crate::{Cf, Error};

    fn entry(user: &'static str, sequence: u64, value: Option<&'static str>) -> Result<Entry> {
        Ok(Entry {
            key: InternalKey::new(Cf(0), user.into(), sequence),
            value: Value::of(value.map(Into::into)),
        })
    }

    fn source(mut entries: Vec<Result<Entry>>, direction: Direction) -> Source {
        if direction == Direction::Reverse {
            entries.reverse();
        }
        Box::new(entries.into_iter())
    }

    #[test]
    fn the_highest_visible_version_wins_wherever_it_is() {
        for direction in [Direction::Forward, Direction::Reverse] {
            let sources = vec![
                source(vec![entry("a", 1, Some("old")), entry("b", 9, Some("future"))], direction),
                source(vec![entry("a", 5, Some("new")), entry("a", 2, Some("older"))], direction),
                source(vec![entry("b", 4, None), entry("c", 3, Some("c"))], direction),
            ];
            let mut newest = Newest::new(sources, direction, 5);
            let mut found: Vec<_> = newest
                .by_ref()
                .map(|entry| entry.map(|entry| (entry.key.sequence, entry.value)).unwrap())
                .collect();
            if direction == Direction::Reverse {
                found.reverse();
            }
            let value = |value: &'static str| Value::Inline(value.into());
            assert_eq!(found, [(5, value("new")), (4, Value::Tombstone), (3, value("c"))]);
            assert_eq!(newest.shadowed, 2);
        }
    }

    #[test]
    fn an_error_ends_it() {
        let sources = vec![source(
            vec![entry("a", 1, None), Err(Error::Closed), entry("b", 1, None)],
            Direction::Forward,
        )];
        let mut newest = Newest::new(sources, Direction::Forward, 9);
        assert!(matches!(newest.next(), Some(Err(Error::Closed))));
        assert!(newest.next().is_none());
    }
}
