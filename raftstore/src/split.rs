//! Splitting a region in two, as a pure function, and the way in for whoever wants it.
//!
//! ```text
//! before   region 7 version 3   [a ───────────────── z)
//! entry    split 7 at m, child 100004
//! after    region 7 version 4   [a ─── m)     region 100004 version 4   [m ─── z)
//! ```
//!
//! The left half keeps the region's id, its raft group and its log. The right half is a new region with a peer on every
//! store that has one of the old region: no data moves, because all regions of a store share its engine. The entry takes
//! effect on each replica in log order, in one engine batch with the region's applied index, so commands around it meet
//! either the old region or the two new ones, and a crash leaves one or the other.
//!
//! Nothing is planned at the meta-root beforehand: the region's log alone decides whether a split happens, and the
//! meta-root is told afterwards (see [`crate::pending`]), by every replica, until it knows. There is nothing to cancel.
//! Until the meta-root knows, routes lead to the old region, whose stores answer with both new ones.

use crate::catalog::Members;
use crate::region::refuse;
use bytes::Bytes;
use nokv_proto::error::v1::RegionError;
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    DescriptorLineageKind, DescriptorLineageRef, RegionDescriptor, RegionEpoch, RegionPeer, RootEvent,
    RootEventKind, RootRangeSplit,
};
use nokv_proto::raft::v1::SplitCommand;
use std::collections::BTreeMap;

/// What a split makes of a region.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Halves {
    /// The region itself, smaller.
    pub(crate) left: RegionDescriptor,
    /// The new region.
    pub(crate) right: RegionDescriptor,
    /// Who votes in the new region.
    pub(crate) right_members: Members,
}

impl Halves {
    /// What the meta-root must hear.
    pub(crate) fn event(&self) -> RootEvent {
        let split = RootRangeSplit {
            parent_region_id: self.left.region_id,
            split_key: self.right.start_key.clone(),
            left: Some(self.left.clone()),
            right: Some(self.right.clone()),
            base_parent: None,
        };
        RootEvent {
            kind: RootEventKind::RegionSplitCommitted.into(),
            payload: Some(Payload::RangeSplit(split)),
        }
    }
}

/// The split of `parent` at `key` into itself and region `child_id`, whose peers get `peer_ids` in the order of the
/// parent's.
pub(crate) fn command(
    parent: &RegionDescriptor,
    key: &Bytes,
    child_id: u64,
    peer_ids: impl Iterator<Item = u64>,
) -> SplitCommand {
    let (version, conf_version) = parent.epoch_pair();
    let twin = |(peer, peer_id): (&RegionPeer, u64)| RegionPeer { store_id: peer.store_id, peer_id };
    let peers: Vec<RegionPeer> = parent.peers.iter().zip(peer_ids).map(twin).collect();
    let twin_of = |id: u64| {
        let mut pairs = parent.peers.iter().zip(&peers);
        pairs.find(|(peer, _)| peer.peer_id == id).map(|(_, twin)| twin.peer_id)
    };
    let leaving_peer_id = twin_of(parent.leaving_peer_id).unwrap_or(0);
    // Which rows are wrong is not known, so both halves may have some.
    let quarantined_peer_ids = parent.quarantined_peer_ids.iter().filter_map(|id| twin_of(*id)).collect();
    let child = RegionDescriptor {
        region_id: child_id,
        start_key: key.clone(),
        end_key: parent.end_key.clone(),
        epoch: Some(RegionEpoch { version: version + 1, conf_version }),
        leaving_peer_id,
        quarantined_peer_ids,
        peers,
        state: parent.state,
        lineage: vec![DescriptorLineageRef {
            region_id: parent.region_id,
            epoch: parent.epoch,
            hash: Bytes::new(),
            kind: DescriptorLineageKind::SplitParent.into(),
        }],
        ..RegionDescriptor::default()
    };
    SplitCommand { parent_region_id: parent.region_id, split_key: key.clone(), child: Some(child) }
}

