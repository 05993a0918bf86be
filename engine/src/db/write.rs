//! Writing: through the log in groups (see [`crate::db::queue`]), unlogged application, and the switch to a new memtable.
//!
//! A group is appended to the log, written (and synced) once, and inserted into the memtable. Between taking the log and letting
//! go of it nothing awaits, so the order of records in the log is the order of insertion.

use crate::batch::{Change, WriteBatch};
use crate::coding::{Reader, put_varint};
use crate::db::queue::{Baton, Turn, gather, turn};
use crate::db::{Inner, add};
use crate::log::Log;
use crate::table::block::EXPIRY_TAG;
use crate::value::NEVER;
use crate::{Cf, Error, Pressure, Result, lock};
use bytes::Bytes;
use nokv_env::ClockExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Log record that holds one batch. On disk: never renumber.
pub(crate) const KIND_BATCH: u8 = 1;
/// What the leaders of groups may write for themselves just before a stop.
const SLOWDOWN_BYTES_PER_SECOND: u64 = 4 << 20;
/// A change without bytes costs something too.
const SLOWDOWN_CHANGE_BYTES: usize = 64;
/// Waits are saved up to this, and are never longer than that.
const SLOWDOWN_NANOS_MIN: u64 = 1_000_000;
const SLOWDOWN_NANOS_MAX: u64 = 100_000_000;

/// Writes `batch` through the log.
pub(super) async fn write(inner: &Arc<Inner>, batch: WriteBatch, sync: bool) -> Result<u64> {
    inner.check()?;
    let asked = inner.now();
    wait_for_room(inner).await?;
    match turn(inner, batch, sync, asked).await {
        Turn::Written(result) => result,
        Turn::Lead(baton, batch, since) => {
            inner.counters.write_wait.add(since.since(asked));
            lead(baton, batch, sync).await
        }
    }
}

async fn wait_for_room(inner: &Inner) -> Result<()> {
    let room = || match inner.check() {
        Err(error) => Some(Err(error)),
        Ok(()) => (inner.pressure() < Pressure::Stop).then_some(Ok(())),
    };
    if let Some(result) = room() {
        return result;
    }
    inner.env()?.probe("engine.write.stopped");
    inner.until(room).await
}

/// Between [`Pressure::Slowdown`] and [`Pressure::Stop`] lets writers wait the longer, the nearer the stop is, so that they
/// come down to what background work can do instead of running into a wall. Short waits are saved up: no clock does them well.
async fn slow_down(inner: &Inner, batch: &WriteBatch) -> Result<()> {
    let permille = inner.pressure_permille();
    if permille == 0 {
        return Ok(());
    }
    let bytes = (batch.bytes() + SLOWDOWN_CHANGE_BYTES * batch.len()) as u64;
    let nanos = bytes.saturating_mul(permille) * 1_000_000 / SLOWDOWN_BYTES_PER_SECOND;
    let owed = inner.counters.slowdown_owed.fetch_add(nanos, Ordering::Relaxed) + nanos;
    if owed < SLOWDOWN_NANOS_MIN {
        return Ok(());
    }
    inner.counters.slowdown_owed.fetch_sub(owed, Ordering::Relaxed);
    let pause = Duration::from_nanos(owed.min(SLOWDOWN_NANOS_MAX));
    inner.counters.slowdown_time.add(pause);
    let env = inner.env()?;
    env.probe("engine.write.slowed");
    env.clock.sleep(pause).await;
    Ok(())
}

/// Writes the leader's batch and those of its group, answers, and lets go of the baton.
async fn lead(baton: Baton, batch: WriteBatch, sync: bool) -> Result<u64> {
    let inner = baton.inner().clone();
    slow_down(&inner, &batch).await?;
    let (batches, mut answers, sync) = gather(&inner, batch, sync);
    let mut results = inner.commit(batches, sync).into_iter();
    let mine = results.next().unwrap_or(Err(Error::Closed));
    answers.set(results);
    if let Ok(env) = inner.env() {
        // The time that the disk took passes here, before anybody hears of success.
        env.tasks.yield_now().await;
    }
    drop(answers);
    drop(baton);
    mine
}

