//! Who replicates a region: peers come as learners and get their vote when they have caught up; peers lose their vote
//! before they go.
//!
//! ```text
//! add_peer      [1 2 3]    →  [1 2 3] + learner 4     4 is created by the leader's first message, gets a snapshot
//! settle                   →  [1 2 3 4]               once 4 has all that was committed a moment ago
//! remove_peer   [1 2 3 4]  →  [1 2 4] + learner 3     a leader that is to leave hands over first
//! settle                   →  [1 2 4]
//!
//! in place of 3 [1 2 3]    →  [1 2 3] + learner 4     3 is noted in the region as the one that leaves
//! settle                   →  [1 2 4] + learner 3     both at once, through a configuration that needs both majorities
//! settle                   →  [1 2 4]
//! ```
//!
//! One change at a time: while a learner catches up, no other peer comes, and no voter goes. So an empty peer never
//! counts for a majority, and no accepted change leaves a majority that cannot answer.
//!
//! A voter does not go in one step because a removal may be known to one peer only: the others would still count the
//! removed one, which answers nobody any more, and might lack one vote for a leader. The entry that removes a learner comes
//! after the one that took its vote, so whoever has it in its log knows that the vote is gone.

use crate::machine::Reply;
use crate::membership::Beside;
use crate::region::{Region, State};
use crate::store::Shared;
use nokv_env::ClockExt;
use nokv_proto::coordinator::v1::AllocIdRequest;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_replica::{ConfChange, GroupStatus, PeerChange, ProposeError};
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

    /// Adds a peer on a store as a learner; it gets its vote by itself. The region as it is then.
    pub(crate) async fn add_peer(&self, wanted: NewPeer) -> Result<RegionDescriptor, Status> {
        let NewPeer { region_id, store_id, peer_id, replaced, made_for } = wanted;
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
        if replaced != 0 && !status.voters.contains(&replaced) {
            return Err(refuse(format!("region {region_id} has no peer {replaced} that votes")));
        }
        self.known_to_root(region_id, descriptor)?;
        let peer_id = if peer_id == 0 { self.new_ids(1).await? } else { peer_id };
        let leaving = (replaced != 0).then_some(replaced);
        let context = Beside { homes: vec![(store_id, peer_id)], leaving }.encode();
        let made_for = version_or(made_for, descriptor);
        let changes = vec![PeerChange::AddLearner(peer_id)];
        self.change(&region, ConfChange { changes, context, made_for }).await?;
        self.env.probe("store.peer.added");
        Ok((*region.descriptor()).clone())
    }

    /// Removes a peer, in two steps if it votes. The region as it is then. `made_for`: nothing is done at another
    /// configuration version; 0: at whatever version the region has now.
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
        if status.voters.contains(&peer_id) {
            // What was judged above holds for this configuration only: the log refuses it at another one.
            let made_for = version_or(made_for, &state.descriptor);
            let context = Beside { leaving: Some(peer_id), ..Beside::default() }.encode();
            let changes = vec![PeerChange::AddLearner(peer_id)];
            self.change(&region, ConfChange { changes, context, made_for }).await?;
            self.env.probe("store.peer.demoted");
        }
        let changes = vec![PeerChange::Remove(peer_id)];
        self.change(&region, ConfChange { changes, ..ConfChange::default() }).await?;
        Ok((*region.descriptor()).clone())
    }

    /// A leader that is to leave hands over first; the new leader is to be asked.
    async fn hand_over(&self, region: &Region, status: &GroupStatus, own: u64) -> Status {
        let descriptor = region.descriptor();
        let heir =
            |peer: &&u64| **peer != own && status.active.contains(peer) && !descriptor.is_quarantined(**peer);
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

/// A peer that is to come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NewPeer {
    pub(crate) region_id: u64,
    pub(crate) store_id: u64,
    /// 0: one is drawn.
    pub(crate) peer_id: u64,
    /// Whose place it takes when it has caught up. 0: nobody's.
    pub(crate) replaced: u64,
    /// The configuration version that this was decided for. 0: whatever the region has now.
    pub(crate) made_for: u64,
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

/// Whether a newcomer can take the place of `old` without losing the majority.
fn may_replace(status: &GroupStatus, new: u64, old: u64) -> bool {
    let after = status.voters.iter().copied().filter(|voter| *voter != old).chain([new]);
    let (alive, silent): (Vec<u64>, Vec<u64>) = after.partition(|voter| status.active.contains(voter));
    alive.len() > silent.len()
}

/// What has to be done with a region's learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Wait,
    HandOver,
    Remove(u64),
    Promote(u64),
    Replace { new: u64, old: u64 },
}

