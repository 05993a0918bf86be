//! Prewrite: lock every key of the request, or none. With a commit timestamp, commit all of them at once instead.

use super::look::{self, Fate};
use super::record::{Kind, Lock, Write};
use super::{CF_DEFAULT, CF_LOCK, CF_WRITE, Reader, Result, SHORT_VALUE_BYTES_MAX, Writes, key};
use bytes::Bytes;
use nokv_proto::id::Timestamp;
use nokv_proto::kv::v1::mutation::Op;
use nokv_proto::kv::v1::{
    KeyAlreadyExists, KeyError, Mutation, PrewriteRequest, PrewriteResponse, WriteConflict,
};
use std::collections::BTreeSet;

/// Time to live of a lock whose request names none. Zero would lock the key for ever once the client is gone.
const TTL_MS_DEFAULT: u64 = 3000;

/// What stands in the way of one mutation.
enum Found {
    /// Nothing: lock it.
    Free,
    /// Our lock is there already; the timestamp of its asynchronous commit, or 0.
    OwnLock(u64),
    /// The transaction is committed here already.
    Committed(u64),
    Obstacle(Box<KeyError>),
}

/// Evaluates a prewrite.
///
/// `one_pc_commit_version` and `async_commit_version` must be zero unless the caller guarantees that nobody has read, or will read without
/// waiting for this very command, at or above that timestamp.
pub fn prewrite(
    reader: &impl Reader,
    request: &PrewriteRequest,
    writes: &mut Writes,
) -> Result<PrewriteResponse> {
    if let Some(error) = malformed(request) {
        return Ok(PrewriteResponse { errors: vec![error], ..Default::default() });
    }
    let mut response = PrewriteResponse::default();
    let mut free = Vec::with_capacity(request.mutations.len());
    let mut own_lock = false;
    // What the locks are for in the end: one that stands stays what it is, whatever this request asks for.
    let mut placed_for = BTreeSet::new();
    for mutation in &request.mutations {
        let stored = key::stored(&mutation.key);
        match examine(reader, request, mutation, &stored)? {
            Found::Free => {
                placed_for.insert(request.async_commit_version);
                free.push((mutation, stored));
            }
            Found::OwnLock(at) => {
                placed_for.insert(at);
                own_lock = true;
            }
            // Decided long ago: this is a retry, and the decision is the answer.
            Found::Committed(commit_ts) => {
                writes.probe("mvcc.prewrite.already_committed");
                return Ok(PrewriteResponse { one_pc_commit_version: commit_ts, ..Default::default() });
            }
            Found::Obstacle(error) => response.errors.push(*error),
        }
    }
    if !response.errors.is_empty() {
        return Ok(response);
    }
    let commit_ts = request.one_pc_commit_version;
    // With a lock of ours in place the two-phase protocol is under way: it decides.
    if commit_ts == 0 || own_lock {
        for (mutation, stored) in free {
            put_lock(request, mutation, stored, writes);
        }
        response.async_commit_version = match placed_for.first() {
            Some(at) if placed_for.len() == 1 => *at,
            _ => 0,
        };
        return Ok(response);
    }
    commit_at_once(reader, request, free, writes)
}

fn obstacle(error: KeyError) -> Found {
    Found::Obstacle(Box::new(error))
}

fn malformed(request: &PrewriteRequest) -> Option<KeyError> {
    let (start, commit) = (request.start_version, request.one_pc_commit_version);
    if start == 0 {
        return Some(look::abort("start_version is 0"));
    }
    if request.mutations.is_empty() {
        return Some(look::abort("prewrite without mutations"));
    }
    if commit != 0 && commit <= start {
        return Some(look::abort(format!("commit version {commit} is not above start version {start}")));
    }
    let async_commit = request.async_commit_version;
    if async_commit != 0 && (async_commit <= start || commit != 0) {
        return Some(look::abort(format!("asynchronous commit at {async_commit} makes no sense")));
    }
    let mut keys = BTreeSet::new();
    for mutation in &request.mutations {
        if mutation.key.is_empty() {
            return Some(look::abort("empty key in mutation"));
        }
        if kind_of(mutation).is_none() {
            return Some(look::abort(format!("unsupported mutation op {}", mutation.op)));
        }
        if !keys.insert(&mutation.key) {
            return Some(look::abort(format!("key {:?} is mutated twice in one request", mutation.key)));
        }
    }
    None
}

