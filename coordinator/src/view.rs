//! The coordinator's picture of the cluster, painted by the root's tail and by heartbeats. Nothing here is
//! truth: throw it away and it comes back.

use bytes::Bytes;
use nokv_env::Instant;
use nokv_proto::coordinator::v1 as pb;
use nokv_proto::meta::v1 as meta;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Everything known of the cluster.
#[derive(Debug, Default)]
pub struct View {
    /// How far the root's log has been seen; `None` until the first answer.
    pub token: Option<meta::RootTailToken>,
    /// The newest token that any answer mentioned.
    pub newest_token: meta::RootTailToken,
    /// The last look at the root failed.
    pub root_error: Option<String>,
    /// When the root was last seen to answer, by the wall clock; 0: never. For people only.
    pub looked_unix_nano: i64,
    /// Root state without regions and stores.
    pub state: meta::RootState,
    /// Regions by id.
    regions: BTreeMap<u64, meta::RegionDescriptor>,
    /// Region ids by start key.
    by_start: BTreeMap<Vec<u8>, u64>,
    /// Membership changes under way.
    pub pending_peer_changes: BTreeMap<u64, meta::RootPendingPeerChange>,
    /// Splits and merges under way.
    pub pending_range_changes: Vec<meta::RootPendingRangeChange>,
    /// Addresses of member stores.
    addresses: BTreeMap<u64, String>,
    /// Members that are to be emptied.
    decommissioned: BTreeSet<u64>,
    /// What stores said of themselves.
    stores: BTreeMap<u64, StoreReport>,
    /// Who leads a region, as the stores report it.
    leaders: BTreeMap<u64, Leader>,
}

#[derive(Debug)]
struct StoreReport {
    heartbeat: pb::StoreHeartbeatRequest,
    at: Instant,
}

/// A reported leader; reports of a higher (configuration version, term) win.
#[derive(Debug, Clone)]
struct Leader {
    conf_version: u64,
    term: u64,
    peer: meta::RegionPeer,
}

impl View {
    /// Replaces everything that comes from the root.
    pub fn install(&mut self, checkpoint: meta::RootCheckpoint, token: meta::RootTailToken) {
        if self.token.as_ref().is_some_and(|known| known.revision > token.revision) {
            return; // an answer from a node that lags behind what we already know
        }
        self.regions = checkpoint.descriptors.into_iter().map(|region| (region.region_id, region)).collect();
        self.by_start =
            self.regions.values().map(|region| (region.start_key.to_vec(), region.region_id)).collect();
        self.pending_peer_changes =
            checkpoint.pending_peer_changes.into_iter().map(|change| (change.region_id, change)).collect();
        self.pending_range_changes = checkpoint.pending_range_changes;
        self.addresses = checkpoint.stores.into_iter().map(|store| (store.store_id, store.address)).collect();
        self.decommissioned = checkpoint.decommissioned_stores.into_iter().collect();
        self.state = checkpoint.state.unwrap_or_default();
        self.leaders.retain(|region, _| self.regions.contains_key(region));
        self.saw(&token);
        self.token = Some(token);
        self.root_error = None;
    }

    /// Takes in an answer of the root that knows all that the view knows: a checkpoint, or none when nothing has changed.
    pub fn learn(&mut self, checkpoint: Option<meta::RootCheckpoint>, token: meta::RootTailToken) {
        match checkpoint {
            Some(checkpoint) => self.install(checkpoint, token),
            None => self.saw(&token),
        }
        self.root_error = None;
    }

    /// Remembers the newest token mentioned anywhere.
    pub fn saw(&mut self, token: &meta::RootTailToken) {
        if token.revision > self.newest_token.revision {
            self.newest_token = *token;
        }
    }

    /// How many log entries the view is behind the newest token it heard of.
    pub fn root_lag(&self) -> u64 {
        let served = self.token.as_ref().map_or(0, |token| token.revision);
        self.newest_token.revision.saturating_sub(served)
    }

    /// The region that holds `key`.
    pub fn region_of(&self, key: &[u8]) -> Option<&meta::RegionDescriptor> {
        let (_, id) = self
            .by_start
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        self.regions.get(id).filter(|region| region.end_key.is_empty() || key < &region.end_key[..])
    }

    /// The region `id`.
    pub fn region(&self, id: u64) -> Option<&meta::RegionDescriptor> {
        self.regions.get(&id)
    }

    /// Regions in key order from the one that holds or follows `start`.
    pub fn regions_from<'a>(&'a self, start: &'a [u8]) -> impl Iterator<Item = &'a meta::RegionDescriptor> {
        self.by_start
            .values()
            .filter_map(|id| self.regions.get(id))
            .skip_while(move |region| !region.end_key.is_empty() && region.end_key[..] <= *start)
    }

