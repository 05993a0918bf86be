//! Who listens to the nodes' hooks: facts go to the invariants, probes are counted, the first violation stops
//! the run. A short timeline of what matters is kept for the report.

use crate::check::Violation;
use crate::check::invariants::Invariants;
use crate::exec::{Node, Place, lock};
use crate::trace::digest;
use crate::triggers::Triggers;
use nokv_env::task::Stop;
use nokv_env::{Authority, Fact, Peer, Promise, Region};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::Notify;

/// Lines of the timeline that are kept.
const TIMELINE_LINES_MAX: usize = 4_000;

/// How often the protocols did something that tells what a run was like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Peers that became leader of their group.
    pub elections: u64,
    /// Snapshots that were installed.
    pub snapshots: u64,
    /// Generations of the coordinators' lease.
    pub leases: u64,
}

impl Tally {
    fn count(&mut self, fact: &Fact) {
        match fact {
            Fact::Leader { .. } => self.elections += 1,
            Fact::Installed { .. } => self.snapshots += 1,
            Fact::Lease { generation, .. } => self.leases = self.leases.max(*generation),
            _ => {}
        }
    }
}

#[derive(Default)]
struct State {
    invariants: Invariants,
    tally: Tally,
    probes: BTreeMap<&'static str, u64>,
    failure: Option<(u64, Violation)>,
    timeline: Vec<(u64, String)>,
    /// Who leads what since which term, and who holds the lease: the targets of faults.
    leaders: BTreeMap<(&'static str, u64), (u64, Node)>,
    holder: Option<(u64, String)>,
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
            state.tally.count(&fact);
            state.lead(place.node, &fact);
            if let Some(line) = headline(&fact) {
                note(&mut state, now_ns, line);
            }
            state.invariants.observe(place, &fact)
        };
        if let Err(violation) = verdict {
            self.fail(now_ns, violation);
        }
    }

    /// All leaders as they last said: domain, group, term, node.
    pub fn leaders(&self) -> Vec<(&'static str, u64, u64, Node)> {
        let state = lock(&self.state);
        state.leaders.iter().map(|((domain, group), (term, node))| (*domain, *group, *term, *node)).collect()
    }

    /// The newest holder of the lease, and its generation.
    pub fn holder(&self) -> Option<(u64, String)> {
        lock(&self.state).holder.clone()
    }

    /// Gives a node the name that violations use.
    pub fn name(&self, node: Node, name: &str) {
        lock(&self.state).invariants.name(node, name);
    }

    /// Nobody in this run takes a voter away that the region needs.
    pub fn keep_voters(&self, voters_min: usize) {
        lock(&self.state).invariants.keep_voters(voters_min);
    }

    /// The disk of a node was lost on purpose, as the protocol allows: its peers begin anew.
    pub fn forget(&self, node: Node) {
        lock(&self.state).invariants.forget(node);
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

    /// What was counted.
    pub fn tally(&self) -> Tally {
        lock(&self.state).tally
    }

    /// Takes the timeline.
    pub fn take_timeline(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut lock(&self.state).timeline)
    }
}

impl State {
    fn lead(&mut self, at: Node, fact: &Fact) {
        match fact {
            Fact::Leader { peer, term } => {
                let newest = self.leaders.entry((peer.domain, peer.group)).or_insert((*term, at));
                if newest.0 <= *term {
                    *newest = (*term, at);
                }
            }
            Fact::Lease { holder, generation, .. }
                if self.holder.as_ref().is_none_or(|(newest, _)| newest < generation) =>
            {
                self.holder = Some((*generation, holder.clone()));
            }
            _ => {}
        }
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
        Fact::Leader { peer: Peer { domain, group, node }, term } => {
            Some(format!("{domain} group {group}: peer {node} leads term {term}"))
        }
        Fact::Installed { peer: Peer { domain, group, node }, index, .. } => {
            Some(format!("{domain} group {group}: peer {node} installed a snapshot at index {index}"))
        }
        Fact::Lease { node: 0, .. } => None,
        Fact::Lease { node, holder, generation } => {
            Some(format!("lease generation {generation} granted to {holder} (seen by root {node})"))
        }
        _ => None,
    }
}

