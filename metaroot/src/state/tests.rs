//! The rules of the state machine, one story each.

use super::*;
use nokv_env::RngSource;
use nokv_proto::meta::v1::root_command::{Closure, Lease};
use nokv_proto::meta::v1::{
    RegionEpoch, RegionPeer, RootCoordinatorClosureCommand, RootCoordinatorClosureCommandKind as ClosureKind,
    RootCoordinatorLeaseCommand, RootCoordinatorLeaseCommandKind as LeaseKind, RootDutyFrontier,
    RootPeerChange, RootRangeMerge, RootRangeSplit, RootRegionDescriptor, RootRegionRemoval,
};
use rand_core::Rng;

/// A root with a log of its own.
#[derive(Default)]
struct Root {
    state: RootState,
    index: u64,
}

impl Root {
    fn does(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let before = self.state.clone();
        let outcome = self.state.apply(self.index, 3, &RootCommand { command: Some(command), cluster_id: 7 });
        if matches!(outcome.reply, Reply::Refused(_)) || outcome.events.is_empty() {
            assert_eq!(self.state, before, "a command without events changed the state");
        } else {
            assert_eq!(self.state.last_committed(), RootCursor { term: 3, index: self.index });
        }
        self.check();
        outcome
    }

    fn check(&self) {
        let regions: Vec<_> = self.state.regions.values().collect();
        for (i, a) in regions.iter().enumerate() {
            for b in &regions[i + 1..] {
                assert!(!a.range().overlaps(&b.range()), "{a:?} {b:?}");
            }
        }
        let again = RootState::rebuild(self.state.checkpoint(), self.state.removed_regions());
        assert_eq!(again, self.state, "a checkpoint loses something");
    }

    fn append(&mut self, event: RootEvent) -> Outcome {
        self.does(Command::Append(Append { events: vec![event], expected_cluster_epoch: None }))
    }

    /// The event changed something.
    fn takes(&mut self, event: RootEvent) {
        let outcome = self.append(event);
        assert!(!outcome.events.is_empty(), "{:?}", outcome.reply);
    }

    /// The event is fine and changes nothing.
    fn shrugs(&mut self, event: RootEvent) {
        let outcome = self.append(event);
        assert!(matches!(outcome.reply, Reply::Appended { .. }) && outcome.events.is_empty(), "{outcome:?}");
    }

    /// The event is refused with a text that contains `why`.
    fn refuses(&mut self, event: RootEvent, why: &str) {
        match self.append(event).reply {
            Reply::Refused(refusal) => assert!(refusal.to_string().contains(why), "{refusal}"),
            other => panic!("taken: {other:?}"),
        }
    }

    fn issue(&mut self, holder: &str, takeover: (u64, u64)) -> Option<u64> {
        self.issue_as(holder, takeover, "", &[])
    }

    fn issue_as(
        &mut self,
        holder: &str,
        takeover: (u64, u64),
        digest: &str,
        frontiers: &[(u32, u64)],
    ) -> Option<u64> {
        let command = RootCoordinatorLeaseCommand {
            kind: LeaseKind::Issue as i32,
            holder_id: holder.into(),
            ttl_millis: 1000,
            predecessor_digest: digest.into(),
            handoff_frontiers: frontiers_of(frontiers),
            ..Default::default()
        };
        self.lease(command, takeover)
    }

    fn release(&mut self, holder: &str) -> Option<u64> {
        self.release_of(holder, 0)
    }

    fn release_of(&mut self, holder: &str, generation: u64) -> Option<u64> {
        let command = RootCoordinatorLeaseCommand {
            kind: LeaseKind::Release as i32,
            holder_id: holder.into(),
            cert_generation: generation,
            ..Default::default()
        };
        self.lease(command, (0, 0))
    }

    fn lease(&mut self, command: RootCoordinatorLeaseCommand, takeover: (u64, u64)) -> Option<u64> {
        let lease = Lease {
            command: Some(command),
            takeover_of_generation: takeover.0,
            observed_renewals: takeover.1,
        };
        match self.does(Command::Lease(lease)).reply {
            Reply::Lease { protocol, granted: true } => protocol.lease.map(|lease| lease.cert_generation),
            _ => None,
        }
    }

    fn closure(&mut self, kind: ClosureKind, holder: &str, frontiers: &[(u32, u64)]) -> bool {
        self.closure_of(kind, holder, 0, frontiers)
    }

    fn closure_of(
        &mut self,
        kind: ClosureKind,
        holder: &str,
        generation: u64,
        frontiers: &[(u32, u64)],
    ) -> bool {
        let command = RootCoordinatorClosureCommand {
            kind: kind as i32,
            holder_id: holder.into(),
            frontiers: frontiers_of(frontiers),
            cert_generation: generation,
            ..Default::default()
        };
        let outcome = self.does(Command::Closure(Closure { command: Some(command) }));
        matches!(outcome.reply, Reply::Closure { .. })
    }

