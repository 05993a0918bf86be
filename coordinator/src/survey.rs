//! Everything a coordinator knows at one moment, as plain data: what the console shows.
//!
//! The view is locked while it is copied, and never while somebody makes text of the copy.

use crate::view::View;
use crate::{Shared, service, transition};
use nokv_env::Instant;
use nokv_proto::coordinator::v1 as pb;
use nokv_proto::meta::v1::{RegionDescriptor, RegionPeer};
use std::collections::BTreeMap;
use std::time::Duration;

/// The cluster at one moment, as one coordinator knows it.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// When, by the coordinator's clock.
    pub at: Instant,
    /// Whose knowledge it is.
    pub coordinator_id: String,
    /// Where that one serves.
    pub addr: String,
    /// What `/debug/vars` shows: allocators, meta-root, lease, hand-over, safe point.
    pub state: serde_json::Value,
    /// Why it does not hold the lease; `None`: it does.
    pub standby: Option<String>,
    /// Where the holder of the lease serves, as far as the meta-root knows.
    pub holder_addr: String,
    /// The meta-roots.
    pub root_peers: BTreeMap<u64, String>,
    /// Members, and whoever reported.
    pub stores: Vec<pb::StoreInfo>,
    /// In the order of their keys.
    pub regions: Vec<RegionSurvey>,
    /// Changes of regions under way.
    pub transitions: Vec<pb::TransitionEntry>,
    /// What the scheduler does; `None`: only the holder of the lease knows.
    pub operators: Option<pb::ListOperatorsResponse>,
    /// How many replicas a region should have.
    pub replicas_wanted: usize,
    /// A store is given up for lost after this long.
    pub repair_after: Duration,
}

/// A region.
#[derive(Debug, Clone, Default)]
pub struct RegionSurvey {
    /// Its range as the meta-root knows it; its peers as its leader does, when that is newer.
    pub region: RegionDescriptor,
    /// Who leads it, if its store is up.
    pub leader: Option<RegionPeer>,
    /// What stores said of their replicas.
    pub replicas: Vec<Replica>,
    /// Peers without a vote.
    pub learners: Vec<u64>,
    /// Peers that the leader does not hear of.
    pub silent: Vec<u64>,
    /// Thousandths of what makes its leader split it; 0: not known.
    pub fill: u64,
}

/// A replica, by its store's own word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replica {
    /// On which store.
    pub store_id: u64,
    /// Its peer.
    pub peer_id: u64,
    /// Its raft term.
    pub term: u64,
    /// How far it has applied the log.
    pub applied_index: u64,
    /// About how much it takes on the disk.
    pub bytes: u64,
    /// When the store said so.
    pub at: Instant,
    /// The store has been heard of lately.
    pub up: bool,
}

/// Looks at everything.
pub(crate) fn take(shared: &Shared) -> Survey {
    let (now, config) = (shared.env.clock.now(), &shared.config);
    let state = service::status_json(shared)["state"].take();
    let standby = {
        let lease = shared.lease();
        lease.generation(now).is_none().then(|| lease.reason())
    };
    let operators = shared.operators(0).ok();
    let view = shared.view();
    let reports = view.leader_reports(now, config.store_down_after);
    Survey {
        at: now,
        coordinator_id: config.coordinator_id.clone(),
        addr: config.advertise_addr.clone(),
        state,
        standby,
        holder_addr: view.state.coordinator_lease.as_ref().map_or_else(String::new, |l| l.address.clone()),
        root_peers: config.root_peers.clone(),
        stores: view.stores(now, config.store_down_after),
        regions: regions(&view, &reports, now, config.store_down_after),
        transitions: transition::list(&view, &reports),
        operators,
        replicas_wanted: config.schedule.replicas,
        repair_after: config.schedule.repair_after,
    }
}

