//! Garbage: versions that no read at or above the safe point can see.
//!
//! ```text
//! records of a key, newest first      safe point 10
//!   a@14 put      above: stays
//!   a@9  put      what a read at 10 sees: stays (a delete, or a value that has expired by then, goes)
//!   a@8  rollback, a@7 lock, a@3 put    go, and the long values with them
//! ```
//!
//! Whoever collects must know that no transaction that began below the safe point holds a lock anywhere, or ever will:
//! the record that decided it may be among what goes. Hence the fence of [`crate::gc`]. A rollback record at the safe
//! point itself stays, because a transaction that began right there may still be prewritten.

use super::look::{self, decode_record};
use super::record::{Kind, Lock, Write};
use super::{CF_DEFAULT, CF_LOCK, CF_WRITE, Reader, Result, Writes, key, stored_bounds};
use bytes::Bytes;
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use nokv_proto::kv::v1::{BelowSafePoint, KeyError};
use std::ops::Bound;

/// Records that one command removes of one key. More would make its batch too large.
const REMOVALS_MAX: usize = 1024;
/// Records that one look for garbage passes.
const LOOKS_MAX: usize = 4096;

/// A lock that stands in the way of a safe point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldLock {
    /// The locked key.
    pub key: Bytes,
    /// Where its transaction is decided.
    pub primary: Bytes,
    /// When that began.
    pub start_ts: u64,
    /// How long it lives.
    pub ttl_ms: u64,
}

/// The error of a request whose answer may have been collected.
pub fn too_old(version: u64, safe_point: u64) -> KeyError {
    KeyError { below_safe_point: Some(BelowSafePoint { version, safe_point }), ..Default::default() }
}

/// Whether a read at `version` may miss what was collected. Reads of the newest state never do.
pub fn is_too_old(version: u64, safe_point: u64) -> bool {
    version != 0 && version < safe_point
}

/// Removes the garbage of a key. Gives the number of records that went, and whether there is more.
pub fn collect(
    reader: &impl Reader,
    user_key: &[u8],
    safe_point: u64,
    writes: &mut Writes,
) -> Result<(u64, bool)> {
    let stored = key::stored(user_key);
    let mut judge = Judge::new(safe_point);
    let mut garbage = Vec::new();
    for entry in look::records(reader, &stored, safe_point, 0) {
        let (ts, write) = entry?;
        if judge.is_garbage(ts, &write) {
            garbage.push((ts, write));
        }
    }
    // The oldest go first: a delete must outlive what it hides.
    let more = garbage.len() > REMOVALS_MAX;
    let now = garbage.split_off(garbage.len().saturating_sub(REMOVALS_MAX));
    for (ts, write) in &now {
        writes.delete(CF_WRITE, key::version(&stored, *ts));
        if write.kind == Kind::Put && write.short_value.is_none() {
            writes.delete(CF_DEFAULT, key::version(&stored, write.start_ts));
        }
    }
    if !now.is_empty() {
        writes.probe("mvcc.gc.removed");
    }
    Ok((now.len() as u64, more))
}

/// Passes judgement on the records of one key at or below the safe point, newest first.
struct Judge {
    safe_point: u64,
    /// What a read at the safe point sees has been passed.
    found: bool,
}

impl Judge {
    fn new(safe_point: u64) -> Self {
        Self { safe_point, found: false }
    }

    fn is_garbage(&mut self, ts: u64, write: &Write) -> bool {
        let visible = matches!(write.kind, Kind::Put | Kind::Delete) && !self.found;
        self.found |= visible;
        if ts == self.safe_point && (write.kind == Kind::Rollback || write.rollback_here) {
            return false;
        }
        let now_seconds = Timestamp(self.safe_point).physical_ms() / 1000;
        !(visible && write.kind == Kind::Put && !look::expired(write.expires_at, now_seconds))
    }
}

