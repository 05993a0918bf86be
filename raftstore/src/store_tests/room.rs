//! Stores whose disk fills up, and stores that hand over.

use super::*;
use crate::{HandedOver, Level};
use nokv_env::mem_disk::DiskFaults;

const RESERVE: u64 = 1 << 20;

impl Cluster {
    fn leave(&self, store: u64, free_space: Option<u64>) {
        let disk = &self.platters[&store];
        disk.set_faults(DiskFaults { free_space, ..disk.faults() });
        self.wait(Duration::from_millis(500));
    }

    fn level(&self, store: u64) -> Level {
        self.stores[&store].observer()().disk.level
    }

    fn write(&mut self, store: u64, key: &str) -> Result<KvPrewriteResponse, tonic::Status> {
        let (start, commit) = (self.ts(), self.ts());
        let mut request =
            crate::mvcc::testing::prewrite_request(key, &[crate::mvcc::testing::put(key, "v")], start).0;
        request.one_pc_commit_version = commit;
        let request = KvPrewriteRequest { context: context(), request: Some(request) };
        self.world.run(self.client(store).kv_prewrite(request)).map(tonic::Response::into_inner)
    }

    fn applied(&self, store: u64) -> u64 {
        self.stores[&store].status().regions[0].applied_index
    }
}

#[test]
fn a_store_without_room_takes_no_new_data_until_there_is_some() {
    let mut cluster = Cluster::with_reserve(RESERVE);
    cluster.put("a", "1");
    let leader = cluster.leader();
    let (start, commit) = (cluster.ts(), cluster.ts());
    assert_eq!(cluster.prewrite(leader, "b", "2", start, 0).response.unwrap().errors, []);
    cluster.leave(leader, Some(RESERVE - 1));
    assert_eq!(cluster.level(leader), Level::Short);
    let refused = cluster.write(leader, "c").unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("disk_full: store "), "{refused}");
    assert_eq!(cluster.get("a").as_deref(), Some("1"), "reads go on");
    let request = CommitRequest { keys: vec!["b".into()], start_version: start, commit_version: commit };
    let request = KvCommitRequest { context: context(), request: Some(request) };
    let committed = cluster.world.run(cluster.client(leader).kv_commit(request)).unwrap().into_inner();
    assert_eq!(committed.response.unwrap().error, None, "what was begun may end");
    assert_eq!(cluster.get("b").as_deref(), Some("2"));
    cluster.leave(leader, None);
    assert_eq!(cluster.level(leader), Level::Open);
    cluster.put("c", "3");
}

#[test]
fn a_follower_without_any_room_lags_and_catches_up() {
    let mut cluster = Cluster::with_reserve(RESERVE);
    cluster.put("a", "1");
    let leader = cluster.leader();
    let follower = (1..=3).find(|store| *store != leader).unwrap();
    cluster.leave(follower, Some(RESERVE / 4 - 1));
    assert_eq!(cluster.level(follower), Level::Critical);
    let before = cluster.applied(follower);
    for key in ["b", "c", "d"] {
        cluster.put(key, "2");
    }
    cluster.wait(Duration::from_millis(500));
    assert_eq!(cluster.applied(follower), before, "nothing was written there");
    cluster.leave(follower, None);
    for _ in 0..100 {
        if cluster.applied(follower) == cluster.applied(cluster.leader()) {
            return;
        }
        cluster.wait(Duration::from_millis(100));
    }
    panic!("{} is applied, of {}", cluster.applied(follower), cluster.applied(cluster.leader()));
}

#[test]
fn a_store_hands_over_what_others_can_take() {
    let mut cluster = Cluster::new();
    cluster.put("a", "1");
    let leader = cluster.leader();
    cluster.wait(Duration::from_secs(2));
    let handed_over = cluster.world.run(cluster.stores[&leader].hand_over(Duration::from_secs(3)));
    assert_eq!(handed_over, HandedOver { moved: 1, kept: 0 });
    let successor = cluster.leader();
    assert_ne!(successor, leader);
    assert_eq!(cluster.get("a").as_deref(), Some("1"));
    for store in (1..=3).filter(|store| *store != successor) {
        cluster.kill(store);
    }
    let env = cluster.stores[&successor].shared.env.clone();
    let began = env.clock.now();
    let handed_over = cluster.world.run(cluster.stores[&successor].hand_over(Duration::from_secs(4)));
    assert!(handed_over.moved + handed_over.kept <= 1, "{handed_over:?}");
    assert!(env.clock.now().since(began) <= Duration::from_secs(4), "nobody is there, and it waits");
}

