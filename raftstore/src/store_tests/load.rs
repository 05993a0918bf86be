//! What a store tells of the work it does, and of requests that took long.

use super::{Cluster, context};
use nokv_env::ClockExt;
use nokv_proto::coordinator::v1::RegionTraffic;
use nokv_proto::kv::v1::KvPrewriteRequest;
use std::time::Duration;

/// Rates of the cluster's region on a store, as its heartbeat would tell them.
fn rates(cluster: &Cluster, store: u64) -> Option<RegionTraffic> {
    let shared = &cluster.stores[&store].shared;
    shared.door.regions.all()[0].traffic().rates(shared.env.clock.now())
}

/// Seconds pass. Without coordinators stores run no loop that samples.
fn wait_sampling(cluster: &Cluster, seconds: u64) {
    for _ in 0..seconds {
        cluster.wait(Duration::from_secs(1));
        for store in cluster.stores.values() {
            store.shared.door.regions.all()[0].traffic().sample(store.shared.env.clock.now());
        }
    }
}

#[test]
fn the_leader_of_a_region_knows_what_is_read_and_written_there() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader();
    wait_sampling(&cluster, 3);
    for n in 0..200 {
        cluster.put(&format!("k{n:03}"), &"v".repeat(96));
        assert!(cluster.get(&format!("k{n:03}")).is_some());
    }
    cluster.wait(Duration::from_millis(800));
    assert_eq!(cluster.leader(), leader);
    let seen = rates(&cluster, leader).expect("a region that is busy");
    assert!(seen.write_keys > 10 && seen.read_keys > 10, "{seen:?}");
    // A prewrite, a commit and a read each; rates are rounded.
    assert!(seen.requests.abs_diff(3 * seen.write_keys) <= 3, "{seen:?}");
    // A hundred bytes each.
    assert!(seen.write_bytes.abs_diff(100 * seen.write_keys) <= 50, "{seen:?}");
    assert!(seen.read_bytes.abs_diff(100 * seen.read_keys) <= 50, "{seen:?}");
    for follower in (1..=3).filter(|store| *store != leader) {
        assert_eq!(rates(&cluster, follower), None, "it serves nothing");
    }
    wait_sampling(&cluster, 12);
    assert_eq!(rates(&cluster, leader), None, "that was long ago");
}

/// Slow requests after a write whose caller waited so long, where no majority can accept it.
fn slow_after(patience: Duration) -> u64 {
    let mut cluster = Cluster::new();
    cluster.put("a", "1");
    let leader = cluster.leader();
    assert_eq!(cluster.stores[&leader].shared.slow.count(), 0);
    for other in (1..=3).filter(|store| *store != leader) {
        cluster.kill(other);
    }
    let request = crate::mvcc::testing::prewrite_request("b", &[crate::mvcc::testing::put("b", "2")], 100).0;
    let request = KvPrewriteRequest { context: context(), request: Some(request) };
    let mut client = cluster.client(leader);
    let clock = cluster.stores[&leader].shared.env.clock.clone();
    let asked = cluster.world.run(clock.timeout(patience, client.kv_prewrite(request)));
    assert!(asked.is_err(), "it cannot be committed: {asked:?}");
    cluster.stores[&leader].shared.slow.count()
}

#[test]
fn a_request_whose_caller_gave_up_counts_as_slow() {
    assert_eq!(slow_after(Duration::from_millis(290)), 0);
    assert_eq!(slow_after(Duration::from_millis(310)), 1);
}