/// Up to `limit` keys of `range` from `from` on that have garbage, and where to go on; `None` at the end.
pub fn garbage(
    reader: &impl Reader,
    range: &KeyRange,
    from: &Bytes,
    safe_point: u64,
    limit: usize,
) -> Result<(Vec<Bytes>, Option<Bytes>)> {
    let (lower, upper) = stored_bounds(range);
    let lower = if from.is_empty() { lower } else { Bound::Included(key::stored(from)) };
    let (mut keys, mut looks) = (Vec::new(), 0);
    let mut now: Option<(Bytes, Judge, bool)> = None;
    for entry in reader.iter(CF_WRITE, (lower, upper)) {
        let (record_key, data) = entry?;
        let (stored, ts, write) = decode_record(&record_key, data)?;
        looks += 1;
        let same = now.as_ref().is_some_and(|(known, ..)| *known == stored);
        if !same {
            if keys.len() >= limit || looks > LOOKS_MAX {
                return Ok((keys, key::user(&stored)));
            }
            now = Some((stored.clone(), Judge::new(safe_point), false));
        }
        if let Some((_, judge, listed)) = &mut now
            && ts <= safe_point
            && judge.is_garbage(ts, &write)
            && !*listed
        {
            *listed = true;
            keys.extend(key::user(&stored));
        }
    }
    Ok((keys, None))
}

/// Up to `limit` locks in `range` of transactions that began below `ts`.
pub fn locks_below(reader: &impl Reader, range: &KeyRange, ts: u64, limit: usize) -> Result<Vec<OldLock>> {
    let mut found = Vec::new();
    for entry in reader.iter(CF_LOCK, stored_bounds(range)) {
        let (stored, data) = entry?;
        let Lock { start_ts, ttl_ms, primary, .. } = Lock::decode(&stored, data)?;
        if start_ts < ts
            && let Some(key) = key::user(&stored)
        {
            found.push(OldLock { key, primary, start_ts, ttl_ms });
            if found.len() >= limit {
                break;
            }
        }
    }
    Ok(found)
}

