//! A cluster made of scripts: two coordinators, two stores, two regions split at "m", all in memory.
//!
//! Every request is written down in one line. It is answered as the script says for its kind, else as a healthy
//! cluster would. Time is tokio's, paused, so deadlines pass in no time.

#![allow(clippy::disallowed_methods, reason = "tests may use tokio's paused clock")]

use bytes::Bytes;
use nokv_client::{Client, ClientConfig};
use nokv_env::net::NetError;
use nokv_env::{
    BoxFuture, Channel, Clock, Env, Instant, MemDisk, Net, NoHooks, RngSource, ServerHandle, Tasks,
};
use nokv_proto::coordinator::v1 as co;
use nokv_proto::coordinator::v1::coordinator_server::{Coordinator, CoordinatorServer};
use nokv_proto::error::v1::RegionError;
use nokv_proto::kv::v1::no_kv_server::{NoKv, NoKvServer};
use nokv_proto::kv::v1::{self as kv, CheckTxnStatusAction as Action};
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// How a scripted request is answered.
#[derive(Clone)]
pub enum Say {
    /// The call fails although it may have been executed.
    Lost,
    /// No answer, ever.
    Silence,
    /// The coordinator has no lease.
    NoLease,
    /// The store refuses.
    Region(RegionError),
    /// A key error.
    Key(kv::KeyError),
    /// Prewrite: committed in one round trip at this timestamp. Status: committed at it.
    Committed(u64),
    /// Prewrite: locked only.
    Locked,
    /// Status: rolled back.
    RolledBack,
    /// Status: alive and pushed.
    Pushed,
    /// Status: locked for an asynchronous commit at this timestamp, beside key z.
    Async(u64),
    /// Secondary locks: one is not for the asynchronous commit.
    Broken,
    /// Secondary locks: one is missing.
    Missing,
    /// Get: this value. Scan: this key and value.
    Value(&'static str),
}

/// What the scripts say and what was asked.
#[derive(Default)]
pub struct State {
    log: Vec<String>,
    scripts: BTreeMap<&'static str, VecDeque<Say>>,
    last_ts: u64,
    /// What the client called itself towards stores.
    trace_ids: BTreeSet<String>,
}

/// The scripted cluster.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<State>>);

impl Cluster {
    /// A cluster and its client, who commits in one round trip or in two phases.
    pub fn new() -> (Self, Client) {
        Self::with(|config| config.async_commit = false)
    }

    /// A cluster and its client, set as `tune` wishes.
    pub fn with(tune: impl FnOnce(&mut ClientConfig)) -> (Self, Client) {
        let cluster = Self::default();
        let env = Env {
            clock: Arc::new(TokioClock(tokio::time::Instant::now())),
            disk: MemDisk::new(0).mount(),
            net: Arc::new(MemNet(cluster.clone())),
            rng: RngSource::new(1, 1),
            tasks: Arc::new(TokioTasks),
            hooks: Arc::new(NoHooks),
        };
        let mut config = ClientConfig::new(vec!["co1:1".into(), "co2:1".into()]);
        tune(&mut config);
        (cluster, Client::new(env, config))
    }

    /// The next requests of a kind are answered like this.
    pub fn script(&self, kind: &'static str, says: impl IntoIterator<Item = Say>) {
        self.state().scripts.entry(kind).or_default().extend(says);
    }

    /// All requests so far, routes left out.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// The trace ids of all requests to stores; empty: one had none.
    pub fn trace_ids(&self) -> Vec<String> {
        self.state().trace_ids.iter().cloned().collect()
    }

    /// Lets background work end, then all requests so far.
    pub async fn settled(&self, client: &Client) -> Vec<String> {
        client.close(Duration::from_secs(60)).await;
        self.log()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, kind: &'static str, line: String) -> Option<Say> {
        let mut state = self.state();
        state.log.push(line);
        state.scripts.get_mut(kind).and_then(VecDeque::pop_front)
    }
}

/// The two regions.
pub fn region(id: u64, leader: u64) -> (RegionDescriptor, RegionPeer) {
    let (start, end): (&str, &str) = if id == 1 { ("", "m") } else { ("m", "") };
    let peer = |store| RegionPeer { store_id: store, peer_id: store * 100 + id };
    let region = RegionDescriptor {
        region_id: id,
        start_key: Bytes::from_static(start.as_bytes()),
        end_key: Bytes::from_static(end.as_bytes()),
        epoch: Some(RegionEpoch { version: 1, conf_version: 1 }),
        peers: vec![peer(1), peer(2)],
        ..Default::default()
    };
    (region, peer(leader))
}

struct FakeCoordinator(Cluster, u64);

fn refused(say: Option<Say>) -> Result<(), Status> {
    match say {
        Some(Say::NoLease) => Err(Status::failed_precondition("coordinator lease not held: c9 holds it")),
        Some(Say::Lost) => Err(Status::unavailable("connection reset")),
        _ => Ok(()),
    }
}

macro_rules! not_scripted {
    ($($method:ident $request:ident $response:ident;)*) => {$(
        // What `async_trait` makes of an async method; it does not look into macros.
        fn $method<'life0, 'async_trait>(
            &'life0 self,
            _: Request<co::$request>,
        ) -> std::pin::Pin<
            Box<dyn Future<Output = Result<Response<co::$response>, Status>> + Send + 'async_trait>,
        >
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented("not scripted")) })
        }
    )*};
}

