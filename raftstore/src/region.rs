//! The regions of this store as everybody in it sees them: written by the raft driver, read by the services.

use crate::auto_split::{Fill, Load};
use crate::catalog::{Entry, Gc, Members, Position};
use crate::follow::Confirmed;
use crate::gc::Swept;
use crate::one_pc::OnePc;
use crate::traffic::Traffic;
use nokv_env::{Env, Fact, Peer};
use nokv_proto::error::v1::{EpochNotMatch, KeyNotInRegion, NotLeader, RegionError, RegionNotFound};
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer, RegionReplicaState};
use nokv_replica::{GroupId, Role};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A short critical section; a panic elsewhere does not spread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One region.
pub(crate) struct Region {
    pub(crate) id: u64,
    state: Mutex<State>,
    /// Orders reads and commits in one round trip. Taken alone.
    one_pc: Mutex<OnePc>,
    /// Reads so far, for whoever watches.
    reads: AtomicU64,
    /// As of what is applied here, or about to be.
    gc: Mutex<Gc>,
    /// What this store did about garbage as the leader.
    swept: Mutex<Swept>,
    /// What the leader last said of how far the region is.
    confirmed: Mutex<Confirmed>,
    /// Rings when more was applied.
    advanced: Notify,
    /// Bytes that were written here, by what was applied or installed since the start.
    grown: AtomicU64,
    /// What it was asked for lately.
    load: Mutex<Load>,
    /// How far it is from being split, while it is led here.
    fill: Mutex<Fill>,
    burden: Mutex<Burden>,
    /// What it serves here.
    traffic: Traffic,
}

/// Numbers of a region's reads begin here, above those that its raft driver gives to read rounds.
const READS: u64 = 1 << 63;

/// Whether this is what is left of a peer that is gone, see [`crate::graves`].
pub(crate) fn is_tombstone(region: &RegionDescriptor) -> bool {
    region.state() == RegionReplicaState::Tombstone
}

/// What is known of a region at one moment.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) descriptor: Arc<RegionDescriptor>,
    /// Our peer, if the region has one on this store.
    pub(crate) peer: Option<u64>,
    pub(crate) applied: Position,
    pub(crate) role: Role,
}

/// How much a region that is led here has to carry; for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Burden {
    /// Requests in the last second that was looked at.
    pub(crate) per_second: u64,
    /// Of keys and values, when they have been measured.
    pub(crate) bytes: Option<u64>,
}

impl State {
    /// Whether a raft group of the region runs here.
    pub(crate) fn is_hosted(&self) -> bool {
        self.peer.is_some() && !is_tombstone(&self.descriptor)
    }

    /// Whether this store's peer was found to hold something else than the others. It serves nothing.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.peer.is_some_and(|peer| self.descriptor.is_quarantined(peer))
    }

    /// The leader as region peer, if known.
    pub(crate) fn leader(&self) -> Option<RegionPeer> {
        self.role.leader.and_then(|peer| self.descriptor.peer(peer).copied())
    }
}

impl Region {
    fn new(entry: &Entry, store_id: u64) -> Self {
        let state = State {
            peer: entry.region.peer_on_store(store_id).map(|peer| peer.peer_id),
            descriptor: Arc::new(entry.region.clone()),
            applied: entry.applied,
            role: Role { leader: None, term: 0, is_leader: false },
        };
        let id = entry.region.region_id;
        Self {
            id,
            state: Mutex::new(state),
            one_pc: Mutex::default(),
            reads: AtomicU64::new(READS),
            gc: Mutex::default(),
            swept: Mutex::default(),
            confirmed: Mutex::default(),
            advanced: Notify::new(),
            grown: AtomicU64::new(0),
            load: Mutex::default(),
            fill: Mutex::default(),
            burden: Mutex::default(),
            traffic: Traffic::default(),
        }
    }

    pub(crate) fn group(&self) -> GroupId {
        GroupId(self.id)
    }

    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    pub(crate) fn descriptor(&self) -> Arc<RegionDescriptor> {
        lock(&self.state).descriptor.clone()
    }

