//! Small clusters in which orders are carried out at once, or late, or never.

use super::board::{Step, next};
use super::*;
use nokv_env::{Instant, RngSource};
use nokv_proto::coordinator::v1 as pb;
use nokv_proto::meta::v1::RegionDescriptor;
use rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet};

const SECOND: u64 = 1_000_000_000;

/// A cluster, its scheduler, and its leaders who obey.
struct World {
    picture: Picture,
    board: Board,
    limits: Limits,
    now: Instant,
    last_peer: u64,
    moves: usize,
    /// By new peer, whose place it takes.
    places: BTreeMap<u64, u64>,
    /// Leaders have moved by themselves, perhaps to a store that has enough to send.
    shaken: bool,
}

impl World {
    /// Stores `1..=stores`, all up; regions with replicas on the given stores, led by the first.
    fn new(stores: u64, regions: &[&[u64]]) -> Self {
        let limits = Limits { cooldown: Duration::ZERO, ..Limits::default() };
        let mut world = Self {
            picture: Picture::default(),
            board: Board::default(),
            limits,
            now: Instant(0),
            last_peer: 0,
            moves: 0,
            places: BTreeMap::new(),
            shaken: false,
        };
        for store in 1..=stores {
            world.picture.stores.insert(store, StoreState { up: true, ..StoreState::default() });
        }
        for (id, stores) in (1u64..).zip(regions) {
            let peers: Vec<_> = stores.iter().map(|store| world.peer(*store)).collect();
            let leader = peers.first().copied();
            let region = RegionState { leader, peers, conf_version: 1, ..RegionState::default() };
            world.picture.regions.insert(id, region);
        }
        world
    }

    fn peer(&mut self, store_id: u64) -> RegionPeer {
        self.last_peer += 1;
        RegionPeer { store_id, peer_id: self.last_peer }
    }

    /// The store goes down for long; its peers fall silent and others lead.
    fn lose(&mut self, store: u64) {
        self.shaken = true;
        self.picture.stores.insert(store, StoreState { lost: true, ..StoreState::default() });
        for region in self.picture.regions.values_mut() {
            let Some(peer) = region.peer_on(store) else { continue };
            region.silent.insert(peer.peer_id);
            if region.leader == Some(peer) {
                region.leader = region.peers.iter().copied().find(|other| *other != peer);
            }
        }
    }

    /// One look of the scheduler; the reasons of what begins.
    fn look(&mut self) -> Vec<(u64, Action, String)> {
        self.now = Instant(self.now.0 + SECOND);
        self.board.settle(&self.picture, self.now, &self.limits);
        let verdict = decide(&self.picture, &self.board, self.now, &self.limits);
        self.board.waiting = verdict.waiting;
        let mut begun = Vec::new();
        for decision in verdict.decisions {
            begun.push((decision.region, decision.action, decision.reason.clone()));
            self.board.begin(decision, self.now);
        }
        self.check();
        begun
    }

    /// The leaders of all stores get their orders and do as they are told.
    fn obey(&mut self) {
        let stores: Vec<u64> = self.picture.stores.keys().copied().collect();
        for store in stores {
            let orders =
                self.board.orders(store, self.limits.replicas, |id| self.picture.regions.get(&id).cloned());
            for order in orders {
                self.carry_out(&order);
            }
        }
        self.check();
    }

