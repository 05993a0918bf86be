//! Snapshots that an operator carries from one store to another.

use super::*;
use crate::catalog::{self, Members};
use crate::membership::Beside;
use crate::snapshot_file::{Header, Part, take_part};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use nokv_proto::admin::v1::*;
use nokv_proto::meta::v1::{RegionPeer, RegionReplicaState};
use nokv_replica::{ConfChange, GroupId, PeerChange};
use std::pin::pin;
use tonic::Status;

/// The store that a region is carried to, and where it listens: nobody but the operator knows.
const NEW: u64 = 4;
const HIDDEN: &str = "behind-a-wall:1";
const LEARNER: u64 = 401;

fn admin(cluster: &Cluster, addr: &str) -> RaftAdminClient<nokv_env::Channel> {
    RaftAdminClient::new(cluster.any().shared.env.net.connect(addr)).max_decoding_message_size(64 << 20)
}

fn begin_store(cluster: &mut Cluster, listen: &str) {
    cluster.platters.entry(NEW).or_insert_with(|| MemDisk::new(NEW));
    cluster.start_at(NEW, listen, &[]);
}

/// A region with a few rows, a learner on a store that nobody reaches, and that store.
fn with_learner() -> Cluster {
    let mut cluster = Cluster::new();
    for key in ["a", "b", "c", "d"] {
        cluster.put(key, &"x".repeat(400));
    }
    let context = Beside { homes: vec![(NEW, LEARNER)], leaving: None }.encode();
    let change = ConfChange { changes: vec![PeerChange::AddLearner(LEARNER)], context, made_for: 0 };
    let leader = cluster.leader();
    let changed = cluster.stores[&leader].shared.raft.propose_conf_change(GroupId(1), change);
    cluster.world.run(changed).unwrap();
    begin_store(&mut cluster, HIDDEN);
    cluster
}

type Exported = Vec<ExportRegionSnapshotStreamResponse>;

fn export(cluster: &Cluster, store: u64) -> Result<Exported, Status> {
    cluster.world.run(async {
        let request = ExportRegionSnapshotStreamRequest { region_id: 1 };
        let mut stream =
            admin(cluster, &addr(store)).export_region_snapshot_stream(request).await?.into_inner();
        let mut parts = Vec::new();
        while let Some(part) = stream.message().await? {
            parts.push(part);
        }
        Ok(parts)
    })
}

/// The messages as one file.
fn file(parts: &Exported) -> Bytes {
    let bytes = parts.iter().flat_map(|part| [&part.snapshot_header[..], &part.chunk[..]].concat());
    bytes.collect::<Vec<u8>>().into()
}

fn sent_on(parts: &Exported) -> Vec<ImportRegionSnapshotStreamRequest> {
    let message = |part: &ExportRegionSnapshotStreamResponse| {
        let ExportRegionSnapshotStreamResponse { snapshot_header, region, chunk } = part.clone();
        ImportRegionSnapshotStreamRequest { snapshot_header, region, chunk }
    };
    parts.iter().map(message).collect()
}

fn import(cluster: &Cluster, to: &str, parts: &Exported) -> Result<RegionDescriptor, Status> {
    let messages = futures_util::stream::iter(sent_on(parts));
    let reply = cluster.world.run(admin(cluster, to).import_region_snapshot_stream(messages))?;
    Ok(reply.into_inner().region.unwrap())
}

fn import_file(cluster: &Cluster, to: &str, snapshot: Bytes) -> Result<RegionDescriptor, Status> {
    let request = ImportRegionSnapshotRequest { snapshot };
    let reply = cluster.world.run(admin(cluster, to).import_region_snapshot(request))?;
    Ok(reply.into_inner().region.unwrap())
}

/// The same snapshot with another header.
fn bent(parts: &Exported, change: impl FnOnce(&mut Header)) -> Exported {
    let mut parts = parts.clone();
    let mut header = Header::decode(&parts[0].snapshot_header).unwrap();
    change(&mut header);
    (parts[0].snapshot_header, parts[0].region) = (header.encode(), Some(header.region));
    parts
}

/// Neither a region nor a file, nor anything that stands in the way of another try.
fn has_nothing(cluster: &Cluster) -> bool {
    let directory = Path::new("/s/INCOMING_SNAPSHOTS");
    let store = &cluster.stores[&NEW];
    store.regions().is_empty()
        && store.shared.door.regions.get(1).is_none()
        && store.shared.snapshots.arriving().is_empty()
        && catalog::read(&store.shared.db).unwrap().is_empty()
        && !cluster.platters[&NEW].files().iter().any(|(path, _)| path.starts_with(directory))
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>, why: &str) -> Code {
    let status = answer.unwrap_err();
    assert!(status.message().contains(why), "{status:?} does not say {why:?}");
    status.code()
}

