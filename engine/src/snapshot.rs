//! Reading one moment of the database.

use crate::iter::Direction;
use crate::iter::merge::Newest;
use crate::key::{InternalKey, Span};
use crate::value::Value;
use crate::version::Version;
use crate::view::View;
use crate::{Cf, Result};
use bytes::Bytes;
use std::ops::RangeBounds;
use std::sync::Arc;

/// The database at one sequence. It keeps the memtables and tables of its moment alive, so later flushes and
/// compactions may forget what only it can see. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
    sequence: u64,
}

impl Snapshot {
    pub(crate) fn new(view: Arc<View>, sequence: u64) -> Self {
        Self { view, sequence }
    }

    /// The value of `key`.
    pub fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.view.get(&InternalKey::new(cf, Bytes::copy_from_slice(key), self.sequence))
    }

    /// Keys of `cf` in `range`, ascending. Nothing is read before the first `next`.
    pub fn iter(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> Iter {
        self.walk(cf, &range, Direction::Forward, true)
    }

    /// The same for a walk through much that nobody asked for: it leaves the block cache to others.
    pub fn iter_uncached(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> Iter {
        self.walk(cf, &range, Direction::Forward, false)
    }

    /// Keys of `cf` in `range`, descending.
    pub fn iter_rev(&self, cf: Cf, range: impl RangeBounds<Bytes>) -> Iter {
        self.walk(cf, &range, Direction::Reverse, true)
    }

    /// The newest sequence this snapshot sees.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn walk(&self, cf: Cf, range: &impl RangeBounds<Bytes>, direction: Direction, fill_cache: bool) -> Iter {
        let span = Span::of(cf, range);
        let newest = if span.is_empty() {
            Newest::new(Vec::new(), direction, self.sequence)
        } else {
            self.view.scan(&span, direction, self.sequence, fill_cache)
        };
        Iter { newest, version: self.view.version.clone() }
    }
}

/// Live keys and values of a range, in order. Ends after the first error.
pub struct Iter {
    newest: Newest,
    /// Knows where the values are.
    version: Arc<Version>,
}

impl Iter {
    fn step(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        while let Some(entry) = self.newest.next().transpose()? {
            let value = match entry.value {
                Value::Tombstone => continue,
                Value::Inline(value) => value,
                Value::Stored(pointer) => self.version.read_stored(&entry.key.prefixed(), pointer)?.1,
            };
            return Ok(Some((entry.key.user, value)));
        }
        Ok(None)
    }
}

impl Iterator for Iter {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            self.newest.end();
        }
        step
    }
}
