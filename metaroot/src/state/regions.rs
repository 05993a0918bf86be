//! Stores that come and go, and descriptors published one by one.

use super::{Effect, Refusal, RootState};
use nokv_proto::key::KeyRange;
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    RegionDescriptor, RegionPeer, RootEvent, RootRegionDescriptor, RootStoreMembership,
};

impl RootState {
    pub(super) fn store_joined(&mut self, event: &RootEvent, store: &RootStoreMembership) -> Effect {
        if store.store_id == 0 || store.address.is_empty() {
            return Err(Refusal::invalid("a store joins with an id above 0 and an address"));
        }
        if self.stores.get(&store.store_id) == Some(&store.address) {
            return Ok(None);
        }
        self.stores.insert(store.store_id, store.address.clone());
        self.membership_epoch += 1;
        Ok(Some(event.clone()))
    }

    pub(super) fn store_left(&mut self, event: &RootEvent, store: &RootStoreMembership) -> Effect {
        let id = store.store_id;
        if id == 0 {
            return Err(Refusal::invalid("store id is 0"));
        }
        if let Some(region) = self.regions.values().find(|region| region.peer_on_store(id).is_some()) {
            let region = region.region_id;
            return Err(Refusal::precondition(format!("store {id} still hosts a peer of region {region}")));
        }
        if self.stores.remove(&id).is_none() {
            return Ok(None);
        }
        self.decommissioned.remove(&id);
        self.membership_epoch += 1;
        Ok(Some(event.clone()))
    }

    /// Marks a member as one to be emptied, or takes the mark away. The mark survives its restarts; it goes with the
    /// store.
    pub(super) fn store_decommissioned(
        &mut self,
        event: &RootEvent,
        store: &RootStoreMembership,
        wanted: bool,
    ) -> Effect {
        let id = store.store_id;
        if id == 0 {
            return Err(Refusal::invalid("store id is 0"));
        }
        if !self.stores.contains_key(&id) {
            return Err(Refusal::precondition(format!("store {id} is no member of this cluster")));
        }
        let changed = if wanted { self.decommissioned.insert(id) } else { self.decommissioned.remove(&id) };
        if changed {
            self.membership_epoch += 1;
        }
        Ok(changed.then(|| event.clone()))
    }

    /// The first descriptor of a region. Only for ids that were never used and ranges that nobody has.
    pub(super) fn region_bootstrap(
        &mut self,
        event: &RootEvent,
        region: Option<&RegionDescriptor>,
    ) -> Effect {
        let region = checked(region)?;
        match self.regions.get(&region.region_id) {
            Some(known) if same(known, region) => return Ok(None),
            Some(_) => {
                let id = region.region_id;
                return Err(Refusal::precondition(format!("region {id} exists with other content")));
            }
            None => self.check_room(region, &[])?,
        }
        Ok(Some(self.publish(event, region)))
    }

    /// A newer descriptor of a region, or a first one.
    pub(super) fn region_published(
        &mut self,
        event: &RootEvent,
        region: Option<&RegionDescriptor>,
    ) -> Effect {
        let region = checked(region)?;
        let id = region.region_id;
        if self.removed.contains(&id) {
            return Ok(None); // told late, by a replica that does not know yet what became of the region
        }
        if let Some(known) = self.regions.get(&id) {
            // The end of a membership change may arrive as the descriptor it led to.
            if same(known, region) && !self.pending_peers.contains_key(&id) {
                return Ok(None);
            }
            self.check_no_pending_range(id)?;
            check_successor(known, region)?;
            // What it gave away belongs to a region that only the split names. Whoever knows of the split tells it too.
            if !covers(&region.range(), &known.range()) {
                let text = format!("region {id}: a smaller range comes with the split that made it");
                return Err(Refusal::precondition(text));
            }
        }
        self.check_room(region, &[id])?;
        self.pending_peers.remove(&id);
        Ok(Some(self.publish(event, region)))
    }

    pub(super) fn region_tombstoned(&mut self, event: &RootEvent, id: u64) -> Effect {
        if id == 0 {
            return Err(Refusal::invalid("region id is 0"));
        }
        if !self.regions.contains_key(&id) {
            return Ok(None);
        }
        self.check_no_pending_range(id)?;
        self.regions.remove(&id);
        self.pending_peers.remove(&id);
        self.removed.insert(id);
        self.cluster_epoch += 1;
        Ok(Some(event.clone()))
    }