    /// How many regions there are.
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// The change of range that `region` takes part in, described for an error text.
    pub fn pending_range_change(&self, region: u64) -> Option<String> {
        self.pending_range_changes
            .iter()
            .find(|change| {
                [change.parent_region_id, change.left_region_id, change.right_region_id].contains(&region)
            })
            .map(|change| {
                let kind = if change.parent_region_id != 0 { "split" } else { "merge" };
                format!(
                    "rooted range change still pending: {kind} parent={} left={} right={}",
                    change.parent_region_id, change.left_region_id, change.right_region_id
                )
            })
    }

    /// Who leads `region`, as far as reported and still a member.
    pub fn leader(&self, region: u64) -> Option<meta::RegionPeer> {
        let leader = self.leaders.get(&region)?;
        self.regions.get(&region)?.peers.contains(&leader.peer).then_some(leader.peer)
    }

    /// Notes a store's heartbeat.
    pub fn heard(&mut self, heartbeat: pb::StoreHeartbeatRequest, at: Instant) {
        for report in heartbeat.regions.iter().filter(|report| report.leader) {
            let Some(descriptor) = &report.descriptor else { continue };
            let candidate = Leader {
                conf_version: descriptor.epoch.map_or(0, |epoch| epoch.conf_version),
                term: report.term,
                peer: meta::RegionPeer { store_id: heartbeat.store_id, peer_id: report.peer_id },
            };
            let known = self.leaders.get(&descriptor.region_id);
            if known.is_none_or(|k| (k.conf_version, k.term) <= (candidate.conf_version, candidate.term)) {
                self.leaders.insert(descriptor.region_id, candidate);
            }
        }
        self.stores.insert(heartbeat.store_id, StoreReport { heartbeat, at });
    }

    /// Addresses of the stores that host `region`.
    pub fn addresses_of(&self, region: &meta::RegionDescriptor) -> Vec<pb::StoreAddress> {
        region
            .peers
            .iter()
            .filter_map(|peer| {
                self.address(peer.store_id)
                    .map(|address| pb::StoreAddress { store_id: peer.store_id, address: address.to_owned() })
            })
            .collect()
    }

    /// A store's address: what it said itself, else what the root recorded.
    fn address(&self, store: u64) -> Option<&str> {
        let reported = self.stores.get(&store).map(|report| report.heartbeat.address.as_str());
        reported.filter(|addr| !addr.is_empty()).or(self.addresses.get(&store).map(String::as_str))
    }

    /// All stores that are members or have reported.
    pub fn stores(&self, now: Instant, down_after: Duration) -> Vec<pb::StoreInfo> {
        let ids: BTreeSet<u64> = self.addresses.keys().chain(self.stores.keys()).copied().collect();
        let mut peers: BTreeMap<u64, u64> = BTreeMap::new();
        for peer in self.regions.values().flat_map(|region| &region.peers) {
            *peers.entry(peer.store_id).or_default() += 1;
        }
        ids.into_iter()
            .map(|store_id| {
                let report = self.stores.get(&store_id);
                let age = report.map(|report| now.since(report.at));
                let beat = report.map(|report| &report.heartbeat);
                pb::StoreInfo {
                    store_id,
                    address: self.address(store_id).unwrap_or_default().to_owned(),
                    region_num: beat.map_or(0, |beat| beat.region_num),
                    leader_num: beat.map_or(0, |beat| beat.leader_num),
                    capacity: beat.map_or(0, |beat| beat.capacity),
                    available: beat.map_or(0, |beat| beat.available),
                    heartbeat_age_ms: age.map_or(u64::MAX, |age| age.as_millis() as u64),
                    up: age.is_some_and(|age| age < down_after),
                    decommissioning: self.decommissioned.contains(&store_id),
                    peer_num: peers.get(&store_id).copied().unwrap_or(0),
                    read_only: beat.is_some_and(|beat| beat.read_only),
                    disk_reserve: beat.map_or(0, |beat| beat.disk_reserve),
                }
            })
            .collect()
    }

    /// What every store said last of every region on it, and when.
    pub fn reports(&self) -> impl Iterator<Item = (u64, Instant, &pb::RegionReport)> {
        self.stores
            .iter()
            .flat_map(|(id, store)| store.heartbeat.regions.iter().map(move |report| (*id, store.at, report)))
    }

    /// What the replicas of each region serve together, by what stores that are up said last. Writes, and mostly reads, are
    /// its leader's; while that changes, both old and new have something to tell of the last seconds.
    pub fn traffic(&self, now: Instant, down_after: Duration) -> BTreeMap<u64, pb::RegionTraffic> {
        let mut sums: BTreeMap<u64, pb::RegionTraffic> = BTreeMap::new();
        for (_, at, report) in self.reports() {
            let Some(more) = report.traffic.filter(|_| now.since(at) < down_after) else { continue };
            let sum = sums.entry(region_of(report)).or_default();
            sum.requests += more.requests;
            sum.read_keys += more.read_keys;
            sum.read_bytes += more.read_bytes;
            sum.write_keys += more.write_keys;
            sum.write_bytes += more.write_bytes;
        }
        sums
    }