/// A number that identifies a fact, for the trace.
pub(crate) fn fact_digest(fact: &Fact) -> u64 {
    match *fact {
        Fact::Leader { peer, term } => of_peer(1, peer, &[term]),
        Fact::Vote { peer, term, candidate } => of_peer(2, peer, &[term, candidate]),
        Fact::Applied { peer, index, digest, .. } => of_peer(3, peer, &[index, digest]),
        Fact::Installed { peer, index, term } => of_peer(4, peer, &[index, term]),
        Fact::Granted { duty, generation, first, count } => mix(&[5, duty as u64, generation, first, count]),
        Fact::Accepted { client, duty, generation, sealed, first, count } => {
            mix(&[6, client, duty as u64, generation, sealed, first, count])
        }
        Fact::Lease { node, ref holder, generation } => {
            mix(&[7, digest(holder.as_bytes()), node, generation])
        }
        Fact::Authority { node, index, now } => {
            let Authority { generation, live, ids, timestamps, inherited, sealed, consumed, closed_by } = now;
            let words = [8, node, index, generation, u64::from(live), ids, timestamps, sealed, closed_by];
            inherited.into_iter().chain(consumed).fold(mix(&words), step)
        }
        Fact::Shown { ref key, version } => mix(&[24, digest(key), version]),
        Fact::Written { ref key, version } => mix(&[25, digest(key), version]),
        Fact::Regions { node, index, ref regions } => {
            regions.iter().fold(mix(&[22, node, index]), |hash, region| step(hash, of_region(region)))
        }
        Fact::Region { peer, ref region } => of_peer(23, peer, &[of_region(region)]),
        Fact::Started { peer, base, base_term, last, term, vote, commit, applied, durable } => {
            of_peer(9, peer, &[base, base_term, last, term, vote, commit, applied, durable])
        }
        Fact::Members { peer, ref voters, ref outgoing } => of_peer(10, peer, &[mix(voters), mix(outgoing)]),
        Fact::Entry { peer, index, term, digest } => of_peer(11, peer, &[index, term, digest]),
        Fact::Synced { peer, last, term, vote } => of_peer(12, peer, &[last, term, vote]),
        Fact::Purged { peer, index, durable } => of_peer(13, peer, &[index, durable]),
        Fact::Promised { peer, promise: Promise::Vote { term, candidate } } => {
            of_peer(14, peer, &[term, candidate])
        }
        Fact::Promised { peer, promise: Promise::Candidacy { term } } => of_peer(15, peer, &[term]),
        Fact::Promised { peer, promise: Promise::Accept { term, index, entry_term } } => {
            of_peer(16, peer, &[term, index, entry_term])
        }
        Fact::Committed { peer, index, entry_term, term } => of_peer(17, peer, &[index, entry_term, term]),
        Fact::Installing { peer, index, term } => of_peer(18, peer, &[index, term]),
        Fact::Removed { peer } => of_peer(19, peer, &[]),
        Fact::Rows { peer, index, digest } => of_peer(24, peer, &[index, digest]),
        Fact::ReadAsked { peer, read } => of_peer(20, peer, &[read]),
        Fact::ReadServed { peer, read, applied, term } => of_peer(21, peer, &[read, applied, term]),
    }
}

fn of_region(region: &Region) -> u64 {
    let (start, end) = (digest(&region.start), digest(&region.end));
    mix(&[region.id, region.version, region.conf_version, start, end])
}

fn of_peer(kind: u64, peer: Peer, words: &[u64]) -> u64 {
    words.iter().fold(mix(&[kind, peer.group, peer.node]), |hash, word| step(hash, *word))
}

fn mix(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |hash, word| step(hash, *word))
}

fn step(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}