#[tonic::async_trait]
impl Coordinator for FakeCoordinator {
    async fn tso(&self, request: Request<co::TsoRequest>) -> Result<Response<co::TsoResponse>, Status> {
        let count = request.into_inner().count;
        let say = self.0.next("tso", format!("c{} tso {count}", self.1));
        if matches!(say, Some(Say::Silence)) {
            std::future::pending::<()>().await;
        }
        refused(say)?;
        let mut state = self.0.state();
        let timestamp = state.last_ts + 1;
        state.last_ts += count;
        let frontier = state.last_ts;
        Ok(Response::new(co::TsoResponse {
            timestamp,
            count,
            cert_generation: 1,
            consumed_frontier: frontier,
            observed_seal_generation: 0,
        }))
    }

    async fn get_region_by_key(
        &self,
        request: Request<co::GetRegionByKeyRequest>,
    ) -> Result<Response<co::GetRegionByKeyResponse>, Status> {
        let id = if request.into_inner().key.as_ref() < b"m".as_slice() { 1 } else { 2 };
        let (region, leader) = region(id, id);
        let stores =
            (1..=2).map(|id| co::StoreAddress { store_id: id, address: format!("s{id}:1") }).collect();
        Ok(Response::new(co::GetRegionByKeyResponse {
            region_descriptor: Some(region),
            leader: Some(leader),
            stores,
            ..Default::default()
        }))
    }

    not_scripted! {
        store_heartbeat StoreHeartbeatRequest StoreHeartbeatResponse;
        region_liveness RegionLivenessRequest RegionLivenessResponse;
        publish_root_event PublishRootEventRequest PublishRootEventResponse;
        list_transitions ListTransitionsRequest ListTransitionsResponse;
        assess_root_event AssessRootEventRequest AssessRootEventResponse;
        remove_region RemoveRegionRequest RemoveRegionResponse;
        alloc_id AllocIdRequest AllocIdResponse;
        list_stores ListStoresRequest ListStoresResponse;
        list_regions ListRegionsRequest ListRegionsResponse;
        list_operators ListOperatorsRequest ListOperatorsResponse;
        status CoordinatorStatusRequest CoordinatorStatusResponse;
        hold_safe_point HoldSafePointRequest HoldSafePointResponse;
    }
}

struct FakeStore(Cluster, u64);

/// What a script makes of a response: the response with a key error, a region error, or a failed call.
enum Turn {
    Normal,
    Say(Say),
    Region(RegionError),
}

impl FakeStore {
    async fn turn(
        &self,
        kind: &'static str,
        context: Option<&kv::Context>,
        what: &str,
    ) -> Result<Turn, Status> {
        let region = context.map_or(0, |context| context.region_id);
        match self.0.next(kind, format!("s{} r{region} {kind} {what}", self.1)) {
            Some(Say::Lost) => Err(Status::unavailable("connection reset")),
            Some(Say::Silence) => std::future::pending().await,
            Some(Say::Region(error)) => Ok(Turn::Region(error)),
            Some(say) => Ok(Turn::Say(say)),
            None => Ok(Turn::Normal),
        }
    }
}

fn text(keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let keys: Vec<String> =
        keys.into_iter().map(|k| String::from_utf8_lossy(k.as_ref()).into_owned()).collect();
    keys.join(",")
}

/// Unpacks an envelope, lets the script speak, packs the answer.
macro_rules! answer {
    ($self:ident, $request:ident, $kind:literal, $envelope:ident, |$body:ident| $what:expr, |$say:ident| $response:expr) => {{
        let envelope = $request.into_inner();
        let $body = envelope.request.clone().unwrap_or_default();
        let (response, region_error) = match $self.turn($kind, envelope.context.as_ref(), &$what).await? {
            Turn::Region(error) => (None, Some(error)),
            Turn::Normal => {
                let $say: Option<Say> = None;
                (Some($response), None)
            }
            Turn::Say(say) => {
                let $say = Some(say);
                (Some($response), None)
            }
        };
        Ok(Response::new(kv::$envelope { response, region_error }))
    }};
}

