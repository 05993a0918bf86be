//! Asking the other keys of an asynchronous commit what they know of it.
//!
//! The transaction is committed if every key is locked for it. A key that is not, and never will be, proves that it is not
//! committed so: a plain lock stays plain as long as it stands, and where a rollback was recorded nothing can be locked any more.
//! Then its primary decides, as ever. A key that a resolver has already committed proves the opposite.

use super::look::{self, Fate};
use super::{Reader, Result, Writes, key};
use nokv_proto::kv::v1::{CheckSecondaryLocksRequest, CheckSecondaryLocksResponse};

/// Looks at every key of the request, and forbids those without a trace of the transaction to be locked later, if asked to.
pub fn check_secondary_locks(
    reader: &impl Reader,
    request: &CheckSecondaryLocksRequest,
    writes: &mut Writes,
) -> Result<CheckSecondaryLocksResponse> {
    let mut response = CheckSecondaryLocksResponse::default();
    let start_ts = request.start_version;
    if start_ts == 0 || request.keys.is_empty() || request.keys.iter().any(|key| key.is_empty()) {
        let error = look::abort("check of secondary locks without keys or start timestamp");
        return Ok(CheckSecondaryLocksResponse { error: Some(error), ..response });
    }
    for user_key in &request.keys {
        let stored = key::stored(user_key);
        if let Some(lock) = look::lock(reader, &stored)?.filter(|lock| lock.start_ts == start_ts) {
            response.broken |= lock.async_with.is_none();
            continue;
        }
        match look::fate(reader, &stored, start_ts)? {
            Fate::Committed { commit_ts } => response.commit_version = commit_ts,
            Fate::RolledBack => response.broken = true,
            Fate::Unknown if request.rollback_missing => {
                look::put_rollback(reader, &stored, start_ts, writes)?;
                writes.probe("mvcc.async_commit.prevented");
                response.broken = true;
            }
            Fate::Unknown => response.missing += 1,
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use crate::mvcc::testing::*;
    use nokv_proto::kv::v1::CheckTxnStatusAction as Action;

    /// A transaction whose keys a, b and c are in three regions; b and c are its secondaries.
    fn part(key: &str) -> Prewrite {
        let secondaries: &[&str] = if key == "a" { &["b", "c"] } else { &[] };
        prewrite_request("a", &[put(key, "1")], 5).async_commit(9, secondaries)
    }

    #[test]
    fn all_keys_locked_is_committed() {
        let mut db = Db::new();
        for key in ["a", "b", "c"] {
            db.run_prewrite(part(key)).ok();
        }
        let status = db.check(status("a", 5).now(ts(99_999)));
        assert_eq!((status.action(), status.async_commit_version), (Action::CheckTxnStatusNoAction, 9));
        assert_eq!(status.secondaries, [bytes("b"), bytes("c")], "nobody rolls it back for its age");
        let others = db.secondaries(&["b", "c"], 5, true);
        assert!(!others.broken && others.missing == 0 && others.commit_version == 0);
        db.resolve(&["b"], 5, 9).error.is_none().then_some(()).unwrap();
        assert_eq!(db.secondaries(&["b", "c"], 5, true).commit_version, 9, "who came first has found out");
        db.commit(&["a", "c"], 5, 9).ok();
        assert_eq!((db.value("a", 9), db.value("c", 9)), (Some("1".into()), Some("1".into())));
        db.check_invariants();
    }

    #[test]
    fn a_key_that_was_never_locked_is_waited_for_or_forbidden() {
        let mut db = Db::new();
        db.run_prewrite(part("a")).ok();
        db.run_prewrite(part("b")).ok();
        assert_eq!(db.secondaries(&["b", "c"], 5, false).missing, 1);
        db.run_prewrite(part("c")).ok();
        db.rollback(&["c"], 5).ok();
        assert!(db.secondaries(&["b", "c"], 5, false).broken, "rolled back there");
        let mut db = Db::new();
        db.run_prewrite(part("a")).ok();
        assert!(db.secondaries(&["b", "c"], 5, true).broken);
        assert!(!db.run_prewrite(part("c")).errors.is_empty(), "it comes too late");
        let dead = db.check(status("a", 5).now(ts(99_999)).not_async());
        assert_eq!(dead.action(), Action::CheckTxnStatusTtlExpireRollback);
    }

    #[test]
    fn a_plain_lock_leaves_the_decision_to_the_primary() {
        let mut db = Db::new();
        db.run_prewrite(part("a")).ok();
        db.prewrite("a", &[put("b", "1")], 5).ok();
        assert!(db.secondaries(&["b"], 5, false).broken);
        let pushed = db.check(status("a", 5).caller(20).not_async());
        assert_eq!(pushed.action(), Action::CheckTxnStatusMinCommitTsPushed);
        assert!(db.lock("a").unwrap().async_with.is_none());
        assert!(db.commit(&["a"], 5, 9).error.unwrap().commit_ts_expired.is_some());
        db.commit(&["a", "b"], 5, 21).ok();
        assert_eq!((db.value("a", 20), db.value("b", 21)), (None, Some("1".into())));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut db = Db::new();
        assert!(db.secondaries(&[], 5, true).error.is_some());
        assert!(db.secondaries(&[""], 5, true).error.is_some());
        assert!(db.secondaries(&["a"], 0, true).error.is_some());
    }
}
