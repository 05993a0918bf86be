//! The rules, in the order in which they may take what the limits leave.
//!
//! Loads are in thousandths: a replica weighs 1000, and up to about as much again per average region for its size. Operators
//! under way count as if they had ended.

use super::{Action, Board, Cause, Decision, Limits, Picture, RegionState, Verdict, merges};
use nokv_env::Instant;
use nokv_proto::meta::v1::RegionPeer;
use std::collections::BTreeMap;

/// What a replica weighs, whatever its size.
const REPLICA: u64 = 1_000;
/// A move must even out two stores by more than this.
const MARGIN: u64 = REPLICA / 2;
/// Sizes count up to this many average regions.
const SIZE_MAX: u64 = 64;

/// What should be done now, beyond what `board` has under way.
pub(crate) fn decide(picture: &Picture, board: &Board, now: Instant, limits: &Limits) -> Verdict {
    let mut rules = Rules::new(picture, board, now, limits);
    rules.replace_what_is_lost();
    rules.replace_what_is_damaged();
    rules.empty_stores_that_leave();
    rules.mend_the_number_of_replicas();
    if !limits.merge_after.is_zero() {
        rules.unite_small_neighbours();
    }
    if limits.balance {
        rules.balance(Cause::Replicas, Rules::best_move);
        rules.balance(Cause::Leaders, Rules::best_transfer);
    }
    rules.verdict
}

struct Rules<'a> {
    picture: &'a Picture,
    limits: &'a Limits,
    /// Regions that may be touched: led, at rest, without an operator.
    free: BTreeMap<u64, &'a RegionState>,
    weights: BTreeMap<u64, u64>,
    /// By store, operators under way and decisions included.
    load: BTreeMap<u64, u64>,
    leads: BTreeMap<u64, u64>,
    /// Replicas on their way to or from a store.
    snapshots: BTreeMap<u64, usize>,
    /// Operators that may still begin.
    room: usize,
    verdict: Verdict,
}

impl<'a> Rules<'a> {
    fn new(picture: &'a Picture, board: &Board, now: Instant, limits: &'a Limits) -> Self {
        let weights = weights(picture, limits);
        let mut rules = Self {
            picture,
            limits,
            free: picture
                .regions
                .iter()
                .filter(|(id, region)| region.leader.is_some() && board.is_free(**id, now))
                .map(|(id, region)| (*id, region))
                .collect(),
            weights,
            load: picture.stores.keys().map(|store| (*store, 0)).collect(),
            leads: picture.stores.keys().map(|store| (*store, 0)).collect(),
            snapshots: BTreeMap::new(),
            room: limits.operators.saturating_sub(board.running().count()),
            verdict: Verdict::default(),
        };
        for (id, region) in &picture.regions {
            for peer in &region.peers {
                *rules.load.entry(peer.store_id).or_default() +=
                    rules.weights.get(id).copied().unwrap_or(REPLICA);
            }
            if let Some(leader) = region.leader {
                *rules.leads.entry(leader.store_id).or_default() += 1;
            }
            // Of whoever's making: the limit is on what stores have to do.
            for learner in region.peers.iter().filter(|peer| region.is_learner(**peer)) {
                rules.on_its_way(learner.store_id, region);
            }
        }
        for operator in board.running() {
            if let Some(region) = picture.regions.get(&operator.region) {
                rules.count(operator.region, region, operator.action);
            }
        }
        rules
    }

    fn on_its_way(&mut self, to: u64, region: &RegionState) {
        *self.snapshots.entry(to).or_default() += 1;
        if let Some(leader) = region.leader {
            *self.snapshots.entry(leader.store_id).or_default() += 1;
        }
    }

