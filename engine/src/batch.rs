//! Writes that happen together or not at all.

use crate::value::NEVER;
use crate::{Error, Result};
use bytes::Bytes;

/// Largest key.
pub(crate) const KEY_BYTES_MAX: usize = 64 << 10;
/// Largest value.
pub(crate) const VALUE_BYTES_MAX: usize = 256 << 20;
/// Bytes that a change takes in the log besides key and value, at most.
const CHANGE_BYTES: usize = 24;
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
    /// Until when the value is there, in milliseconds since the Unix epoch.
    pub(crate) until: u64,
}

/// Puts and deletes, in any families, that become visible and durable together. A later change of the same
/// key in a batch replaces the earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    pub(crate) changes: Vec<Change>,
    bytes: usize,
    /// Changes that have an end.
    expiring: usize,
}

impl WriteBatch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, cf: Cf, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.put_until(cf, key, value, NEVER);
    }

    /// Sets `key` to `value` until a wall-clock time, in milliseconds since the Unix epoch. From then on the key is as if it
    /// had been deleted by this very write: what it held before does not come back. `u64::MAX`: for ever, as [`Self::put`]. A
    /// time that has passed deletes the key.
    ///
    /// Reads go by the clock of the database's `Env`: a snapshot by what that said when it was taken, for as long as it
    /// lives. `docs/design/018` says what happens when the clock goes back. Here is one that is moved by hand:
    ///
    /// ```
    /// # use nokv_engine::{Cf, Db, Options, WriteBatch};
    /// # use nokv_env::{BoxFuture, Clock, Env, Instant};
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    /// struct ByHand(Arc<dyn Clock>, AtomicU64);
    ///
    /// impl Clock for ByHand {
    ///     fn unix_millis(&self) -> u64 {
    ///         self.1.load(Relaxed)
    ///     }
    /// #   fn now(&self) -> Instant {
    /// #       self.0.now()
    /// #   }
    /// #   fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
    /// #       self.0.sleep_until(deadline)
    /// #   }
    /// }
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let real = nokv_realenv::RealEnv::new()?;
    /// let clock = Arc::new(ByHand(real.clock.clone(), AtomicU64::new(1_000)));
    /// let env = Env { clock: clock.clone(), ..real.clone() };
    /// let db = Db::open(&env, dir.path(), Options::default()).await?;
    /// let mut batch = WriteBatch::new();
    /// batch.put(Cf(0), "session", "for ever");
    /// db.apply(batch)?;
    /// let mut batch = WriteBatch::new();
    /// batch.put_until(Cf(0), "session", "for a second", 2_000);
    /// db.apply(batch)?;
    ///
    /// let snapshot = db.snapshot();
    /// assert_eq!(snapshot.get_until(Cf(0), b"session")?, Some(("for a second".into(), 2_000)));
    /// clock.1.store(2_000, Relaxed);
    /// assert_eq!(db.get(Cf(0), b"session")?, None);
    /// assert_eq!(snapshot.get(Cf(0), b"session")?, Some("for a second".into()));
    /// # db.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn put_until(&mut self, cf: Cf, key: impl Into<Bytes>, value: impl Into<Bytes>, unix_millis: u64) {
        self.push(Change { cf, key: key.into(), value: Some(value.into()), until: unix_millis });
    }

    /// Removes `key`; fine when it is not there.
    pub fn delete(&mut self, cf: Cf, key: impl Into<Bytes>) {
        self.push(Change { cf, key: key.into(), value: None, until: NEVER });
    }

    /// Adds all changes of `other`, after the ones that are here.
    pub fn append(&mut self, other: WriteBatch) {
        self.bytes += other.bytes;
        self.expiring += other.expiring;
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

    /// Number of changes that have an end.
    pub(crate) fn expiring(&self) -> usize {
        self.expiring
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.expiring += usize::from(change.until != NEVER);
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
