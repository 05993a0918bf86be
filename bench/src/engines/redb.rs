//! redb 4: a copy-on-write B-tree in Rust, one writer at a time, a transaction a write.
//!
//! Between durable and lost with the process it has nothing: a put that is not durable is the latter.

use crate::engine::{Config, Engine};
use anyhow::Result;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use std::path::Path;

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("default");

/// An open database with one table.
pub struct Redb(Database);

impl Redb {
    /// Opens the database.
    pub fn open(dir: &Path, config: Config) -> Result<Self> {
        let database =
            Database::builder().set_cache_size(config.cache_bytes as usize).create(dir.join("db.redb"))?;
        let this = Self(database);
        this.commit(Durability::Immediate, None)?;
        Ok(this)
    }

    /// Sets or removes a key, or only makes sure that the table is there.
    fn commit(&self, durability: Durability, change: Option<(&[u8], Option<&[u8]>)>) -> Result<()> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            match change {
                Some((key, Some(value))) => drop(table.insert(key, value)?),
                Some((key, None)) => drop(table.remove(key)?),
                None => {}
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Engine for Redb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.commit(Durability::None, Some((key, Some(value))))
    }

    fn put_sync(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.commit(Durability::Immediate, Some((key, Some(value))))
    }

    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let value = table.get(key)?;
        if let Some(value) = &value {
            see(value.value());
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &[u8], limit: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let mut seen = 0;
        for pair in table.range(from..)?.take(limit) {
            let (key, value) = pair?;
            see(key.value(), value.value());
            seen += 1;
        }
        Ok(seen)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.commit(Durability::None, Some((key, None)))
    }

    fn flush(&self) -> Result<()> {
        self.commit(Durability::Immediate, None)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.0.close()?)
    }
}
