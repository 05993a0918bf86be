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
    Leader { domain: &'static str, group: u64, term: u64, node: u64 },
    /// A peer gave its vote in `term` to `candidate`, durably.
    Vote { domain: &'static str, group: u64, term: u64, node: u64, candidate: u64 },
    /// A peer applied the entry at `index`; `digest` is a hash of the entry.
    Applied { domain: &'static str, group: u64, node: u64, index: u64, term: u64, digest: u64 },
    /// A peer replaced its state by a snapshot at `index`.
    Installed { domain: &'static str, group: u64, node: u64, index: u64, term: u64 },
    /// A coordinator of lease `generation` handed out `count` timestamps from `first`.
    Timestamps { coordinator: String, generation: u64, first: u64, count: u64 },
    /// A coordinator of lease `generation` handed out `count` ids from `first`.
    Ids { coordinator: String, generation: u64, first: u64, count: u64 },
    /// The meta-root group granted lease `generation` to `holder` (seen at apply, once a node).
    Lease { node: u64, holder: String, generation: u64 },
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
