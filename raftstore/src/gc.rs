//! Removing old versions, so that every replica removes the same ones and no transaction is misjudged for it.
//!
//! The coordinators name a *target*, later the *safe point*; the leader of a region brings the region there:
//!
//! ```text
//! target T      entry "fence T"      from here on the region refuses transactions that began below T
//!               locks below T        each is resolved at its primary, wherever that is; live ones are waited for
//!               heartbeat            "nothing below T has a lock here, or ever will": true for ever, of these keys
//! all keys are covered by such words: the coordinator commits T as the safe point, at the meta-root
//! safe point S  entries "remove"     keys with garbage that the leader found; applied, they are judged again
//! ```
//!
//! Locks go first, everywhere, because a lock in one region may be decided by a record in another. The log removes, not
//! each store for itself: replicas stay equal row by row, and what a replica removed it knows by its own state, so it
//! refuses reads from below (`Gc::safe_point`, checked after the engine's snapshot is taken). The engine's compaction then
//! gives the space back.

use crate::catalog::Gc;
use crate::machine::{Proposal, Reply};
use crate::mvcc::{self, OldLock, Writes};
use crate::region::Region;
use crate::store::Shared;
use bytes::Bytes;
use futures_util::future::select;
use nokv_engine::Pressure;
use nokv_env::ClockExt;
use nokv_proto::coordinator::v1::{Freshness, GetRegionByKeyRequest, TsoRequest};
use nokv_proto::error::v1::RegionError;
use nokv_proto::id::Timestamp;
use nokv_proto::kv::v1::no_kv_client::NoKvClient;
use nokv_proto::kv::v1::{
    CheckSecondaryLocksRequest, CheckTxnStatusAction, CheckTxnStatusRequest, CheckTxnStatusResponse, Context,
    GcRequest, GcResponse, KeyError, KvCheckSecondaryLocksRequest, KvCheckTxnStatusRequest,
    ResolveLockRequest,
};
use nokv_proto::raft::v1::request::Cmd;
use nokv_proto::raft::v1::response;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Pause after a round that did not get everywhere.
const RETRY: Duration = Duration::from_millis(500);
/// Locks that are resolved between two looks.
const LOCKS_AT_ONCE: usize = 256;
/// Keys that one entry takes garbage from.
const KEYS_AT_ONCE: usize = 32;

/// What this store has heard from the coordinators.
#[derive(Default)]
pub(crate) struct Points {
    target: AtomicU64,
    safe_point: AtomicU64,
}

impl Points {
    /// Takes note of a heartbeat's answer. Whether it said something new.
    pub(crate) fn learn(&self, target: u64, safe_point: u64) -> bool {
        let before = self.target.fetch_max(target, Ordering::SeqCst);
        let known = self.safe_point.fetch_max(safe_point, Ordering::SeqCst);
        before < target || known < safe_point
    }

    pub(crate) fn target(&self) -> u64 {
        self.target.load(Ordering::SeqCst)
    }

    /// The safe point that the meta-root has committed, as far as this store knows.
    pub(crate) fn safe_point(&self) -> u64 {
        self.safe_point.load(Ordering::SeqCst)
    }
}

/// How far this store has brought a region. Each number is of one version of the region's range, and true of it for ever.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Swept {
    /// (version, timestamp): no transaction that began below has a lock, or ever will.
    resolved: (u64, u64),
    /// (version, safe point): all garbage below is gone.
    collected: (u64, u64),
}

impl Swept {
    /// What a heartbeat may say of the region at this version.
    pub(crate) fn resolved(&self, version: u64) -> u64 {
        if self.resolved.0 == version { self.resolved.1 } else { 0 }
    }

    /// Whether no garbage below `safe_point` is left at this version.
    pub(crate) fn is_rid_of(&self, version: u64, safe_point: u64) -> bool {
        self.collected.0 == version && self.collected.1 >= safe_point
    }
}

/// The region's state after `request`.
pub(crate) fn after(gc: Gc, request: &GcRequest) -> Gc {
    let safe_point = if request.safe_point <= gc.fence { request.safe_point } else { 0 };
    Gc { fence: gc.fence.max(request.fence), safe_point: gc.safe_point.max(safe_point) }
}

/// Evaluates `request` in a region whose state before it is `gc`.
pub(crate) fn collect(
    reader: &impl mvcc::Reader,
    gc: Gc,
    request: &GcRequest,
    writes: &mut Writes,
) -> mvcc::Result<GcResponse> {
    let mut response = GcResponse::default();
    if request.safe_point > gc.fence {
        writes.probe("store.gc.refused");
        response.refused = true;
        return Ok(response);
    }
    for key in &request.keys {
        let (removed, more) = mvcc::collect(reader, key, request.safe_point, writes)?;
        response.removed += removed;
        response.more |= more;
    }
    Ok(response)
}