    fn carry_out(&mut self, order: &pb::SchedulerOperation) {
        let new = self.peer(order.target_store_id);
        let region = self.picture.regions.get_mut(&order.region_id).expect("known");
        assert_eq!(order.conf_version, region.conf_version);
        match order.r#type() {
            pb::SchedulerOperationType::AddPeer => {
                assert!(self.picture.stores[&new.store_id].takes(), "a replica for store {}", new.store_id);
                region.peers.push(new);
                region.learners.insert(new.peer_id);
                if order.replaced_peer_id != 0 {
                    self.places.insert(new.peer_id, order.replaced_peer_id);
                }
                self.moves += 1;
            }
            pb::SchedulerOperationType::RemovePeer => remove(region, order.target_peer_id),
            pb::SchedulerOperationType::Merge => return self.merge(order.region_id, order.target_region_id),
            _ => {
                region.leader =
                    region.peers.iter().copied().find(|peer| peer.peer_id == order.target_peer_id);
                self.moves += 1;
            }
        }
        region.conf_version += 1;
    }

    /// The neighbour takes the region over, if both are on the same stores and nothing else is going on.
    fn merge(&mut self, source: u64, target: u64) {
        let homes = |region: &RegionState| -> BTreeSet<u64> {
            assert!(region.learners.is_empty());
            region.peers.iter().map(|peer| peer.store_id).collect()
        };
        let gone = self.picture.regions.remove(&source).expect("known");
        let heir = self.picture.regions.get_mut(&target).expect("known");
        assert_eq!(homes(&gone), homes(heir), "a merge of regions on different stores");
        assert!(gone.fill + heir.fill <= 250);
        heir.fill += gone.fill;
        self.be_neighbours();
    }

    /// All regions are neighbours, in the order of their ids; small ones have been so for long.
    fn be_neighbours(&mut self) {
        let all: Vec<(u64, RegionState)> =
            self.picture.regions.iter().map(|(id, region)| (*id, region.clone())).collect();
        for pair in all.windows(2) {
            let is_small = merges::are_small(&pair[0].1, &pair[1].1);
            let left = self.picture.regions.get_mut(&pair[0].0).expect("known");
            left.small_with = is_small.then_some(pair[1].0);
        }
        if let Some(mut last) = self.picture.regions.last_entry() {
            last.get_mut().small_with = None;
        }
    }

    fn fill(&mut self, fills: &[u64]) {
        for (region, fill) in self.picture.regions.values_mut().zip(fills) {
            region.fill = *fill;
        }
        self.be_neighbours();
    }

    /// Learners on stores that are up get their vote, and those whose place they take leave.
    fn catch_up(&mut self) {
        for region in self.picture.regions.values_mut() {
            let up: BTreeSet<u64> = region
                .peers
                .iter()
                .filter(|peer| self.picture.stores[&peer.store_id].up)
                .map(|peer| peer.peer_id)
                .collect();
            for peer in region.learners.clone().intersection(&up) {
                region.learners.remove(peer);
                if let Some(old) = self.places.remove(peer) {
                    remove(region, old);
                    region.conf_version += 2;
                }
            }
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        let mut on_their_way: BTreeMap<u64, usize> = BTreeMap::new();
        for (id, region) in &self.picture.regions {
            let stores: BTreeSet<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
            assert_eq!(stores.len(), region.peers.len(), "region {id}: two replicas on one store");
            assert!(region.voters() >= self.limits.replicas.min(3), "region {id}: {region:?}");
            for learner in region.peers.iter().filter(|peer| region.is_learner(**peer)) {
                *on_their_way.entry(learner.store_id).or_default() += 1;
                if !self.shaken {
                    *on_their_way.entry(region.leader.expect("led").store_id).or_default() += 1;
                }
            }
        }
        let most = on_their_way.values().max().copied().unwrap_or(0);
        assert!(most <= self.limits.snapshots_per_store, "{on_their_way:?}");
        assert!(self.board.running().count() <= self.limits.operators);
    }

    /// Goes on until the scheduler has nothing to do any more; fails when that takes too long.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..2_000 {
            let begun = self.look();
            self.obey();
            self.catch_up();
            quiet = if begun.is_empty() && self.board.running().count() == 0 { quiet + 1 } else { 0 };
            if quiet == 5 {
                return;
            }
        }
        panic!("it never ends: {:?}", self.board.records(0, self.now).iter().take(9).collect::<Vec<_>>());
    }

    fn counts(&self) -> BTreeMap<u64, usize> {
        let mut counts: BTreeMap<u64, usize> = self.picture.stores.keys().map(|store| (*store, 0)).collect();
        for peer in self.picture.regions.values().flat_map(|region| &region.peers) {
            *counts.entry(peer.store_id).or_default() += 1;
        }
        counts
    }

    fn leads(&self) -> BTreeMap<u64, usize> {
        let mut leads: BTreeMap<u64, usize> = self.picture.stores.keys().map(|store| (*store, 0)).collect();
        for leader in self.picture.regions.values().filter_map(|region| region.leader) {
            *leads.entry(leader.store_id).or_default() += 1;
        }
        leads
    }
}

fn remove(region: &mut RegionState, old: u64) {
    region.peers.retain(|peer| peer.peer_id != old);
    region.learners.remove(&old);
    region.silent.remove(&old);
    region.quarantined.remove(&old);
    if region.leader.is_some_and(|leader| leader.peer_id == old) {
        region.leader = region.peers.first().copied();
    }
}

