//! Who replicates a region: peers come as learners and get their vote when they have caught up; peers leave.
//!
//! ```text
//! add_peer     [1 2 3]    →  [1 2 3] + learner 4      4 is created by the leader's first message, gets a snapshot
//! promote                 →  [1 2 3 4]                once 4 has all that was committed a moment ago
//! remove_peer  [1 2 3 4]  →  [2 3 4]                  the leader hands over before it leaves itself
//! ```
//!
//! One change at a time: while a learner catches up, no other peer comes, and no voter goes. So an empty peer never
//! counts for a majority, and no accepted change leaves a majority that cannot answer.

use crate::machine::Reply;
use crate::region::{Region, State};
use crate::store::Shared;
use bytes::BytesMut;
use nokv_env::ClockExt;
use nokv_proto::coordinator::v1::AllocIdRequest;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_replica::{ConfChange, GroupStatus, PeerChange, ProposeError};
use prost::encoding::encode_varint;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Ticks between two looks at learners: the driver shows their progress about that often.
const LOOK_TICKS: u32 = 10;

/// A region that is led here, as it is now.
pub(crate) struct Led {
    pub(crate) region: Arc<Region>,
    pub(crate) state: State,
    pub(crate) status: GroupStatus,
}

pub(crate) fn refuse(text: String) -> Status {
    Status::failed_precondition(text)
}

impl Shared {
    pub(crate) fn led(&self, region_id: u64) -> Result<Led, Status> {
        let missing = || Status::not_found(format!("region {region_id} is not here"));
        let region = self.door.regions.get(region_id).ok_or_else(missing)?;
        let (state, status) = (region.state(), self.raft.status(region.group()).ok_or_else(missing)?);
        if !state.role.is_leader {
            return Err(refuse(match state.leader() {
                Some(leader) => format!("region {region_id} is led by store {}", leader.store_id),
                None => format!("region {region_id} has no known leader"),
            }));
        }
        Ok(Led { region, state, status })
    }

    /// Adds a peer on `store_id` as a learner; it gets its vote by itself. Id 0: one is drawn. The region as it is then.
    /// `made_for`: nothing is done at another configuration version; 0: at whatever version the region has now.
    pub(crate) async fn add_peer(
        &self,
        region_id: u64,
        store_id: u64,
        peer_id: u64,
        made_for: u64,
    ) -> Result<RegionDescriptor, Status> {
        let Led { region, state, status } = self.led(region_id)?;
        let descriptor = &state.descriptor;
        if let Some(known) = descriptor.peer_on_store(store_id) {
            if peer_id == 0 || known.peer_id == peer_id {
                return Ok((**descriptor).clone());
            }
            return Err(refuse(format!("region {region_id} has peer {} on store {store_id}", known.peer_id)));
        }
        if descriptor.peer(peer_id).is_some() {
            return Err(refuse(format!("region {region_id} has a peer {peer_id} on another store")));
        }
        if let Some(learner) = status.learners.first() {
            return Err(refuse(format!("peer {learner} of region {region_id} is still catching up")));
        }
        self.known_to_root(region_id, descriptor)?;
        let peer_id = if peer_id == 0 { self.new_ids(1).await? } else { peer_id };
        let mut context = BytesMut::new();
        encode_varint(store_id, &mut context);
        encode_varint(peer_id, &mut context);
        let made_for = version_or(made_for, descriptor);
        let changes = vec![PeerChange::AddLearner(peer_id)];
        self.change(&region, ConfChange { changes, context: context.freeze(), made_for }).await?;
        self.env.probe("store.peer.added");
        Ok((*region.descriptor()).clone())
    }

    /// Removes a peer. The region as it is then. `made_for` as in [`Self::add_peer`].
    pub(crate) async fn remove_peer(
        &self,
        region_id: u64,
        peer_id: u64,
        made_for: u64,
    ) -> Result<RegionDescriptor, Status> {
        let Led { region, state, status } = self.led(region_id)?;
        if state.descriptor.peer(peer_id).is_none() {
            return Ok((*state.descriptor).clone());
        }
        may_leave(&status, peer_id).map_err(|why| refuse(format!("region {region_id}: {why}")))?;
        self.known_to_root(region_id, &state.descriptor)?;
        if state.peer == Some(peer_id) {
            return Err(self.hand_over(&region, &status, peer_id).await);
        }
        // What was judged above holds for this configuration only: the log refuses it at another one.
        let made_for = version_or(made_for, &state.descriptor);
        let changes = vec![PeerChange::Remove(peer_id)];
        self.change(&region, ConfChange { changes, made_for, ..ConfChange::default() }).await?;
        Ok((*region.descriptor()).clone())
    }

    /// A leader that is to leave hands over first; the new leader is to be asked.
    async fn hand_over(&self, region: &Region, status: &GroupStatus, own: u64) -> Status {
        let heir = |peer: &&u64| **peer != own && status.active.contains(peer);
        let heirs = status.voters.iter().filter(heir);
        let Some(heir) = heirs.max_by_key(|peer| status.matched.get(peer)) else {
            return refuse(format!("region {}: nobody could lead after peer {own}", region.id));
        };
        self.env.probe("store.peer.leader_leaves");
        match self.raft.transfer_leader(region.group(), *heir).await {
            Ok(()) => refuse(format!("region {}: peer {heir} is to lead it first; ask that", region.id)),
            Err(error) => refuse(format!("region {}: {error}", region.id)),
        }
    }