    fn fence(&mut self, kind: RootAllocatorKind, minimum: u64, owner: (&str, u64)) -> Option<u64> {
        let fence = Fence { kind: kind as i32, minimum, holder_id: owner.0.into(), cert_generation: owner.1 };
        match self.does(Command::Fence(fence)).reply {
            Reply::Fenced { current } => Some(current),
            _ => None,
        }
    }
}

fn frontiers_of(frontiers: &[(u32, u64)]) -> Vec<RootDutyFrontier> {
    frontiers.iter().map(|&(duty_mask, frontier)| RootDutyFrontier { duty_mask, frontier }).collect()
}

fn region(id: u64, start: &str, end: &str, epoch: (u64, u64), stores: &[u64]) -> RegionDescriptor {
    RegionDescriptor {
        region_id: id,
        start_key: start.to_owned().into(),
        end_key: end.to_owned().into(),
        epoch: Some(RegionEpoch { version: epoch.0, conf_version: epoch.1 }),
        peers: stores.iter().map(|&store_id| RegionPeer { store_id, peer_id: id * 100 + store_id }).collect(),
        state: 2,
        ..Default::default()
    }
}

fn event(kind: RootEventKind, payload: Payload) -> RootEvent {
    RootEvent { kind: kind as i32, payload: Some(payload) }
}

fn described(kind: RootEventKind, region: RegionDescriptor) -> RootEvent {
    event(kind, Payload::RegionDescriptor(RootRegionDescriptor { descriptor: Some(region) }))
}

fn bootstrap(region: RegionDescriptor) -> RootEvent {
    described(RootEventKind::RegionBootstrap, region)
}

fn published(region: RegionDescriptor) -> RootEvent {
    described(RootEventKind::RegionDescriptorPublished, region)
}

fn tombstone(region_id: u64) -> RootEvent {
    event(RootEventKind::RegionTombstoned, Payload::RegionRemoval(RootRegionRemoval { region_id }))
}

fn store(kind: RootEventKind, store_id: u64, address: &str) -> RootEvent {
    event(kind, Payload::StoreMembership(RootStoreMembership { store_id, address: address.into() }))
}

fn peer_change(kind: RootEventKind, store_id: u64, target: RegionDescriptor) -> RootEvent {
    let region_id = target.region_id;
    let change = RootPeerChange {
        region_id,
        store_id,
        peer_id: region_id * 100 + store_id,
        target: Some(target),
        base: None,
    };
    event(kind, Payload::PeerChange(change))
}

fn split(kind: RootEventKind, parent: u64, left: RegionDescriptor, right: RegionDescriptor) -> RootEvent {
    let split = RootRangeSplit {
        parent_region_id: parent,
        split_key: right.start_key.clone(),
        left: Some(left),
        right: Some(right),
        base_parent: None,
    };
    event(kind, Payload::RangeSplit(split))
}

fn merge(kind: RootEventKind, left: u64, right: u64, merged: RegionDescriptor) -> RootEvent {
    let merge = RootRangeMerge {
        left_region_id: left,
        right_region_id: right,
        merged: Some(merged),
        base_left: None,
        base_right: None,
    };
    event(kind, Payload::RangeMerge(merge))
}

use RootEventKind as Kind;

#[test]
fn stores_join_move_and_leave() {
    let mut root = Root::default();
    root.takes(store(Kind::StoreJoined, 1, "a:1"));
    root.shrugs(store(Kind::StoreJoined, 1, "a:1"));
    root.takes(store(Kind::StoreJoined, 1, "b:1"));
    root.takes(bootstrap(region(1, "", "", (1, 1), &[1])));
    root.refuses(store(Kind::StoreLeft, 1, ""), "still hosts");
    root.takes(tombstone(1));
    root.takes(store(Kind::StoreLeft, 1, ""));
    root.shrugs(store(Kind::StoreLeft, 1, ""));
    root.refuses(store(Kind::StoreJoined, 0, "a:1"), "id above 0");
    assert_eq!(root.state.summary().membership_epoch, 3);
}

#[test]
fn a_store_is_decommissioned_until_it_leaves_or_somebody_changes_their_mind() {
    let mut root = Root::default();
    root.refuses(store(Kind::StoreDecommissioned, 1, ""), "no member");
    root.takes(store(Kind::StoreJoined, 1, "a:1"));
    root.takes(store(Kind::StoreDecommissioned, 1, ""));
    root.shrugs(store(Kind::StoreDecommissioned, 1, ""));
    root.shrugs(store(Kind::StoreJoined, 1, "a:1"));
    assert_eq!(root.state.decommissioned(), [1], "it survives a restart of the store");
    root.takes(store(Kind::StoreRecommissioned, 1, ""));
    root.shrugs(store(Kind::StoreRecommissioned, 1, ""));
    root.takes(store(Kind::StoreDecommissioned, 1, ""));
    root.takes(store(Kind::StoreLeft, 1, ""));
    assert!(root.state.decommissioned().is_empty());
    root.refuses(store(Kind::StoreDecommissioned, 0, ""), "0");
}

