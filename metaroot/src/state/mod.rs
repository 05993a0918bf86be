//! The facts of the cluster, as a pure function of the log.
//!
//! [`RootState::apply`] takes one command at its place in the raft log and returns what happened. It reads no
//! clock and no setting, so every node that applied the same log holds the same state, byte for byte. All
//! checks live here and not at the door: whatever a stale leader let through meets the same rules.
//!
//! - A refused command changes nothing. An append of several events takes effect as a whole or not at all.
//! - A command that asks for what is already so succeeds without an event, so callers may repeat themselves.
//! - `cluster_epoch` grows by one with every change of regions, `membership_epoch` with every change of stores.
//! - Fences never fall. Generations never fall, and two holders never share one.
//! - The ranges of regions never overlap; a region that is gone stays gone.
//!
//! `regions` stores and descriptors, `peers` membership changes, `ranges` splits and merges, `lease`
//! the coordinator lease with seal and closure.

mod lease;
mod peers;
mod ranges;
mod regions;
#[cfg(test)]
mod tests;

use crate::digest;
use nokv_proto::meta::v1::root_command::{Append, Command, Fence};
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    self as meta, RegionDescriptor, RootAllocatorKind, RootCheckpoint, RootCommand, RootCommittedEvent,
    RootCoordinatorClosure, RootCoordinatorLease, RootCoordinatorProtocolState, RootCoordinatorSeal,
    RootCursor, RootEvent, RootEventKind, RootPendingPeerChange, RootPendingRangeChange, RootStoreMembership,
};
use std::collections::{BTreeMap, BTreeSet};

pub use lease::is_live;

/// A fence above this is a mistake of the caller: it would leave too little room to ever go on.
const FENCE_MAX: u64 = 1 << 62;

/// Why a command was refused. Every node refuses it the same way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The command makes no sense whatever the state is; the caller must change it.
    #[error("{0}")]
    Invalid(String),
    /// The state forbids it; the caller must look again before it tries again.
    #[error("{0}")]
    Precondition(String),
}

impl Refusal {
    fn invalid(why: impl Into<String>) -> Self {
        Refusal::Invalid(why.into())
    }

    fn precondition(why: impl Into<String>) -> Self {
        Refusal::Precondition(why.into())
    }
}

/// What a command answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The events are part of the state.
    Appended {
        /// Where the newest event of the state sits.
        cursor: RootCursor,
        /// The state after the append.
        state: Box<meta::RootState>,
    },
    /// The fence stands at `current`.
    Fenced {
        /// The fence after the command.
        current: u64,
    },
    /// A lease command was decided.
    Lease {
        /// Lease, seal and closure after the command.
        protocol: Box<RootCoordinatorProtocolState>,
        /// False: somebody else holds the lease.
        granted: bool,
    },
    /// A closure command took effect.
    Closure {
        /// Lease, seal and closure after the command.
        protocol: Box<RootCoordinatorProtocolState>,
    },
    /// Nothing changed.
    Refused(Refusal),
}

/// What [`RootState::apply`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Answer for the caller.
    pub reply: Reply,
    /// Events that changed the state, in order; all carry the command's cursor.
    pub events: Vec<RootCommittedEvent>,
}

/// Cluster truth.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RootState {
    /// Which cluster this is; 0 until its first event.
    cluster_id: u64,
    cluster_epoch: u64,
    membership_epoch: u64,
    /// Place of the newest event.
    last_committed: RootCursor,
    id_fence: u64,
    tso_fence: u64,
    /// Versions that no read at or above it can see may be gone.
    gc_safe_point: u64,
    lease: Option<RootCoordinatorLease>,
    seal: Option<RootCoordinatorSeal>,
    closure: Option<RootCoordinatorClosure>,
    regions: BTreeMap<u64, RegionDescriptor>,
    /// Ids of regions that were removed, split up or merged away; they never come back.
    removed: BTreeSet<u64>,
    stores: BTreeMap<u64, String>,
    /// Members whose replicas are to move to other stores.
    decommissioned: BTreeSet<u64>,
    /// By region.
    pending_peers: BTreeMap<u64, RootPendingPeerChange>,
    /// By parent region of a split, by left region of a merge.
    pending_ranges: BTreeMap<u64, RootPendingRangeChange>,
}

/// What one event did: the event as it goes down in history, or nothing because it was so already.
type Effect = Result<Option<RootEvent>, Refusal>;

impl RootState {
    /// Applies the command at (`index`, `term`) of the log.
    pub fn apply(&mut self, index: u64, term: u64, command: &RootCommand) -> Outcome {
        let at = RootCursor { term, index };
        let mut events = Vec::new();
        let reply = match &command.command {
            Some(Command::Append(append)) => self.append(at, append, &mut events),
            Some(Command::Fence(fence)) => self.fence(at, fence, &mut events),
            Some(Command::Lease(lease)) => self.lease_command(at, lease, &mut events),
            Some(Command::Closure(closure)) => self.closure_command(at, closure, &mut events),
            None => Err(Refusal::invalid("empty root command")),
        };
        if self.cluster_id == 0 && !events.is_empty() {
            self.cluster_id = command.cluster_id;
        }
        let events =
            events.into_iter().map(|event| RootCommittedEvent { cursor: Some(at), event: Some(event) });
        Outcome { reply: reply.unwrap_or_else(Reply::Refused), events: events.collect() }
    }

