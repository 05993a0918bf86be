//! Where keys live: a cache of region descriptors by range, leader hints, and store addresses.
//!
//! The cache is a guess that the stores correct. A route is replaced only by one that is not older (region
//! epochs decide), so a coordinator that lags cannot undo what a store has told us. A store that did not answer
//! is suspect for a moment: leader hints that point at it are not followed, or two peers that both believe in a
//! dead leader would send us back and forth until they notice.

use bytes::Bytes;
use nokv_env::Instant;
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// The region of a key and the peer to talk to.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// The region as far as we know.
    pub(crate) region: Arc<RegionDescriptor>,
    /// The peer that is believed to lead.
    pub(crate) target: RegionPeer,
}

impl Route {
    /// Whether `key` is in the region.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        contains(&self.region, key)
    }
}

#[derive(Debug)]
struct Entry {
    region: Arc<RegionDescriptor>,
    leader: Option<RegionPeer>,
    /// Which peer to try when no leader is known.
    turn: usize,
}

/// The cache. Plain data; `client` wraps it in a mutex.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    by_start: BTreeMap<Bytes, Entry>,
    addresses: BTreeMap<u64, String>,
    suspects: BTreeMap<u64, Instant>,
}

impl RouteCache {
    /// The route for `key`, if cached: to the leader, else to the next peer whose store is not suspect.
    pub(crate) fn lookup(&self, key: &[u8], now: Instant) -> Option<Route> {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let (_, entry) = self.by_start.range::<[u8], _>(up_to_key).next_back()?;
        let peers = &entry.region.peers;
        if !contains(&entry.region, key) || peers.is_empty() {
            return None;
        }
        let mut in_turn = (0..peers.len()).map(|step| peers[entry.turn.wrapping_add(step) % peers.len()]);
        let target = entry.leader.or_else(|| in_turn.find(|peer| self.is_trusted(peer.store_id, now)));
        let target = target.unwrap_or(peers[entry.turn % peers.len()]);
        Some(Route { region: entry.region.clone(), target })
    }

    /// Learns a region. Returns whether it was taken: an older one than known is not.
    pub(crate) fn insert(
        &mut self,
        region: RegionDescriptor,
        leader: Option<RegionPeer>,
        now: Instant,
    ) -> bool {
        let overlapping: Vec<Bytes> = self
            .by_start
            .iter()
            .filter(|(_, entry)| overlaps(&entry.region, &region))
            .map(|(start, _)| start.clone())
            .collect();
        if overlapping.iter().any(|start| is_newer(&self.by_start[start].region, &region)) {
            return false;
        }
        let mut turn = 0;
        let mut kept = None;
        for start in overlapping {
            if let Some(old) = self.by_start.remove(&start)
                && old.region.region_id == region.region_id
            {
                turn = old.turn;
                kept = old.leader;
            }
        }
        let leader = leader
            .filter(|peer| self.is_trusted(peer.store_id, now))
            .or(kept)
            .filter(|peer| region.peers.iter().any(|p| p == peer));
        self.by_start.insert(region.start_key.clone(), Entry { region: Arc::new(region), leader, turn });
        true
    }

    /// Believes that `leader` leads the region, unless its store is suspect; then the next peer is up.
    pub(crate) fn set_leader(&mut self, region_id: u64, leader: RegionPeer, now: Instant) {
        if !self.is_trusted(leader.store_id, now) {
            self.next_peer(region_id);
            return;
        }
        if let Some(entry) = self.entry(region_id) {
            entry.leader = Some(leader);
        }
    }

    /// Nobody known leads the region: take the peers in turn.
    pub(crate) fn next_peer(&mut self, region_id: u64) {
        if let Some(entry) = self.entry(region_id) {
            if let Some(leader) = entry.leader.take()
                && let Some(at) = entry.region.peers.iter().position(|p| *p == leader)
            {
                entry.turn = at;
            }
            entry.turn = entry.turn.wrapping_add(1);
        }
    }

    /// A store did not answer; hints that point at it are not believed before `until`.
    pub(crate) fn suspect(&mut self, region_id: u64, store_id: u64, until: Instant) {
        self.distrust(store_id, until);
        self.next_peer(region_id);
    }

    /// The same of a store that was asked as one of many.
    pub(crate) fn distrust(&mut self, store_id: u64, until: Instant) {
        self.suspects.insert(store_id, until);
    }

    /// Forgets a region, so that the next lookup asks a coordinator.
    pub(crate) fn forget(&mut self, region_id: u64) {
        self.by_start.retain(|_, entry| entry.region.region_id != region_id);
    }

    /// The peer answered: it leads, and its store is well.
    pub(crate) fn confirm(&mut self, route: &Route) {
        self.suspects.remove(&route.target.store_id);
        let target = route.target;
        if let Some(entry) = self.by_start.get_mut(&route.region.start_key)
            && entry.region.region_id == route.region.region_id
        {
            entry.leader = Some(target);
        }
    }

    /// Learns a store's address.
    pub(crate) fn set_address(&mut self, store_id: u64, address: String) {
        if !address.is_empty() {
            self.addresses.insert(store_id, address);
        }
    }

