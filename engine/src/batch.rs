//! Writes that happen together or not at all.

use crate::{Error, Result};
use bytes::Bytes;

/// Largest key.
pub(crate) const KEY_BYTES_MAX: usize = 64 << 10;
/// Largest value.
pub(crate) const VALUE_BYTES_MAX: usize = 256 << 20;
/// Bytes that a change takes in the log besides key and value, at most.
const CHANGE_BYTES: usize = 16;
/// Largest batch in the log.
pub(crate) const BATCH_BYTES_MAX: usize = 512 << 20;
const _: () = assert!(BATCH_BYTES_MAX <= crate::log::frame::PAYLOAD_BYTES_MAX);

/// A column family: the byte in front of every key of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cf(pub u8);

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) cf: Cf,
    pub(crate) key: Bytes,
    /// `None` deletes.
    pub(crate) value: Option<Bytes>,
}

/// Puts and deletes, in any families, that become visible and durable together. A later change of the same
/// key in a batch replaces the earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    pub(crate) changes: Vec<Change>,
    bytes: usize,
}

impl WriteBatch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, cf: Cf, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Change { cf, key: key.into(), value: Some(value.into()) });
    }

    /// Removes `key`; fine when it is not there.
    pub fn delete(&mut self, cf: Cf, key: impl Into<Bytes>) {
        self.push(Change { cf, key: key.into(), value: None });
    }

    /// Adds all changes of `other`, after the ones that are here.
    pub fn append(&mut self, other: WriteBatch) {
        self.bytes += other.bytes;
        self.changes.extend(other.changes);
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Sum of the sizes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.bytes += change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
        self.changes.push(change);
    }

    /// Refuses what the formats cannot hold.
    pub(crate) fn validate(&self) -> Result<()> {
        let too_large = |what, bytes: usize, limit: usize| {
            Err(Error::TooLarge { what, bytes: bytes as u64, limit: limit as u64 })
        };
        for change in &self.changes {
            let value_bytes = change.value.as_ref().map_or(0, Bytes::len);
            if change.key.len() > KEY_BYTES_MAX {
                return too_large("a key", change.key.len(), KEY_BYTES_MAX);
            }
            if value_bytes > VALUE_BYTES_MAX {
                return too_large("a value", value_bytes, VALUE_BYTES_MAX);
            }
        }
        let bytes = self.bytes.saturating_add(self.changes.len() * CHANGE_BYTES);
        if bytes > BATCH_BYTES_MAX {
            return too_large("a batch", bytes, BATCH_BYTES_MAX);
        }
        Ok(())
    }
}
