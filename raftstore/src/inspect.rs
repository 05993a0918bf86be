//! What a replica holds of one key, for an operator who asks.

use crate::admission::{Admitted, Refused};
use crate::store::Shared;
use crate::{gc, mvcc, read};
use nokv_env::ClockExt;
use nokv_proto::admin::v1::{MvccGetRequest, MvccGetResponse};
use nokv_proto::limits::KEY_BYTES_MAX;
use tonic::Status;

/// Records that one answer has, at most.
const RECORDS_MAX: u32 = 1_000;

impl Shared {
    /// Shows a key as the leader has it, which is as of now, or as this replica has it, which may be older.
    pub(crate) async fn mvcc_get(&self, request: &MvccGetRequest) -> Result<MvccGetResponse, Status> {
        let (region_id, key) = (request.region_id, &request.key);
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let text = format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one {}", key.len());
            return Err(Status::invalid_argument(text));
        }
        let missing = || Status::not_found(format!("region {region_id} is not here"));
        let region = self.door.regions.get(region_id).ok_or_else(missing)?;
        let state = region.state();
        if !state.is_hosted() {
            return Err(missing());
        }
        let descriptor = state.descriptor.clone();
        if !descriptor.contains(key) {
            return Err(Status::failed_precondition(format!(
                "the key is not in region {region_id} any more"
            )));
        }
        let moment = if request.any_replica {
            let snapshot = self.db.snapshot();
            gc::still_here(&region, descriptor.epoch_pair().0).map_err(Status::aborted)?;
            snapshot
        } else {
            let admitted = Admitted { region: region.clone(), descriptor: descriptor.clone() };
            let moment = read::moment(&self.env, &self.db, &self.raft, &admitted, 0);
            match self.env.clock.timeout(self.config.command_timeout, moment).await {
                Ok(moment) => moment.map_err(|refused| refusal(region_id, refused))?,
                Err(_) => return Err(Status::unavailable("leadership could not be confirmed in time")),
            }
        };
        let limit = if request.limit == 0 { RECORDS_MAX } else { request.limit.min(RECORDS_MAX) };
        let seen = mvcc::inspect(&moment, key, limit as usize)
            .map_err(|error| Status::data_loss(format!("region {region_id}: {error}")))?;
        let now = region.state();
        Ok(MvccGetResponse {
            region: Some((*descriptor).clone()),
            store_id: self.config.store_id,
            peer_id: now.peer.unwrap_or(0),
            leader: now.role.is_leader,
            applied_index: now.applied.index,
            safe_point: region.gc().safe_point,
            lock: seen.lock,
            records: seen.records,
            more: seen.more,
        })
    }
}

/// A region's refusal in words; whoever asks looks for the leader again.
fn refusal(region_id: u64, refused: Refused) -> Status {
    let error = match refused {
        Refused::Status(status) => return status,
        Refused::Region(error) => error,
    };
    let text = match error.not_leader {
        Some(other) => match other.leader {
            Some(leader) => format!("region {region_id} is led by store {}", leader.store_id),
            None => format!("region {region_id} has no known leader"),
        },
        None => format!("region {region_id} changed meanwhile; look again"),
    };
    Status::failed_precondition(text)
}
