//! Committing: prewrite, decide, tell the rest.
//!
//! ```text
//! one region:      prewrite with a commit timestamp ─► committed, in one round trip
//!                                                  └► refused: locked, go on below
//! several regions: timestamp ─► prewrite all at once ─► committed, when all are locked for that timestamp
//!                                                    └► refused somewhere, or too many keys: locked, go on below
//!                  prewrite primary's region ─► prewrite the others ─► timestamp ─► commit primary ─► answer
//!                                                                             others follow in the background
//! ```
//!
//! A commit-capable message whose answer was lost leaves a *doubt*. While it stands, every refusal is checked
//! against the primary before it is believed, and running out of time means [`ClientError::OutcomeUnknown`].
//!
//! One that was answered with "not now" (not the leader, too busy) was *sent*: nothing came of it, but networks deliver
//! some messages twice, and the second one may find a store that can. So who runs out of time after that does not know
//! the outcome either. Refusals that no copy can get around are believed.

use crate::attempt::Attempt;
use crate::client::Shared;
use crate::error::{ClientError, Result};
use crate::retry::Wait;
use crate::stores::RegionRequest;
use crate::txn::resolve::Fate;
use bytes::Bytes;
use futures_util::future::{Either, join_all, select};
use nokv_env::{BoxFuture, ClockExt, Instant};
use nokv_proto::id::Timestamp;
use nokv_proto::kv::v1::{
    BatchRollbackRequest, CommitRequest, KeyError, Mutation, PrewriteRequest, TxnHeartBeatRequest,
};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Locks of a big transaction live longer: this much per MiB.
const TTL_PER_MIB: Duration = Duration::from_millis(500);

/// Most keys committed together with the primary, whose answer the caller waits for.
const KEYS_MAX: usize = 4096;

/// Most keys of an asynchronous commit, and most bytes of them: the primary's lock names them all.
const ASYNC_KEYS_MAX: usize = 256;
const ASYNC_BYTES_MAX: usize = 4096;

/// Shortest pause between two heartbeats.
const BEAT_MIN: Duration = Duration::from_millis(20);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One run of the commit protocol.
pub(crate) struct Commit {
    shared: Arc<Shared>,
    start: Timestamp,
    primary: Bytes,
    keys: Vec<Bytes>,
    /// Life of our locks; heartbeats make it longer.
    ttl_ms: AtomicU64,
    began: Instant,
    /// A message that may have committed us was sent and not answered.
    doubt: AtomicBool,
    /// One was sent and answered with "not now".
    sent: AtomicBool,
    /// Some lock of ours may exist.
    touched: AtomicBool,
    /// The unanswered one was a one-round-trip commit: its timestamp may not be the one asked for last.
    early_doubt: AtomicBool,
    /// Every key is to be locked for a commit at this timestamp; 0: commit in two phases.
    async_at: AtomicU64,
}

/// How the prewrite of one group ended.
enum Prewritten {
    /// Its keys are locked.
    Locked,
    /// Everything is committed already.
    Committed(Timestamp),
    /// The group no longer lies in one region.
    Moved(Vec<Mutation>),
}