    /// Ranges of which some store said that nothing below `target` has a lock there, or ever will.
    pub fn resolved(&self, target: u64) -> Vec<(Bytes, Bytes)> {
        let reports = self.stores.values().flat_map(|store| &store.heartbeat.regions);
        reports
            .filter(|report| report.gc_resolved >= target)
            .filter_map(|report| report.descriptor.as_ref())
            .map(|region| (region.start_key.clone(), region.end_key.clone()))
            .collect()
    }

    /// All regions, by id.
    pub fn regions(&self) -> impl Iterator<Item = &meta::RegionDescriptor> {
        self.regions.values()
    }

    /// Whether the root has the store on record.
    pub fn is_member(&self, store: u64) -> bool {
        self.addresses.contains_key(&store)
    }

    /// What the leader of `region` said last, if its store is up.
    pub fn leader_report(
        &self,
        region: u64,
        now: Instant,
        down_after: Duration,
    ) -> Option<(meta::RegionPeer, &pb::RegionReport)> {
        let leader = self.leader(region)?;
        let store = self.stores.get(&leader.store_id).filter(|store| now.since(store.at) < down_after)?;
        let mut reports = store.heartbeat.regions.iter();
        let report = reports.find(|report| is_of(report, leader.peer_id) && region_of(report) == region)?;
        Some((leader, report))
    }

    /// The same of every region.
    pub fn leader_reports(
        &self,
        now: Instant,
        down_after: Duration,
    ) -> BTreeMap<u64, (meta::RegionPeer, &pb::RegionReport)> {
        let up = self.stores.iter().filter(|(_, store)| now.since(store.at) < down_after);
        let all = up.flat_map(|(id, store)| store.heartbeat.regions.iter().map(move |report| (*id, report)));
        let current = all.filter_map(|(store, report)| {
            let leader = self.leader(region_of(report))?;
            (leader.store_id == store && is_of(report, leader.peer_id))
                .then_some((region_of(report), (leader, report)))
        });
        current.collect()
    }
}

fn region_of(report: &pb::RegionReport) -> u64 {
    report.descriptor.as_ref().map_or(0, |region| region.region_id)
}

/// Whether it is the report of this peer as leader.
fn is_of(report: &pb::RegionReport, peer: u64) -> bool {
    report.leader && report.peer_id == peer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(revision: u64) -> meta::RootTailToken {
        meta::RootTailToken { cursor: Some(meta::RootCursor { term: 1, index: revision }), revision }
    }

    fn checkpoint(cluster_epoch: u64) -> meta::RootCheckpoint {
        let state = meta::RootState { cluster_epoch, ..Default::default() };
        meta::RootCheckpoint { state: Some(state), ..Default::default() }
    }

    #[test]
    fn a_late_answer_does_not_undo_what_is_known() {
        let mut view = View::default();
        view.install(checkpoint(9), token(9));
        view.root_error = Some("gone".to_owned());
        view.install(checkpoint(8), token(8));
        assert_eq!((view.state.cluster_epoch, view.token), (9, Some(token(9))));
        assert!(view.root_error.is_some(), "who lags behind is no proof that the roots serve");
    }

    #[test]
    fn the_traffic_of_a_region_is_that_of_its_replicas_on_live_stores() {
        let beat = |store_id, region_id, requests| {
            let descriptor = Some(meta::RegionDescriptor { region_id, ..Default::default() });
            let traffic =
                Some(pb::RegionTraffic { requests, write_bytes: requests * 10, ..Default::default() });
            let regions = vec![pb::RegionReport { descriptor, traffic, ..Default::default() }];
            pb::StoreHeartbeatRequest { store_id, regions, ..Default::default() }
        };
        let mut view = View::default();
        let second = 1_000_000_000;
        view.heard(beat(1, 7, 100), Instant(0));
        view.heard(beat(2, 7, 5), Instant(9 * second));
        view.heard(beat(3, 7, 2), Instant(9 * second));
        view.heard(beat(4, 8, 1), Instant(9 * second));
        let of = |down_after| {
            let traffic = view.traffic(Instant(10 * second), Duration::from_secs(down_after));
            traffic.into_iter().map(|(id, sum)| (id, sum.requests, sum.write_bytes)).collect::<Vec<_>>()
        };
        assert_eq!(of(20), [(7, 107, 1_070), (8, 1, 10)]);
        assert_eq!(of(5), [(7, 7, 70), (8, 1, 10)]);
        assert_eq!(of(1), []);
    }

    #[test]
    fn an_answer_of_the_leader_ends_the_error_whether_it_brings_news_or_none() {
        let mut view = View::default();
        for (answer, epoch) in [(Some(checkpoint(9)), 9), (None, 9), (Some(checkpoint(10)), 10)] {
            view.root_error = Some("gone".to_owned());
            view.learn(answer, token(epoch));
            assert_eq!((view.state.cluster_epoch, view.root_lag()), (epoch, 0));
            assert_eq!(view.root_error, None);
        }
    }
}
