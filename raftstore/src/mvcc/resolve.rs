//! Cleaning up: rolling a transaction back, carrying a decision to its locks, asking the primary.

use super::look::{self, Fate};
use super::record::Lock;
use super::{CF_LOCK, Reader, Result, Writes, key};
use bytes::Bytes;
use nokv_proto::id::Timestamp;
use nokv_proto::kv::v1::{
    BatchRollbackRequest, BatchRollbackResponse, CheckTxnStatusAction, CheckTxnStatusRequest,
    CheckTxnStatusResponse, CommitTsExpired, KeyError, ResolveLockRequest, ResolveLockResponse,
};

/// Rolls a transaction back at the given keys, whether it was prewritten there or not.
///
/// Refused as a whole when it is committed at one of them.
pub fn batch_rollback(
    reader: &impl Reader,
    request: &BatchRollbackRequest,
    writes: &mut Writes,
) -> Result<BatchRollbackResponse> {
    let refused = |text: &str| Ok(BatchRollbackResponse { error: Some(look::abort(text)) });
    if request.start_version == 0 {
        return refused("start_version is 0");
    }
    let mut mine = Writes::new();
    for user_key in &request.keys {
        if user_key.is_empty() {
            return refused("empty key in rollback");
        }
        let stored = key::stored(user_key);
        match look::lock(reader, &stored)? {
            Some(lock) if lock.start_ts == request.start_version => {
                look::roll_back_lock(reader, &stored, &lock, &mut mine)?;
            }
            _ => match look::fate(reader, &stored, request.start_version)? {
                Fate::Committed { .. } => return refused("transaction already committed"),
                Fate::RolledBack => {}
                Fate::Unknown => look::put_rollback(reader, &stored, request.start_version, &mut mine)?,
            },
        }
    }
    writes.append(mine);
    Ok(BatchRollbackResponse::default())
}

/// Carries a decision (`commit_version` 0: rolled back) to those of the given keys that the transaction has locked.
pub fn resolve_lock(
    reader: &impl Reader,
    request: &ResolveLockRequest,
    writes: &mut Writes,
) -> Result<ResolveLockResponse> {
    let (start_ts, commit_ts) = (request.start_version, request.commit_version);
    let refused = |error| Ok(ResolveLockResponse { error: Some(error), resolved_locks: 0 });
    if commit_ts != 0 && commit_ts <= start_ts {
        let text = format!("commit version {commit_ts} is not above start version {start_ts}");
        return refused(look::abort(text));
    }
    let mut mine = Writes::new();
    let mut resolved_locks = 0;
    let keys: std::collections::BTreeSet<&Bytes> =
        request.keys.iter().filter(|key| !key.is_empty()).collect();
    for user_key in keys {
        let stored = key::stored(user_key);
        let Some(lock) = look::lock(reader, &stored)?.filter(|lock| lock.start_ts == start_ts) else {
            continue;
        };
        let error = if commit_ts == 0 {
            look::roll_back_lock(reader, &stored, &lock, &mut mine)?;
            None
        } else if let Some(error) = forbidden(user_key, &lock, commit_ts) {
            Some(error)
        } else {
            look::commit_lock(reader, &stored, lock, commit_ts, &mut mine)?
        };
        if let Some(error) = error {
            return refused(error);
        }
        resolved_locks += 1;
    }
    writes.append(mine);
    Ok(ResolveLockResponse { error: None, resolved_locks })
}

/// A decision told to the primary's own lock must respect the push that readers rely on.
fn forbidden(user_key: &Bytes, lock: &Lock, commit_ts: u64) -> Option<KeyError> {
    if lock.primary != *user_key || lock.min_commit_ts <= commit_ts {
        return None;
    }
    let expired = CommitTsExpired { key: user_key.clone(), commit_ts, min_commit_ts: lock.min_commit_ts };
    Some(KeyError { commit_ts_expired: Some(expired), ..Default::default() })
}

