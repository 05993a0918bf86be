//! `get`, `put`, `del`, `scan` and `bench load` on a stand-alone database: the engine alone, no cluster.
//!
//! Keys and values lie in family 0 as they are. A directory that a store owns is refused: its rows are transactions', and
//! what is written beside a store's log would be on one replica only.

use crate::args::client::{BenchLoad, Del, Get, Put, Scan};
use crate::args::{Format, Global};
use crate::cmd::{kv, startup};
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use nokv_engine::{Cf, Db, Options, WriteBatch, WriteOptions};
use nokv_env::Env;
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use nokv_raftstore::mode::{self, Mode};
use serde_json::json;
use std::io::IsTerminal;
use std::ops::Bound;
use std::path::Path;

/// The family of a stand-alone database.
const CF: Cf = Cf(0);

fn options() -> Options {
    Options {
        lock_owner: format!("pid {}, nokv on a stand-alone database", std::process::id()),
        ..Options::default()
    }
}

/// Refuses the directory of a store, also for reading.
fn not_a_stores(env: &Env, dir: &Path) -> Result {
    let state = mode::read(&*env.disk, dir).map_err(|error| startup::store(&error))?;
    match state.mode {
        Mode::Standalone => Ok(()),
        mode => Err(Failure::new(
            Code::WrongMode,
            format!("{} is the directory of store {} (mode {})", dir.display(), state.store_id, mode.name()),
        )
        .why("its rows belong to transactions of the cluster")
        .next(format!(
            "leave --workdir out to ask the cluster; nokv migrate status --workdir {}",
            dir.display()
        ))
        .detail("path", dir.display().to_string())),
    }
}

fn read(env: &Env, dir: &Path) -> Result<Db> {
    not_a_stores(env, dir)?;
    let db = Db::open_read_only_at(env.disk.clone(), dir, options(), env.clock.unix_millis());
    db.map_err(|error| startup::engine(&error))
}

async fn write(env: &Env, dir: &Path, batch: WriteBatch, global: &Global) -> Result<u8> {
    not_a_stores(env, dir)?;
    let db = Db::open(env, dir, options()).await.map_err(|error| startup::engine(&error))?;
    let written = db.write(batch, WriteOptions { sync: true }).await;
    let closed = db.close().await;
    let sequence = written.map_err(|error| startup::engine(&error))?;
    closed.map_err(|error| startup::engine(&error))?;
    let mut out = Out::new();
    match global.format() {
        Format::Plain => out.line(&format!("ok sequence={sequence}"))?,
        _ => out.line(&json!({ "sequence": sequence }).to_string())?,
    }
    out.flush()?;
    Ok(0)
}

/// Prints a value.
pub fn get(env: &Env, dir: &Path, args: &Get, global: &Global) -> Result<u8> {
    let key = kv::key(&args.key, args.hex)?;
    let found = read(env, dir)?.get(CF, &key).map_err(|error| startup::engine(&error))?;
    kv::show_value(&key, found, args.hex, global)
}

/// Writes a value, durably.
pub async fn put(env: &Env, dir: &Path, args: &Put, global: &Global) -> Result<u8> {
    let mut batch = WriteBatch::new();
    batch.put(CF, kv::key(&args.key, args.hex)?, kv::value(args)?);
    write(env, dir, batch, global).await
}

/// Deletes a key, durably.
pub async fn del(env: &Env, dir: &Path, args: &Del, global: &Global) -> Result<u8> {
    let mut batch = WriteBatch::new();
    batch.delete(CF, kv::key(&args.key, args.hex)?);
    write(env, dir, batch, global).await
}

