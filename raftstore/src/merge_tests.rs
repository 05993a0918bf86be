//! Two neighbours in one machine on a real engine, with the test as their raft logs.

use crate::catalog::{self, Gc, Position};
use crate::machine::{Proposal, Reply, StoreMachine};
use crate::membership::Beside;
use crate::merge;
use crate::mvcc;
use crate::mvcc::testing::{prewrite_request, put};
use crate::snapshot::{Site, Snapshots};
use crate::testing::{Opened, World, fetch, region};
use bytes::Bytes;
use nokv_engine::Db;
use nokv_env::Env;
use nokv_env::mem_disk::{CrashMode, MemDisk};
use nokv_proto::kv::v1::{GcRequest, GetRequest};
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionReplicaState, RootEventKind};
use nokv_proto::raft::v1::MergeCommand;
use nokv_proto::raft::v1::request::Cmd;
use nokv_replica::{
    Applied, ConfChange, GroupId, Machine, MachineSnapshot, Needed, PeerChange, Reception, Role,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/store";
const TARGET: GroupId = GroupId(7);
const SOURCE: GroupId = GroupId(9);

fn part(id: u64, start: &'static str, end: &'static str) -> RegionDescriptor {
    let mut part = region(&[1, 2, 3]);
    part.region_id = id;
    (part.start_key, part.end_key) = (start.into(), end.into());
    for peer in &mut part.peers {
        peer.peer_id = peer.store_id * 100 + id;
    }
    part
}

struct Duo {
    world: World,
    platter: Arc<MemDisk>,
    env: Env,
    db: Db,
    machine: StoreMachine,
    snapshots: Arc<Snapshots>,
    at: BTreeMap<GroupId, u64>,
}

impl Duo {
    fn new() -> Self {
        let (world, platter) = (World::default(), MemDisk::new(3));
        let both = [part(7, "", "m"), part(9, "m", "")];
        let env = world.env(1, &platter);
        world.run(crate::seed::seed_regions(&env, Path::new(DIR), 1, &both)).unwrap();
        Self::open(world, platter)
    }

    fn open(world: World, platter: Arc<MemDisk>) -> Self {
        let Opened { env, db, entries, machine, .. } = Opened::new(&world, &platter, Path::new(DIR));
        let snapshots = machine.snapshots().clone();
        let at = entries.iter().map(|entry| (GroupId(entry.region.region_id), entry.applied.index)).collect();
        Self { world, platter, env, db, machine, snapshots, at }
    }

    fn crash(self) -> Self {
        let Self { world, platter, db, machine, snapshots, .. } = self;
        platter.crash(CrashMode::PowerLossWorst);
        drop((db, machine, snapshots));
        Self::open(world, platter)
    }

    /// Fetches the snapshot that was announced.
    fn fetch(&mut self, donor: &Duo) {
        let Self { world, env, db, machine, snapshots, .. } = self;
        let site = Site { env, db, regions: machine.regions(), workdir: Path::new(DIR) };
        fetch(world, site, [&donor.snapshots, snapshots], |_, chunk| chunk).unwrap();
    }

    /// What happens to a snapshot from its arrival to its installation.
    fn install(&mut self, group: GroupId, donor: &Duo, snapshot: &MachineSnapshot) {
        assert_eq!(self.machine.receive(group, snapshot), Reception::Wait);
        self.fetch(donor);
        assert_eq!(self.machine.receive(group, snapshot), Reception::Install);
        let Self { world, machine, .. } = self;
        world.run(machine.install(group, snapshot.clone())).unwrap();
    }

    fn region(&self, group: GroupId) -> RegionDescriptor {
        (*self.machine.regions().get(group.0).unwrap().descriptor()).clone()
    }

    fn propose(&mut self, group: GroupId, proposal: Proposal) -> Result<Bytes, Reply> {
        let index = self.at[&group] + 1;
        self.machine.propose(group, 1, index, proposal)
    }

    fn entry(&mut self, group: GroupId, merge: MergeCommand) -> Bytes {
        self.propose(group, Proposal::Merge(Box::new(merge))).unwrap_or_else(|reply| panic!("{reply:?}"))
    }

    fn apply(&mut self, group: GroupId, data: &Bytes) -> Reply {
        let index = self.at[&group] + 1;
        self.at.insert(group, index);
        self.machine.apply(group, Applied { index, term: 1, data }).unwrap()
    }

    fn prewrite(&mut self, group: GroupId, key: &str) -> Result<Bytes, Reply> {
        let epoch = self.region(group).epoch.unwrap();
        let cmd = Cmd::Prewrite(prewrite_request(key, &[put(key, "v")], 10).one_pc(0).0);
        self.propose(group, Proposal::Data { epoch, cmd })
    }

    /// Closes a region below `fence`, and lets it forget below `safe_point`.
    fn collect(&mut self, group: GroupId, fence: u64, safe_point: u64) {
        let epoch = self.region(group).epoch.unwrap();
        for request in
            [GcRequest { fence, ..Default::default() }, GcRequest { safe_point, ..Default::default() }]
        {
            let entry = self.propose(group, Proposal::Data { epoch, cmd: Cmd::Gc(request) }).unwrap();
            self.apply(group, &entry);
        }
    }

    fn freeze(&mut self) -> RegionDescriptor {
        let freeze = merge::to_freeze(&self.region(SOURCE), &self.region(TARGET));
        let entry = self.entry(SOURCE, freeze);
        let Reply::Merge(frozen) = self.apply(SOURCE, &entry) else { panic!("not frozen") };
        *frozen
    }

    fn to_unite(&self, frozen: &RegionDescriptor) -> MergeCommand {
        merge::to_unite(frozen, self.at[&SOURCE], 1).unwrap()
    }

    fn here(&self) -> Vec<(u64, RegionReplicaState)> {
        let entries = catalog::read_entries(&self.db).unwrap();
        entries.into_iter().map(|entry| (entry.region.region_id, entry.region.state())).collect()
    }

    /// Whether the key has the lock that `prewrite` left.
    fn is_locked(&self, key: &str) -> bool {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let request = GetRequest { key, version: 100, ..Default::default() };
        mvcc::get(&self.db.snapshot(), &request, 0).unwrap().error.is_some()
    }
}

fn newcomer() -> ConfChange {
    let context = Beside { homes: vec![(4, 77)], ..Beside::default() }.encode();
    ConfChange { changes: vec![PeerChange::AddLearner(77)], context, ..ConfChange::default() }
}

#[test]
fn a_frozen_region_takes_nothing_any_more() {
    let mut duo = Duo::new();
    let late = duo.prewrite(SOURCE, "x").unwrap();
    let split = crate::split::command(&duo.region(SOURCE), &"t".into(), 100_000, 100_001..);
    let frozen = duo.freeze();
    assert!(
        matches!(duo.apply(SOURCE, &late), Reply::Outcome(Err(error)) if error.epoch_not_match.is_some())
    );
    assert!(!duo.is_locked("x"));
    let refused = duo.prewrite(SOURCE, "x");
    assert!(matches!(refused, Err(Reply::Outcome(Err(error))) if error.stale_command.is_some()));
    assert!(duo.propose(SOURCE, Proposal::Split(split)).is_err());
    let now = crate::split::command(&frozen, &"t".into(), 100_000, 100_001..);
    assert!(duo.propose(SOURCE, Proposal::Split(now)).is_err());
    let change = newcomer();
    assert!(duo.machine.admits(SOURCE, &change).is_err());
    assert!(duo.machine.admits(TARGET, &change).is_ok());
}

#[test]
fn the_members_stay_from_the_moment_that_freezing_is_proposed() {
    let mut duo = Duo::new();
    duo.machine.role_changed(SOURCE, Role { leader: Some(109), term: 1, is_leader: true });
    let change = newcomer();
    assert_eq!(duo.machine.admits(SOURCE, &change), Ok(()));
    let freeze = merge::to_freeze(&duo.region(SOURCE), &duo.region(TARGET));
    duo.entry(SOURCE, freeze);
    assert!(duo.machine.admits(SOURCE, &change).is_err());
    duo.machine.role_changed(SOURCE, Role { leader: Some(109), term: 2, is_leader: true });
    assert_eq!(duo.machine.admits(SOURCE, &change), Ok(()), "the entry was not heard of again");
}

#[test]
fn both_regions_become_one_together_or_not_at_all() {
    let mut duo = Duo::new();
    let lock = duo.prewrite(SOURCE, "x").unwrap();
    duo.apply(SOURCE, &lock);
    duo.collect(SOURCE, 50, 40);
    duo.collect(TARGET, 60, 30);
    let frozen = duo.freeze();
    let unite = duo.to_unite(&frozen);
    let entry = duo.entry(TARGET, unite);
    let index = duo.at[&SOURCE];
    let applied = Applied { index: 9, term: 1, data: &entry };
    assert_eq!(duo.machine.needs(TARGET, applied), Some(Needed { group: SOURCE, index, term: 1 }));
    assert_eq!(duo.machine.needs(SOURCE, applied), None, "not its entry");
    duo.world.run(duo.db.flush()).unwrap();
    assert!(matches!(duo.apply(TARGET, &entry), Reply::Merge(merged) if merged.end_key.is_empty()));
    assert_eq!(duo.machine.needs(TARGET, applied), None, "it has happened");
    assert_eq!(duo.machine.take_absorbed(), [SOURCE]);

    // Not flushed: after a crash both are as before, and the entry is applied again.
    let mut duo = duo.crash();
    assert!(duo.here().iter().all(|(_, state)| *state != RegionReplicaState::Tombstone));
    assert!(merge::is_frozen(&duo.region(SOURCE)));
    assert!(matches!(duo.apply(TARGET, &entry), Reply::Merge(_)));
    duo.world.run(duo.db.flush()).unwrap();
    let mut duo = duo.crash();
    assert_eq!(duo.here(), [(7, RegionReplicaState::Running), (9, RegionReplicaState::Tombstone)]);
    let merged = duo.region(TARGET);
    assert_eq!(
        (merged.epoch_pair(), &merged.start_key[..], &merged.end_key[..]),
        ((3, 1), &b""[..], &b""[..])
    );
    assert_eq!(duo.machine.regions().get(7).unwrap().gc(), Gc { fence: 60, safe_point: 40 });
    let events: Vec<_> = catalog::read_pending(&duo.db).unwrap().into_values().collect();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind(), RootEventKind::RegionMerged);
    assert!(duo.is_locked("x"), "its rows stay where they are");
    assert!(matches!(duo.apply(TARGET, &entry), Reply::Outcome(Err(_))), "told twice");
    assert_eq!(duo.machine.create_group(&frozen, 109), None, "nobody brings the source back");
}

