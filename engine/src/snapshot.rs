//! Reading one moment of the database.

use crate::iter::Direction;
use crate::iter::merge::Newest;
use crate::key::{Entry, InternalKey, Span};
use crate::table::Sought;
use crate::value::{NEVER, Value};
use crate::view::View;
use crate::{Cf, Error, Result};
use bytes::Bytes;
use std::iter::FusedIterator;
use std::ops::RangeBounds;
use std::sync::Arc;

/// The database at one sequence, and at one time of its clock: rows that had ended when it was taken are not there for it,
/// those that ended later are, for as long as it lives. It keeps the memtables and tables of its moment alive, so later flushes and
/// compactions may forget what only it can see. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
    sequence: u64,
    /// What rows that have an end are judged by.
    now: u64,
}

impl Snapshot {
    /// `now`: milliseconds since the Unix epoch, looked at after `view` was taken. What a compaction took for ended is not in
    /// a view, so a reader must not believe in an earlier time.
    pub(crate) fn new(view: Arc<View>, sequence: u64, now: u64) -> Self {
        Self { view, sequence, now }
    }

    /// The value of `key`.
    pub fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.view.get(&Sought::new(cf, key, self.sequence), self.now)
    }

    /// The value of `key`, and until when it is there: milliseconds since the Unix epoch, `u64::MAX` for ever; see
    /// [`crate::WriteBatch::put_until`].
    pub fn get_until(&self, cf: Cf, key: &[u8]) -> Result<Option<(Bytes, u64)>> {
        let sought = Sought::new(cf, key, self.sequence);
        let held = self.view.find(&sought)?;
        let until = held.as_ref().map_or(NEVER, Value::expiry);
        let value = self.view.resolve(|| sought.prefixed(), held, self.now, true)?;
        Ok(value.map(|value| (value, until)))
    }

    /// The values of `keys`, in their order. Cheaper than asking for one after the other, the more so the nearer to each
    /// other they are: what lies in one block of a table is read with one look at it.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[(Cf, K)]) -> Result<Vec<Option<Bytes>>> {
        let key = |place: usize| (keys[place].0, keys[place].1.as_ref());
        let mut places: Vec<usize> = (0..keys.len()).collect();
        places.sort_by_key(|place| key(*place));
        let sought = |place: &usize| Sought::new(key(*place).0, key(*place).1, self.sequence);
        let sought: Vec<Sought> = places.iter().map(sought).collect();
        let mut values = vec![None; keys.len()];
        for (value, place) in self.view.multi_get(&sought, self.now)?.into_iter().zip(places) {
            values[place] = value;
        }
        Ok(values)
    }

    /// Keys of `cf` in `range`, ascending. Nothing is read before the first `next`.
    pub fn iter(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> Iter {
        self.walk(Span::of(cf, &range), Direction::Forward, true)
    }

    /// The same for a walk through much that nobody asked for: it leaves the block cache to others.
    pub fn iter_uncached(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> Iter {
        self.walk(Span::of(cf, &range), Direction::Forward, false)
    }

    /// Keys of `cf` in `range`, descending.
    pub fn iter_rev(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> Iter {
        self.walk(Span::of(cf, &range), Direction::Reverse, true)
    }

    /// Keys of `cf` that begin with `prefix`, ascending; all keys of it if `prefix` is empty.
    pub fn iter_prefix(&self, cf: Cf, prefix: &[u8]) -> Iter {
        self.walk(Span::of_prefix(cf, prefix), Direction::Forward, true)
    }

    /// The newest sequence this snapshot sees.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn walk(&self, span: Span, direction: Direction, fill_cache: bool) -> Iter {
        let Self { view, sequence, now } = self.clone();
        let until = NEVER;
        Iter { view, sequence, now, span, direction, fill_cache, forward: None, reverse: None, until }
    }
}

/// Live keys and values of a range, in order, from either end. Ends after the first error. Like the snapshot that it
/// comes from it keeps what it may read alive.
pub struct Iter {
    view: Arc<View>,
    sequence: u64,
    now: u64,
    /// What was not given out yet.
    span: Span,
    /// Of `next`; `next_back` goes the other way.
    direction: Direction,
    fill_cache: bool,
    /// Both walks go through what was `span` when they began.
    forward: Option<Newest>,
    reverse: Option<Newest>,
    /// Of the row that came last.
    until: u64,
}

impl Iter {
    /// Leaves out what comes before `key` in the order of `next`: the next one is `key` or, if that is not there, what
    /// follows it. Never goes back. Worth its price, one search in every layer, where much is left out.
    pub fn skip_to(&mut self, key: &[u8]) {
        let (cf, key) = (Cf(self.span.low.cf), Bytes::copy_from_slice(key));
        match self.direction {
            Direction::Forward => {
                let low = InternalKey::before(cf, key);
                if low > self.span.low {
                    self.span.low = low;
                    self.forward = None;
                }
            }
            Direction::Reverse => {
                let high = InternalKey::after(cf, &key);
                if self.span.high.as_ref().is_none_or(|known| high < *known) {
                    self.span.high = Some(high);
                    self.reverse = None;
                }
            }
        }
    }

    /// Until when the row that came last is there: milliseconds since the Unix epoch, `u64::MAX` for ever.
    pub fn until(&self) -> u64 {
        self.until
    }

    fn step(&mut self, direction: Direction) -> Option<Result<(Bytes, Bytes)>> {
        if self.span.is_empty() {
            return None;
        }
        let walk = match direction {
            Direction::Forward => &mut self.forward,
            Direction::Reverse => &mut self.reverse,
        };
        let begin = || self.view.scan(&self.span, direction, self.sequence, self.fill_cache);
        let walk = walk.get_or_insert_with(begin);
        for entry in walk {
            let Entry { key, value } = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(self.failed(error))),
            };
            // The walk may have begun before the other end came nearer. Its own it has left behind.
            let is_inside = match direction {
                Direction::Forward => self.span.ends_behind(&key),
                Direction::Reverse => key >= self.span.low,
            };
            if !is_inside {
                break;
            }
            self.until = value.expiry();
            match self.view.resolve(|| key.prefixed(), Some(value), self.now, self.fill_cache) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    let user = key.user.clone();
                    match direction {
                        Direction::Forward => self.span.low = key.behind(),
                        Direction::Reverse => {
                            self.span.high = Some(InternalKey::before(Cf(key.cf), key.user));
                        }
                    }
                    return Some(Ok((user, value)));
                }
                Err(error) => return Some(Err(self.failed(error))),
            }
        }
        self.end();
        None
    }

    fn failed(&mut self, error: Error) -> Error {
        self.end();
        error
    }

    /// Nothing is left; lets go of blocks.
    fn end(&mut self) {
        (self.forward, self.reverse) = (None, None);
        self.span.high = Some(self.span.low.clone());
    }
}