/// Whether a key has no trace of the transaction that began at `start_ts`: neither lock nor record.
pub fn is_forgotten(reader: &impl Reader, user_key: &[u8], start_ts: u64) -> Result<bool> {
    let stored = key::stored(user_key);
    if look::lock(reader, &stored)?.is_some_and(|lock| lock.start_ts == start_ts) {
        return Ok(false);
    }
    Ok(look::fate(reader, &stored, start_ts)? == look::Fate::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::testing::*;

    fn everything() -> KeyRange {
        KeyRange::default()
    }

    fn collect_all(db: &mut Db, safe_point: u64) -> u64 {
        let (keys, rest) = garbage(&db.map, &everything(), &Bytes::new(), safe_point, 100).unwrap();
        assert_eq!(rest, None);
        let mut removed = 0;
        for key in keys {
            let mut writes = Writes::new();
            let (some, more) = collect(&db.map, &key, safe_point, &mut writes).unwrap();
            assert!(some > 0 && !more, "what is listed has garbage");
            removed += some;
            db.map.apply(writes);
        }
        removed
    }

    #[test]
    fn what_a_read_at_the_safe_point_sees_stays() {
        let mut db = Db::new();
        let long = "x".repeat(1000);
        db.commit_put("a", &long, 1, 2);
        db.commit_put("a", "2", 3, 4);
        db.rollback(&["a"], 5).ok();
        db.prewrite("a", &[lock_only("a")], 6).ok();
        db.commit(&["a"], 6, 7).ok();
        db.commit_put("a", "3", 20, 21);
        db.commit_put("b", "only", 1, 3);
        let before: Vec<_> = (10..25).map(|at| (db.value("a", at), db.value("b", at))).collect();
        assert_eq!(collect_all(&mut db, 10), 3);
        let after: Vec<_> = (10..25).map(|at| (db.value("a", at), db.value("b", at))).collect();
        assert_eq!(before, after);
        assert!(db.default_is_empty(), "the long value went with its record");
        assert_eq!(collect_all(&mut db, 10), 0);
        assert_eq!(collect_all(&mut db, 21), 1);
    }

    #[test]
    fn a_deleted_key_goes_altogether() {
        let mut db = Db::new();
        db.commit_put("a", "1", 1, 2);
        db.prewrite("a", &[delete("a")], 3).ok();
        db.commit(&["a"], 3, 4).ok();
        assert_eq!(collect_all(&mut db, 3), 0, "the delete is above");
        assert_eq!(collect_all(&mut db, 4), 2);
        assert!(db.map.0.is_empty());
    }

    #[test]
    fn values_that_have_expired_go() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1").expires(100)], ts(1000)).ok();
        db.commit(&["a"], ts(1000), ts(1001)).ok();
        assert_eq!(collect_all(&mut db, ts(99_999)), 0);
        assert_eq!(collect_all(&mut db, ts(100_000)), 1);
    }

    #[test]
    fn a_rollback_at_the_safe_point_stays() {
        let mut db = Db::new();
        db.rollback(&["a"], 9).ok();
        db.commit_put("b", "1", 1, 9);
        db.rollback(&["b"], 9).ok();
        assert_eq!(collect_all(&mut db, 9), 0);
        assert!(!db.prewrite("a", &[put("a", "2")], 9).errors.is_empty());
        assert!(!db.prewrite("b", &[put("b", "2")], 9).errors.is_empty());
        assert_eq!(collect_all(&mut db, 10), 1, "the value of b stays");
    }

    #[test]
    fn a_look_stops_at_its_limit_and_goes_on_there() {
        let mut db = Db::new();
        for key in ["a", "b", "c"] {
            db.commit_put(key, "1", 1, 2);
            db.commit_put(key, "2", 3, 4);
        }
        let (keys, rest) = garbage(&db.map, &everything(), &Bytes::new(), 9, 2).unwrap();
        assert_eq!((keys, rest.clone()), (vec![bytes("a"), bytes("b")], Some(bytes("c"))));
        let (keys, rest) = garbage(&db.map, &everything(), &rest.unwrap(), 9, 2).unwrap();
        assert_eq!((keys, rest), (vec![bytes("c")], None));
    }

    #[test]
    fn more_than_one_command_removes_goes_oldest_first() {
        let mut db = Db::new();
        let versions = REMOVALS_MAX as u64 + 5;
        for at in 0..versions {
            db.commit_put("a", "1", 10 + 2 * at, 11 + 2 * at);
        }
        db.prewrite("a", &[delete("a")], 10_000).ok();
        db.commit(&["a"], 10_000, 10_001).ok();
        let mut writes = Writes::new();
        let (removed, more) = collect(&db.map, b"a", 20_000, &mut writes).unwrap();
        assert!(more && removed == REMOVALS_MAX as u64);
        db.map.apply(writes);
        assert_eq!(db.value("a", 20_000), None);
        assert_eq!(collect_all(&mut db, 20_000), 6);
        assert!(db.map.0.is_empty());
    }

    #[test]
    fn locks_are_found_by_the_age_of_their_transaction() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1"), put("b", "1")], 5).ok();
        db.prewrite("c", &[put("c", "1")], 9).ok();
        assert_eq!(locks_below(&db.map, &everything(), 5, 10).unwrap(), []);
        let found = locks_below(&db.map, &everything(), 9, 10).unwrap();
        assert_eq!(found.iter().map(|lock| lock.key.clone()).collect::<Vec<_>>(), [bytes("a"), bytes("b")]);
        assert!(found.iter().all(|lock| lock.primary == "a" && lock.start_ts == 5));
        assert!(!is_forgotten(&db.map, b"a", 5).unwrap() && is_forgotten(&db.map, b"a", 4).unwrap());
    }
}
