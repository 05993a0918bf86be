//! Operators under way and lately ended, and what the next order of each is.

use super::{Action, Decision, Limits, Picture, RegionState, merges};
use nokv_env::Instant;
use nokv_proto::coordinator::v1 as pb;
use nokv_proto::meta::v1::RegionPeer;
use std::collections::{BTreeMap, VecDeque};

/// Ended operators that are remembered.
const ENDED_MAX: usize = 256;

/// An operator.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) id: u64,
    pub(crate) region: u64,
    pub(crate) action: Action,
    reason: String,
    since: Instant,
    progress: String,
    /// When it ended, and whether it did what it should.
    ended: Option<(Instant, bool)>,
}

/// What is next for an operator.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Nothing: the region is as it should be.
    Done,
    /// The leader has to do this.
    Order(pb::SchedulerOperation),
    /// Time has to pass.
    Wait(String),
    /// It makes no sense any more.
    Void(String),
}

/// What follows for `action` from the region, and the other one that has a part in it, as their leaders report them.
pub(crate) fn next(
    region_id: u64,
    action: Action,
    region: &RegionState,
    neighbour: Option<&RegionState>,
    replicas: usize,
) -> Step {
    let Some(leader) = region.leader else { return Step::Wait("nobody is known to lead the region".into()) };
    let order = |kind: pb::SchedulerOperationType, target: RegionPeer| pb::SchedulerOperation {
        r#type: kind.into(),
        region_id,
        source_peer_id: leader.peer_id,
        target_peer_id: target.peer_id,
        target_store_id: target.store_id,
        conf_version: region.conf_version,
        replaced_peer_id: 0,
        target_region_id: 0,
    };
    let add = |store_id, replaced_peer_id| {
        let add = order(pb::SchedulerOperationType::AddPeer, RegionPeer { store_id, peer_id: 0 });
        Step::Order(pb::SchedulerOperation { replaced_peer_id, ..add })
    };
    let remove = |peer| Step::Order(order(pb::SchedulerOperationType::RemovePeer, peer));
    let catches_up =
        |peer: RegionPeer| Step::Wait(format!("peer {} on store {} catches up", peer.peer_id, peer.store_id));
    match action {
        Action::Merge { into } => merges::next(region, neighbour, |kind| pb::SchedulerOperation {
            target_region_id: if kind == pb::SchedulerOperationType::Merge { into } else { 0 },
            ..order(kind, RegionPeer::default())
        }),
        Action::Lead { to, .. } if leader == to => Step::Done,
        Action::Lead { to, .. } if !region.has(to) || region.is_learner(to) => {
            Step::Void(format!("peer {} has no vote any more", to.peer_id))
        }
        Action::Lead { to, .. } => Step::Order(order(pb::SchedulerOperationType::LeaderTransfer, to)),
        Action::Add { store } => match region.peer_on(store) {
            Some(peer) if region.is_learner(peer) => catches_up(peer),
            Some(_) => Step::Done,
            None if region.peers.len() >= replicas => Step::Void("the region has enough replicas".into()),
            None => add(store, 0),
        },
        Action::Remove { peer } if !region.has(peer) => Step::Done,
        Action::Remove { peer } if region.is_learner(peer) => remove(peer),
        Action::Remove { .. } if region.voters() <= replicas => {
            Step::Void("the region has no replica to spare any more".into())
        }
        Action::Remove { peer } => remove(peer),
        Action::Move { peer, store } => match (region.peer_on(store), region.has(peer)) {
            (Some(new), _) if region.is_learner(new) => catches_up(new),
            (Some(_), false) => Step::Done,
            (Some(_), true) if region.is_learner(peer) => {
                Step::Wait(format!("peer {} has lost its vote and leaves", peer.peer_id))
            }
            (Some(_), true) if region.voters() <= replicas => {
                Step::Void("the region has no replica to spare any more".into())
            }
            (Some(_), true) => remove(peer),
            (None, true) if region.is_learner(peer) => {
                Step::Void("it has no vote to pass on any more".into())
            }
            (None, true) => add(store, peer.peer_id),
            (None, false) => Step::Void(format!("peer {} has left by other hands", peer.peer_id)),
        },
    }
}

/// All operators that the lease holder remembers.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// By region: one at a time.
    running: BTreeMap<u64, Operator>,
    /// Newest last.
    ended: VecDeque<Operator>,
    last_id: u64,
    /// When a region may be touched again.
    rests_until: BTreeMap<u64, Instant>,
    /// What should be done and cannot be, as of the last look.
    pub(crate) waiting: Vec<String>,
}

