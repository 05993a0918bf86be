//! Transactions on one region: pure functions from (what is stored, request) to (response, writes).
//!
//! The rules are Percolator's (Peng, Dabek, "Large-scale incremental processing using distributed transactions and
//! notifications", 2010), with the one-round-trip commit and the pushed commit timestamp that later systems added.
//! A transaction reads at its start timestamp, *prewrites* (locks every key, one of them the *primary*), draws a
//! commit timestamp and *commits* the primary; at that instant it is committed everywhere. Whoever meets a lock
//! asks the primary what became of its owner. With an *asynchronous commit* the timestamp is drawn first, and the instant
//! is the one at which the last key is locked: then the primary names the other keys, and they are asked, too.
//!
//! ```text
//! lock     a ─► t5 put, primary a                          the intent of the transaction that started at t5
//! write    a@9 ─► put from t5      a@7 ─► rollback of t7    what was decided, newest first
//! default  a@5 ─► "long value"                              values too long to sit inside the records above
//! ```
//!
//! What holds, and what every function here keeps:
//!
//! - A lock and a record of the same transaction never stand on one key together: one batch swaps them.
//! - Rollback and lock records change nobody's value; reads look past them.
//! - A transaction rolled back at a key can never be prewritten there later: its rollback record stays.
//! - A rollback never replaces a commit record that happens to have its timestamp; it marks that record instead.
//! - Each request is all or nothing, and may arrive again, late, in any order with the others: a decided
//!   transaction stays as it was decided.
//!
//! Start at [`prewrite`] and [`commit`]; `read` and `scan` look, `resolve` and `secondaries` clean up after others, `heartbeat` keeps a
//! transaction alive, `gc` removes old versions, `inspect` shows operators a key, `key` and `record` hold every stored byte. Nothing here knows regions, Raft, clocks or randomness.

mod commit;
mod gc;
mod heartbeat;
mod inspect;
mod key;
mod look;
#[cfg(test)]
mod model_tests;
mod prewrite;
mod read;
mod record;
mod resolve;
mod scan;
mod secondaries;
mod settled;
#[cfg(test)]
pub(crate) mod testing;

pub use commit::commit;
pub use gc::{OldLock, collect, garbage, is_forgotten, is_too_old, locks_below, too_old};
pub use heartbeat::heartbeat;
pub use inspect::{Inspection, inspect};
pub use prewrite::prewrite;
pub use read::get;
pub use resolve::{batch_rollback, check_txn_status, resolve_lock};
pub use scan::scan;
pub use secondaries::check_secondary_locks;
pub use settled::{SETTLED_COMMIT_TS, Settled, settled, settled_default_key};

use bytes::Bytes;
use nokv_engine as engine;
use nokv_engine::Cf;
use std::ops::Bound;

/// Long values, by key and start timestamp.
pub const CF_DEFAULT: Cf = Cf(0);
/// Locks, by key.
pub const CF_LOCK: Cf = Cf(1);
/// Decisions, by key and commit timestamp.
pub const CF_WRITE: Cf = Cf(2);

/// Values up to this long are kept inside lock and write records.
pub const SHORT_VALUE_BYTES_MAX: usize = 255;

/// Bounds of an iteration, in stored keys.
pub type Bounds = (Bound<Bytes>, Bound<Bytes>);

/// One moment of a store's data.
pub trait Reader {
    /// The value of `key`.
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>>;
    /// Keys and values within `bounds`, ascending.
    fn iter(&self, cf: Cf, bounds: Bounds) -> Entries<'_>;
    /// Keys and values within `bounds`, descending.
    fn iter_rev(&self, cf: Cf, bounds: Bounds) -> Entries<'_>;
}

/// An iteration of a [`Reader`].
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes)>> + Send + 'a>;

impl Reader for engine::Snapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(engine::Snapshot::get(self, cf, key)?)
    }

    fn iter(&self, cf: Cf, bounds: Bounds) -> Entries<'_> {
        Box::new(engine::Snapshot::iter(self, cf, bounds).map(|entry| Ok(entry?)))
    }

    fn iter_rev(&self, cf: Cf, bounds: Bounds) -> Entries<'_> {
        Box::new(engine::Snapshot::iter_rev(self, cf, bounds).map(|entry| Ok(entry?)))
    }
}

/// Why a request could not be evaluated. Either way the replica must stop rather than guess.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A stored record is not what this version writes.
    #[error("family {family}, key {key:?}: {what}", family = cf.0)]
    Damaged {
        /// The family of the record.
        cf: Cf,
        /// Its stored key.
        key: Bytes,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The changes a request asks for, and the noteworthy things it ran into.
#[derive(Debug, Default)]
pub struct Writes {
    /// In order; a later change of a key replaces an earlier one. `None` deletes.
    pub changes: Vec<(Cf, Bytes, Option<Bytes>)>,
    /// Names of probes to fire.
    pub probes: Vec<&'static str>,
}

impl Writes {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn put(&mut self, cf: Cf, key: Bytes, value: Bytes) {
        self.changes.push((cf, key, Some(value)));
    }

    fn delete(&mut self, cf: Cf, key: Bytes) {
        self.changes.push((cf, key, None));
    }

    /// Adds what `other` asks for.
    pub(crate) fn append(&mut self, mut other: Writes) {
        self.changes.append(&mut other.changes);
        self.probes.append(&mut other.probes);
    }

    /// Fires a probe.
    pub(crate) fn probe(&mut self, name: &'static str) {
        self.probes.push(name);
    }

    /// The user keys that are committed here, and when. Records that only conflict do not count.
    pub(crate) fn commits(&self) -> impl Iterator<Item = (Bytes, u64)> {
        self.changes.iter().filter_map(|(cf, versioned, value)| {
            let value = value.as_ref().filter(|_| *cf == CF_WRITE)?;
            let record = record::Write::decode(versioned, value.clone()).ok()?;
            let (stored, commit_ts) = key::split_version(versioned)?;
            let changes = matches!(record.kind, record::Kind::Put | record::Kind::Delete);
            changes.then(|| key::user(stored)).flatten().map(|user_key| (user_key, commit_ts))
        })
    }

    /// Moves the changes into an engine batch.
    pub fn into_batch(self, batch: &mut engine::WriteBatch) {
        for (cf, key, value) in self.changes {
            match value {
                Some(value) => batch.put(cf, key, value),
                None => batch.delete(cf, key),
            }
        }
    }
}

/// The range of stored keys that hold the user keys of `range`, in any of the three families.
pub fn stored_bounds(range: &nokv_proto::key::KeyRange) -> Bounds {
    let lower =
        if range.start.is_empty() { Bound::Unbounded } else { Bound::Included(key::stored(&range.start)) };
    let upper =
        if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(key::stored(&range.end)) };
    (lower, upper)
}