fn spread(counts: &BTreeMap<u64, usize>) -> usize {
    counts.values().max().unwrap_or(&0) - counts.values().min().unwrap_or(&0)
}

#[test]
fn leaders_are_spread_until_a_difference_of_one_is_left() {
    let mut world = World::new(3, &[&[1, 2, 3][..]; 7]);
    let begun = world.look();
    assert!(begun[0].2.contains("store 1 leads 7 regions, store 2 0"), "{begun:?}");
    world.settle();
    assert_eq!(spread(&world.leads()), 1, "{:?}", world.leads());
    assert!(world.moves <= 6);
    assert_eq!(world.look(), []);
}

#[test]
fn an_empty_store_gets_its_share() {
    let mut world = World::new(4, &[&[1, 2, 3][..]; 8]);
    world.settle();
    assert_eq!(world.counts(), BTreeMap::from([(1, 6), (2, 6), (3, 6), (4, 6)]));
    assert_eq!(spread(&world.leads()), 0);
}

#[test]
fn one_large_region_weighs_as_much_as_several_small_ones() {
    let mut world = World::new(4, &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[1, 2, 4], &[1, 3, 4], &[2, 3, 4]]);
    world.picture.regions.get_mut(&1).expect("region").bytes = 6 << 30;
    let before = world.counts();
    assert_eq!(spread(&before), 2, "{before:?}");
    world.settle();
    let light = world.picture.regions[&1].peers.iter().map(|peer| peer.store_id).collect::<BTreeSet<_>>();
    let without = (1..=4).find(|store| !light.contains(store)).expect("one of four");
    assert_eq!(
        world.counts()[&without],
        *world.counts().values().max().expect("stores"),
        "{:?}",
        world.counts()
    );
}

#[test]
fn the_replicas_of_a_lost_store_are_replaced_and_only_then_removed() {
    let mut world = World::new(4, &[&[1, 2, 3][..]; 3]);
    world.limits.balance = false;
    world.picture.stores.insert(3, StoreState::default());
    assert_eq!(world.look(), [], "down, but not for long");
    world.lose(3);
    let begun = world.look();
    assert!(begun[0].2.contains("store 3 has been down for more than 1800s"), "{begun:?}");
    assert_eq!(begun.len(), world.limits.snapshots_per_store, "no more snapshots at a time for store 4");
    assert!(
        world.board.waiting[0].contains("have enough snapshots")
            || world.board.waiting[0].contains("enough snapshots to send")
    );
    world.settle();
    assert_eq!(world.counts(), BTreeMap::from([(1, 3), (2, 3), (3, 0), (4, 3)]));
}

#[test]
fn a_replica_that_differs_is_replaced_by_another_one() {
    let mut world = World::new(4, &[&[1, 2, 3]]);
    let region = world.picture.regions.get_mut(&1).expect("region");
    let sick = region.peers[1];
    region.quarantined.insert(sick.peer_id);
    let begun = world.look();
    assert_eq!(begun[0].1, Action::Move { peer: sick, store: 4 });
    assert!(begun[0].2.contains("holds something else than the other replicas"), "{begun:?}");
    world.settle();
    assert!(world.picture.regions[&1].peers.iter().all(|peer| *peer != sick));
    assert!(world.picture.regions[&1].quarantined.is_empty());
}

#[test]
fn a_store_that_only_the_coordinator_does_not_hear_keeps_its_replicas() {
    let mut world = World::new(4, &[&[1, 2, 3]]);
    world.limits.balance = false;
    world.lose(3);
    world.picture.regions.get_mut(&1).expect("region").silent.clear();
    assert_eq!(world.look(), []);
}

#[test]
fn a_lost_store_without_a_substitute_is_told_and_nothing_is_removed() {
    let mut world = World::new(3, &[&[1, 2, 3]]);
    world.lose(3);
    assert_eq!(world.look(), []);
    assert!(
        world.board.waiting[0].contains("no other store can take a replica"),
        "{:?}",
        world.board.waiting
    );
}

#[test]
fn a_decommissioned_store_ends_up_empty() {
    let mut world = World::new(5, &[&[1, 2, 3], &[1, 2, 3], &[3, 4, 5], &[2, 3, 4]]);
    world.picture.stores.get_mut(&3).expect("store").leaving = true;
    world.settle();
    assert_eq!((world.counts()[&3], world.leads()[&3]), (0, 0));
    assert_eq!(world.counts().values().sum::<usize>(), 12);
}

