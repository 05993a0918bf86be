//! The region machine on a real engine, with the test as its raft log.

use crate::catalog::{self, Members, Position};
use crate::machine::{Proposal, Reply, StoreMachine};
use crate::mvcc::testing::{prewrite_request, put};
use crate::snapshot::{self, Failure, Site, Snapshots, Ticket};
use crate::testing::{CHUNK, Opened, World, crash_after, fetch, region};
use crate::{bells::Bells, mvcc};
use bytes::Bytes;
use futures_util::FutureExt;
use nokv_engine::{Db, Options};
use nokv_env::mem_disk::{CrashMode, DiskFaults, MemDisk};
use nokv_env::{Env, Instant, OpenMode};
use nokv_proto::kv::v1::{CommitRequest, GetRequest};
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer, RegionReplicaState};
use nokv_proto::raft::v1::request::Cmd;
use nokv_proto::raft::v1::{SnapshotChunkResponse, response};
use nokv_replica::{
    Applied, BIRTH, ConfChange, Fetching, GroupId, Machine, MachineSnapshot, PeerChange, Reception,
};
use prost::Message;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/store";
const GROUP: GroupId = GroupId(1);

/// A machine without raft: the test is the log.
struct Solo {
    world: World,
    platter: Arc<MemDisk>,
    env: Env,
    db: Db,
    bells: Arc<Bells>,
    machine: StoreMachine,
    snapshots: Arc<Snapshots>,
    index: u64,
}

impl Solo {
    fn new() -> Self {
        let (world, platter) = (World::default(), MemDisk::new(3));
        world
            .run(crate::seed::seed_regions(&world.env(1, &platter), Path::new(DIR), 1, &[region(&[1, 2, 3])]))
            .unwrap();
        Self::open(world, platter)
    }

    fn open(world: World, platter: Arc<MemDisk>) -> Self {
        let Opened { env, db, entries, bells, machine } = Opened::new(&world, &platter, Path::new(DIR));
        let snapshots = machine.snapshots().clone();
        let index = entries[0].applied.index;
        Self { world, platter, env, db, bells, machine, snapshots, index }
    }

    fn crash(self) -> Self {
        let Self { world, platter, db, machine, snapshots, .. } = self;
        platter.set_faults(DiskFaults::default());
        platter.crash(CrashMode::PowerLossWorst);
        drop((db, machine, snapshots));
        Self::open(world, platter)
    }

    fn entry(&mut self, cmd: Cmd) -> Bytes {
        let epoch = RegionEpoch { version: 1, conf_version: 1 };
        let proposal = Proposal::Data { epoch, cmd };
        self.machine.propose(GROUP, 1, self.index + 1, proposal).unwrap_or_else(|reply| panic!("{reply:?}"))
    }

    fn apply(&mut self, data: &Bytes) -> response::Cmd {
        self.index += 1;
        let reply = self.machine.apply(GROUP, Applied { index: self.index, term: 1, data }).unwrap();
        match reply {
            Reply::Outcome(outcome) => *outcome.unwrap(),
            other => panic!("{other:?} is not the outcome of a command"),
        }
    }

    fn write(&mut self, key: &str, value: &str, start: u64) {
        let prewrite = self.entry(Cmd::Prewrite(prewrite_request(key, &[put(key, value)], start).0));
        self.apply(&prewrite);
        let keys = vec![Bytes::copy_from_slice(key.as_bytes())];
        let commit = CommitRequest { keys, start_version: start, commit_version: start + 1 };
        let commit = self.entry(Cmd::Commit(commit));
        assert!(matches!(self.apply(&commit), response::Cmd::Commit(response) if response.error.is_none()));
    }

    fn read(&self, key: &str) -> Option<Bytes> {
        let request = GetRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
        let response = mvcc::get(&self.db.snapshot(), &request, 0).unwrap();
        (!response.not_found).then_some(response.value)
    }

    fn applied(&self) -> Position {
        catalog::read_entries(&self.db).unwrap()[0].applied
    }

