//! Somebody else's lock: is its transaction committed, dead, or alive?
//!
//! The primary key knows. A reader that finds the transaction alive has, by asking, pushed its commit above the
//! read timestamp, and may read past the lock. A writer has to wait until the transaction ends or expires.
//!
//! The primary of an asynchronous commit does not know by itself: the transaction is committed once all its keys are
//! locked. So the others are asked, and if one of them is not locked and never will be, the primary decides again.

use crate::attempt::Attempt;
use crate::client::Shared;
use crate::error::{ClientError, Result};
use crate::retry::Wait;
use nokv_env::TasksExt;
use nokv_proto::id::Timestamp;
use nokv_proto::kv::v1::{
    CheckSecondaryLocksRequest, CheckTxnStatusAction, CheckTxnStatusRequest, CheckTxnStatusResponse, Locked,
    ResolveLockRequest,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the primary says about a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Committed at this timestamp.
    Committed(u64),
    /// Rolled back, for good.
    RolledBack,
    /// Holds its primary lock, which has not expired.
    Alive,
    /// No trace at the primary yet; nothing was decided.
    Unknown,
    /// An asynchronous commit that lacks some locks yet; its timestamp is settled.
    Locking,
}

/// How a status reply reads. Pure.
fn fate(reply: &CheckTxnStatusResponse) -> Fate {
    if reply.commit_version != 0 {
        return Fate::Committed(reply.commit_version);
    }
    match reply.action() {
        CheckTxnStatusAction::CheckTxnStatusTtlExpireRollback
        | CheckTxnStatusAction::CheckTxnStatusLockNotExistRollback => Fate::RolledBack,
        CheckTxnStatusAction::CheckTxnStatusMinCommitTsPushed => Fate::Alive,
        CheckTxnStatusAction::CheckTxnStatusNoAction if reply.lock_ttl != 0 => Fate::Alive,
        CheckTxnStatusAction::CheckTxnStatusNoAction => Fate::Unknown,
    }
}

impl Shared {
    /// Asks the primary of `lock`. With `reader` (a read timestamp, 0 for none), a transaction that is alive can
    /// from then on only commit above it.
    async fn fate_of(
        self: &Arc<Self>,
        lock: &Locked,
        reader: u64,
        attempt: &mut Attempt<'_>,
    ) -> Result<Fate> {
        let now = self.tso.get(self, 1, attempt).await?;
        let expires_ms = Timestamp(lock.lock_version).physical_ms().saturating_add(lock.lock_ttl);
        // Clients that know nothing of asynchronous commits live on what the store says.
        let knows_async = !self.env.chance("client.async_commit.unheard_of", 0.1);
        let mut request = CheckTxnStatusRequest {
            primary_key: lock.primary_lock.clone(),
            lock_ts: lock.lock_version,
            current_ts: now.0,
            rollback_if_not_exist: now.physical_ms() >= expires_ms,
            caller_start_ts: reader,
            current_time: self.env.clock.unix_millis(),
            knows_async,
            not_async: false,
        };
        let reply = self.call(&lock.primary_lock, &request, attempt).await?;
        match &reply.error {
            None if knows_async && reply.async_commit_version != 0 => {
                let expires_ms = Timestamp(lock.lock_version).physical_ms().saturating_add(reply.lock_ttl);
                self.fate_by_secondaries(&reply, &mut request, now.physical_ms() >= expires_ms, attempt).await
            }
            None => Ok(fate(&reply)),
            // The primary key is held by another transaction, or a leader change is on: nothing decided.
            Some(error) => {
                attempt.note(format!("status of transaction {}: {error:?}", lock.lock_version));
                Ok(Fate::Unknown)
            }
        }
    }