    async fn change(&self, region: &Region, change: ConfChange) -> Result<(), Status> {
        let proposal = self.raft.propose_conf_change(region.group(), change);
        match self.env.clock.timeout(self.config.command_timeout, proposal).await {
            Ok(Ok(Reply::Configured)) => Ok(()),
            Ok(Ok(_)) => Err(Status::internal("a change of membership was answered as something else")),
            Ok(Err(ProposeError::Unknown)) => Err(Status::unavailable("the store is stopping")),
            Ok(Err(error)) => Err(refuse(format!("region {}: {error}", region.id))),
            Err(_) => Err(Status::deadline_exceeded("not done in time; the change may still happen")),
        }
    }

    /// Refuses to change a region that the meta-root has not heard of: it could not follow.
    pub(crate) fn known_to_root(&self, region_id: u64, region: &RegionDescriptor) -> Result<(), Status> {
        let is_first = region.epoch_pair() == (1, 1) && !crate::split::is_child(region);
        if is_first && !self.publications.has_published(region_id) {
            return Err(refuse(format!("the meta-root does not know region {region_id} yet")));
        }
        Ok(())
    }

    /// The first of `count` new ids.
    pub(crate) async fn new_ids(&self, count: u64) -> Result<u64, Status> {
        let ids = self
            .coordinators
            .first(|mut client| async move { client.alloc_id(AllocIdRequest { count }).await })
            .await?;
        if ids.first_id < nokv_proto::limits::FIRST_ALLOCATED_ID || ids.count != count {
            return Err(Status::internal(
                "the coordinator handed out ids that are not for new regions and peers",
            ));
        }
        Ok(ids.first_id)
    }
}

/// The configuration version that the caller decided for, or the one that the region has.
fn version_or(made_for: u64, region: &RegionDescriptor) -> u64 {
    if made_for != 0 { made_for } else { region.epoch_pair().1 }
}

/// Whether the group can do without a peer; the error says why not.
fn may_leave(status: &GroupStatus, peer: u64) -> Result<(), String> {
    if status.learners.contains(&peer) {
        return Ok(());
    }
    if let Some(learner) = status.learners.first() {
        return Err(format!("peer {learner} is still catching up"));
    }
    let rest: Vec<u64> = status.voters.iter().copied().filter(|voter| *voter != peer).collect();
    let alive = rest.iter().filter(|voter| status.active.contains(voter)).count();
    if rest.is_empty() {
        return Err("its last peer cannot leave".to_owned());
    }
    if alive < rest.len() / 2 + 1 {
        let left = rest.len();
        return Err(format!("would lose quorum: without peer {peer}, {alive} of {left} voters are alive"));
    }
    Ok(())
}

/// Gives learners their vote once they have caught up, for ever.
pub(crate) async fn promote(shared: &Shared) {
    // What was committed at the last look.
    let mut before: BTreeMap<u64, u64> = BTreeMap::new();
    loop {
        let mut now = BTreeMap::new();
        for region in shared.door.regions.all() {
            let Some(status) = shared.raft.status(region.group()).filter(|status| status.is_leader) else {
                continue;
            };
            let Some(learner) = status.learners.first() else { continue };
            let has_caught_up = before
                .get(&region.id)
                .is_some_and(|commit| status.matched.get(learner).is_some_and(|matched| matched >= commit));
            if has_caught_up {
                let change =
                    ConfChange { changes: vec![PeerChange::AddVoter(*learner)], ..ConfChange::default() };
                match shared.change(&region, change).await {
                    Ok(()) => shared.env.probe("store.peer.promoted"),
                    Err(error) => tracing::debug!(region = region.id, learner, %error, "not promoted yet"),
                }
            }
            now.insert(region.id, status.commit);
        }
        if now.is_empty() {
            shared.bells.members.notified().await;
        }
        before = now;
        shared.env.clock.sleep(look_interval(shared)).await;
    }
}

fn look_interval(shared: &Shared) -> Duration {
    shared.config.tick * LOOK_TICKS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(voters: &[u64], learners: &[u64], active: &[u64]) -> GroupStatus {
        GroupStatus {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            active: active.to_vec(),
            ..GroupStatus::default()
        }
    }

    #[test]
    fn a_peer_leaves_only_when_the_others_are_a_majority_that_answers() {
        let may = |voters: &[u64], learners: &[u64], active: &[u64], peer| {
            may_leave(&status(voters, learners, active), peer).is_ok()
        };
        assert!(may(&[1, 2, 3], &[], &[1, 2, 3], 3));
        assert!(may(&[1, 2, 3], &[], &[1, 2], 3), "a dead peer");
        assert!(!may(&[1, 2, 3], &[], &[1, 2], 2), "one of the two that are left");
        assert!(!may(&[1, 2], &[], &[1], 1) && may(&[1, 2], &[], &[1], 2));
        assert!(!may(&[1], &[], &[1], 1), "the last");
        assert!(!may(&[1, 2, 3], &[4], &[1, 2, 3, 4], 3), "while another one catches up");
        assert!(may(&[1, 2, 3], &[4], &[1, 2, 3], 4), "a learner that nobody hears of");
    }
}
