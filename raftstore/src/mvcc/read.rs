//! Point reads: the newest value committed at or below a timestamp, unless a lock hides what will be.

use super::look;
use super::record::{Kind, Lock};
use super::{Reader, Result, key};
use nokv_proto::id::Timestamp;
use nokv_proto::kv::v1::{GetRequest, GetResponse};

/// What a read may see.
pub(super) struct View<'a> {
    /// Highest commit timestamp in sight.
    pub(super) ts: u64,
    /// Reads whatever is newest rather than one instant.
    newest: bool,
    bypass: &'a [u64],
    /// Clock that values expire by, in unix seconds.
    now_seconds: u64,
}

impl<'a> View<'a> {
    /// `version` 0 (and the largest) is the newest state; its values expire by the wall clock, those of an instant
    /// by that instant, so that every replica at any time gives the same answer.
    pub(super) fn new(version: u64, bypass: &'a [u64], wall_ms: u64) -> Self {
        let newest = version == 0 || version == u64::MAX;
        let (ts, now_ms) =
            if newest { (u64::MAX, wall_ms) } else { (version, Timestamp(version).physical_ms()) };
        Self { ts, newest, bypass, now_seconds: now_ms / 1000 }
    }

    /// Whether the owner of `lock` may have committed, or may yet commit, something that this view should show.
    pub(super) fn blocked_by(&self, lock: &Lock, user_key: &[u8]) -> bool {
        if lock.kind == Kind::Lock || lock.start_ts > self.ts || self.bypass.contains(&lock.start_ts) {
            return false;
        }
        if lock.async_with.is_some() {
            // It is committed as soon as all its keys are locked, at just this timestamp; or later, in two phases.
            return lock.min_commit_ts <= self.ts;
        }
        // While the primary's own lock stands its owner is not committed anywhere, and it will not be below
        // `min_commit_ts`. A lock elsewhere proves neither.
        let is_primary = lock.primary == *user_key;
        !(is_primary && (self.newest || lock.min_commit_ts > self.ts))
    }

    pub(super) fn hides(&self, expires_at: u64) -> bool {
        look::expired(expires_at, self.now_seconds)
    }
}

/// Reads one key. `wall_ms` is the wall clock, by which values expire when the newest state is read.
pub fn get(reader: &impl Reader, request: &GetRequest, wall_ms: u64) -> Result<GetResponse> {
    let view = View::new(request.version, &request.bypass_locks, wall_ms);
    let stored = key::stored(&request.key);
    if let Some(lock) = look::lock(reader, &stored)?
        && view.blocked_by(&lock, &request.key)
    {
        let error = Some(look::locked(&request.key, &lock));
        return Ok(GetResponse { error, ..Default::default() });
    }
    let found = look::newest_change(reader, &stored, view.ts)?
        .filter(|(_, write)| write.kind == Kind::Put && !view.hides(write.expires_at));
    let Some((commit_ts, write)) = found else {
        return Ok(GetResponse { not_found: true, ..Default::default() });
    };
    Ok(GetResponse {
        value: look::value_of(reader, &stored, &write)?,
        expires_at: write.expires_at,
        commit_version: commit_ts,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use crate::mvcc::testing::*;

    #[test]
    fn reads_see_their_instant() {
        let mut db = Db::new();
        db.commit_put("a", "1", 5, 8);
        db.commit_put("a", "2", 10, 12);
        db.prewrite("a", &[delete("a")], 15).ok();
        db.commit(&["a"], 15, 20).ok();
        let seen: Vec<_> = [7, 8, 11, 12, 19, 20].map(|ts| db.value("a", ts)).into();
        let s = |v: &str| Some(v.to_owned());
        assert_eq!(seen, [None, s("1"), s("1"), s("2"), s("2"), None]);
        assert_eq!(db.get("a", 11).commit_version, 8);
    }

    #[test]
    fn rollback_and_lock_records_hide_nothing() {
        let mut db = Db::new();
        db.commit_put("a", "1", 5, 8);
        db.rollback(&["a"], 10).ok();
        db.prewrite("a", &[lock_only("a")], 11).ok();
        assert_eq!(db.value("a", 15), Some("1".into()), "a lock that changes nothing blocks no reader");
        db.commit(&["a"], 11, 12).ok();
        assert_eq!(db.value("a", 15), Some("1".into()));
        assert_eq!(db.value("a", 0), Some("1".into()));
    }

    #[test]
    fn locks_at_or_below_the_instant_block() {
        let mut db = Db::new();
        db.prewrite("p", &[put("a", "1")], 5).ok();
        assert!(db.get("a", 4).not_found);
        assert_eq!(db.get("a", 5).error.unwrap().locked.unwrap().lock_version, 5);
        assert!(db.get_bypassing("a", 5, &[5]).not_found);
        assert!(db.get("a", 0).error.is_some(), "the owner may be committed at its primary");
    }

    #[test]
    fn a_lock_of_an_asynchronous_commit_blocks_from_its_timestamp_on() {
        let mut db = Db::new();
        db.run_prewrite(prewrite_request("a", &[put("a", "1")], 5).async_commit(9, &["b"])).ok();
        db.run_prewrite(prewrite_request("a", &[put("b", "1")], 5).async_commit(9, &[])).ok();
        for key in ["a", "b"] {
            assert!(db.get(key, 8).not_found, "it will not be committed below its timestamp");
            assert!(db.get(key, 9).error.is_some() && db.get(key, 0).error.is_some(), "it may be committed");
            assert!(db.get_bypassing(key, 9, &[5]).not_found);
        }
    }

    #[test]
    fn a_primary_lock_lets_readers_below_its_commit_pass() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1"), put("b", "1")], 5).ok();
        assert!(db.get("a", 0).not_found, "newest: the transaction is not committed");
        assert!(db.get("a", 20).error.is_some());
        db.check(status("a", 5).caller(20));
        assert!(db.get("a", 20).not_found);
        assert!(db.get("b", 20).error.is_some(), "only the primary is pushed");
        assert!(db.get("a", 21).error.is_some());
    }

    #[test]
    fn values_expire_by_the_instant_or_the_wall_clock() {
        let mut db = Db::new();
        db.prewrite("a", &[put("a", "1").expires(100)], ts(1000)).ok();
        db.commit(&["a"], ts(1000), ts(1001)).ok();
        assert_eq!(db.value("a", ts(99_999)), Some("1".into()));
        assert_eq!(db.value("a", ts(100_000)), None);
        db.wall_ms = 99_999;
        assert_eq!(db.value("a", 0), Some("1".into()));
        db.wall_ms = 100_000;
        assert_eq!(db.value("a", 0), None);
    }
}