#[test]
fn a_region_is_born_once() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "", "m", (1, 1), &[1, 2, 3])));
    root.shrugs(bootstrap(region(1, "", "m", (1, 1), &[1, 2, 3])));
    root.refuses(bootstrap(region(1, "", "n", (1, 1), &[1, 2, 3])), "other content");
    root.refuses(bootstrap(region(2, "l", "", (1, 1), &[1])), "overlaps region 1");
    root.refuses(bootstrap(region(2, "z", "b", (1, 1), &[1])), "start key");
    root.takes(bootstrap(region(2, "m", "", (1, 1), &[1])));
    root.takes(tombstone(1));
    root.shrugs(tombstone(1));
    root.refuses(bootstrap(region(1, "", "m", (1, 1), &[1, 2, 3])), "does not come back");
    root.takes(bootstrap(region(3, "", "m", (1, 1), &[2])));
}

#[test]
fn a_descriptor_is_stamped_with_its_epoch_and_hash() {
    let mut root = Root::default();
    let outcome = root.append(bootstrap(region(1, "", "", (1, 1), &[1])));
    let stored = root.state.regions.get(&1).cloned().expect("stored");
    assert_eq!((stored.root_epoch, stored.hash.len()), (1, 32));
    let recorded = described(Kind::RegionBootstrap, stored);
    assert_eq!(outcome.events[0].event, Some(recorded), "history shows the stamped descriptor");
}

#[test]
fn epochs_never_go_back_and_each_change_moves_its_own_number() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "a", "m", (2, 2), &[1, 2])));
    root.refuses(published(region(1, "a", "m", (1, 3), &[1, 2])), "stale epoch");
    root.refuses(published(region(1, "a", "m", (2, 1), &[1, 2])), "stale epoch");
    root.refuses(published(region(1, "a", "k", (2, 3), &[1, 2])), "higher version");
    root.refuses(published(region(1, "a", "m", (3, 2), &[1, 3])), "higher configuration version");
    root.takes(published(region(1, "a", "p", (3, 2), &[1, 2])));
    root.takes(published(region(1, "a", "p", (3, 3), &[1, 3])));
    root.shrugs(published(region(1, "a", "p", (3, 3), &[1, 3])));
    assert_eq!(root.state.summary().cluster_epoch, 3);
}

#[test]
fn an_append_is_taken_as_a_whole_or_not_at_all() {
    let mut root = Root::default();
    let events = vec![
        bootstrap(region(1, "", "m", (1, 1), &[1])),
        store(Kind::StoreJoined, 1, "a:1"),
        bootstrap(region(2, "a", "", (1, 1), &[1])),
    ];
    let outcome = root.does(Command::Append(Append { events, expected_cluster_epoch: None }));
    assert!(matches!(outcome.reply, Reply::Refused(_)) && outcome.events.is_empty());
    assert_eq!(root.state, RootState::default());
    let events =
        vec![bootstrap(region(1, "", "m", (1, 1), &[1])), bootstrap(region(2, "m", "", (1, 1), &[1]))];
    let outcome = root.does(Command::Append(Append { events, expected_cluster_epoch: Some(0) }));
    assert_eq!(outcome.events.len(), 2);
    assert!(outcome.events.iter().all(|event| event.cursor == Some(root.state.last_committed())));
}

#[test]
fn an_expected_epoch_must_be_the_current_one() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "", "m", (1, 1), &[1])));
    let events = vec![bootstrap(region(2, "m", "", (1, 1), &[1]))];
    let outcome = root.does(Command::Append(Append { events, expected_cluster_epoch: Some(7) }));
    let why = "pd/meta cluster epoch mismatch (expected=7 current=1)";
    assert_eq!(outcome.reply, Reply::Refused(Refusal::precondition(why)));
}

#[test]
fn unknown_and_forbidden_events_are_refused() {
    let mut root = Root::default();
    root.refuses(RootEvent { kind: 99, payload: None }, "unknown root event kind 99");
    root.refuses(RootEvent { kind: Kind::RegionBootstrap as i32, payload: None }, "without its payload");
    let lease = Payload::CoordinatorLease(RootCoordinatorLease::default());
    root.refuses(event(Kind::CoordinatorLease, lease), "by their own commands");
    assert!(matches!(
        root.state.apply(1, 1, &RootCommand { command: None, cluster_id: 7 }).reply,
        Reply::Refused(Refusal::Invalid(_))
    ));
}

#[test]
fn a_peer_is_added_by_plan() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "", "", (1, 1), &[1, 2])));
    let target = region(1, "", "", (1, 2), &[1, 2, 3]);
    root.takes(peer_change(Kind::PeerAdditionPlanned, 3, target.clone()));
    root.shrugs(peer_change(Kind::PeerAdditionPlanned, 3, target.clone()));
    assert!(root.state.regions[&1].peer_on_store(3).is_some(), "the target is installed at once");
    root.refuses(
        peer_change(Kind::PeerRemovalPlanned, 2, region(1, "", "", (1, 3), &[1, 3])),
        "another peer change is pending",
    );
    root.takes(peer_change(Kind::PeerAdded, 3, target.clone()));
    root.shrugs(peer_change(Kind::PeerAdded, 3, target.clone()));
    root.refuses(peer_change(Kind::PeerAdditionCancelled, 3, target), "is done");
    assert_eq!((root.state.summary().cluster_epoch, root.state.counts()), (2, (1, 0, 0)));
}

