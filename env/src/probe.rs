//! Hooks through which a simulation watches the product and forces its rare branches.
//!
//! Production runs with [`NoHooks`]: every call is empty. Nothing here changes what the product promises;
//! a `chance` point may only choose between behaviours that are both correct.

/// Something a protocol did that invariant checkers want to see at the moment it happens.
///
/// `domain` tells meta-root raft groups ("root") from data regions ("region"); `node` is the raft peer id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A peer became leader of `group` in `term`.
    Leader {
        /// "root" or "region".
        domain: &'static str,
        /// The raft group.
        group: u64,
        /// The term it leads.
        term: u64,
        /// The leader.
        node: u64,
    },
    /// A peer gave its vote in `term` to `candidate`, durably.
    Vote {
        /// "root" or "region".
        domain: &'static str,
        /// The raft group.
        group: u64,
        /// The term of the vote.
        term: u64,
        /// The voter.
        node: u64,
        /// Who got the vote.
        candidate: u64,
    },
    /// A peer applied the entry at `index`; `digest` is a hash of the entry.
    Applied {
        /// "root" or "region".
        domain: &'static str,
        /// The raft group.
        group: u64,
        /// The applying peer.
        node: u64,
        /// Index of the entry.
        index: u64,
        /// Term of the entry.
        term: u64,
        /// Hash of the entry.
        digest: u64,
    },
    /// A peer replaced its state by a snapshot at `index`.
    Installed {
        /// "root" or "region".
        domain: &'static str,
        /// The raft group.
        group: u64,
        /// The receiving peer.
        node: u64,
        /// Last index in the snapshot.
        index: u64,
        /// Term of that index.
        term: u64,
    },
    /// A coordinator of lease `generation` handed out `count` timestamps from `first`.
    Timestamps {
        /// Who handed them out.
        coordinator: String,
        /// The lease generation it served under.
        generation: u64,
        /// The lowest.
        first: u64,
        /// How many.
        count: u64,
    },
    /// A coordinator of lease `generation` handed out `count` ids from `first`.
    Ids {
        /// Who handed them out.
        coordinator: String,
        /// The lease generation it served under.
        generation: u64,
        /// The lowest.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The meta-root group granted lease `generation` to `holder` (seen at apply, once a node).
    Lease {
        /// The meta-root node that applied the grant.
        node: u64,
        /// The coordinator that holds the lease now.
        holder: String,
        /// Grows with every change of holder.
        generation: u64,
    },
}

/// The simulation's side of the conversation.
pub trait Hooks: Send + Sync {
    /// Whether to take the rare branch `name` now; drawn with `probability` in a simulation.
    fn chance(&self, _name: &'static str, _probability: f64) -> bool {
        false
    }
    /// A state worth reaching was reached.
    fn probe(&self, _name: &'static str) {}
    /// A protocol fact, for invariant checkers.
    fn fact(&self, _fact: Fact) {}
}

/// The hooks of production: none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {}
