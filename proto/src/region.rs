//! Helpers on region descriptors.

use crate::key::KeyRange;
use crate::meta::v1::{LocalRegionMeta, RegionDescriptor, RegionEpoch, RegionPeer};
use std::collections::BTreeSet;

impl RegionDescriptor {
    /// The keys of the region.
    pub fn range(&self) -> KeyRange {
        KeyRange { start: self.start_key.clone(), end: self.end_key.clone() }
    }

    /// Whether `key` belongs to the region.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start_key[..] <= *key && (self.end_key.is_empty() || *key < self.end_key[..])
    }

    /// The replica on `store`, if there is one.
    pub fn peer_on_store(&self, store: u64) -> Option<&RegionPeer> {
        self.peers.iter().find(|peer| peer.store_id == store)
    }

    /// The replica with id `peer`.
    pub fn peer(&self, peer: u64) -> Option<&RegionPeer> {
        self.peers.iter().find(|candidate| candidate.peer_id == peer)
    }

    /// Whether `peer` was found to hold something else than the other replicas.
    pub fn is_quarantined(&self, peer: u64) -> bool {
        self.quarantined_peer_ids.contains(&peer)
    }

    /// (version, conf_version), zero when missing.
    pub fn epoch_pair(&self) -> (u64, u64) {
        self.epoch.as_ref().map_or((0, 0), |epoch| (epoch.version, epoch.conf_version))
    }

    /// What is wrong with the descriptor on its own, if anything.
    pub fn problem(&self) -> Option<String> {
        if self.region_id == 0 {
            return Some("region id is 0".into());
        }
        let id = self.region_id;
        if !self.end_key.is_empty() && self.start_key >= self.end_key {
            return Some(format!("region {id}: start key is not below end key"));
        }
        if self.epoch.is_none() {
            return Some(format!("region {id}: no epoch"));
        }
        if self.peers.is_empty() {
            return Some(format!("region {id}: no peers"));
        }
        if self.peers.iter().any(|peer| peer.store_id == 0 || peer.peer_id == 0) {
            return Some(format!("region {id}: store or peer id is 0"));
        }
        let stores: BTreeSet<u64> = self.peers.iter().map(|peer| peer.store_id).collect();
        let peers: BTreeSet<u64> = self.peers.iter().map(|peer| peer.peer_id).collect();
        if stores.len() < self.peers.len() || peers.len() < self.peers.len() {
            return Some(format!("region {id}: two peers on one store, or one peer id twice"));
        }
        None
    }
}

/// Whether two epochs are exactly equal; a missing one equals nothing.
pub fn same_epoch(a: Option<&RegionEpoch>, b: Option<&RegionEpoch>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a == b)
}

impl From<&LocalRegionMeta> for RegionDescriptor {
    fn from(local: &LocalRegionMeta) -> Self {
        RegionDescriptor {
            region_id: local.region_id,
            start_key: local.start_key.clone(),
            end_key: local.end_key.clone(),
            epoch: local.epoch,
            peers: local.peers.clone(),
            state: local.state,
            ..Default::default()
        }
    }
}

impl From<&RegionDescriptor> for LocalRegionMeta {
    fn from(region: &RegionDescriptor) -> Self {
        LocalRegionMeta {
            region_id: region.region_id,
            start_key: region.start_key.clone(),
            end_key: region.end_key.clone(),
            epoch: region.epoch,
            peers: region.peers.clone(),
            state: region.state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> RegionDescriptor {
        RegionDescriptor {
            region_id: 1,
            start_key: "b".into(),
            end_key: "d".into(),
            epoch: Some(RegionEpoch { version: 1, conf_version: 1 }),
            peers: vec![RegionPeer { store_id: 1, peer_id: 101 }, RegionPeer { store_id: 2, peer_id: 201 }],
            ..Default::default()
        }
    }

    #[test]
    fn a_good_descriptor_has_no_problem_and_bad_ones_do() {
        assert_eq!(region().problem(), None);
        let bad = |change: fn(&mut RegionDescriptor)| {
            let mut region = region();
            change(&mut region);
            region.problem().is_some()
        };
        assert!(bad(|r| r.region_id = 0) && bad(|r| r.end_key = "a".into()) && bad(|r| r.epoch = None));
        assert!(
            bad(|r| r.peers.clear()) && bad(|r| r.peers[1].store_id = 1) && bad(|r| r.peers[1].peer_id = 101)
        );
    }

    #[test]
    fn lookups_follow_store_and_peer() {
        let region = region();
        assert_eq!(region.peer_on_store(2).map(|peer| peer.peer_id), Some(201));
        assert!(region.peer(999).is_none() && region.contains(b"c") && !region.contains(b"d"));
    }
}
