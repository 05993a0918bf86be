//! One request to one region: find it, send it, learn from the failure, try again.

use crate::attempt::Attempt;
use crate::client::Shared;
use crate::error::{ClientError, Result};
use crate::retry::{self, Change, Decision, Failure, Wait, decide};
use crate::router::{Route, RouteCache};
use bytes::Bytes;
use nokv_env::{BoxFuture, Channel, ClockExt, net::MESSAGE_BYTES_MAX};
use nokv_proto::coordinator::v1::GetRegionByKeyResponse;
use nokv_proto::error::v1::RegionError;
use nokv_proto::kv::v1::no_kv_client::NoKvClient;
use nokv_proto::kv::v1::{
    BatchRollbackRequest, BatchRollbackResponse, CheckSecondaryLocksRequest, CheckSecondaryLocksResponse,
    CheckTxnStatusRequest, CheckTxnStatusResponse, CommitRequest, CommitResponse, Context, GetRequest,
    GetResponse, KvBatchRollbackRequest, KvCheckSecondaryLocksRequest, KvCheckTxnStatusRequest,
    KvCommitRequest, KvGetRequest, KvPrewriteRequest, KvResolveLockRequest, KvScanRequest,
    KvTxnHeartBeatRequest, PrewriteRequest, PrewriteResponse, ReadConsistency, ReadPreference,
    ResolveLockRequest, ResolveLockResponse, ScanRequest, ScanResponse, TxnHeartBeatRequest,
    TxnHeartBeatResponse,
};
use nokv_proto::limits::TRACE_ID_METADATA;
use nokv_proto::meta::v1::RegionPeer;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;

/// Routes and connections of one client.
#[derive(Default)]
pub(crate) struct Stores {
    routes: Mutex<RouteCache>,
    stubs: Mutex<BTreeMap<String, NoKvClient<Channel>>>,
}

/// What a store says: a response, or why the region did not take the request.
type Answer<T> = std::result::Result<(Option<T>, Option<RegionError>), Status>;

/// A message of the KV service that is addressed to one region.
pub(crate) trait RegionRequest: Clone + Send + Sync {
    /// What comes back.
    type Response: Send;
    /// Sends it.
    fn send(
        self,
        stub: NoKvClient<Channel>,
        context: Context,
        limit: std::time::Duration,
        trace_id: AsciiMetadataValue,
    ) -> BoxFuture<'static, Answer<Self::Response>>;
}

macro_rules! region_request {
    ($($request:ident $response:ident $envelope:ident $method:ident;)*) => {$(
        impl RegionRequest for $request {
            type Response = $response;
            fn send(
                self,
                mut stub: NoKvClient<Channel>,
                context: Context,
                limit: std::time::Duration,
                trace_id: AsciiMetadataValue,
            ) -> BoxFuture<'static, Answer<$response>> {
                Box::pin(async move {
                let mut request = tonic::Request::new($envelope { context: Some(context), request: Some(self) });
                // The server need not work for a caller who has gone.
                request.set_timeout(limit);
                request.metadata_mut().insert(TRACE_ID_METADATA, trace_id);
                let reply = stub.$method(request).await?.into_inner();
                Ok((reply.response, reply.region_error))
                })
            }
        }
    )*};
}

region_request! {
    GetRequest GetResponse KvGetRequest kv_get;
    ScanRequest ScanResponse KvScanRequest kv_scan;
    PrewriteRequest PrewriteResponse KvPrewriteRequest kv_prewrite;
    CommitRequest CommitResponse KvCommitRequest kv_commit;
    BatchRollbackRequest BatchRollbackResponse KvBatchRollbackRequest kv_batch_rollback;
    ResolveLockRequest ResolveLockResponse KvResolveLockRequest kv_resolve_lock;
    CheckTxnStatusRequest CheckTxnStatusResponse KvCheckTxnStatusRequest kv_check_txn_status;
    CheckSecondaryLocksRequest CheckSecondaryLocksResponse KvCheckSecondaryLocksRequest kv_check_secondary_locks;
    TxnHeartBeatRequest TxnHeartBeatResponse KvTxnHeartBeatRequest kv_txn_heart_beat;
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staleness {
    /// Everything acknowledged longer ago than this is in it.
    pub time: Duration,
    /// So many of the region's changes may be missing on top.
    pub entries: u64,
}

/// Whom a read asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The leader.
    Leader,
    /// Any replica, for an answer as good as the leader's.
    Anyone,
    /// Any replica, for an answer that may be this old.
    Stale(Staleness),
}

impl Reading {
    fn write_into(self, context: &mut Context) {
        if self == Self::Leader {
            return;
        }
        context.set_read_preference(ReadPreference::FollowerPrefer);
        if let Self::Stale(staleness) = self {
            context.set_read_consistency(ReadConsistency::BoundedStale);
            context.max_stale_read_ms = u64::try_from(staleness.time.as_millis()).unwrap_or(u64::MAX);
            context.max_stale_read_index = staleness.entries;
        }
    }
}

