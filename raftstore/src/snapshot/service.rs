//! Hands out the chunks of the snapshots that this store made.

use super::Snapshots;
use crate::store::Shared;
use bytes::Bytes;
use nokv_proto::raft::v1::region_snapshots_server::RegionSnapshots;
use nokv_proto::raft::v1::{SnapshotChunkRequest, SnapshotChunkResponse};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Asked for instead of a chunk by whoever will not fetch the rest.
pub(super) const GIVEN_UP: u64 = u64::MAX;

/// Answers the RPCs.
#[derive(Clone)]
pub(crate) struct SnapshotService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl RegionSnapshots for SnapshotService {
    async fn chunk(
        &self,
        request: Request<SnapshotChunkRequest>,
    ) -> Result<Response<SnapshotChunkResponse>, Status> {
        let (shared, request) = (&self.0, request.into_inner());
        let gone = || Status::not_found("this snapshot is not held here for this peer");
        let region = shared.door.regions.get(request.region_id).ok_or_else(gone)?.state();
        let serves = region.role.is_leader && region.descriptor.peer(request.peer_id).is_some();
        if serves && request.number == 1 && shared.env.chance("store.snapshot.forget", 0.1) {
            shared.snapshots.withdraw(request.region_id);
        }
        let export = shared.snapshots.export(request.snapshot_id);
        let Some(export) = export.filter(|export| serves && export.is_meant(&request)) else {
            shared.snapshots.give_up(request.region_id, request.peer_id, request.snapshot_id);
            return Err(gone());
        };
        if request.number == GIVEN_UP {
            shared.snapshots.give_up(request.region_id, request.peer_id, request.snapshot_id);
            return Err(gone());
        }
        let chunk = export
            .chunk(request.number, shared.config.snapshot_chunk_bytes)
            .map_err(|error| Status::internal(error.to_string()))?;
        let mut chunk = chunk.ok_or_else(|| Status::invalid_argument("the chunk before it comes first"))?;
        export.taken(request.peer_id, shared.env.clock.now());
        shared.env.probe("store.snapshot.taken");
        Snapshots::moved(&shared.snapshots.sent, &chunk.rows);
        // The time that the disk took passes here.
        shared.env.tasks.yield_now().await;
        if !chunk.rows.is_empty() && shared.env.chance("store.snapshot.damage", 0.02) {
            let mut damaged = chunk.rows.to_vec();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 0x10;
            chunk.rows = Bytes::from(damaged);
        }
        Ok(Response::new(chunk))
    }
}
