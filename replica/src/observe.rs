//! A raft loop in numbers, for whoever watches it. Nothing here decides anything.

use crate::handle::Handle;
use crate::machine::Machine;
use nokv_env::{Durations, Instant};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A driver at one moment. Counters run from its start.
#[derive(Debug, Clone, Default)]
pub struct RaftObservation {
    /// Time since it last began a turn; `None`: it has not yet.
    pub turned_ago: Option<Duration>,
    /// Why it stopped, if it did.
    pub failed: Option<String>,
    /// Rounds.
    pub rounds: u64,
    /// Groups that had something ready, in all rounds.
    pub readies: u64,
    /// Entries appended.
    pub entries: u64,
    /// Entries applied.
    pub applied: u64,
    /// Times that leadership was confirmed for the reads that waited.
    pub read_rounds: u64,
    /// Proposals taken up.
    pub proposals: u64,
    /// Messages given to the transport.
    pub messages_sent: u64,
    /// Messages taken in.
    pub messages_received: u64,
    /// Messages dropped, on the way out or because the loop was behind.
    pub messages_dropped: u64,
    /// Snapshots sent.
    pub snapshots_sent: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Syncs of the raft log.
    pub syncs: Durations,
}

impl<M: Machine> Handle<M> {
    /// The driver in numbers; `now` is on its node's clock.
    pub fn observe(&self, now: Instant) -> RaftObservation {
        let counters = self.counters();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RaftObservation {
            turned_ago: self.turned().map(|at| now.since(at)),
            failed: self.failure(),
            rounds: read(&counters.rounds),
            readies: read(&counters.readies),
            entries: read(&counters.entries),
            applied: read(&counters.applied),
            read_rounds: read(&counters.read_rounds),
            proposals: read(&counters.proposals),
            messages_sent: read(&counters.messages_sent),
            messages_received: read(&counters.messages_received),
            messages_dropped: read(&counters.messages_dropped) + read(&counters.messages_refused),
            snapshots_sent: read(&counters.snapshots_sent),
            snapshots_installed: read(&counters.snapshots_installed),
            syncs: counters.sync_times.read(),
        }
    }
}