    /// Fetches what the machine waits for; `bend` may change each chunk on its way.
    fn fetch(
        &mut self,
        source: &Solo,
        bend: impl Fn(u64, SnapshotChunkResponse) -> SnapshotChunkResponse,
    ) -> Result<(), Failure> {
        let Self { world, env, db, machine, .. } = self;
        let site = Site { env, db, regions: machine.regions(), workdir: Path::new(DIR) };
        fetch(world, site, [&source.snapshots, &self.snapshots], bend)
    }

    /// What happens to a snapshot from its arrival to its installation.
    fn install(&mut self, source: &Solo, snapshot: &MachineSnapshot) -> Result<(), String> {
        assert_eq!(self.machine.receive(GROUP, snapshot), Reception::Wait);
        self.fetch(source, |_, chunk| chunk).map_err(|failure| failure.to_string())?;
        assert_eq!(self.machine.receive(GROUP, snapshot), Reception::Install);
        let Self { world, machine, .. } = self;
        world.run(machine.install(GROUP, snapshot.clone())).map_err(|fatal| fatal.to_string())
    }

    /// What the rows add up to.
    fn sum(&self) -> snapshot::rows::Sum {
        let range = self.machine.regions().get(1).unwrap().descriptor().range();
        snapshot::sum(&self.db.snapshot(), &range).unwrap()
    }

    fn staged_files(&self) -> usize {
        let directory = Path::new(DIR).join("INCOMING_SNAPSHOTS");
        self.platter.files().iter().filter(|(path, _)| path.starts_with(&directory)).count()
    }
}

