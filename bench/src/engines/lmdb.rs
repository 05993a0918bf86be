//! LMDB through heed: a copy-on-write B-tree in a memory map, one writer at a time, a transaction a write.
//!
//! Its cache is the page cache, so the cache budget means nothing to it, and mapped pages count as its memory.

use crate::engine::{Config, Engine};
use anyhow::Result;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};
use std::ops::Bound;
use std::path::Path;

/// Addresses, not memory; more than any data set here.
const MAP_BYTES: usize = 256 << 30;

/// An open environment with one database.
pub struct Lmdb {
    env: Env,
    database: Database<Bytes, Bytes>,
}

impl Lmdb {
    /// Opens the environment; without syncs unless the phase writes durably.
    pub fn open(dir: &Path, config: Config) -> Result<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_readers(256);
        if !config.sync {
            // SAFETY: what a crash of the machine may leave is thrown away with the benchmark.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: nobody else maps or changes the files of this directory.
        let env = unsafe { options.open(dir)? };
        let mut transaction = env.write_txn()?;
        let database = env.create_database(&mut transaction, None)?;
        transaction.commit()?;
        Ok(Self { env, database })
    }
}

impl Engine for Lmdb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        self.database.put(&mut transaction, key, value)?;
        Ok(transaction.commit()?)
    }

    fn put_sync(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put(key, value)
    }

    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let transaction = self.env.read_txn()?;
        let value = self.database.get(&transaction, key)?;
        if let Some(value) = value {
            see(value);
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &[u8], limit: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let transaction = self.env.read_txn()?;
        let mut seen = 0;
        let bounds = (Bound::Included(from), Bound::Unbounded);
        for pair in self.database.range(&transaction, &bounds)?.take(limit) {
            let (key, value) = pair?;
            see(key, value);
            seen += 1;
        }
        Ok(seen)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        self.database.delete(&mut transaction, key)?;
        Ok(transaction.commit()?)
    }

    fn flush(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.env.force_sync()?;
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}