impl Inner {
    /// Logs and inserts a group; one result a batch. After a failure of the log nothing of the group is visible.
    fn commit(&self, batches: Vec<WriteBatch>, sync: bool) -> Vec<Result<u64>> {
        let mut wal = lock(&self.wal);
        let begun = sync.then(|| self.now());
        let logged = self.check().and_then(|()| {
            let wal = wal.as_mut().ok_or(Error::ReadOnly)?;
            self.noted(log_group(wal, &batches, sync))
        });
        if let Err(error) = logged {
            if error.is_disk_full() {
                self.refused(&error);
            }
            return batches.iter().map(|_| Err(error.clone())).collect();
        }
        self.took();
        add(&self.counters.wal_groups, 1);
        if let Some(begun) = begun {
            add(&self.counters.wal_syncs, 1);
            add(&self.counters.wal_synced_batches, batches.len() as u64);
            self.counters.wal_sync_time.add(self.now().since(begun));
        }
        let sequences = batches.into_iter().map(|batch| Ok(self.insert(batch))).collect();
        if let Some(wal) = wal.as_mut() {
            // The group is in; a failure from here on is the next writer's.
            drop(self.noted(self.after_commit(wal, sync)));
        }
        sequences
    }

    fn after_commit(&self, wal: &mut Log, synced: bool) -> Result<()> {
        if self.wants_switch() {
            return self.switch_memtable(wal);
        }
        if wal.is_full() {
            return wal.roll();
        }
        if synced && !self.settle_due.swap(true, Ordering::AcqRel) {
            self.flush_work.notify_one();
        }
        Ok(())
    }

    /// Inserts a batch without logging it.
    pub(super) fn apply(&self, batch: WriteBatch) -> Result<u64> {
        self.check()?;
        let sequence = self.insert(batch);
        // Whoever holds the log right now looks at the memtable's size when done.
        if self.wants_switch()
            && let Ok(mut wal) = self.wal.try_lock()
            && let Some(wal) = wal.as_mut()
        {
            if wal.is_active_occupied() {
                // Rolling the log is disk work; it is the flush loop's.
                self.flush_work.notify_one();
            } else {
                self.noted(self.switch_memtable(wal))?;
            }
        }
        Ok(sequence)
    }

    /// Gives the batch its sequence and makes it visible. An empty one changes nothing.
    fn insert(&self, batch: WriteBatch) -> u64 {
        let mut last = lock(&self.writer);
        if !batch.is_empty() {
            let view = self.view();
            let begun = self.now();
            add(&self.counters.changes, batch.len() as u64);
            add(&self.counters.change_bytes, batch.bytes() as u64);
            *last += 1;
            view.active.insert(batch, *last);
            self.counters.apply_time.add(self.now().since(begun));
            self.written.store(*last, Ordering::Release);
            self.visible.store(*last, Ordering::Release);
            add(&self.counters.batches, 1);
        }
        *last
    }

    /// Whether the memtable is full, or the simulator wants an early flush.
    pub(super) fn wants_switch(&self) -> bool {
        let bytes = self.view().active.bytes();
        if bytes >= self.options.memtable_bytes {
            return true;
        }
        let early = |env: &nokv_env::Env| env.chance("engine.flush.early", 0.005);
        bytes >= self.options.memtable_bytes / 64 && self.env.as_ref().is_some_and(early)
    }

    /// Makes the memtable immutable and starts a new one, with a log segment of its own. Wakes the flush loop.
    pub(super) fn switch_memtable(&self, wal: &mut Log) -> Result<()> {
        if self.view().active.is_empty() {
            return Ok(());
        }
        if wal.is_active_occupied() {
            wal.roll()?;
        }
        let writer = lock(&self.writer);
        self.view.change(|view| {
            let active = Arc::new(view.active.successor(wal.active_segment()));
            let full = std::mem::replace(&mut view.active, active);
            full.seal(self.now());
            view.immutables.insert(0, full);
        });
        drop(writer);
        self.flush_work.notify_one();
        Ok(())
    }
}

/// All of the group, or, when the disk is full, nothing: what was refused must not come back after a crash.
fn log_group(wal: &mut Log, batches: &[WriteBatch], sync: bool) -> Result<()> {
    wal.end_roll()?;
    let mark = wal.mark();
    for batch in batches.iter().filter(|batch| !batch.is_empty()) {
        wal.append(KIND_BATCH, &encode_batch(batch));
    }
    let logged = if sync { wal.sync() } else { wal.write() };
    if let Err(error) = &logged
        && error.is_disk_full()
    {
        wal.abandon(mark)?;
    }
    logged
}