#[test]
fn a_cancelled_peer_change_leaves_no_trace_but_its_epoch() {
    let mut root = Root::default();
    let base = region(1, "", "", (1, 1), &[1, 2, 3]);
    root.takes(bootstrap(base.clone()));
    let target = region(1, "", "", (1, 2), &[1, 2]);
    root.takes(peer_change(Kind::PeerRemovalPlanned, 3, target.clone()));
    root.takes(peer_change(Kind::PeerRemovalCancelled, 3, target.clone()));
    root.shrugs(peer_change(Kind::PeerRemovalCancelled, 3, target));
    assert!(regions::same(&root.state.regions[&1], &base));
    assert_eq!(root.state.summary().cluster_epoch, 3);
}

#[test]
fn a_peer_change_must_be_the_one_it_says() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "a", "", (1, 1), &[1, 2])));
    let refused = [
        (3, region(1, "a", "", (1, 1), &[1, 2, 3]), "superseded"),
        (3, region(1, "b", "", (1, 2), &[1, 2, 3]), "must not change the range"),
        (3, region(1, "a", "", (1, 2), &[1, 2, 4]), "more than the named one"),
        (3, region(1, "a", "", (1, 2), &[1, 3]), "more than the named one"),
    ];
    for (store, target, why) in refused {
        root.refuses(peer_change(Kind::PeerAdditionPlanned, store, target), why);
    }
    root.refuses(peer_change(Kind::PeerRemoved, 9, region(1, "a", "", (1, 2), &[1, 2])), "not a member");
    root.takes(peer_change(Kind::PeerRemoved, 2, region(1, "a", "", (1, 2), &[1])));
}

#[test]
fn a_published_descriptor_ends_the_peer_change_it_shows() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "", "", (1, 1), &[1, 2])));
    let target = region(1, "", "", (1, 2), &[1, 2, 3]);
    root.takes(peer_change(Kind::PeerAdditionPlanned, 3, target.clone()));
    root.takes(published(target));
    assert_eq!(root.state.counts(), (1, 0, 0));
}

#[test]
fn a_region_is_split_by_plan() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "", "", (1, 1), &[1, 2])));
    let (left, right) = (region(1, "", "m", (2, 1), &[1, 2]), region(2, "m", "", (2, 1), &[1, 2]));
    let planned = split(Kind::RegionSplitPlanned, 1, left.clone(), right.clone());
    root.takes(planned.clone());
    root.shrugs(planned);
    root.refuses(published(region(2, "m", "", (3, 1), &[1, 2])), "split parent=1 left=1 right=2");
    root.refuses(tombstone(1), "range change still pending");
    let committed = split(Kind::RegionSplitCommitted, 1, left.clone(), right.clone());
    root.takes(committed.clone());
    root.shrugs(committed);
    root.refuses(split(Kind::RegionSplitCancelled, 1, left, right), "cannot be cancelled");
    assert_eq!((root.state.summary().cluster_epoch, root.state.counts()), (2, (2, 0, 0)));
}

#[test]
fn a_cancelled_split_gives_the_parent_back() {
    let mut root = Root::default();
    let parent = region(1, "", "", (1, 1), &[1]);
    root.takes(bootstrap(parent.clone()));
    let (left, right) = (region(3, "", "m", (2, 1), &[1]), region(2, "m", "", (2, 1), &[1]));
    root.takes(split(Kind::RegionSplitPlanned, 1, left.clone(), right.clone()));
    assert!(!root.state.regions.contains_key(&1));
    root.refuses(bootstrap(parent.clone()), "overlaps");
    root.takes(split(Kind::RegionSplitCancelled, 1, left.clone(), right.clone()));
    root.shrugs(split(Kind::RegionSplitCancelled, 1, left, right));
    assert!(regions::same(&root.state.regions[&1], &parent) && root.state.counts() == (1, 0, 0));
}

#[test]
fn a_split_must_keep_the_keys_and_raise_the_version() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "a", "z", (1, 1), &[1])));
    root.takes(bootstrap(region(9, "z", "", (1, 1), &[1])));
    let refused = [
        (region(1, "a", "m", (1, 1), &[1]), region(2, "m", "z", (2, 1), &[1]), "higher version"),
        (region(1, "b", "m", (2, 1), &[1]), region(2, "m", "z", (2, 1), &[1]), "exactly the keys"),
        (region(1, "a", "m", (2, 1), &[1]), region(2, "m", "", (2, 1), &[1]), "exactly the keys"),
        (region(1, "a", "m", (2, 1), &[1]), region(9, "m", "z", (2, 1), &[1]), "exists already"),
        (region(1, "a", "m", (2, 1), &[1]), region(1, "m", "z", (2, 1), &[1]), "two different children"),
    ];
    for (left, right, why) in refused {
        root.refuses(split(Kind::RegionSplitCommitted, 1, left, right), why);
    }
    let (left, right) = (region(1, "a", "m", (2, 1), &[1]), region(2, "m", "z", (2, 1), &[1]));
    root.takes(split(Kind::RegionSplitCommitted, 1, left, right));
}

