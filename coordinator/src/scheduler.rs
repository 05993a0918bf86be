//! Running the scheduler: a look at the cluster now and then, and orders in the answers to heartbeats.

use crate::schedule::{Board, Cause, Clocks, decide, picture};
use crate::view::View;
use crate::{Error, Shared};
use nokv_env::{ClockExt, Instant};
use nokv_proto::coordinator::v1 as pb;
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

/// Operators that are put in words.
const SHOWN: usize = 8;

/// What the scheduler remembers. Nothing of it is truth: another holder of the lease begins with an empty board.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    board: Board,
    /// They run on every coordinator, so that a new holder knows since when a store has been silent.
    clocks: Clocks,
    /// Operators by kind since the start.
    pub(crate) tally: BTreeMap<&'static str, Tally>,
}

/// What became of the operators of one kind.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) begun: u64,
    pub(crate) done: u64,
    pub(crate) cancelled: u64,
}

impl Shared {
    /// Looks and decides, for ever.
    pub(crate) async fn schedule(&self) {
        loop {
            self.env.clock.sleep(self.config.schedule.interval).await;
            self.look_and_decide();
        }
    }

    fn look_and_decide(&self) {
        let now = self.env.clock.now();
        let limits = &self.config.schedule;
        let view = self.view();
        let mut scheduler = self.scheduler();
        let picture = picture::draw(&view, &mut scheduler.clocks, now, self.config.store_down_after, limits);
        drop(view);
        let Scheduler { board, tally, .. } = &mut *scheduler;
        if self.lease().generation(now).is_none() {
            board.abandon(now, "this coordinator does not hold the lease any more");
            return;
        }
        for (operator, done) in board.settle(&picture, now, limits) {
            tracing::info!(?operator, done, "an operator has ended");
            let tally = tally.entry(operator.action.name()).or_default();
            if done {
                tally.done += 1;
                self.env.probe("coordinator.operator.done");
            } else {
                tally.cancelled += 1;
                self.env.probe("coordinator.operator.cancelled");
            }
        }
        let verdict = decide(&picture, board, now, limits);
        for decision in verdict.decisions {
            self.reached(decision.cause);
            let operator = board.begin(decision, now);
            tally.entry(operator.action.name()).or_default().begun += 1;
            tracing::info!(?operator, "an operator begins");
        }
        if !verdict.waiting.is_empty() {
            self.env.probe("coordinator.operator.waiting");
        }
        board.waiting = verdict.waiting;
    }

    fn reached(&self, cause: Cause) {
        match cause {
            Cause::Lost => self.env.probe("coordinator.repair.decided"),
            Cause::Damaged => self.env.probe("coordinator.damage.decided"),
            Cause::Leaving => self.env.probe("coordinator.emptying.decided"),
            Cause::Number => self.env.probe("coordinator.number.decided"),
            Cause::Small => self.env.probe("coordinator.merge.decided"),
            Cause::Replicas => self.env.probe("coordinator.balance.decided"),
            Cause::Leaders => self.env.probe("coordinator.leaders.decided"),
        }
    }

    /// What `store` has to do for the operators under way.
    pub(crate) fn orders(&self, view: &View, store: u64, now: Instant) -> Vec<pb::SchedulerOperation> {
        if self.lease().generation(now).is_none() {
            return Vec::new();
        }
        let down_after = self.config.store_down_after;
        let region = |id| picture::region(view, id, now, down_after);
        self.scheduler().board.orders(store, self.config.schedule.replicas, region)
    }

    /// What the scheduler does, did, and cannot do. Only the holder of the lease knows.
    pub(crate) fn operators(&self, region: u64) -> Result<pb::ListOperatorsResponse, Error> {
        let now = self.env.clock.now();
        if self.lease().generation(now).is_none() {
            return Err(Error::LeaseNotHeld(self.lease().reason()));
        }
        let scheduler = self.scheduler();
        Ok(pb::ListOperatorsResponse {
            operators: scheduler.board.records(region, now),
            waiting: scheduler.board.waiting.clone(),
        })
    }

    pub(crate) fn operators_under_way(&self) -> Option<usize> {
        self.lease().generation(self.env.clock.now())?;
        Some(self.scheduler().board.running().count())
    }

    pub(crate) fn operators_in_words(&self) -> Vec<String> {
        let Ok(listed) = self.operators(0) else { return Vec::new() };
        let newest = listed.operators.iter().take(SHOWN).map(|record| {
            let (id, kind, region) = (record.operator_id, &record.kind, record.region_id);
            format!("operator {id}, {kind} region {region}: {} ({})", record.progress, record.reason)
        });
        newest.chain(listed.waiting.iter().cloned()).collect()
    }

    /// Of each kind of operator: how many are under way, and what became of the others.
    pub(crate) fn operator_counts(&self) -> Vec<(&'static str, u64, Tally)> {
        let scheduler = self.scheduler();
        let running = |kind: &str| {
            scheduler.board.running().filter(|operator| operator.action.name() == kind).count() as u64
        };
        scheduler.tally.iter().map(|(kind, tally)| (*kind, running(kind), *tally)).collect()
    }

    fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