/// The log's form of a batch:
///
/// ```text
/// batch  = change*
/// change = | value varint | cf u8 | key length varint | key | expiry u64 (maybe) | value |
///          value varint: 0 = delete, 1 + length of the value, or 2^33 more than that if there is an expiry
/// ```
/// The expiry is little-endian, milliseconds since the Unix epoch. Releases that know none find such a record damaged.
pub(crate) fn encode_batch(batch: &WriteBatch) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.bytes() + 8 * batch.len());
    for Change { cf, key, value, until } in &batch.changes {
        let expires = *until != NEVER;
        let tag = value.as_ref().map_or(0, |value| value.len() as u64 + 1);
        put_varint(&mut out, if expires { EXPIRY_TAG as u64 + tag } else { tag });
        out.push(cf.0);
        put_varint(&mut out, key.len() as u64);
        out.extend_from_slice(key);
        if expires {
            out.extend_from_slice(&until.to_le_bytes());
        }
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    out
}

/// Reads what [`encode_batch`] wrote.
pub(crate) fn decode_batch(payload: &[u8]) -> Option<WriteBatch> {
    let payload = Bytes::copy_from_slice(payload);
    let mut reader = Reader::new(&payload);
    let mut batch = WriteBatch::new();
    while !reader.is_empty() {
        let value_tag = reader.varlen()?;
        let cf = Cf(reader.u8()?);
        let key_len = reader.varlen()?;
        let key = payload.slice_ref(reader.take(key_len)?);
        let (value_tag, until) = match value_tag.checked_sub(EXPIRY_TAG) {
            // A deletion has no end, and an end is a time.
            Some(tag) if tag > 0 => (tag, reader.u64().filter(|until| *until != NEVER)?),
            Some(_) => return None,
            None => (value_tag, NEVER),
        };
        let value = match value_tag.checked_sub(1) {
            None => None,
            Some(len) => Some(payload.slice_ref(reader.take(len)?)),
        };
        batch.push(Change { cf, key, value, until });
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::segment::{Found, read};
    use crate::testing::{World, put};
    use crate::{Options, WriteOptions, files, log};

    #[test]
    fn syncs_that_follow_each_other_vouch_for_each_other_and_the_last_one_is_vouched_for_in_time() {
        let world = World::new(1);
        let db = world.open(&Options::tiny()).unwrap();
        let path = files::wal(World::dir(), db.stats().wal.active_segment);
        let id = db.stats().wal.active_segment;
        let look = || {
            let mut bytes = 0;
            let visit = &mut |_, frame: log::frame::Frame<'_>| {
                bytes += frame.bytes();
                Ok(())
            };
            let Found::Frames(end) = read(&*world.disk, &path, log::MAGIC, id, visit).unwrap() else {
                panic!("the segment has frames")
            };
            (end.offset, end.claimed, log::frame::HEADER_BYTES as u64 + bytes)
        };
        for key in ["a", "b", "c"] {
            world.run(db.write(put(key, "v"), WriteOptions { sync: true })).unwrap();
        }
        let (end, claimed, records) = look();
        assert_eq!(end, records, "nothing is written besides");
        assert!(claimed < records);
        world.settle();
        assert_eq!(look().1, records);
        world.run(db.write(put("d", "v"), WriteOptions { sync: true })).unwrap();
        world.settle();
        let (end, claimed, _) = look();
        assert_eq!(end - claimed, log::frame::FRAME_BYTES as u64, "the claim itself");
    }

    #[test]
    fn a_logged_batch_is_these_bytes() {
        let mut batch = WriteBatch::new();
        batch.put(Cf(1), "key", "value");
        batch.delete(Cf(2), "gone");
        batch.put(Cf(0), "", "");
        batch.put_until(Cf(1), "k", "v", 0x0102);
        let golden = b"\x06\x01\x03keyvalue\x00\x02\x04gone\x01\x00\x00\
            \x82\x80\x80\x80\x20\x01\x01k\x02\x01\0\0\0\0\0\0v";
        assert_eq!(encode_batch(&batch), golden);
        assert_eq!(decode_batch(golden), Some(batch));
        assert_eq!(decode_batch(&golden[..golden.len() - 1]), None);
    }
}