#[test]
fn a_region_gets_smaller_only_by_the_split_that_names_the_other_half() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "a", "z", (1, 1), &[1, 2, 3])));
    let (left, right) = (region(1, "a", "m", (2, 1), &[1, 2, 3]), region(9, "m", "z", (2, 1), &[1, 2, 3]));
    // From a replica that got a snapshot from behind the split.
    let later = published(region(1, "a", "m", (2, 2), &[1, 2, 3, 4]));
    root.refuses(later.clone(), "a smaller range comes with the split");
    root.takes(split(RootEventKind::RegionSplitCommitted, 1, left, right));
    root.takes(later);
}

#[test]
fn neighbours_merge_and_the_source_stays_gone() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "", "m", (1, 1), &[1])));
    root.takes(bootstrap(region(2, "m", "", (1, 1), &[1])));
    let merged = region(1, "", "", (2, 1), &[1]);
    root.refuses(merge(Kind::RegionMergePlanned, 2, 1, region(2, "", "", (2, 1), &[1])), "exactly the keys");
    root.takes(merge(Kind::RegionMergePlanned, 1, 2, merged.clone()));
    root.takes(merge(Kind::RegionMergeCancelled, 1, 2, merged.clone()));
    assert_eq!(root.state.counts(), (2, 0, 0));
    root.takes(merge(Kind::RegionMergePlanned, 1, 2, merged.clone()));
    root.takes(merge(Kind::RegionMerged, 1, 2, merged.clone()));
    root.shrugs(merge(Kind::RegionMerged, 1, 2, merged));
    root.shrugs(published(region(2, "m", "", (1, 2), &[1, 2])));
    root.takes(tombstone(1));
    root.refuses(bootstrap(region(2, "m", "", (1, 1), &[1])), "does not come back");
}

#[test]
fn a_merge_that_has_happened_is_taken_as_the_regions_are_told() {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "", "g", (3, 1), &[1])));
    root.takes(bootstrap(region(2, "g", "", (5, 1), &[1])));
    let merged = region(1, "", "p", (8, 1), &[1]);
    root.refuses(merge(Kind::RegionMerged, 1, 2, merged.clone()), "exactly the keys");
    let halves = (region(2, "g", "p", (6, 1), &[1]), region(3, "p", "", (6, 1), &[1]));
    root.takes(split(Kind::RegionSplitCommitted, 2, halves.0.clone(), halves.1.clone()));
    root.takes(merge(Kind::RegionMerged, 1, 2, merged.clone()));
    root.takes(published(region(1, "", "p", (8, 2), &[1, 2])));
    root.shrugs(merge(Kind::RegionMerged, 1, 2, merged));
    root.shrugs(split(Kind::RegionSplitCommitted, 2, halves.0, halves.1));
}

#[test]
fn fences_only_rise_and_belong_to_the_live_lease() {
    let mut root = Root::default();
    assert_eq!(root.fence(RootAllocatorKind::Id, 100, ("", 0)), Some(100));
    assert_eq!(root.fence(RootAllocatorKind::Id, 50, ("", 0)), Some(100));
    assert_eq!(root.fence(RootAllocatorKind::GcSafePoint, 7, ("", 0)), Some(7));
    assert_eq!(root.fence(RootAllocatorKind::GcSafePoint, 3, ("", 0)), Some(7), "never back");
    assert_eq!(root.fence(RootAllocatorKind::Tso, u64::MAX, ("", 0)), None);
    assert_eq!(root.fence(RootAllocatorKind::Tso, 10, ("a", 1)), None, "no lease yet");
    assert_eq!(root.issue("a", (0, 0)), Some(1));
    assert_eq!(root.fence(RootAllocatorKind::Tso, 10, ("a", 1)), Some(10));
    assert_eq!(root.issue("b", (1, 0)), Some(2));
    assert_eq!(root.fence(RootAllocatorKind::Tso, 20, ("a", 1)), None);
    assert_eq!(root.fence(RootAllocatorKind::Tso, 20, ("a", 2)), None);
    assert_eq!(root.fence(RootAllocatorKind::Tso, 20, ("b", 2)), Some(20));
    assert_eq!(root.release("b"), Some(2));
    assert_eq!(root.fence(RootAllocatorKind::Tso, 30, ("b", 2)), None, "released");
}

#[test]
fn a_lease_changes_hands_by_takeover_or_release_only() {
    let mut root = Root::default();
    assert_eq!(root.issue("a", (0, 0)), Some(1));
    assert_eq!(root.issue("b", (0, 0)), None, "held");
    assert_eq!(root.issue("a", (0, 0)), Some(1), "renewal");
    assert_eq!(root.issue("b", (1, 0)), None, "a renewal came first");
    assert_eq!(root.issue("b", (1, 1)), Some(2));
    assert_eq!(root.issue("a", (0, 0)), None, "too late to renew");
    assert_eq!(root.release("a"), None, "not the owner");
    assert_eq!(root.release("b"), Some(2));
    assert_eq!(root.release("b"), Some(2), "again");
    assert_eq!(root.issue("a", (0, 0)), Some(3));
    assert_eq!(root.issue("b", (2, 1)), None, "a takeover of the past");
    assert_eq!(root.release_of("a", 1), None, "a release of the past");
    assert_eq!(root.release_of("a", 3), Some(3));
}