#[test]
fn an_operator_whose_target_goes_down_is_given_up() {
    let mut world = World::new(5, &[&[1, 2, 3]]);
    world.limits.balance = false;
    world.lose(3);
    let begun = world.look();
    let target = begun[0].1.target().expect("a target");
    world.picture.stores.insert(target, StoreState::default());
    let again = world.look();
    assert!(again[0].1.target().is_some_and(|other| other != target), "{again:?}");
    let records = world.board.records(1, world.now);
    assert!(records[1].progress.contains("is down"), "{records:?}");
    // The replica has come, and then its store is lost: it goes, and another one comes.
    world.obey();
    world.lose(again[0].1.target().expect("a target"));
    world.picture.stores.insert(target, StoreState { up: true, ..StoreState::default() });
    world.settle();
    let homes: BTreeSet<u64> = world.picture.regions[&1].peers.iter().map(|peer| peer.store_id).collect();
    assert_eq!(homes, BTreeSet::from([1, 2, target]));
}

#[test]
fn regions_get_and_lose_replicas_until_they_have_the_wanted_number() {
    let mut world = World::new(5, &[&[1, 2, 3, 4], &[1, 2, 3]]);
    world.limits.balance = false;
    assert_eq!(world.look(), [], "somebody may be at it by hand");
    world.picture.regions.get_mut(&1).expect("region").odd = true;
    let begun = world.look();
    assert!(matches!(begun[0].1, Action::Remove { .. }), "{begun:?}");
    assert!(begun[0].2.contains("4 replicas in place of 3"), "{begun:?}");
    world.settle();
    assert_eq!(world.picture.regions[&1].peers.len(), 3);
    let (few, many) = (world.limits.bears(2), world.limits.bears(4));
    assert!(few < many, "too few replicas are the greater danger: {few:?}, {many:?}");
}

#[test]
fn a_learner_that_never_catches_up_is_not_in_the_way_for_ever() {
    let mut world = World::new(5, &[&[1, 2, 3]]);
    world.limits.balance = false;
    let new = world.peer(4);
    let region = world.picture.regions.get_mut(&1).expect("region");
    region.peers.push(new);
    region.learners.insert(new.peer_id);
    world.picture.stores.get_mut(&3).expect("store").leaving = true;
    assert_eq!(world.look(), [], "it may catch up yet");
    assert!(world.board.waiting[0].contains("still catching up"), "{:?}", world.board.waiting);
    world.picture.regions.get_mut(&1).expect("region").odd = true;
    assert_eq!(world.look()[0].1, Action::Remove { peer: new });
}

#[test]
fn small_neighbours_come_to_the_same_stores_and_become_one() {
    let mut world = World::new(5, &[&[1, 2, 3], &[3, 4, 5], &[1, 2, 4]]);
    world.limits.balance = false;
    world.fill(&[30, 90, 400]);
    let begun = world.look();
    assert_eq!(begun.len(), 1, "{begun:?}");
    assert_eq!((begun[0].0, begun[0].1), (1, Action::Merge { into: 2 }), "the smaller one goes");
    assert!(begun[0].2.contains("now 30 and 90"), "{begun:?}");
    assert!(!world.board.is_free(2, world.now), "nobody moves the target meanwhile");
    world.settle();
    assert_eq!(world.picture.regions.keys().copied().collect::<Vec<_>>(), [2, 3]);
    assert_eq!((world.moves, world.picture.regions[&2].fill), (2, 120));
    let record = &world.board.records(1, world.now)[0];
    assert_eq!((record.kind.as_str(), record.state()), ("merge-region", pb::OperatorState::Done));
}

#[test]
fn halves_of_a_split_and_regions_of_unknown_size_are_let_alone() {
    for fills in [[500, 500], [0, 1], [125, 126]] {
        let mut world = World::new(3, &[&[1, 2, 3][..]; 2]);
        world.limits.balance = false;
        world.fill(&fills);
        assert_eq!(world.look(), [], "{fills:?}");
    }
    let mut never = World::new(3, &[&[1, 2, 3][..]; 2]);
    (never.limits.balance, never.limits.merge_after) = (false, Duration::ZERO);
    never.fill(&[1, 1]);
    assert_eq!(never.look(), []);
}

