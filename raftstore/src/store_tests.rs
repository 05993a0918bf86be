//! Three stores in one world, spoken to as a client would.

use crate::catalog::Position;
use crate::mvcc::{CF_WRITE, stored_bounds};
use crate::snapshot::rows::Sum;
use crate::testing::{World, region};
use crate::{Config, Store};
use bytes::Bytes;
use nokv_engine::{Options, WriteBatch};
use nokv_env::ClockExt;
use nokv_env::mem_disk::{CrashMode, MemDisk};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{
    MvccGetRequest, RegionRuntimeStatusRequest, ReplicaVerdict, TransferLeaderRequest,
};
use nokv_proto::error::v1::RegionError;
use nokv_proto::key::KeyRange;
use nokv_proto::kv::v1::no_kv_client::NoKvClient;
use nokv_proto::kv::v1::*;
use nokv_proto::meta::v1::RegionDescriptor;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

mod by_hand;
mod load;
mod numbers;
mod room;

struct Cluster {
    world: World,
    platters: BTreeMap<u64, Arc<MemDisk>>,
    stores: BTreeMap<u64, Store>,
    next_ts: u64,
    disk_reserve: u64,
    disk_ballast: u64,
}

fn addr(store: u64) -> String {
    format!("store{store}:1")
}

impl Cluster {
    fn new() -> Self {
        Self::with_reserve(0)
    }

    fn with_reserve(disk_reserve: u64) -> Self {
        Self::with_disks(disk_reserve, 0)
    }

    fn with_disks(disk_reserve: u64, disk_ballast: u64) -> Self {
        let platters: BTreeMap<_, _> = (1..=3).map(|store| (store, MemDisk::new(store))).collect();
        let (world, stores, next_ts) = (World::default(), BTreeMap::new(), 100);
        let mut cluster = Self { world, platters, stores, next_ts, disk_reserve, disk_ballast };
        for store in 1..=3 {
            cluster.start(store);
        }
        cluster
    }

    fn start(&mut self, store: u64) {
        self.start_at(store, &addr(store), &[region(&[1, 2, 3])]);
    }

    fn start_at(&mut self, store: u64, listen: &str, seeded: &[RegionDescriptor]) {
        let env = self.world.env(store, &self.platters[&store]);
        self.world.run(crate::seed::seed_regions(&env, Path::new("/s"), store, seeded)).unwrap();
        self.start_again_at(store, listen);
    }

    /// Starts a store whose directory has been used.
    fn start_again_at(&mut self, store: u64, listen: &str) {
        let env = self.world.env(store, &self.platters[&store]);
        let mut config = Config::new(store, "/s", listen, Vec::new());
        config.store_addrs = (1..=4).map(|store| (store, addr(store))).collect();
        config.tick = Duration::from_millis(10);
        config.engine = Options::tiny();
        config.log_segment_bytes = 16 << 10;
        config.log_keep_entries = 8;
        config.snapshot_chunk_bytes = 500;
        config.disk_reserve = self.disk_reserve;
        config.disk_ballast = self.disk_ballast;
        let started = self.world.run(Store::start(env, config));
        self.stores.insert(store, started.unwrap());
    }

    fn stop(&mut self, store: u64) {
        let stopped = self.stores.remove(&store).unwrap();
        self.world.run(stopped.stop());
    }

    fn kill(&mut self, store: u64) {
        let dead = self.stores.remove(&store).unwrap();
        self.platters[&store].crash(CrashMode::PowerLossWorst);
        let raft = dead.shared.raft.clone();
        drop(dead);
        self.world.run(raft.stop());
    }

    fn wait(&self, duration: Duration) {
        self.world.run(self.any().shared.env.clock.sleep(duration));
    }

    fn any(&self) -> &Store {
        self.stores.values().next().unwrap()
    }

    fn leader(&self) -> u64 {
        for _ in 0..200 {
            let leads = |store: &Store| store.status().leaders == 1;
            if let Some((id, _)) = self.stores.iter().find(|(_, store)| leads(store)) {
                return *id;
            }
            self.wait(Duration::from_millis(20));
        }
        panic!("nobody leads");
    }

    fn ts(&mut self) -> u64 {
        self.next_ts += 1;
        self.next_ts
    }

    fn client(&self, store: u64) -> NoKvClient<nokv_env::Channel> {
        NoKvClient::new(self.any().shared.env.net.connect(&addr(store)))
    }

