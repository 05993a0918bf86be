//! One peer: what its disk must have, how far it is, and the reads that wait at it.

use super::mirror::Mirror;
use crate::exec::Place;
use std::collections::BTreeMap;

/// Reads that are remembered; older ones were given up.
const READS_MAX: usize = 4096;

/// What is known of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: u64,
    /// The life it tells from.
    pub(super) place: Place,
    /// Its log as it wrote it.
    pub(super) log: Mirror,
    /// Up to here the log is on its disk.
    pub(super) durable: u64,
    /// The log of the life before, while the new life tells what it found.
    pub(super) before: Option<Mirror>,
    /// Term and vote on its disk.
    pub(super) term: u64,
    pub(super) vote: u64,
    /// Commit index in this life.
    pub(super) commit: u64,
    pub(super) applied: u64,
    /// Highest index ever applied, over all lives.
    pub(super) highest: u64,
    /// A snapshot that the machine may have installed.
    pub(super) installing: u64,
    pub(super) voters: Vec<u64>,
    pub(super) outgoing: Vec<u64>,
    /// What was committed in the group when each read arrived.
    reads: BTreeMap<u64, u64>,
}

impl Peer {
    pub(super) fn new(node: u64, place: Place) -> Self {
        Self {
            node,
            place,
            log: Mirror::default(),
            durable: 0,
            before: None,
            term: 0,
            vote: 0,
            commit: 0,
            applied: 0,
            highest: 0,
            installing: 0,
            voters: Vec::new(),
            outgoing: Vec::new(),
            reads: BTreeMap::new(),
        }
    }

    /// Whether a crash would leave it the entry of `term` at `index`, in its log or as the machine's state.
    pub(super) fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.log.base() || (index <= self.durable && self.log.term(index) == Some(term))
    }

    pub(super) fn applied_to(&mut self, index: u64) {
        self.applied = index;
        self.highest = self.highest.max(index);
    }

    /// Another life begins: what only the old one knew is gone.
    pub(super) fn begin(&mut self, place: Place, log: Mirror, commit: u64, applied: u64) {
        self.before = Some(std::mem::replace(&mut self.log, log));
        (self.place, self.commit, self.applied) = (place, commit, applied);
        self.highest = self.highest.max(applied);
        self.installing = 0;
        self.reads.clear();
    }

    pub(super) fn read_asked(&mut self, read: u64, committed: u64) {
        if self.reads.len() >= READS_MAX {
            self.reads.pop_first();
        }
        self.reads.insert(read, committed);
    }

    /// What was committed when the read arrived.
    pub(super) fn read_served(&mut self, read: u64) -> Option<u64> {
        self.reads.remove(&read)
    }
}