    /// What became of an asynchronous commit whose primary has answered `request` with `reply`. With `expired`, keys that are
    /// not locked yet never will be.
    async fn fate_by_secondaries(
        self: &Arc<Self>,
        reply: &CheckTxnStatusResponse,
        request: &mut CheckTxnStatusRequest,
        expired: bool,
        attempt: &mut Attempt<'_>,
    ) -> Result<Fate> {
        let start_version = request.lock_ts;
        let make = |keys| CheckSecondaryLocksRequest { keys, start_version, rollback_missing: expired };
        let replies = self.spread(reply.secondaries.clone(), make, attempt).await?;
        if let Some(at) = replies.iter().map(|reply| reply.commit_version).find(|at| *at != 0) {
            return Ok(Fate::Committed(at));
        }
        if let Some(error) = replies.iter().find_map(|reply| reply.error.as_ref()) {
            attempt.note(format!("secondary keys of transaction {start_version}: {error:?}"));
            return Ok(Fate::Unknown);
        }
        if replies.iter().any(|reply| reply.broken) {
            self.env.probe("client.async_commit_broken");
            request.not_async = true;
            let reply = self.call(&request.primary_key, &*request, attempt).await?;
            return Ok(if reply.error.is_none() { fate(&reply) } else { Fate::Unknown });
        }
        if replies.iter().any(|reply| reply.missing != 0) {
            return Ok(Fate::Locking);
        }
        self.env.probe("client.async_commit_found");
        Ok(Fate::Committed(reply.async_commit_version))
    }

