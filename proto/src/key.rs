//! Key ranges, and an encoding of arbitrary bytes that keeps their order and marks their end.
//!
//! Versions of one user key are stored side by side under `encode_key(key) ++ version`. Without an end mark
//! the versions of `a` and of `ab` would interleave. The encoding escapes zero bytes and ends with a mark that
//! sorts below every continuation:
//!
//! ```text
//! 00        -> 00 FF
//! any other -> itself
//! end       -> 00 01
//! ```

use bytes::Bytes;

/// Keys in `[start, end)`; an empty `end` means no upper bound.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// First key of the range.
    pub start: Bytes,
    /// First key after the range; empty = unbounded.
    pub end: Bytes,
}

impl KeyRange {
    /// The range `[start, end)`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: Bytes::copy_from_slice(prefix), end: prefix_end(prefix) }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start[..] <= *key && (self.end.is_empty() || *key < self.end[..])
    }

    /// Whether the two ranges share a key.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        let below = |start: &[u8], end: &[u8]| end.is_empty() || start < end;
        below(&self.start, &other.end)
            && below(&other.start, &self.end)
            && !self.is_empty()
            && !other.is_empty()
    }

    /// The keys of this range that lie in none of `others`, as ranges in order.
    pub fn without(&self, others: &[KeyRange]) -> Vec<KeyRange> {
        let mut left = vec![self.clone()];
        for other in others {
            left = left.iter().flat_map(|range| range.around(other)).collect();
        }
        left
    }

    /// What lies before `other`, and what lies behind it.
    fn around(&self, other: &KeyRange) -> Vec<KeyRange> {
        if !self.overlaps(other) {
            return vec![self.clone()];
        }
        let mut left = Vec::new();
        if self.start < other.start {
            left.push(Self { start: self.start.clone(), end: other.start.clone() });
        }
        if !other.end.is_empty() && (self.end.is_empty() || other.end < self.end) {
            left.push(Self { start: other.end.clone(), end: self.end.clone() });
        }
        left
    }

    /// Whether no key lies in the range.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }
}

/// The first key after all keys that begin with `prefix`; empty when there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::new()
}

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const END: u8 = 0x01;

/// Encodes `key` so that byte order of encodings, with anything appended, is the order of the keys.
pub fn encode_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 2 + 8);
    encode_key_into(key, &mut out);
    out
}

/// [`encode_key`], appended to `out`.
pub fn encode_key_into(key: &[u8], out: &mut Vec<u8>) {
    for &byte in key {
        out.push(byte);
        if byte == ESCAPE {
            out.push(ESCAPED_ZERO);
        }
    }
    out.extend_from_slice(&[ESCAPE, END]);
}

/// Decodes what [`encode_key`] wrote: the key, and what follows its end mark. `None` if `encoded` is not of that form.
pub fn decode_key(encoded: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut key = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    loop {
        match rest {
            [ESCAPE, ESCAPED_ZERO, tail @ ..] => {
                key.push(ESCAPE);
                rest = tail;
            }
            [ESCAPE, END, tail @ ..] => return Some((key, tail)),
            [ESCAPE, ..] | [] => return None,
            [byte, tail @ ..] => {
                key.push(*byte);
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_is_left_out() {
        let range = |start: &'static str, end: &'static str| KeyRange::new(start, end);
        let all = range("", "");
        assert_eq!(all.without(&[]), [range("", "")]);
        assert_eq!(all.without(&[range("c", "f"), range("m", "")]), [range("", "c"), range("f", "m")]);
        assert_eq!(
            range("b", "x").without(&[range("", "c"), range("m", "p")]),
            [range("c", "m"), range("p", "x")]
        );
        assert_eq!(range("b", "x").without(&[range("x", ""), range("", "b")]), [range("b", "x")]);
        for others in [vec![all], vec![range("c", "e"), range("a", "d"), range("e", "")]] {
            assert_eq!(range("b", "x").without(&others), []);
        }
    }

    #[test]
    fn the_encoding_is_golden() {
        assert_eq!(encode_key(b"a\0b"), [b'a', 0, 0xff, b'b', 0, 1]);
        assert_eq!(encode_key(b""), [0, 1]);
    }

    #[test]
    fn order_survives_encoding_and_suffixes() {
        let keys: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\x01", b"a", b"a\0", b"aa", b"\xff\xff"];
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                let with = |key: &[u8], suffix: u8| [encode_key(key), vec![suffix; 8]].concat();
                assert_eq!(i.cmp(&j), encode_key(a).cmp(&encode_key(b)));
                if i < j {
                    assert!(with(a, 0xff) < with(b, 0x00), "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn decoding_gives_key_and_rest_or_refuses() {
        let encoded = [encode_key(b"x\0\xffy"), b"rest".to_vec()].concat();
        assert_eq!(decode_key(&encoded), Some((b"x\0\xffy".to_vec(), &b"rest"[..])));
        for bad in [&b""[..], b"abc", b"a\0", b"a\0\x02"] {
            assert_eq!(decode_key(bad), None);
        }
    }

    #[test]
    fn ranges_know_what_they_hold() {
        let all = KeyRange::default();
        let mid = KeyRange::new("b", "d");
        assert!(all.contains(b"") && mid.contains(b"b") && mid.contains(b"c\xff") && !mid.contains(b"d"));
        assert!(all.overlaps(&mid) && mid.overlaps(&KeyRange::new("c", "")));
        assert!(!mid.overlaps(&KeyRange::new("d", "")) && !mid.overlaps(&KeyRange::new("", "b")));
        assert_eq!(KeyRange::prefix(b"a\xff").end, "b");
        assert_eq!(KeyRange::prefix(b"\xff").end, "");
    }
}
