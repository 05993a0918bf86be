//! Comparing replicas, as entries: see [`crate::check`].

use super::{Reply, StoreMachine};
use crate::catalog::{self, Position};
use crate::check::Job;
use crate::merge;
use crate::pending;
use nokv_engine::WriteBatch;
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch};
use nokv_proto::raft::v1::QuarantineCommand;
use nokv_replica::{Fatal, GroupId};

impl StoreMachine {
    /// Keeps what the region holds here, to be added up outside of the raft loop.
    pub(super) fn apply_check(&mut self, group: GroupId, at: Position) -> Result<Reply, Fatal> {
        let region = self.hosted(group)?.region.clone();
        let (state, gc, index) = (region.state(), region.gc(), at.index);
        if let Some(peer) = state.peer.map(|peer| region.told_peer(peer)) {
            self.checks.begin(Job { peer, region: state.descriptor, gc, index, content: self.db.snapshot() });
        }
        self.commit(group, at, WriteBatch::new())?;
        Ok(Reply::Checked(at.index))
    }

    /// Notes in the region that a peer holds something else than the others.
    pub(super) fn apply_quarantine(
        &mut self,
        group: GroupId,
        at: Position,
        quarantine: QuarantineCommand,
    ) -> Result<Reply, Fatal> {
        let region = self.hosted(group)?.region.clone();
        let old = region.descriptor();
        let peer = quarantine.peer_id;
        let mut batch = WriteBatch::new();
        // The peers of a frozen region stay as they are; it is checked again after the merge.
        if old.peer(peer).is_none() || old.is_quarantined(peer) || merge::is_frozen(&old) {
            self.commit(group, at, batch)?;
            return Ok(Reply::Quarantined);
        }
        let mut now: RegionDescriptor = (*old).clone();
        now.quarantined_peer_ids.push(peer);
        let (version, conf_version) = old.epoch_pair();
        now.epoch = Some(RegionEpoch { version, conf_version: conf_version + 1 });
        self.env.probe("store.check.quarantined");
        tracing::error!(
            region = group.0,
            peer,
            index = quarantine.index,
            "this peer held something else than the other replicas; it serves nothing any more"
        );
        catalog::put_region(&mut batch, &now);
        self.pending.add(&mut batch, pending::published(&now));
        region.set_descriptor(now, self.store_id);
        region.tell(&self.env);
        self.commit(group, at, batch)?;
        self.bells.publish.notify_one();
        self.bells.members.notify_one();
        Ok(Reply::Quarantined)
    }
}
