//! What stands behind a key: nothing, the value itself, or the place in the value log where it is.

use crate::coding::{Reader, put_varint};
use bytes::Bytes;

/// What a version of a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// The key was deleted.
    Tombstone,
    /// The value.
    Inline(Bytes),
    /// The value is a record of the value log.
    Stored(Pointer),
}

impl Value {
    /// `None` deletes.
    #[cfg(test)]
    pub(crate) fn of(value: Option<Bytes>) -> Self {
        value.map_or(Self::Tombstone, Self::Inline)
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        *self == Self::Tombstone
    }

    /// Bytes that it takes in a table, about.
    pub(crate) fn table_bytes(&self) -> usize {
        match self {
            Self::Tombstone => 0,
            Self::Inline(value) => value.len(),
            Self::Stored(_) => POINTER_BYTES_MAX,
        }
    }
}

/// Where a value is in the value log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pointer {
    /// Number of the segment.
    pub(crate) segment: u64,
    /// Where the record begins.
    pub(crate) offset: u64,
    /// Bytes of the record: key, value and what is around them.
    pub(crate) len: u32,
}

/// Bytes of an encoded pointer, at most.
const POINTER_BYTES_MAX: usize = 25;

impl Pointer {
    /// `| segment varint | offset varint | length varint |`
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(POINTER_BYTES_MAX);
        for number in [self.segment, self.offset, u64::from(self.len)] {
            put_varint(&mut out, number);
        }
        out
    }

    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let (segment, offset) = (reader.varint()?, reader.varint()?);
        let len = u32::try_from(reader.varint()?).ok()?;
        reader.is_empty().then_some(Self { segment, offset, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_these_bytes() {
        let pointer = Pointer { segment: 7, offset: 300, len: 1000 };
        assert_eq!(pointer.encode(), [7, 0xac, 2, 0xe8, 7]);
        assert_eq!(Pointer::decode(&pointer.encode()), Some(pointer));
        assert_eq!(Pointer::decode(&[7, 0xac, 2, 0xe8]), None);
        assert_eq!(Pointer::decode(&[7, 1, 1, 1]), None);
        let largest = Pointer { segment: u64::MAX, offset: u64::MAX, len: u32::MAX };
        assert!(largest.encode().len() <= POINTER_BYTES_MAX);
    }
}