/// Divides `parent` as `split` says, or says why the region is not what the split was made for.
pub(crate) fn divide(
    parent: &RegionDescriptor,
    members: &Members,
    split: &SplitCommand,
) -> Result<Halves, Box<RegionError>> {
    let key = &split.split_key;
    let Some(child) = &split.child else { return Err(refuse::epoch(parent)) };
    if crate::merge::is_frozen(parent) {
        return Err(refuse::epoch(parent));
    }
    if !parent.contains(key) || *key == parent.start_key {
        return Err(refuse::key(parent, key));
    }
    let (version, conf_version) = parent.epoch_pair();
    let fits = split.parent_region_id == parent.region_id
        && child.epoch_pair() == (version + 1, conf_version)
        && child.start_key == *key
        && child.end_key == parent.end_key
        && child.region_id != parent.region_id
        && child.problem().is_none()
        && stores(child) == stores(parent)
        // A transition ends within moments. Both halves would have to go through it.
        && members.voters_outgoing.is_empty();
    if !fits {
        return Err(refuse::epoch(parent));
    }
    let left = RegionDescriptor {
        end_key: key.clone(),
        epoch: Some(RegionEpoch { version: version + 1, conf_version }),
        ..parent.clone()
    };
    let twins: BTreeMap<u64, u64> =
        parent.peers.iter().zip(&child.peers).map(|(old, new)| (old.peer_id, new.peer_id)).collect();
    let twins_of = |peers: &[u64]| peers.iter().filter_map(|peer| twins.get(peer).copied()).collect();
    let right_members = Members {
        voters: twins_of(&members.voters),
        learners: twins_of(&members.learners),
        ..Members::default()
    };
    Ok(Halves { left, right: child.clone(), right_members })
}

/// Whether a region came out of another one.
pub(crate) fn is_child(region: &RegionDescriptor) -> bool {
    region.lineage.iter().any(|parent| parent.kind() == DescriptorLineageKind::SplitParent)
}

fn stores(region: &RegionDescriptor) -> Vec<u64> {
    region.peers.iter().map(|peer| peer.store_id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::region;

    fn split() -> SplitCommand {
        command(&region(&[1, 2, 3]), &"m".into(), 50, 501..)
    }

    #[test]
    fn both_halves_have_the_stores_of_the_region_and_its_next_version() {
        let parent = region(&[1, 2, 3]);
        let members = Members { voters: vec![101, 201], learners: vec![301], ..Members::default() };
        let Halves { left, right, right_members } = divide(&parent, &members, &split()).expect("halves");
        assert_eq!((left.region_id, &left.start_key[..], &left.end_key[..]), (1, &b""[..], &b"m"[..]));
        assert_eq!((right.region_id, &right.start_key[..], &right.end_key[..]), (50, &b"m"[..], &b""[..]));
        assert_eq!((left.epoch_pair(), right.epoch_pair()), ((2, 1), (2, 1)));
        assert_eq!(stores(&right), [1, 2, 3]);
        assert_eq!((right_members.voters, right_members.learners), (vec![501, 502], vec![503]));
        assert!(is_child(&right) && !is_child(&left));
    }

    #[test]
    fn a_split_made_for_another_state_of_the_region_is_refused() {
        let (parent, members) = (region(&[1, 2, 3]), Members::default());
        let refused = |parent: &RegionDescriptor, members: &Members, split: &SplitCommand| {
            *divide(parent, members, split).expect_err("refused")
        };
        let moved =
            RegionDescriptor { epoch: Some(RegionEpoch { version: 2, conf_version: 1 }), ..parent.clone() };
        assert!(refused(&moved, &members, &split()).epoch_not_match.is_some());
        let changing = Members { voters_outgoing: vec![101], ..Members::default() };
        assert!(refused(&parent, &changing, &split()).epoch_not_match.is_some());
        let mut elsewhere = split();
        elsewhere.child.as_mut().expect("child").peers.pop();
        assert!(refused(&parent, &members, &elsewhere).epoch_not_match.is_some());
        let at_start = RegionDescriptor { start_key: "m".into(), ..parent.clone() };
        assert!(refused(&at_start, &members, &split()).key_not_in_region.is_some());
        let before = RegionDescriptor { end_key: "m".into(), ..parent };
        assert!(refused(&before, &members, &split()).key_not_in_region.is_some());
    }
}