impl Commit {
    /// Commits `mutations` (not empty, sorted by key, distinct) for the transaction that started at `start`.
    ///
    /// `early` is a commit timestamp drawn beforehand for the one-round-trip commit, if there is one.
    pub(crate) async fn run(
        shared: &Arc<Shared>,
        start: Timestamp,
        began: Instant,
        mutations: Vec<Mutation>,
        early: Option<Timestamp>,
        attempt: &mut Attempt<'_>,
    ) -> Result<Timestamp> {
        let keys: Vec<Bytes> = mutations.iter().map(|m| m.key.clone()).collect();
        let bytes: usize = mutations.iter().map(|m| m.key.len() + m.value.len()).sum();
        let age = shared.env.clock.now().since(began);
        let ttl = shared.config.lock_ttl + age + TTL_PER_MIB * u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let commit = Self {
            shared: shared.clone(),
            start,
            primary: keys[0].clone(),
            keys,
            ttl_ms: AtomicU64::new(millis(ttl)),
            began,
            doubt: AtomicBool::new(false),
            sent: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            early_doubt: AtomicBool::new(false),
            async_at: AtomicU64::new(0),
        };
        let mut asked = start;
        let ended = {
            let phases = pin!(commit.phases(mutations, early, &mut asked, attempt));
            match select(phases, pin!(commit.stay_alive())).await {
                Either::Left((ended, _)) => ended,
                Either::Right((never, _)) => match never {},
            }
        };
        match ended {
            Ok(commit_ts) => Ok(commit_ts),
            Err(error) if commit.in_doubt() || (commit.was_sent() && !is_final(&error)) => {
                Err(ClientError::OutcomeUnknown {
                    start_ts: start,
                    commit_ts: asked,
                    primary: commit.primary.clone(),
                    cause: match error {
                        ClientError::Timeout { cause, .. } => cause,
                        other => other.to_string(),
                    },
                })
            }
            Err(error) => {
                if commit.touched.load(Ordering::SeqCst) {
                    commit.roll_back_later().await;
                }
                Err(error)
            }
        }
    }

    async fn phases(
        &self,
        mutations: Vec<Mutation>,
        early: Option<Timestamp>,
        asked: &mut Timestamp,
        attempt: &mut Attempt<'_>,
    ) -> Result<Timestamp> {
        let shared = &self.shared;
        let groups = shared.group(mutations, shared.config.prewrite_bytes, attempt).await?;
        let one_round_trip = match (groups.len(), early) {
            (1, Some(early)) => Some(early),
            (1, None) => Some(shared.tso.get(shared, 1, attempt).await?),
            _ => None,
        };
        *asked = one_round_trip.unwrap_or(self.start);
        let tries_async = groups.len() > 1 && self.may_be_async();
        if tries_async {
            *asked = match early {
                Some(early) => early,
                None => shared.tso.get(shared, 1, attempt).await?,
            };
            self.async_at.store(asked.0, Ordering::SeqCst);
        }
        if let Some(committed) = self.prewrite_groups(groups, one_round_trip, attempt).await? {
            self.clear_doubt();
            return Ok(committed);
        }
        if tries_async {
            // Every group has answered, so nothing that is still on its way changes anything.
            self.clear_doubt();
            if self.async_at.load(Ordering::SeqCst) != 0 {
                shared.env.probe("client.async_commit");
                self.commit_rest_later(*asked, Vec::new()).await;
                return Ok(*asked);
            }
        }
        let (committed, done) = self.commit_primary(asked, attempt).await?;
        self.commit_rest_later(committed, done).await;
        Ok(committed)
    }

    /// Whether the primary's lock can name all other keys.
    fn may_be_async(&self) -> bool {
        let bytes: usize = self.keys.iter().map(Bytes::len).sum();
        self.shared.config.async_commit
            && self.keys.len() <= ASYNC_KEYS_MAX
            && bytes <= ASYNC_BYTES_MAX
            && !self.shared.env.chance("client.async_commit.never", 0.3)
    }

    /// Keeps the primary's lock alive while the phases last, for ever.
    async fn stay_alive(&self) -> Infallible {
        let shared = &self.shared;
        if shared.env.chance("client.heartbeat.never", 0.3) {
            return std::future::pending().await;
        }
        let pause = (shared.config.lock_ttl / 3).max(BEAT_MIN);
        loop {
            shared.env.clock.sleep(pause).await;
            if !self.touched.load(Ordering::SeqCst) {
                continue;
            }
            let ttl = millis(shared.env.clock.now().since(self.began) + shared.config.lock_ttl);
            let longest = self.ttl_ms.fetch_max(ttl, Ordering::SeqCst).max(ttl);
            let request = TxnHeartBeatRequest {
                primary_lock: self.primary.clone(),
                start_version: self.start.0,
                advise_lock_ttl: longest,
            };
            let mut attempt = Attempt::new(shared, "staying alive", pause * 2);
            match shared.call(&self.primary, &request, &mut attempt).await {
                Ok(reply) if reply.error.is_none() => shared.env.probe("client.heartbeat"),
                // The phases find out by themselves what became of the lock.
                Ok(reply) => {
                    tracing::debug!(start = self.start.0, error = ?reply.error, "no lock to prolong");
                }
                Err(error) => tracing::debug!(start = self.start.0, %error, "no heartbeat"),
            }
        }
    }