#[test]
fn the_target_grants_nothing_below_what_may_have_been_read_in_the_source() {
    let mut duo = Duo::new();
    duo.machine.role_changed(TARGET, Role { leader: Some(107), term: 1, is_leader: true });
    let target = duo.machine.regions().get(7).unwrap();
    let want = target.one_pc().wants().unwrap();
    target.one_pc().enable(want, 50);
    assert!(target.one_pc().take(1, 5, 60));
    let frozen = duo.freeze();
    let unite = duo.to_unite(&frozen);
    let entry = duo.entry(TARGET, unite);
    duo.apply(TARGET, &entry);
    assert!(!target.one_pc().take(1, 9, 1_000), "until a timestamp is drawn after the merge");
    assert!(target.one_pc().wants().is_some());
}

#[test]
fn a_merge_for_another_state_of_the_target_does_nothing() {
    let mut duo = Duo::new();
    let frozen = duo.freeze();
    let unite = duo.to_unite(&frozen);
    let entry = duo.entry(TARGET, unite);
    let refuse = merge::to_refuse(&frozen).unwrap();
    let refuse = duo.entry(TARGET, refuse);
    let thaw = duo.entry(SOURCE, merge::to_thaw(&frozen));
    assert!(matches!(duo.apply(TARGET, &refuse), Reply::Merge(now) if now.epoch_pair() == (2, 1)));
    let applied = Applied { index: 9, term: 1, data: &entry };
    assert_eq!(duo.machine.needs(TARGET, applied), None);
    assert!(matches!(duo.apply(TARGET, &entry), Reply::Outcome(Err(_))));
    assert_eq!(duo.region(TARGET).end_key, "m");
    assert_eq!(merge::verdict(&frozen, std::iter::once(&duo.region(TARGET))), merge::Verdict::Refused);
    assert!(matches!(duo.apply(SOURCE, &thaw), Reply::Merge(now) if now.epoch_pair() == (3, 1)));
    let again = duo.prewrite(SOURCE, "x").unwrap();
    assert!(matches!(duo.apply(SOURCE, &again), Reply::Outcome(Ok(_))));
    assert!(duo.is_locked("x"));
}