    fn append(
        &mut self,
        at: RootCursor,
        append: &Append,
        events: &mut Vec<RootEvent>,
    ) -> Result<Reply, Refusal> {
        if let Some(expected) = append.expected_cluster_epoch
            && expected != self.cluster_epoch
        {
            let current = self.cluster_epoch;
            return Err(Refusal::precondition(format!(
                "pd/meta cluster epoch mismatch (expected={expected} current={current})"
            )));
        }
        let before = (append.events.len() > 1).then(|| self.clone());
        for event in &append.events {
            match self.event(event) {
                Ok(effect) => events.extend(effect),
                Err(refusal) => {
                    events.clear();
                    if let Some(before) = before {
                        *self = before;
                    }
                    return Err(refusal);
                }
            }
        }
        self.committed(at, events);
        Ok(Reply::Appended { cursor: self.last_committed, state: Box::new(self.summary()) })
    }

    /// Decides one event. Checks come before changes: a refused event left the state alone.
    fn event(&mut self, event: &RootEvent) -> Effect {
        use RootEventKind as Kind;
        match (event.kind(), &event.payload) {
            (Kind::StoreJoined, Some(Payload::StoreMembership(store))) => self.store_joined(event, store),
            (Kind::StoreLeft, Some(Payload::StoreMembership(store))) => self.store_left(event, store),
            (Kind::StoreDecommissioned, Some(Payload::StoreMembership(store))) => {
                self.store_decommissioned(event, store, true)
            }
            (Kind::StoreRecommissioned, Some(Payload::StoreMembership(store))) => {
                self.store_decommissioned(event, store, false)
            }
            (Kind::IdAllocatorFenced, Some(Payload::AllocatorFence(fence))) => {
                self.raise_fence(RootAllocatorKind::Id, fence.minimum)
            }
            (Kind::TsoAllocatorFenced, Some(Payload::AllocatorFence(fence))) => {
                self.raise_fence(RootAllocatorKind::Tso, fence.minimum)
            }
            (Kind::GcSafePointRaised, Some(Payload::AllocatorFence(fence))) => {
                self.raise_fence(RootAllocatorKind::GcSafePoint, fence.minimum)
            }
            (Kind::RegionBootstrap, Some(Payload::RegionDescriptor(region))) => {
                self.region_bootstrap(event, region.descriptor.as_ref())
            }
            (Kind::RegionDescriptorPublished, Some(Payload::RegionDescriptor(region))) => {
                self.region_published(event, region.descriptor.as_ref())
            }
            (Kind::RegionTombstoned, Some(Payload::RegionRemoval(removal))) => {
                self.region_tombstoned(event, removal.region_id)
            }
            (kind, Some(Payload::PeerChange(change))) => self.peer_change(event, kind, change),
            (kind, Some(Payload::RangeSplit(split))) => self.range_split(event, kind, split),
            (kind, Some(Payload::RangeMerge(merge))) => self.range_merge(event, kind, merge),
            (Kind::CoordinatorLease | Kind::CoordinatorSeal | Kind::CoordinatorClosure, _) => {
                Err(Refusal::invalid("lease, seal and closure change by their own commands, not by append"))
            }
            (Kind::Unspecified, _) => {
                Err(Refusal::invalid(format!("unknown root event kind {}", event.kind)))
            }
            (kind, _) => Err(Refusal::invalid(format!("{} without its payload", kind.as_str_name()))),
        }
    }

    fn fence(
        &mut self,
        at: RootCursor,
        fence: &Fence,
        events: &mut Vec<RootEvent>,
    ) -> Result<Reply, Refusal> {
        self.check_fence_owner(fence)?;
        events.extend(self.raise_fence(fence.kind(), fence.minimum)?);
        self.committed(at, events);
        let current = match fence.kind() {
            RootAllocatorKind::Tso => self.tso_fence,
            RootAllocatorKind::GcSafePoint => self.gc_safe_point,
            _ => self.id_fence,
        };
        Ok(Reply::Fenced { current })
    }

    fn raise_fence(&mut self, kind: RootAllocatorKind, minimum: u64) -> Effect {
        let (fence, event_kind) = match kind {
            RootAllocatorKind::Id => (&mut self.id_fence, RootEventKind::IdAllocatorFenced),
            RootAllocatorKind::Tso => (&mut self.tso_fence, RootEventKind::TsoAllocatorFenced),
            RootAllocatorKind::GcSafePoint => (&mut self.gc_safe_point, RootEventKind::GcSafePointRaised),
            RootAllocatorKind::Unspecified => return Err(Refusal::invalid("unknown allocator kind")),
        };
        if minimum > FENCE_MAX {
            return Err(Refusal::invalid(format!("fence {minimum} is beyond {FENCE_MAX}")));
        }
        if minimum <= *fence {
            return Ok(None);
        }
        *fence = minimum;
        let payload = Payload::AllocatorFence(meta::RootAllocatorFence { minimum });
        Ok(Some(RootEvent { kind: event_kind as i32, payload: Some(payload) }))
    }