fn kind_of(mutation: &Mutation) -> Option<Kind> {
    match Op::try_from(mutation.op) {
        Ok(Op::Put) => Some(Kind::Put),
        Ok(Op::Delete) => Some(Kind::Delete),
        Ok(Op::Lock) => Some(Kind::Lock),
        Ok(Op::Rollback) | Err(_) => None,
    }
}

fn examine(
    reader: &impl Reader,
    request: &PrewriteRequest,
    mutation: &Mutation,
    stored: &Bytes,
) -> Result<Found> {
    let start_ts = request.start_version;
    let lock = look::lock(reader, stored)?;
    if let Some(own) = lock.as_ref().filter(|lock| lock.start_ts == start_ts) {
        return Ok(Found::OwnLock(if own.async_with.is_some() { own.min_commit_ts } else { 0 }));
    }
    // Records first: our own may lie below another transaction's lock or newer record.
    let mut conflict = None;
    for entry in look::records(reader, stored, u64::MAX, start_ts) {
        let (ts, write) = entry?;
        match look::says(ts, &write, start_ts) {
            Fate::Committed { commit_ts } => return Ok(Found::Committed(commit_ts)),
            Fate::RolledBack => return Ok(obstacle(rolled_back(request, &mutation.key))),
            Fate::Unknown if write.kind == Kind::Rollback => {}
            Fate::Unknown => _ = conflict.get_or_insert((ts, write.start_ts)),
        }
    }
    if let Some((commit_ts, conflict_ts)) = conflict {
        return Ok(obstacle(write_conflict(request, &mutation.key, conflict_ts, commit_ts)));
    }
    if let Some(lock) = lock {
        return Ok(obstacle(look::locked(&mutation.key, &lock)));
    }
    if mutation.assertion_not_exist && exists(reader, stored, start_ts)? {
        let exists = KeyAlreadyExists { key: mutation.key.clone() };
        return Ok(obstacle(KeyError { already_exists: Some(exists), ..Default::default() }));
    }
    Ok(Found::Free)
}

/// Whether the key has a value. Its age is judged by the transaction's own timestamp, equally on every replica.
fn exists(reader: &impl Reader, stored: &[u8], start_ts: u64) -> Result<bool> {
    let newest = look::newest_change(reader, stored, start_ts)?;
    let now_seconds = Timestamp(start_ts).physical_ms() / 1000;
    Ok(newest
        .is_some_and(|(_, write)| write.kind == Kind::Put && !look::expired(write.expires_at, now_seconds)))
}

fn rolled_back(request: &PrewriteRequest, key: &Bytes) -> KeyError {
    write_conflict(request, key, request.start_version, request.start_version)
}

fn write_conflict(request: &PrewriteRequest, key: &Bytes, conflict_ts: u64, commit_ts: u64) -> KeyError {
    let conflict = WriteConflict {
        key: key.clone(),
        primary: request.primary_lock.clone(),
        conflict_ts,
        commit_ts,
        start_ts: request.start_version,
    };
    KeyError { write_conflict: Some(conflict), ..Default::default() }
}

fn put_lock(request: &PrewriteRequest, mutation: &Mutation, stored: Bytes, writes: &mut Writes) {
    let ttl_ms = if request.lock_ttl == 0 { TTL_MS_DEFAULT } else { request.lock_ttl };
    let is_async = request.async_commit_version != 0;
    let is_primary = request.primary_lock == mutation.key;
    let least = request.min_commit_ts.max(request.start_version + 1);
    let lock = Lock {
        kind: kind_of(mutation).unwrap_or(Kind::Lock),
        start_ts: request.start_version,
        ttl_ms,
        min_commit_ts: if is_async { request.async_commit_version } else { least },
        async_with: is_async.then(|| if is_primary { request.secondaries.clone() } else { Vec::new() }),
        expires_at: mutation.expires_at,
        primary: request.primary_lock.clone(),
        short_value: put_value(request, mutation, &stored, writes),
    };
    writes.put(CF_LOCK, stored, lock.encode());
}