#[test]
fn data_and_position_survive_together() {
    let mut solo = Solo::new();
    solo.write("a", "1", 10);
    solo.world.run(solo.db.flush()).unwrap();
    assert_eq!(solo.machine.durable_index(GROUP), 2);
    solo.write("a", "2", 20);
    assert_eq!(solo.applied(), Position { index: 4, term: 1 });
    assert_eq!(solo.machine.durable_index(GROUP), 2);
    let solo = solo.crash();
    assert_eq!(solo.applied(), Position { index: 2, term: 1 });
    assert_eq!(solo.read("a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn equal_logs_give_equal_rows() {
    let (mut one, mut two) = (Solo::new(), Solo::new());
    for start in (10..200).step_by(10) {
        for solo in [&mut one, &mut two] {
            solo.write(["a", "b", "c"][start % 3], &"x".repeat(start * 3), start as u64);
        }
    }
    one.world.run(one.db.flush()).unwrap();
    assert_eq!((one.sum(), one.applied()), (two.sum(), two.applied()));
    assert!(one.sum().rows > 0);
}

#[test]
fn a_snapshot_replaces_everything_and_lasts() {
    let mut source = Solo::new();
    source.write("a", "new", 10);
    source.write("b", "new", 20);
    let snapshot = source.machine.snapshot(GROUP).unwrap();
    assert_eq!((snapshot.index, snapshot.term, snapshot.voters.clone()), (4, 1, vec![101, 201, 301]));
    let mut target = Solo::new();
    target.write("z", "old", 5);
    target.install(&source, &snapshot).unwrap();
    assert_eq!((target.machine.durable_index(GROUP), target.staged_files()), (4, 0));
    assert_eq!(target.sum(), source.sum());
    let target = target.crash();
    assert_eq!(target.applied(), Position { index: 4, term: 1 });
    assert_eq!(target.read("a").as_deref(), Some(&b"new"[..]));
    assert_eq!(target.read("z"), None);
}

#[test]
fn an_interrupted_install_leaves_the_old_region_or_the_new_one() {
    let mut source = Solo::new();
    for start in (10..100).step_by(10) {
        source.write("a", &"new".repeat(500), start);
    }
    let snapshot = source.machine.snapshot(GROUP).unwrap();
    let (mut old, mut new) = (0, 0);
    for operations in 0..40 {
        let mut target = Solo::new();
        target.write("z", "old", 5);
        target.world.run(target.db.flush()).unwrap();
        crash_after(&target.platter, operations);
        let installed = target.install(&source, &snapshot);
        let target = target.crash();
        if installed.is_ok() || target.read("a").is_some() {
            new += 1;
            assert_eq!((target.applied().index, target.read("z")), (snapshot.index, None));
            assert!(target.read("a").is_some());
        } else {
            old += 1;
            assert_eq!((target.applied().index, target.read("z").as_deref()), (2, Some(&b"old"[..])));
        }
    }
    assert!(old > 5 && new > 5, "old {old}, new {new}");
}

#[test]
fn one_round_trip_is_granted_above_everything_read() {
    let mut solo = Solo::new();
    let regions = solo.machine.regions().clone();
    let region = regions.get(1).unwrap();
    solo.machine.role_changed(GROUP, nokv_replica::Role { leader: Some(101), term: 1, is_leader: true });
    let ask = |solo: &mut Solo, key: &str, start: u64| {
        let request = prewrite_request(key, &[put(key, "v")], start).one_pc(start + 1).0;
        let entry = solo.entry(Cmd::Prewrite(request));
        match solo.apply(&entry) {
            response::Cmd::Prewrite(response) => response.one_pc_commit_version,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut solo, "a", 10), 0, "no timestamp since the election");
    let want = region.one_pc().wants().unwrap();
    region.one_pc().enable(want, 50);
    assert_eq!(ask(&mut solo, "b", 48), 0);
    assert_eq!(ask(&mut solo, "c", 50), 51);
    assert_eq!(region.one_pc().admit_read(60), solo.index);
    assert_eq!(ask(&mut solo, "d", 59), 0);
    assert_eq!(ask(&mut solo, "e", 60), 61);
    assert!(solo.read("e").is_some() && solo.read("d").is_none());
}

#[test]
fn what_does_not_add_up_is_not_installed() {
    let mut source = Solo::new();
    for key in ["a", "b", "c", "d"] {
        source.write(key, &"x".repeat(90), 10);
    }
    let snapshot = source.machine.snapshot(GROUP).unwrap();
    let export = source.snapshots.export(Ticket::decode(&snapshot.data).unwrap().id).unwrap();
    let mut target = Solo::new();
    target.write("z", "old", 5);
    let before = target.sum();
    let mut refused = |bend: &dyn Fn(u64, SnapshotChunkResponse) -> SnapshotChunkResponse| {
        assert_eq!(target.machine.receive(GROUP, &snapshot), Reception::Wait);
        assert!(matches!(target.fetch(&source, bend), Err(Failure::Damaged(_))));
    };
    refused(&|_, chunk| SnapshotChunkResponse { rows: Bytes::new(), ..chunk });
    refused(&|_, chunk| SnapshotChunkResponse { rows: chunk.rows.slice(1..), ..chunk });
    refused(&|number, chunk| if number == 1 { export.chunk(0, CHUNK).unwrap().unwrap() } else { chunk });
    refused(&|number, chunk| if number == 1 { export.chunk(2, CHUNK).unwrap().unwrap() } else { chunk });
    refused(&|_, chunk| {
        let mut rows = chunk.rows.to_vec();
        *rows.last_mut().unwrap() ^= 1;
        SnapshotChunkResponse { rows: rows.into(), ..chunk }
    });
    assert_eq!((target.sum(), target.staged_files()), (before, 0));
    target.install(&source, &snapshot).unwrap();
    assert_eq!(target.sum(), source.sum());
}

#[test]
fn a_region_that_moved_on_is_not_overwritten() {
    let mut source = Solo::new();
    for start in (10..60).step_by(10) {
        source.write("a", "new", start);
    }
    let snapshot = source.machine.snapshot(GROUP).unwrap();
    let mut target = Solo::new();
    assert_eq!(target.machine.receive(GROUP, &snapshot), Reception::Wait);
    target.fetch(&source, |_, chunk| chunk).unwrap();
    target.write("b", "from the log", 5);
    assert_eq!(target.machine.receive(GROUP, &snapshot), Reception::Refuse);
    assert_eq!(target.staged_files(), 0);
    target.install(&source, &snapshot).unwrap();
    assert_eq!((target.sum(), target.read("b")), (source.sum(), None));
}

#[test]
fn the_newest_snapshot_is_fetched_and_an_older_one_does_not_disturb_it() {
    let mut source = Solo::new();
    source.write("a", "1", 10);
    let older = source.machine.snapshot(GROUP).unwrap();
    source.write("a", "2", 20);
    let newer = source.machine.snapshot(GROUP).unwrap();
    let mut target = Solo::new();
    assert_eq!(target.machine.receive(GROUP, &older), Reception::Wait);
    assert_eq!(target.machine.receive(GROUP, &newer), Reception::Wait);
    assert_eq!(target.machine.receive(GROUP, &newer), Reception::Wait, "told twice");
    assert_eq!(target.machine.receive(GROUP, &older), Reception::Refuse);
    target.install(&source, &newer).unwrap();
    assert_eq!(target.read("a").as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_leader_goes_before_an_operator() {
    let mut source = Solo::new();
    source.write("a", "1", 10);
    let sent = source.machine.snapshot(GROUP).unwrap();
    let ticket = Ticket { id: 7, store_id: 0, ..Ticket::decode(&sent.data).unwrap() };
    let by_hand = MachineSnapshot { data: ticket.encode().encode_to_vec().into(), ..sent.clone() };
    let mut target = Solo::new();
    assert_eq!(target.machine.receive(GROUP, &by_hand), Reception::Wait);
    assert!(target.snapshots.next(1).is_none(), "nobody has it for us to fetch");
    assert_eq!(target.machine.receive(GROUP, &by_hand), Reception::Wait, "it is expected still");
    target.install(&source, &sent).unwrap();
    assert!(!target.snapshots.fetched(&ticket, None), "it is not expected any more");
    assert_eq!(target.machine.receive(GROUP, &source.machine.snapshot(GROUP).unwrap()), Reception::Wait);
    assert_eq!(target.machine.receive(GROUP, &by_hand), Reception::Refuse);
}

#[test]
fn a_snapshot_that_makes_no_sense_is_refused() {
    let mut source = Solo::new();
    source.write("a", "1", 10);
    let snapshot = source.machine.snapshot(GROUP).unwrap();
    let mut target = Solo::new();
    let bent = |index, data: &Bytes| MachineSnapshot { index, data: data.clone(), ..snapshot.clone() };
    for bent in [bent(9, &snapshot.data), bent(2, &Bytes::new()), bent(2, &snapshot.data.slice(3..))] {
        assert_eq!(target.machine.receive(GROUP, &bent), Reception::Refuse);
    }
    assert!(target.snapshots.next(1).is_none());
    let Solo { world, machine, .. } = &mut target;
    assert!(world.run(machine.install(GROUP, snapshot)).is_err(), "it was not fetched");
}

#[test]
fn a_snapshot_is_kept_for_those_who_fetch_it() {
    let mut source = Solo::new();
    for key in ["a", "b", "c"] {
        source.write(key, &"x".repeat(90), 10);
    }
    let snapshot = source.machine.snapshot(GROUP).unwrap();
    let export = source.snapshots.export(Ticket::decode(&snapshot.data).unwrap().id).unwrap();
    assert_eq!(export.chunk(1, CHUNK).unwrap(), None, "nobody knows yet where it begins");
    let first = export.chunk(0, CHUNK).unwrap();
    assert!(export.chunk(1, CHUNK).unwrap().is_some());
    source.write("a", "later", 30);
    assert_eq!(export.chunk(0, CHUNK).unwrap(), first);
    assert_eq!(source.machine.kept_snapshot(GROUP, 6), Some(snapshot.clone()));
    assert_eq!(source.machine.kept_snapshot(GROUP, 7), None, "the log begins behind it");
    let (known, members) = (region(&[1, 2, 3]), Members::all_vote(&region(&[1, 2, 3])));
    let at = |seconds: u64| Instant(seconds * 1_000_000_000);
    let kept = |region: &RegionDescriptor, seconds| {
        source.snapshots.kept(region, &members, 0, at(seconds)).is_some()
    };
    assert!(kept(&known, 4) && !kept(&known, 9), "nobody wants it");
    assert!(!kept(&region(&[1, 2]), 4), "it is of other members");
    export.taken(201, at(8));
    assert!(kept(&known, 60) && !kept(&known, 69));
    assert_eq!(source.machine.fetching(GROUP, 201), Fetching::Took(at(8)));
    assert_eq!(source.machine.fetching(GROUP, 301), Fetching::Unknown);
    let role = nokv_replica::Role { leader: Some(201), term: 2, is_leader: false };
    source.machine.role_changed(GROUP, role);
    assert_eq!(source.machine.kept_snapshot(GROUP, 0), None, "the leader offers others");
}

#[test]
fn only_what_was_sent_last_can_be_given_up() {
    let mut source = Solo::new();
    let send = |source: &mut Solo| {
        let data = source.machine.snapshot(GROUP).unwrap().data;
        source.machine.sent_snapshot(GROUP, 201, &data);
        Ticket::decode(&data).unwrap().id
    };
    let (first, second) = (send(&mut source), send(&mut source));
    source.snapshots.give_up(1, 201, first);
    assert_eq!(source.machine.fetching(GROUP, 201), Fetching::Unknown, "it is fetching the second");
    source.snapshots.give_up(1, 201, second);
    assert_eq!(source.machine.fetching(GROUP, 201), Fetching::GaveUp);
    assert_eq!(source.machine.fetching(GROUP, 201), Fetching::Unknown, "told once");
    source.snapshots.give_up(1, 201, second);
    send(&mut source);
    assert_eq!(source.machine.fetching(GROUP, 201), Fetching::Unknown, "nothing is known of the third");
}

#[test]
fn a_start_sweeps_what_was_not_adopted() {
    let (world, platter) = (World::default(), MemDisk::new(3));
    let env = world.env(1, &platter);
    let left = Path::new("/store/INCOMING_SNAPSHOTS/region-00000000000000000007");
    env.disk.create_dir_all(left).unwrap();
    env.disk.open(&left.join("1.sst"), OpenMode::CreateNew).unwrap();
    for _ in 0..2 {
        snapshot::sweep(&env, Path::new(DIR)).unwrap();
        assert!(!env.disk.exists(left.parent().unwrap()).unwrap());
    }
}

#[test]
fn a_directory_is_seeded_once() {
    let (world, platter) = (World::default(), MemDisk::new(3));
    let env = world.env(1, &platter);
    let seed =
        |store, regions: &[_]| world.run(crate::seed::seed_regions(&env, Path::new(DIR), store, regions));
    seed(1, &[region(&[1, 2])]).unwrap();
    seed(1, &[region(&[1, 2])]).unwrap();
    assert!(matches!(seed(1, &[region(&[1, 3])]), Err(crate::Error::Used { .. })));
    assert!(matches!(seed(2, &[region(&[1, 2])]), Err(crate::Error::WrongStore { .. })));
    let db = Db::open_read_only(env.disk.clone(), Path::new(DIR), Options::default()).unwrap();
    let there = catalog::read_entries(&db).unwrap();
    assert_eq!(
        (&there[0].region, &there[0].members),
        (&region(&[1, 2]), &Members::all_vote(&region(&[1, 2])))
    );
}

#[test]
fn seeding_survives_a_crash_anywhere() {
    for operations in 0..80 {
        let (world, platter) = (World::default(), MemDisk::new(operations));
        crash_after(&platter, operations);
        let seed = || {
            world.run(crate::seed::seed_regions(&world.env(1, &platter), Path::new(DIR), 1, &[region(&[1])]))
        };
        if seed().is_err() {
            platter.crash(CrashMode::PowerLossWorst);
            seed().unwrap();
        }
        seed().unwrap();
    }
}

impl Solo {
    fn split(&mut self, key: &str, child: u64) -> Bytes {
        let parent = self.machine.regions().get(1).unwrap().descriptor();
        let split =
            crate::split::command(&parent, &Bytes::copy_from_slice(key.as_bytes()), child, child + 1..);
        let proposal = Proposal::Split(split);
        self.machine.propose(GROUP, 1, self.index + 1, proposal).unwrap_or_else(|reply| panic!("{reply:?}"))
    }

    fn apply_split(&mut self, data: &Bytes) -> Reply {
        self.index += 1;
        self.machine.apply(GROUP, Applied { index: self.index, term: 1, data }).unwrap()
    }

    fn ranges(&self) -> Vec<(u64, String, String)> {
        let show = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
        let entries = catalog::read_entries(&self.db).unwrap();
        let regions = entries.into_iter().map(|entry| entry.region);
        regions.map(|r| (r.region_id, show(&r.start_key), show(&r.end_key))).collect()
    }
}

#[test]
fn a_split_and_its_child_survive_together_or_not_at_all() {
    let mut solo = Solo::new();
    solo.write("a", "1", 10);
    solo.write("x", "1", 10);
    let split = solo.split("m", 100_000);
    let Reply::Split(halves) = solo.apply_split(&split) else { panic!("not split") };
    let both = vec![(1, String::new(), "m".to_owned()), (100_000, "m".to_owned(), String::new())];
    assert_eq!(solo.ranges(), both);

    // What was not flushed is gone after a crash, all of it; the log's entry brings it back.
    let mut solo = solo.crash();
    assert_eq!(solo.ranges(), [(1, String::new(), String::new())]);
    assert!(catalog::read_pending(&solo.db).unwrap().is_empty());
    solo.write("a", "1", 10);
    solo.write("x", "1", 10);
    assert!(matches!(solo.apply_split(&split), Reply::Split(again) if again == halves));
    // The child's group is taken up when it is durable, so that no log ever is without it.
    let born = solo.world.run(solo.machine.take_born()).unwrap();
    assert_eq!(born.len(), 1);
    assert_eq!((born[0].group, born[0].peer, born[0].born), (GroupId(100_000), 100_001, true));
    assert_eq!((born[0].applied_index, born[0].applied_term), BIRTH);
    let solo = solo.crash();
    assert_eq!(solo.ranges(), both);
    assert_eq!(catalog::read_pending(&solo.db).unwrap()[&1], halves.event());
    assert_eq!(solo.read("x").as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_split_wakes_whoever_removes_old_versions() {
    let mut solo = Solo::new();
    let rings = |solo: &Solo| solo.bells.gc.notified().now_or_never().is_some();
    solo.write("a", "1", 10);
    assert!(!rings(&solo));
    let split = solo.split("m", 100_000);
    assert!(matches!(solo.apply_split(&split), Reply::Split(_)));
    assert!(rings(&solo), "both halves are of a version that nothing was said of");
}

#[test]
fn what_was_proposed_before_a_split_is_refused_behind_it() {
    let mut solo = Solo::new();
    let before = solo.entry(Cmd::Prewrite(prewrite_request("x", &[put("x", "late")], 20).0));
    let (first, second) = (solo.split("m", 100_000), solo.split("c", 100_010));
    assert!(matches!(solo.apply_split(&first), Reply::Split(_)));
    assert!(
        matches!(solo.apply_split(&second), Reply::Outcome(Err(error)) if error.epoch_not_match.is_some())
    );
    solo.index += 1;
    let reply = solo.machine.apply(GROUP, Applied { index: solo.index, term: 1, data: &before }).unwrap();
    assert!(matches!(reply, Reply::Outcome(Err(error)) if error.epoch_not_match.is_some()));
    assert_eq!(solo.ranges().len(), 2);
}

#[test]
fn a_peer_is_not_created_over_keys_that_are_here() {
    let mut solo = Solo::new();
    let split = solo.split("m", 100_000);
    let child = crate::split::divide(
        &region(&[1, 2, 3]),
        &Members::all_vote(&region(&[1, 2, 3])),
        &match crate::command::LogEntry::decode(&split).unwrap() {
            crate::command::LogEntry::Split(split) => split,
            other => panic!("{other:?} is not a split"),
        },
    )
    .unwrap()
    .right;
    assert_eq!(solo.machine.create_group(&child, 100_001), None, "the parent has yet to be split here");
    let whole = solo.machine.snapshot(GROUP).unwrap();
    assert_eq!(solo.machine.receive(GROUP, &whole), Reception::Wait);
    solo.machine.dismiss(GROUP);
    solo.apply_split(&split);
    let again = solo.machine.receive(GROUP, &whole);
    assert_eq!(again, Reception::Refuse, "from before the split, when the child is here already");
}

/// Region 1 as another store tells it: `conf_version` newer, with this store's peer 999 or without any.
fn told(solo: &Solo, conf_version: u64, came_back: bool) -> RegionDescriptor {
    let mut told = (*solo.machine.regions().get(1).unwrap().descriptor()).clone();
    told.epoch = Some(RegionEpoch { version: 7, conf_version });
    told.end_key = "m".into();
    told.peers.retain(|peer| peer.store_id != 1);
    if came_back {
        told.peers.push(RegionPeer { store_id: 1, peer_id: 999 });
    }
    told
}

#[test]
fn a_retired_peer_keeps_the_range_it_knew_and_bars_only_what_is_older() {
    for (came_back, conf_version) in [(false, 5), (true, 4)] {
        let mut solo = Solo::new();
        let now = told(&solo, 5, came_back);
        solo.machine.retire(GROUP, &now).unwrap();
        let left = catalog::read_entries(&solo.db).unwrap()[0].region.clone();
        assert_eq!(left.state(), RegionReplicaState::Tombstone);
        assert_eq!((left.epoch_pair(), left.end_key.is_empty()), ((1, conf_version), true));
        assert!(!left.peers.is_empty() && left.peer_on_store(1).is_none());
        assert!(solo.machine.may_forget(GROUP));
    }
}

#[test]
fn whoever_is_still_a_member_is_not_retired() {
    let mut solo = Solo::new();
    let known = (*solo.machine.regions().get(1).unwrap().descriptor()).clone();
    let newer = RegionDescriptor { epoch: Some(RegionEpoch { version: 1, conf_version: 9 }), ..known };
    solo.machine.retire(GROUP, &newer).unwrap();
    let older = told(&solo, 1, false);
    solo.machine.retire(GROUP, &older).unwrap();
    assert!(!solo.machine.may_forget(GROUP), "it lives");
}

#[test]
fn a_peer_that_is_gone_takes_no_snapshot_and_knows_no_outcome() {
    let mut donor = Solo::new();
    donor.write("a", "1", 10);
    let snapshot = donor.machine.snapshot(GROUP).unwrap();
    let mut solo = Solo::new();
    let late = solo.entry(Cmd::Prewrite(prewrite_request("x", &[put("x", "late")], 20).0));
    let now = told(&solo, 5, false);
    solo.machine.retire(GROUP, &now).unwrap();
    assert_eq!(solo.machine.receive(GROUP, &snapshot), Reception::Refuse);
    let Solo { world, machine, .. } = &mut solo;
    world.run(machine.install(GROUP, snapshot)).unwrap();
    assert_eq!(solo.read("a"), None);
    let reply = solo.machine.apply(GROUP, Applied { index: 9, term: 1, data: &late }).unwrap();
    assert!(matches!(reply, Reply::Gone));
}

#[test]
fn a_child_that_came_and_went_before_the_split_was_applied_stays_away() {
    let mut solo = Solo::new();
    let split = solo.split("m", 100_000);
    let gone = RegionDescriptor {
        region_id: 100_000,
        start_key: "m".into(),
        epoch: Some(RegionEpoch { version: 2, conf_version: 3 }),
        peers: vec![RegionPeer { store_id: 2, peer_id: 100_002 }],
        state: RegionReplicaState::Tombstone.into(),
        ..RegionDescriptor::default()
    };
    solo.machine.regions().get_or_insert(&gone, 1);
    assert!(matches!(solo.apply_split(&split), Reply::Split(_)));
    assert!(!solo.machine.has_born());
    assert_eq!(solo.ranges().len(), 1, "the parent got smaller, and nothing was born");
}

#[test]
fn a_change_is_refused_at_another_configuration_than_it_was_made_for() {
    let solo = Solo::new();
    let change = |made_for| ConfChange {
        changes: vec![PeerChange::AddLearner(77)],
        context: Bytes::from_static(&[4, 77]),
        made_for,
    };
    assert_eq!(solo.machine.admits(GROUP, &change(0)), Ok(()), "for any");
    assert_eq!(solo.machine.admits(GROUP, &change(1)), Ok(()), "for this one");
    let late = solo.machine.admits(GROUP, &change(2));
    assert!(late.is_err_and(|why| why.contains("configuration version 2, this is 1")));
}
