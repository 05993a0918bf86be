//! Walking keys in order over all layers.
//!
//! ```text
//! memtable ─┐
//! table ────┼─ merge (every version, in order) ─ newest (one version a key) ─ without tombstones ─ Iter
//! level ────┘
//! ```
//! Everything here goes one way, chosen at the start, as plain iterators over entries; an `Iter` that is asked for both
//! ends keeps one of each way.

pub(crate) mod merge;
pub(crate) mod source;

use crate::Result;
use crate::key::Entry;
use std::cmp::Ordering;

/// Which way to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Reverse,
}

impl Direction {
    /// The other one.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Direction::Forward => Direction::Reverse,
            Direction::Reverse => Direction::Forward,
        }
    }

    /// How an entry compares with those that come after it.
    pub(crate) fn before(self) -> Ordering {
        match self {
            Direction::Forward => Ordering::Less,
            Direction::Reverse => Ordering::Greater,
        }
    }
}

/// One layer's entries (all versions) in order of `Direction`.
pub(crate) type Source = Box<dyn Iterator<Item = Result<Entry>> + Send>;
