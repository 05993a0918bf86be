//! Seeing a merge through, whoever began it and whoever leads by now. What is decided where, [`crate::merge`] says.
//!
//! Whoever leads a frozen region looks what became of it. While its target may still take it over, the leader of the source
//! wants to be where the target is led, and there proposes "unite" once every peer of the source has the log up to where it was
//! frozen; or "refuse" when that takes too long. Once the target certainly never will, it thaws. All of that may be
//! repeated, by several stores at the same time.

use crate::machine::{Proposal, Reply};
use crate::members::{Led, refuse};
use crate::merge::{self, Verdict};
use crate::region::{Region, State};
use crate::store::Shared;
use futures_util::future::{Either, select};
use nokv_env::{ClockExt, Instant};
use nokv_proto::coordinator::v1::ListRegionsRequest;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::MergeCommand;
use nokv_replica::{GroupStatus, ProposeError};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use tonic::Status;

/// What this store remembers of a frozen region that it leads.
struct Watched {
    /// The version at which it was frozen.
    version: u64,
    since: Instant,
    /// When coordinators were asked.
    asked: Instant,
}

/// Looks after the frozen regions that this store leads, for ever.
pub(crate) async fn run(shared: &Shared) {
    let mut watched: BTreeMap<u64, Watched> = BTreeMap::new();
    loop {
        let is_ours = |region: &Arc<Region>| {
            let state = region.state();
            state.is_hosted() && state.role.is_leader && merge::is_frozen(&state.descriptor)
        };
        let ours: Vec<_> = shared.door.regions.all().into_iter().filter(is_ours).collect();
        watched.retain(|id, _| ours.iter().any(|region| region.id == *id));
        if ours.is_empty() {
            shared.bells.merges.notified().await;
            continue;
        }
        for region in ours {
            let (state, now) = (region.state(), shared.env.clock.now());
            let version = state.descriptor.epoch_pair().0;
            let known = watched.entry(region.id).or_insert(Watched { version, since: now, asked: now });
            if known.version != version {
                *known = Watched { version, since: now, asked: now };
            }
            if let Err(why) = look_after(shared, &region, &state, known).await {
                tracing::debug!(region = region.id, why, "the merge is not decided yet");
            }
        }
        let pause = shared.env.clock.sleep(shared.config.tick);
        select(pin!(shared.bells.merges.notified()), pause).await;
    }
}

/// Takes the next step for a frozen region; the error says why there is none.
async fn look_after(
    shared: &Shared,
    region: &Arc<Region>,
    state: &State,
    watched: &mut Watched,
) -> Result<(), String> {
    let frozen = &state.descriptor;
    let here: Vec<_> = shared.door.regions.all().iter().map(|region| region.state()).collect();
    let here: Vec<_> =
        here.iter().filter(|state| state.is_hosted()).map(|state| &*state.descriptor).collect();
    match merge::verdict(frozen, here.into_iter()) {
        Verdict::Refused => return step(shared, region, merge::to_thaw(frozen)).await,
        Verdict::United => return Err("the target has it already".to_owned()),
        Verdict::Open => {}
    }
    let target = merge::target_of(frozen).map_or(0, |target| target.region_id);
    let target = shared.door.regions.get(target).map(|target| (target.state(), target));
    let Some((target_state, target)) = target.filter(|(state, _)| state.is_hosted()) else {
        return ask_around(shared, region, frozen, watched).await;
    };
    if target_state.role.is_leader {
        return unite(shared, region, state, &target, watched).await;
    }
    let leader = target_state.leader().ok_or("the target has no known leader")?;
    let heir =
        frozen.peer_on_store(leader.store_id).ok_or("the target is led where the region has no peer")?;
    shared.env.probe("store.merge.follows_target");
    shared.raft.transfer_leader(region.group(), heir.peer_id).await.map_err(|error| error.to_string())
}

