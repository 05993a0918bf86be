//! Who listens to the nodes' hooks: facts go to the invariants, probes are counted, the first violation stops
//! the run. A short timeline of what matters is kept for the report.

use crate::check::Violation;
use crate::check::invariants::Invariants;
use crate::exec::{Place, lock};
use crate::trace::digest;
use crate::triggers::Triggers;
use nokv_env::Fact;
use nokv_env::task::Stop;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::Notify;

/// Lines of the timeline that are kept.
const TIMELINE_LINES_MAX: usize = 4_000;

#[derive(Default)]
struct State {
    invariants: Invariants,
    probes: BTreeMap<&'static str, u64>,
    failure: Option<(u64, Violation)>,
    timeline: Vec<(u64, String)>,
}

/// The run's observer.
pub struct Watch {
    seed: u64,
    state: Mutex<State>,
    /// Raised at the first violation.
    pub failed: Stop,
    /// Faults that wait for something to happen.
    pub triggers: Triggers,
    /// Told when a task notices that its disk has crashed.
    pub disk_crashed: Notify,
}

impl Watch {
    /// An observer for the run of `seed`.
    pub fn new(seed: u64) -> Self {
        let (failed, triggers, disk_crashed) = (Stop::new(), Triggers::default(), Notify::new());
        Self { seed, state: Mutex::default(), failed, triggers, disk_crashed }
    }

    /// The seed of the run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Counts a probe; true the first time.
    pub fn probe(&self, name: &'static str) -> bool {
        let mut state = lock(&self.state);
        let count = state.probes.entry(name).or_default();
        *count += 1;
        *count == 1
    }

    /// Checks a fact.
    pub fn fact(&self, now_ns: u64, place: Place, fact: Fact) {
        let verdict = {
            let mut state = lock(&self.state);
            if let Some(line) = headline(&fact) {
                note(&mut state, now_ns, line);
            }
            state.invariants.observe(place, &fact)
        };
        if let Err(violation) = verdict {
            self.fail(now_ns, violation);
        }
    }

    /// Adds a line to the timeline.
    pub fn note(&self, now_ns: u64, line: String) {
        note(&mut lock(&self.state), now_ns, line);
    }

    /// Records a violation, if it is the first, and raises [`Watch::failed`].
    pub fn fail(&self, now_ns: u64, violation: Violation) {
        lock(&self.state).failure.get_or_insert((now_ns, violation));
        self.failed.stop();
    }

    /// The first violation and when it happened.
    pub fn failure(&self) -> Option<(u64, Violation)> {
        lock(&self.state).failure.clone()
    }

    /// How often each probe was reached.
    pub fn probes(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.state).probes.clone()
    }

    /// Takes the timeline.
    pub fn take_timeline(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut lock(&self.state).timeline)
    }
}

fn note(state: &mut State, now_ns: u64, line: String) {
    if state.timeline.len() < TIMELINE_LINES_MAX {
        state.timeline.push((now_ns, line));
    }
}

/// Facts that people want to see in a report.
fn headline(fact: &Fact) -> Option<String> {
    match fact {
        Fact::Leader { domain, group, term, node } => {
            Some(format!("{domain} group {group}: peer {node} leads term {term}"))
        }
        Fact::Installed { domain, group, node, index, .. } => {
            Some(format!("{domain} group {group}: peer {node} installed a snapshot at index {index}"))
        }
        Fact::Lease { node, holder, generation } => {
            Some(format!("lease generation {generation} granted to {holder} (seen by root {node})"))
        }
        _ => None,
    }
}

/// A number that identifies a fact, for the trace.
pub(crate) fn fact_digest(fact: &Fact) -> u64 {
    let words: [u64; 5] = match fact {
        Fact::Leader { group, term, node, .. } => [1, *group, *term, *node, 0],
        Fact::Vote { group, term, node, candidate, .. } => [2, *group, *term, *node, *candidate],
        Fact::Applied { group, node, index, digest, .. } => [3, *group, *node, *index, *digest],
        Fact::Installed { group, node, index, term, .. } => [4, *group, *node, *index, *term],
        Fact::Timestamps { coordinator, generation, first, count } => {
            [5 ^ digest(coordinator.as_bytes()), *generation, *first, *count, 0]
        }
        Fact::Ids { coordinator, generation, first, count } => {
            [6 ^ digest(coordinator.as_bytes()), *generation, *first, *count, 0]
        }
        Fact::Lease { node, holder, generation } => [7 ^ digest(holder.as_bytes()), *node, *generation, 0, 0],
    };
    words.iter().fold(0, |hash: u64, word| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31))
}
