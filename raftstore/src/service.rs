//! The client's front door: `nokv.kv.v1.NoKV`.

use crate::admission::{Admitted, Refused, Touch, check_limits};
use crate::apply::Outcome;
use crate::follow::{self, Terms};
use crate::machine::{Proposal, Reply};
use crate::region::refuse;
use crate::slow::Trip;
use crate::store::Shared;
use crate::{command, gc, mvcc, read, room, traffic};
use bytes::Bytes;
use nokv_engine::{Pressure, Snapshot};
use nokv_env::{ClockExt, Fact};
use nokv_proto::admin::v1::{ExecutionAdmissionClass as Class, ExecutionAdmissionReason as Reason};
use nokv_proto::kv::v1::no_kv_server::NoKv;
use nokv_proto::kv::v1::{
    BatchGetResponse, Context, GetRequest, GetResponse, KeyError, KvBatchGetRequest, KvBatchGetResponse,
    KvBatchRollbackRequest, KvBatchRollbackResponse, KvCheckSecondaryLocksRequest,
    KvCheckSecondaryLocksResponse, KvCheckTxnStatusRequest, KvCheckTxnStatusResponse, KvCommitRequest,
    KvCommitResponse, KvGetRequest, KvGetResponse, KvPrewriteRequest, KvPrewriteResponse, KvReadIndexRequest,
    KvReadIndexResponse, KvResolveLockRequest, KvResolveLockResponse, KvScanRequest, KvScanResponse,
    KvTxnHeartBeatRequest, KvTxnHeartBeatResponse, ReadIndexResponse, ScanResponse,
};
use nokv_proto::limits::COMMAND_BYTES_MAX;
use nokv_proto::raft::v1::request::Cmd;
use nokv_proto::raft::v1::response;
use nokv_replica::ProposeError;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Answers the RPCs.
#[derive(Clone)]
pub(crate) struct KvService(pub(crate) Arc<Shared>);

/// What the log adds to a command, at most. An entry too large for raft must be refused before it may count as a
/// commit in one round trip.
const COMMAND_OVERHEAD: usize = 256;

type RpcResult<T> = Result<Response<T>, Status>;

fn payload<T>(request: Option<T>) -> Result<T, Status> {
    request.ok_or_else(|| Status::invalid_argument("the request has no payload"))
}

/// Wraps how a request ended into its RPC response: an answer, or a region error inside it.
macro_rules! respond {
    ($response:ident, $ended:expr) => {{
        let (response, region_error) = match $ended {
            Ok(response) => (Some(response), None),
            Err(Refused::Region(error)) => (None, Some(*error)),
            Err(Refused::Status(status)) => return Err(status),
        };
        Ok(Response::new($response { response, region_error }))
    }};
}

/// A write RPC: take the request apart, replicate the command, unwrap the answer of its kind.
macro_rules! write_rpc {
    ($self:ident, $request:ident, $response:ident, $kind:ident) => {{
        let mut trip = Trip::begin(&$self.0, concat!("Kv", stringify!($kind)), &$request);
        let request = $request.into_inner();
        let cmd = Cmd::$kind(payload(request.request)?);
        let ended = match $self.write(&mut trip, request.context.as_ref(), cmd).await {
            Ok(response::Cmd::$kind(response)) => Ok(response),
            Ok(_) => return Err(Status::internal("the answer is of another kind than the command")),
            Err(refused) => Err(refused),
        };
        respond!($response, ended)
    }};
}

#[tonic::async_trait]
impl NoKv for KvService {
    async fn kv_get(&self, request: Request<KvGetRequest>) -> RpcResult<KvGetResponse> {
        let mut trip = Trip::begin(&self.0, "KvGet", &request);
        let request = request.into_inner();
        let get = payload(request.request)?;
        let cmd = Cmd::Get(get.clone());
        check_limits(&cmd)?;
        let touch = Touch::Keys(vec![&get.key]);
        let context = request.context.as_ref();
        let ended = self.read(&mut trip, context, &touch, get.version).await;
        let ended =
            ended.and_then(|(admitted, moment)| self.look(|ms| self.get(&admitted, &moment, &get, ms)));
        trip.ended(&ended);
        if let Ok(GetResponse { error: None, .. }) = &ended {
            self.shown(context, get.version, [&get.key]);
        }
        respond!(KvGetResponse, ended)
    }