    /// Prewrites all groups, the primary's before the others. A timestamp when that committed them already.
    fn prewrite_groups<'a>(
        &'a self,
        mut groups: Vec<Vec<Mutation>>,
        one_round_trip: Option<Timestamp>,
        attempt: &'a mut Attempt<'_>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>>> {
        Box::pin(async move {
            let alone = groups.len() == 1 && groups[0].len() == self.keys.len();
            let one_round_trip = one_round_trip.filter(|_| alone);
            // Clients of others send all groups at the same time, and stores must bear it: a lock may be found, and
            // its transaction rolled back, before the primary's prewrite arrives.
            let is_async = self.async_at.load(Ordering::SeqCst) != 0;
            let at_once = is_async || self.shared.env.chance("client.prewrite.at_once", 0.3);
            let with_primary = groups.iter().position(|group| group.iter().any(|m| m.key == self.primary));
            if let Some(at) = with_primary.filter(|_| alone || !at_once) {
                let primary = groups.remove(at);
                if let Some(committed) = self.prewrite(primary, one_round_trip, alone, attempt).await? {
                    return Ok(Some(committed));
                }
            }
            let ended = join_all(groups.into_iter().map(|group| {
                let mut branch = attempt.branch();
                async move {
                    let ended = self.prewrite(group, None, false, &mut branch).await;
                    (ended, branch.cause().to_owned())
                }
            }))
            .await;
            let mut committed = None;
            for (ended, cause) in ended {
                attempt.note(cause);
                committed = committed.or(ended?);
            }
            Ok(committed)
        })
    }

