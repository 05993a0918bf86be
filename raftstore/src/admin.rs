//! The operator's front door: `nokv.admin.v1.RaftAdmin`.

use crate::members::NewPeer;
use crate::region::Burden;
use crate::snapshot::{Reading, Source};
use crate::store::Shared;
use crate::topology::{self, Outcome};
use futures_util::stream::BoxStream;
use nokv_proto::admin::v1::raft_admin_server::RaftAdmin;
use nokv_proto::admin::v1::{
    AddPeerRequest, AddPeerResponse, CheckRegionRequest, CheckRegionResponse,
    ExecutionPublishState as Publish, ExecutionRestartState, ExecutionRestartStatus, ExecutionStatusRequest,
    ExecutionStatusResponse, ExportRegionSnapshotRequest, ExportRegionSnapshotResponse,
    ExportRegionSnapshotStreamRequest, ExportRegionSnapshotStreamResponse, ForgetRootEventRequest,
    ForgetRootEventResponse, ImportRegionSnapshotRequest, ImportRegionSnapshotResponse,
    ImportRegionSnapshotStreamRequest, ImportRegionSnapshotStreamResponse, MergeRegionsRequest,
    MergeRegionsResponse, MvccGetRequest, MvccGetResponse, RegionLoad, RegionLoadsRequest,
    RegionLoadsResponse, RegionRuntimeStatusRequest, RegionRuntimeStatusResponse, RemovePeerRequest,
    RemovePeerResponse, ReplicaChecksumRequest, ReplicaChecksumResponse, SplitRegionRequest,
    SplitRegionResponse, TransferLeaderRequest, TransferLeaderResponse,
};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Answers the RPCs.
#[derive(Clone)]
pub(crate) struct AdminService(pub(crate) Arc<Shared>);

type RpcResult<T> = Result<Response<T>, Status>;

fn required(id: u64, what: &str) -> Result<u64, Status> {
    if id == 0 { Err(Status::invalid_argument(format!("{what} is 0"))) } else { Ok(id) }
}

/// The parts of a snapshot.
type PartStream = BoxStream<'static, Result<ExportRegionSnapshotStreamResponse, Status>>;

#[tonic::async_trait]
impl RaftAdmin for AdminService {
    type ExportRegionSnapshotStreamStream = PartStream;

    async fn add_peer(&self, request: Request<AddPeerRequest>) -> RpcResult<AddPeerResponse> {
        let request = request.into_inner();
        let region_id = required(request.region_id, "region id")?;
        let store_id = required(request.store_id, "store id")?;
        let wanted = NewPeer {
            region_id,
            store_id,
            peer_id: request.peer_id,
            replaced: request.replaced_peer_id,
            made_for: 0,
        };
        let result = self.0.add_peer(wanted).await;
        let transition = topology::add(&result, region_id, store_id, request.peer_id);
        topology::note(&self.0, transition, region_id, Outcome::of(&result));
        Ok(Response::new(AddPeerResponse { region: Some(result?) }))
    }