/// Prints a range.
pub fn scan(env: &Env, dir: &Path, args: &Scan, global: &Global) -> Result<u8> {
    let KeyRange { start, end } = kv::range(args)?;
    let db = read(env, dir)?;
    let snapshot = db.snapshot();
    let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
    let mut rows = snapshot.iter_uncached(CF, (Bound::Included(start), upper));
    let mut printer = kv::Printer::new(args, global)?;
    printer.begin(Timestamp(snapshot.sequence()))?;
    let limit = if args.limit == 0 { u64::MAX } else { args.limit };
    let mut more = false;
    for number in 0.. {
        let Some(row) = rows.next() else { break };
        more = number == limit;
        if more {
            break;
        }
        let (key, value) = row.map_err(|error| startup::engine(&error))?;
        printer.row(&key, &value)?;
    }
    printer.end(more)?;
    if more && global.format() == Format::Plain {
        eprintln!("note: more rows follow; --limit 0 prints all");
    }
    Ok(0)
}

/// Fills a database with numbered keys in a random order; again, it writes the same.
pub async fn load(env: &Env, args: &BenchLoad, global: &Global) -> Result<u8> {
    let dir = &args.workdir;
    if let Some(foreign) = super::config::foreign(env, dir)? {
        return Err(Failure::new(
            Code::WorkdirNotFresh,
            format!("{} holds other things: {foreign}", dir.display()),
        )
        .next("give a new directory, or one with a stand-alone database"));
    }
    not_a_stores(env, dir)?;
    let db = Db::open(env, dir, options()).await.map_err(|error| startup::engine(&error))?;
    let began = env.clock.now();
    let filled = fill(&db, args).await;
    let closed = db.close().await;
    filled?;
    closed.map_err(|error| startup::engine(&error))?;
    let seconds = env.clock.now().since(began).as_secs_f64();
    let per_second = args.keys as f64 / seconds;
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            out.line(&format!("{} keys in {seconds:.1} s, {per_second:.0} a second", args.keys))?;
        }
        _ => {
            out.line(&json!({"keys": args.keys, "seconds": seconds, "per_second": per_second}).to_string())?;
        }
    }
    out.flush()?;
    Ok(0)
}

async fn fill(db: &Db, args: &BenchLoad) -> Result {
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new(args.keys) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} keys, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let step = stride(args.keys);
    let mut number = 0;
    let mut written = 0;
    while written < args.keys {
        let count = u64::from(args.batch).min(args.keys - written);
        let mut batch = WriteBatch::new();
        for _ in 0..count {
            batch.put(CF, key_of(&args.prefix, number), value_of(number, args.value_size));
            number = (number + step) % args.keys;
        }
        written += count;
        // Only the last batch must be on disk: the log is in order.
        let options = WriteOptions { sync: args.sync || written == args.keys };
        db.write(batch, options).await.map_err(|error| startup::engine(&error))?;
        bar.inc(count);
    }
    bar.finish_and_clear();
    Ok(())
}

/// A step that visits every number below `count` once, far from the one before.
fn stride(count: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let begin = (count as f64 * 0.618) as u64;
    (begin.max(1)..=count.max(1)).find(|step| gcd(*step, count) == 1).unwrap_or(1)
}

fn key_of(prefix: &str, number: u64) -> Bytes {
    Bytes::from(format!("{prefix}{number:012}"))
}

/// Bytes that follow from the number and do not compress.
fn value_of(number: u64, bytes: usize) -> Bytes {
    let mut value = Vec::with_capacity(bytes + 8);
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while value.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        value.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    value.truncate(bytes);
    value.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_is_written_once() {
        for count in [1, 2, 3, 10, 97, 1000] {
            let step = stride(count);
            let visited: BTreeSet<u64> = (0..count).map(|turn| turn * step % count).collect();
            assert_eq!(visited.len() as u64, count, "{count}");
        }
    }

    #[test]
    fn values_follow_from_their_number() {
        assert_eq!(value_of(7, 20), value_of(7, 20));
        assert_ne!(value_of(7, 20), value_of(8, 20));
        assert_eq!(value_of(7, 3).len(), 3);
    }
}
