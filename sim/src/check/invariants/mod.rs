//! Invariants of protocols, checked at the very fact that breaks them.
//!
//! [`raft`] keeps a mirror of every peer's log as its disk must have it, and what each group has committed;
//! [`authority`] keeps who may hand out numbers, what was handed out and what clients took; [`reads`] keeps what was shown at
//! which timestamp; [`regions`] keeps which ranges regions had at which epoch. All learn from
//! facts alone and know nothing of faults: a crash shows as a peer that starts again.

mod authority;
mod entries;
mod group;
mod mirror;
mod peer;
mod raft;
mod reads;
mod regions;
#[cfg(test)]
mod tests;

use super::Violation;
use crate::exec::{Node, Place};
use nokv_env::Fact;

/// What the facts so far say.
#[derive(Debug, Default)]
pub struct Invariants {
    raft: raft::Raft,
    authority: authority::Authority,
    regions: regions::Regions,
    reads: reads::Reads,
    names: Names,
    /// No region may be left with fewer voters.
    voters_min: usize,
}

impl Invariants {
    /// From now on every region keeps at least this many voters, whoever comes and goes.
    pub fn keep_voters(&mut self, voters_min: usize) {
        self.voters_min = voters_min;
    }

    /// Gives a node the name that violations use.
    pub fn name(&mut self, node: Node, name: &str) {
        let names = &mut self.names.0;
        if names.len() <= node.index() {
            names.resize(node.index() + 1, String::new());
        }
        name.clone_into(&mut names[node.index()]);
    }

    /// The disk of a node was lost on purpose, as the protocol allows: its peers begin anew.
    pub fn forget(&mut self, node: Node) {
        self.raft.forget(node);
    }

    /// Takes in a fact that happened at `place`.
    pub fn observe(&mut self, place: Place, fact: &Fact) -> Result<(), Violation> {
        if let Fact::Members { peer, voters, .. } = fact
            && peer.domain == "region"
        {
            // A peer that waits for its first snapshot knows of nobody.
            ensure(voters.is_empty() || voters.len() >= self.voters_min, "placement", || {
                format!(
                    "region {} is left with the voters {voters:?}, fewer than {}",
                    peer.group, self.voters_min
                )
            })?;
        }
        match fact {
            Fact::Lease { .. } | Fact::Authority { .. } | Fact::Granted { .. } | Fact::Accepted { .. } => {
                self.authority.observe(place, fact, &self.names)
            }
            Fact::Shown { .. } | Fact::Written { .. } => self.reads.observe(place, fact, &self.names),
            Fact::Regions { .. } | Fact::Region { .. } => self.regions.observe(place, fact, &self.names),
            _ => self.raft.observe(place, fact, &self.names),
        }
    }
}

/// What nodes are called.
#[derive(Debug, Default)]
struct Names(Vec<String>);

impl Names {
    fn of(&self, node: Node) -> String {
        match self.0.get(node.index()) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => node.to_string(),
        }
    }
}

fn ensure(holds: bool, checker: &'static str, facts: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(checker, facts())) }
}