    pub(crate) fn one_pc(&self) -> MutexGuard<'_, OnePc> {
        lock(&self.one_pc)
    }

    pub(crate) fn gc(&self) -> Gc {
        *lock(&self.gc)
    }

    /// Called before the engine shows what the new safe point stands for, so that whoever takes an engine snapshot and
    /// then finds the safe point low enough has read what was still there.
    pub(crate) fn set_gc(&self, gc: Gc) {
        *lock(&self.gc) = gc;
    }

    pub(crate) fn confirmed(&self) -> Confirmed {
        *lock(&self.confirmed)
    }

    pub(crate) fn confirm(&self, confirmed: Confirmed) {
        *lock(&self.confirmed) = confirmed;
    }

    pub(crate) fn advanced(&self) -> &Notify {
        &self.advanced
    }

    pub(crate) fn grow(&self, bytes: usize) {
        self.grown.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn grown(&self) -> u64 {
        self.grown.load(Ordering::Relaxed)
    }

    pub(crate) fn load(&self) -> MutexGuard<'_, Load> {
        lock(&self.load)
    }

    pub(crate) fn fill(&self) -> Fill {
        *lock(&self.fill)
    }

    pub(crate) fn set_fill(&self, fill: Fill) {
        *lock(&self.fill) = fill;
    }

    pub(crate) fn burden(&self) -> Burden {
        *lock(&self.burden)
    }

    pub(crate) fn set_burden(&self, burden: Burden) {
        *lock(&self.burden) = burden;
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub(crate) fn swept(&self) -> MutexGuard<'_, Swept> {
        lock(&self.swept)
    }

    /// Tells whoever watches what the region is now.
    pub(crate) fn tell(&self, env: &Env) {
        if !env.watching() {
            return;
        }
        let state = self.state();
        let Some(node) = state.peer else { return };
        let (known, epoch) = (&state.descriptor, state.descriptor.epoch.unwrap_or_default());
        let region = nokv_env::Region {
            id: self.id,
            version: epoch.version,
            conf_version: epoch.conf_version,
            start: known.start_key.to_vec(),
            end: known.end_key.to_vec(),
        };
        env.fact(Fact::Region { peer: self.told_peer(node), region });
    }

    /// A peer of this region, as facts name it.
    pub(crate) fn told_peer(&self, node: u64) -> Peer {
        Peer { domain: "region", group: self.id, node }
    }

    /// A number for the next read.
    pub(crate) fn next_read(&self) -> u64 {
        self.reads.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn set_applied(&self, applied: Position) {
        lock(&self.state).applied = applied;
        self.advanced.notify_waiters();
    }

    pub(crate) fn set_role(&self, role: Role) {
        lock(&self.state).role = role;
    }

    /// Replaces the descriptor. Called before the engine shows what the new one stands for, so that whoever takes
    /// an engine snapshot and then finds the epoch unchanged has read under it.
    pub(crate) fn set_descriptor(&self, descriptor: RegionDescriptor, store_id: u64) {
        let mut state = lock(&self.state);
        state.peer = descriptor.peer_on_store(store_id).map(|peer| peer.peer_id);
        state.descriptor = Arc::new(descriptor);
    }
}

/// All regions that this store knows.
#[derive(Clone, Default)]
pub(crate) struct Regions(Arc<Mutex<BTreeMap<u64, Arc<Region>>>>);

impl Regions {
    pub(crate) fn new(entries: &[Entry], store_id: u64) -> Self {
        let regions =
            entries.iter().map(|entry| (entry.region.region_id, Arc::new(Region::new(entry, store_id))));
        Self(Arc::new(Mutex::new(regions.collect())))
    }