    async fn kv_batch_get(&self, request: Request<KvBatchGetRequest>) -> RpcResult<KvBatchGetResponse> {
        let mut trip = Trip::begin(&self.0, "KvBatchGet", &request);
        let request = request.into_inner();
        let batch = payload(request.request)?;
        for get in &batch.requests {
            check_limits(&Cmd::Get(get.clone()))?;
        }
        let touch = Touch::Keys(batch.requests.iter().map(|get| &get.key).collect());
        let version = batch.requests.iter().map(|get| get.version).filter(|v| *v != u64::MAX).max();
        let ended = self.read(&mut trip, request.context.as_ref(), &touch, version.unwrap_or(0)).await;
        let ended = ended.and_then(|(admitted, moment)| {
            self.look(|ms| {
                let gets = batch.requests.iter().map(|get| self.get(&admitted, &moment, get, ms));
                Ok(BatchGetResponse { responses: gets.collect::<mvcc::Result<_>>()? })
            })
        });
        trip.ended(&ended);
        if let Ok(response) = &ended {
            let got = batch.requests.iter().zip(&response.responses).filter(|(_, got)| got.error.is_none());
            got.for_each(|(get, _)| self.shown(request.context.as_ref(), get.version, [&get.key]));
        }
        respond!(KvBatchGetResponse, ended)
    }

    async fn kv_scan(&self, request: Request<KvScanRequest>) -> RpcResult<KvScanResponse> {
        let mut trip = Trip::begin(&self.0, "KvScan", &request);
        let request = request.into_inner();
        let scan = payload(request.request)?;
        check_limits(&Cmd::Scan(scan.clone()))?;
        let ended = self.read(&mut trip, request.context.as_ref(), &Touch::Scan(&scan), scan.version).await;
        let ended = ended.and_then(|(admitted, moment)| {
            self.look(|ms| match self.too_old(&admitted, scan.version) {
                Some(error) => Ok(ScanResponse { error: Some(error), ..Default::default() }),
                None => {
                    let found = mvcc::scan(&moment, &scan, &admitted.descriptor.range(), ms)?;
                    let bytes = found.kvs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
                    admitted.region.traffic().read(found.kvs.len(), bytes);
                    Ok(found)
                }
            })
        });
        trip.ended(&ended);
        if let Ok(ScanResponse { error: None, kvs, .. }) = &ended {
            self.shown(request.context.as_ref(), scan.version, kvs.iter().map(|pair| &pair.key));
        }
        self.0.env.tasks.yield_now().await;
        respond!(KvScanResponse, ended)
    }

    async fn kv_prewrite(&self, request: Request<KvPrewriteRequest>) -> RpcResult<KvPrewriteResponse> {
        write_rpc!(self, request, KvPrewriteResponse, Prewrite)
    }

    async fn kv_commit(&self, request: Request<KvCommitRequest>) -> RpcResult<KvCommitResponse> {
        write_rpc!(self, request, KvCommitResponse, Commit)
    }

    async fn kv_batch_rollback(
        &self,
        request: Request<KvBatchRollbackRequest>,
    ) -> RpcResult<KvBatchRollbackResponse> {
        write_rpc!(self, request, KvBatchRollbackResponse, BatchRollback)
    }

    async fn kv_resolve_lock(
        &self,
        request: Request<KvResolveLockRequest>,
    ) -> RpcResult<KvResolveLockResponse> {
        write_rpc!(self, request, KvResolveLockResponse, ResolveLock)
    }

    async fn kv_check_txn_status(
        &self,
        request: Request<KvCheckTxnStatusRequest>,
    ) -> RpcResult<KvCheckTxnStatusResponse> {
        let asked = request.get_ref().request.clone().unwrap_or_default();
        let answered: RpcResult<KvCheckTxnStatusResponse> =
            write_rpc!(self, request, KvCheckTxnStatusResponse, CheckTxnStatus);
        let mut reply = answered?;
        if let Some(status) = &mut reply.get_mut().response
            && status.async_commit_version != 0
            && !asked.knows_async
        {
            gc::speak_for_secondaries(&self.0, asked.primary_key, asked.lock_ts, status).await;
        }
        Ok(reply)
    }

    async fn kv_check_secondary_locks(
        &self,
        request: Request<KvCheckSecondaryLocksRequest>,
    ) -> RpcResult<KvCheckSecondaryLocksResponse> {
        write_rpc!(self, request, KvCheckSecondaryLocksResponse, CheckSecondaryLocks)
    }

    async fn kv_txn_heart_beat(
        &self,
        request: Request<KvTxnHeartBeatRequest>,
    ) -> RpcResult<KvTxnHeartBeatResponse> {
        write_rpc!(self, request, KvTxnHeartBeatResponse, TxnHeartBeat)
    }