/// Brings the regions that this store leads to where the coordinators want them, for ever.
pub(crate) async fn run(shared: &Shared) {
    loop {
        let mut behind = false;
        for region in shared.door.regions.all() {
            let state = region.state();
            if !state.is_hosted() || !state.role.is_leader {
                continue;
            }
            if let Err(why) = tend(shared, &region).await {
                tracing::debug!(region = region.id, why, "old versions stay for now");
                behind = true;
            }
        }
        if behind {
            select(pin!(shared.bells.gc.notified()), shared.env.clock.sleep(RETRY)).await;
        } else {
            shared.bells.gc.notified().await;
        }
    }
}

pub(crate) async fn tend(shared: &Shared, region: &Arc<Region>) -> Result<(), String> {
    let (target, safe_point) = (shared.points.target(), shared.points.safe_point());
    if region.gc().fence < target {
        propose_gc(shared, region, GcRequest { fence: target, ..Default::default() }).await?;
        shared.env.probe("store.gc.fenced");
    }
    sweep(shared, region, safe_point).await?;
    resolve(shared, region, target).await
}

/// Whether what a snapshot of the engine shows is the region's. Once its peer has left, rows go; the region tells first.
pub(crate) fn still_here(region: &Region, version: u64) -> Result<(), String> {
    let now = region.state();
    if now.is_hosted() && now.descriptor.epoch_pair().0 == version {
        return Ok(());
    }
    Err("the region has changed".to_owned())
}

/// Rids the region of locks of transactions that began below `target`.
async fn resolve(shared: &Shared, region: &Arc<Region>, target: u64) -> Result<(), String> {
    loop {
        let descriptor = region.descriptor();
        let version = descriptor.epoch_pair().0;
        if region.swept().resolved(version) >= target {
            return Ok(());
        }
        if region.gc().fence < target {
            return Err("the region is not fenced".to_owned());
        }
        let snapshot = shared.db.snapshot();
        still_here(region, version)?;
        let locks = mvcc::locks_below(&snapshot, &descriptor.range(), target, LOCKS_AT_ONCE)
            .map_err(|error| error.to_string())?;
        drop(snapshot);
        if locks.is_empty() {
            region.swept().resolved = (version, target);
            shared.bells.report();
            return Ok(());
        }
        let mut transactions: BTreeMap<(u64, Bytes), Vec<OldLock>> = BTreeMap::new();
        for lock in locks {
            transactions.entry((lock.start_ts, lock.primary.clone())).or_default().push(lock);
        }
        for locks in transactions.into_values() {
            let Some(commit_version) = fate(shared, &locks[0]).await? else {
                shared.env.probe("store.gc.waits_for_transaction");
                return Err(format!("transaction {} is alive", locks[0].start_ts));
            };
            let start_version = locks[0].start_ts;
            let keys = locks.into_iter().map(|lock| lock.key).collect();
            let request = ResolveLockRequest { start_version, commit_version, keys };
            match propose(shared, region, Cmd::ResolveLock(request)).await? {
                response::Cmd::ResolveLock(reply) if reply.error.is_none() => {
                    shared.env.probe("store.gc.lock_resolved");
                }
                other => return Err(format!("resolving a lock: {other:?}")),
            }
        }
    }
}

/// Removes the region's garbage below `safe_point`.
async fn sweep(shared: &Shared, region: &Arc<Region>, safe_point: u64) -> Result<(), String> {
    let descriptor = region.descriptor();
    let version = descriptor.epoch_pair().0;
    if safe_point == 0 || region.swept().is_rid_of(version, safe_point) {
        return Ok(());
    }
    let mut from = Bytes::new();
    loop {
        if shared.db.pressure() == Pressure::Stop {
            return Err("the engine is behind with its background work".to_owned());
        }
        let limit = if shared.env.chance("store.gc.small_page", 0.2) { 1 } else { KEYS_AT_ONCE };
        let snapshot = shared.db.snapshot();
        still_here(region, version)?;
        let (keys, next) = mvcc::garbage(&snapshot, &descriptor.range(), &from, safe_point, limit)
            .map_err(|error| error.to_string())?;
        drop(snapshot);
        shared.env.tasks.yield_now().await;
        let mut more = false;
        if !keys.is_empty() {
            let reply = propose_gc(shared, region, GcRequest { fence: 0, safe_point, keys }).await?;
            if reply.refused {
                return Err("the safe point is above the region's fence".to_owned());
            }
            more = reply.more;
        }
        match next {
            _ if more => {}
            Some(next) => from = next,
            None => break,
        }
    }
    region.swept().collected = (version, safe_point);
    shared.env.probe("store.gc.collected");
    Ok(())
}

