//! How large a region is and where its middle lies: its rows are walked in pages, between which others may work.
//!
//! Sizes are those of keys and values with all their versions, as the engine holds them before compression. Memory is
//! counted too: what is in tables alone says little of a region that was written lately.

use crate::mvcc::{CF_DEFAULT, CF_LOCK, CF_WRITE, stored_bounds};
use bytes::Bytes;
use nokv_engine::{Cf, Snapshot};
use nokv_proto::key::{KeyRange, decode_key};
use std::ops::Bound;

/// A middle is precise up to about this part of the limit.
const STEPS: u64 = 64;
/// Rows of a page, at most.
const PAGE_ROWS: usize = 4096;
/// A region this many times too large need not be known to its end.
const ENOUGH: u64 = 4;

/// What a survey found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    /// Bytes of the region; of one that is many times too large, of its beginning.
    pub(crate) bytes: u64,
    /// The user key that has about half of these bytes before it. None if there is but one key.
    pub(crate) middle: Option<Bytes>,
}

/// A walk through a region.
pub(crate) struct Survey {
    upper: Bound<Bytes>,
    step: u64,
    enough: u64,
    walks: [Walk; 3],
    /// User keys, and the bytes of one family before each that are before no smaller one.
    marks: Vec<(Bytes, u64)>,
    bytes: u64,
}

/// How far a family was walked.
struct Walk {
    family: Cf,
    /// Where the next page begins; none at the end.
    next: Option<Bound<Bytes>>,
    /// The encoded user key of the last row.
    last: Bytes,
    /// Bytes since the last mark.
    since_mark: u64,
}

impl Survey {
    /// A survey of `range` that wants to know whether it holds `limit` bytes.
    pub(crate) fn new(range: &KeyRange, limit: u64) -> Self {
        let (lower, upper) = stored_bounds(range);
        let walk = |family| Walk { family, next: Some(lower.clone()), last: Bytes::new(), since_mark: 0 };
        Self {
            upper,
            step: (limit / STEPS).max(1),
            enough: limit.saturating_mul(ENOUGH),
            walks: [CF_DEFAULT, CF_LOCK, CF_WRITE].map(walk),
            marks: Vec::new(),
            bytes: 0,
        }
    }

    /// Reads the next page. Whether there is more to read.
    pub(crate) fn page(&mut self, snapshot: &Snapshot) -> Result<bool, String> {
        let rank = |next: &Bound<Bytes>| match next {
            Bound::Included(key) | Bound::Excluded(key) => key.clone(),
            Bound::Unbounded => Bytes::new(),
        };
        // Whoever is furthest behind, so that the part that was seen is a part of the keys.
        let behind = self.walks.iter_mut().filter_map(|walk| Some((rank(walk.next.as_ref()?), walk)));
        let Some((_, walk)) = behind.min_by(|(a, _), (b, _)| a.cmp(b)) else { return Ok(false) };
        let Some(from) = walk.next.take() else { return Ok(false) };
        let (mut rows, mut page_bytes) = (0, 0);
        for row in snapshot.iter_uncached(walk.family, (from, self.upper.clone())) {
            let (key, value) = row.map_err(|error| error.to_string())?;
            if rows >= PAGE_ROWS || page_bytes >= self.step {
                walk.next = Some(Bound::Included(key));
                break;
            }
            if walk.last.is_empty() || !key.starts_with(&walk.last) {
                let (user, rest) = decode_key(&key).ok_or("a stored key makes no sense")?;
                let encoded = key.len() - rest.len();
                if !walk.last.is_empty() && walk.since_mark >= self.step {
                    self.marks.push((Bytes::from(user), walk.since_mark));
                    walk.since_mark = 0;
                }
                walk.last = key.slice(..encoded);
            }
            let bytes = (key.len() + value.len()) as u64;
            rows += 1;
            page_bytes += bytes;
            walk.since_mark += bytes;
        }
        self.bytes += page_bytes;
        // The first key alone may be that large: then go on to the second one, or there is nowhere to split.
        let wanted = self.bytes < self.enough || self.marks.is_empty();
        Ok(wanted && self.walks.iter().any(|walk| walk.next.is_some()))
    }

    /// What was found.
    pub(crate) fn size(mut self) -> Size {
        self.marks.sort_unstable();
        let mut before = 0;
        let sums = self.marks.into_iter().map(|(key, bytes)| {
            before += bytes;
            (key, before)
        });
        let half = self.bytes / 2;
        let middle = sums.min_by_key(|(_, before)| before.abs_diff(half));
        Size { bytes: self.bytes, middle: middle.map(|(key, _)| key) }
    }
}