    async fn kv_read_index(&self, request: Request<KvReadIndexRequest>) -> RpcResult<KvReadIndexResponse> {
        let mut trip = Trip::begin(&self.0, "KvReadIndex", &request);
        let request = request.into_inner();
        let version = payload(request.request)?.version;
        trip.touches(request.context.as_ref().map_or(0, |context| context.region_id), std::iter::empty());
        let ended = self.read_index(request.context.as_ref(), version).await;
        trip.ended(&ended);
        respond!(KvReadIndexResponse, ended)
    }
}

impl KvService {
    /// Admits a read and waits for the moment it may look at.
    async fn read(
        &self,
        trip: &mut Trip<'_>,
        context: Option<&Context>,
        touch: &Touch<'_>,
        version: u64,
    ) -> Result<(Admitted, Snapshot), Refused> {
        let shared = &self.0;
        trip.touches(context.map_or(0, |context| context.region_id), touch.keys());
        let admitted = shared.door.admit(Class::Read, context, touch, shared.env.clock.unix_millis())?;
        admitted.region.traffic().asked();
        let terms = Terms::of(context);
        let leads = admitted.region.state().role.is_leader;
        let moment = async {
            // A leader would only ask itself, which costs it as much as a read of its own.
            if terms.anywhere && (!leads || shared.env.chance("store.read.as_follower", 0.2)) {
                follow::moment(shared, &admitted, terms, version).await
            } else {
                read::moment(&shared.env, &shared.db, &shared.raft, &admitted, version).await
            }
        };
        match shared.env.clock.timeout(self.patience(), moment).await {
            Ok(moment) => {
                let moment = moment?;
                trip.confirmed();
                Ok((admitted, moment))
            }
            Err(_) => Err(self.timed_out(Class::Read, context)),
        }
    }

    /// Up to where a replica must have applied for a read at `version`, as this leader says.
    async fn read_index(
        &self,
        context: Option<&Context>,
        version: u64,
    ) -> Result<ReadIndexResponse, Refused> {
        let shared = &self.0;
        let touch = Touch::Keys(Vec::new());
        let admitted = shared.door.admit(Class::Read, context, &touch, shared.env.clock.unix_millis())?;
        let index = read::index(&shared.env, &shared.raft, &admitted, version);
        match shared.env.clock.timeout(self.patience(), index).await {
            Ok(index) => Ok(ReadIndexResponse { index: index? }),
            Err(_) => Err(self.timed_out(Class::Read, context)),
        }
    }

    /// What is wrong with a read at `version`, if the versions that it needs may be gone. Asked after the read's moment
    /// was taken, as the epoch is: the region's safe point rises before the engine shows what it stands for.
    fn too_old(&self, admitted: &Admitted, version: u64) -> Option<KeyError> {
        let safe_point = admitted.region.gc().safe_point.max(self.0.points.safe_point());
        if !mvcc::is_too_old(version, safe_point) {
            return None;
        }
        self.0.env.probe("store.read.below_safe_point");
        Some(mvcc::too_old(version, safe_point))
    }