    /// Notes the place of a change, if there was one.
    fn committed(&mut self, at: RootCursor, events: &[RootEvent]) {
        if !events.is_empty() {
            self.last_committed = at;
        }
    }

    /// Puts a descriptor in place, stamped with the epoch in which it became valid and its hash.
    fn install(&mut self, region: &RegionDescriptor) {
        let mut region = region.clone();
        region.root_epoch = self.cluster_epoch;
        region.hash = digest::descriptor(&region);
        self.regions.insert(region.region_id, region);
    }
}

/// Reading and rebuilding.
impl RootState {
    /// Epochs, fences and the lease protocol, without regions and stores.
    pub fn summary(&self) -> meta::RootState {
        meta::RootState {
            cluster_id: self.cluster_id,
            cluster_epoch: self.cluster_epoch,
            membership_epoch: self.membership_epoch,
            last_committed: Some(self.last_committed),
            id_fence: self.id_fence,
            tso_fence: self.tso_fence,
            gc_safe_point: self.gc_safe_point,
            coordinator_lease: self.lease.clone(),
            coordinator_seal: self.seal.clone(),
            coordinator_closure: self.closure.clone(),
        }
    }

    /// Everything that readers may see.
    pub fn checkpoint(&self) -> RootCheckpoint {
        let store = |(&store_id, address): (&u64, &String)| RootStoreMembership {
            store_id,
            address: address.clone(),
        };
        RootCheckpoint {
            state: Some(self.summary()),
            descriptors: self.regions.values().cloned().collect(),
            tail_offset: self.last_committed.index,
            pending_peer_changes: self.pending_peers.values().cloned().collect(),
            pending_range_changes: self.pending_ranges.values().cloned().collect(),
            stores: self.stores.iter().map(store).collect(),
            decommissioned_stores: self.decommissioned.iter().copied().collect(),
        }
    }

    /// The state that [`RootState::checkpoint`] and [`RootState::removed_regions`] came from.
    pub fn rebuild(checkpoint: RootCheckpoint, removed_regions: Vec<u64>) -> RootState {
        let state = checkpoint.state.unwrap_or_default();
        RootState {
            cluster_id: state.cluster_id,
            cluster_epoch: state.cluster_epoch,
            membership_epoch: state.membership_epoch,
            last_committed: state.last_committed.unwrap_or_default(),
            id_fence: state.id_fence,
            tso_fence: state.tso_fence,
            gc_safe_point: state.gc_safe_point,
            lease: state.coordinator_lease,
            seal: state.coordinator_seal,
            closure: state.coordinator_closure,
            regions: checkpoint.descriptors.into_iter().map(|region| (region.region_id, region)).collect(),
            removed: removed_regions.into_iter().collect(),
            decommissioned: checkpoint.decommissioned_stores.into_iter().collect(),
            stores: checkpoint.stores.into_iter().map(|store| (store.store_id, store.address)).collect(),
            pending_peers: checkpoint
                .pending_peer_changes
                .into_iter()
                .map(|change| (change.region_id, change))
                .collect(),
            pending_ranges: checkpoint
                .pending_range_changes
                .into_iter()
                .map(|change| (ranges::key_of(&change), change))
                .collect(),
        }
    }

    /// Ids of regions that are gone for ever.
    pub fn removed_regions(&self) -> Vec<u64> {
        self.removed.iter().copied().collect()
    }

    /// Which cluster this is; 0 until its first event.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// Place of the newest event.
    pub fn last_committed(&self) -> RootCursor {
        self.last_committed
    }

    /// The coordinator lease on record, live or not.
    pub fn lease(&self) -> Option<&RootCoordinatorLease> {
        self.lease.as_ref()
    }

    /// Changes with every change of regions.
    pub fn cluster_epoch(&self) -> u64 {
        self.cluster_epoch
    }

    /// All regions, by id.
    pub fn regions(&self) -> impl Iterator<Item = &RegionDescriptor> {
        self.regions.values()
    }

    /// Stores whose replicas are to move elsewhere.
    pub fn decommissioned(&self) -> Vec<u64> {
        self.decommissioned.iter().copied().collect()
    }

    /// The fences of ids and timestamps.
    pub fn fences(&self) -> (u64, u64) {
        (self.id_fence, self.tso_fence)
    }

    /// Lease, seal and closure.
    pub fn protocol(&self) -> RootCoordinatorProtocolState {
        RootCoordinatorProtocolState {
            lease: self.lease.clone(),
            seal: self.seal.clone(),
            closure: self.closure.clone(),
        }
    }

    /// How many regions, membership changes and range changes there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.regions.len(), self.pending_peers.len(), self.pending_ranges.len())
    }
}
