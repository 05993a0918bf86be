//! Merging layers, and choosing one version a key.

use crate::Result;
use crate::fences::prefix;
use crate::iter::{Direction, Source};
use crate::key::{Entry, InternalKey};

/// The next entry of one source.
struct Head {
    /// Of the key: most comparisons end here.
    prefix: u64,
    entry: Entry,
    source: Source,
}

impl Head {
    /// `None`: the source has nothing.
    fn of(mut source: Source) -> Result<Option<Self>> {
        let first = source.next().transpose()?;
        Ok(first.map(|entry| Self { prefix: prefix_of(&entry.key), entry, source }))
    }

    /// What stood here; what follows it in the source does now. `None`: nothing does, and it still stands here.
    fn next(&mut self) -> Result<Option<Entry>> {
        let Some(next) = self.source.next().transpose()? else { return Ok(None) };
        self.prefix = prefix_of(&next.key);
        Ok(Some(std::mem::replace(&mut self.entry, next)))
    }

    fn goes_before(&self, other: &Self, direction: Direction) -> bool {
        let by_key = self.prefix.cmp(&other.prefix).then_with(|| self.entry.key.cmp(&other.entry.key));
        by_key == direction.before()
    }
}

fn prefix_of(key: &InternalKey) -> u64 {
    prefix(key.cf, &key.user)
}

/// All versions of all sources, in order.
///
/// There are few sources, and mostly one of them is much larger than the others: after its entry its next one comes. So they
/// stand in a sorted list, and the first one, which moved on, is compared with the second before anything else.
struct Merge {
    heads: Vec<Head>,
    /// Places in `heads`, of those that have an entry; the one that goes first is the last.
    order: Vec<u32>,
    direction: Direction,
}

impl Merge {
    fn start(sources: Vec<Source>, direction: Direction) -> Result<Self> {
        let mut heads = Vec::with_capacity(sources.len());
        for source in sources {
            heads.extend(Head::of(source)?);
        }
        let mut merge = Self { order: Vec::with_capacity(heads.len()), heads, direction };
        for at in 0..merge.heads.len() {
            merge.enter(at as u32);
        }
        Ok(merge)
    }

    /// Puts a head where it belongs.
    fn enter(&mut self, at: u32) {
        let head = &self.heads[at as usize];
        let is_later = |other: &u32| head.goes_before(&self.heads[*other as usize], self.direction);
        let place = self.order.partition_point(is_later);
        self.order.insert(place, at);
    }

    fn peek(&self) -> Option<&Head> {
        self.order.last().map(|first| &self.heads[*first as usize])
    }

    /// Whether what comes next is a version of this key, which is the one that came last.
    fn goes_on_with(&self, key: &InternalKey, prefix: u64) -> bool {
        self.peek().is_some_and(|next| next.prefix == prefix && next.entry.key.same_user_key(key))
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        let Some(&first) = self.order.last() else { return Ok(None) };
        let Some(entry) = self.heads[first as usize].next()? else {
            self.order.pop();
            // Its last one: the head is not looked at any more.
            return Ok(Some(self.heads[first as usize].entry.clone()));
        };
        if let [.., second, _] = self.order[..]
            && self.heads[second as usize].goes_before(&self.heads[first as usize], self.direction)
        {
            self.order.pop();
            self.enter(first);
        }
        Ok(Some(entry))
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
            let prefix = prefix_of(&best.key);
            while merge.goes_on_with(&best.key, prefix) {
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

    /// Keys whose first bytes are alike and others, runs of one source and turns, sources that end early or have nothing.
    #[test]
    fn many_sources_come_in_order() {
        for direction in [Direction::Forward, Direction::Reverse] {
            let mut model = std::collections::BTreeMap::new();
            let mut sources: Vec<Vec<Entry>> = vec![Vec::new(); 9];
            for n in 0..3000_u64 {
                let drawn = n * 389 % 1013;
                let user = match drawn % 3 {
                    0 => format!("{drawn:04}"),
                    1 => format!("{:02}", drawn % 50),
                    _ => format!("a long common prefix {drawn}"),
                };
                let source = if drawn < 700 { 0 } else { (n % 8) as usize };
                let key = InternalKey::new(Cf((drawn % 2) as u8), user.clone().into(), n + 1);
                sources[source].push(Entry { key: key.clone(), value: Value::Tombstone });
                model.insert((key.cf, user), n + 1);
            }
            let sorted = sources.into_iter().map(|mut entries| {
                entries.sort_by(|a, b| a.key.cmp(&b.key));
                source(entries.into_iter().map(Ok).collect(), direction)
            });
            let newest = Newest::new(sorted.collect(), direction, u64::MAX);
            let found = newest.map(|entry| entry.unwrap().key);
            let found: Vec<_> = found.map(|key| ((key.cf, key.user), key.sequence)).collect();
            let mut expected: Vec<_> =
                model.into_iter().map(|((cf, user), sequence)| ((cf, user.into()), sequence)).collect();
            if direction == Direction::Reverse {
                expected.reverse();
            }
            assert!(expected.len() > 500);
            assert_eq!(found, expected);
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
