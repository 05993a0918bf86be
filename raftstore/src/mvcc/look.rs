//! Looking at one key: its lock, its records, its value.

use super::record::{Kind, Lock, Write};
use super::{CF_DEFAULT, CF_LOCK, CF_WRITE, Error, Reader, Result, Writes, key};
use bytes::Bytes;
use nokv_proto::kv::v1::{KeyError, Locked};
use std::ops::Bound;

/// What became of a transaction at one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Committed { commit_ts: u64 },
    RolledBack,
    Unknown,
}

/// The lock on a key.
pub(super) fn lock(reader: &impl Reader, stored: &[u8]) -> Result<Option<Lock>> {
    reader.get(CF_LOCK, stored)?.map(|data| Lock::decode(stored, data)).transpose()
}

/// The record at exactly `ts`.
pub(super) fn record_at(reader: &impl Reader, stored: &[u8], ts: u64) -> Result<Option<Write>> {
    let key = key::version(stored, ts);
    reader.get(CF_WRITE, &key)?.map(|data| Write::decode(&key, data)).transpose()
}

/// The records of a key with timestamps from `newest` down to `oldest`, both included.
pub(super) fn records<'a>(
    reader: &'a impl Reader,
    stored: &[u8],
    newest: u64,
    oldest: u64,
) -> impl Iterator<Item = Result<(u64, Write)>> + 'a {
    let bounds =
        (Bound::Included(key::version(stored, newest)), Bound::Included(key::version(stored, oldest)));
    reader.iter(CF_WRITE, bounds).map(|entry| {
        let (key, data) = entry?;
        decode_record(&key, data).map(|(_, ts, write)| (ts, write))
    })
}

/// Takes an entry of the write family apart: stored key, commit timestamp, record.
pub(super) fn decode_record(key: &Bytes, data: Bytes) -> Result<(Bytes, u64, Write)> {
    let (stored, ts) = key::split_version(key).ok_or_else(|| Error::Damaged {
        cf: CF_WRITE,
        key: key.clone(),
        what: "key without a timestamp",
    })?;
    Ok((key.slice(..stored.len()), ts, Write::decode(key, data)?))
}

/// What `write` at `ts` says about the transaction that started at `start_ts`.
pub(super) fn says(ts: u64, write: &Write, start_ts: u64) -> Fate {
    if write.start_ts == start_ts {
        return match write.kind {
            Kind::Rollback => Fate::RolledBack,
            _ => Fate::Committed { commit_ts: ts },
        };
    }
    if ts == start_ts && write.rollback_here { Fate::RolledBack } else { Fate::Unknown }
}

/// What the records of a key say about the transaction that started at `start_ts`.
pub(super) fn fate(reader: &impl Reader, stored: &[u8], start_ts: u64) -> Result<Fate> {
    for entry in records(reader, stored, u64::MAX, start_ts) {
        let (ts, write) = entry?;
        match says(ts, &write, start_ts) {
            Fate::Unknown => {}
            known => return Ok(known),
        }
    }
    Ok(Fate::Unknown)
}

/// The newest put or delete at or below `ts`.
pub(super) fn newest_change(reader: &impl Reader, stored: &[u8], ts: u64) -> Result<Option<(u64, Write)>> {
    for entry in records(reader, stored, ts, 0) {
        let (commit_ts, write) = entry?;
        if matches!(write.kind, Kind::Put | Kind::Delete) {
            return Ok(Some((commit_ts, write)));
        }
    }
    Ok(None)
}

/// The value that a put record stands for.
pub(super) fn value_of(reader: &impl Reader, stored: &[u8], write: &Write) -> Result<Bytes> {
    if let Some(value) = &write.short_value {
        return Ok(value.clone());
    }
    let key = key::version(stored, write.start_ts);
    let value = reader.get(CF_DEFAULT, &key)?;
    value.ok_or(Error::Damaged { cf: CF_DEFAULT, key, what: "a committed value is missing" })
}

/// Whether a value that expires at `expires_at` (unix seconds, 0 = never) is gone at `now_seconds`.
pub(super) fn expired(expires_at: u64, now_seconds: u64) -> bool {
    expires_at != 0 && expires_at <= now_seconds
}

/// Removes `lock` and leaves a rollback record.
pub(super) fn roll_back_lock(
    reader: &impl Reader,
    stored: &Bytes,
    lock: &Lock,
    writes: &mut Writes,
) -> Result<()> {
    writes.delete(CF_LOCK, stored.clone());
    if lock.kind == Kind::Put && lock.short_value.is_none() {
        writes.delete(CF_DEFAULT, key::version(stored, lock.start_ts));
    }
    put_rollback(reader, stored, lock.start_ts, writes)
}

/// Leaves a record that forbids the transaction of `start_ts` to be prewritten here. A commit record at that very
/// timestamp stays and is marked.
pub(super) fn put_rollback(
    reader: &impl Reader,
    stored: &[u8],
    start_ts: u64,
    writes: &mut Writes,
) -> Result<()> {
    let record = match record_at(reader, stored, start_ts)? {
        None => Write::rollback(start_ts),
        Some(there) if there.start_ts == start_ts || there.rollback_here => return Ok(()),
        Some(there) => {
            writes.probe("mvcc.rollback.overlaps_commit");
            Write { rollback_here: true, ..there }
        }
    };
    writes.probe("mvcc.rollback.marker");
    writes.put(CF_WRITE, key::version(stored, start_ts), record.encode());
    Ok(())
}

/// Turns `lock` into a commit record at `commit_ts`.
///
/// An error text when another transaction has committed at that timestamp: they are unique, so a client lies.
pub(super) fn commit_lock(
    reader: &impl Reader,
    stored: &Bytes,
    lock: Lock,
    commit_ts: u64,
    writes: &mut Writes,
) -> Result<Option<KeyError>> {
    let there = record_at(reader, stored, commit_ts)?;
    let rollback_here = match &there {
        None => false,
        Some(there) if there.kind == Kind::Rollback => true,
        Some(there) if there.start_ts == lock.start_ts => {
            // The same commit again: only the lock is left to remove.
            writes.delete(CF_LOCK, stored.clone());
            return Ok(None);
        }
        Some(_) => return Ok(Some(timestamp_taken(commit_ts))),
    };
    let record = Write {
        kind: lock.kind,
        start_ts: lock.start_ts,
        expires_at: lock.expires_at,
        short_value: lock.short_value,
        rollback_here,
    };
    writes.put(CF_WRITE, key::version(stored, commit_ts), record.encode());
    writes.delete(CF_LOCK, stored.clone());
    Ok(None)
}

pub(super) fn timestamp_taken(commit_ts: u64) -> KeyError {
    abort(format!("commit timestamp {commit_ts} belongs to another transaction; timestamps must be unique"))
}

/// The error of a transaction that cannot go on.
pub(super) fn abort(text: impl Into<String>) -> KeyError {
    KeyError { abort: text.into(), ..Default::default() }
}

/// The error of meeting somebody's lock.
pub(super) fn locked(user_key: &Bytes, lock: &Lock) -> KeyError {
    let locked = Locked {
        primary_lock: lock.primary.clone(),
        key: user_key.clone(),
        lock_version: lock.start_ts,
        lock_ttl: lock.ttl_ms,
        lock_type: lock.kind.op().into(),
        min_commit_ts: lock.min_commit_ts,
    };
    KeyError { locked: Some(locked), ..Default::default() }
}
