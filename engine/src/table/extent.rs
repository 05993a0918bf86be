//! How many bytes of a table a range takes, and where they are, from its indexes alone.
//!
//! ```text
//! file       | data | data | index | data | data | data | index | filter, top index, properties, footer
//! top index    ────────────────▲──────────────────────────▲        in memory: a stretch ends behind each index block
//! index        ──▲──────▲                                          in the file: where each data block is
//! ```

use crate::Result;
use crate::cache::Part;
use crate::key::{InternalKey, Span, compare};
use crate::table::Table;
use crate::table::block::{BlockCursor, Malformed};
use crate::table::format::Handle;
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
        // A table with an index that does not decode is found out by those who read.
        self.with_values(self.stretches_in(span).unwrap_or(self.meta.bytes / 2))
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

    fn stretches_in(&self, span: &Span) -> Result<u64, Malformed> {
        let (low, high) = bounds(span);
        // The first stretch begins with the table's first key, every other one behind the last key of the one before.
        let (mut begins_inside, mut begin) = (span.holds(&self.meta.smallest), 0);
        let mut bytes = 0;
        let mut top = BlockCursor::new(self.top_index.clone());
        top.first()?;
        while top.is_valid() {
            let handle = handle(&top)?;
            let end = handle.offset + u64::from(handle.len);
            let (is_behind_low, is_before_high) =
                (compare(top.key(), &low).is_ge(), is_before(top.key(), high.as_deref()));
            if is_behind_low {
                let is_whole = begins_inside && is_before_high;
                bytes += if is_whole { end - begin } else { (end - begin) / 2 };
            }
            if !is_before_high {
                break;
            }
            (begins_inside, begin) = (is_behind_low, end);
            top.advance()?;
        }
        Ok(bytes)
    }

    /// The data blocks that may hold keys of `span`, in order. Reads their index blocks.
    pub(crate) fn extents(&self, span: &Span) -> Result<Vec<Extent>> {
        let (low, high) = bounds(span);
        let mut extents = Vec::new();
        let mut top = BlockCursor::new(self.top_index.clone());
        top.seek(&low).map_err(|what| self.corrupt(0, what))?;
        while top.is_valid() {
            let below = handle(&top).map_err(|what| self.corrupt(0, what))?;
            let mut index = BlockCursor::new(self.block(below, Part::Index, true)?);
            let corrupt = |what| self.corrupt(below.offset, what);
            index.seek(&low).map_err(corrupt)?;
            while index.is_valid() {
                let last = InternalKey::decode(index.key()).ok_or_else(|| corrupt("a key is too short"))?;
                let bytes = u64::from(handle(&index).map_err(corrupt)?.len);
                extents.push(Extent { last, bytes: self.with_values(bytes) });
                if !is_before(index.key(), high.as_deref()) {
                    return Ok(extents);
                }
                index.advance().map_err(corrupt)?;
            }
            top.advance().map_err(|what| self.corrupt(0, what))?;
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

fn handle(index: &BlockCursor) -> Result<Handle, Malformed> {
    index.inline().and_then(Handle::decode).ok_or("an index entry holds no handle")
}