/// Source and target are led here.
async fn unite(
    shared: &Shared,
    region: &Arc<Region>,
    state: &State,
    target: &Arc<Region>,
    watched: &Watched,
) -> Result<(), String> {
    let now_of = |region: &Region| {
        let status = shared.raft.status_now(region.group());
        async move { status.await.ok().flatten() }
    };
    let (source_status, target_status) = (now_of(region).await, now_of(target).await);
    // After the driver has answered, the applied position is not before the one at which the region was frozen.
    let now = region.state();
    if now.descriptor.epoch != state.descriptor.epoch {
        return Err("the region has changed".to_owned());
    }
    let until = now.applied;
    let all_have = |status: Option<GroupStatus>, index: u64| {
        status.is_some_and(|status| {
            let others = status.voters.iter().filter(|voter| **voter != status.peer);
            status.is_leader
                && others.copied().all(|peer| status.matched.get(&peer).is_some_and(|has| *has >= index))
        })
    };
    // A peer of the target that has nothing yet would not find the source any more.
    if all_have(source_status, until.index) && all_have(target_status, 1) {
        let merge = merge::to_unite(&state.descriptor, until.index, until.term).ok_or("it has no target")?;
        return step(shared, target, merge).await;
    }
    if shared.env.clock.now().since(watched.since) < shared.config.command_timeout {
        return Err("a peer is behind".to_owned());
    }
    let merge = merge::to_refuse(&state.descriptor).ok_or("it has no target")?;
    step(shared, target, merge).await
}

/// The target is not on this store, or not any more: whoever told the meta-root of it knows better.
async fn ask_around(
    shared: &Shared,
    region: &Arc<Region>,
    frozen: &RegionDescriptor,
    watched: &mut Watched,
) -> Result<(), String> {
    let now = shared.env.clock.now();
    if now.since(watched.asked) < shared.config.tick * 10 {
        return Err("the target is not here".to_owned());
    }
    watched.asked = now;
    let known = known_regions(shared).await?;
    match merge::verdict(frozen, known.iter()) {
        Verdict::Open => Err("the target is not here, and nobody knows what became of it".to_owned()),
        Verdict::Refused => step(shared, region, merge::to_thaw(frozen)).await,
        Verdict::United => {
            let heir = known.into_iter().find(|heir| merge::is_part_of(frozen, heir));
            let heir = heir.ok_or("nobody has the region")?;
            shared.raft.retire(region.group(), heir).await.map_err(|error| error.to_string())
        }
    }
}

/// All regions as the coordinators know them.
async fn known_regions(shared: &Shared) -> Result<Vec<RegionDescriptor>, String> {
    let look = shared
        .coordinators
        .first(|mut client| async move { client.list_regions(ListRegionsRequest::default()).await });
    match select(pin!(look), shared.env.clock.sleep(shared.config.coordinator_timeout)).await {
        Either::Left((Ok(reply), _)) => {
            Ok(reply.regions.into_iter().filter_map(|route| route.descriptor).collect())
        }
        Either::Left((Err(error), _)) => Err(error.to_string()),
        Either::Right(_) => Err("no coordinator answers".to_owned()),
    }
}

/// Proposes a step in a region that is led here.
async fn step(shared: &Shared, region: &Region, merge: MergeCommand) -> Result<(), String> {
    propose(shared, region, merge).await.map(drop).map_err(|error| error.message().to_owned())
}

async fn propose(shared: &Shared, region: &Region, merge: MergeCommand) -> Result<RegionDescriptor, Status> {
    let proposal = shared.raft.propose(region.group(), Proposal::Merge(Box::new(merge)));
    match shared.env.clock.timeout(shared.config.command_timeout, proposal).await {
        Ok(Ok(Reply::Merge(region))) => Ok(*region),
        Ok(Ok(Reply::Outcome(Err(_)))) => {
            Err(Status::aborted(format!("region {} changed meanwhile; look again", region.id)))
        }
        Ok(Ok(Reply::Gone)) => {
            Err(Status::unavailable("the peer was removed meanwhile; the merge may still happen"))
        }
        Ok(Ok(_)) => Err(Status::internal("a merge was answered as something else")),
        Ok(Err(ProposeError::Unknown)) => Err(Status::unavailable("the outcome is not known here")),
        Ok(Err(error)) => Err(Status::failed_precondition(format!("region {}: {error}", region.id))),
        Err(_) => Err(Status::deadline_exceeded("not done in time; the merge may still happen")),
    }
}