fn key_error(say: Option<&Say>) -> Option<kv::KeyError> {
    if let Some(Say::Key(error)) = say { Some(error.clone()) } else { None }
}

#[tonic::async_trait]
impl NoKv for FakeStore {
    async fn kv_get(
        &self,
        request: Request<kv::KvGetRequest>,
    ) -> Result<Response<kv::KvGetResponse>, Status> {
        answer!(
            self,
            request,
            "get",
            KvGetResponse,
            |body| format!("{} at={} bypass={:?}", text([&body.key]), body.version, body.bypass_locks),
            |say| {
                let value = if let Some(Say::Value(value)) = say {
                    Some(Bytes::from_static(value.as_bytes()))
                } else {
                    None
                };
                kv::GetResponse {
                    not_found: value.is_none(),
                    value: value.unwrap_or_default(),
                    error: key_error(say.as_ref()),
                    ..Default::default()
                }
            }
        )
    }

    async fn kv_scan(
        &self,
        request: Request<kv::KvScanRequest>,
    ) -> Result<Response<kv::KvScanResponse>, Status> {
        answer!(
            self,
            request,
            "scan",
            KvScanResponse,
            |body| format!("[{},{})", text([&body.start_key]), text([&body.end_key])),
            |say| {
                let pair = |v: &'static str| kv::Kv { key: v.into(), value: v.into(), ..Default::default() };
                let kvs = if let Some(Say::Value(value)) = say { vec![pair(value)] } else { vec![] };
                kv::ScanResponse { kvs, error: key_error(say.as_ref()), ..Default::default() }
            }
        )
    }

    async fn kv_prewrite(
        &self,
        request: Request<kv::KvPrewriteRequest>,
    ) -> Result<Response<kv::KvPrewriteResponse>, Status> {
        answer!(
            self,
            request,
            "prewrite",
            KvPrewriteResponse,
            |body| {
                let keys = text(body.mutations.iter().map(|m| &m.key));
                let primary = text([&body.primary_lock]);
                let at = match body.async_commit_version {
                    0 => format!("1pc={}", body.one_pc_commit_version),
                    at => format!("async={at} with={}", text(&body.secondaries)),
                };
                format!("{keys} primary={primary} start={} {at}", body.start_version)
            },
            |say| kv::PrewriteResponse {
                async_commit_version: if say.is_none() { body.async_commit_version } else { 0 },
                errors: key_error(say.as_ref()).into_iter().collect(),
                one_pc_commit_version: match say {
                    Some(Say::Committed(at)) => at,
                    None => body.one_pc_commit_version,
                    Some(_) => 0,
                },
            }
        )
    }

    async fn kv_commit(
        &self,
        request: Request<kv::KvCommitRequest>,
    ) -> Result<Response<kv::KvCommitResponse>, Status> {
        answer!(
            self,
            request,
            "commit",
            KvCommitResponse,
            |body| format!("{} start={} at={}", text(&body.keys), body.start_version, body.commit_version),
            |say| kv::CommitResponse { error: key_error(say.as_ref()) }
        )
    }

    async fn kv_batch_rollback(
        &self,
        request: Request<kv::KvBatchRollbackRequest>,
    ) -> Result<Response<kv::KvBatchRollbackResponse>, Status> {
        answer!(
            self,
            request,
            "rollback",
            KvBatchRollbackResponse,
            |body| format!("{} start={}", text(&body.keys), body.start_version),
            |say| kv::BatchRollbackResponse { error: key_error(say.as_ref()) }
        )
    }

    async fn kv_resolve_lock(
        &self,
        request: Request<kv::KvResolveLockRequest>,
    ) -> Result<Response<kv::KvResolveLockResponse>, Status> {
        answer!(
            self,
            request,
            "resolve",
            KvResolveLockResponse,
            |body| format!("{} start={} at={}", text(&body.keys), body.start_version, body.commit_version),
            |say| kv::ResolveLockResponse { error: key_error(say.as_ref()), resolved_locks: 1 }
        )
    }

    async fn kv_check_secondary_locks(
        &self,
        request: Request<kv::KvCheckSecondaryLocksRequest>,
    ) -> Result<Response<kv::KvCheckSecondaryLocksResponse>, Status> {
        answer!(
            self,
            request,
            "secondaries",
            KvCheckSecondaryLocksResponse,
            |body| format!(
                "{} start={} rollback={}",
                text(&body.keys),
                body.start_version,
                body.rollback_missing
            ),
            |say| kv::CheckSecondaryLocksResponse {
                error: key_error(say.as_ref()),
                commit_version: if let Some(Say::Committed(at)) = say { at } else { 0 },
                broken: matches!(say, Some(Say::Broken)),
                missing: matches!(say, Some(Say::Missing)).into(),
            }
        )
    }