    /// Installs and returns the event with the descriptor as it was stamped.
    fn publish(&mut self, event: &RootEvent, region: &RegionDescriptor) -> RootEvent {
        self.cluster_epoch += 1;
        self.install(region);
        let descriptor = self.regions.get(&region.region_id).cloned();
        let payload = Payload::RegionDescriptor(RootRegionDescriptor { descriptor });
        RootEvent { kind: event.kind, payload: Some(payload) }
    }

    /// Refuses `region` if it was removed once, or overlaps a region other than those in `except`.
    pub(super) fn check_room(&self, region: &RegionDescriptor, except: &[u64]) -> Result<(), Refusal> {
        let id = region.region_id;
        if self.removed.contains(&id) {
            return Err(Refusal::precondition(format!("region {id} was removed and does not come back")));
        }
        let range = region.range();
        let neighbour = self
            .regions
            .values()
            .filter(|other| other.region_id != id && !except.contains(&other.region_id))
            .find(|other| other.range().overlaps(&range));
        match neighbour {
            Some(other) => {
                let other = other.region_id;
                Err(Refusal::precondition(format!("region {id} overlaps region {other}")))
            }
            None => Ok(()),
        }
    }

    /// The region `id`, or why not.
    pub(super) fn known(&self, id: u64) -> Result<&RegionDescriptor, Refusal> {
        self.regions.get(&id).ok_or_else(|| Refusal::precondition(format!("region {id} is unknown")))
    }
}

/// A descriptor that is there and makes sense on its own.
pub(super) fn checked(region: Option<&RegionDescriptor>) -> Result<&RegionDescriptor, Refusal> {
    let region = region.ok_or_else(|| Refusal::invalid("no region descriptor"))?;
    region.problem().map_or(Ok(region), |problem| Err(Refusal::Invalid(problem)))
}

/// Whether two descriptors say the same: who stamped them when does not count, nor the order of peers.
pub(super) fn same(a: &RegionDescriptor, b: &RegionDescriptor) -> bool {
    a.region_id == b.region_id
        && a.start_key == b.start_key
        && a.end_key == b.end_key
        && a.epoch == b.epoch
        && a.state == b.state
        && same_peers(a, b)
}

/// Whether the two have the same replicas.
pub(super) fn same_peers(a: &RegionDescriptor, b: &RegionDescriptor) -> bool {
    sorted_peers(a) == sorted_peers(b)
}

/// Replicas by peer id.
pub(super) fn sorted_peers(region: &RegionDescriptor) -> Vec<RegionPeer> {
    let mut peers = region.peers.clone();
    peers.sort_by_key(|peer| peer.peer_id);
    peers
}

/// Whether `a` is behind `b` in one of the two epoch numbers.
pub(super) fn is_older(a: &RegionDescriptor, b: &RegionDescriptor) -> bool {
    let (a, b) = (a.epoch_pair(), b.epoch_pair());
    a.0 < b.0 || a.1 < b.1
}

/// Whether `next` may follow `known`: epochs never go back, and each kind of change moves its own number.
/// Whether `range` has all keys of `other`.
fn covers(range: &KeyRange, other: &KeyRange) -> bool {
    let ends_later = range.end.is_empty() || (!other.end.is_empty() && range.end >= other.end);
    range.start <= other.start && ends_later
}

fn check_successor(known: &RegionDescriptor, next: &RegionDescriptor) -> Result<(), Refusal> {
    let id = known.region_id;
    let (old, new) = (known.epoch_pair(), next.epoch_pair());
    if is_older(next, known) {
        return Err(Refusal::precondition(format!("region {id}: stale epoch {new:?}, the root has {old:?}")));
    }
    if known.range() != next.range() && new.0 <= old.0 {
        return Err(Refusal::precondition(format!(
            "region {id}: another range needs a higher version than {}",
            old.0
        )));
    }
    if !same_peers(known, next) && new.1 <= old.1 {
        return Err(Refusal::precondition(format!(
            "region {id}: other peers need a higher configuration version than {}",
            old.1
        )));
    }
    Ok(())
}
