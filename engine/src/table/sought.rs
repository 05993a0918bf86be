//! What a point read looks for, in the forms that layers ask for, each made at most once.

use crate::Cf;
use crate::key::{self, OVERHEAD_BYTES};
use crate::table::filter;
use std::cell::OnceCell;

/// Encoded keys up to this length cost no allocation.
const INLINE_BYTES: usize = 64;

/// A key, and the sequence up to which versions of it may be seen.
pub(crate) struct Sought {
    pub(crate) sequence: u64,
    len: usize,
    inline: [u8; INLINE_BYTES],
    /// Holds the encoded key if that does not fit in `inline`.
    heap: Vec<u8>,
    hash: OnceCell<u64>,
}

impl Sought {
    pub(crate) fn new(cf: Cf, user: &[u8], sequence: u64) -> Self {
        let len = user.len() + OVERHEAD_BYTES;
        let (mut inline, mut heap) = ([0; INLINE_BYTES], Vec::new());
        let encoded = match inline.get_mut(..len) {
            Some(inline) => inline,
            None => {
                heap.resize(len, 0);
                &mut heap[..]
            }
        };
        key::encode_into(encoded, cf.0, user, sequence);
        Self { sequence, len, inline, heap, hash: OnceCell::new() }
    }

    /// As in tables.
    pub(crate) fn encoded(&self) -> &[u8] {
        if self.heap.is_empty() { &self.inline[..self.len] } else { &self.heap }
    }

    /// Family and user key.
    pub(crate) fn prefixed(&self) -> &[u8] {
        &self.encoded()[..self.len - 8]
    }

    pub(crate) fn cf(&self) -> u8 {
        self.encoded()[0]
    }

    pub(crate) fn user(&self) -> &[u8] {
        &self.prefixed()[1..]
    }

    /// As filters know it.
    pub(crate) fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| filter::hash(self.prefixed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::InternalKey;

    #[test]
    fn short_and_long_keys_have_all_forms() {
        for len in [0, 1, INLINE_BYTES - OVERHEAD_BYTES, INLINE_BYTES - OVERHEAD_BYTES + 1, 300] {
            let user: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let key = InternalKey::new(Cf(3), user.clone().into(), 77);
            let sought = Sought::new(Cf(3), &user, 77);
            assert_eq!(sought.encoded(), key.encode());
            assert_eq!((sought.cf(), sought.user(), sought.sequence), (3, &user[..], 77));
            assert_eq!(sought.prefixed(), key.prefixed());
            assert_eq!(sought.hash(), filter::hash(&key.prefixed()));
        }
    }
}