    fn prewrite(&self, store: u64, key: &str, value: &str, start: u64, one_pc: u64) -> KvPrewriteResponse {
        let mut request =
            crate::mvcc::testing::prewrite_request(key, &[crate::mvcc::testing::put(key, value)], start).0;
        request.one_pc_commit_version = one_pc;
        let request = KvPrewriteRequest { context: context(), request: Some(request) };
        self.world.run(self.client(store).kv_prewrite(request)).unwrap().into_inner()
    }

    fn put(&mut self, key: &str, value: &str) {
        let (leader, start, commit_version) = (self.leader(), self.ts(), self.ts());
        let prewritten = self.prewrite(leader, key, value, start, 0);
        assert_eq!(prewritten.response.unwrap().errors, []);
        let keys = vec![Bytes::copy_from_slice(key.as_bytes())];
        let request = CommitRequest { keys, start_version: start, commit_version };
        let request = KvCommitRequest { context: context(), request: Some(request) };
        let committed = self.world.run(self.client(leader).kv_commit(request)).unwrap().into_inner();
        assert_eq!(committed.response.unwrap().error, None);
    }

    fn try_get(&self, store: u64, key: &str, version: u64) -> KvGetResponse {
        let request =
            GetRequest { key: Bytes::copy_from_slice(key.as_bytes()), version, ..Default::default() };
        let request = KvGetRequest { context: context(), request: Some(request) };
        self.world.run(self.client(store).kv_get(request)).unwrap().into_inner()
    }

    fn get(&self, key: &str) -> Option<String> {
        let response = self.try_get(self.leader(), key, 0).response.unwrap();
        (!response.not_found).then(|| String::from_utf8(response.value.to_vec()).unwrap())
    }

    /// Waits until all stores have applied the same, then compares what they hold.
    fn converge(&self) {
        self.converge_but(0);
    }

    /// The same without one store.
    fn converge_but(&self, absent: u64) {
        let stores = || self.stores.iter().filter(|(id, _)| **id != absent).map(|(_, store)| store);
        for _ in 0..500 {
            let applied = |store: &Store| store.status().regions[0].applied_index;
            let most = stores().map(applied).max();
            if stores().all(|store| Some(applied(store)) == most) {
                let images: Vec<_> = stores().map(image).collect();
                assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ");
                return;
            }
            self.wait(Duration::from_millis(20));
        }
        panic!("the stores do not converge");
    }
}

/// What the region is on a store: its descriptor, how far it is applied, and what its rows add up to.
fn image(store: &Store) -> (Arc<RegionDescriptor>, Position, Sum) {
    let state = store.shared.door.regions.get(1).unwrap().state();
    let sum = crate::snapshot::sum(&store.shared.db.snapshot(), &state.descriptor.range()).unwrap();
    (state.descriptor, state.applied, sum)
}

fn context() -> Option<Context> {
    let region_epoch = region(&[1]).epoch;
    Some(Context { region_id: 1, region_epoch, ..Default::default() })
}

fn leader_hint(error: Option<RegionError>) -> u64 {
    error.unwrap().not_leader.unwrap().leader.unwrap().store_id
}

#[test]
fn a_write_is_read_everywhere_it_should_be() {
    let mut cluster = Cluster::new();
    cluster.put("a", "1");
    assert_eq!(cluster.get("a").as_deref(), Some("1"));
    assert_eq!(cluster.get("b"), None);
    let leader = cluster.leader();
    let other = leader % 3 + 1;
    cluster.wait(Duration::from_millis(100));
    assert_eq!(leader_hint(cluster.try_get(other, "a", 0).region_error), leader);
    assert_eq!(leader_hint(cluster.prewrite(other, "a", "2", 900, 0).region_error), leader);
    cluster.converge();
}

#[test]
fn acknowledged_writes_survive_the_death_of_every_store() {
    let mut cluster = Cluster::new();
    for round in 0..6 {
        for step in 0..5 {
            cluster.put(&format!("k{step}"), &format!("{round}-{}", "x".repeat(300)));
        }
        let leader = cluster.leader();
        cluster.kill(leader);
        cluster.put("k9", &round.to_string());
        cluster.start(leader);
        for step in 0..5 {
            assert!(cluster.get(&format!("k{step}")).unwrap().starts_with(&format!("{round}-")));
        }
    }
    for store in 1..=3 {
        cluster.kill(store);
    }
    (1..=3).for_each(|store| cluster.start(store));
    assert_eq!(cluster.get("k9").as_deref(), Some("5"));
    cluster.converge();
}

