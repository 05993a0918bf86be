//! Keeping a transaction alive: its primary's lock gets a longer life while its client is still at work.

use super::look::{self, Fate};
use super::{CF_LOCK, Reader, Result, Writes, key};
use nokv_proto::kv::v1::{TxnHeartBeatRequest, TxnHeartBeatResponse};

/// Raises the time to live of the primary's lock. A transaction that has none is told what became of it: a heartbeat
/// brings nothing back.
pub fn heartbeat(
    reader: &impl Reader,
    request: &TxnHeartBeatRequest,
    writes: &mut Writes,
) -> Result<TxnHeartBeatResponse> {
    let failed = |error| Ok(TxnHeartBeatResponse { error: Some(error), lock_ttl: 0 });
    let (user_key, start_ts) = (&request.primary_lock, request.start_version);
    if user_key.is_empty() || start_ts == 0 {
        return failed(look::abort("heartbeat of a transaction without primary key or start timestamp"));
    }
    let stored = key::stored(user_key);
    let Some(mut lock) = look::lock(reader, &stored)?.filter(|lock| lock.start_ts == start_ts) else {
        return failed(look::abort(match look::fate(reader, &stored, start_ts)? {
            Fate::Committed { .. } => "transaction already committed",
            Fate::RolledBack => "transaction already rolled back",
            Fate::Unknown => "lock not found",
        }));
    };
    if lock.primary != *user_key {
        let text = format!("{user_key:?} is not the primary key of transaction {start_ts}");
        return failed(look::abort(text));
    }
    if request.advise_lock_ttl > lock.ttl_ms {
        lock.ttl_ms = request.advise_lock_ttl;
        writes.probe("mvcc.lock.prolonged");
        writes.put(CF_LOCK, stored, lock.encode());
    }
    Ok(TxnHeartBeatResponse { error: None, lock_ttl: lock.ttl_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::testing::*;
    use nokv_proto::kv::v1::CheckTxnStatusAction as Action;

    fn beat(db: &mut Db, key: &str, start: u64, ttl: u64) -> TxnHeartBeatResponse {
        let request =
            TxnHeartBeatRequest { primary_lock: bytes(key), start_version: start, advise_lock_ttl: ttl };
        let mut writes = Writes::new();
        let response = heartbeat(&db.map, &request, &mut writes).unwrap();
        db.map.apply(writes);
        response
    }

    #[test]
    fn a_heartbeat_only_ever_prolongs() {
        let mut db = Db::new();
        let start = ts(1000);
        db.run_prewrite(prewrite_request("a", &[put("a", "1"), put("b", "1")], start).ttl(50));
        assert_eq!(beat(&mut db, "a", start, 500).lock_ttl, 500);
        assert_eq!(beat(&mut db, "a", start, 100).lock_ttl, 500, "one that was overtaken");
        let alive = db.check(status("a", start).now(ts(1400)));
        assert_eq!((alive.action(), alive.lock_ttl), (Action::CheckTxnStatusNoAction, 500));
        assert!(beat(&mut db, "b", start, 900).error.is_some(), "not the primary");
        let dead = db.check(status("a", start).now(ts(1500)));
        assert_eq!(dead.action(), Action::CheckTxnStatusTtlExpireRollback);
        assert!(beat(&mut db, "a", start, 9000).error.unwrap().abort.contains("rolled back"));
        assert!(db.lock("a").is_none(), "nothing comes back");
    }

    #[test]
    fn a_heartbeat_tells_what_became_of_the_transaction() {
        let mut db = Db::new();
        db.commit_put("a", "1", 5, 8);
        assert!(beat(&mut db, "a", 5, 100).error.unwrap().abort.contains("committed"));
        assert!(beat(&mut db, "a", 6, 100).error.unwrap().abort.contains("not found"));
        db.prewrite("a", &[put("a", "2")], 9).ok();
        assert!(beat(&mut db, "a", 6, 100).error.is_some() && db.lock("a").unwrap().ttl_ms < 10_000);
    }

    #[test]
    fn a_heartbeat_keeps_a_push() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1")], 5).ok();
        db.check(status("a", 5).caller(20));
        assert!(beat(&mut db, "a", 5, 90_000).error.is_none());
        assert_eq!(db.lock("a").unwrap().min_commit_ts, 21);
    }
}
