//! Invariants of protocols, checked at the very fact that breaks them.
//!
//! - one leader a term and group; no peer votes for two candidates in a term, restarts included;
//! - all peers apply the same entry at an index; one life of a peer applies indexes in order, each once, and
//!   after a restart goes on at or behind the place where another peer was (it may have died between the
//!   durable end of an application or installation and the fact that tells of it);
//! - a lease generation has one holder; timestamps and ids are handed out once, whoever hands them out.

use super::Violation;
use crate::exec::Place;
use nokv_env::Fact;
use std::collections::BTreeMap;

type Group = (&'static str, u64);

/// A peer's progress in the log.
#[derive(Debug, Clone, Copy)]
struct Progress {
    place: Place,
    applied: u64,
    /// Highest ever, over all lives.
    highest: u64,
}

/// What the facts so far say.
#[derive(Debug, Default)]
pub struct Invariants {
    leaders: BTreeMap<(Group, u64), u64>,
    votes: BTreeMap<(Group, u64, u64), u64>,
    entries: BTreeMap<(Group, u64), (u64, u64, u64)>,
    progress: BTreeMap<(Group, u64), Progress>,
    leases: BTreeMap<u64, String>,
    timestamps: Ranges,
    ids: Ranges,
}

impl Invariants {
    /// Takes in a fact that happened at `place`.
    pub fn observe(&mut self, place: Place, fact: &Fact) -> Result<(), Violation> {
        match fact {
            Fact::Leader { domain, group, term, node } => {
                let first = *self.leaders.entry(((*domain, *group), *term)).or_insert(*node);
                ensure(first == *node, "raft", || {
                    format!("{domain} group {group}: peers {first} and {node} both lead term {term}")
                })
            }
            Fact::Vote { domain, group, term, node, candidate } => {
                let first = *self.votes.entry(((*domain, *group), *node, *term)).or_insert(*candidate);
                ensure(first == *candidate, "raft", || {
                    format!(
                        "{domain} group {group}: peer {node} voted for {first} and {candidate} in term {term}"
                    )
                })
            }
            Fact::Applied { domain, group, node, index, term, digest } => {
                self.in_order(place, (*domain, *group), *node, *index)?;
                let entry = (*term, *digest, *node);
                let first = *self.entries.entry(((*domain, *group), *index)).or_insert(entry);
                ensure((first.0, first.1) == (*term, *digest), "raft", || {
                    format!(
                        "{domain} group {group}: peer {} applied {:#x} of term {} at index {index}, peer {node} {digest:#x} of term {term}",
                        first.2, first.1, first.0
                    )
                })
            }
            Fact::Installed { domain, group, node, index, .. } => {
                let progress = self.progress.entry(((*domain, *group), *node)).or_insert(Progress {
                    place,
                    applied: 0,
                    highest: 0,
                });
                let backwards = progress.place == place && *index < progress.applied;
                let from = progress.applied;
                *progress = Progress { place, applied: *index, highest: progress.highest.max(*index) };
                ensure(!backwards, "raft", || {
                    format!(
                        "{domain} group {group}: peer {node} went back from {from} to a snapshot at {index}"
                    )
                })
            }
            Fact::Lease { holder, generation, .. } => {
                let first = self.leases.entry(*generation).or_insert_with(|| holder.clone());
                ensure(first == holder, "authority", || {
                    format!("lease generation {generation} belongs to {first} and to {holder}")
                })
            }
            Fact::Timestamps { coordinator, generation, first, count } => {
                self.timestamps.take("timestamps", coordinator, *generation, *first, *count)
            }
            Fact::Ids { coordinator, generation, first, count } => {
                self.ids.take("ids", coordinator, *generation, *first, *count)
            }
        }
    }

    fn in_order(&mut self, place: Place, group: Group, peer: u64, index: u64) -> Result<(), Violation> {
        let progress =
            self.progress.entry((group, peer)).or_insert(Progress { place, applied: index - 1, highest: 0 });
        let (before, same_life) = (*progress, progress.place == place);
        *progress = Progress { place, applied: index, highest: before.highest.max(index) };
        let fine = if same_life {
            index == before.applied + 1
        } else {
            index <= before.highest + 1 || self.entries.contains_key(&(group, index - 1))
        };
        ensure(fine, "raft", || {
            format!(
                "{} group {}: peer {peer} applied index {index} after {}{}",
                group.0,
                group.1,
                if same_life { before.applied } else { before.highest },
                if same_life { "" } else { " (before its restart)" }
            )
        })
    }
}

/// Numbers handed out, as disjoint ranges: first → (end, who).
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, (u64, String)>);

