//! How many bytes of a table a range takes, and where they are, from its indexes alone.
//!
//! ```text
//! file       | data | data | index | data | data | data | index | filter, top index, properties, footer
//! top index    ────────────────▲──────────────────────────▲        in memory: a stretch ends behind each index block
//! index        ──▲──────▲                                          in the file: where each data block is
//! ```

use crate::key::{InternalKey, Span, compare};
use crate::table::block::BlockCursor;
use crate::table::{Sought, Stretch, Table, handle_at};
use crate::{Cf, Result};
use std::cmp::Ordering;

/// A data block: its last key, and the bytes that it takes in the file, with its share of what the table has in the value
/// log.
pub(crate) struct Extent {
    pub(crate) last: InternalKey,
    pub(crate) bytes: u64,
}

impl Table {
    /// About how many bytes of it lie in `span`, without asking the disk: of a stretch that is only partly in it, half.
    pub(crate) fn bytes_at_a_glance(&self, span: &Span) -> u64 {
        if span.is_empty() || !span.overlaps(&self.meta.smallest, &self.meta.largest) {
            return 0;
        }
        if self.lies_in(span) {
            return self.meta.bytes_with_values();
        }
        self.with_values(self.stretches_in(span))
    }

    /// So many bytes of the file, and their share of the values that are outside of it: as if those were spread evenly.
    fn with_values(&self, bytes: u64) -> u64 {
        (u128::from(bytes) * u128::from(self.meta.bytes_with_values()) / u128::from(self.meta.bytes.max(1)))
            as u64
    }

    /// Whether nothing of it lies outside of `span`.
    pub(crate) fn lies_in(&self, span: &Span) -> bool {
        span.holds(&self.meta.smallest) && span.holds(&self.meta.largest)
    }

    fn stretches_in(&self, span: &Span) -> u64 {
        let (low, high) = bounds(span);
        // The first stretch begins with the table's first key, every other one behind the last key of the one before.
        let (mut begins_inside, mut begin) = (span.holds(&self.meta.smallest), 0);
        let mut bytes = 0;
        for stretch in &self.stretches {
            let end = stretch.handle.offset + u64::from(stretch.handle.len);
            let (is_behind_low, is_before_high) =
                (compare(&stretch.last, &low).is_ge(), is_before(&stretch.last, high.as_deref()));
            if is_behind_low {
                let is_whole = begins_inside && is_before_high;
                bytes += if is_whole { end - begin } else { (end - begin) / 2 };
            }
            if !is_before_high {
                break;
            }
            (begins_inside, begin) = (is_behind_low, end);
        }
        bytes
    }

    /// The stretches of it, as if each were one block, in order and without asking the disk. Values outside
    /// do not count.
    pub(crate) fn extents_at_a_glance(&self) -> Vec<Extent> {
        let mut begin = 0;
        let extent = |stretch: &Stretch| {
            let end = stretch.handle.offset + u64::from(stretch.handle.len);
            let bytes = end - std::mem::replace(&mut begin, end);
            Some(Extent { last: InternalKey::decode(&stretch.last)?, bytes })
        };
        self.stretches.iter().filter_map(extent).collect()
    }

    /// Some of its keys, spread evenly and in order, without asking the disk.
    pub(crate) fn samples(&self) -> impl Iterator<Item = Sought> {
        let last = self.stretches.iter().filter_map(|stretch| InternalKey::decode(&stretch.last));
        last.map(|key| Sought::new(Cf(key.cf), &key.user, key.sequence))
    }

    /// The data blocks that may hold keys of `span`, in order. Reads their index blocks.
    pub(crate) fn extents(&self, span: &Span) -> Result<Vec<Extent>> {
        let (low, high) = bounds(span);
        let mut extents = Vec::new();
        for stretch in self.stretches.iter().skip(self.stretch_at(&low)) {
            let mut index = BlockCursor::new(self.index_block(stretch, true)?);
            let corrupt = |what| self.corrupt(stretch.handle.offset, what);
            index.seek(&low).map_err(corrupt)?;
            while index.is_valid() {
                let last = InternalKey::decode(index.key()).ok_or_else(|| corrupt("a key is too short"))?;
                let bytes = u64::from(handle_at(&index).map_err(corrupt)?.len);
                extents.push(Extent { last, bytes: self.with_values(bytes) });
                if !is_before(index.key(), high.as_deref()) {
                    return Ok(extents);
                }
                index.advance().map_err(corrupt)?;
            }
        }
        Ok(extents)
    }
}

fn bounds(span: &Span) -> (Vec<u8>, Option<Vec<u8>>) {
    (span.low.encode(), span.high.as_ref().map(InternalKey::encode))
}

fn is_before(key: &[u8], high: Option<&[u8]>) -> bool {
    high.is_none_or(|high| compare(key, high) == Ordering::Less)
}