/// `known`: what was committed at the last look, if the region had a learner and its leader here then.
fn next(status: &GroupStatus, leaving: u64, known: Option<u64>) -> Next {
    let Some(learner) = status.learners.first().copied().filter(|_| !status.in_transition) else {
        return Next::Wait;
    };
    // Whoever took its vote is about to remove it, too.
    let Some(known) = known else { return Next::Wait };
    if learner == leaving {
        return if learner == status.peer { Next::HandOver } else { Next::Remove(learner) };
    }
    if status.matched.get(&learner).is_none_or(|matched| *matched < known) {
        return Next::Wait;
    }
    match status.voters.contains(&leaving) {
        false => Next::Promote(learner),
        // Where nobody else could lead, the newcomer votes first, and then leads.
        true if leaving == status.peer && status.voters.len() > 1 => Next::HandOver,
        true if may_replace(status, learner, leaving) => Next::Replace { new: learner, old: leaving },
        true => Next::Wait,
    }
}

/// Carries on what was begun with learners, for ever: gives them their vote once they have caught up, and removes those
/// that lost theirs.
pub(crate) async fn settle(shared: &Shared) {
    // What was committed at the last look.
    let mut before: BTreeMap<u64, u64> = BTreeMap::new();
    loop {
        let mut now = BTreeMap::new();
        for region in shared.door.regions.all() {
            let Some(status) = shared.raft.status(region.group()).filter(|status| status.is_leader) else {
                continue;
            };
            let descriptor = region.descriptor();
            let is_sick = descriptor.is_quarantined(status.peer);
            if status.learners.is_empty() && !status.in_transition && !is_sick {
                continue;
            }
            let known = before.get(&region.id).copied();
            let next =
                if is_sick { Next::HandOver } else { next(&status, descriptor.leaving_peer_id, known) };
            if let Err(error) = shared.take_step(&region, &status, next).await {
                tracing::debug!(region = region.id, ?next, %error, "not done yet");
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

impl Shared {
    async fn take_step(&self, region: &Region, status: &GroupStatus, next: Next) -> Result<(), Status> {
        let make = |changes| self.change(region, ConfChange { changes, ..ConfChange::default() });
        match next {
            Next::Wait => {}
            Next::HandOver => return Err(self.hand_over(region, status, status.peer).await),
            Next::Remove(peer) => {
                make(vec![PeerChange::Remove(peer)]).await?;
                self.env.probe("store.peer.left_by_itself");
            }
            Next::Promote(peer) => {
                make(vec![PeerChange::AddVoter(peer)]).await?;
                self.env.probe("store.peer.promoted");
            }
            Next::Replace { new, old } => {
                make(vec![PeerChange::AddVoter(new), PeerChange::AddLearner(old)]).await?;
                self.env.probe("store.peer.replaced");
            }
        }
        Ok(())
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

    #[test]
    fn whoever_leads_goes_on_with_the_learner_it_finds() {
        let with = |learners: &[u64], leaving, known| {
            let matched = BTreeMap::from([(4, 70)]);
            let status = GroupStatus { peer: 1, matched, ..status(&[1, 2, 3], learners, &[1, 2, 4]) };
            next(&status, leaving, known)
        };
        assert_eq!(with(&[], 0, None), Next::Wait);
        assert_eq!(with(&[4], 0, None), Next::Wait, "first what was committed must be known for a while");
        assert_eq!(with(&[4], 0, Some(71)), Next::Wait);
        assert_eq!(with(&[4], 0, Some(70)), Next::Promote(4));
        assert_eq!(with(&[4], 3, Some(70)), Next::Replace { new: 4, old: 3 });
        assert_eq!(with(&[4], 2, Some(70)), Next::Replace { new: 4, old: 2 }, "two of three answer");
        assert_eq!(with(&[4], 1, Some(70)), Next::HandOver);
        let alone =
            GroupStatus { peer: 1, matched: BTreeMap::from([(4, 70)]), ..status(&[1], &[4], &[1, 4]) };
        assert_eq!(next(&alone, 1, Some(70)), Next::Replace { new: 4, old: 1 }, "who else could lead?");
        assert_eq!(with(&[4], 4, None), Next::Wait, "whoever took its vote may be about to remove it");
        assert_eq!(with(&[4], 4, Some(71)), Next::Remove(4));
        let poor =
            GroupStatus { peer: 1, matched: BTreeMap::from([(4, 70)]), ..status(&[1, 2, 3], &[4], &[1]) };
        assert_eq!(next(&poor, 2, Some(70)), Next::Wait, "one of three answers");
    }
}