#[test]
fn frontiers_of_a_release_raise_the_fences() {
    let mut root = Root::default();
    root.issue("a", (0, 0));
    let command = RootCoordinatorLeaseCommand {
        kind: LeaseKind::Release as i32,
        holder_id: "a".into(),
        handoff_frontiers: frontiers_of(&[(1, 40), (2, 70)]),
        ..Default::default()
    };
    root.lease(command, (0, 0));
    let state = root.state.summary();
    assert_eq!((state.id_fence, state.tso_fence), (40, 70));
}

/// Frontiers of ids, timestamps and routes.
fn by_duty(frontiers: &[RootDutyFrontier]) -> Vec<(u32, u64)> {
    frontiers.iter().map(|frontier| (frontier.duty_mask, frontier.frontier)).collect()
}

/// A root with one region (cluster epoch 1), whose generation 1 of `a` has fenced ids to 100 and timestamps to 200.
fn fenced() -> Root {
    let mut root = Root::default();
    root.takes(bootstrap(region(1, "", "", (1, 1), &[1])));
    assert_eq!(root.issue_as("a", (0, 0), "", &[(4, 1)]), Some(1));
    root.fence(RootAllocatorKind::Id, 100, ("a", 1));
    root.fence(RootAllocatorKind::Tso, 200, ("a", 1));
    root
}

#[test]
fn a_sealed_generation_is_succeeded_and_closed() {
    let mut root = fenced();
    assert!(!root.closure(ClosureKind::Seal, "b", &[]), "not the owner");
    assert!(!root.closure_of(ClosureKind::Seal, "a", 2, &[]), "of another generation");
    assert!(!root.closure(ClosureKind::Seal, "a", &[(1, 101)]), "above the fence");
    assert!(root.closure_of(ClosureKind::Seal, "a", 1, &[(1, 40), (2, 70)]));
    assert!(root.closure(ClosureKind::Seal, "a", &[(1, 90)]), "again changes nothing");
    assert_eq!(root.fence(RootAllocatorKind::Tso, 300, ("a", 1)), None, "sealed");
    let seal = root.state.seal.clone().expect("sealed");
    assert_eq!(by_duty(&seal.consumed_frontiers), [(1, 40), (2, 70), (4, 1)]);
    assert_eq!((seal.by_root, &seal.digest), (false, &digest::seal(&seal)));

    let digest = seal.digest;
    assert_eq!(root.issue_as("b", (0, 0), "", &[(4, 1)]), None, "knows nothing of the seal");
    assert_eq!(root.issue_as("a", (0, 0), "", &[(4, 1)]), None, "a renewal that comes late");
    assert_eq!(root.issue_as("b", (0, 0), &digest, &[(1, 40), (2, 69), (4, 1)]), None, "below a number");
    assert_eq!(root.issue_as("b", (0, 0), &digest, &[]), None, "does not know the region");
    assert!(!root.closure(ClosureKind::Confirm, "a", &[]), "no successor yet");
    assert_eq!(root.issue_as("b", (0, 0), &digest, &[(4, 1)]), Some(2));
    let lease = root.state.lease.clone().expect("granted");
    assert_eq!(by_duty(&lease.handoff_frontiers), [(1, 100), (2, 200), (4, 1)]);
    assert_eq!(lease.predecessor_digest, digest);
    let closure = root.state.closure.clone().expect("closed by the same entry");
    assert_eq!((closure.seal_generation, closure.successor_generation, closure.stage), (1, 2, 3));

    assert_eq!(root.issue_as("a", (0, 0), &digest, &[(4, 1)]), None, "held by the successor");
    for kind in [ClosureKind::Confirm, ClosureKind::Close, ClosureKind::Reattach] {
        assert!(root.closure(kind, "b", &[]), "{kind:?}: already so");
        assert!(!root.closure(kind, "a", &[]), "{kind:?} by another");
    }
    assert!(!root.closure_of(ClosureKind::Seal, "b", 1, &[]), "a seal that comes late");
    assert!(root.closure_of(ClosureKind::Seal, "b", 2, &[]));
    assert!(!root.closure(ClosureKind::Reattach, "b", &[]), "sealed meanwhile");
    assert_eq!(root.issue_as("b", (0, 0), &digest, &[(4, 1)]), None, "the digest of the seal before");
    let seal = root.state.seal.clone().expect("sealed");
    assert_eq!(by_duty(&seal.consumed_frontiers), [(1, 100), (2, 200), (4, 1)], "the fences, unless told");
}

