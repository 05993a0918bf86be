//! Commit: turn the transaction's locks into records at the commit timestamp; all keys of the request, or none.
//!
//! A client whose timestamp was refused asks again with a higher one, and the first request may still arrive after
//! the second. So a key that is committed already settles the timestamp for the others.

use super::look::{self, Fate};
use super::record::Lock;
use super::{Reader, Result, Writes, key};
use bytes::Bytes;
use nokv_proto::kv::v1::{CommitRequest, CommitResponse, CommitTsExpired, KeyError};

/// Evaluates a commit.
pub fn commit(reader: &impl Reader, request: &CommitRequest, writes: &mut Writes) -> Result<CommitResponse> {
    let mut mine = Writes::new();
    if let Some(error) = attempt(reader, request, &mut mine)? {
        writes.probes.append(&mut mine.probes);
        return Ok(CommitResponse { error: Some(error) });
    }
    writes.append(mine);
    Ok(CommitResponse::default())
}

fn attempt(reader: &impl Reader, request: &CommitRequest, writes: &mut Writes) -> Result<Option<KeyError>> {
    let (start_ts, asked) = (request.start_version, request.commit_version);
    if start_ts == 0 || asked <= start_ts {
        let text = format!("commit version {asked} is not above start version {start_ts}");
        return Ok(Some(look::abort(text)));
    }
    let mut settled = None;
    let mut locks: Vec<(&Bytes, Bytes, Lock)> = Vec::with_capacity(request.keys.len());
    for user_key in &request.keys {
        if user_key.is_empty() {
            return Ok(Some(look::abort("empty key in commit")));
        }
        let stored = key::stored(user_key);
        match look::lock(reader, &stored)? {
            Some(lock) if lock.start_ts == start_ts => locks.push((user_key, stored, lock)),
            other => match look::fate(reader, &stored, start_ts)? {
                Fate::Committed { commit_ts } => settled = Some(commit_ts),
                Fate::RolledBack => return Ok(Some(look::abort("transaction already rolled back"))),
                Fate::Unknown => {
                    return Ok(Some(other.map_or_else(
                        || look::abort("lock not found"),
                        |lock| look::locked(user_key, &lock),
                    )));
                }
            },
        }
    }
    let commit_ts = settled.unwrap_or(asked);
    for (user_key, stored, lock) in locks {
        if settled.is_none() && lock.min_commit_ts > commit_ts {
            writes.probe("mvcc.commit.expired");
            return Ok(Some(expired(user_key.clone(), commit_ts, lock.min_commit_ts)));
        }
        if let Some(error) = look::commit_lock(reader, &stored, lock, commit_ts, writes)? {
            return Ok(Some(error));
        }
    }
    Ok(None)
}

fn expired(key: Bytes, commit_ts: u64, min_commit_ts: u64) -> KeyError {
    let expired = CommitTsExpired { key, commit_ts, min_commit_ts };
    KeyError { commit_ts_expired: Some(expired), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use crate::mvcc::testing::*;

    #[test]
    fn a_commit_may_arrive_any_number_of_times() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1"), delete("b")], 5).ok();
        db.commit(&["a", "b"], 5, 8).ok();
        db.commit(&["a", "b"], 5, 8).ok();
        assert_eq!((db.value("a", 7), db.value("a", 8)), (None, Some("1".into())));
        db.prewrite("a", &[put("a", "2")], 9).ok();
        db.commit(&["a"], 5, 8).ok();
        assert_eq!(db.lock("a").unwrap().start_ts, 9, "another transaction's lock stays");
    }

    #[test]
    fn commit_must_lie_above_start() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1")], 5).ok();
        for commit_ts in [0, 4, 5] {
            assert!(db.commit(&["a"], 5, commit_ts).error.unwrap().abort.contains("not above"));
        }
    }

    #[test]
    fn a_pushed_transaction_must_commit_above_the_push() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1"), put("b", "1")], 5).ok();
        db.check(status("a", 5).caller(20));
        let expired = db.commit(&["b", "a"], 5, 20).error.unwrap().commit_ts_expired.unwrap();
        assert_eq!(expired.min_commit_ts, 21);
        assert!(db.lock("b").is_some(), "nothing of the request is committed");
        db.commit(&["a", "b"], 5, 21).ok();
        db.commit(&["a"], 5, 20).ok();
    }

    #[test]
    fn a_late_commit_at_a_refused_timestamp_changes_nothing() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1"), put("b", "1")], 5).ok();
        db.check(status("a", 5).caller(20));
        assert!(db.commit(&["a", "b"], 5, 10).error.is_some());
        db.commit(&["a"], 5, 21).ok();
        db.commit(&["b", "a"], 5, 10).ok();
        assert_eq!((db.value("b", 20), db.value("b", 21)), (None, Some("1".into())));
    }

    #[test]
    fn without_a_lock_the_record_decides() {
        let mut db = Db::new();
        assert_eq!(db.commit(&["a"], 5, 8).error.unwrap().abort, "lock not found");
        db.rollback(&["a"], 5).ok();
        assert_eq!(db.commit(&["a"], 5, 8).error.unwrap().abort, "transaction already rolled back");
        db.prewrite("a", &[put("a", "1")], 9).ok();
        assert!(db.commit(&["a"], 6, 8).error.unwrap().locked.is_some());
    }

    #[test]
    fn a_timestamp_commits_one_transaction_per_key() {
        let mut db = Db::new();
        db.force_lock("a", 7);
        db.force_record("a", "1", 5, 9);
        assert!(db.commit(&["a"], 7, 9).error.unwrap().abort.contains("unique"));
        assert_eq!(db.get_bypassing("a", 9, &[7]).value, "1");
    }
}