async fn propose_gc(shared: &Shared, region: &Arc<Region>, request: GcRequest) -> Result<GcResponse, String> {
    match propose(shared, region, Cmd::Gc(request)).await? {
        response::Cmd::Gc(reply) => Ok(reply),
        other => Err(format!("garbage collection was answered with {other:?}")),
    }
}

async fn propose(shared: &Shared, region: &Arc<Region>, cmd: Cmd) -> Result<response::Cmd, String> {
    let epoch = region.descriptor().epoch.ok_or("the region has no epoch")?;
    let proposal = shared.raft.propose(region.group(), Proposal::Data { epoch, cmd });
    match shared.env.clock.timeout(shared.config.command_timeout, proposal).await {
        Ok(Ok(Reply::Outcome(Ok(response)))) => Ok(*response),
        Ok(Ok(other)) => Err(format!("refused: {other:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("not done in time".to_owned()),
    }
}

/// Answers for an asynchronous commit to a client that has never heard of such: what the other keys say of it.
pub(crate) async fn speak_for_secondaries(
    shared: &Shared,
    primary_key: Bytes,
    start_ts: u64,
    reply: &mut CheckTxnStatusResponse,
) {
    let primary = primary_key.clone();
    let lock = OldLock { key: primary_key, primary, start_ts, ttl_ms: reply.lock_ttl };
    let fate = fate(shared, &lock).await;
    *reply = CheckTxnStatusResponse::default();
    match fate {
        Ok(Some(0)) => reply.set_action(CheckTxnStatusAction::CheckTxnStatusTtlExpireRollback),
        Ok(Some(at)) => reply.commit_version = at,
        // To call it alive would let readers pass who have not pushed it, and cannot.
        undecided => {
            let why = undecided.err().unwrap_or_else(|| "it lacks some locks yet".to_owned());
            let retryable = format!("asynchronous commit of transaction {start_ts}: {why}");
            reply.error = Some(KeyError { retryable, ..Default::default() });
        }
    }
    shared.env.probe("store.async_commit.spoken_for");
}

/// What became of a lock's transaction: its commit timestamp, 0 when it is rolled back, `None` while it is alive.
async fn fate(shared: &Shared, lock: &OldLock) -> Result<Option<u64>, String> {
    let now = shared
        .coordinators
        .first(|mut client| async move { client.tso(TsoRequest { count: 1 }).await })
        .await
        .map_err(|error| error.to_string())?
        .timestamp;
    let expires_ms = Timestamp(lock.start_ts).physical_ms().saturating_add(lock.ttl_ms);
    let expired = Timestamp(now).physical_ms() >= expires_ms;
    let mut request = CheckTxnStatusRequest {
        primary_key: lock.primary.clone(),
        lock_ts: lock.start_ts,
        current_ts: now,
        rollback_if_not_exist: expired,
        caller_start_ts: 0,
        current_time: shared.env.clock.unix_millis(),
        knows_async: true,
        not_async: false,
    };
    let mut reply = ask_primary(shared, &request).await?;
    if reply.async_commit_version != 0 {
        match ask_secondaries(shared, lock, &reply, Timestamp(now)).await? {
            Secondaries::Committed(at) => return Ok(Some(at)),
            Secondaries::Open => return Ok(None),
            Secondaries::Broken => {
                request.not_async = true;
                reply = ask_primary(shared, &request).await?;
            }
        }
    }
    Ok(match reply.action() {
        _ if reply.commit_version != 0 => Some(reply.commit_version),
        CheckTxnStatusAction::CheckTxnStatusTtlExpireRollback
        | CheckTxnStatusAction::CheckTxnStatusLockNotExistRollback => Some(0),
        CheckTxnStatusAction::CheckTxnStatusNoAction
        | CheckTxnStatusAction::CheckTxnStatusMinCommitTsPushed => None,
    })
}

/// What the other keys of an asynchronous commit say.
enum Secondaries {
    Committed(u64),
    /// Not all of them are locked for it, and never will be.
    Broken,
    /// Not all of them are locked yet.
    Open,
}

async fn ask_secondaries(
    shared: &Shared,
    lock: &OldLock,
    primary: &CheckTxnStatusResponse,
    now: Timestamp,
) -> Result<Secondaries, String> {
    let expires_ms = Timestamp(lock.start_ts).physical_ms().saturating_add(primary.lock_ttl);
    let rollback_missing = now.physical_ms() >= expires_ms;
    for key in &primary.secondaries {
        let request = CheckSecondaryLocksRequest {
            keys: vec![key.clone()],
            start_version: lock.start_ts,
            rollback_missing,
        };
        let reply = ask_leader(shared, key, |mut store, context| {
            let request = KvCheckSecondaryLocksRequest { context, request: Some(request.clone()) };
            async move {
                let reply = store.kv_check_secondary_locks(request).await?.into_inner();
                Ok((reply.response, reply.region_error))
            }
        });
        match reply.await? {
            reply if reply.error.is_some() => return Err(format!("a secondary key: {:?}", reply.error)),
            reply if reply.commit_version != 0 => return Ok(Secondaries::Committed(reply.commit_version)),
            reply if reply.broken => return Ok(Secondaries::Broken),
            reply if reply.missing != 0 => return Ok(Secondaries::Open),
            _ => {}
        }
    }
    shared.env.probe("store.gc.async_commit_found");
    Ok(Secondaries::Committed(primary.async_commit_version))
}

async fn ask_primary(
    shared: &Shared,
    request: &CheckTxnStatusRequest,
) -> Result<CheckTxnStatusResponse, String> {
    let reply = ask_leader(shared, &request.primary_key, |mut store, context| {
        let request = KvCheckTxnStatusRequest { context, request: Some(request.clone()) };
        async move {
            let reply = store.kv_check_txn_status(request).await?.into_inner();
            Ok((reply.response, reply.region_error))
        }
    });
    let reply = reply.await?;
    match &reply.error {
        Some(error) => Err(format!("the primary of transaction {}: {error:?}", request.lock_ts)),
        None => Ok(reply),
    }
}

/// Asks the leader of the region that holds `key`.
async fn ask_leader<T, F>(
    shared: &Shared,
    key: &Bytes,
    ask: impl Fn(NoKvClient<nokv_env::Channel>, Option<Context>) -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<(Option<T>, Option<RegionError>), tonic::Status>> + Send,
{
    let look = GetRegionByKeyRequest {
        key: key.clone(),
        freshness: Freshness::BestEffort.into(),
        ..Default::default()
    };
    let route = shared
        .coordinators
        .first(|mut client| {
            let look = look.clone();
            async move { client.get_region_by_key(look).await }
        })
        .await
        .map_err(|error| error.to_string())?;
    let region = route.region_descriptor.ok_or("no region covers the key of a transaction")?;
    let mut peers = region.peers.clone();
    peers.sort_by_key(|peer| Some(*peer) != route.leader);
    let mut last = "the region of a transaction's key has no peers".to_owned();
    for peer in peers {
        let Some(home) = route.stores.iter().find(|store| store.store_id == peer.store_id) else { continue };
        let context = Context {
            region_id: region.region_id,
            region_epoch: region.epoch,
            peer: Some(peer),
            ..Default::default()
        };
        let call = ask(NoKvClient::new(shared.env.net.connect(&home.address)), Some(context));
        match shared.env.clock.timeout(shared.config.coordinator_timeout, call).await {
            Ok(Ok((Some(reply), _))) => return Ok(reply),
            Ok(Ok((None, error))) => last = format!("store {}: {error:?}", peer.store_id),
            Ok(Err(status)) => last = format!("store {}: {status}", peer.store_id),
            Err(_) => last = format!("store {} does not answer", peer.store_id),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fence_and_safe_point_only_rise_and_keep_their_order() {
        let request = |fence, safe_point| GcRequest { fence, safe_point, keys: Vec::new() };
        let gc = after(Gc::default(), &request(9, 0));
        assert_eq!(gc, Gc { fence: 9, safe_point: 0 });
        assert_eq!(after(gc, &request(0, 10)), gc, "above the fence");
        let gc = after(gc, &request(0, 9));
        assert_eq!(gc, Gc { fence: 9, safe_point: 9 });
        assert_eq!(after(gc, &request(3, 4)), gc);
    }

    #[test]
    fn words_about_a_region_are_of_one_range() {
        let swept = Swept { resolved: (2, 50), collected: (0, 0) };
        assert_eq!((swept.resolved(2), swept.resolved(3)), (50, 0));
    }
}
