//! Our engine, embedded as a program without a runtime of its own would: threads that block on the futures of writes.
//!
//! `Db::write` waits for nothing but other writers, so any executor will do. Parking the thread is the cheapest one;
//! the tokio runtime is there because the real environment asks for its handle, and stays idle.

use crate::engine::{Config, Engine};
use anyhow::{Result, bail};
use bytes::Bytes;
use nokv_engine::{Cf, Compression, Db, Options, WriteBatch, WriteOptions};
use nokv_realenv::RealEnv;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use tokio::runtime::Runtime;

const CF: Cf = Cf(0);

/// An open database and the runtime behind it.
pub struct Nokv {
    db: Db,
    runtime: Runtime,
    /// Block on tokio's executor, to see what that costs.
    on_tokio: bool,
}

impl Nokv {
    /// Opens the database. `NOKV_BENCH_EXECUTOR=tokio` waits for writes on tokio's executor.
    pub fn open(dir: &Path, config: Config) -> Result<Self> {
        let on_tokio = match std::env::var("NOKV_BENCH_EXECUTOR").as_deref() {
            Err(_) | Ok("park") => false,
            Ok("tokio") => true,
            Ok(other) => bail!("NOKV_BENCH_EXECUTOR is park or tokio, not `{other}`"),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let options = Options {
            memtable_bytes: config.memtable_bytes as usize,
            block_cache_bytes: config.cache_bytes,
            compression: if config.lz4 { Compression::Lz4 } else { Compression::None },
            ..Options::default()
        };
        let db = runtime.block_on(async {
            let env = RealEnv::new()?;
            anyhow::Ok(Db::open(&env, &dir.join("db"), options).await?)
        })?;
        Ok(Self { db, runtime, on_tokio })
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<()> {
        let written = self.db.write(batch, WriteOptions { sync });
        if self.on_tokio {
            self.runtime.block_on(written)?
        } else {
            block_on(written)?
        };
        Ok(())
    }

    fn put_as(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(CF, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.write(batch, sync)
    }
}

impl Engine for Nokv {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_as(key, value, false)
    }

    fn put_sync(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_as(key, value, true)
    }

    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.db.get(CF, key)?;
        if let Some(value) = &value {
            see(value);
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &[u8], limit: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut seen = 0;
        for pair in self.db.snapshot().iter(CF, Bytes::copy_from_slice(from)..).take(limit) {
            let (key, value) = pair?;
            see(&key, &value);
            seen += 1;
        }
        Ok(seen)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.delete(CF, Bytes::copy_from_slice(key));
        self.write(batch, false)
    }

    fn flush(&self) -> Result<()> {
        Ok(self.runtime.block_on(self.db.flush())?)
    }

    fn is_busy(&self) -> bool {
        let stats = self.db.stats();
        !stats.compaction_settled || stats.flush_active
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.runtime.block_on(self.db.close())?)
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `future` on this thread, parked while there is nothing to do.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local!(static WAKER: Waker = Arc::new(Unpark(std::thread::current())).into());
    let mut future = pin!(future);
    WAKER.with(|waker| {
        let mut context = Context::from_waker(waker);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            std::thread::park();
        }
    })
}
