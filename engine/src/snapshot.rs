//! Reading one moment of the database. (API skeleton; being filled in)

use crate::{Cf, Result};
use bytes::Bytes;
use std::ops::RangeBounds;
use std::sync::Arc;

/// The database at one sequence.
#[derive(Clone)]
pub struct Snapshot {
    _inner: Arc<()>,
}

impl Snapshot {
    /// The value of `key`.
    pub fn get(&self, _cf: Cf, _key: &[u8]) -> Result<Option<Bytes>> {
        unimplemented!()
    }
    /// Keys of `cf` in `range`, ascending.
    pub fn iter(&self, _cf: Cf, _range: impl RangeBounds<Bytes>) -> Iter {
        unimplemented!()
    }
    /// Keys of `cf` in `range`, descending.
    pub fn iter_rev(&self, _cf: Cf, _range: impl RangeBounds<Bytes>) -> Iter {
        unimplemented!()
    }
    /// The newest sequence this snapshot sees.
    pub fn sequence(&self) -> u64 {
        unimplemented!()
    }
}

/// Live keys and values of a range, in order. Ends after the first error.
pub struct Iter {
    _inner: Arc<()>,
}

impl Iterator for Iter {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}