impl Shared {
    /// Whom this client's reads ask.
    pub(crate) fn reading(&self) -> Reading {
        if self.config.follower_reads { Reading::Anyone } else { Reading::Leader }
    }

    /// Reads at the region that holds `key`, until it answers or the patience ends.
    pub(crate) async fn read<R: RegionRequest>(
        &self,
        key: &[u8],
        request: &R,
        reading: Reading,
        attempt: &mut Attempt<'_>,
    ) -> Result<R::Response> {
        loop {
            let route = self.route(key, attempt).await?;
            if let Some(response) = self.try_read(&route, request, reading, attempt).await? {
                return Ok(response);
            }
        }
    }

    /// Reads once, at any replica if `reading` allows; should that fail, at the leader. `None` as [`Shared::try_call`].
    pub(crate) async fn try_read<R: RegionRequest>(
        &self,
        route: &Route,
        request: &R,
        reading: Reading,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<R::Response>> {
        if reading != Reading::Leader
            && let Some(target) = self.replica(route)
        {
            let there = Route { region: route.region.clone(), target };
            // Half of the time is the leader's.
            let limit = attempt.share(2)?.min(self.config.store_timeout);
            let began = self.env.clock.now();
            match self.send(&there, request.clone(), reading, limit).await? {
                Ok(response) => return Ok(Some(response)),
                Err((failure, addr)) => {
                    self.env.probe("client.read.replica_failed");
                    let took = self.env.clock.now().since(began);
                    if let Some(time) = retry::suspicion(&failure, took >= limit / 2) {
                        let until = self.env.clock.now() + time;
                        self.stores.routes().distrust(target.store_id, until);
                    }
                    attempt.note(format!("store {} at {addr}: {failure}", target.store_id));
                }
            }
        }
        self.try_call(route, request, attempt).await
    }

    /// Any replica whose store answered when it was last asked.
    fn replica(&self, route: &Route) -> Option<RegionPeer> {
        let now = self.env.clock.now();
        let routes = self.stores.routes();
        let trusted = |peer: &&RegionPeer| routes.is_trusted(peer.store_id, now);
        let peers: Vec<RegionPeer> = route.region.peers.iter().filter(trusted).copied().collect();
        drop(routes);
        (!peers.is_empty()).then(|| peers[(self.dice() % peers.len() as u64) as usize])
    }

    /// Sends `request` to the region that holds `key`, until it answers or the patience ends.
    pub(crate) async fn call<R: RegionRequest>(
        &self,
        key: &[u8],
        request: &R,
        attempt: &mut Attempt<'_>,
    ) -> Result<R::Response> {
        loop {
            let route = self.route(key, attempt).await?;
            if let Some(response) = self.try_call(&route, request, attempt).await? {
                return Ok(response);
            }
        }
    }

    /// Sends `request` along `route` once. `None` after a failure worth another try: the route cache has been
    /// told, the pause has been made, and the caller must look the route up again.
    pub(crate) async fn try_call<R: RegionRequest>(
        &self,
        route: &Route,
        request: &R,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<R::Response>> {
        let limit = attempt.slice(self.config.store_timeout)?;
        let (failure, addr) = match self.send(route, request.clone(), Reading::Leader, limit).await? {
            Ok(response) => {
                self.stores.routes().confirm(route);
                return Ok(Some(response));
            }
            Err(failure) => failure,
        };
        attempt.ambiguous |= failure.maybe_executed();
        attempt.delivered |= failure.was_delivered();
        attempt.tls = failure.tls().cloned();
        let cause = format!("store {} at {addr}: {failure}", route.target.store_id);
        tracing::debug!(region = route.region.region_id, cause, "request failed");
        match decide(&failure, &addr) {
            Decision::GiveUp(error) => Err(error),
            Decision::Retry(change, wait) => {
                let wait = self.learn(route, change, wait);
                attempt.pause(wait, cause).await?;
                Ok(None)
            }
        }
    }

    async fn send<R: RegionRequest>(
        &self,
        route: &Route,
        request: R,
        reading: Reading,
        limit: Duration,
    ) -> Result<std::result::Result<R::Response, (Failure, String)>> {
        let store = route.target.store_id;
        let Some(addr) = self.stores.routes().address(store) else {
            return Ok(Err((Failure::NoAddress(store), String::from("?"))));
        };
        let mut context = Context {
            region_id: route.region.region_id,
            region_epoch: route.region.epoch,
            peer: Some(route.target),
            ..Default::default()
        };
        reading.write_into(&mut context);
        let impatient = self.env.chance("client.call.impatient", 0.003);
        let limit = if impatient { limit.min(Duration::from_millis(1)) } else { limit };
        let call = request.send(self.stub(&addr), context, limit, self.trace_id.clone());
        let failure = match self.env.clock.timeout(limit, call).await {
            Ok(Ok((_, Some(error)))) => Failure::Region(Box::new(error)),
            Ok(Ok((Some(response), None))) => return Ok(Ok(response)),
            Ok(Ok((None, None))) => {
                return Err(ClientError::Protocol(format!("store {store} sent an empty reply")));
            }
            Ok(Err(status)) => Failure::Status(status),
            Err(_) => Failure::Silence(limit),
        };
        Ok(Err((failure, addr)))
    }

    /// Tells the route cache what a failure taught.
    fn learn(&self, route: &Route, change: Change, wait: Wait) -> Wait {
        let now = self.env.clock.now();
        let region = route.region.region_id;
        let mut routes = self.stores.routes();
        match change {
            Change::Keep => {}
            Change::Leader(leader) => routes.set_leader(region, leader, now),
            Change::NextPeer => {
                routes.next_peer(region);
                // With all peers tried in vain the region may have moved altogether.
                if self.dice().is_multiple_of(4) {
                    routes.forget(region);
                }
            }
            Change::Suspect(time) => {
                routes.suspect(region, route.target.store_id, now + time);
                if self.dice().is_multiple_of(4) {
                    routes.forget(region);
                }
            }
            Change::Refresh => routes.forget(region),
            Change::Replace(regions) => {
                routes.forget(region);
                let mut taken = false;
                for region in regions {
                    taken |= routes.insert(region, None, now);
                }
                // The store is behind what we know, not ahead of it: give it time.
                return if taken { wait } else { Wait::Backoff };
            }
        }
        wait
    }

    /// The route for `key`: from the cache, or from a coordinator.
    pub(crate) async fn route(&self, key: &[u8], attempt: &mut Attempt<'_>) -> Result<Route> {
        loop {
            let route = self.stores.routes().lookup(key, self.env.clock.now());
            if let Some(route) = route.filter(|_| !self.env.chance("client.route.drop", 0.01)) {
                return Ok(route);
            }
            let reply = self.coordinators.region_by_key(self, key, attempt).await?;
            if !self.learn_route(reply) {
                attempt.pause(Wait::Backoff, "no region covers the key").await?;
            } else if self.stores.routes().lookup(key, self.env.clock.now()).is_none() {
                attempt.pause(Wait::Backoff, "the coordinator's region for the key is outdated").await?;
            }
        }
    }

    fn learn_route(&self, reply: GetRegionByKeyResponse) -> bool {
        let mut routes = self.stores.routes();
        for store in reply.stores {
            routes.set_address(store.store_id, store.address);
        }
        let now = self.env.clock.now();
        match reply.region_descriptor {
            Some(region) if !reply.not_found => {
                let leader = reply.leader.filter(|leader| leader.store_id != 0);
                routes.insert(region, leader, now);
                true
            }
            _ => false,
        }
    }

    fn stub(&self, addr: &str) -> NoKvClient<Channel> {
        let mut stubs = self.stores.stubs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stub) = stubs.get(addr) {
            return stub.clone();
        }
        let stub = NoKvClient::new(self.env.net.connect(addr))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        stubs.insert(addr.to_owned(), stub.clone());
        stub
    }

    /// Splits `items` into groups that lie in one region each and carry at most about `bytes_max`. Keeps the order.
    pub(crate) async fn group<T: Keyed>(
        &self,
        items: Vec<T>,
        bytes_max: usize,
        attempt: &mut Attempt<'_>,
    ) -> Result<Vec<Vec<T>>> {
        let mut groups: Vec<Vec<T>> = Vec::new();
        let mut current: Option<(Route, usize)> = None;
        for item in items {
            let weight = item.weight();
            match (&mut current, groups.last_mut()) {
                (Some((route, bytes)), Some(group))
                    if route.covers(item.key()) && *bytes + weight <= bytes_max =>
                {
                    *bytes += weight;
                    group.push(item);
                }
                _ => {
                    let route = self.route(item.key(), attempt).await?;
                    current = Some((route, weight));
                    groups.push(vec![item]);
                }
            }
        }
        Ok(groups)
    }
}

impl Stores {
    fn routes(&self) -> MutexGuard<'_, RouteCache> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that belongs to a key and has a size on the wire.
pub(crate) trait Keyed {
    /// The key.
    fn key(&self) -> &[u8];
    /// Its bytes in a request.
    fn weight(&self) -> usize;
}

impl Keyed for nokv_proto::kv::v1::Mutation {
    fn key(&self) -> &[u8] {
        &self.key
    }

    fn weight(&self) -> usize {
        self.key.len() + self.value.len() + 16
    }
}

impl Keyed for Bytes {
    fn key(&self) -> &[u8] {
        self
    }

    fn weight(&self) -> usize {
        self.len() + 8
    }
}