/// Says what became of a transaction, at its primary key. Rolls it back when its lock has expired, or when asked to
/// and there is no trace of it; else, for a reader, forbids it to commit at or below the reader's timestamp.
pub fn check_txn_status(
    reader: &impl Reader,
    request: &CheckTxnStatusRequest,
    writes: &mut Writes,
) -> Result<CheckTxnStatusResponse> {
    if request.primary_key.is_empty() || request.lock_ts == 0 {
        return Ok(failed(look::abort("check of a transaction without primary key or start timestamp")));
    }
    let stored = key::stored(&request.primary_key);
    if let Some(lock) = look::lock(reader, &stored)?
        && lock.start_ts == request.lock_ts
    {
        return check_lock(reader, request, &stored, lock, writes);
    }
    match look::fate(reader, &stored, request.lock_ts)? {
        Fate::Committed { commit_ts } => {
            Ok(CheckTxnStatusResponse { commit_version: commit_ts, ..Default::default() })
        }
        Fate::RolledBack => Ok(action(CheckTxnStatusAction::CheckTxnStatusLockNotExistRollback)),
        Fate::Unknown if request.rollback_if_not_exist => {
            look::put_rollback(reader, &stored, request.lock_ts, writes)?;
            Ok(action(CheckTxnStatusAction::CheckTxnStatusLockNotExistRollback))
        }
        Fate::Unknown => Ok(action(CheckTxnStatusAction::CheckTxnStatusNoAction)),
    }
}

fn check_lock(
    reader: &impl Reader,
    request: &CheckTxnStatusRequest,
    stored: &Bytes,
    mut lock: Lock,
    writes: &mut Writes,
) -> Result<CheckTxnStatusResponse> {
    if lock.primary != request.primary_key {
        let text =
            format!("{:?} is not the primary key of transaction {}", request.primary_key, lock.start_ts);
        return Ok(failed(look::abort(text)));
    }
    if let Some(secondaries) = lock.async_with.take() {
        if !request.not_async {
            let mut response = action(CheckTxnStatusAction::CheckTxnStatusNoAction);
            response.lock_ttl = lock.ttl_ms;
            response.async_commit_version = lock.min_commit_ts;
            response.secondaries = secondaries;
            return Ok(response);
        }
        writes.probe("mvcc.async_commit.given_up");
        writes.put(CF_LOCK, stored.clone(), lock.encode());
    }
    let now_ms = Timestamp(request.current_ts).physical_ms();
    if now_ms >= Timestamp(lock.start_ts).physical_ms().saturating_add(lock.ttl_ms) {
        writes.probe("mvcc.lock.expired");
        look::roll_back_lock(reader, stored, &lock, writes)?;
        return Ok(action(CheckTxnStatusAction::CheckTxnStatusTtlExpireRollback));
    }
    let mut response = action(CheckTxnStatusAction::CheckTxnStatusNoAction);
    response.lock_ttl = lock.ttl_ms;
    let caller = request.caller_start_ts;
    // u64::MAX reads the newest value and cannot be stepped over.
    if caller == 0 || caller == u64::MAX {
        return Ok(response);
    }
    if lock.min_commit_ts <= caller {
        lock.min_commit_ts = caller + 1;
        writes.probe("mvcc.lock.pushed");
        writes.put(CF_LOCK, stored.clone(), lock.encode());
    }
    response.set_action(CheckTxnStatusAction::CheckTxnStatusMinCommitTsPushed);
    Ok(response)
}

fn action(action: CheckTxnStatusAction) -> CheckTxnStatusResponse {
    CheckTxnStatusResponse { action: action.into(), ..Default::default() }
}

