//! A single-node LSM tree: ordered bytes in, ordered bytes out. It has never heard of regions, Raft or SQL.
//!
//! ```
//! use nokv_engine::{Cf, Db, Options, WriteBatch, WriteOptions};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let env = nokv_realenv::RealEnv::new()?;
//! let db = Db::open(&env, dir.path(), Options::default()).await?;
//! let mut batch = WriteBatch::new();
//! batch.put(Cf(0), "apple", "red");
//! batch.put(Cf(0), "pear", "green");
//! db.write(batch, WriteOptions { sync: true }).await?;
//! let values = db.multi_get(&[(Cf(0), "pear"), (Cf(0), "plum")])?;
//! assert_eq!(values, [Some("green".into()), None]);
//! let first = db.snapshot().iter(Cf(0), ..).next().transpose()?;
//! assert_eq!(first, Some(("apple".into(), "red".into())));
//! db.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The README has more of it, and says what is promised.
//!
//! Start at [`Db`]. A write walks [`WriteBatch`] → [`log`] (only [`Db::write`]; [`Db::apply`] skips it) →
//! `memtable` → `table` at level 0 → deeper levels by `compaction`; large values detour through `vlog`. A
//! read asks every layer of one frozen `view` (memtables and tables) and takes the highest version it may
//! see. What is live on disk is said by the `manifest`, a checksummed log of edits that `CURRENT` points at.
//!
//! A column family ([`Cf`]) is one byte in front of every key, so a batch over families, and the flush that
//! makes it durable, are atomic by construction.
//!
//! What the crate refuses to know: where its bytes come from, what a transaction is. It looks at the clock
//! to count how long things take, to pace its writers and background work (`pace`), to see that writers pause
//! (`compaction::settle`), and whether a row that has an end is over ([`WriteBatch::put_until`]); nothing else
//! in the database depends on it.
//! [`inspect`] reads a directory and leaves it as it is. Every file, task and rare branch comes from
//! `nokv_env::Env`, so a whole database can live and crash inside a test.

mod batch;
mod cache;
mod coding;
mod compaction;
mod db;
mod edit;
mod error;
mod fences;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod inspect;
mod iter;
mod key;
pub mod log;
mod manifest;
mod memtable;
mod options;
mod pace;
mod snapshot;
mod stats;
mod stripes;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod trials;
mod value;
mod version;
mod view;
mod vlog;

pub use batch::{Cf, WriteBatch};
pub use db::{Db, ExportedTable, Import, Imported, Ingested, RangesDeleted, WriteOptions};
pub use error::{Error, Result};
pub use files::OWNER_FILE;
pub use options::{Compression, Options};
pub use snapshot::{Iter, Snapshot};
pub use stats::{BucketStats, LevelStats, Pressure, Pruning, Readahead, Stats, Timing};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever became of the last holder: every critical section here leaves its data whole.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program in the README runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
