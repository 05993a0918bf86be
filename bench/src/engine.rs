//! What every engine can do, and how one is opened.

use anyhow::{Result, bail};
use std::path::Path;

/// What all engines are given alike.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Memory for caching what is on disk.
    pub cache_bytes: u64,
    /// Size at which a memtable is flushed, for engines that have them.
    pub memtable_bytes: u64,
    /// LZ4 for engines that compress.
    pub lz4: bool,
    /// Whether the phase writes durably. Some engines must know when they are opened.
    pub sync: bool,
}

/// An open ordered key-value engine, used from many threads.
pub trait Engine: Send + Sync {
    /// Writes `value`; it survives the end of the process, not of the machine.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Writes `value`; it survives the end of the machine.
    fn put_sync(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Shows the value of `key` to `see`; whether there is one.
    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<bool>;

    /// Shows up to `limit` pairs from `from` on, ascending, to `see`; how many there were.
    fn scan(&self, from: &[u8], limit: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize>;

    /// Removes `key`, as surely as [`Engine::put`] writes.
    fn delete(&self, key: &[u8]) -> Result<()>;

    /// Starts whatever moves the newest writes to where they belong on disk, and waits for the first step of that.
    fn flush(&self) -> Result<()>;

    /// Whether the engine knows of work in the background that is not done. Others are watched from outside.
    fn is_busy(&self) -> bool {
        false
    }

    /// Closes in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Names of the engines in this binary, ours first.
pub const NAMES: &[&str] = &[
    "nokv",
    #[cfg(feature = "fjall")]
    "fjall",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    #[cfg(feature = "redb")]
    "redb",
    #[cfg(feature = "lmdb")]
    "lmdb",
];

/// Opens the engine `name` in `dir`, which exists, creating its database if there is none.
pub fn open(name: &str, dir: &Path, config: Config) -> Result<Box<dyn Engine>> {
    use crate::engines;
    Ok(match name {
        "nokv" => Box::new(engines::nokv::Nokv::open(dir, config)?),
        #[cfg(feature = "fjall")]
        "fjall" => Box::new(engines::fjall::Fjall::open(dir, config)?),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(engines::rocksdb::RocksDb::open(dir, config)?),
        #[cfg(feature = "redb")]
        "redb" => Box::new(engines::redb::Redb::open(dir, config)?),
        #[cfg(feature = "lmdb")]
        "lmdb" => Box::new(engines::lmdb::Lmdb::open(dir, config)?),
        _ => bail!("no engine `{name}` in this binary; it has {}", NAMES.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(engine: &dyn Engine, from: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = Vec::new();
        let found = engine.scan(from, limit, &mut |key, value| pairs.push((key.to_vec(), value.to_vec())));
        assert_eq!(found.unwrap(), pairs.len());
        pairs
    }

    fn value(engine: &dyn Engine, key: &[u8]) -> Option<Vec<u8>> {
        let mut value = None;
        let found = engine.get(key, &mut |seen| value = Some(seen.to_vec())).unwrap();
        assert_eq!(found, value.is_some());
        value
    }

    #[test]
    fn every_engine_means_the_same_by_the_same_calls() {
        for name in NAMES {
            let dir = tempfile::tempdir().unwrap();
            let config =
                Config { cache_bytes: 1 << 20, memtable_bytes: 1 << 20, lz4: true, sync: *name == "lmdb" };
            let engine = open(name, dir.path(), config).unwrap();
            for key in [b"b", b"d", b"a", b"c"] {
                engine.put(key, b"old").unwrap();
            }
            engine.flush().unwrap();
            engine.put_sync(b"c", b"new").unwrap();
            engine.delete(b"b").unwrap();
            engine.delete(b"nothing").unwrap();
            engine.flush().unwrap();
            engine.close().unwrap();

            let engine = open(name, dir.path(), config).unwrap();
            assert_eq!(value(&*engine, b"a").as_deref(), Some(&b"old"[..]), "{name}");
            assert_eq!(value(&*engine, b"b"), None, "{name}");
            let pair = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
            assert_eq!(pairs(&*engine, b"b", 9), [pair(b"c", b"new"), pair(b"d", b"old")], "{name}");
            assert_eq!(pairs(&*engine, b"a", 1), [pair(b"a", b"old")], "{name}");
            assert_eq!(pairs(&*engine, b"e", 9), [], "{name}");
            engine.close().unwrap();
        }
    }
}