/// Stores a long value; gives a short one back for the record.
fn put_value(
    request: &PrewriteRequest,
    mutation: &Mutation,
    stored: &Bytes,
    writes: &mut Writes,
) -> Option<Bytes> {
    if kind_of(mutation) != Some(Kind::Put) {
        return None;
    }
    if mutation.value.len() <= SHORT_VALUE_BYTES_MAX {
        return Some(mutation.value.clone());
    }
    writes.put(CF_DEFAULT, key::version(stored, request.start_version), mutation.value.clone());
    None
}

fn commit_at_once(
    reader: &impl Reader,
    request: &PrewriteRequest,
    free: Vec<(&Mutation, Bytes)>,
    writes: &mut Writes,
) -> Result<PrewriteResponse> {
    let commit_ts = request.one_pc_commit_version;
    for (mutation, stored) in free {
        // Nothing was committed above our start, so only a rollback of another transaction can be there.
        let there = look::record_at(reader, &stored, commit_ts)?;
        assert!(there.as_ref().is_none_or(|there| there.kind == Kind::Rollback), "conflicts were excluded");
        let record = Write {
            kind: kind_of(mutation).unwrap_or(Kind::Lock),
            start_ts: request.start_version,
            expires_at: mutation.expires_at,
            short_value: put_value(request, mutation, &stored, writes),
            rollback_here: there.is_some(),
        };
        writes.put(CF_WRITE, key::version(&stored, commit_ts), record.encode());
    }
    writes.probe("mvcc.one_pc.committed");
    Ok(PrewriteResponse { one_pc_commit_version: commit_ts, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use crate::mvcc::testing::*;

    #[test]
    fn a_request_locks_all_keys_or_none() {
        let mut db = Db::new();
        db.prewrite("b", &[put("b", "theirs")], 5).ok();
        let errors = db.prewrite("a", &[put("a", "1"), put("b", "2"), put("c", "3")], 7).errors;
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].locked.as_ref().map(|lock| lock.lock_version), Some(5));
        assert!(db.lock("a").is_none() && db.lock("c").is_none());
    }

    #[test]
    fn a_write_at_or_above_the_start_is_a_conflict() {
        let mut db = Db::new();
        db.commit_put("a", "1", 5, 8);
        assert!(db.prewrite("a", &[put("a", "2")], 7).errors[0].write_conflict.is_some());
        db.prewrite("a", &[put("a", "2")], 9).ok();
    }

    #[test]
    fn a_rollback_of_somebody_else_is_no_conflict_but_a_lock_record_is() {
        let mut db = Db::new();
        db.rollback(&["a"], 9).ok();
        db.prewrite("a", &[lock_only("a")], 5).ok();
        db.commit(&["a"], 5, 6).ok();
        assert!(db.prewrite("a", &[put("a", "1")], 4).errors[0].write_conflict.is_some());
    }

    #[test]
    fn a_retry_keeps_the_pushed_commit_timestamp() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1")], 5).ok();
        db.check(status("a", 5).caller(20));
        db.prewrite("a", &[put("a", "1")], 5).ok();
        assert_eq!(db.lock("a").unwrap().min_commit_ts, 21);
    }

    #[test]
    fn a_rolled_back_transaction_cannot_come_back() {
        let mut db = Db::new();
        db.rollback(&["a"], 5).ok();
        assert!(db.prewrite("a", &[put("a", "1")], 5).errors[0].write_conflict.is_some());
        assert!(db.lock("a").is_none());
    }

    #[test]
    fn a_late_retry_of_a_committed_prewrite_answers_with_the_commit() {
        let mut db = Db::new();
        db.commit_put("a", "1", 5, 8);
        db.commit_put("a", "2", 9, 10);
        db.prewrite("a", &[put("a", "3")], 11).ok();
        assert_eq!(db.prewrite("a", &[put("a", "1")], 5).one_pc_commit_version, 8);
    }

    #[test]
    fn one_round_trip_commits_without_locks() {
        let mut db = Db::new();
        let long = "x".repeat(1000);
        let request = prewrite_request("a", &[put("a", "1"), put("b", &long)], 5).one_pc(7);
        assert_eq!(db.run_prewrite(request.clone()).one_pc_commit_version, 7);
        assert_eq!(db.run_prewrite(request).one_pc_commit_version, 7, "again");
        assert!(db.lock("a").is_none() && db.lock("b").is_none());
        assert_eq!((db.value("a", 7), db.value("b", 7)), (Some("1".into()), Some(long)));
        assert_eq!(db.value("a", 6), None);
    }

    #[test]
    fn one_round_trip_yields_to_a_two_phase_commit_under_way() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1")], 5).ok();
        assert_eq!(
            db.run_prewrite(prewrite_request("a", &[put("a", "1")], 5).one_pc(7)).one_pc_commit_version,
            0
        );
        assert!(db.lock("a").is_some());
        db.commit(&["a"], 5, 9).ok();
        assert_eq!((db.value("a", 8), db.value("a", 9)), (None, Some("1".into())));
    }

    #[test]
    fn a_lock_stays_what_it_was_placed_for() {
        let mut db = Db::new();
        let request = prewrite_request("a", &[put("a", "1"), put("b", "1")], 5);
        assert_eq!(db.run_prewrite(request.clone().async_commit(9, &["b"])).async_commit_version, 9);
        assert_eq!(db.run_prewrite(request.clone().async_commit(9, &["b"])).async_commit_version, 9, "again");
        assert_eq!(db.run_prewrite(request).async_commit_version, 9, "a leader that refuses comes too late");
        assert_eq!(db.lock("a").unwrap().async_with, Some(vec![bytes("b")]));
        assert_eq!(db.lock("b").unwrap().async_with, Some(vec![]), "only the primary knows the others");
        db.prewrite("c", &[put("c", "1")], 6).ok();
        let late = prewrite_request("c", &[put("c", "1"), put("d", "1")], 6).async_commit(9, &["d"]);
        assert_eq!(db.run_prewrite(late).async_commit_version, 0, "one of two is not enough");
        assert!(db.lock("c").unwrap().async_with.is_none());
        let nonsense = prewrite_request("e", &[put("e", "1")], 9).async_commit(9, &[]);
        assert!(db.run_prewrite(nonsense).errors[0].abort.contains("no sense"));
    }

    #[test]
    fn one_round_trip_and_a_rollback_at_its_timestamp_both_stay() {
        let mut db = Db::new();
        db.rollback(&["a"], 7).ok();
        db.run_prewrite(prewrite_request("a", &[put("a", "1")], 5).one_pc(7));
        assert_eq!(db.value("a", 7), Some("1".into()));
        assert!(!db.prewrite("a", &[put("a", "2")], 7).errors.is_empty(), "t7 stays rolled back");
    }

    #[test]
    fn assertion_not_exist_looks_at_the_value() {
        let mut db = Db::new();
        let insert = || [put("a", "1").insert()];
        db.prewrite("a", &insert(), 5).ok();
        db.commit(&["a"], 5, 6).ok();
        assert!(db.prewrite("a", &insert(), 7).errors[0].already_exists.is_some());
        db.prewrite("a", &[delete("a")], 8).ok();
        db.commit(&["a"], 8, 9).ok();
        db.rollback(&["a"], 10).ok();
        db.prewrite("a", &insert(), 11).ok();
    }

    #[test]
    fn nonsense_is_refused_with_words() {
        let mut db = Db::new();
        let mut refused = |request: Prewrite, what: &str| {
            let errors = db.run_prewrite(request).errors;
            assert!(errors[0].abort.contains(what), "{errors:?}");
        };
        refused(prewrite_request("a", &[put("", "1")], 5), "empty key");
        refused(prewrite_request("a", &[put("a", "1"), put("a", "2")], 5), "twice");
        refused(prewrite_request("a", &[put("a", "1")], 5).one_pc(5), "not above");
        refused(prewrite_request("a", &[], 5), "without mutations");
        refused(prewrite_request("a", &[put("a", "1")], 0), "start_version");
    }
}