    /// A store's address.
    pub(crate) fn address(&self, store_id: u64) -> Option<String> {
        self.addresses.get(&store_id).cloned()
    }

    /// Whether a store answered when it was last asked, or that is long ago.
    pub(crate) fn is_trusted(&self, store_id: u64, now: Instant) -> bool {
        self.suspects.get(&store_id).is_none_or(|until| *until <= now)
    }

    fn entry(&mut self, region_id: u64) -> Option<&mut Entry> {
        self.by_start.values_mut().find(|entry| entry.region.region_id == region_id)
    }
}

/// Whether `key` is in `[start, end)`; an empty end is infinite.
fn contains(region: &RegionDescriptor, key: &[u8]) -> bool {
    region.start_key.as_ref() <= key && (region.end_key.is_empty() || key < region.end_key.as_ref())
}

fn overlaps(a: &RegionDescriptor, b: &RegionDescriptor) -> bool {
    (b.end_key.is_empty() || a.start_key < b.end_key) && (a.end_key.is_empty() || b.start_key < a.end_key)
}

/// Whether `a` is a later state of the key space than `b`. Versions of neighbours are comparable where they
/// overlap: a split or merge gives its results a higher version than its sources had.
fn is_newer(a: &RegionDescriptor, b: &RegionDescriptor) -> bool {
    let epoch = |region: &RegionDescriptor| {
        let RegionEpoch { version, conf_version } = region.epoch.unwrap_or_default();
        (version, conf_version)
    };
    if a.region_id == b.region_id { epoch(a) > epoch(b) } else { epoch(a).0 > epoch(b).0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(1_000_000_000);
    const LATER: Instant = Instant(2_000_000_000);

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> RegionDescriptor {
        RegionDescriptor {
            region_id: id,
            start_key: start.into(),
            end_key: end.into(),
            epoch: Some(RegionEpoch { version, conf_version: 1 }),
            peers: (1..=3).map(|s| peer(s, id)).collect(),
            ..Default::default()
        }
    }

    fn peer(store_id: u64, region: u64) -> RegionPeer {
        RegionPeer { store_id, peer_id: store_id * 100 + region }
    }

    fn cache() -> RouteCache {
        let mut cache = RouteCache::default();
        assert!(cache.insert(region(1, "", "m", 1), None, NOW));
        assert!(cache.insert(region(2, "m", "", 1), None, NOW));
        cache
    }

    #[test]
    fn a_key_finds_its_region() {
        let cache = cache();
        let id = |key: &str| cache.lookup(key.as_bytes(), NOW).map(|route| route.region.region_id);
        assert_eq!((id("a"), id("lzz"), id("m"), id("zz")), (Some(1), Some(1), Some(2), Some(2)));
        assert!(RouteCache::default().lookup(b"a", NOW).is_none());
    }

    #[test]
    fn a_split_replaces_and_a_stale_answer_does_not_undo_it() {
        let mut cache = cache();
        assert!(cache.insert(region(1, "", "f", 2), None, NOW));
        assert!(cache.insert(region(5, "f", "m", 2), None, NOW));
        assert!(!cache.insert(region(1, "", "m", 1), None, NOW));
        assert_eq!(cache.lookup(b"g", NOW).map(|r| r.region.region_id), Some(5));
        assert_eq!(cache.lookup(b"a", NOW).map(|r| r.region.region_id), Some(1));
    }

    #[test]
    fn peers_are_tried_in_turn_until_a_leader_is_known() {
        let mut cache = cache();
        let target = |cache: &RouteCache| cache.lookup(b"a", NOW).map(|r| r.target.store_id);
        assert_eq!(target(&cache), Some(1));
        cache.next_peer(1);
        assert_eq!(target(&cache), Some(2));
        cache.set_leader(1, peer(3, 1), NOW);
        assert_eq!(target(&cache), Some(3));
        cache.next_peer(1);
        assert_eq!(target(&cache), Some(1));
    }

    #[test]
    fn hints_at_a_silent_store_are_not_followed_for_a_while() {
        let mut cache = cache();
        cache.suspect(1, 1, LATER);
        cache.forget(1);
        assert!(
            cache.insert(region(1, "", "m", 1), Some(peer(1, 1)), NOW),
            "a coordinator that has not noticed"
        );
        cache.set_leader(1, peer(1, 1), NOW);
        assert_ne!(cache.lookup(b"a", NOW).map(|r| r.target.store_id), Some(1));
        cache.set_leader(1, peer(1, 1), LATER);
        assert_eq!(cache.lookup(b"a", NOW).map(|r| r.target.store_id), Some(1));
    }

    #[test]
    fn a_refresh_keeps_the_leader_unless_it_is_no_member() {
        let mut cache = cache();
        cache.set_leader(1, peer(2, 1), NOW);
        assert!(cache.insert(region(1, "", "m", 1), None, NOW));
        assert_eq!(cache.lookup(b"a", NOW).map(|r| r.target.store_id), Some(2));
        let mut moved = region(1, "", "m", 2);
        moved.peers.remove(1);
        assert!(cache.insert(moved, None, NOW));
        assert_ne!(cache.lookup(b"a", NOW).map(|r| r.target.store_id), Some(2));
    }
}
