//! The front door. (API skeleton; being filled in)

use crate::{Cf, Options, Pressure, Result, Snapshot, Stats, WriteBatch};
use bytes::Bytes;
use nokv_env::{Disk, Env};
use std::path::Path;
use std::sync::Arc;

/// How [`Db::write`] acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Whether the write is on disk before it is acknowledged.
    pub sync: bool,
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Db {
    _inner: Arc<()>,
}

impl Db {
    /// Opens (or creates) the database in `dir`.
    pub async fn open(_env: &Env, _dir: &Path, _options: Options) -> Result<Db> {
        unimplemented!()
    }
    /// Opens without changing anything on disk.
    pub fn open_read_only(_disk: Arc<dyn Disk>, _dir: &Path, _options: Options) -> Result<Db> {
        unimplemented!()
    }
    /// Writes through the log; returns the batch's sequence.
    pub async fn write(&self, _batch: WriteBatch, _options: WriteOptions) -> Result<u64> {
        unimplemented!()
    }
    /// Writes to the memtable only; durable at the next flush.
    pub fn apply(&self, _batch: WriteBatch) -> Result<u64> {
        unimplemented!()
    }
    /// The newest value of `key`.
    pub fn get(&self, _cf: Cf, _key: &[u8]) -> Result<Option<Bytes>> {
        unimplemented!()
    }
    /// The database as it is now, for as long as the snapshot lives.
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }
    /// Makes everything written or applied so far durable in tables.
    pub async fn flush(&self) -> Result<()> {
        unimplemented!()
    }
    /// Starts a flush of everything written or applied so far, without waiting.
    pub fn request_flush(&self) {
        unimplemented!()
    }
    /// Every write with a sequence up to this one is durable in tables.
    pub fn flushed_sequence(&self) -> u64 {
        unimplemented!()
    }
    /// Sequence of the newest visible write.
    pub fn last_sequence(&self) -> u64 {
        unimplemented!()
    }
    /// Whether writers should hold back.
    pub fn pressure(&self) -> Pressure {
        unimplemented!()
    }
    /// Numbers.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// The failure that poisoned the engine, if any.
    pub fn failed(&self) -> Option<String> {
        unimplemented!()
    }
    /// Stops background work and releases the lock. Applied data that was not flushed is not made durable.
    pub async fn close(&self) -> Result<()> {
        unimplemented!()
    }
}