#[test]
fn a_takeover_seals_the_dead_generation_at_its_fences() {
    let mut root = fenced();
    assert_eq!(root.issue_as("b", (1, 0), "", &[(4, 0)]), None, "does not know the region");
    assert!(root.state.seal.is_none(), "refused as a whole");
    assert_eq!(root.issue_as("b", (1, 0), "", &[(4, 1)]), Some(2));
    let seal = root.state.seal.clone().expect("sealed by the root");
    assert_eq!((seal.by_root, &*seal.holder_id, seal.cert_generation), (true, "a", 1));
    assert_eq!(by_duty(&seal.consumed_frontiers), [(1, 100), (2, 200), (4, 1)]);
    let lease = root.state.lease.clone().expect("granted");
    assert_eq!((&lease.predecessor_digest, by_duty(&lease.handoff_frontiers)[1]), (&seal.digest, (2, 200)));
    assert_eq!(root.state.closure.clone().map(|closure| closure.successor_generation), Some(2));
    assert!(!root.closure_of(ClosureKind::Seal, "a", 1, &[(1, 40)]), "the dead comes back and seals");
}

/// What a coordinator sends: a renewal of `renews`, or a claim after what it knows.
fn asks(root: &mut Root, holder: &str, renews: u64, after: Option<u64>, digest: &str) -> Option<u64> {
    let command = RootCoordinatorLeaseCommand {
        kind: LeaseKind::Issue as i32,
        holder_id: holder.into(),
        ttl_millis: 1000,
        cert_generation: renews,
        after_generation: after,
        predecessor_digest: digest.into(),
        handoff_frontiers: frontiers_of(&[(4, 1)]),
        ..Default::default()
    };
    root.lease(command, (0, 0))
}

#[test]
fn a_generation_belongs_to_one_life_of_its_holder() {
    let mut root = fenced();
    assert_eq!(asks(&mut root, "a", 1, None, ""), Some(1), "a renewal");
    assert_eq!(asks(&mut root, "a", 0, Some(1), ""), Some(2), "a new life of the same coordinator");
    let seal = root.state.seal.clone().expect("sealed");
    assert_eq!((seal.by_root, by_duty(&seal.consumed_frontiers)[0]), (true, (1, 100)));
    assert_eq!(asks(&mut root, "a", 1, None, ""), None, "a renewal of the last life");
    assert_eq!(asks(&mut root, "a", 0, Some(1), ""), None, "the claim a second time");
    assert!(!root.closure_of(ClosureKind::Seal, "a", 1, &[(1, 40)]), "a seal of the last life");
    assert_eq!(asks(&mut root, "b", 2, None, ""), None, "a renewal by another");
    assert_eq!(asks(&mut root, "b", 0, Some(2), ""), None, "held");
    assert_eq!(asks(&mut root, "a", 2, None, ""), Some(2));
    assert!(root.closure_of(ClosureKind::Seal, "a", 2, &[]));
    let digest = root.state.seal.clone().map(|seal| seal.digest).unwrap_or_default();
    assert_eq!(asks(&mut root, "a", 2, None, ""), None, "a renewal that comes after the seal");
    assert_eq!(asks(&mut root, "b", 0, Some(1), &digest), None, "does not know the generation");
    assert_eq!(asks(&mut root, "b", 0, Some(2), &digest), Some(3));
}

#[test]
fn the_seal_digest_is_golden() {
    let seal = RootCoordinatorSeal {
        holder_id: "c1".into(),
        cert_generation: 3,
        duty_mask: 3,
        consumed_frontiers: frontiers_of(&[(2, 9), (8, 1)]),
        sealed_at_cursor: Some(RootCursor { term: 1, index: 7 }),
        ..Default::default()
    };
    let mut bytes = vec![0, 0, 0, 2, b'c', b'1', 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3];
    for (duty, frontier) in [(1u8, 0u8), (2, 9), (8, 1)] {
        bytes.extend_from_slice(&[0, 0, 0, duty, 0, 0, 0, 0, 0, 0, 0, frontier]);
    }
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
    use sha2::{Digest, Sha256};
    assert_eq!(digest::seal(&seal), format!("{:x}", Sha256::digest(&bytes)));
}

/// Random commands: refused ones change nothing, ranges never overlap, fences and generations never fall, and
/// a second node that applies the same log is equal. (The first three are checked after every command.)
#[test]
fn random_logs_keep_the_rules_on_every_node() {
    for seed in 0..30 {
        let mut rng = RngSource::new(seed, 0).stream("log");
        let (mut root, mut log) = (Root::default(), Vec::new());
        let mut highest = (0, 0, 0);
        for _ in 0..300 {
            let command = random_command(&mut rng, &root.state);
            log.push(command.clone());
            root.does(command);
            let state = root.state.summary();
            let generation = state.coordinator_lease.map_or(0, |lease| lease.cert_generation);
            let now = (state.id_fence, state.tso_fence, generation);
            assert!(now.0 >= highest.0 && now.1 >= highest.1 && now.2 >= highest.2);
            highest = now;
            check_authority(&root.state);
        }
        let mut other = Root::default();
        for command in log {
            other.does(command);
        }
        assert_eq!(other.state, root.state);
    }
}

