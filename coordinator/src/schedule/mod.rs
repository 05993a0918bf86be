//! The scheduler: what is wrong with where replicas and leaders are, and one step towards better.
//!
//! ```text
//! heartbeats, root tail ──► Picture ──► decide() ──► operators on the Board ──► orders in heartbeat answers
//!                              ▲                                                        │
//!                              └────────── regions as their leaders report them ◄───────┘
//! ```
//!
//! [`decide()`] is pure: a picture of the cluster in, operators with their reasons out. The [`board`] carries them on:
//! it compares each with what the region's leader reports, and the next order follows from that alone. So an order that
//! is lost, repeated or late does no harm, and a new lease holder goes on from whatever it finds. Orders carry the region's
//! configuration version; the leader refuses one that was made for another membership.
//!
//! - No region gets two replicas on one store, or one on a store that is down, full or being emptied.
//! - A replica goes only when the region has more than it needs: first the new one comes and gets its vote.
//! - A replica that holds something else than the others is replaced, by a copy of one of them.
//! - A store's replicas are replaced only if both this coordinator and the leader of the region hear nothing of it, and
//!   silence is counted only while this coordinator itself is awake ([`clocks`]).
//! - Neighbours that have been small for long are merged ([`merges`]).
//! - A step of balance makes the loads of stores more even by a margin, or is not taken; so balance ends.
//! - Snapshots to and from a store at a time, and operators in all, are limited.

pub(crate) mod board;
pub(crate) mod clocks;
mod decide;
mod merges;
pub(crate) mod picture;
#[cfg(test)]
mod tests;

pub(crate) use board::Board;
pub(crate) use clocks::Clocks;
pub(crate) use decide::decide;
#[cfg(test)]
pub(crate) use picture::StoreState;
pub(crate) use picture::{Picture, RegionState};

use nokv_proto::meta::v1::RegionPeer;
use std::time::Duration;

/// What the scheduler may do, and how fast.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Pause between two looks; zero: it does nothing at all.
    pub interval: Duration,
    /// Whether healthy replicas and leaders are moved to even out stores.
    pub balance: bool,
    /// How many replicas a region should have.
    pub replicas: usize,
    /// The replicas of a store that nobody has heard of for this long are replaced. Shorter: fewer copies for less time;
    /// too short: a restart moves all data of a store.
    pub repair_after: Duration,
    /// A region that has had more replicas than wanted for this long loses one. Time for operators who move one by hand.
    pub settle_after: Duration,
    /// A region that has had fewer replicas than wanted for this long gets one. Shorter, because it is the less safe the
    /// longer it waits, and because a cluster that grows from one store begins with such regions.
    pub missing_after: Duration,
    /// Neighbours that together have stayed far below what splits a region for this long are merged; zero: never. An
    /// import that pauses or a load that comes with the day should not make regions come and go.
    pub merge_after: Duration,
    /// A region rests for this long after an operator ended.
    pub cooldown: Duration,
    /// An operator that has not reached its end by then is given up.
    pub give_up_after: Duration,
    /// Replicas that may be on their way to, or from, one store at a time.
    pub snapshots_per_store: usize,
    /// Operators at a time.
    pub operators: usize,
    /// Regions up to about this size count alike; of larger ones, the size counts too.
    pub small_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            balance: true,
            replicas: 3,
            repair_after: Duration::from_secs(30 * 60),
            settle_after: Duration::from_secs(5 * 60),
            missing_after: Duration::from_secs(5),
            merge_after: Duration::from_secs(60 * 60),
            cooldown: Duration::from_secs(10),
            give_up_after: Duration::from_secs(60 * 60),
            snapshots_per_store: 2,
            operators: 8,
            small_bytes: 16 << 20,
        }
    }
}

impl Limits {
    /// How long a region may have that number of replicas instead of the wanted one.
    pub(crate) fn bears(&self, replicas: usize) -> Duration {
        if replicas < self.replicas { self.missing_after } else { self.settle_after }
    }
}

/// What an operator does to its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Another peer shall lead.
    Lead {
        /// Who leads now.
        from: RegionPeer,
        /// Who shall.
        to: RegionPeer,
    },
    /// One replica more.
    Add {
        /// Where.
        store: u64,
    },
    /// One replica less.
    Remove {
        /// Which.
        peer: RegionPeer,
    },
    /// A new replica, and when it has its vote one of the others goes.
    Move {
        /// The one that goes.
        peer: RegionPeer,
        /// Where the new one comes.
        store: u64,
    },
    /// A neighbour takes it over.
    Merge {
        /// Which.
        into: u64,
    },
}

impl Action {
    /// The name in records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Lead { .. } => "transfer-leader",
            Action::Add { .. } => "add-peer",
            Action::Remove { .. } => "remove-peer",
            Action::Move { .. } => "move-peer",
            Action::Merge { .. } => "merge-region",
        }
    }

    /// The store that loses a replica or a leader.
    pub(crate) fn source(self) -> Option<u64> {
        match self {
            Action::Lead { from: peer, .. } | Action::Remove { peer } | Action::Move { peer, .. } => {
                Some(peer.store_id)
            }
            Action::Add { .. } | Action::Merge { .. } => None,
        }
    }

    /// The store that gets one.
    pub(crate) fn target(self) -> Option<u64> {
        match self {
            Action::Lead { to, .. } => Some(to.store_id),
            Action::Add { store } | Action::Move { store, .. } => Some(store),
            Action::Remove { .. } | Action::Merge { .. } => None,
        }
    }

    /// The store that gets a new replica.
    pub(crate) fn destination(self) -> Option<u64> {
        match self {
            Action::Add { store } | Action::Move { store, .. } => Some(store),
            Action::Lead { .. } | Action::Remove { .. } | Action::Merge { .. } => None,
        }
    }

    /// The other region that has a part in it.
    pub(crate) fn neighbour(self) -> Option<u64> {
        match self {
            Action::Merge { into } => Some(into),
            _ => None,
        }
    }
}

/// Which rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A store is down for long.
    Lost,
    /// A replica holds something else than the others.
    Damaged,
    /// A store is being decommissioned.
    Leaving,
    /// Too many or too few replicas.
    Number,
    /// Two neighbours have been small for long.
    Small,
    /// One store has more than another.
    Replicas,
    /// One store leads more than another.
    Leaders,
}

/// A decision: what to do with a region, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) cause: Cause,
    pub(crate) region: u64,
    pub(crate) action: Action,
    pub(crate) reason: String,
}

/// What [`decide()`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// To be done.
    pub(crate) decisions: Vec<Decision>,
    /// What should be done and cannot be just now, in words.
    pub(crate) waiting: Vec<String>,
}