/// A snapshot of the merged region, from a store where the merge has been applied and "z" is locked.
fn merged_elsewhere() -> (Duo, MachineSnapshot) {
    let mut donor = Duo::new();
    let frozen = donor.freeze();
    let unite = donor.to_unite(&frozen);
    let entry = donor.entry(TARGET, unite);
    donor.apply(TARGET, &entry);
    let lock = donor.prewrite(TARGET, "z").unwrap();
    donor.apply(TARGET, &lock);
    let snapshot = donor.machine.snapshot(TARGET).unwrap();
    (donor, snapshot)
}

#[test]
fn the_merged_region_in_one_piece_replaces_both() {
    let (donor, snapshot) = merged_elsewhere();
    let mut duo = Duo::new();
    let lock = duo.prewrite(SOURCE, "x").unwrap();
    duo.apply(SOURCE, &lock);
    duo.install(TARGET, &donor, &snapshot);
    assert_eq!(duo.machine.take_absorbed(), [SOURCE]);
    assert!(
        duo.is_locked("z") && !duo.is_locked("x"),
        "what the source had here and the image has not is gone"
    );
    let duo = duo.crash();
    assert_eq!(duo.here(), [(7, RegionReplicaState::Running), (9, RegionReplicaState::Tombstone)]);
    let gone = &duo.region(SOURCE);
    assert_eq!(gone.epoch_pair(), (2, 1), "as it was frozen, though it was not frozen here");
    assert!(duo.is_locked("z") && !duo.is_locked("x"));
}