    /// Counts `action` as if it had ended.
    fn count(&mut self, id: u64, region: &RegionState, action: Action) {
        let weight = self.weights.get(&id).copied().unwrap_or(REPLICA);
        if let Action::Lead { from, to } = action {
            let from = self.leads.entry(from.store_id).or_default();
            *from = from.saturating_sub(1);
            *self.leads.entry(to.store_id).or_default() += 1;
            return;
        }
        if let Some(target) = action.neighbour().and_then(|into| self.picture.regions.get(&into)) {
            for (store, stray) in merges::differing(region, target) {
                *self.load.entry(store).or_default() += weight;
                let load = self.load.entry(stray.store_id).or_default();
                *load = load.saturating_sub(weight);
                self.on_its_way(store, region);
            }
            return;
        }
        if let Some(store) = action.destination().filter(|store| region.peer_on(*store).is_none()) {
            *self.load.entry(store).or_default() += weight;
            self.on_its_way(store, region);
        }
        if let Action::Remove { peer } | Action::Move { peer, .. } = action
            && region.has(peer)
        {
            let load = self.load.entry(peer.store_id).or_default();
            *load = load.saturating_sub(weight);
        }
    }

    fn decide(&mut self, cause: Cause, id: u64, action: Action, reason: String) {
        let Some(region) = self.free.remove(&id) else { return };
        if self.room == 0 {
            let text = format!("region {id}: {} waits for other operators to end ({reason})", action.name());
            self.verdict.waiting.push(text);
            return;
        }
        self.room -= 1;
        if let Some(neighbour) = action.neighbour() {
            self.free.remove(&neighbour);
        }
        self.count(id, region, action);
        self.verdict.decisions.push(Decision { cause, region: id, action, reason });
    }

    /// Whether a store has as many replicas on their way as it may.
    fn is_busy(&self, store: u64) -> bool {
        self.snapshots.get(&store).copied().unwrap_or(0) >= self.limits.snapshots_per_store
    }

    /// Where a new replica of `region` goes, or why nowhere.
    fn place(&self, region: &RegionState) -> Result<u64, String> {
        if let Some(learner) = region.learners.first() {
            return Err(format!("peer {learner} is still catching up"));
        }
        let open = |store: &u64| self.picture.store(*store).takes() && region.peer_on(*store).is_none();
        let candidates: Vec<u64> = self.picture.stores.keys().copied().filter(open).collect();
        if candidates.is_empty() {
            return Err("no other store can take a replica".to_owned());
        }
        let sender = region.leader.map_or(0, |leader| leader.store_id);
        if self.is_busy(sender) {
            return Err(format!("store {sender} has enough snapshots to send"));
        }
        let best = candidates.iter().copied().filter(|store| !self.is_busy(*store));
        best.min_by_key(|store| self.load.get(store).copied())
            .ok_or_else(|| "the stores that could take a replica have enough snapshots to take in".to_owned())
    }

    /// A replica that shall not stay where it is: another one takes its place, unless there are enough without it.
    fn replace(&mut self, cause: Cause, id: u64, region: &RegionState, peer: RegionPeer, why: &str) {
        let RegionPeer { store_id, peer_id } = peer;
        if region.is_learner(peer) {
            let reason = format!("{why}; peer {peer_id} there has no vote yet");
            return self.decide(cause, id, Action::Remove { peer }, reason);
        }
        if region.voters() > self.limits.replicas {
            let reason = format!("{why}; the region has {} voters without it", region.voters() - 1);
            return self.decide(cause, id, Action::Remove { peer }, reason);
        }
        match self.place(region) {
            Ok(store) => {
                let reason =
                    format!("{why}; store {store} has the least load of those that can take its replica");
                self.decide(cause, id, Action::Move { peer, store }, reason);
            }
            // A learner that has been there for long goes first, see below.
            Err(_)
                if region.odd && region.peers.len() > self.limits.replicas && !region.learners.is_empty() => {
            }
            Err(problem) => {
                let text = format!(
                    "region {id}: its replica on store {store_id} stays for now: {why}, but {problem}"
                );
                self.verdict.waiting.push(text);
                self.free.remove(&id);
            }
        }
    }

    /// For every free region one replica that `unwanted` picks.
    fn replace_all(
        &mut self,
        cause: Cause,
        unwanted: impl Fn(&Picture, &RegionState, RegionPeer) -> bool,
        why: impl Fn(RegionPeer) -> String,
    ) {
        let picture = self.picture;
        let found: Vec<(u64, &RegionState, RegionPeer)> = self
            .free
            .iter()
            .filter_map(|(id, region)| {
                let all = region.peers.iter().filter(|peer| unwanted(picture, region, **peer));
                // A learner is in the way of every other change.
                let peer = all.min_by_key(|peer| !region.is_learner(**peer))?;
                Some((*id, *region, *peer))
            })
            .collect();
        for (id, region, peer) in found {
            self.replace(cause, id, region, peer, &why(peer));
        }
    }

