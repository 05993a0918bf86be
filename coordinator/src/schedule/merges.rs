//! Small neighbours become one region again.
//!
//! Leaders report how full their regions are, in thousandths of what makes them split one. Two neighbours that together
//! have stayed below [`BELOW`] for long are merged: first the smaller one moves to the stores of the other, peer by peer, then
//! its leader is asked to merge it. Halves of a split have about 500 each, so what was split is not merged again before
//! most of it is gone, and what was merged has to grow to four times its size before it is split.

use super::board::Step;
use super::{Limits, Picture, RegionState};
use nokv_proto::coordinator::v1 as pb;
use nokv_proto::meta::v1::{RegionDescriptor, RegionPeer};
use std::collections::BTreeMap;

/// Two regions are small if their fills have this sum at most, in thousandths.
const BELOW: u64 = 250;

/// By region, the one that begins where it ends.
pub(super) fn neighbours<'a>(regions: impl Iterator<Item = &'a RegionDescriptor>) -> BTreeMap<u64, u64> {
    let mut by_start: Vec<&RegionDescriptor> = regions.collect();
    by_start.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    let touch = |pair: &[&RegionDescriptor]| {
        let [left, right] = pair else { return None };
        let touches = !left.end_key.is_empty() && left.end_key == right.start_key;
        touches.then_some((left.region_id, right.region_id))
    };
    by_start.windows(2).filter_map(touch).collect()
}

/// Whether both are known to be so small that they should be one.
pub(super) fn are_small(one: &RegionState, other: &RegionState) -> bool {
    one.fill > 0 && other.fill > 0 && !one.frozen && !other.frozen && one.fill + other.fill <= BELOW
}

/// Of two neighbours, the one that is to go, and the one that takes it over: the fuller one has more to move.
pub(super) fn source_and_target(left: (u64, &RegionState), right: (u64, &RegionState)) -> (u64, u64) {
    if left.1.fill < right.1.fill { (left.0, right.0) } else { (right.0, left.0) }
}

/// Where `target` has replicas and `source` has none, and in whose place one comes there.
pub(super) fn differing(source: &RegionState, target: &RegionState) -> Vec<(u64, RegionPeer)> {
    let mut stray: Vec<RegionPeer> =
        source.peers.iter().copied().filter(|peer| target.peer_on(peer.store_id).is_none()).collect();
    // The leader last: the others may leave without an election.
    stray.sort_by_key(|peer| source.leader == Some(*peer));
    let missing =
        target.peers.iter().map(|peer| peer.store_id).filter(|store| source.peer_on(*store).is_none());
    missing.zip(stray).collect()
}

/// Why a merge of these two cannot go on, if so: their replicas have more urgent things to do.
pub(super) fn hindered(source: &RegionState, target: &RegionState, picture: &Picture) -> Option<String> {
    let in_doubt = [source, target].into_iter().flat_map(|region| {
        region.peers.iter().filter_map(move |peer| {
            let store = picture.store(peer.store_id);
            let sick = region.quarantined.contains(&peer.peer_id);
            (store.lost || store.leaving || sick).then_some(peer.store_id)
        })
    });
    in_doubt.min().map(|store| format!("a replica on store {store} is to be replaced first"))
}

/// What follows for a region that is to be merged into `target`. `order` makes an order of a kind, to `source`'s leader.
pub(super) fn next(
    source: &RegionState,
    target: Option<&RegionState>,
    order: impl Fn(pb::SchedulerOperationType) -> pb::SchedulerOperation,
) -> Step {
    let Some(target) = target else { return Step::Void("its neighbour is gone".into()) };
    if source.frozen {
        return Step::Wait("it is frozen until its neighbour has taken it over".into());
    }
    if source.fill + target.fill > BELOW {
        return Step::Void("the two have grown".into());
    }
    if target.leader.is_none() {
        return Step::Wait("nobody is known to lead its neighbour".into());
    }
    if !source.learners.is_empty() || !target.learners.is_empty() {
        return Step::Wait("a peer catches up or leaves".into());
    }
    if source.peers.len() != target.peers.len() {
        return Step::Void("the two have different numbers of replicas".into());
    }
    if let Some((store, stray)) = differing(source, target).first() {
        let add = order(pb::SchedulerOperationType::AddPeer);
        return Step::Order(pb::SchedulerOperation {
            target_store_id: *store,
            replaced_peer_id: stray.peer_id,
            ..add
        });
    }
    Step::Order(order(pb::SchedulerOperationType::Merge))
}

/// The reason, in words.
pub(super) fn reason(source: u64, target: u64, fills: (u64, u64), limits: &Limits) -> String {
    let (one, other) = fills;
    let after = limits.merge_after;
    format!(
        "regions {source} and {target} have had no more than {BELOW} thousandths of what splits a region together for \
         {after:?}; now {one} and {other}"
    )
}
