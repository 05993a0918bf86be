//! What stands behind a key: nothing, the value itself, or the place in the value log where it is; and until when.

use crate::coding::{Reader, put_varint};
use bytes::Bytes;

/// No time ends a row with this expiry.
pub(crate) const NEVER: u64 = u64::MAX;

/// What a version of a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// The key was deleted.
    Tombstone,
    /// The value.
    Inline(Bytes),
    /// The value is a record of the value log.
    Stored(Pointer),
    /// One of those with an end. Aside, so that values without one are not larger for it.
    Until(Box<Until>),
}

/// A value that is there until its time has come; from then on its version is as good as a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Until {
    /// Milliseconds since the Unix epoch. Not [`NEVER`].
    pub(crate) unix_millis: u64,
    /// [`Value::Inline`] or [`Value::Stored`].
    pub(crate) value: Value,
}

impl Value {
    /// `None` deletes.
    #[cfg(test)]
    pub(crate) fn of(value: Option<Bytes>) -> Self {
        value.map_or(Self::Tombstone, Self::Inline)
    }

    /// This value, until a time in milliseconds since the Unix epoch.
    pub(crate) fn until(self, unix_millis: u64) -> Self {
        debug_assert!(matches!(self, Self::Inline(_) | Self::Stored(_)));
        if unix_millis == NEVER { self } else { Self::Until(Box::new(Until { unix_millis, value: self })) }
    }

    /// Until when it is there.
    pub(crate) fn expiry(&self) -> u64 {
        if let Self::Until(until) = self { until.unix_millis } else { NEVER }
    }

    /// What it holds, whatever the time.
    pub(crate) fn timeless(&self) -> &Self {
        if let Self::Until(until) = self { &until.value } else { self }
    }

    /// Whether it has ended at `now`, milliseconds since the Unix epoch.
    pub(crate) fn is_expired(&self, now: u64) -> bool {
        matches!(self, Self::Until(until) if until.unix_millis <= now)
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        matches!(self, Self::Tombstone)
    }

    /// Bytes that it takes in a table, about.
    pub(crate) fn table_bytes(&self) -> usize {
        match self {
            Self::Tombstone => 0,
            Self::Inline(value) => value.len(),
            Self::Stored(_) => POINTER_BYTES_MAX,
            Self::Until(until) => size_of::<u64>() + until.value.table_bytes(),
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
    fn a_value_has_ended_from_its_time_on() {
        let value = Value::Inline("v".into());
        let until = value.clone().until(7);
        assert_eq!([6, 7, 8].map(|now| until.is_expired(now)), [false, true, true]);
        assert_eq!((until.expiry(), until.timeless(), until.is_tombstone()), (7, &value, false));
        assert!(!value.is_expired(NEVER) && value.clone().until(NEVER) == value);
        // Nobody pays for them who has none.
        assert_eq!(size_of::<Value>(), size_of::<Bytes>() + size_of::<u64>());
    }

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