#[test]
fn a_region_is_carried_to_a_learner_that_its_leader_does_not_reach() {
    let mut cluster = with_learner();
    let leader = cluster.leader();
    let parts = export(&cluster, leader).unwrap();
    assert!(parts.len() > 3, "more than one chunk");
    let imported = import(&cluster, HIDDEN, &parts).unwrap();
    let carried = image(&cluster.stores[&NEW]);
    assert_eq!(carried, image(&cluster.stores[&leader]));
    assert_eq!(imported, *carried.0);
    let status = cluster.stores[&NEW].shared.raft.status(GroupId(1)).unwrap();
    assert_eq!((status.peer, status.applied, status.leader), (LEARNER, carried.1.index, None));
    assert_eq!(status.learners, [LEARNER]);
    cluster.kill(NEW);
    begin_store(&mut cluster, HIDDEN);
    assert_eq!(image(&cluster.stores[&NEW]), carried, "it lasts");
    // Now the leader finds it, and goes on from there.
    cluster.kill(NEW);
    begin_store(&mut cluster, &addr(NEW));
    cluster.stores.values().for_each(|store| store.shared.snapshots.withdraw(1));
    let epoch = carried.0.epoch;
    let prewrite =
        crate::mvcc::testing::prewrite_request("e", &[crate::mvcc::testing::put("e", "new")], 900).0;
    let context = Some(Context { region_epoch: epoch, ..context().unwrap() });
    let request = KvPrewriteRequest { context, request: Some(prewrite) };
    cluster.world.run(cluster.client(leader).kv_prewrite(request)).unwrap();
    cluster.converge();
    assert!(image(&cluster.stores[&NEW]).1 > carried.1);
    let installed = |store: u64| cluster.stores[&store].status().raft.snapshots_installed;
    assert_eq!(installed(NEW), 0, "the log was enough");
}

#[test]
fn one_message_holds_what_the_stream_does() {
    let cluster = with_learner();
    let leader = cluster.leader();
    let request = ExportRegionSnapshotRequest { region_id: 1 };
    let whole = cluster.world.run(admin(&cluster, &addr(leader)).export_region_snapshot(request)).unwrap();
    let whole = whole.into_inner();
    let parts = export(&cluster, leader).unwrap();
    assert_eq!((&whole.snapshot, &whole.region), (&file(&parts), &parts[0].region));
    import_file(&cluster, HIDDEN, whole.snapshot).unwrap();
    assert_eq!(image(&cluster.stores[&NEW]), image(&cluster.stores[&leader]));
}

#[test]
fn a_snapshot_that_is_too_large_for_a_message_is_streamed() {
    let cluster = with_learner();
    let leader = cluster.leader();
    let db = &cluster.stores[&leader].shared.db;
    for step in 0..5 {
        let mut batch = WriteBatch::new();
        let key = nokv_proto::key::encode_key(format!("k{step}").as_bytes());
        batch.put(crate::mvcc::CF_DEFAULT, key, vec![0; 4 << 20]);
        db.apply(batch).unwrap();
        cluster.world.run(db.flush()).unwrap();
    }
    let request = ExportRegionSnapshotRequest { region_id: 1 };
    let whole = cluster.world.run(admin(&cluster, &addr(leader)).export_region_snapshot(request));
    assert_eq!(refusal(whole, "ExportRegionSnapshotStream"), Code::ResourceExhausted);
    assert!(file(&export(&cluster, leader).unwrap()).len() > 20 << 20);
}

#[test]
fn what_a_replica_should_not_vouch_for_is_not_exported() {
    let cluster = with_learner();
    let store = cluster.leader();
    let shared = &cluster.stores[&store].shared;
    let request = ExportRegionSnapshotStreamRequest { region_id: 1 };
    let elsewhere = cluster.world.run(admin(&cluster, HIDDEN).export_region_snapshot_stream(request));
    assert_eq!(refusal(elsewhere.map(|_| ()), "nokv regions"), Code::NotFound);
    let region = (*shared.door.regions.get(1).unwrap().descriptor()).clone();
    let refused = |change: &dyn Fn(&mut RegionDescriptor), why| {
        let mut changed = region.clone();
        change(&mut changed);
        let mut batch = WriteBatch::new();
        catalog::put_region(&mut batch, &changed);
        shared.db.apply(batch).unwrap();
        assert_eq!(refusal(export(&cluster, store).map(|_| ()), why), Code::FailedPrecondition);
    };
    refused(&|region| region.set_state(RegionReplicaState::Merging), "being merged");
    refused(&|region| region.set_state(RegionReplicaState::Tombstone), "has left this store");
    refused(&|region| region.quarantined_peer_ids = vec![store * 100 + 1], "in quarantine");
    refused(&|region| region.peers.retain(|peer| peer.store_id != store), "has left this store");
}

