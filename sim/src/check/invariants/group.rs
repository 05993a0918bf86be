//! One raft group: the rules of [`super::raft`], each next to the fact that could break it.

use super::entries::{Entries, Entry};
use super::mirror::Mirror;
use super::peer::Peer;
use crate::exec::{Node, Place};
use nokv_env::{Fact, Promise};
use std::collections::{BTreeMap, BTreeSet};

type Outcome = Result<(), String>;

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(broken()) }
}

/// What is known of a group.
#[derive(Debug, Default)]
pub(super) struct Group {
    entries: Entries,
    peers: Vec<Peer>,
    /// By term.
    leaders: BTreeMap<u64, u64>,
    /// What the leader of each term has committed.
    commits: BTreeMap<u64, u64>,
    /// Everybody who ever had a vote.
    voters: BTreeSet<u64>,
    /// By applied index: what the rows add up to, and the peer that said so first.
    rows: BTreeMap<u64, (u64, u64)>,
}

impl Group {
    /// Where each peer is.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, Node)> {
        self.peers.iter().map(|peer| (peer.node, peer.place.node))
    }

    /// The peers of `node` begin anew.
    pub(super) fn forget(&mut self, node: Node) {
        self.peers.retain(|peer| peer.place.node != node);
    }

    /// Takes in what `node` tells; says which rule it breaks.
    pub(super) fn observe(&mut self, node: u64, place: Place, fact: &Fact) -> Outcome {
        let at = match self.peers.iter().position(|peer| peer.node == node) {
            Some(at) => at,
            None => {
                self.peers.push(Peer::new(node, place));
                self.peers.len() - 1
            }
        };
        match *fact {
            Fact::Started { base, base_term, last, term, vote, commit, applied, durable, .. } => {
                let found = Found { base, base_term, last, term, vote, commit, applied, durable };
                self.started(at, place, &found)
            }
            Fact::Members { ref voters, ref outgoing, .. } => self.configured(at, voters, outgoing),
            Fact::Entry { index, term, digest, .. } => self.written(at, index, term, digest),
            Fact::Synced { last, term, vote, .. } => self.synced(at, last, term, vote),
            Fact::Purged { index, durable, .. } => self.purged(at, index, durable),
            Fact::Promised { promise, .. } => self.promised(at, promise),
            Fact::Leader { term, .. } => self.leads(at, term),
            Fact::Vote { term, candidate, .. } => self.promised(at, Promise::Vote { term, candidate }),
            Fact::Committed { index, entry_term, term, .. } => self.committed(at, index, entry_term, term),
            Fact::Applied { index, term, digest, .. } => self.applied(at, index, term, digest),
            Fact::Installing { index, .. } => {
                self.peers[at].installing = index;
                Ok(())
            }
            Fact::Installed { index, term, .. } => self.installed(at, index, term),
            Fact::Rows { index, digest, .. } => self.shows(at, index, digest),
            Fact::Removed { .. } => {
                self.peers.remove(at);
                Ok(())
            }
            Fact::ReadAsked { read, .. } => {
                self.peers[at].read_asked(read, self.entries.committed());
                Ok(())
            }
            Fact::ReadServed { read, applied, term, .. } => self.read_served(at, read, applied, term),
            _ => Ok(()),
        }
    }

    /// Whoever gets a vote after the group's birth has a log already: an empty peer in a majority is one peer less.
    fn configured(&mut self, at: usize, voters: &[u64], outgoing: &[u64]) -> Outcome {
        let has_log = |voter: &u64| self.peers.iter().any(|peer| peer.node == *voter && peer.log.last() > 0);
        let known = |voter: &u64| self.voters.is_empty() || self.voters.contains(voter);
        if let Some(empty) = voters.iter().find(|voter| !known(voter) && !has_log(voter)) {
            let node = self.peers[at].node;
            return Err(format!("peer {node} gives peer {empty} a vote, and peer {empty} is still empty"));
        }
        self.voters.extend(voters);
        self.peers[at].voters = voters.to_vec();
        self.peers[at].outgoing = outgoing.to_vec();
        Ok(())
    }

    /// A life begins: the disk must have what was synced, and nothing may be applied that was not.
    fn started(&mut self, at: usize, place: Place, found: &Found) -> Outcome {
        let peer = &mut self.peers[at];
        let node = peer.node;
        let &Found { base, last, term, vote, commit, applied, durable, .. } = found;
        ensure(last >= peer.durable, || {
            format!(
                "peer {node} had synced its log up to {}, and starts again with a log up to {last}",
                peer.durable
            )
        })?;
        check_hard(peer, term, vote, "starts again with")?;
        let known = peer.log.last() > 0 || peer.highest > 0;
        let reachable = (peer.highest + 1).max(peer.installing).max(if known { 0 } else { applied });
        ensure(applied <= reachable, || {
            let highest = peer.highest;
            format!(
                "peer {node} had applied {highest} at most, and starts again as if {applied} were applied"
            )
        })?;
        ensure(applied <= durable, || {
            format!("peer {node} starts as if {applied} were applied, and its machine has {durable}")
        })?;
        ensure(applied <= commit && commit <= last, || {
            format!("peer {node} starts with applied {applied}, commit {commit}, last {last}")
        })?;
        peer.begin(place, Mirror::new(base, found.base_term), commit, applied);
        self.entries.begin(base);
        Ok(())
    }

    fn written(&mut self, at: usize, index: u64, term: u64, digest: u64) -> Outcome {
        let peer = &mut self.peers[at];
        let node = peer.node;
        if let Some(before) = &peer.before {
            let kept = before.term(index).filter(|_| index <= peer.durable);
            ensure(kept.is_none_or(|kept| kept == term), || {
                let kept = kept.unwrap_or_default();
                format!(
                    "peer {node} had synced entry {index} of term {kept}, and starts again with one of term {term}"
                )
            })?;
        } else {
            let old = peer.log.term(index);
            let committed = self.entries.committed_at(index).map(|entry| entry.term);
            ensure(old == Some(term) || old.is_none() || old != committed, || {
                let old = old.unwrap_or_default();
                format!(
                    "peer {node} replaces the committed entry {index} of term {old} by one of term {term}"
                )
            })?;
            peer.durable = peer.durable.min(index - 1);
        }
        let before = peer.log.term(index - 1).unwrap_or_default();
        let last = peer.log.last();
        ensure(peer.log.put(index, term), || {
            format!("peer {node} writes entry {index} into a log that ends at {last}")
        })?;
        match self.entries.note(index, Entry { term, digest, before }) {
            None => Ok(()),
            Some(other) => Err(format!(
                "peer {node} has entry {digest:#x} at index {index} in term {term} behind one of term {before}, \
                 another peer {:#x} behind one of term {}",
                other.digest, other.before
            )),
        }
    }

    fn synced(&mut self, at: usize, last: u64, term: u64, vote: u64) -> Outcome {
        let peer = &mut self.peers[at];
        let node = peer.node;
        peer.before = None;
        ensure(last == peer.log.last(), || {
            format!("peer {node} synced a log up to {last}, and had written it up to {}", peer.log.last())
        })?;
        check_hard(peer, term, vote, "syncs")?;
        (peer.durable, peer.term, peer.vote) = (last, term, vote);
        Ok(())
    }

    fn purged(&mut self, at: usize, index: u64, durable: u64) -> Outcome {
        let peer = &mut self.peers[at];
        ensure(index <= peer.applied && index <= durable, || {
            format!(
                "peer {} forgets entries up to {index}, and has applied {} ({durable} durably)",
                peer.node, peer.applied
            )
        })?;
        peer.log.purge(index);
        let needed = self.peers.iter().map(|peer| peer.log.base()).min().unwrap_or(0);
        self.entries.prune(needed);
        Ok(())
    }

    /// What a promise speaks of is on the disk.
    fn promised(&mut self, at: usize, promise: Promise) -> Outcome {
        let peer = &self.peers[at];
        let (node, disk) = (peer.node, (peer.term, peer.vote));
        match promise {
            Promise::Vote { term, candidate } => ensure(disk.0 > term || disk == (term, candidate), || {
                format!(
                    "peer {node} gives {candidate} its vote in term {term}, and its disk has a vote for {} in term {}",
                    disk.1, disk.0
                )
            }),
            Promise::Candidacy { term } => ensure(disk.0 > term || disk == (term, node), || {
                format!(
                    "peer {node} asks for votes in term {term}, and its disk has a vote for {} in term {}",
                    disk.1, disk.0
                )
            }),
            Promise::Accept { term, index, entry_term } => {
                ensure(disk.0 >= term, || {
                    format!("peer {node} accepts entries in term {term}, and its disk has term {}", disk.0)
                })?;
                // Gone again, by another leader: what the old one makes of the promise does not matter.
                let superseded = entry_term == 0 && disk.0 > term;
                ensure(superseded || peer.holds(index, entry_term), || {
                    format!(
                        "peer {node} says that it has the log up to {index} (term {entry_term}), and its disk has it up to {} (base {})",
                        peer.durable,
                        peer.log.base()
                    )
                })
            }
        }
    }

    /// A term has one leader, and it has everything that was committed before its term.
    fn leads(&mut self, at: usize, term: u64) -> Outcome {
        let peer = &self.peers[at];
        let node = peer.node;
        let first = *self.leaders.entry(term).or_insert(node);
        ensure(first == node, || format!("peers {first} and {node} both lead term {term}"))?;
        let Some((by, index)) = self.commits.range(..term).next_back() else { return Ok(()) };
        let committed = self.entries.committed_at(*index).map(|entry| entry.term);
        let own = peer.log.term(*index);
        let has = *index <= peer.log.base() || (own.is_some() && (committed.is_none() || own == committed));
        ensure(has, || {
            format!(
                "peer {node} leads term {term} without entry {index}, which was committed in term {by}; its log ends at {} (term {})",
                peer.log.last(),
                peer.log.term(peer.log.last()).unwrap_or_default()
            )
        })
    }

    /// Only leaders commit, what a quorum of disks has; others follow; nothing goes back or changes.
    fn committed(&mut self, at: usize, index: u64, entry_term: u64, term: u64) -> Outcome {
        let peer = &mut self.peers[at];
        let (node, before) = (peer.node, peer.commit);
        ensure(index >= before, || {
            format!("peer {node} takes its commit index back from {before} to {index}")
        })?;
        peer.commit = index;
        if index <= self.entries.committed() {
            let known = self.entries.committed_at(index).map_or(entry_term, |entry| entry.term);
            return ensure(entry_term == 0 || known == entry_term, || {
                format!(
                    "peer {node} believes that entry {index} of term {entry_term} is committed, and it is one of term {known}"
                )
            });
        }
        ensure(self.leaders.get(&term) == Some(&node), || {
            let known = self.entries.committed();
            format!(
                "peer {node} believes in term {term} that {index} is committed, and its leaders have committed {known}"
            )
        })?;
        ensure(entry_term == term, || {
            format!("peer {node} leads term {term} and commits entry {index} of term {entry_term} by itself")
        })?;
        self.on_quorum(at, index, entry_term)?;
        let log = &self.peers[at].log;
        self.entries.commit(index, |index| log.term(index));
        self.commits.insert(term, index);
        Ok(())
    }

    fn on_quorum(&self, at: usize, index: u64, term: u64) -> Outcome {
        let leader = &self.peers[at];
        for voters in [&leader.voters, &leader.outgoing] {
            let holds =
                |voter: &&u64| self.peers.iter().any(|peer| peer.node == **voter && peer.holds(index, term));
            let holders: Vec<u64> = voters.iter().filter(holds).copied().collect();
            ensure(voters.is_empty() || holders.len() > voters.len() / 2, || {
                format!(
                    "peer {} commits entry {index} of term {term}, which is on the disks of {holders:?}, no quorum of {voters:?}",
                    leader.node
                )
            })?;
        }
        Ok(())
    }

    fn applied(&mut self, at: usize, index: u64, term: u64, digest: u64) -> Outcome {
        let peer = &mut self.peers[at];
        let (node, before) = (peer.node, peer.applied);
        ensure(index == before + 1, || format!("peer {node} applies {index} after {before}"))?;
        ensure(index <= peer.commit, || {
            format!("peer {node} applies {index}, and knows {} as committed", peer.commit)
        })?;
        ensure(peer.holds(index, term), || {
            format!("peer {node} applies {index}, and its disk has the log up to {}", peer.durable)
        })?;
        peer.applied_to(index);
        let Some(committed) = self.entries.committed_at(index) else { return Ok(()) };
        ensure((committed.term, committed.digest) == (term, digest), || {
            format!(
                "peer {node} applies {digest:#x} of term {term} at index {index}, and {:#x} of term {} is committed there",
                committed.digest, committed.term
            )
        })
    }

    fn installed(&mut self, at: usize, index: u64, term: u64) -> Outcome {
        let committed = self.entries.committed();
        let known = self.entries.committed_at(index).map_or(term, |entry| entry.term);
        let peer = &mut self.peers[at];
        let (node, before) = (peer.node, peer.applied);
        ensure(index >= before, || format!("peer {node} goes back from {before} to a snapshot at {index}"))?;
        ensure(index <= committed, || {
            format!("peer {node} installs a snapshot at {index}, and {committed} is committed")
        })?;
        ensure(known == term, || {
            format!(
                "peer {node} installs a snapshot at {index} of term {term}, and the entry there has term {known}"
            )
        })?;
        peer.log = Mirror::new(index, term);
        (peer.durable, peer.installing) = (index, 0);
        peer.commit = peer.commit.max(index);
        peer.applied_to(index);
        Ok(())
    }

    /// What a snapshot is made of and what comes of it is the same, wherever and however often.
    fn shows(&mut self, at: usize, index: u64, digest: u64) -> Outcome {
        let node = self.peers[at].node;
        let &mut (first, known) = self.rows.entry(index).or_insert((node, digest));
        ensure(known == digest, || {
            format!("peer {node} has other rows at {index} than peer {first}: {digest:#x}, not {known:#x}")
        })
    }

    fn read_served(&mut self, at: usize, read: u64, applied: u64, term: u64) -> Outcome {
        let peer = &mut self.peers[at];
        let node = peer.node;
        let asked = peer.read_served(read);
        ensure(asked.is_none_or(|committed| applied >= committed), || {
            let committed = asked.unwrap_or_default();
            format!(
                "peer {node} serves a read at {applied}, and {committed} was committed when the read arrived"
            )
        })?;
        ensure(term == 0 || self.commits.contains_key(&term), || {
            format!("peer {node} serves a read in term {term}, in which nothing was committed yet")
        })
    }
}

/// What a peer found on its disk.
struct Found {
    base: u64,
    base_term: u64,
    last: u64,
    term: u64,
    vote: u64,
    commit: u64,
    applied: u64,
    durable: u64,
}

/// Terms never fall, and a vote stays.
fn check_hard(peer: &Peer, term: u64, vote: u64, doing: &str) -> Outcome {
    ensure(term >= peer.term, || {
        format!("peer {} {doing} term {term}, and had synced term {}", peer.node, peer.term)
    })?;
    ensure(term > peer.term || peer.vote == 0 || peer.vote == vote, || {
        format!(
            "peer {} {doing} a vote for {vote} in term {term}, and had synced one for {}",
            peer.node, peer.vote
        )
    })
}