impl Ranges {
    fn take(
        &mut self,
        checker: &'static str,
        coordinator: &str,
        generation: u64,
        first: u64,
        count: u64,
    ) -> Result<(), Violation> {
        let end = first + count;
        let overlap = self.0.range(..end).next_back().filter(|(_, (other_end, _))| *other_end > first);
        if let Some((other_first, (other_end, who))) = overlap {
            return Err(Violation::new(
                checker,
                format!(
                    "{coordinator} (generation {generation}) handed out {first}..{end}, {who} had handed out {other_first}..{other_end}"
                ),
            ));
        }
        let who = format!("{coordinator} (generation {generation})");
        // Neighbours of one owner grow together: the map stays small.
        if let Some((_, (other_end, owner))) = self.0.range_mut(..first).next_back()
            && *other_end == first
            && *owner == who
        {
            *other_end = end;
        } else {
            self.0.insert(first, (end, who));
        }
        Ok(())
    }
}

fn ensure(holds: bool, checker: &'static str, facts: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(checker, facts())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Node;

    const FIRST_LIFE: Place = Place { node: Node(1), life: 0 };
    const SECOND_LIFE: Place = Place { node: Node(1), life: 1 };

    fn applied(node: u64, index: u64, digest: u64) -> Fact {
        Fact::Applied { domain: "region", group: 1, node, index, term: 1, digest }
    }

    fn outcome(facts: &[(Place, Fact)]) -> Result<(), Violation> {
        let mut invariants = Invariants::default();
        facts.iter().try_for_each(|(place, fact)| invariants.observe(*place, fact))
    }

    #[test]
    fn a_term_has_one_leader_and_a_peer_one_vote() {
        let leader = |term, node| (FIRST_LIFE, Fact::Leader { domain: "root", group: 1, term, node });
        assert_eq!(outcome(&[leader(1, 1), leader(2, 2), leader(2, 2)]), Ok(()));
        assert!(outcome(&[leader(1, 1), leader(1, 2)]).is_err());
        let vote =
            |place, candidate| (place, Fact::Vote { domain: "root", group: 1, term: 4, node: 1, candidate });
        assert_eq!(outcome(&[vote(FIRST_LIFE, 2), vote(SECOND_LIFE, 2)]), Ok(()));
        assert!(outcome(&[vote(FIRST_LIFE, 2), vote(SECOND_LIFE, 3)]).is_err());
    }

    #[test]
    fn logs_match_and_are_applied_in_order() {
        let good =
            [(FIRST_LIFE, applied(1, 1, 7)), (FIRST_LIFE, applied(1, 2, 8)), (SECOND_LIFE, applied(1, 1, 7))];
        assert_eq!(outcome(&good), Ok(()));
        assert!(
            outcome(&[(FIRST_LIFE, applied(1, 1, 7)), (FIRST_LIFE, applied(2, 1, 8))]).is_err(),
            "diverged"
        );
        assert!(outcome(&[(FIRST_LIFE, applied(1, 1, 7)), (FIRST_LIFE, applied(1, 3, 8))]).is_err(), "gap");
        assert!(outcome(&[(FIRST_LIFE, applied(1, 1, 7)), (FIRST_LIFE, applied(1, 1, 7))]).is_err(), "twice");
        assert!(outcome(&[(FIRST_LIFE, applied(1, 1, 7)), (SECOND_LIFE, applied(1, 4, 7))]).is_err(), "gap");
    }

    #[test]
    fn numbers_are_handed_out_once() {
        let ids = |first, count| {
            (FIRST_LIFE, Fact::Ids { coordinator: "c".to_owned(), generation: 1, first, count })
        };
        assert_eq!(outcome(&[ids(10, 5), ids(15, 5), ids(1, 9)]), Ok(()));
        assert!(outcome(&[ids(10, 5), ids(14, 1)]).is_err());
        assert!(outcome(&[ids(10, 5), ids(9, 2)]).is_err());
        assert!(outcome(&[ids(10, 5), ids(9, 20)]).is_err());
    }
}
