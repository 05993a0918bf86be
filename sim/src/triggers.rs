//! Faults that strike when and where something happens: the n-th time that some node votes, flushes, installs a
//! snapshot. Blind faults seldom hit the few microseconds in which a protocol is between two states; these do.
//!
//! Events are probes, chance points that fire, and the kinds of facts.

use crate::exec::{Node, lock};
use nokv_env::{Duty, Fact};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is done to the node at which the event happens, in that very moment.
pub type Act = Box<dyn FnOnce(Node) + Send>;

struct Trigger {
    event: String,
    /// How many more times it has to happen.
    left: u64,
    act: Act,
}

/// The events that faults wait for.
#[derive(Default)]
pub struct Triggers {
    armed: AtomicUsize,
    waiting: Mutex<Vec<Trigger>>,
}

impl Triggers {
    /// Runs `act` when `event` happens for the `nth` time from now on, counted from 1.
    pub fn when(&self, event: impl Into<String>, nth: u64, act: Act) {
        lock(&self.waiting).push(Trigger { event: event.into(), left: nth.max(1), act });
        self.armed.fetch_add(1, Ordering::Relaxed);
    }

    /// `event` happens at `node`.
    pub fn happened(&self, node: Node, event: &str) {
        if self.armed.load(Ordering::Relaxed) == 0 {
            return;
        }
        let due: Vec<Trigger> = lock(&self.waiting)
            .extract_if(.., |trigger| {
                let counts = trigger.event == event;
                trigger.left -= u64::from(counts);
                counts && trigger.left == 0
            })
            .collect();
        self.armed.fetch_sub(due.len(), Ordering::Relaxed);
        for trigger in due {
            (trigger.act)(node);
        }
    }

    /// Forgets everything: no fault strikes any more.
    pub fn clear(&self) {
        let forgotten = std::mem::take(&mut *lock(&self.waiting));
        self.armed.store(0, Ordering::Relaxed);
        drop(forgotten);
    }
}

/// The event that a fact is.
pub fn event(fact: &Fact) -> &'static str {
    match fact {
        Fact::Leader { .. } => "fact.leader",
        Fact::Vote { .. } => "fact.vote",
        Fact::Applied { .. } => "fact.applied",
        Fact::Installed { .. } => "fact.installed",
        Fact::Lease { .. } => "fact.lease",
        Fact::Granted { duty: Duty::Timestamps, .. } => "fact.timestamps",
        Fact::Granted { .. } => "fact.ids",
        Fact::Started { .. } => "fact.started",
        Fact::Members { .. } => "fact.members",
        Fact::Entry { .. } => "fact.entry",
        Fact::Synced { .. } => "fact.synced",
        Fact::Purged { .. } => "fact.purged",
        Fact::Promised { .. } => "fact.promised",
        Fact::Committed { .. } => "fact.committed",
        Fact::Installing { .. } => "fact.installing",
        Fact::Rows { .. } => "fact.rows",
        Fact::Removed { .. } => "fact.removed",
        Fact::ReadAsked { .. } => "fact.read_asked",
        Fact::ReadServed { .. } => "fact.read_served",
        Fact::Authority { .. } => "fact.authority",
        Fact::Shown { .. } => "fact.shown",
        Fact::Written { .. } => "fact.written",
        Fact::Regions { .. } => "fact.regions",
        Fact::Region { .. } => "fact.region",
        Fact::Accepted { .. } => "fact.accepted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU16;

    #[test]
    fn a_trigger_acts_once_at_the_right_time_and_place() {
        let (triggers, at) = (Triggers::default(), Arc::new(AtomicU16::new(0)));
        let seen = at.clone();
        triggers.when("flush", 2, Box::new(move |node| seen.store(node.0, Ordering::Relaxed)));
        triggers.happened(Node(1), "flush");
        triggers.happened(Node(2), "vote");
        assert_eq!(at.load(Ordering::Relaxed), 0);
        triggers.happened(Node(3), "flush");
        triggers.happened(Node(4), "flush");
        assert_eq!(at.load(Ordering::Relaxed), 3);
        assert_eq!(triggers.armed.load(Ordering::Relaxed), 0);
    }
}