impl Board {
    /// Operators under way.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Operator> {
        self.running.values()
    }

    /// Whether `region` may get an operator.
    pub(crate) fn is_free(&self, region: u64, now: Instant) -> bool {
        let takes_part = |operator: &Operator| operator.action.neighbour() == Some(region);
        !self.running.contains_key(&region)
            && !self.running.values().any(takes_part)
            && self.rests_until.get(&region).is_none_or(|until| *until <= now)
    }

    /// Begins what was decided.
    pub(crate) fn begin(&mut self, decision: Decision, now: Instant) -> Operator {
        self.last_id += 1;
        let Decision { region, action, reason, .. } = decision;
        let operator = Operator {
            id: self.last_id,
            region,
            action,
            reason,
            since: now,
            progress: "decided".to_owned(),
            ended: None,
        };
        self.running.insert(region, operator.clone());
        operator
    }

    /// Looks how far each operator is. Returns those that have ended just now, with what became of them.
    pub(crate) fn settle(
        &mut self,
        picture: &Picture,
        now: Instant,
        limits: &Limits,
    ) -> Vec<(Operator, bool)> {
        let mut ended = Vec::new();
        for (id, operator) in &mut self.running {
            let action = operator.action;
            let neighbour = action.neighbour().and_then(|id| picture.regions.get(&id));
            let step = match picture.regions.get(id) {
                // Nothing else ends a region that has a neighbour.
                None if neighbour.is_some() => Step::Done,
                None => Step::Void("the region is gone".to_owned()),
                Some(region) => match next(*id, action, region, neighbour, limits.replicas) {
                    Step::Done => Step::Done,
                    _ if now.since(operator.since) >= limits.give_up_after => {
                        Step::Void(format!("not done in time: {}", operator.progress))
                    }
                    step => blocked(action, region, neighbour, picture).map_or(step, Step::Void),
                },
            };
            match step {
                Step::Done => ended.push((*id, true, "done".to_owned())),
                Step::Void(why) => ended.push((*id, false, why)),
                Step::Order(order) => operator.progress = format!("asked the leader: {}", words(&order)),
                Step::Wait(what) => operator.progress = what,
            }
        }
        ended
            .into_iter()
            .filter_map(|(id, done, how)| {
                let operator = self.end(id, now, done, how)?;
                for region in std::iter::once(id).chain(operator.action.neighbour()) {
                    self.rests_until.insert(region, now + limits.cooldown);
                }
                Some((operator, done))
            })
            .collect()
    }

    fn end(&mut self, region: u64, now: Instant, done: bool, how: String) -> Option<Operator> {
        let operator = Operator { progress: how, ended: Some((now, done)), ..self.running.remove(&region)? };
        self.ended.push_back(operator.clone());
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
        self.rests_until.retain(|_, until| *until > now);
        Some(operator)
    }

    /// Gives all operators up: somebody else decides now.
    pub(crate) fn abandon(&mut self, now: Instant, why: &str) {
        let regions: Vec<u64> = self.running.keys().copied().collect();
        for region in regions {
            self.end(region, now, false, why.to_owned());
        }
        self.waiting.clear();
    }

    /// What the leaders on `store` have to do now.
    pub(crate) fn orders(
        &self,
        store: u64,
        replicas: usize,
        region: impl Fn(u64) -> Option<RegionState>,
    ) -> Vec<pb::SchedulerOperation> {
        let order = |operator: &Operator| {
            let state = region(operator.region)?;
            state.leader.filter(|leader| leader.store_id == store)?;
            let neighbour = operator.action.neighbour().and_then(&region);
            match next(operator.region, operator.action, &state, neighbour.as_ref(), replicas) {
                Step::Order(order) => Some(order),
                Step::Done | Step::Wait(_) | Step::Void(_) => None,
            }
        };
        self.running.values().filter_map(order).collect()
    }

    /// For people, newest first; region 0: of all.
    pub(crate) fn records(&self, region: u64, now: Instant) -> Vec<pb::OperatorRecord> {
        let all = self.running.values().chain(&self.ended);
        let mut records: Vec<_> = all
            .filter(|operator| region == 0 || operator.region == region)
            .map(|operator| record(operator, now))
            .collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.operator_id));
        records
    }
}

/// Why the operator cannot go on, if so: its new replica has not come and its store takes none now, or never will.
fn blocked(
    action: Action,
    region: &RegionState,
    neighbour: Option<&RegionState>,
    picture: &Picture,
) -> Option<String> {
    if let Some(neighbour) = neighbour {
        return merges::hindered(region, neighbour, picture);
    }
    let target = action.target()?;
    let store = picture.store(target);
    let problem = match region.peer_on(target) {
        Some(_) if store.lost => "is lost",
        Some(_) if matches!(action, Action::Lead { .. }) && !store.up => "is down",
        Some(_) => return None,
        None if !store.up => "is down",
        None if store.leaving => "is being decommissioned",
        None if store.full => "is full",
        None => return None,
    };
    Some(format!("store {target} {problem}"))
}

fn words(order: &pb::SchedulerOperation) -> String {
    match order.r#type() {
        pb::SchedulerOperationType::AddPeer if order.replaced_peer_id != 0 => {
            format!(
                "add a peer on store {} in place of peer {}",
                order.target_store_id, order.replaced_peer_id
            )
        }
        pb::SchedulerOperationType::AddPeer => format!("add a peer on store {}", order.target_store_id),
        pb::SchedulerOperationType::RemovePeer => {
            format!("remove peer {} on store {}", order.target_peer_id, order.target_store_id)
        }
        pb::SchedulerOperationType::Merge => format!("merge it into region {}", order.target_region_id),
        _ => format!("let peer {} on store {} lead", order.target_peer_id, order.target_store_id),
    }
}

fn record(operator: &Operator, now: Instant) -> pb::OperatorRecord {
    let state = match operator.ended {
        None => pb::OperatorState::Running,
        Some((_, true)) => pb::OperatorState::Done,
        Some((_, false)) => pb::OperatorState::Cancelled,
    };
    let took = operator.ended.map(|(at, _)| at.since(operator.since).as_millis() as u64);
    pb::OperatorRecord {
        operator_id: operator.id,
        kind: operator.action.name().to_owned(),
        region_id: operator.region,
        from_store_id: operator.action.source().unwrap_or(0),
        to_store_id: operator.action.target().unwrap_or(0),
        reason: operator.reason.clone(),
        state: state.into(),
        progress: operator.progress.clone(),
        age_ms: now.since(operator.since).as_millis() as u64,
        took_ms: took.unwrap_or(0),
    }
}
