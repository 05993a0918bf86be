//! Keys inside the engine: family, user key, and the sequence of the write.
//!
//! ```text
//! encoded = | cf u8 | user key | !sequence u64 big-endian |
//! ```
//! Order: family, user key, then newest first. Encoded keys are compared by [`compare`], not byte by byte: a user
//! key may be a prefix of another.

use crate::Cf;
use crate::value::Value;
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::{Bound, RangeBounds};

/// Larger than every sequence that is ever given out.
pub(crate) const SEQUENCE_MAX: u64 = u64::MAX;
/// Bytes of an encoded key besides the user key.
pub(crate) const OVERHEAD_BYTES: usize = 9;

/// A version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InternalKey {
    pub(crate) cf: u8,
    pub(crate) user: Bytes,
    pub(crate) sequence: u64,
}

impl InternalKey {
    pub(crate) fn new(cf: Cf, user: Bytes, sequence: u64) -> Self {
        Self { cf: cf.0, user, sequence }
    }

    /// Before all versions of `user`.
    pub(crate) fn before(cf: Cf, user: Bytes) -> Self {
        Self::new(cf, user, SEQUENCE_MAX)
    }

    /// After all versions of `user`, before any larger key.
    pub(crate) fn after(cf: Cf, user: &Bytes) -> Self {
        Self::before(cf, [user, [0].as_slice()].concat().into())
    }

    /// Behind all versions of this key, before any larger one: no write has sequence 0.
    pub(crate) fn behind(self) -> Self {
        Self { sequence: 0, ..self }
    }

    /// Whether both are versions of one key.
    pub(crate) fn same_user_key(&self, other: &InternalKey) -> bool {
        self.cf == other.cf && self.user == other.user
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.user.len() + OVERHEAD_BYTES);
        self.encode_to(&mut out);
        out
    }

    pub(crate) fn encode_to(&self, out: &mut Vec<u8>) {
        out.push(self.cf);
        out.extend_from_slice(&self.user);
        out.extend_from_slice(&(!self.sequence).to_be_bytes());
    }

    /// Family and user key, as filters and the value log know it.
    pub(crate) fn prefixed(&self) -> Vec<u8> {
        [[self.cf].as_slice(), &self.user].concat()
    }

    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        Self::decode_with(encoded, Bytes::copy_from_slice)
    }

    /// The same with a way to copy the user key.
    #[inline]
    pub(crate) fn decode_with(encoded: &[u8], copy: impl FnOnce(&[u8]) -> Bytes) -> Option<Self> {
        let (prefixed, sequence) = split(encoded)?;
        let (cf, user) = prefixed.split_first()?;
        Some(Self { cf: *cf, user: copy(user), sequence })
    }
}

impl Ord for InternalKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = self.cf.cmp(&other.cf).then_with(|| self.user.cmp(&other.user));
        by_key.then_with(|| other.sequence.cmp(&self.sequence))
    }
}

impl PartialOrd for InternalKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Encodes a key into `out`, which has the length for it.
pub(crate) fn encode_into(out: &mut [u8], cf: u8, user: &[u8], sequence: u64) {
    out[0] = cf;
    out[1..=user.len()].copy_from_slice(user);
    out[1 + user.len()..].copy_from_slice(&(!sequence).to_be_bytes());
}

/// Takes an encoded key apart: family with user key, and sequence.
pub(crate) fn split(encoded: &[u8]) -> Option<(&[u8], u64)> {
    let (prefixed, inverted) = encoded.split_last_chunk::<8>()?;
    (!prefixed.is_empty()).then(|| (prefixed, !u64::from_be_bytes(*inverted)))
}

/// Order of two encoded keys.
pub(crate) fn compare(a: &[u8], b: &[u8]) -> Ordering {
    match (a.split_last_chunk::<8>(), b.split_last_chunk::<8>()) {
        (Some((a_key, a_inverted)), Some((b_key, b_inverted))) => {
            a_key.cmp(b_key).then_with(|| a_inverted.cmp(b_inverted))
        }
        _ => a.cmp(b),
    }
}

/// Order of an encoded key and another. One that does not decode is before all others.
pub(crate) fn compare_to(encoded: &[u8], key: &InternalKey) -> Ordering {
    match split(encoded) {
        Some((prefixed, sequence)) => {
            let by_key = (prefixed[0], &prefixed[1..]).cmp(&(key.cf, &key.user[..]));
            by_key.then_with(|| key.sequence.cmp(&sequence))
        }
        None => Ordering::Less,
    }
}

/// One version of a key with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: InternalKey,
    pub(crate) value: Value,
}

impl Entry {
    /// Bytes that it takes in a table, about.
    pub(crate) fn table_bytes(&self) -> usize {
        self.key.user.len() + self.value.table_bytes() + 16
    }
}