#[test]
fn a_source_that_went_on_is_not_replaced() {
    let (_, snapshot) = merged_elsewhere();
    let mut duo = Duo::new();
    for _ in 0..2 {
        let frozen = duo.freeze();
        let thaw = duo.entry(SOURCE, merge::to_thaw(&frozen));
        duo.apply(SOURCE, &thaw);
    }
    assert_eq!(duo.machine.receive(TARGET, &snapshot), Reception::Refuse, "a later state is no part of it");
}

/// The table lies below what is written after it was begun, so it would not replace that.
#[test]
fn a_source_that_is_written_meanwhile_is_replaced_by_another_table() {
    let (donor, snapshot) = merged_elsewhere();
    let mut duo = Duo::new();
    assert_eq!(duo.machine.receive(TARGET, &snapshot), Reception::Wait);
    duo.fetch(&donor);
    let lock = duo.prewrite(SOURCE, "x").unwrap();
    duo.apply(SOURCE, &lock);
    assert_eq!(duo.machine.receive(TARGET, &snapshot), Reception::Refuse, "the first one is of no use");
    duo.install(TARGET, &donor, &snapshot);
    assert!(duo.is_locked("z") && !duo.is_locked("x"));
}

#[test]
fn a_leftover_goes_when_who_took_it_over_is_not_here() {
    let mut donor = Duo::new();
    let frozen = donor.freeze();
    let merged = merge::unite(
        &donor.region(TARGET),
        &catalog::Members::all_vote(&part(7, "", "m")),
        &donor.to_unite(&frozen),
    )
    .unwrap()
    .merged;
    let mut duo = Duo::new();
    duo.machine.retire(SOURCE, &merged).unwrap();
    assert!(!duo.machine.may_forget(SOURCE), "the target is here, and will take it over");
    duo.machine.forget(TARGET);
    duo.machine.retire(SOURCE, &merged).unwrap();
    assert!(duo.machine.may_forget(SOURCE));
    let left = duo.region(SOURCE);
    assert_eq!((left.state(), left.epoch_pair()), (RegionReplicaState::Tombstone, (2, 1)));
    let later = RegionDescriptor { epoch: Some(RegionEpoch { version: 9, conf_version: 1 }), ..frozen };
    assert_eq!(duo.machine.create_group(&later, 109), None, "its members never change again");
}

#[test]
fn a_follower_learns_where_it_was_frozen_from_a_snapshot() {
    let mut donor = Duo::new();
    let frozen = donor.freeze();
    let snapshot = donor.machine.snapshot(SOURCE).unwrap();
    let mut duo = Duo::new();
    let (index, term) = (snapshot.index, snapshot.term);
    duo.install(SOURCE, &donor, &snapshot);
    assert_eq!(duo.region(SOURCE), frozen);
    assert_eq!(duo.machine.regions().get(9).unwrap().state().applied, Position { index, term });
    assert!(duo.prewrite(SOURCE, "x").is_err());
}