fn failed(error: KeyError) -> CheckTxnStatusResponse {
    CheckTxnStatusResponse { error: Some(error), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use crate::mvcc::testing::*;
    use nokv_proto::kv::v1::CheckTxnStatusAction as Action;

    #[test]
    fn a_rollback_frees_the_key_and_stays() {
        let mut db = Db::new();
        let long = "x".repeat(1000);
        db.prewrite("a", &[put("a", &long)], 5).ok();
        db.rollback(&["a", "b"], 5).ok();
        db.rollback(&["a", "b"], 5).ok();
        assert!(db.lock("a").is_none() && db.default_is_empty());
        assert_eq!(db.commit(&["a"], 5, 6).error.unwrap().abort, "transaction already rolled back");
        assert!(!db.prewrite("b", &[put("b", "1")], 5).errors.is_empty());
    }

    #[test]
    fn a_committed_transaction_is_not_rolled_back_anywhere() {
        let mut db = Db::new();
        db.commit_put("a", "1", 5, 8);
        assert!(db.rollback(&["b", "a"], 5).error.unwrap().abort.contains("committed"));
        assert!(db.record("b", 5).is_none());
        assert_eq!(db.value("a", 8), Some("1".into()));
    }

    #[test]
    fn a_rollback_spares_the_commit_at_its_timestamp() {
        let mut db = Db::new();
        db.commit_put("a", "1", 5, 8);
        db.rollback(&["a"], 8).ok();
        db.rollback(&["a"], 8).ok();
        assert_eq!(db.value("a", 8), Some("1".into()));
        assert!(!db.prewrite("a", &[put("a", "2")], 8).errors.is_empty());
        assert_eq!(db.check(status("a", 8)).action(), Action::CheckTxnStatusLockNotExistRollback);
        assert_eq!(db.check(status("a", 5)).commit_version, 8);
    }

    #[test]
    fn resolving_touches_only_the_transactions_own_locks() {
        let mut db = Db::new();
        db.prewrite("p", &[put("a", "1"), put("b", "2")], 5).ok();
        db.prewrite("c", &[put("c", "3")], 6).ok();
        assert_eq!(db.resolve(&["a", "c", "d", ""], 5, 9).resolved_locks, 1);
        assert_eq!(db.resolve(&["a", "c"], 5, 9).resolved_locks, 0);
        assert_eq!(db.resolve(&["b"], 5, 0).resolved_locks, 1);
        assert_eq!((db.value("a", 9), db.value("b", 9)), (Some("1".into()), None));
        assert!(db.lock("c").is_some());
        assert!(db.resolve(&["c"], 6, 6).error.is_some());
    }

    #[test]
    fn resolving_cannot_undercut_a_push_on_the_primary() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1")], 5).ok();
        db.check(status("a", 5).caller(20));
        assert!(db.resolve(&["a"], 5, 20).error.unwrap().commit_ts_expired.is_some());
        assert_eq!(db.resolve(&["a"], 5, 21).resolved_locks, 1);
    }

    #[test]
    fn locks_expire_by_physical_time() {
        let mut db = Db::new();
        let start = ts(1000);
        db.run_prewrite(prewrite_request("a", &[put("a", "1")], start).ttl(50));
        let alive = db.check(status("a", start).now(ts(1049)));
        assert_eq!((alive.action(), alive.lock_ttl), (Action::CheckTxnStatusNoAction, 50));
        let dead = db.check(status("a", start).now(ts(1050)));
        assert_eq!(dead.action(), Action::CheckTxnStatusTtlExpireRollback);
        assert_eq!(
            db.check(status("a", start)).action(),
            Action::CheckTxnStatusLockNotExistRollback,
            "and again"
        );
    }

    #[test]
    fn a_lock_without_ttl_expires_all_the_same() {
        let mut db = Db::new();
        db.run_prewrite(prewrite_request("a", &[put("a", "1")], ts(1)).ttl(0));
        assert_eq!(
            db.check(status("a", ts(1)).now(ts(60_000))).action(),
            Action::CheckTxnStatusTtlExpireRollback
        );
    }

    #[test]
    fn every_reader_learns_that_it_is_stepped_over() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1")], 5).ok();
        for caller in [20, 10, 20] {
            assert_eq!(
                db.check(status("a", 5).caller(caller)).action(),
                Action::CheckTxnStatusMinCommitTsPushed
            );
        }
        assert_eq!(db.lock("a").unwrap().min_commit_ts, 21);
    }

    #[test]
    fn only_the_primary_speaks_for_a_transaction() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1"), put("b", "1")], 5).ok();
        assert!(db.check(status("b", 5).now(ts(99_999))).error.unwrap().abort.contains("not the primary"));
    }

    #[test]
    fn an_unknown_transaction_is_rolled_back_only_when_asked() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "other")], 9).ok();
        let nothing = db.check(status("a", 5));
        assert_eq!((nothing.action(), nothing.lock_ttl), (Action::CheckTxnStatusNoAction, 0));
        assert_eq!(db.check(status("a", 5).rollback()).action(), Action::CheckTxnStatusLockNotExistRollback);
        assert!(!db.prewrite("a", &[put("a", "1")], 5).errors.is_empty());
        assert!(db.lock("a").is_some(), "the other transaction goes on");
    }

    #[test]
    fn a_commit_is_found_below_another_transactions_lock() {
        let mut db = Db::new();
        db.commit_put("a", "1", 5, 8);
        db.prewrite("a", &[put("a", "2")], 9).ok();
        assert_eq!(db.check(status("a", 5)).commit_version, 8);
    }
}
