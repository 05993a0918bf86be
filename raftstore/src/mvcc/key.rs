//! Where things are stored.
//!
//! ```text
//! lock     encode(user key)
//! write    encode(user key) | !commit_ts u64 BE         inverted, so the newest record comes first
//! default  encode(user key) | !start_ts  u64 BE
//! ```
//!
//! `encode` is [`nokv_proto::key::encode_key`]: it keeps the order of keys and marks their end, so the versions of
//! one key lie together and never between those of another.

use bytes::Bytes;
use nokv_proto::key::{decode_key, encode_key_into};

const TS_BYTES: usize = 8;

/// The stored form of a user key: its lock key, and the prefix of its versions.
pub(super) fn stored(user_key: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(user_key.len() + 2);
    encode_key_into(user_key, &mut out);
    out.into()
}

/// The key of the version `ts` of the stored key `stored`.
pub(super) fn version(stored: &[u8], ts: u64) -> Bytes {
    let mut out = Vec::with_capacity(stored.len() + TS_BYTES);
    out.extend_from_slice(stored);
    out.extend_from_slice(&(!ts).to_be_bytes());
    out.into()
}

/// A key above every version of `stored` and below every other key that follows.
pub(super) fn after_versions(stored: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(stored.len() + TS_BYTES + 1);
    out.extend_from_slice(stored);
    out.extend_from_slice(&[0xff; TS_BYTES + 1]);
    out.into()
}

/// Splits a versioned key into stored key and timestamp.
pub(super) fn split_version(versioned: &[u8]) -> Option<(&[u8], u64)> {
    let (stored, ts) = versioned.split_last_chunk::<TS_BYTES>()?;
    Some((stored, !u64::from_be_bytes(*ts)))
}

/// The user key of a stored key without version.
pub(super) fn user(stored: &[u8]) -> Option<Bytes> {
    match decode_key(stored) {
        Some((user, [])) => Some(user.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_keys_are_golden() {
        assert_eq!(&stored(b"k\0")[..], [b'k', 0, 0xff, 0, 1]);
        assert_eq!(
            &version(&stored(b"k"), 0x0102)[..],
            [b'k', 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xfd]
        );
    }

    #[test]
    fn newer_versions_come_first_and_all_lie_before_the_next_key() {
        let (a, ab) = (stored(b"a"), stored(b"a\0"));
        let in_order =
            [a.clone(), version(&a, u64::MAX), version(&a, 9), version(&a, 0), after_versions(&a), ab];
        assert!(in_order.is_sorted());
        assert_eq!(split_version(&version(&a, 9)), Some((&a[..], 9)));
        assert_eq!(user(&a), Some(Bytes::from_static(b"a")));
        assert_eq!(user(&version(&a, 9)), None);
    }
}