#[test]
fn a_store_that_fell_behind_gets_the_whole_region() {
    let mut cluster = Cluster::new();
    cluster.put("a", "1");
    let behind = cluster.leader() % 3 + 1;
    cluster.stop(behind);
    for step in 0..60 {
        cluster.put(&format!("k{}", step % 7), &"x".repeat(2000));
    }
    cluster.wait(Duration::from_secs(10));
    cluster.start(behind);
    cluster.converge();
    let installed: u64 = cluster.stores.values().map(|store| store.status().raft.snapshots_installed).sum();
    assert!(installed > 0, "the log was still there");
    let directory = Path::new("/s/INCOMING_SNAPSHOTS");
    let left = |disk: &MemDisk| disk.files().iter().any(|(path, _)| path.starts_with(directory));
    assert!(cluster.platters.values().all(|disk| !left(disk)), "tables that were adopted have moved");
}

#[test]
fn one_round_trip_needs_a_timestamp_and_yields_to_readers() {
    let cluster = Cluster::new();
    let leader = cluster.leader();
    let region = cluster.stores[&leader].shared.door.regions.get(1).unwrap();
    let commit = |key, start| {
        cluster.prewrite(leader, key, "v", start, start + 1).response.unwrap().one_pc_commit_version
    };
    assert_eq!(commit("a", 200), 0);
    let want = region.one_pc().wants().unwrap();
    region.one_pc().enable(want, 300);
    assert_eq!(commit("b", 300), 301);
    assert_eq!(cluster.try_get(leader, "b", 500).response.unwrap().commit_version, 301);
    assert_eq!(commit("c", 400), 0);
    assert_eq!(commit("d", 500), 501);
}

#[test]
fn leadership_is_handed_over_on_request() {
    let mut cluster = Cluster::new();
    cluster.put("a", "1");
    let leader = cluster.leader();
    let target = leader % 3 + 1;
    let net = cluster.any().shared.env.net.clone();
    let mut admin = RaftAdminClient::new(net.connect(&addr(leader)));
    let transfer = |peer_id| TransferLeaderRequest { region_id: 1, peer_id };
    cluster.world.run(admin.transfer_leader(transfer(target * 100 + 1))).unwrap();
    cluster.wait(Duration::from_secs(1));
    assert_eq!(cluster.leader(), target);
    let refused = cluster.world.run(admin.transfer_leader(transfer(101))).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let status = RegionRuntimeStatusRequest { region_id: 1 };
    let status = cluster.world.run(admin.region_runtime_status(status)).unwrap().into_inner();
    assert_eq!((status.known, status.hosted, status.leader), (true, true, false));
    assert_eq!((status.local_peer_id, status.leader_peer_id), (leader * 100 + 1, target * 100 + 1));
    assert!(status.applied_index >= 2);
}

/// Takes the newest row of a key out of a store's engine, as no log says.
fn damage(world: &World, store: &Store, key: &str) {
    let range = KeyRange { start: Bytes::copy_from_slice(key.as_bytes()), end: Bytes::new() };
    let rows = store.shared.db.snapshot();
    let (row, _) = rows.iter(CF_WRITE, stored_bounds(&range)).next().unwrap().unwrap();
    let mut batch = WriteBatch::new();
    batch.delete(CF_WRITE, row);
    store.shared.db.apply(batch).unwrap();
    world.run(store.shared.db.flush()).unwrap();
}