impl Shared {
    /// Merges `source_id` into its neighbour `target_id`; the target as it is then. Errors are of the caller's or
    /// the moment's making; after `DeadlineExceeded` and `Unavailable` the merge may still happen.
    pub(crate) async fn merge(&self, source_id: u64, target_id: u64) -> Result<RegionDescriptor, Status> {
        let source = self.led(source_id)?;
        let missing = || {
            let store = self.config.store_id;
            let text =
                format!("region {target_id} has no replica on store {store}, which leads region {source_id}");
            refuse(format!("{text}; both must be on the same stores"))
        };
        let target = self.door.regions.get(target_id).ok_or_else(missing)?;
        let target_state = target.state();
        if !target_state.is_hosted() {
            return Err(missing());
        }
        merge::may_merge(&source.state.descriptor, &target_state.descriptor).map_err(refuse)?;
        self.known_to_root(source_id, &source.state.descriptor)?;
        // What is checked here spares waits. Without it the merge is right, too.
        let hasty = self.env.chance("store.merge.hasty", 0.2);
        if !target_state.role.is_leader && !hasty {
            return Err(self.follow(&source, &target_state).await);
        }
        // Asked here, where it is led: whoever leads a region from the beginning tells the meta-root of it, others may not know.
        self.known_to_root(target_id, &target_state.descriptor)?;
        for region in [&source.region, &target].into_iter().filter(|_| !hasty) {
            let status = self.raft.status_now(region.group()).await.ok().flatten();
            is_whole(status.as_ref()).map_err(|why| refuse(format!("region {}: {why}", region.id)))?;
        }
        let freeze = merge::to_freeze(&source.state.descriptor, &target_state.descriptor);
        let frozen = propose(self, &source.region, freeze).await?;
        let ended = self.env.clock.timeout(self.config.command_timeout, self.ended(&source.region, &frozen));
        ended.await.map_err(|_| Status::deadline_exceeded("not done in time; the merge may still happen"))?
    }

    /// The source is to be led where its target is; whoever leads it then is to be asked.
    async fn follow(&self, source: &Led, target: &State) -> Status {
        let id = source.region.id;
        let Some(leader) = target.leader() else {
            return refuse(format!("region {} has no known leader", target.descriptor.region_id));
        };
        let Some(heir) = source.state.descriptor.peer_on_store(leader.store_id) else {
            return refuse(format!("region {id} has no peer on store {}", leader.store_id));
        };
        match self.raft.transfer_leader(source.region.group(), heir.peer_id).await {
            Ok(()) => refuse(format!("region {id}: store {} is to lead it first; ask that", leader.store_id)),
            Err(error) => refuse(format!("region {id}: {error}")),
        }
    }

    /// What became of a merge that has frozen `region`.
    async fn ended(&self, region: &Region, frozen: &RegionDescriptor) -> Result<RegionDescriptor, Status> {
        loop {
            let state = region.state();
            if !state.is_hosted() {
                let heir = self.door.regions.covering(&frozen.start_key);
                return heir
                    .map(|heir| (*heir.descriptor()).clone())
                    .ok_or_else(|| Status::unavailable("the merged region has left this store"));
            }
            if state.descriptor.epoch != frozen.epoch {
                let text = format!("the target refused, region {} serves again; look again", region.id);
                return Err(Status::aborted(text));
            }
            self.env.clock.sleep(self.config.tick).await;
        }
    }
}

/// Whether every peer of a region that is led here votes and answers; the error says who does not.
fn is_whole(status: Option<&GroupStatus>) -> Result<(), String> {
    let Some(status) = status.filter(|status| status.is_leader) else {
        return Err("it is not led here".to_owned());
    };
    if let Some(learner) = status.learners.first() {
        return Err(format!("peer {learner} is still catching up"));
    }
    if status.in_transition {
        return Err("its members are changing".to_owned());
    }
    match status.voters.iter().find(|voter| !status.active.contains(voter)) {
        Some(silent) => Err(format!("peer {silent} does not answer")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_with_a_peer_that_cannot_follow_is_not_frozen() {
        let status = |active: &[u64], learners: &[u64]| GroupStatus {
            is_leader: true,
            peer: 1,
            voters: vec![1, 2, 3],
            active: active.to_vec(),
            learners: learners.to_vec(),
            ..GroupStatus::default()
        };
        assert!(is_whole(Some(&status(&[1, 2, 3], &[]))).is_ok());
        assert!(is_whole(Some(&status(&[1, 2], &[]))).is_err_and(|why| why.contains("peer 3")));
        assert!(is_whole(Some(&status(&[1, 2, 3], &[4]))).is_err());
        let changing = GroupStatus { in_transition: true, ..status(&[1, 2, 3], &[]) };
        let follows = GroupStatus { is_leader: false, ..status(&[1, 2, 3], &[]) };
        assert!(is_whole(Some(&changing)).is_err() && is_whole(Some(&follows)).is_err());
        assert!(is_whole(None).is_err());
    }
}