    fn replace_what_is_lost(&mut self) {
        let after = self.limits.repair_after;
        self.replace_all(
            Cause::Lost,
            |picture, region, peer| {
                picture.store(peer.store_id).lost && region.silent.contains(&peer.peer_id)
            },
            |peer| format!("store {} has been down for more than {after:?}", peer.store_id),
        );
    }

    fn replace_what_is_damaged(&mut self) {
        self.replace_all(
            Cause::Damaged,
            |_, region, peer| region.quarantined.contains(&peer.peer_id),
            |peer| format!("peer {} holds something else than the other replicas", peer.peer_id),
        );
    }

    fn empty_stores_that_leave(&mut self) {
        self.replace_all(
            Cause::Leaving,
            |picture, _, peer| picture.store(peer.store_id).leaving,
            |peer| format!("store {} is being decommissioned", peer.store_id),
        );
    }

    /// Regions that have had too many or too few replicas for long.
    fn mend_the_number_of_replicas(&mut self) {
        let wanted = self.limits.replicas;
        let odd: Vec<(u64, &RegionState)> =
            self.free.iter().filter(|(_, region)| region.odd).map(|(id, region)| (*id, *region)).collect();
        for (id, region) in odd {
            let count = region.peers.len();
            let after = self.limits.bears(count);
            let why =
                format!("the region has had {count} replicas in place of {wanted} for more than {after:?}");
            if count > wanted
                && let Some(peer) = self.spare(region)
            {
                self.decide(Cause::Number, id, Action::Remove { peer }, why);
            } else if count < wanted {
                match self.place(region) {
                    Ok(store) => self.decide(Cause::Number, id, Action::Add { store }, why),
                    Err(problem) => self.verdict.waiting.push(format!("region {id}: {why}, but {problem}")),
                }
            }
        }
    }

    /// The replica that a region with too many misses least.
    fn spare(&self, region: &RegionState) -> Option<RegionPeer> {
        let worth = |peer: &&RegionPeer| {
            let load = self.load.get(&peer.store_id).copied().unwrap_or(0);
            (
                !region.is_learner(**peer),
                !region.silent.contains(&peer.peer_id),
                !region.quarantined.contains(&peer.peer_id),
                region.leader == Some(**peer),
                std::cmp::Reverse(load),
            )
        };
        region.peers.iter().min_by_key(worth).copied()
    }

    /// Whether a region is in order, so that balance may touch it.
    fn is_settled(&self, region: &RegionState) -> bool {
        region.peers.len() == self.limits.replicas
            && region.learners.is_empty()
            && region.silent.is_empty()
            && region.quarantined.is_empty()
    }

    /// Neighbours that have been small together for long become one.
    fn unite_small_neighbours(&mut self) {
        let pairs: Vec<(u64, u64)> =
            self.free.iter().filter_map(|(id, region)| Some((*id, region.small_with?))).collect();
        for (left, right) in pairs {
            // One of the two may have been decided on already.
            let (Some(one), Some(other)) = (self.free.get(&left), self.free.get(&right)) else { continue };
            if !self.is_settled(one) || !self.is_settled(other) {
                continue;
            }
            let (source, target) = merges::source_and_target((left, one), (right, other));
            let (Some(from), Some(to)) = (self.free.get(&source), self.free.get(&target)) else { continue };
            let stores = merges::differing(from, to);
            let sender = from.leader.map_or(0, |leader| leader.store_id);
            if !stores.is_empty() && self.is_busy(sender)
                || stores.iter().any(|(store, _)| !self.picture.store(*store).takes() || self.is_busy(*store))
            {
                continue;
            }
            let reason = merges::reason(source, target, (from.fill, to.fill), self.limits);
            self.decide(Cause::Small, source, Action::Merge { into: target }, reason);
        }
    }