#[test]
fn a_replica_is_exported_without_a_majority() {
    let mut cluster = with_learner();
    cluster.converge_but(NEW);
    let (dead, left) = (cluster.leader(), cluster.leader() % 3 + 1);
    let there = image(&cluster.stores[&left]);
    (1..=3).filter(|store| *store != left).for_each(|store| cluster.kill(store));
    assert_ne!(dead, left);
    let header = Header::decode(&export(&cluster, left).unwrap()[0].snapshot_header).unwrap();
    assert_eq!((&header.region, header.at, header.store_id), (&*there.0, there.1, left));
}

#[test]
fn what_may_not_be_safe_is_not_imported() {
    let cluster = with_learner();
    let (leader, parts) = (cluster.leader(), export(&cluster, cluster.leader()).unwrap());
    let refused = |to: &str, parts: &Exported, why| {
        assert_eq!(refusal(import(&cluster, to, parts), why), Code::FailedPrecondition);
    };
    let votes = |header: &mut Header| {
        header.members.learners.clear();
        header.members.voters.push(LEARNER);
    };
    refused(HIDDEN, &bent(&parts, votes), "must not begin anew");
    let voted = |header: &mut Header| header.members.voters_outgoing.push(LEARNER);
    refused(HIDDEN, &bent(&parts, voted), "must not begin anew");
    let elsewhere = |header: &mut Header| {
        header.region.peers.retain(|peer| peer.store_id != NEW);
        header.members.learners.clear();
    };
    refused(HIDDEN, &bent(&parts, elsewhere), "names no peer on store 4");
    let frozen = |header: &mut Header| header.region.set_state(RegionReplicaState::Merging);
    refused(HIDDEN, &bent(&parts, frozen), "export again");
    refused(&addr(leader), &parts, "votes");
    // As if the leader's peer were a learner.
    let own = leader * 100 + 1;
    let learns = |header: &mut Header| {
        header.members.voters.retain(|peer| *peer != own);
        header.members.learners.push(own);
    };
    refused(&addr(leader), &bent(&parts, learns), "runs here already");
    let other = |header: &mut Header| {
        learns(header);
        header.region.region_id = 9;
    };
    refused(&addr(leader), &bent(&parts, other), "region 1 has some of its keys");
    assert!(has_nothing(&cluster));
    import(&cluster, HIDDEN, &parts).unwrap();
    refused(HIDDEN, &parts, "runs here already");
}

#[test]
fn a_peer_that_left_does_not_come_back() {
    let mut cluster = with_learner();
    let parts = export(&cluster, cluster.leader()).unwrap();
    let imported = import(&cluster, HIDDEN, &parts).unwrap();
    let mut without = imported.clone();
    without.peers.retain(|peer| peer.store_id != NEW);
    without.epoch.as_mut().unwrap().conf_version += 1;
    let retired = cluster.stores[&NEW].shared.raft.retire(GroupId(1), without.clone());
    cluster.world.run(retired).unwrap();
    for _ in 0..2 {
        cluster.wait(Duration::from_secs(1));
        let again = import(&cluster, HIDDEN, &parts);
        assert_eq!(refusal(again, "has left this store"), Code::FailedPrecondition);
        cluster.kill(NEW);
        begin_store(&mut cluster, HIDDEN);
    }
    let later = bent(&parts, |header| {
        let peer = RegionPeer { store_id: NEW, peer_id: 402 };
        header.region =
            RegionDescriptor { peers: [without.peers, vec![peer]].concat(), ..header.region.clone() };
        header.region.epoch.as_mut().unwrap().conf_version += 2;
        header.members.learners = vec![402];
    });
    import(&cluster, HIDDEN, &later).unwrap();
    assert_eq!(cluster.stores[&NEW].shared.raft.status(GroupId(1)).unwrap().peer, 402);
}

#[test]
fn damage_anywhere_is_refused_and_leaves_nothing() {
    let cluster = with_learner();
    let parts = export(&cluster, cluster.leader()).unwrap();
    let refused = |file: Bytes, what: &str| {
        let code = import_file(&cluster, HIDDEN, file).expect_err(what).code();
        assert_eq!(code, Code::InvalidArgument, "{what}");
        assert!(has_nothing(&cluster), "{what}");
    };
    let whole = file(&parts);
    let (mut rest, mut at) = (whole.clone(), 0);
    while !rest.is_empty() {
        let length = take_part(&mut rest, at == 0).unwrap().len();
        // Of each part: its length, what it holds, its checksum.
        for offset in [0, length / 2, length - 1] {
            let mut bent = whole.to_vec();
            bent[at + offset] ^= 1;
            refused(bent.into(), &format!("a bit at {offset} of the part at {at}"));
            refused(whole.slice(..at + offset), &format!("cut off at {offset} of the part at {at}"));
        }
        at += length;
    }
    refused([&whole[..], b"x"].concat().into(), "more than there should be");
    refused([&whole[..], &parts[parts.len() - 1].chunk].concat().into(), "two ends");
    let mut swapped = parts.clone();
    swapped.swap(1, 2);
    refused(file(&swapped), "chunks out of order");
    let mut missing = parts.clone();
    missing.remove(1);
    refused(file(&missing), "a chunk is missing");
    import_file(&cluster, HIDDEN, whole).unwrap();
}

