//! The front door.

use crate::attempt::Attempt;
use crate::background::Background;
use crate::config::ClientConfig;
use crate::coordinators::Coordinators;
use crate::error::{ClientError, Result};
use crate::retry::Wait;
use crate::stores::{Reading, Staleness, Stores};
use crate::tso::TsoBatcher;
use crate::txn::{Commit, Scanner, Snapshot, Txn};
use bytes::Bytes;
use nokv_env::{ClockExt, Env};
use nokv_proto::coordinator::v1::{ListOperatorsResponse, RegionRoute, StoreInfo, TransitionEntry};
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use nokv_proto::kv::v1::{GetRequest, Mutation, mutation::Op};
use nokv_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX, is_trace_id};
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{RootEvent, RootEventKind, RootStoreMembership};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::metadata::AsciiMetadataValue;

/// What all clones of a client have in common.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) config: ClientConfig,
    pub(crate) coordinators: Coordinators,
    pub(crate) stores: Stores,
    pub(crate) tso: TsoBatcher,
    pub(crate) background: Background,
    /// Salt of the next roll of the dice.
    rolls: AtomicU64,
    dice_name: String,
    /// Goes with every request to a store.
    pub(crate) trace_id: AsciiMetadataValue,
}

impl Shared {
    /// A number for jitter.
    pub(crate) fn dice(&self) -> u64 {
        self.env.rng.pure(&self.dice_name, self.rolls.fetch_add(1, Ordering::Relaxed))
    }
}

/// A client of one cluster. Clones share connections, routes and timestamp requests.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    allowed: Duration,
}

impl Client {
    /// A client that will connect when first used.
    pub fn new(env: Env, config: ClientConfig) -> Self {
        let allowed = config.deadline;
        let dice_name = format!("client/{}", config.name);
        let drawn = || format!("{:016x}", env.rng.pure(&format!("{dice_name}/trace"), 0));
        let trace_id = if is_trace_id(&config.trace_id) { config.trace_id.clone() } else { drawn() };
        let shared = Shared {
            coordinators: Coordinators::new(&env, &config.coordinators, &dice_name),
            stores: Stores::default(),
            tso: TsoBatcher::default(),
            background: Background::default(),
            rolls: AtomicU64::new(0),
            // Letters and digits always fit.
            trace_id: trace_id.parse().unwrap_or(AsciiMetadataValue::from_static("none")),
            dice_name,
            env,
            config,
        };
        Self { shared: Arc::new(shared), allowed }
    }

