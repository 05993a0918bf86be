//! The cluster as decisions see it.

use super::{Clocks, Limits, merges};
use crate::view::View;
use nokv_env::Instant;
use nokv_proto::coordinator::v1::RegionReport;
use nokv_proto::meta::v1::{RegionDescriptor, RegionPeer, RegionReplicaState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A store with less than this part of its disk free gets no more replicas.
const FULL_PART: u64 = 10;

/// A store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StoreState {
    /// Heard of lately.
    pub(crate) up: bool,
    /// Not heard of for so long that its replicas are replaced.
    pub(crate) lost: bool,
    /// Its replicas are to move elsewhere.
    pub(crate) leaving: bool,
    /// Too little space for more.
    pub(crate) full: bool,
}

impl StoreState {
    /// Whether it may get replicas.
    pub(crate) fn takes(self) -> bool {
        self.up && !self.lost && !self.leaving && !self.full
    }
}

/// A region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RegionState {
    pub(crate) peers: Vec<RegionPeer>,
    /// Peers without a vote.
    pub(crate) learners: BTreeSet<u64>,
    /// Peers that hold something else than the others.
    pub(crate) quarantined: BTreeSet<u64>,
    /// Peers that the leader does not hear of.
    pub(crate) silent: BTreeSet<u64>,
    /// Who leads; `None`: nobody whose report can be relied on, so nothing is done.
    pub(crate) leader: Option<RegionPeer>,
    pub(crate) conf_version: u64,
    pub(crate) bytes: u64,
    /// Has had more or fewer replicas than wanted for long.
    pub(crate) odd: bool,
    /// Thousandths of what makes its leader split it; 0: not known.
    pub(crate) fill: u64,
    /// Waits to be taken over by a neighbour.
    pub(crate) frozen: bool,
    /// Its right neighbour, if the two have been small for long.
    pub(crate) small_with: Option<u64>,
}

impl RegionState {
    /// A region that nobody speaks for.
    fn unled(known: &RegionDescriptor) -> Self {
        let conf_version = known.epoch_pair().1;
        Self { peers: known.peers.clone(), conf_version, ..Self::default() }
    }

    /// The region `known` to the root, as its leader reports it.
    fn led(known: &RegionDescriptor, leader: RegionPeer, report: &RegionReport) -> Self {
        let Some(told) =
            report.descriptor.as_ref().filter(|told| told.epoch_pair().1 >= known.epoch_pair().1)
        else {
            return Self::unled(known);
        };
        Self {
            peers: told.peers.clone(),
            learners: report.learners.iter().copied().collect(),
            silent: report.silent.iter().copied().collect(),
            quarantined: told.quarantined_peer_ids.iter().copied().collect(),
            leader: Some(leader),
            conf_version: told.epoch_pair().1,
            bytes: report.bytes,
            // Of the range that the root knows, or it says nothing of the neighbours that the root knows.
            fill: if told.epoch_pair().0 == known.epoch_pair().0 { report.fill } else { 0 },
            frozen: told.state() == RegionReplicaState::Merging,
            ..Self::default()
        }
    }

    pub(crate) fn peer_on(&self, store: u64) -> Option<RegionPeer> {
        self.peers.iter().copied().find(|peer| peer.store_id == store)
    }

    pub(crate) fn has(&self, peer: RegionPeer) -> bool {
        self.peers.contains(&peer)
    }

    pub(crate) fn is_learner(&self, peer: RegionPeer) -> bool {
        self.learners.contains(&peer.peer_id)
    }

    pub(crate) fn voters(&self) -> usize {
        self.peers.iter().filter(|peer| !self.is_learner(**peer)).count()
    }
}

/// The cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) stores: BTreeMap<u64, StoreState>,
    pub(crate) regions: BTreeMap<u64, RegionState>,
}

impl Picture {
    pub(crate) fn store(&self, store: u64) -> StoreState {
        self.stores.get(&store).copied().unwrap_or_default()
    }
}

/// Draws the picture of `view` and moves the clocks on.
pub(crate) fn draw(
    view: &View,
    clocks: &mut Clocks,
    now: Instant,
    down_after: Duration,
    limits: &Limits,
) -> Picture {
    let infos = view.stores(now, down_after);
    let reports = view.leader_reports(now, down_after);
    let mut regions: BTreeMap<u64, RegionState> = view
        .regions()
        .map(|known| {
            let region = match reports.get(&known.region_id) {
                Some((leader, report)) => RegionState::led(known, *leader, report),
                None => RegionState::unled(known),
            };
            (known.region_id, region)
        })
        .collect();
    let neighbours = merges::neighbours(view.regions());
    let are_small = |left: &u64, right: &u64| {
        let pair = regions.get(left).zip(regions.get(right));
        pair.is_some_and(|(left, right)| merges::are_small(left, right))
    };
    let is_even = |region: &RegionState| region.leader.is_none() || region.peers.len() == limits.replicas;
    clocks.look(
        now,
        limits,
        infos.iter().map(|info| (info.store_id, info.up)),
        regions.iter().map(|(id, region)| (*id, is_even(region))),
        neighbours.iter().map(|(left, right)| ((*left, *right), !are_small(left, right))),
    );
    for (id, region) in &mut regions {
        region.odd = clocks.is_odd(*id, limits.bears(region.peers.len()));
        let right = neighbours.get(id).copied();
        region.small_with = right.filter(|right| clocks.are_small((*id, *right), limits.merge_after));
    }
    let store = |info: &nokv_proto::coordinator::v1::StoreInfo| StoreState {
        up: info.up && view.is_member(info.store_id),
        lost: clocks.is_lost(info.store_id, limits.repair_after),
        leaving: info.decommissioning,
        full: info.available < info.capacity / FULL_PART,
    };
    let stores = infos.iter().map(|info| (info.store_id, store(info))).collect();
    Picture { stores, regions }
}

/// One region as of now, for orders.
pub(crate) fn region(view: &View, id: u64, now: Instant, down_after: Duration) -> Option<RegionState> {
    let known = view.region(id)?;
    let Some((leader, report)) = view.leader_report(id, now, down_after) else {
        return Some(RegionState::unled(known));
    };
    Some(RegionState::led(known, leader, report))
}