    async fn kv_txn_heart_beat(
        &self,
        request: Request<kv::KvTxnHeartBeatRequest>,
    ) -> Result<Response<kv::KvTxnHeartBeatResponse>, Status> {
        answer!(
            self,
            request,
            "beat",
            KvTxnHeartBeatResponse,
            |body| format!("{} start={}", text([&body.primary_lock]), body.start_version),
            |say| kv::TxnHeartBeatResponse { error: key_error(say.as_ref()), lock_ttl: body.advise_lock_ttl }
        )
    }

    async fn kv_read_index(
        &self,
        _request: Request<kv::KvReadIndexRequest>,
    ) -> Result<Response<kv::KvReadIndexResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn kv_check_txn_status(
        &self,
        request: Request<kv::KvCheckTxnStatusRequest>,
    ) -> Result<Response<kv::KvCheckTxnStatusResponse>, Status> {
        answer!(
            self,
            request,
            "status",
            KvCheckTxnStatusResponse,
            |body| format!(
                "{} start={} caller={} force={}",
                text([&body.primary_key]),
                body.lock_ts,
                body.caller_start_ts,
                body.rollback_if_not_exist
            ),
            |say| {
                let mut reply =
                    kv::CheckTxnStatusResponse { error: key_error(say.as_ref()), ..Default::default() };
                match say {
                    Some(Say::Committed(at)) => reply.commit_version = at,
                    Some(Say::Async(at)) => {
                        (reply.lock_ttl, reply.async_commit_version) = (3000, at);
                        reply.secondaries = vec!["z".into()];
                    }
                    Some(Say::RolledBack) => reply.set_action(Action::CheckTxnStatusLockNotExistRollback),
                    Some(Say::Pushed) => {
                        reply.lock_ttl = 3000;
                        reply.set_action(Action::CheckTxnStatusMinCommitTsPushed);
                    }
                    _ => {}
                }
                reply
            }
        )
    }

    async fn kv_batch_get(
        &self,
        _: Request<kv::KvBatchGetRequest>,
    ) -> Result<Response<kv::KvBatchGetResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

/// A lock of transaction `start` on `key`, with its primary.
pub fn locked(key: &'static str, primary: &'static str, start: u64) -> kv::KeyError {
    let lock = kv::Locked {
        key: key.into(),
        primary_lock: primary.into(),
        lock_version: start,
        lock_ttl: 3000,
        ..Default::default()
    };
    kv::KeyError { locked: Some(lock), ..Default::default() }
}

/// A write conflict on `key`.
pub fn conflict(key: &'static str) -> kv::KeyError {
    let conflict = kv::WriteConflict { key: key.into(), commit_ts: 99, ..Default::default() };
    kv::KeyError { write_conflict: Some(conflict), ..Default::default() }
}

/// An abort.
pub fn abort(text: &str) -> kv::KeyError {
    kv::KeyError { abort: text.into(), ..Default::default() }
}

struct MemNet(Cluster);

impl Net for MemNet {
    fn serve(&self, _: &str, _: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>> {
        Box::pin(async { Err(io::Error::other("nothing is served here")) })
    }

    fn connect(&self, addr: &str) -> Channel {
        let number = addr.split(':').next().and_then(|name| name.chars().last()).and_then(|c| c.to_digit(10));
        let number = u64::from(number.unwrap_or(0));
        let routes = if addr.starts_with('c') {
            Routes::new(CoordinatorServer::new(FakeCoordinator(self.0.clone(), number)))
        } else {
            Routes::new(NoKvServer::new(FakeStore(self.0.clone(), number)))
        };
        let (cluster, is_store) = (self.0.clone(), !addr.starts_with('c'));
        let routes = ServiceExt::<http::Request<tonic::body::Body>>::map_request(
            routes,
            move |request: http::Request<tonic::body::Body>| {
                if is_store {
                    let id = request.headers().get("nokv-trace-id").and_then(|id| id.to_str().ok());
                    cluster.state().trace_ids.insert(id.unwrap_or_default().to_owned());
                }
                request
            },
        );
        let calls = ServiceExt::<http::Request<tonic::body::Body>>::map_err(routes, |never| {
            NetError(Box::new(never))
        });
        BoxCloneSyncService::new(calls)
    }
}

struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant(self.0.elapsed().as_nanos() as u64)
    }

    fn unix_millis(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(self.0 + Duration::from_nanos(deadline.0)))
    }
}

struct TokioTasks;

impl Tasks for TokioTasks {
    fn spawn(&self, _: &'static str, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }

    fn spawn_dedicated(&self, _: &'static str, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }
}