    /// Tells whoever watches that keys were shown as they are at `version`. A stale read promises less, and one of the newest
    /// versions nothing of later ones.
    fn shown<'a>(&self, context: Option<&Context>, version: u64, keys: impl IntoIterator<Item = &'a Bytes>) {
        let env = &self.0.env;
        if env.watching() && version != u64::MAX && Terms::of(context).is_strong() {
            for key in keys {
                env.fact(Fact::Shown { key: key.to_vec(), version });
            }
        }
    }

    fn get(
        &self,
        admitted: &Admitted,
        moment: &Snapshot,
        get: &GetRequest,
        wall_ms: u64,
    ) -> mvcc::Result<GetResponse> {
        match self.too_old(admitted, get.version) {
            Some(error) => Ok(GetResponse { error: Some(error), ..Default::default() }),
            None => {
                let found = mvcc::get(moment, get, wall_ms)?;
                admitted.region.traffic().read(1, get.key.len() + found.value.len());
                Ok(found)
            }
        }
    }

    /// Evaluates a read. `look` is given the wall clock in milliseconds.
    fn look<T>(&self, look: impl FnOnce(u64) -> mvcc::Result<T>) -> Result<T, Refused> {
        look(self.0.env.clock.unix_millis()).map_err(|error| Status::internal(error.to_string()).into())
    }

    /// Admits a command, replicates it and waits until it is applied here.
    async fn write(
        &self,
        trip: &mut Trip<'_>,
        context: Option<&Context>,
        cmd: Cmd,
    ) -> Result<response::Cmd, Refused> {
        let ended = self.replicate(trip, context, cmd).await;
        trip.ended(&ended);
        ended
    }

    async fn replicate(
        &self,
        trip: &mut Trip<'_>,
        context: Option<&Context>,
        cmd: Cmd,
    ) -> Result<response::Cmd, Refused> {
        let shared = &self.0;
        let marks = trip.proposes();
        if context.is_some() {
            check_limits(&cmd)?;
        }
        let keys = Touch::Keys(command::keys(&cmd));
        trip.touches(context.map_or(0, |context| context.region_id), keys.keys());
        let admitted = shared.door.admit(Class::Write, context, &keys, shared.env.clock.unix_millis())?;
        admitted.region.traffic().asked();
        if shared.db.pressure() == Pressure::Stop {
            shared.env.probe("store.write.pressure");
            return Err(Status::resource_exhausted("the engine is behind with its background work").into());
        }
        // What was begun may end: that makes no data, but an end of locks.
        if matches!(cmd, Cmd::Prewrite(_)) && shared.room.level() > room::Level::Open {
            shared.env.probe("store.write.no_room");
            return Err(Status::resource_exhausted(room::refusal(shared)).into());
        }
        if weight(&cmd) + COMMAND_OVERHEAD > COMMAND_BYTES_MAX {
            return Err(refuse::too_large(admitted.region.id).into());
        }
        let Some(epoch) = admitted.descriptor.epoch else {
            return Err(Status::internal("the region has no epoch").into());
        };
        let written = match &cmd {
            Cmd::Prewrite(prewrite) => traffic::weight(&prewrite.mutations),
            _ => (0, 0),
        };
        let proposal = Proposal::Data { epoch, cmd };
        let proposal = shared.raft.propose_marked(admitted.region.group(), proposal, marks);
        match shared.env.clock.timeout(self.patience(), proposal).await {
            Ok(Ok(Reply::Outcome(outcome))) => {
                let response = unwrap(outcome)?;
                admitted.region.traffic().wrote(written);
                Ok(response)
            }
            Ok(Ok(Reply::Gone)) => {
                let text = "the peer was removed meanwhile; the command may still take effect";
                Err(Status::unavailable(text).into())
            }
            Ok(Ok(_)) => Err(Status::internal("a command was answered as a change").into()),
            Ok(Err(error)) => Err(not_proposed(&admitted, error)),
            Err(_) => Err(self.timed_out(Class::Write, context)),
        }
    }

    /// How long a request may take.
    fn patience(&self) -> Duration {
        let shared = &self.0;
        if shared.env.chance("store.command.impatient", 0.003) {
            return Duration::from_millis(1);
        }
        shared.config.command_timeout
    }

    fn timed_out(&self, class: Class, context: Option<&Context>) -> Refused {
        let shared = &self.0;
        shared.env.probe("store.command.timed_out");
        let limit = shared.config.command_timeout;
        let text = format!("not done within {limit:?}; a write may still take effect");
        shared.door.record(class, Reason::TimedOut, context, text.clone(), shared.env.clock.unix_millis());
        Status::deadline_exceeded(text).into()
    }
}

fn unwrap(outcome: Outcome) -> Result<response::Cmd, Refused> {
    outcome.map(|response| *response).map_err(Refused::Region)
}

/// Bytes of a command in the log, about.
fn weight(cmd: &Cmd) -> usize {
    match cmd {
        Cmd::Get(request) => request.encoded_len(),
        Cmd::Scan(request) => request.encoded_len(),
        Cmd::Prewrite(request) => request.encoded_len(),
        Cmd::Commit(request) => request.encoded_len(),
        Cmd::BatchRollback(request) => request.encoded_len(),
        Cmd::ResolveLock(request) => request.encoded_len(),
        Cmd::CheckTxnStatus(request) => request.encoded_len(),
        Cmd::Gc(request) => request.encoded_len(),
        Cmd::TxnHeartBeat(request) => request.encoded_len(),
        Cmd::CheckSecondaryLocks(request) => request.encoded_len(),
    }
}

/// The answer to a command that raft did not take or lost. Only `Unknown` leaves open whether it has an effect.
fn not_proposed(admitted: &Admitted, error: ProposeError) -> Refused {
    let mut state = admitted.region.state();
    match error {
        ProposeError::NotLeader { leader } => {
            state.role.leader = leader.or(state.role.leader.filter(|peer| Some(*peer) != state.peer));
            refuse::not_leader(&state).into()
        }
        ProposeError::NotHosted => refuse::not_found(admitted.region.id).into(),
        ProposeError::Dropped => refuse::stale().into(),
        ProposeError::Busy => Status::resource_exhausted("too many proposals wait in this region").into(),
        ProposeError::TooLarge { .. } => refuse::too_large(admitted.region.id).into(),
        ProposeError::Refused(why) => {
            Status::internal(format!("a command was taken for a change: {why}")).into()
        }
        ProposeError::Unknown => {
            Status::unavailable("the store is stopping; the command may still take effect").into()
        }
    }
}