#[test]
fn a_stream_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let cluster = with_learner();
    let parts = export(&cluster, cluster.leader()).unwrap();
    let refused = |change: &dyn Fn(&mut Exported)| {
        let mut parts = parts.clone();
        change(&mut parts);
        assert_eq!(import(&cluster, HIDDEN, &parts).unwrap_err().code(), Code::InvalidArgument);
        assert!(has_nothing(&cluster));
    };
    refused(&|parts| parts.clear());
    refused(&|parts| drop(parts.remove(0)));
    refused(&|parts| drop(parts.pop()));
    refused(&|parts| parts[0].region = None);
    refused(&|parts| parts[0].region.as_mut().unwrap().region_id = 2);
    refused(&|parts| parts.insert(1, parts[0].clone()));
    refused(&|parts| parts.push(parts[1].clone()));
    let row_outside = Part::Chunk(Bytes::from_static(b"\x00\x01k\x05value")).encode();
    refused(&|parts| parts[1].chunk = row_outside.clone());
    import(&cluster, HIDDEN, &parts).unwrap();
}

#[test]
fn an_import_that_is_broken_off_leaves_nothing_and_can_be_repeated() {
    let mut cluster = with_learner();
    let parts = export(&cluster, cluster.leader()).unwrap();
    let half = || {
        let begun = futures_util::stream::iter(sent_on(&parts[..3].to_vec()));
        begun.chain(futures_util::stream::pending())
    };
    let clock = cluster.any().shared.env.clock.clone();
    // The caller goes away.
    cluster.world.run(async {
        let mut admin = admin(&cluster, HIDDEN);
        let import = pin!(admin.import_region_snapshot_stream(half()));
        let Either::Right(_) = select(import, clock.sleep(Duration::from_secs(3))).await else {
            panic!("it cannot be done")
        };
        assert!(!has_nothing(&cluster), "it is under way");
        // Two at once would be one too many.
        let second = RaftAdminClient::new(cluster.any().shared.env.net.connect(HIDDEN))
            .import_region_snapshot_stream(futures_util::stream::iter(sent_on(&parts)))
            .await;
        assert_eq!(refusal(second, "its leader has begun"), Code::FailedPrecondition);
    });
    assert!(has_nothing(&cluster));
    // The caller falls silent.
    let silent = cluster.world.run(admin(&cluster, HIDDEN).import_region_snapshot_stream(half()));
    assert_eq!(refusal(silent, "nothing came"), Code::DeadlineExceeded);
    assert!(has_nothing(&cluster));
    // The store dies.
    cluster.world.run(async {
        let mut admin = admin(&cluster, HIDDEN);
        let import = pin!(admin.import_region_snapshot_stream(half()));
        drop(select(import, clock.sleep(Duration::from_secs(3))).await);
    });
    cluster.kill(NEW);
    begin_store(&mut cluster, HIDDEN);
    assert!(has_nothing(&cluster));
    import(&cluster, HIDDEN, &parts).unwrap();
}

#[test]
fn a_snapshot_that_nobody_reads_is_dropped() {
    let cluster = with_learner();
    let leader = cluster.leader();
    let request = ExportRegionSnapshotStreamRequest { region_id: 1 };
    let begin = || cluster.world.run(admin(&cluster, &addr(leader)).export_region_snapshot_stream(request));
    let most = cluster.stores[&leader].shared.config.snapshot_fetches_max;
    let mut readings: Vec<_> = (0..most).map(|_| begin().unwrap().into_inner()).collect();
    assert_eq!(refusal(begin().map(|_| ()), "try again when one is done"), Code::ResourceExhausted);
    readings.pop();
    let mut fresh = begin().unwrap().into_inner();
    cluster.world.run(fresh.message()).unwrap().unwrap();
    cluster.wait(Duration::from_secs(70));
    let lost = cluster.world.run(async {
        while fresh.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    assert_eq!(refusal(lost, "export it again"), Code::Aborted);
    begin().unwrap();
}

#[test]
fn members_of_a_snapshot_are_those_of_its_index() {
    let cluster = with_learner();
    let parts = export(&cluster, cluster.leader()).unwrap();
    let header = Header::decode(&parts[0].snapshot_header).unwrap();
    let members = Members { voters: vec![101, 201, 301], learners: vec![LEARNER], ..Members::default() };
    assert_eq!(header.members, members);
}