#[test]
fn a_replica_that_differs_is_found_and_does_not_serve_or_lead_any_more() {
    let mut cluster = Cluster::new();
    cluster.put("a", "1");
    cluster.put("b", "2");
    cluster.converge();
    let check = |cluster: &Cluster, store: u64| {
        cluster.world.run(cluster.stores[&store].shared.check_region(1)).unwrap()
    };
    let sick = cluster.leader();
    let sound = check(&cluster, sick);
    assert!(sound.replicas.iter().all(|replica| replica.verdict() == ReplicaVerdict::Equal), "{sound:?}");
    damage(&cluster.world, &cluster.stores[&sick], "a");
    let found = check(&cluster, sick);
    for replica in &found.replicas {
        assert_eq!(replica.verdict() == ReplicaVerdict::Differs, replica.store_id == sick, "{found:?}");
    }
    assert_eq!(found.region.unwrap().quarantined_peer_ids, [sick * 100 + 1]);
    cluster.wait(Duration::from_secs(3));
    let heir = cluster.leader();
    assert_ne!(heir, sick, "it led, and wrong reads would have come from it");
    // Its word counts as before in elections, but it does not keep what it wins, also after a restart that applies
    // nothing again.
    cluster.world.run(cluster.stores[&sick].shared.db.flush()).unwrap();
    cluster.kill(sick);
    cluster.start(sick);
    cluster.wait(Duration::from_secs(3));
    let state = cluster.stores[&sick].shared.door.regions.get(1).unwrap().state();
    assert!(state.is_quarantined());
    let mut admin = RaftAdminClient::new(cluster.any().shared.env.net.connect(&addr(cluster.leader())));
    let request = TransferLeaderRequest { region_id: 1, peer_id: sick * 100 + 1 };
    _ = cluster.world.run(admin.transfer_leader(request));
    cluster.wait(Duration::from_secs(3));
    assert_ne!(cluster.leader(), sick);
    let read = GetRequest { key: "b".into(), ..Default::default() };
    let context = Context { region_epoch: state.descriptor.epoch, ..context().unwrap() };
    let request = KvGetRequest { context: Some(context), request: Some(read) };
    let refused = cluster.world.run(cluster.client(sick).kv_get(request)).unwrap().into_inner();
    assert!(refused.region_error.is_some_and(|error| error.not_leader.is_some()));
    let again = check(&cluster, cluster.leader());
    assert_eq!(again.replicas.iter().filter(|one| one.verdict() == ReplicaVerdict::Differs).count(), 1);
}

#[test]
fn without_a_majority_nothing_is_answered_wrongly() {
    let mut cluster = Cluster::new();
    cluster.put("a", "1");
    let leader = cluster.leader();
    for other in (1..=3).filter(|store| *store != leader) {
        cluster.kill(other);
    }
    let request = GetRequest { key: "a".into(), ..Default::default() };
    let request = KvGetRequest { context: context(), request: Some(request) };
    let mut client = cluster.client(leader);
    match cluster.world.run(client.kv_get(request)) {
        Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded),
        Ok(reply) => assert!(reply.into_inner().region_error.unwrap().not_leader.is_some()),
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let cluster = Cluster::new();
    let mut client = cluster.client(cluster.leader());
    let mut refused = |request: KvGetRequest| cluster.world.run(client.kv_get(request)).unwrap_err().code();
    assert_eq!(refused(KvGetRequest { context: context(), request: None }), Code::InvalidArgument);
    let get = |key: &[u8]| Some(GetRequest { key: Bytes::copy_from_slice(key), ..Default::default() });
    assert_eq!(refused(KvGetRequest { context: None, request: get(b"a") }), Code::InvalidArgument);
    assert_eq!(refused(KvGetRequest { context: context(), request: get(b"") }), Code::InvalidArgument);
    assert_eq!(refused(KvGetRequest { context: context(), request: get(&[1; 5000]) }), Code::InvalidArgument);
}

/// A read at `store` with the given consistency and bound.
fn read_at(cluster: &Cluster, store: u64, key: &str, change: impl FnOnce(&mut Context)) -> KvGetResponse {
    let mut asked = context().unwrap();
    change(&mut asked);
    let request = GetRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    let request = KvGetRequest { context: Some(asked), request: Some(request) };
    cluster.world.run(cluster.client(store).kv_get(request)).unwrap().into_inner()
}

#[test]
fn a_follower_answers_as_its_leader_would() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader();
    let follower = leader % 3 + 1;
    for round in 0..20 {
        cluster.put("a", &round.to_string());
        let reply = read_at(&cluster, follower, "a", |context| {
            context.set_read_preference(ReadPreference::FollowerPrefer);
        });
        let response = reply.response.unwrap_or_else(|| panic!("{:?}", reply.region_error));
        assert_eq!(response.value, round.to_string(), "no replication is waited for in this test");
    }
    let strong = read_at(&cluster, follower, "a", |context| context.max_stale_read_ms = 60_000);
    assert_eq!(leader_hint(strong.region_error), leader, "the bound alone allows nothing");
}

#[test]
fn a_stale_read_needs_no_leader_while_its_bound_lasts() {
    let mut cluster = Cluster::new();
    cluster.put("a", "1");
    let leader = cluster.leader();
    let follower = leader % 3 + 1;
    let stale = |cluster: &Cluster, ms: u64| {
        let reply = read_at(cluster, follower, "a", |context| {
            context.set_read_consistency(ReadConsistency::BoundedStale);
            context.max_stale_read_ms = ms;
        });
        reply.response.map(|response| response.value)
    };
    assert_eq!(stale(&cluster, 10_000), Some("1".into()));
    for store in (1..=3).filter(|store| *store != follower) {
        cluster.kill(store);
    }
    assert_eq!(stale(&cluster, 10_000), Some("1".into()), "the leader said so moments ago");
    cluster.wait(Duration::from_secs(1));
    assert_eq!(stale(&cluster, 500), None, "and nobody can say so again");
}