    /// The final fate of our own transaction after an answer was lost. Whatever of it is not committed by now
    /// is rolled back by the question.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        primary: &bytes::Bytes,
        start: Timestamp,
        ttl_ms: &AtomicU64,
        attempt: &mut Attempt<'_>,
    ) -> Result<Fate> {
        let mut request = CheckTxnStatusRequest {
            primary_key: primary.clone(),
            lock_ts: start.0,
            current_ts: 0,
            rollback_if_not_exist: true,
            caller_start_ts: 0,
            current_time: self.env.clock.unix_millis(),
            knows_async: true,
            not_async: false,
        };
        loop {
            request.not_async = false;
            // A heartbeat that is still on its way may prolong the lock's life up to this.
            let expires_ms = start.physical_ms() + ttl_ms.load(Ordering::SeqCst) + 1;
            request.current_ts = Timestamp::compose(expires_ms, 0).0;
            let reply = self.call(primary, &request, attempt).await?;
            if reply.error.is_none() && reply.async_commit_version != 0 {
                match self.fate_by_secondaries(&reply, &mut request, true, attempt).await? {
                    ended @ (Fate::Committed(_) | Fate::RolledBack) => return Ok(ended),
                    _ => attempt.pause(Wait::Backoff, "the transaction's own status is undecided").await?,
                }
                continue;
            }
            match &reply.error {
                None if matches!(fate(&reply), Fate::Committed(_) | Fate::RolledBack) => {
                    return Ok(fate(&reply));
                }
                None => attempt.pause(Wait::Backoff, "the transaction's own status is undecided").await?,
                Some(error) if error.below_safe_point.is_some() => {
                    return Err(ClientError::too_old(error.below_safe_point.unwrap_or_default()));
                }
                Some(error) => match &error.locked {
                    // Somebody else's lock on the primary key can hide the record of ours on an old store.
                    Some(lock) if lock.lock_version != start.0 => {
                        self.unlock_for_write(lock, attempt).await?;
                    }
                    _ => attempt.pause(Wait::Backoff, format!("own status: {error:?}")).await?,
                },
            }
        }
    }

    /// Makes way for a read at `version`: afterwards the lock is gone, or its owner is in `bypass`.
    pub(crate) async fn unlock_for_read(
        self: &Arc<Self>,
        lock: &Locked,
        version: u64,
        bypass: &mut BTreeSet<u64>,
        attempt: &mut Attempt<'_>,
    ) -> Result<()> {
        match self.fate_of(lock, version, attempt).await? {
            Fate::Alive => {
                self.env.probe("client.read_past_lock");
                bypass.insert(lock.lock_version);
                Ok(())
            }
            Fate::Committed(commit) if commit > version => {
                bypass.insert(lock.lock_version);
                self.release_later(lock.clone(), commit);
                Ok(())
            }
            Fate::Committed(commit) => self.release(lock, commit, attempt).await,
            Fate::RolledBack => self.release(lock, 0, attempt).await,
            // Not committed when we asked, so the newest state is without it; a timestamp above its own needs an answer.
            Fate::Locking if version == 0 || version == u64::MAX => {
                bypass.insert(lock.lock_version);
                Ok(())
            }
            Fate::Unknown | Fate::Locking => attempt.pause(Wait::Backoff, lock_cause(lock)).await,
        }
    }

    /// Makes way for a write: afterwards the lock is gone, or a pause has been made.
    pub(crate) async fn unlock_for_write(
        self: &Arc<Self>,
        lock: &Locked,
        attempt: &mut Attempt<'_>,
    ) -> Result<()> {
        let fate = self.fate_of(lock, 0, attempt).await?;
        match fate {
            Fate::Committed(commit) => self.release(lock, commit, attempt).await,
            Fate::RolledBack => self.release(lock, 0, attempt).await,
            Fate::Alive | Fate::Unknown | Fate::Locking => {
                attempt.pause(Wait::Backoff, lock_cause(lock)).await
            }
        }
    }

    /// Carries the primary's decision to the locked key. `commit` 0 rolls back.
    async fn release(&self, lock: &Locked, commit: u64, attempt: &mut Attempt<'_>) -> Result<()> {
        self.env.probe(if commit == 0 { "client.roll_back_others" } else { "client.roll_forward_others" });
        let request = ResolveLockRequest {
            start_version: lock.lock_version,
            commit_version: commit,
            keys: vec![lock.key.clone()],
        };
        let reply = self.call(&lock.key, &request, attempt).await?;
        match reply.error {
            None => Ok(()),
            Some(error) if !error.retryable.is_empty() => attempt.pause(Wait::Backoff, error.retryable).await,
            Some(error) => Err(ClientError::Protocol(format!("resolving a lock failed: {error:?}"))),
        }
    }

    fn release_later(self: &Arc<Self>, lock: Locked, commit: u64) {
        let shared = self.clone();
        self.env.tasks.go("client-release-lock", async move {
            let mut attempt = Attempt::new(&shared, "releasing a lock", shared.config.deadline);
            if let Err(error) = shared.release(&lock, commit, &mut attempt).await {
                tracing::debug!(%error, "a lock was left for the next reader");
            }
        });
    }
}

fn lock_cause(lock: &Locked) -> String {
    format!("key {:?} is locked by transaction {}", lock.key, lock.lock_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(action: CheckTxnStatusAction, ttl: u64, commit: u64) -> CheckTxnStatusResponse {
        let mut reply =
            CheckTxnStatusResponse { lock_ttl: ttl, commit_version: commit, ..Default::default() };
        reply.set_action(action);
        reply
    }

    #[test]
    fn the_primary_decides() {
        use CheckTxnStatusAction as A;
        assert_eq!(fate(&reply(A::CheckTxnStatusNoAction, 0, 77)), Fate::Committed(77));
        assert_eq!(fate(&reply(A::CheckTxnStatusTtlExpireRollback, 0, 0)), Fate::RolledBack);
        assert_eq!(fate(&reply(A::CheckTxnStatusLockNotExistRollback, 0, 0)), Fate::RolledBack);
        assert_eq!(fate(&reply(A::CheckTxnStatusMinCommitTsPushed, 3000, 0)), Fate::Alive);
        assert_eq!(fate(&reply(A::CheckTxnStatusNoAction, 3000, 0)), Fate::Alive);
        assert_eq!(fate(&reply(A::CheckTxnStatusNoAction, 0, 0)), Fate::Unknown);
    }
}
