//! Values that were there before any transaction.

use super::record::{Kind, Write};
use super::{SHORT_VALUE_BYTES_MAX, key};
use bytes::Bytes;

/// The transaction that seems to have written them began here and committed at [`SETTLED_COMMIT_TS`]: below whatever a
/// coordinator hands out, for timestamps count milliseconds since 1970.
const SETTLED_START_TS: u64 = 1;
/// From here on every read sees them.
pub const SETTLED_COMMIT_TS: u64 = 2;

/// The rows of a value that was there before any transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Key and record in the write family.
    pub write: (Bytes, Bytes),
    /// Key and value in the default family, if the value is too long for the record.
    pub default: Option<(Bytes, Bytes)>,
}

/// The key of [`Settled::default`] of a value of this length, if it has one.
pub fn settled_default_key(user_key: &[u8], value_bytes: usize) -> Option<Bytes> {
    (value_bytes > SHORT_VALUE_BYTES_MAX).then(|| key::version(&key::stored(user_key), SETTLED_START_TS))
}

/// The rows that make `value` what every transaction reads at `user_key`.
pub fn settled(user_key: &[u8], value: Bytes) -> Settled {
    let default = settled_default_key(user_key, value.len()).map(|key| (key, value.clone()));
    let record = Write {
        kind: Kind::Put,
        start_ts: SETTLED_START_TS,
        expires_at: 0,
        short_value: default.is_none().then_some(value),
        rollback_here: false,
    };
    Settled { write: (key::version(&key::stored(user_key), SETTLED_COMMIT_TS), record.encode()), default }
}