impl Iterator for Iter {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(self.direction)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(self.direction.opposite())
    }
}

impl FusedIterator for Iter {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, delete, put};
    use crate::{Compression, Db, Options};
    use nokv_env::mem_disk::DiskFaults;
    use std::collections::BTreeMap;

    type Model = BTreeMap<Bytes, Bytes>;

    fn key(n: usize) -> Bytes {
        // Some keys are prefixes of others.
        format!("{:03}{}", n / 2, if n.is_multiple_of(2) { "" } else { "x" }).into()
    }

    /// Keys in tables of several levels, in memtables, deleted, and in another family.
    fn filled(world: &World) -> (Db, Model) {
        let small = Options { table_bytes: 4 << 10, compression: Compression::None, ..Options::tiny() };
        let db = world.open(&small).unwrap();
        let mut model = Model::new();
        for round in 0..4 {
            for n in (round..400).step_by(round * 2 + 1) {
                let (key, value) = (key(n), Bytes::from(format!("{round} {n} ").repeat(12 + n % 7 * 8)));
                if (n + round) % 5 == 0 {
                    db.apply(delete(key.clone())).unwrap();
                    model.remove(&key);
                } else {
                    db.apply(put(key.clone(), value.clone())).unwrap();
                    model.insert(key, value);
                }
            }
            let mut other = crate::WriteBatch::new();
            other.put(Cf(1), key(round), "other");
            db.apply(other).unwrap();
            if round < 3 {
                world.run(db.flush()).unwrap();
                world.settle();
            }
        }
        assert!(db.stats().buckets.iter().any(|bucket| bucket.live_bytes > 0));
        assert!(db.stats().levels.iter().map(|level| level.tables).sum::<u64>() > 2);
        (db, model)
    }

    fn all(iter: impl Iterator<Item = Result<(Bytes, Bytes)>>) -> Vec<(Bytes, Bytes)> {
        iter.collect::<Result<_>>().unwrap()
    }

    #[test]
    fn many_keys_are_answered_as_each_alone_in_any_order() {
        let world = World::new(1);
        let (db, model) = filled(&world);
        let snapshot = db.snapshot();
        let keys: Vec<(Cf, Bytes)> = (0..900).map(|n| (Cf((n % 7 / 6) as u8), key(n * 37 % 450))).collect();
        let found = snapshot.multi_get(&keys).unwrap();
        for ((cf, key), found) in keys.iter().zip(&found) {
            assert_eq!(*found, snapshot.get(*cf, key).unwrap(), "{cf:?} {key:?}");
            if *cf == Cf(0) {
                assert_eq!(found.as_ref(), model.get(key), "{key:?}");
            }
        }
        assert!(found.iter().filter(|found| found.is_some()).count() > 300);
        assert_eq!(snapshot.multi_get::<Bytes>(&[]).unwrap(), []);
    }

    #[test]
    fn neighbours_share_a_look_at_their_block() {
        let world = World::new(1);
        let (db, model) = filled(&world);
        world.run(db.flush()).unwrap();
        world.settle();
        let snapshot = db.snapshot();
        let keys: Vec<(Cf, &Bytes)> = model.keys().map(|key| (Cf(0), key)).collect();
        let looks = || db.stats().cache_hits + db.stats().cache_misses;
        let begun = looks();
        for (cf, key) in &keys {
            drop(snapshot.get(*cf, key).unwrap());
        }
        let alone = looks() - begun;
        assert_eq!(snapshot.multi_get(&keys).unwrap().into_iter().flatten().count(), keys.len());
        let together = looks() - begun - alone;
        assert!(together * 3 < alone * 2, "{together} looks, one after the other {alone}");
    }

    #[test]
    fn an_old_snapshot_answers_for_its_moment() {
        let world = World::new(1);
        let (db, model) = filled(&world);
        let snapshot = db.snapshot();
        for n in 0..400 {
            db.apply(put(key(n), "later")).unwrap();
        }
        let keys: Vec<_> = (0..400).map(|n| (Cf(0), key(n))).collect();
        let found = snapshot.multi_get(&keys).unwrap();
        assert!(keys.iter().zip(found).all(|((_, key), found)| found.as_ref() == model.get(key)));
    }

    #[test]
    fn prefixes_are_ranges() {
        let world = World::new(1);
        let (db, model) = filled(&world);
        for prefix in ["", "0", "01", "010", "010x", "01x", "1", "9"] {
            let expected: Vec<_> =
                model.iter().filter(|(key, _)| key.starts_with(prefix.as_bytes())).collect();
            let found = all(db.snapshot().iter_prefix(Cf(0), prefix.as_bytes()));
            assert_eq!(found.iter().map(|(k, v)| (k, v)).collect::<Vec<_>>(), expected, "{prefix}");
        }
        assert_eq!(db.snapshot().iter_prefix(Cf(1), b"").count(), 4);
    }

    /// Every way to take turns at both ends, and to skip, against a sorted list.
    #[test]
    fn an_iterator_is_a_double_ended_list() {
        let world = World::new(1);
        let (db, model) = filled(&world);
        let snapshot = db.snapshot();
        for seed in 0..300_usize {
            let (low, high) = (seed * 7 % 300, seed * 7 % 300 + seed % 90);
            let mut list: Vec<_> =
                model.range(key(low)..key(high)).map(|(k, v)| (k.clone(), v.clone())).collect();
            let mut iter = if seed % 2 == 0 {
                snapshot.iter(Cf(0), key(low)..key(high))
            } else {
                list.reverse();
                snapshot.iter_rev(Cf(0), key(low)..key(high))
            };
            let mut list = std::collections::VecDeque::from(list);
            let mut draw = seed;
            loop {
                draw = draw * 31 % 1009 + 1;
                if draw % 11 == 0 {
                    let to = key(draw % 400);
                    iter.skip_to(&to);
                    let before = |at: &(Bytes, Bytes)| if seed % 2 == 0 { at.0 < to } else { at.0 > to };
                    while list.front().is_some_and(before) {
                        list.pop_front();
                    }
                }
                let (found, expected) = if draw % (seed % 5 + 2) == 0 {
                    (iter.next_back(), list.pop_back())
                } else {
                    (iter.next(), list.pop_front())
                };
                assert_eq!(found.transpose().unwrap(), expected, "seed {seed}");
                if expected.is_none() {
                    break;
                }
            }
            assert!(iter.next().is_none() && iter.next_back().is_none());
        }
    }

    #[test]
    fn an_iterator_ends_with_its_first_error() {
        let world = World::new(1);
        let (db, _) = filled(&world);
        world.run(db.flush()).unwrap();
        let mut iter = db.snapshot().iter_uncached(Cf(0), ..);
        let fail = || {
            let io_error_at_op = Some(world.platter.ops() + 1);
            world.platter.set_faults(DiskFaults { io_error_at_op, ..DiskFaults::default() });
        };
        fail();
        assert!(matches!(iter.next(), Some(Err(Error::Io { .. }))));
        assert!(iter.next().is_none() && iter.next_back().is_none());
        let mut iter = db.snapshot().iter_uncached(Cf(0), ..);
        assert!(iter.next_back().unwrap().is_ok());
        fail();
        assert!(matches!(iter.next(), Some(Err(Error::Io { .. }))));
        assert!(iter.next_back().is_none());
    }
}