    /// Prewrites what was one group when it was made; regroups it when regions have changed since.
    async fn prewrite(
        &self,
        group: Vec<Mutation>,
        one_round_trip: Option<Timestamp>,
        alone: bool,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<Timestamp>> {
        match self.prewrite_group(group, one_round_trip, alone, attempt).await? {
            Prewritten::Locked => Ok(None),
            Prewritten::Committed(at) => Ok(Some(at)),
            Prewritten::Moved(mutations) => {
                self.shared.env.probe("client.regroup");
                let groups = self.shared.group(mutations, self.shared.config.prewrite_bytes, attempt).await?;
                self.prewrite_groups(groups, one_round_trip, attempt).await
            }
        }
    }

    async fn prewrite_group(
        &self,
        group: Vec<Mutation>,
        one_round_trip: Option<Timestamp>,
        alone: bool,
        attempt: &mut Attempt<'_>,
    ) -> Result<Prewritten> {
        let shared = &self.shared;
        let async_at = self.async_at.load(Ordering::SeqCst);
        let is_async = async_at != 0;
        let has_primary = group.iter().any(|mutation| mutation.key == self.primary);
        let secondaries = if is_async && has_primary {
            self.keys.iter().filter(|key| **key != self.primary).cloned().collect()
        } else {
            Vec::new()
        };
        let request = PrewriteRequest {
            primary_lock: self.primary.clone(),
            start_version: self.start.0,
            lock_ttl: self.ttl_ms.load(Ordering::SeqCst),
            txn_size: self.keys.len() as u64,
            min_commit_ts: self.start.0 + 1,
            one_pc_commit_version: one_round_trip.unwrap_or_default().0,
            async_commit_version: async_at,
            secondaries,
            mutations: group,
        };
        let mut waiting_since: Option<Instant> = None;
        // A copy of this group that is still on its way may lock it.
        let mut lost = false;
        loop {
            let route = shared.route(&request.mutations[0].key, attempt).await?;
            if !request.mutations.iter().all(|m| route.covers(&m.key)) {
                return Ok(Prewritten::Moved(request.mutations));
            }
            (attempt.ambiguous, attempt.delivered) = (false, false);
            if is_async {
                // It may be the last one that was missing, whatever is answered: a copy may find the key free.
                self.sent.store(true, Ordering::SeqCst);
            }
            let reply = shared.try_call(&route, &request, attempt).await;
            lost |= attempt.ambiguous || attempt.delivered;
            if one_round_trip.is_some() && attempt.ambiguous {
                shared.env.probe("client.one_round_trip_in_doubt");
                self.doubt.store(true, Ordering::SeqCst);
            }
            if one_round_trip.is_some() && attempt.delivered {
                self.sent.store(true, Ordering::SeqCst);
                self.early_doubt.store(true, Ordering::SeqCst);
            }
            if attempt.ambiguous {
                self.touched.store(true, Ordering::SeqCst);
            }
            let reply = match reply {
                // A copy may come when there is room again.
                Err(full @ ClientError::DiskFull(_)) if self.was_sent() || self.in_doubt() => {
                    return match self.settle_now(attempt).await? {
                        Some(at) => Ok(Prewritten::Committed(at)),
                        None => Err(full),
                    };
                }
                reply => reply?,
            };
            let Some(reply) = reply else { continue };
            if reply.one_pc_commit_version != 0 {
                return Ok(Prewritten::Committed(Timestamp(reply.one_pc_commit_version)));
            }
            if reply.errors.is_empty() {
                self.touched.store(true, Ordering::SeqCst);
                if is_async && reply.async_commit_version != async_at {
                    // This lock stays what it is, so the transaction will never be committed without its primary's word.
                    shared.env.probe("client.async_commit_refused");
                    self.async_at.store(0, Ordering::SeqCst);
                }
                return Ok(Prewritten::Locked);
            }
            // What exists now may be gone when a copy comes.
            let exists = reply.errors.iter().any(|error| error.already_exists.is_some());
            let was_lost = if is_async { lost } else { self.in_doubt() };
            if was_lost || (self.was_sent() && exists) {
                if let Some(at) = self.settle_now(attempt).await? {
                    return Ok(Prewritten::Committed(at));
                }
                if !was_lost {
                    self.judge(reply.errors)?;
                }
                return Err(self.conflict(self.primary.clone(), "rolled back after a lost answer".into()));
            }
            match self.judge(reply.errors)? {
                Obstacle::Busy(cause) => attempt.pause(Wait::Backoff, cause).await?,
                Obstacle::Lock(lock) => {
                    let now = shared.env.clock.now();
                    let since = *waiting_since.get_or_insert(now);
                    if !alone && now.since(since) > shared.config.lock_wait {
                        shared.env.probe("client.deadlock_avoided");
                        if is_async && let Some(at) = self.settle_now(attempt).await? {
                            return Ok(Prewritten::Committed(at));
                        }
                        return Err(
                            self.conflict(lock.key, format!("locked by transaction {}", lock.lock_version))
                        );
                    }
                    shared.unlock_for_write(&lock, attempt).await?;
                }
            }
        }
    }

    /// Sees to it that nothing that is still on its way commits us; the timestamp, if it is too late for that.
    async fn settle_now(&self, attempt: &mut Attempt<'_>) -> Result<Option<Timestamp>> {
        self.doubt.store(true, Ordering::SeqCst);
        let fate = self.shared.settle(&self.primary, self.start, &self.ttl_ms, attempt).await?;
        self.clear_doubt();
        Ok(match fate {
            Fate::Committed(at) => Some(Timestamp(at)),
            _ => None,
        })
    }

    /// What stands in the way of a prewrite, or the error when it will not go away.
    fn judge(&self, errors: Vec<KeyError>) -> Result<Obstacle> {
        let mut obstacle = None;
        for error in errors {
            if let Some(conflict) = error.write_conflict {
                let reason = format!("written at {}", conflict.commit_ts);
                return Err(self.conflict(conflict.key, reason));
            }
            if let Some(below) = error.below_safe_point {
                return Err(ClientError::too_old(below));
            }
            if let Some(exists) = error.already_exists {
                return Err(ClientError::AlreadyExists { key: exists.key });
            }
            if !error.abort.is_empty() {
                return Err(self.conflict(self.primary.clone(), error.abort));
            }
            obstacle = match (error.locked, obstacle) {
                (Some(lock), _) => Some(Obstacle::Lock(lock)),
                (None, Some(known)) => Some(known),
                (None, None) if !error.retryable.is_empty() => Some(Obstacle::Busy(error.retryable)),
                (None, None) => Some(Obstacle::Busy("an error this client does not know".into())),
            };
        }
        obstacle.ok_or_else(|| ClientError::Protocol("a prewrite failed without a reason".into()))
    }

    /// Commits the primary and what lies beside it. Gives the timestamp and the keys that are done.
    async fn commit_primary(
        &self,
        asked: &mut Timestamp,
        attempt: &mut Attempt<'_>,
    ) -> Result<(Timestamp, Vec<Bytes>)> {
        let shared = &self.shared;
        *asked = shared.tso.get(shared, 1, attempt).await?;
        if shared.env.chance("client.commit.slow", 0.02) {
            let slow = attempt.share(2)?.min(shared.config.lock_ttl * 2);
            shared.env.clock.sleep(slow).await;
        }
        loop {
            let route = shared.route(&self.primary, attempt).await?;
            let beside = self.keys.iter().filter(|key| **key != self.primary && route.covers(key));
            let keys: Vec<Bytes> =
                std::iter::once(&self.primary).chain(beside).take(KEYS_MAX).cloned().collect();
            let request = CommitRequest { keys, start_version: self.start.0, commit_version: asked.0 };
            (attempt.ambiguous, attempt.delivered) = (false, false);
            let reply = shared.try_call(&route, &request, attempt).await;
            if attempt.ambiguous {
                shared.env.probe("client.commit_in_doubt");
                self.doubt.store(true, Ordering::SeqCst);
            }
            if attempt.delivered {
                self.sent.store(true, Ordering::SeqCst);
            }
            let Some(reply) = reply? else { continue };
            let Some(error) = reply.error else {
                let at = if self.early_doubt.load(Ordering::SeqCst) {
                    self.true_commit(*asked, attempt).await?
                } else {
                    *asked
                };
                self.clear_doubt();
                return Ok((at, request.keys));
            };
            if error.commit_ts_expired.is_some() {
                shared.env.probe("client.commit_ts_expired");
                *asked = shared.tso.get(shared, 1, attempt).await?;
            } else if !error.retryable.is_empty() {
                attempt.pause(Wait::Backoff, error.retryable).await?;
            } else {
                // The lock is not ours any more: somebody rolled us forward or back.
                return match shared.settle(&self.primary, self.start, &self.ttl_ms, attempt).await? {
                    Fate::Committed(at) => {
                        self.clear_doubt();
                        Ok((Timestamp(at), vec![self.primary.clone()]))
                    }
                    _ => {
                        self.clear_doubt();
                        Err(self.conflict(self.primary.clone(), "rolled back by another transaction".into()))
                    }
                };
            }
        }
    }

    /// The timestamp in the primary's record, when a one-round-trip commit may have written it before us.
    async fn true_commit(&self, asked: Timestamp, attempt: &mut Attempt<'_>) -> Result<Timestamp> {
        match self.shared.settle(&self.primary, self.start, &self.ttl_ms, attempt).await? {
            Fate::Committed(at) => Ok(Timestamp(at)),
            _ => Err(ClientError::Protocol(format!(
                "transaction {} was committed at {asked}, then was not",
                self.start
            ))),
        }
    }

    async fn commit_rest_later(&self, commit: Timestamp, done: Vec<Bytes>) {
        let done: BTreeSet<Bytes> = done.into_iter().collect();
        let keys: Vec<Bytes> = self.keys.iter().filter(|key| !done.contains(*key)).cloned().collect();
        if keys.is_empty() || self.shared.env.chance("client.skip_secondary_commits", 0.05) {
            return;
        }
        let (shared, start) = (self.shared.clone(), self.start.0);
        let job = async move {
            let mut attempt = Attempt::new(&shared, "committing secondary keys", shared.config.deadline);
            let make = |keys| CommitRequest { keys, start_version: start, commit_version: commit.0 };
            match shared.spread(keys, make, &mut attempt).await {
                Ok(replies) => {
                    for error in replies.into_iter().filter_map(|reply| reply.error) {
                        tracing::debug!(
                            start,
                            ?error,
                            "a secondary commit was refused; readers will finish it"
                        );
                    }
                }
                Err(error) => tracing::debug!(start, %error, "secondary commits are left to readers"),
            }
        };
        self.shared.background.run(&self.shared.env, "client-commit", job).await;
    }

    async fn roll_back_later(&self) {
        let (shared, start, keys) = (self.shared.clone(), self.start.0, self.keys.clone());
        let job = async move {
            let mut attempt = Attempt::new(&shared, "rolling back", shared.config.deadline);
            let make = |keys| BatchRollbackRequest { keys, start_version: start };
            if let Err(error) = shared.spread(keys, make, &mut attempt).await {
                tracing::debug!(start, %error, "the rollback is left to readers");
            }
        };
        self.shared.background.run(&self.shared.env, "client-rollback", job).await;
    }

    fn conflict(&self, key: Bytes, reason: String) -> ClientError {
        ClientError::Conflict { start_ts: self.start, key, reason }
    }

    fn in_doubt(&self) -> bool {
        self.doubt.load(Ordering::SeqCst)
    }

    fn was_sent(&self) -> bool {
        self.sent.load(Ordering::SeqCst)
    }

    fn clear_doubt(&self) {
        self.doubt.store(false, Ordering::SeqCst);
        self.sent.store(false, Ordering::SeqCst);
    }
}

/// Whether a transaction that ended so is not committed and never will be, whatever arrives later. One that has become too old
/// may have been committed before that.
fn is_final(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Conflict { .. } | ClientError::AlreadyExists { .. } | ClientError::DiskFull(_)
    )
}

/// Why a prewrite has to be tried again.
enum Obstacle {
    /// The store asks for patience.
    Busy(String),
    /// Another transaction's lock.
    Lock(nokv_proto::kv::v1::Locked),
}

impl Shared {
    /// Sends one request per region that has some of `keys`; follows regions that change meanwhile.
    pub(crate) async fn spread<R: RegionRequest>(
        &self,
        keys: Vec<Bytes>,
        make: impl Fn(Vec<Bytes>) -> R,
        attempt: &mut Attempt<'_>,
    ) -> Result<Vec<R::Response>> {
        let mut work = self.group(keys, self.config.prewrite_bytes, attempt).await?;
        let mut replies = Vec::new();
        while let Some(group) = work.pop() {
            let route = self.route(&group[0], attempt).await?;
            if !group.iter().all(|key| route.covers(key)) {
                work.extend(self.group(group, self.config.prewrite_bytes, attempt).await?);
                continue;
            }
            match self.try_call(&route, &make(group.clone()), attempt).await? {
                Some(reply) => replies.push(reply),
                None => work.push(group),
            }
        }
        Ok(replies)
    }
}