fn regions(
    view: &View,
    leaders: &BTreeMap<u64, (RegionPeer, &pb::RegionReport)>,
    now: Instant,
    down_after: Duration,
) -> Vec<RegionSurvey> {
    let mut replicas: BTreeMap<u64, Vec<Replica>> = BTreeMap::new();
    for (store_id, at, report) in view.reports() {
        let region = report.descriptor.as_ref().map_or(0, |region| region.region_id);
        let up = now.since(at) < down_after;
        let pb::RegionReport { peer_id, term, applied_index, bytes, .. } = *report;
        let replica = Replica { store_id, peer_id, term, applied_index, bytes, at, up };
        replicas.entry(region).or_default().push(replica);
    }
    view.regions_from(&[])
        .map(|known| {
            let led = leaders.get(&known.region_id);
            let told = led.and_then(|(_, report)| report.descriptor.as_ref());
            let mut region = known.clone();
            if let Some(told) = told.filter(|told| told.epoch_pair().1 >= known.epoch_pair().1) {
                region.peers.clone_from(&told.peers);
                region.quarantined_peer_ids.clone_from(&told.quarantined_peer_ids);
                region.leaving_peer_id = told.leaving_peer_id;
                region.state = told.state;
            }
            RegionSurvey {
                region,
                leader: led.map(|(leader, _)| *leader),
                replicas: replicas.remove(&known.region_id).unwrap_or_default(),
                learners: led.map(|(_, report)| report.learners.clone()).unwrap_or_default(),
                silent: led.map(|(_, report)| report.silent.clone()).unwrap_or_default(),
                fill: led.map_or(0, |(_, report)| report.fill),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::meta::v1::{RegionEpoch, RootCheckpoint, RootTailToken};

    fn region(conf_version: u64, peers: &[u64]) -> RegionDescriptor {
        RegionDescriptor {
            region_id: 7,
            start_key: "a".into(),
            epoch: Some(RegionEpoch { version: 1, conf_version }),
            peers: peers.iter().map(|store| RegionPeer { store_id: *store, peer_id: store + 100 }).collect(),
            ..RegionDescriptor::default()
        }
    }

    fn beat(
        store_id: u64,
        leader: bool,
        descriptor: RegionDescriptor,
        applied: u64,
    ) -> pb::StoreHeartbeatRequest {
        let report = pb::RegionReport {
            descriptor: Some(descriptor),
            leader,
            term: 2,
            peer_id: store_id + 100,
            applied_index: applied,
            ..Default::default()
        };
        pb::StoreHeartbeatRequest { store_id, regions: vec![report], ..Default::default() }
    }

    #[test]
    fn ranges_come_from_the_root_and_newer_peers_from_the_leader() {
        let mut view = View::default();
        let known = RootCheckpoint { descriptors: vec![region(1, &[1, 2, 3])], ..RootCheckpoint::default() };
        view.install(known, RootTailToken::default());
        let newer = RegionDescriptor { end_key: "m".into(), ..region(2, &[1, 2, 4]) };
        let second = |n: u64| Instant(n * 1_000_000_000);
        view.heard(beat(2, false, region(1, &[1, 2, 3]), 5), second(1));
        view.heard(beat(1, true, newer, 9), second(30));
        let survey = |now| {
            let patience = Duration::from_secs(20);
            regions(&view, &view.leader_reports(second(now), patience), second(now), patience).remove(0)
        };
        let seen = survey(31);
        assert_eq!((seen.region.end_key.len(), seen.region.peers[2].store_id), (0, 4));
        assert_eq!(seen.leader.map(|peer| peer.store_id), Some(1));
        let replicas: Vec<_> = seen.replicas.iter().map(|r| (r.store_id, r.applied_index, r.up)).collect();
        assert_eq!(replicas, [(1, 9, true), (2, 5, false)]);
        let late = survey(60);
        assert_eq!((late.leader, late.region.peers[2].store_id), (None, 3), "nobody speaks for it any more");
    }
}
