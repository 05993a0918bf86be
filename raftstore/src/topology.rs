//! What this store did lately to the shape of its regions, for `ExecutionStatus`.
//!
//! A transition is noted where it was asked for: on the store that led the region. How far the meta-root has
//! heard of it is not noted but looked up, in the events that it has yet to hear.

use crate::pending;
use crate::region::lock;
use crate::store::Shared;
use nokv_proto::admin::v1::{
    ExecutionPublishState as Publish, ExecutionTopologyOutcome as Told, ExecutionTopologyStatus,
};
use nokv_proto::meta::v1::{RegionDescriptor, RootEvent};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use tonic::{Code, Status};

/// Transitions that are remembered.
const KEPT: usize = 64;

/// The latest transitions, newest last.
#[derive(Default)]
pub(crate) struct Topology(Mutex<VecDeque<ExecutionTopologyStatus>>);

/// How a transition is called, and what it does.
pub(crate) struct Transition {
    id: String,
    action: &'static str,
    /// Whether it changes what the meta-root knows of the region; a change of leaders does not.
    is_published: bool,
}

impl Transition {
    /// The same under a more telling name.
    pub(crate) fn called(self, action: &'static str) -> Self {
        Self { action, ..self }
    }
}

/// How it ended, as far as this store knows.
pub(crate) struct Outcome {
    told: Told,
    error: String,
}

impl Outcome {
    /// The outcome that an answer tells.
    pub(crate) fn of<T>(result: &Result<T, Status>) -> Self {
        match result {
            Ok(_) => Self { told: Told::Applied, error: String::new() },
            Err(status) => Self {
                told: match status.code() {
                    // It is in the log, or was, and may still happen.
                    Code::DeadlineExceeded | Code::Unavailable => Told::Proposed,
                    Code::Internal => Told::Failed,
                    _ => Told::Rejected,
                },
                error: status.message().to_owned(),
            },
        }
    }
}

/// The leader of a region moves.
pub(crate) fn leader(region: u64, peer: u64) -> Transition {
    Transition { id: format!("leader:{region}:{peer}"), action: "leader transfer", is_published: false }
}

/// A peer comes; its id is in the region that came out of it, when it was not given.
pub(crate) fn add(
    result: &Result<RegionDescriptor, Status>,
    region: u64,
    store: u64,
    peer: u64,
) -> Transition {
    let added =
        result.as_ref().ok().and_then(|region| region.peer_on_store(store)).map_or(peer, |new| new.peer_id);
    Transition { id: format!("peer:{region}:add:{store}:{added}"), action: "peer change", is_published: true }
}

/// A peer of `region` goes.
pub(crate) fn remove(region: &RegionDescriptor, peer: u64) -> Transition {
    let (id, store) = (region.region_id, region.peer(peer).map_or(0, |peer| peer.store_id));
    Transition { id: format!("peer:{id}:remove:{store}:{peer}"), action: "peer change", is_published: true }
}

/// A region is split; `right` is the new one, 0 when there is none.
pub(crate) fn split(region: u64, right: u64) -> Transition {
    Transition { id: format!("split:{region}:{region}:{right}"), action: "split", is_published: true }
}

/// A region is merged into a neighbour.
pub(crate) fn merge(source: u64, target: u64) -> Transition {
    Transition { id: format!("merge:{source}:{target}"), action: "merge", is_published: true }
}

/// Remembers what became of a transition.
pub(crate) fn note(shared: &Shared, transition: Transition, region_id: u64, outcome: Outcome) {
    let Transition { id, action, is_published } = transition;
    let publish = match outcome.told {
        Told::Applied | Told::Proposed if is_published => Publish::TerminalPending,
        _ => Publish::NotRequired,
    };
    let status = ExecutionTopologyStatus {
        transition_id: id,
        region_id,
        action: action.to_owned(),
        outcome: outcome.told.into(),
        publish: publish.into(),
        last_error: outcome.error,
        updated_at_unix_nano: i64::try_from(shared.env.clock.unix_millis())
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000),
        root_event_number: 0,
    };
    let mut kept = lock(&shared.topology.0);
    kept.retain(|known| known.transition_id != status.transition_id);
    kept.push_back(status);
    if kept.len() > KEPT {
        kept.pop_front();
    }
}

/// All that are remembered, newest last, and after them what else the meta-root has yet to hear.
pub(crate) fn all(shared: &Shared) -> Vec<ExecutionTopologyStatus> {
    let untold = shared.pending.all();
    let mut rows: Vec<_> = lock(&shared.topology.0).iter().cloned().collect();
    let mut shown = BTreeSet::new();
    for row in rows.iter_mut().filter(|row| row.publish() == Publish::TerminalPending) {
        let is_told_by = |event: &RootEvent| pending::subjects(event).contains(&row.region_id);
        match untold.iter().find(|(_, event)| is_told_by(event)) {
            Some((number, _)) => {
                shown.insert(*number);
                not_told(shared, *number, row);
            }
            None if row.outcome() == Told::Applied => row.set_publish(Publish::TerminalPublished),
            None => {}
        }
    }
    // Changes that others asked for, or that were made before this store started.
    for (number, event) in untold.iter().filter(|(number, _)| !shown.contains(number)) {
        let mut row = ExecutionTopologyStatus {
            transition_id: pending::transition_id(event),
            region_id: pending::subjects(event).first().copied().unwrap_or(0),
            action: pending::action(event).to_owned(),
            outcome: Told::Applied.into(),
            publish: Publish::TerminalPending.into(),
            ..ExecutionTopologyStatus::default()
        };
        not_told(shared, *number, &mut row);
        rows.push(row);
    }
    rows
}

/// The meta-root has not accepted what a row tells of; says why, if that is known.
fn not_told(shared: &Shared, number: u64, row: &mut ExecutionTopologyStatus) {
    row.root_event_number = number;
    if let Some(setback) = shared.publications.setback(number) {
        let is_blocked = setback.is_blocked(shared.env.clock.now());
        row.set_publish(if is_blocked { Publish::TerminalBlocked } else { Publish::TerminalFailed });
        row.last_error = setback.error;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_whether_it_happened() {
        let told = |code: Code| Outcome::of::<()>(&Err(Status::new(code, "why"))).told;
        assert_eq!(told(Code::FailedPrecondition), Told::Rejected);
        assert_eq!(told(Code::DeadlineExceeded), Told::Proposed);
        assert_eq!(told(Code::Internal), Told::Failed);
        assert_eq!(Outcome::of(&Ok(())).told, Told::Applied);
    }
}