/// Every generation but the newest is sealed; a sealed one waits for its successor or is closed by it, above all it consumed.
fn check_authority(state: &RootState) {
    let protocol = state.protocol();
    let generation = protocol.lease.as_ref().map_or(0, |lease| lease.cert_generation);
    let sealed = protocol.seal.as_ref().map_or(0, |seal| seal.cert_generation);
    assert!(sealed == generation || sealed + 1 == generation, "{sealed} is sealed, {generation} is granted");
    assert!(state.live_lease().is_none() || sealed < generation);
    let closed_by = protocol.closure.map_or(0, |closure| closure.successor_generation);
    assert_eq!(closed_by, if sealed != 0 && sealed < generation { generation } else { 0 });
    let (Some(seal), Some(lease)) = (protocol.seal, protocol.lease) else { return };
    let covers = |(duty, consumed): (u32, u64)| {
        by_duty(&lease.handoff_frontiers).contains(&(duty, consumed))
            || by_duty(&lease.handoff_frontiers).iter().any(|known| known.0 == duty && known.1 > consumed)
    };
    assert!(sealed == generation || by_duty(&seal.consumed_frontiers).into_iter().all(covers));
}

fn random_command(rng: &mut impl Rng, state: &RootState) -> Command {
    let mut draw = |bound: u64| rng.next_u64() % bound;
    let keys = ["", "b", "d", "f", "h", "k"];
    let known: Vec<_> = state.regions.values().cloned().collect();
    let some = (!known.is_empty()).then(|| known[draw(known.len() as u64) as usize].clone());
    let bump = |region: &RegionDescriptor, version: u64, conf: u64| {
        let mut next = region.clone();
        let (old_version, old_conf) = region.epoch_pair();
        next.epoch = Some(RegionEpoch { version: old_version + version, conf_version: old_conf + conf });
        next
    };
    let event = match (draw(12), some) {
        (0..=2, _) | (_, None) => {
            let (start, end) = (draw(6) as usize, draw(6) as usize);
            bootstrap(region(1 + draw(8), keys[start], keys[end], (1, 1), &[1, 2]))
        }
        (3, Some(region)) => tombstone(region.region_id),
        (4, Some(region)) => published(bump(&region, draw(2), draw(2))),
        (5 | 6, Some(region)) => {
            let mut target = bump(&region, 0, 1);
            let store = 3 + draw(2);
            target.peers.push(RegionPeer { store_id: store, peer_id: region.region_id * 100 + store });
            let kinds = [Kind::PeerAdditionPlanned, Kind::PeerAdded, Kind::PeerAdditionCancelled];
            peer_change(kinds[draw(3) as usize], store, if draw(2) == 0 { target } else { region })
        }
        (7 | 8, Some(region)) => {
            let mut left = bump(&region, 1, 0);
            let mut right = left.clone();
            let key = keys[1 + draw(5) as usize];
            left.end_key = key.into();
            right.start_key = key.into();
            right.region_id = 1 + draw(12);
            let kinds = [Kind::RegionSplitPlanned, Kind::RegionSplitCommitted, Kind::RegionSplitCancelled];
            split(kinds[draw(3) as usize], region.region_id, left, right)
        }
        (9, Some(left)) => {
            let other = known[draw(known.len() as u64) as usize].clone();
            let mut merged = bump(&left, 1, 0);
            merged.end_key = other.end_key.clone();
            let kinds = [Kind::RegionMergePlanned, Kind::RegionMerged, Kind::RegionMergeCancelled];
            merge(kinds[draw(3) as usize], left.region_id, other.region_id, merged)
        }
        _ => {
            let holder = ["a", "b"][draw(2) as usize].to_owned();
            if draw(3) == 0 {
                let kind = 1 + draw(2) as i32;
                return Command::Fence(Fence {
                    kind,
                    minimum: draw(1000),
                    holder_id: holder,
                    cert_generation: draw(4),
                });
            }
            let current = state.lease.clone().unwrap_or_default();
            if draw(5) == 0 {
                let command = RootCoordinatorClosureCommand {
                    kind: 1 + draw(4) as i32,
                    holder_id: holder,
                    frontiers: frontiers_of(&[(1 + draw(2) as u32, draw(1000))]),
                    cert_generation: current.cert_generation.saturating_sub(draw(2)),
                    ..Default::default()
                };
                return Command::Closure(Closure { command: Some(command) });
            }
            let digest = state.seal.as_ref().filter(|_| draw(2) == 0).map(|seal| seal.digest.clone());
            let command = RootCoordinatorLeaseCommand {
                kind: if draw(4) == 0 { LeaseKind::Release } else { LeaseKind::Issue } as i32,
                holder_id: holder,
                ttl_millis: draw(3),
                predecessor_digest: digest.unwrap_or_default(),
                handoff_frontiers: frontiers_of(&[
                    (1, draw(1000)),
                    (4, state.cluster_epoch - draw(2).min(state.cluster_epoch)),
                ]),
                ..Default::default()
            };
            return Command::Lease(Lease {
                command: Some(command),
                takeover_of_generation: current.cert_generation,
                observed_renewals: current.renewals.saturating_sub(draw(2)),
            });
        }
    };
    let expected_cluster_epoch = (draw(8) == 0).then_some(state.cluster_epoch);
    Command::Append(Append { events: vec![event], expected_cluster_epoch })
}