    /// Takes what is best, one after the other: each changes what is best next.
    fn balance(&mut self, cause: Cause, best: impl Fn(&Self) -> Option<(u64, Action, String)>) {
        while self.room > 0
            && let Some((id, action, reason)) = best(self)
        {
            self.decide(cause, id, action, reason);
        }
    }

    /// The move from the fullest to the emptiest stores that evens out most.
    fn best_move(&self) -> Option<(u64, Action, String)> {
        let sources = most_first(&self.load);
        let lightest = sources.last().map_or(0, |(load, _)| *load);
        for (heavy, from) in sources {
            if heavy < lightest + REPLICA + MARGIN {
                break; // No replica weighs less, and all further stores carry less.
            }
            let store = self.picture.store(from);
            if !store.up || store.leaving {
                continue;
            }
            let here = self.free.iter().filter(|(_, region)| self.is_settled(region));
            let fitting = here.filter_map(|(id, region)| {
                let peer = region.peer_on(from)?;
                let to = self.place(region).ok()?;
                let (light, weight) = (self.load.get(&to).copied()?, self.weights.get(id).copied()?);
                heavy.checked_sub(light)?.checked_sub(weight + MARGIN)?;
                // What is left of the difference; leaders stay when others can go.
                let rest = (heavy - light).abs_diff(2 * weight);
                Some(((rest, region.leader == Some(peer)), *id, peer, to, light))
            });
            if let Some((_, id, peer, to, light)) = fitting.min_by_key(|(rank, id, ..)| (*rank, *id)) {
                let reason =
                    format!("store {from} carries {}, store {to} {}", in_regions(heavy), in_regions(light));
                return Some((id, Action::Move { peer, store: to }, reason));
            }
        }
        None
    }

    /// The first region of the store that leads most that another store could lead, which leads at least two fewer.
    fn best_transfer(&self) -> Option<(u64, Action, String)> {
        let sources = most_first(&self.leads);
        let fewest = sources.last().map_or(0, |(leads, _)| *leads);
        let can_lead = |region: &RegionState, peer: &RegionPeer| {
            let store = self.picture.store(peer.store_id);
            store.up
                && !store.leaving
                && !region.is_learner(*peer)
                && !region.silent.contains(&peer.peer_id)
                && !region.quarantined.contains(&peer.peer_id)
        };
        for (many, from) in sources {
            if many < fewest + 2 {
                break; // All further stores lead even fewer.
            }
            let led =
                self.free.iter().filter(|(_, region)| region.leader.is_some_and(|l| l.store_id == from));
            for (id, region) in led {
                let leads = |peer: &RegionPeer| self.leads.get(&peer.store_id).copied().unwrap_or(0);
                let heirs =
                    region.peers.iter().filter(|peer| can_lead(region, peer) && leads(peer) + 2 <= many);
                if let (Some(to), Some(leader)) = (heirs.min_by_key(|peer| leads(peer)), region.leader) {
                    let reason =
                        format!("store {from} leads {many} regions, store {} {}", to.store_id, leads(to));
                    return Some((*id, Action::Lead { from: leader, to: *to }, reason));
                }
            }
        }
        None
    }
}

/// What stores carry, each with its store; most first.
fn most_first(carried: &BTreeMap<u64, u64>) -> Vec<(u64, u64)> {
    let mut stores: Vec<(u64, u64)> = carried.iter().map(|(store, much)| (*much, *store)).collect();
    stores.sort_unstable_by(|a, b| b.cmp(a));
    stores
}

/// What a replica of each region weighs.
fn weights(picture: &Picture, limits: &Limits) -> BTreeMap<u64, u64> {
    let count = picture.regions.len().max(1) as u64;
    let mean = picture.regions.values().map(|region| region.bytes).sum::<u64>() / count;
    let unit = mean.max(limits.small_bytes).max(1);
    let weight = |region: &RegionState| {
        let size = u128::from(region.bytes) * u128::from(REPLICA) / u128::from(unit);
        REPLICA + u64::try_from(size).unwrap_or(u64::MAX).min(SIZE_MAX * REPLICA)
    };
    picture.regions.iter().map(|(id, region)| (*id, weight(region))).collect()
}

/// A load in words.
fn in_regions(load: u64) -> String {
    format!("{}.{} regions' worth", load / REPLICA, load % REPLICA / 100)
}