/// A half-open range of internal keys: all versions of the user keys of a range in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) low: InternalKey,
    /// `None`: no end.
    pub(crate) high: Option<InternalKey>,
}

impl Span {
    /// The span of `range` in family `cf`.
    pub(crate) fn of(cf: Cf, range: &impl RangeBounds<Bytes>) -> Self {
        let low = match range.start_bound() {
            Bound::Included(start) => InternalKey::before(cf, start.clone()),
            Bound::Excluded(start) => InternalKey::after(cf, start),
            Bound::Unbounded => InternalKey::before(cf, Bytes::new()),
        };
        let high = match range.end_bound() {
            Bound::Included(end) => Some(InternalKey::after(cf, end)),
            Bound::Excluded(end) => Some(InternalKey::before(cf, end.clone())),
            Bound::Unbounded => cf.0.checked_add(1).map(|next| InternalKey::before(Cf(next), Bytes::new())),
        };
        Self { low, high }
    }

    /// Everything.
    pub(crate) fn all() -> Self {
        Self { low: InternalKey::before(Cf(0), Bytes::new()), high: None }
    }

    /// The span of the user keys in family `cf` that begin with `prefix`.
    pub(crate) fn of_prefix(cf: Cf, prefix: &[u8]) -> Self {
        let low = InternalKey::before(cf, Bytes::copy_from_slice(prefix));
        // The least key behind all of them: the prefix with its last byte that can grow grown by one.
        let high = match prefix.iter().rposition(|byte| *byte < u8::MAX) {
            Some(last) => {
                let mut end = prefix[..=last].to_vec();
                end[last] += 1;
                Some(InternalKey::before(cf, end.into()))
            }
            None => Self::of(cf, &(..)).high,
        };
        Self { low, high }
    }

    /// Whether a version of a key is in it.
    pub(crate) fn holds(&self, key: &InternalKey) -> bool {
        *key >= self.low && self.ends_behind(key)
    }

    /// Whether its end lies behind a key.
    pub(crate) fn ends_behind(&self, key: &InternalKey) -> bool {
        self.high.as_ref().is_none_or(|high| key < high)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.high.as_ref().is_some_and(|high| *high <= self.low)
    }

    /// Whether a layer that holds keys from `smallest` to `largest` (both included) may hold keys of the span.
    pub(crate) fn overlaps(&self, smallest: &InternalKey, largest: &InternalKey) -> bool {
        *largest >= self.low && self.high.as_ref().is_none_or(|high| smallest < high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(user: &'static [u8], sequence: u64) -> InternalKey {
        InternalKey::new(Cf(1), Bytes::from_static(user), sequence)
    }

    #[test]
    fn the_bytes_are_these() {
        let encoded = key(b"k", 2).encode();
        assert_eq!(encoded, [1, b'k', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfd]);
        assert_eq!(InternalKey::decode(&encoded), Some(key(b"k", 2)));
        assert_eq!(InternalKey::decode(&encoded[..8]), None);
    }

    #[test]
    fn encoded_and_decoded_keys_order_alike() {
        let keys = [key(b"", 9), key(b"a", 7), key(b"a", 3), key(b"a\0", 8), key(b"a\xff", 1), key(b"b", 5)];
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j));
                assert_eq!(compare(&a.encode(), &b.encode()), i.cmp(&j), "{a:?} {b:?}");
                assert_eq!(compare_to(&a.encode(), b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn spans_follow_bounds() {
        let at = |user: &'static [u8]| Bytes::from_static(user);
        let span = Span::of(Cf(1), &(Bound::Excluded(at(b"a")), Bound::Included(at(b"c"))));
        let inside =
            |user: &'static [u8]| span.low <= key(user, 5) && key(user, 5) < span.high.clone().unwrap();
        assert!(!inside(b"a") && inside(b"a\0") && inside(b"c") && !inside(b"c\0"));
        assert!(Span::of(Cf(1), &(at(b"b")..at(b"a"))).is_empty());
        assert!(Span::of(Cf(255), &(..)).high.is_none());
        let inside = |prefix: &[u8], user: &'static [u8]| Span::of_prefix(Cf(1), prefix).holds(&key(user, 5));
        assert!(
            inside(b"a", b"a") && inside(b"a", b"a\xff\xff") && !inside(b"a", b"b") && !inside(b"a", b"`")
        );
        assert!(
            inside(b"a\xff", b"a\xff") && !inside(b"a\xff", b"b") && inside(b"\xff\xff", b"\xff\xff\xff")
        );
        assert!(inside(b"", b"") && inside(b"", b"\xff"));
        assert_eq!(Span::of_prefix(Cf(1), b"").high, Some(InternalKey::before(Cf(2), Bytes::new())));
    }
}
