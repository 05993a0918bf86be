//! One group's log as raft-rs wants to see it.

use crate::group_log::GroupLog;
use crate::shared::lock;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// What [`raft::RawNode`] reads from; the driver writes it through the raft log.
pub(crate) struct GroupStorage {
    pub(crate) log: GroupLog,
    /// The membership at the applied index, for raft's start only.
    conf_state: ConfState,
    snapshots: Mutex<Snapshots>,
}

/// raft asks for a snapshot while it steps; the driver makes it afterwards, and raft asks again.
#[derive(Default)]
struct Snapshots {
    wanted: BTreeSet<u64>,
    ready: Option<Snapshot>,
}

impl GroupStorage {
    pub(crate) fn new(log: GroupLog, conf_state: ConfState) -> Self {
        Self { log, conf_state, snapshots: Mutex::default() }
    }

    /// Peers for which raft asked a snapshot in vain.
    pub(crate) fn take_wanted(&self) -> BTreeSet<u64> {
        std::mem::take(&mut lock(&self.snapshots).wanted)
    }

    /// Sets or removes the snapshot that raft is given next.
    pub(crate) fn offer_snapshot(&self, snapshot: Option<Snapshot>) {
        lock(&self.snapshots).ready = snapshot;
    }
}

impl Storage for GroupStorage {
    fn initial_state(&self) -> Result<RaftState> {
        let hard = self.log.hard;
        let hard_state =
            HardState { term: hard.term, vote: hard.vote, commit: hard.commit, ..HardState::default() };
        Ok(RaftState::new(hard_state, self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.log.base().index {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.log.last_index() + 1, "entries up to {high} of {}", self.log.last_index());
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.log.iter_from(low).take_while(|entry| entry.index < high) {
            bytes += entry.data.len() as u64 + entry.context.len() as u64 + 16;
            if bytes > limit && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        self.log.term(index).ok_or(Error::Store(if index < self.log.base().index {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        }))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.log.base().index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.log.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let mut snapshots = lock(&self.snapshots);
        let usable = |snapshot: &&Snapshot| {
            let index = snapshot.get_metadata().index;
            index >= request_index && index >= self.log.base().index
        };
        match snapshots.ready.as_ref().filter(usable) {
            Some(snapshot) => Ok(snapshot.clone()),
            None => {
                snapshots.wanted.insert(to);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
