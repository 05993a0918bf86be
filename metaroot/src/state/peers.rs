//! Membership changes of a region: planned, then done or cancelled.
//!
//! A plan installs its target at once, so that whoever routes by it already knows the new peer; the base is
//! kept until the change is done, and comes back when it is cancelled. One change a region at a time.
//!
//! ```text
//! PLANNED    -> pending, target installed
//! ADDED/REMOVED, matching the pending  -> pending cleared
//! ADDED/REMOVED, nothing pending       -> target installed (the plan was never published)
//! CANCELLED, matching the pending      -> base restored
//! ```

use super::regions::{checked, is_older, same, sorted_peers};
use super::{Effect, Refusal, RootState};
use nokv_proto::meta::v1::{
    RegionDescriptor, RegionPeer, RootEvent, RootEventKind, RootPeerChange, RootPendingPeerChange,
    RootPendingPeerChangeKind as Change,
};

enum Step {
    Planned,
    Done,
    Cancelled,
}

impl RootState {
    pub(super) fn peer_change(
        &mut self,
        event: &RootEvent,
        kind: RootEventKind,
        change: &RootPeerChange,
    ) -> Effect {
        use RootEventKind as Kind;
        let (step, direction) = match kind {
            Kind::PeerAdditionPlanned => (Step::Planned, Change::Addition),
            Kind::PeerRemovalPlanned => (Step::Planned, Change::Removal),
            Kind::PeerAdded => (Step::Done, Change::Addition),
            Kind::PeerRemoved => (Step::Done, Change::Removal),
            Kind::PeerAdditionCancelled => (Step::Cancelled, Change::Addition),
            Kind::PeerRemovalCancelled => (Step::Cancelled, Change::Removal),
            _ => return Err(Refusal::invalid(format!("{} with a peer change", kind.as_str_name()))),
        };
        if change.region_id == 0 || change.store_id == 0 || change.peer_id == 0 {
            return Err(Refusal::invalid("a peer change names region, store and peer, none of them 0"));
        }
        let matches = match self.pending_peers.get(&change.region_id) {
            Some(pending) if is_match(pending, direction, change) => true,
            Some(_) => {
                let id = change.region_id;
                return Err(Refusal::precondition(format!("region {id}: another peer change is pending")));
            }
            None => false,
        };
        let changed = match step {
            Step::Planned if matches => false,
            Step::Planned => self.plan_peer_change(direction, change)?,
            Step::Done if matches => self.pending_peers.remove(&change.region_id).is_some(),
            Step::Done => self.finish_unplanned(direction, change)?,
            Step::Cancelled if matches => self.cancel_peer_change(change)?,
            Step::Cancelled => self.check_nothing_to_cancel(change)?,
        };
        Ok(changed.then(|| event.clone()))
    }

    fn plan_peer_change(&mut self, direction: Change, change: &RootPeerChange) -> Result<bool, Refusal> {
        let Some(base) = self.start_peer_change(direction, change)? else { return Ok(false) };
        let pending = RootPendingPeerChange {
            region_id: change.region_id,
            store_id: change.store_id,
            peer_id: change.peer_id,
            kind: direction as i32,
            target: change.target.clone(),
            base: Some(base),
        };
        self.pending_peers.insert(change.region_id, pending);
        Ok(true)
    }

    fn finish_unplanned(&mut self, direction: Change, change: &RootPeerChange) -> Result<bool, Refusal> {
        Ok(self.start_peer_change(direction, change)?.is_some())
    }

    /// Moves the region to the change's target and returns what it was; `None` if it is there already.
    fn start_peer_change(
        &mut self,
        direction: Change,
        change: &RootPeerChange,
    ) -> Result<Option<RegionDescriptor>, Refusal> {
        let current = self.known(change.region_id)?;
        let target = checked(change.target.as_ref())?;
        if same(current, target) {
            return Ok(None);
        }
        check_step(current, target, direction, change)?;
        self.check_no_pending_range(change.region_id)?;
        let base = current.clone();
        self.cluster_epoch += 1;
        self.install(target);
        Ok(Some(base))
    }

    fn cancel_peer_change(&mut self, change: &RootPeerChange) -> Result<bool, Refusal> {
        let Some(pending) = self.pending_peers.remove(&change.region_id) else { return Ok(false) };
        if let Some(base) = &pending.base {
            self.cluster_epoch += 1;
            self.install(base);
        }
        Ok(true)
    }

    /// A cancel without a pending change is fine unless the change it names has happened.
    fn check_nothing_to_cancel(&self, change: &RootPeerChange) -> Result<bool, Refusal> {
        let id = change.region_id;
        match (self.regions.get(&id), &change.target) {
            (Some(current), Some(target)) if same(current, target) => Err(Refusal::precondition(format!(
                "region {id}: the peer change is done and cannot be cancelled"
            ))),
            _ => Ok(false),
        }
    }
}

/// Whether `change` speaks of the pending change. A target is compared only when one is given.
fn is_match(pending: &RootPendingPeerChange, direction: Change, change: &RootPeerChange) -> bool {
    let target = match (&pending.target, &change.target) {
        (Some(pending), Some(given)) => same(pending, given),
        _ => true,
    };
    target
        && pending.kind() == direction
        && pending.store_id == change.store_id
        && pending.peer_id == change.peer_id
}

/// Whether `target` is `current` with exactly the one peer more or less, and a newer configuration.
fn check_step(
    current: &RegionDescriptor,
    target: &RegionDescriptor,
    direction: Change,
    change: &RootPeerChange,
) -> Result<(), Refusal> {
    let id = change.region_id;
    let refuse = |why: &str| Err(Refusal::precondition(format!("region {id}: {why}")));
    if target.region_id != id {
        return Err(Refusal::invalid(format!("region {id}: the target is region {}", target.region_id)));
    }
    if let Some(base) = &change.base
        && !same(base, current)
    {
        return refuse("the change starts from a descriptor that is not current");
    }
    if is_older(target, current) || target.epoch_pair().1 <= current.epoch_pair().1 {
        return refuse("the target is superseded: its configuration version is not above the current one");
    }
    if target.range() != current.range() || target.epoch_pair().0 != current.epoch_pair().0 {
        return refuse("a peer change must not change the range");
    }
    let peer = RegionPeer { store_id: change.store_id, peer_id: change.peer_id };
    let mut wanted = current.clone();
    match direction {
        Change::Addition => wanted.peers.push(peer),
        _ => wanted.peers.retain(|known| *known != peer),
    }
    if wanted.peers.len() == current.peers.len() {
        return refuse("the peer to remove is not a member");
    }
    if sorted_peers(&wanted) != sorted_peers(target) {
        return refuse("the target differs from the current peers by more than the named one");
    }
    Ok(())
}