    async fn remove_peer(&self, request: Request<RemovePeerRequest>) -> RpcResult<RemovePeerResponse> {
        let request = request.into_inner();
        let region_id = required(request.region_id, "region id")?;
        let peer_id = required(request.peer_id, "peer id")?;
        let before = self.0.door.regions.get(region_id).map(|region| region.descriptor());
        let result = self.0.remove_peer(region_id, peer_id, request.conf_version).await;
        if let Some(before) = before {
            topology::note(&self.0, topology::remove(&before, peer_id), region_id, Outcome::of(&result));
        }
        Ok(Response::new(RemovePeerResponse { region: Some(result?) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> RpcResult<TransferLeaderResponse> {
        let request = request.into_inner();
        let region_id = required(request.region_id, "region id")?;
        let peer_id = required(request.peer_id, "peer id")?;
        let result = self.0.transfer_leader(region_id, peer_id).await.map_err(Status::failed_precondition);
        topology::note(&self.0, topology::leader(region_id, peer_id), region_id, Outcome::of(&result));
        Ok(Response::new(TransferLeaderResponse { region: Some(result?) }))
    }

    async fn export_region_snapshot(
        &self,
        request: Request<ExportRegionSnapshotRequest>,
    ) -> RpcResult<ExportRegionSnapshotResponse> {
        let region_id = required(request.into_inner().region_id, "region id")?;
        let reading = Reading::begin(&self.0, region_id)?;
        let region = Some(reading.header.region.clone());
        Ok(Response::new(ExportRegionSnapshotResponse { snapshot: reading.whole().await?, region }))
    }

    async fn export_region_snapshot_stream(
        &self,
        request: Request<ExportRegionSnapshotStreamRequest>,
    ) -> RpcResult<PartStream> {
        let region_id = required(request.into_inner().region_id, "region id")?;
        Ok(Response::new(Reading::begin(&self.0, region_id)?.stream()))
    }

    async fn import_region_snapshot(
        &self,
        request: Request<ImportRegionSnapshotRequest>,
    ) -> RpcResult<ImportRegionSnapshotResponse> {
        let source = Source::Whole(request.into_inner().snapshot);
        let region = self.0.import_snapshot(source).await?;
        Ok(Response::new(ImportRegionSnapshotResponse { region: Some(region) }))
    }

    async fn import_region_snapshot_stream(
        &self,
        request: Request<Streaming<ImportRegionSnapshotStreamRequest>>,
    ) -> RpcResult<ImportRegionSnapshotStreamResponse> {
        let source = Source::Stream(request.into_inner());
        let region = self.0.import_snapshot(source).await?;
        Ok(Response::new(ImportRegionSnapshotStreamResponse { region: Some(region) }))
    }

    async fn region_runtime_status(
        &self,
        request: Request<RegionRuntimeStatusRequest>,
    ) -> RpcResult<RegionRuntimeStatusResponse> {
        let region_id = required(request.into_inner().region_id, "region id")?;
        let Some(region) = self.0.door.regions.get(region_id) else {
            return Ok(Response::new(RegionRuntimeStatusResponse::default()));
        };
        let state = region.state();
        Ok(Response::new(RegionRuntimeStatusResponse {
            known: true,
            hosted: state.is_hosted(),
            local_peer_id: state.peer.unwrap_or(0),
            leader_peer_id: state.role.leader.unwrap_or(0),
            leader: state.role.is_leader,
            region: Some((*state.descriptor).clone()),
            applied_index: state.applied.index,
            applied_term: state.applied.term,
            learner_peer_ids: self
                .0
                .raft
                .status(region.group())
                .map(|status| status.learners)
                .unwrap_or_default(),
            leader_addr: state.leader().and_then(|peer| self.0.address_of(peer.store_id)).unwrap_or_default(),
        }))
    }

    async fn split_region(&self, request: Request<SplitRegionRequest>) -> RpcResult<SplitRegionResponse> {
        let request = request.into_inner();
        let region_id = required(request.region_id, "region id")?;
        let result = self.0.split(region_id, &request.split_key).await;
        let right = result.as_ref().map_or(0, |halves| halves.right.region_id);
        topology::note(&self.0, topology::split(region_id, right), region_id, Outcome::of(&result));
        let halves = result?;
        Ok(Response::new(SplitRegionResponse { left: Some(halves.left), right: Some(halves.right) }))
    }

    async fn mvcc_get(&self, request: Request<MvccGetRequest>) -> RpcResult<MvccGetResponse> {
        let request = request.into_inner();
        required(request.region_id, "region id")?;
        Ok(Response::new(self.0.mvcc_get(&request).await?))
    }

    async fn merge_regions(&self, request: Request<MergeRegionsRequest>) -> RpcResult<MergeRegionsResponse> {
        let request = request.into_inner();
        let source = required(request.source_region_id, "source region id")?;
        let target = required(request.target_region_id, "target region id")?;
        let result = self.0.merge(source, target).await;
        topology::note(&self.0, topology::merge(source, target), target, Outcome::of(&result));
        Ok(Response::new(MergeRegionsResponse { region: Some(result?) }))
    }

    async fn check_region(&self, request: Request<CheckRegionRequest>) -> RpcResult<CheckRegionResponse> {
        let region_id = required(request.into_inner().region_id, "region id")?;
        Ok(Response::new(self.0.check_region(region_id).await?))
    }

    async fn replica_checksum(
        &self,
        request: Request<ReplicaChecksumRequest>,
    ) -> RpcResult<ReplicaChecksumResponse> {
        Ok(Response::new(self.0.replica_checksum(&request.into_inner())))
    }

    async fn forget_root_event(
        &self,
        request: Request<ForgetRootEventRequest>,
    ) -> RpcResult<ForgetRootEventResponse> {
        let number = required(request.into_inner().event_number, "event number")?;
        let transition_id = self.0.forget_root_event(number)?;
        Ok(Response::new(ForgetRootEventResponse { transition_id }))
    }

    async fn region_loads(&self, _: Request<RegionLoadsRequest>) -> RpcResult<RegionLoadsResponse> {
        let regions = self.0.door.regions.all();
        let loads = regions
            .iter()
            .map(|region| (region.id, region.burden()))
            .filter(|(_, burden)| *burden != Burden::default())
            .map(|(region_id, Burden { per_second, bytes })| RegionLoad {
                region_id,
                requests_per_second: per_second,
                bytes,
            });
        Ok(Response::new(RegionLoadsResponse { loads: loads.collect() }))
    }

    async fn execution_status(
        &self,
        _: Request<ExecutionStatusRequest>,
    ) -> RpcResult<ExecutionStatusResponse> {
        let regions = self.0.door.regions.all();
        let hosted: Vec<_> = regions.iter().filter(|region| region.state().is_hosted()).collect();
        let hosted_region_ids = hosted.iter().map(|region| region.id).collect();
        // A hosted region without a raft group would be one that the driver gave up.
        let (with_group, without): (Vec<_>, Vec<_>) =
            hosted.into_iter().partition(|region| self.0.raft.status(region.group()).is_some());
        let state =
            if without.is_empty() { ExecutionRestartState::Ready } else { ExecutionRestartState::Degraded };
        let topology = topology::all(&self.0);
        let blocked = topology.iter().filter(|row| row.publish() == Publish::TerminalBlocked).count();
        let restart = ExecutionRestartStatus {
            state: state.into(),
            region_count: regions.len() as u64,
            raft_group_count: with_group.len() as u64,
            missing_raft_pointer: without.iter().map(|region| region.id).collect(),
            pending_root_event_count: self.0.publications.pending() as u64,
            blocked_root_event_count: blocked as u64,
            pending_scheduler_operation_count: self.0.operations.waiting() as u64,
        };
        Ok(Response::new(ExecutionStatusResponse {
            last_admission: Some(self.0.door.last()),
            restart: Some(restart),
            topology,
            hosted_region_ids,
        }))
    }
}