    /// The same client with another deadline per operation.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { shared: self.shared.clone(), allowed: deadline }
    }

    /// How long one operation may take.
    pub fn deadline(&self) -> Duration {
        self.allowed
    }

    /// What stores call this client in their logs, where a request of it was slow.
    pub fn trace_id(&self) -> &str {
        self.shared.trace_id.to_str().unwrap_or_default()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn attempt(&self, what: &'static str) -> Attempt<'_> {
        Attempt::new(&self.shared, what, self.allowed)
    }

    /// The value of `key`. Linearizable: it is at least as new as any write that was acknowledged before.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>> {
        let key = key.into();
        check_key(&key)?;
        let mut attempt = self.attempt("reading a key");
        let newest = GetRequest { key: key.clone(), ..Default::default() };
        loop {
            let reply = self.shared.read(&key, &newest, self.shared.reading(), &mut attempt).await?;
            match reply.error {
                None => return Ok((!reply.not_found).then_some(reply.value)),
                Some(error) if error.locked.is_some() => break,
                Some(error) if !error.retryable.is_empty() => {
                    attempt.pause(Wait::Backoff, error.retryable).await?;
                }
                Some(error) => return Err(ClientError::Protocol(format!("a read was refused: {error:?}"))),
            }
        }
        // A transaction is under way at the key. A timestamp drawn now orders us against it, which lets us read
        // past its lock instead of waiting.
        let now = self.shared.tso.get(&self.shared, 1, &mut attempt).await?;
        Snapshot::new(self.shared.clone(), now, self.allowed).get_within(&key, &mut attempt).await
    }

    /// The value of `key` at some moment that is no older than `staleness` allows, from any replica. Two such reads may
    /// show a newer value first.
    pub async fn get_stale(&self, key: impl Into<Bytes>, staleness: Staleness) -> Result<Option<Bytes>> {
        let key = key.into();
        check_key(&key)?;
        let mut attempt = self.attempt("reading a key");
        let newest = GetRequest { key: key.clone(), ..Default::default() };
        let reply = self.shared.read(&key, &newest, Reading::Stale(staleness), &mut attempt).await?;
        match reply.error {
            None => Ok((!reply.not_found).then_some(reply.value)),
            // What became of a lock's owner is asked at a leader, so the leader may as well answer.
            Some(_) => self.get(key).await,
        }
    }

    /// Writes `value`. Gives the commit timestamp.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Timestamp> {
        self.put_many(vec![(key.into(), value.into())]).await
    }

    /// Deletes `key`, whether it has a value or not. Gives the commit timestamp.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Timestamp> {
        let key = key.into();
        check_key(&key)?;
        self.write(vec![deletion(key)]).await
    }

    /// Writes all pairs in one transaction. Of equal keys the last one counts.
    pub async fn put_many(&self, pairs: Vec<(Bytes, Bytes)>) -> Result<Timestamp> {
        for (key, value) in &pairs {
            check_key(key)?;
            check_value(value)?;
        }
        let sorted: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
        self.write(sorted.into_iter().map(|(key, value)| put(key, value)).collect()).await
    }

    /// Writes without having read anything: losing to another writer is no reason to fail, only to write later.
    async fn write(&self, mutations: Vec<Mutation>) -> Result<Timestamp> {
        let shared = &self.shared;
        let mut attempt = self.attempt("writing");
        if mutations.is_empty() {
            return shared.tso.get(shared, 1, &mut attempt).await;
        }
        loop {
            let began = shared.env.clock.now();
            let start = shared.tso.get(shared, 2, &mut attempt).await?;
            let early = Timestamp(start.0 + 1);
            match Commit::run(shared, start, began, mutations.clone(), Some(early), &mut attempt).await {
                Err(ClientError::Conflict { reason, .. }) => {
                    attempt.pause(Wait::Backoff, format!("another writer was first: {reason}")).await?;
                }
                Err(ClientError::TooOld { .. }) => {
                    attempt.pause(Wait::Backoff, "the start timestamp grew too old").await?;
                }
                ended => return ended,
            }
        }
    }

    /// Starts a transaction.
    pub async fn begin(&self) -> Result<Txn> {
        let mut attempt = self.attempt("starting a transaction");
        let began = self.shared.env.clock.now();
        let start = self.shared.tso.get(&self.shared, 1, &mut attempt).await?;
        Ok(Txn::new(self.clone(), self.snapshot_at(start), began))
    }

    /// The database as of now, as one timestamp sees it.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let mut attempt = self.attempt("taking a snapshot");
        Ok(self.snapshot_at(self.shared.tso.get(&self.shared, 1, &mut attempt).await?))
    }

    /// The database as of `version`, which must have been handed out by [`Client::tso`].
    pub fn snapshot_at(&self, version: Timestamp) -> Snapshot {
        Snapshot::new(self.shared.clone(), version, self.allowed)
    }

    /// Up to `limit` pairs of `range`, in order, from one snapshot.
    pub async fn scan(&self, range: KeyRange, limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let mut scanner = self.scanner(range).await?;
        if limit < self.shared.config.scan_page as usize {
            scanner = scanner.page_size(limit as u32);
        }
        let mut attempt = self.attempt("scanning");
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let Some(page) = scanner.next_within(&mut attempt).await? else { break };
            pairs.extend(page.pairs);
        }
        pairs.truncate(limit);
        Ok(pairs)
    }

    /// A reader of `range`, page by page, from one snapshot.
    pub async fn scanner(&self, range: KeyRange) -> Result<Scanner> {
        Ok(self.snapshot().await?.scanner(range))
    }

    /// The first of `count` consecutive fresh timestamps.
    pub async fn tso(&self, count: u64) -> Result<Timestamp> {
        let mut attempt = self.attempt("asking for a timestamp");
        self.shared.tso.get(&self.shared, count, &mut attempt).await
    }

    /// The first of `count` consecutive fresh ids.
    pub async fn alloc_id(&self, count: u64) -> Result<u64> {
        let mut attempt = self.attempt("asking for an id");
        self.shared.coordinators.alloc_id(&self.shared, count.max(1), &mut attempt).await
    }

    /// The region that holds `key`, as far as this client knows.
    pub async fn locate(&self, key: impl Into<Bytes>) -> Result<RegionRoute> {
        let mut attempt = self.attempt("locating a key");
        let route = self.shared.route(&key.into(), &mut attempt).await?;
        Ok(RegionRoute {
            descriptor: Some((*route.region).clone()),
            leader: Some(route.target),
            ..Default::default()
        })
    }

    /// Every region, in key order, as a coordinator sees it.
    pub async fn list_regions(&self) -> Result<Vec<RegionRoute>> {
        let mut attempt = self.attempt("listing regions");
        self.shared.coordinators.regions(&self.shared, &mut attempt).await
    }

    /// Every store, as a coordinator sees it.
    pub async fn list_stores(&self) -> Result<Vec<StoreInfo>> {
        let mut attempt = self.attempt("listing stores");
        self.shared.coordinators.stores(&self.shared, &mut attempt).await
    }

    /// The id of the cluster, 48 bits drawn at its birth; 0 when the coordinator that answers does not know it yet.
    pub async fn cluster_id(&self) -> Result<u64> {
        let mut attempt = self.attempt("asking for the cluster's id");
        self.shared.coordinators.cluster_id(&self.shared, &mut attempt).await
    }

    /// What the scheduler does and did, newest first, and what it cannot do; region 0: everything.
    pub async fn list_operators(&self, region: u64) -> Result<ListOperatorsResponse> {
        let mut attempt = self.attempt("listing operators");
        self.shared.coordinators.operators(&self.shared, region, &mut attempt).await
    }

    /// Changes of regions that are under way.
    pub async fn list_transitions(&self) -> Result<Vec<TransitionEntry>> {
        let mut attempt = self.attempt("listing transitions");
        self.shared.coordinators.transitions(&self.shared, &mut attempt).await
    }

    /// Has the scheduler move everything off `store`, or takes that back.
    pub async fn decommission(&self, store: u64, wanted: bool) -> Result<()> {
        let kind =
            if wanted { RootEventKind::StoreDecommissioned } else { RootEventKind::StoreRecommissioned };
        let membership = RootStoreMembership { store_id: store, address: String::new() };
        let event = RootEvent { kind: kind.into(), payload: Some(Payload::StoreMembership(membership)) };
        let mut attempt = self.attempt("decommissioning a store");
        self.shared.coordinators.publish(&self.shared, event, &mut attempt).await
    }

    /// Gives background work (secondary commits, rollbacks) up to `patience` to finish. Losing it is safe, but
    /// leaves locks for the next reader to clear.
    pub async fn close(&self, patience: Duration) {
        let idle = self.shared.background.idle();
        let _ = self.shared.env.clock.timeout(patience, idle).await;
    }
}

pub(crate) fn put(key: Bytes, value: Bytes) -> Mutation {
    Mutation { op: Op::Put.into(), key, value, ..Default::default() }
}

pub(crate) fn deletion(key: Bytes) -> Mutation {
    Mutation { op: Op::Delete.into(), key, ..Default::default() }
}

pub(crate) fn guard(key: Bytes) -> Mutation {
    Mutation { op: Op::Lock.into(), key, ..Default::default() }
}

pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(ClientError::InvalidArgument("the key is empty".into()));
    }
    check_size("the key", key.len(), KEY_BYTES_MAX as u64)
}

pub(crate) fn check_value(value: &[u8]) -> Result<()> {
    check_size("the value", value.len(), VALUE_BYTES_MAX as u64)
}

fn check_size(what: &'static str, bytes: usize, bytes_max: u64) -> Result<()> {
    let bytes = bytes as u64;
    if bytes > bytes_max { Err(ClientError::TooLarge { what, bytes, bytes_max }) } else { Ok(()) }
}