/// Brings every region that some store leads to this safe point, as the coordinators would.
fn collect(cluster: &Cluster, safe_point: u64) {
    let leader = cluster.leader();
    let shared = &cluster.stores[&leader].shared;
    for (target, safe_point) in [(safe_point, 0), (safe_point, safe_point)] {
        shared.points.learn(target, safe_point);
        let region = shared.door.regions.get(1).unwrap();
        cluster.world.run(crate::gc::tend(shared, &region)).unwrap();
    }
}

#[test]
fn old_versions_go_from_every_replica_and_reads_below_are_refused() {
    let mut cluster = Cluster::new();
    for round in 0..30 {
        cluster.put("a", &round.to_string());
        cluster.put("b", &"x".repeat(1000));
    }
    let middle = cluster.next_ts;
    cluster.put("a", "later");
    let before = cluster.try_get(cluster.leader(), "a", middle).response.unwrap().value;
    let rows_before = image(cluster.any()).2.rows;
    collect(&cluster, middle);
    cluster.converge();
    assert!(image(cluster.any()).2.rows < rows_before / 10, "29 long values and their records went");
    let leader = cluster.leader();
    assert_eq!(cluster.try_get(leader, "a", middle).response.unwrap().value, before);
    let old = cluster.try_get(leader, "a", middle - 1).response.unwrap().error.unwrap();
    assert_eq!(old.below_safe_point.unwrap().safe_point, middle);
    let late = cluster.prewrite(leader, "c", "late", middle - 1, 0).response.unwrap();
    assert!(late.errors[0].below_safe_point.is_some());
    // What was refused once stays refused: the safe point is part of the region's state.
    for store in 1..=3 {
        cluster.kill(store);
    }
    (1..=3).for_each(|store| cluster.start(store));
    let leader = cluster.leader();
    let old = cluster.try_get(leader, "a", middle - 1).response.unwrap().error.unwrap();
    assert_eq!(old.below_safe_point.unwrap().safe_point, middle);
    assert_eq!(cluster.get("a").as_deref(), Some("later"));
}

#[test]
fn a_snapshot_brings_the_safe_point_along() {
    let mut cluster = Cluster::new();
    let behind = cluster.leader() % 3 + 1;
    cluster.stop(behind);
    for round in 0..30 {
        cluster.put("a", &round.to_string());
    }
    let middle = cluster.next_ts;
    collect(&cluster, middle);
    for round in 0..30 {
        cluster.put("b", &round.to_string());
    }
    cluster.start(behind);
    cluster.converge();
    let gc = cluster.stores[&behind].shared.door.regions.get(1).unwrap().gc();
    assert_eq!((gc.fence, gc.safe_point), (middle, middle));
}

#[test]
fn what_replicas_hold_of_a_key_is_shown_and_only_the_leader_vouches_for_it() {
    let mut cluster = Cluster::new();
    cluster.put("k", "one");
    cluster.put("k", "two");
    let (leader, start) = (cluster.leader(), cluster.ts());
    assert_eq!(cluster.prewrite(leader, "k", "three", start, 0).response.unwrap().errors, []);
    let ask = |store: u64, key: &str, any_replica| {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let request = MvccGetRequest { region_id: 1, key, any_replica, limit: 0 };
        let mut admin = RaftAdminClient::new(cluster.any().shared.env.net.connect(&addr(store)));
        cluster.world.run(async { admin.mvcc_get(request).await.map(tonic::Response::into_inner) })
    };
    let seen = ask(leader, "k", false).unwrap();
    assert!(seen.leader && seen.store_id == leader && !seen.more);
    assert_eq!(seen.lock.unwrap().start_ts, start);
    let values: Vec<_> = seen.records.iter().map(|row| row.value.clone().unwrap().head).collect();
    assert_eq!(values, ["two", "one"]);
    cluster.converge();
    let other = 1 + leader % 3;
    let refused = ask(other, "k", false).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&format!("led by store {leader}")), "{}", refused.message());
    let replica = ask(other, "k", true).unwrap();
    assert!(!replica.leader && replica.records == seen.records);
    assert_eq!(ask(leader, "", false).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(ask(leader, &"k".repeat(5000), true).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(ask(leader, "other", true).unwrap().records, []);
}