#[test]
fn a_merge_makes_way_for_repair() {
    let mut world = World::new(4, &[&[1, 2, 3], &[1, 2, 4]]);
    world.limits.balance = false;
    world.fill(&[1, 2]);
    assert_eq!(world.look()[0].1, Action::Merge { into: 2 });
    world.lose(3);
    assert!(world.look().iter().all(|(region, ..)| *region == 1), "at once the lost replica is replaced");
    assert!(world.board.records(1, world.now).iter().any(|record| record.progress.contains("store 3")));
    world.fill(&[100, 200]);
    world.settle();
    assert_eq!(world.counts(), BTreeMap::from([(1, 2), (2, 2), (3, 0), (4, 2)]));
}

#[test]
fn neighbours_touch() {
    let region = |region_id, start_key: &'static str, end_key: &'static str| RegionDescriptor {
        region_id,
        start_key: start_key.into(),
        end_key: end_key.into(),
        ..RegionDescriptor::default()
    };
    let all = [region(1, "m", "t"), region(2, "", "m"), region(3, "u", "")];
    assert_eq!(merges::neighbours(all.iter()), BTreeMap::from([(2, 1)]));
}

#[test]
fn the_next_order_follows_from_the_region_alone() {
    let world = World::new(4, &[&[1, 2, 3]]);
    let mut region = world.picture.regions[&1].clone();
    let action = Action::Move { peer: region.peers[2], store: 4 };
    let kind = |region: &RegionState| match next(1, action, region, None, 3) {
        Step::Order(order) => order.r#type(),
        _ => pb::SchedulerOperationType::None,
    };
    let asked = next(1, action, &region, None, 3);
    assert!(matches!(asked, Step::Order(order) if order.replaced_peer_id == region.peers[2].peer_id));
    region.peers.push(RegionPeer { store_id: 4, peer_id: 9 });
    region.learners.insert(9);
    assert!(
        matches!(next(1, action, &region, None, 3), Step::Wait(_)),
        "no peer goes before the new one votes"
    );
    region.learners.clear();
    assert_eq!(kind(&region), pb::SchedulerOperationType::RemovePeer, "it came by other hands");
    region.learners.insert(region.peers[2].peer_id);
    assert!(matches!(next(1, action, &region, None, 3), Step::Wait(_)), "the leader sees to that by itself");
    region.learners.clear();
    region.peers.remove(2);
    assert_eq!(next(1, action, &region, None, 3), Step::Done);
    region.peers.pop();
    assert!(matches!(next(1, action, &region, None, 3), Step::Void(_)), "somebody else was at it");
    region.leader = None;
    assert!(matches!(next(1, action, &region, None, 3), Step::Wait(_)));
}

/// Random clusters under random losses: always a replica a store at most, never fewer voters than wanted, all limits kept
/// (see [`World::check`]); and it ends, with every replica where it may be and everything even.
#[test]
fn any_cluster_comes_to_rest_with_its_replicas_where_they_belong() {
    for seed in 0..300 {
        let mut rng = RngSource::new(seed, 1).stream("schedule");
        let mut below = |bound: u64| u64::from(rng.next_u32()) % bound;
        let stores = 4 + below(4);
        let regions: Vec<Vec<u64>> = (0..=below(12))
            .map(|_| {
                let first = 1 + below(stores);
                (0..3).map(|step| 1 + (first + step - 1) % stores).collect()
            })
            .collect();
        let regions: Vec<&[u64]> = regions.iter().map(Vec::as_slice).collect();
        let mut world = World::new(stores, &regions);
        for region in world.picture.regions.values_mut() {
            region.bytes = below(4) * (below(64) << 20);
            region.fill = below(3) * below(150);
        }
        world.be_neighbours();
        let (lost, leaving) = (1 + below(stores), 1 + below(stores));
        let hurts = below(4);
        for _ in 0..below(6) {
            world.look();
            world.obey();
        }
        if hurts % 2 == 1 {
            world.lose(lost);
        }
        if hurts / 2 == 1 && stores > 4 {
            world.picture.stores.get_mut(&leaving).expect("store").leaving = true;
        }
        world.settle();
        let counts = world.counts();
        for (store, state) in &world.picture.stores {
            assert!(state.takes() || counts[store] == 0, "seed {seed}: store {store} has {counts:?}");
        }
        assert_eq!(counts.values().sum::<usize>(), 3 * world.picture.regions.len(), "seed {seed}");
        let mut left = world.picture.regions.values();
        assert!(left.all(|region| region.small_with.is_none()), "seed {seed}: small neighbours are left");
        let moves = world.moves;
        world.settle();
        assert_eq!(world.moves, moves, "seed {seed}: it rests");
    }
}