/// A client's read: whoever cannot serve it is asked again, or another one.
fn read(cluster: &Cluster, key: &str) -> Option<String> {
    for _ in 0..20 {
        let request = GetRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
        let request = KvGetRequest { context: context(), request: Some(request) };
        let answered = cluster.world.run(cluster.client(cluster.leader()).kv_get(request));
        if let Some(response) = answered.ok().and_then(|answer| answer.into_inner().response) {
            return (!response.not_found).then(|| String::from_utf8(response.value.to_vec()).unwrap());
        }
        cluster.wait(Duration::from_millis(100));
    }
    panic!("nobody serves a read of {key}");
}

/// Writes until a store whose disk has no room at all says so.
fn write_until_refused(cluster: &mut Cluster) -> tonic::Status {
    for n in 0..500 {
        let leader = cluster.leader();
        match cluster.write(leader, &format!("key {n}")) {
            Err(status) if status.code() == Code::ResourceExhausted => return status,
            _ => {}
        }
    }
    panic!("all writes were taken");
}

/// All at once, so a leader that comes to power meanwhile may have nothing that it could commit: reads may have to wait.
#[test]
fn a_disk_that_is_full_to_the_last_byte_stops_no_store() {
    let mut cluster = Cluster::with_disks(0, 64 << 10);
    cluster.put("a", "1");
    for store in 1..=3 {
        cluster.leave(store, Some(0));
        assert_eq!(cluster.level(store), Level::Open, "nobody has asked for room yet");
    }
    let refused = write_until_refused(&mut cluster);
    assert!(refused.message().starts_with("disk_full: store "), "{refused}");
    // Twice: the first start can fall back on the ballast, the second one on what the first has left of it.
    let full = (1..=3).find(|store| cluster.level(*store) == Level::Critical).expect("one has refused");
    for _ in 0..2 {
        cluster.stop(full);
        cluster.start_again_at(full, &addr(full));
        assert_eq!(cluster.level(full), Level::Critical, "it starts, and takes nothing");
    }
    for store in 1..=3 {
        assert_eq!(cluster.stores[&store].shared.raft.failure(), None);
        cluster.leave(store, None);
    }
    for store in 1..=3 {
        for _ in 0..50 {
            if cluster.level(store) == Level::Open {
                break;
            }
            cluster.wait(Duration::from_millis(100));
        }
        assert_eq!(cluster.level(store), Level::Open);
    }
    assert_eq!(read(&cluster, "a").as_deref(), Some("1"));
    cluster.put("b", "2");
    assert_eq!(cluster.get("b").as_deref(), Some("2"));
}

#[test]
fn a_raft_log_without_room_waits_for_it() {
    // No ballast: nothing to fall back on.
    let mut cluster = Cluster::with_reserve(0);
    cluster.put("a", "1");
    let leader = cluster.leader();
    cluster.leave(leader, Some(0));
    for n in 0..500 {
        if cluster.stores[&leader].shared.raft.is_disk_full() {
            break;
        }
        let at = cluster.leader();
        let _ = cluster.write(at, &format!("key {n}"));
    }
    assert!(cluster.stores[&leader].shared.raft.is_disk_full(), "the log has found no room");
    for _ in 0..100 {
        if cluster.stores.iter().any(|(id, store)| *id != leader && store.status().leaders == 1) {
            break;
        }
        cluster.wait(Duration::from_millis(100));
    }
    let (successor, _) =
        cluster.stores.iter().find(|(id, store)| **id != leader && store.status().leaders == 1).unwrap();
    let successor = *successor;
    cluster.write(successor, "b").unwrap();
    cluster.leave(leader, None);
    for _ in 0..100 {
        if cluster.applied(leader) == cluster.applied(successor) {
            break;
        }
        cluster.wait(Duration::from_millis(100));
    }
    let store = &cluster.stores[&leader];
    assert_eq!((store.shared.raft.failure(), store.shared.raft.is_disk_full()), (None, false));
    assert_eq!(cluster.applied(leader), cluster.applied(successor));
}