    /// Gives regions what the catalog has of their garbage.
    pub(crate) fn restore_gc(&self, all: BTreeMap<u64, Gc>) {
        for (id, gc) in all {
            if let Some(region) = self.get(id) {
                region.set_gc(gc);
            }
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Region>> {
        lock(&self.0).get(&id).cloned()
    }

    /// The region of `descriptor`, known from now on.
    pub(crate) fn get_or_insert(&self, descriptor: &RegionDescriptor, store_id: u64) -> Arc<Region> {
        let mut regions = lock(&self.0);
        let fresh = || {
            let (region, applied) = (descriptor.clone(), Position::default());
            Arc::new(Region::new(&Entry { members: Members::all_vote(&region), region, applied }, store_id))
        };
        regions.entry(descriptor.region_id).or_insert_with(fresh).clone()
    }

    /// A region, and the one behind it if that runs here too: together they are what a region was before it was split.
    pub(crate) fn with_neighbour(&self, descriptor: &RegionDescriptor) -> Vec<RegionDescriptor> {
        let next = |region: &Arc<Region>| {
            let state = region.state();
            let touches = !descriptor.end_key.is_empty() && state.descriptor.start_key == descriptor.end_key;
            (touches && state.is_hosted()).then(|| (*state.descriptor).clone())
        };
        let neighbour = lock(&self.0).values().find_map(next);
        std::iter::once(descriptor.clone()).chain(neighbour).collect()
    }

    /// The region here that has `key`.
    pub(crate) fn covering(&self, key: &[u8]) -> Option<Arc<Region>> {
        let has = |region: &&Arc<Region>| {
            let state = region.state();
            state.is_hosted() && state.descriptor.contains(key)
        };
        lock(&self.0).values().find(has).cloned()
    }

    /// All of them, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Region>> {
        lock(&self.0).values().cloned().collect()
    }
}

/// Region errors, one constructor a reason.
pub(crate) mod refuse {
    use super::{
        EpochNotMatch, KeyNotInRegion, NotLeader, RegionDescriptor, RegionError, RegionNotFound, State,
    };
    use nokv_proto::error::v1::{RaftEntryTooLarge, StoreNotMatch};

    pub(crate) fn not_leader(state: &State) -> Box<RegionError> {
        let error = NotLeader { region_id: state.descriptor.region_id, leader: state.leader() };
        Box::new(RegionError { not_leader: Some(error), ..Default::default() })
    }

    pub(crate) fn epoch(descriptor: &RegionDescriptor) -> Box<RegionError> {
        epoch_now(std::slice::from_ref(descriptor))
    }

    /// The region as it is now comes first.
    pub(crate) fn epoch_now(regions: &[RegionDescriptor]) -> Box<RegionError> {
        let current_epoch = regions.first().and_then(|region| region.epoch);
        let error = EpochNotMatch { current_epoch, regions: regions.to_vec() };
        Box::new(RegionError { epoch_not_match: Some(error), ..Default::default() })
    }

    pub(crate) fn not_found(region_id: u64) -> Box<RegionError> {
        let error = RegionNotFound { region_id };
        Box::new(RegionError { region_not_found: Some(error), ..Default::default() })
    }

    pub(crate) fn key(descriptor: &RegionDescriptor, key: &[u8]) -> Box<RegionError> {
        let error = KeyNotInRegion {
            key: bytes::Bytes::copy_from_slice(key),
            region_id: descriptor.region_id,
            start_key: descriptor.start_key.clone(),
            end_key: descriptor.end_key.clone(),
        };
        Box::new(RegionError { key_not_in_region: Some(error), ..Default::default() })
    }

    pub(crate) fn stale() -> Box<RegionError> {
        Box::new(RegionError { stale_command: Some(Default::default()), ..Default::default() })
    }

    pub(crate) fn too_large(region_id: u64) -> Box<RegionError> {
        let error = RaftEntryTooLarge { region_id };
        Box::new(RegionError { entry_too_large: Some(error), ..Default::default() })
    }

    pub(crate) fn store(asked: u64, actual: u64) -> Box<RegionError> {
        let error = StoreNotMatch { request_store_id: asked, actual_store_id: actual };
        Box::new(RegionError { store_not_match: Some(error), ..Default::default() })
    }
}

/// Whether `epoch` is exactly the region's.
pub(crate) fn epoch_matches(descriptor: &RegionDescriptor, epoch: Option<&RegionEpoch>) -> bool {
    nokv_proto::region::same_epoch(descriptor.epoch.as_ref(), epoch)
}
