//! Raft's promises, peer by peer and group by group.
//!
//! - *Elections*: one leader a term; no second vote in a term, over restarts too; terms never fall.
//! - *Logs*: one entry for an (index, term), with one predecessor; no holes.
//! - *Commitment*: only a leader says what is committed, and only what a quorum of disks holds; a committed entry
//!   is never replaced, on no disk; a new leader has everything that was committed in earlier terms.
//! - *Application*: in order, each index once a life, only what is committed and on the peer's own disk; every peer
//!   applies the same entry; snapshots hold committed state and never lead back.
//! - *Durability*: what a promise speaks of is on the disk before the promise leaves; a peer that starts again has
//!   everything that was synced, and nothing applied that it had not.
//! - *Membership*: who gets a vote after the group's birth has a log already.
//! - *Reads*: served at what was committed when they arrived, or later, by a leader that has committed an entry of its
//!   own term.

use super::group::Group;
use super::{Names, Violation};
use crate::exec::{Node, Place};
use nokv_env::{Fact, Peer};
use std::collections::BTreeMap;

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Raft {
    groups: BTreeMap<(&'static str, u64), Group>,
}

impl Raft {
    pub(super) fn forget(&mut self, node: Node) {
        for group in self.groups.values_mut() {
            group.forget(node);
        }
    }

    pub(super) fn observe(&mut self, place: Place, fact: &Fact, names: &Names) -> Result<(), Violation> {
        let Some(peer) = peer_of(fact) else { return Ok(()) };
        let group = self.groups.entry((peer.domain, peer.group)).or_default();
        group.observe(peer.node, place, fact).map_err(|broken| {
            let places = group.places().map(|(peer, node)| format!("{peer} on {}", names.of(node)));
            let places = places.collect::<Vec<_>>().join(", ");
            Violation::new(
                "raft",
                format!("{} group {}: {broken} (peers: {places})", peer.domain, peer.group),
            )
        })
    }
}

fn peer_of(fact: &Fact) -> Option<Peer> {
    match fact {
        Fact::Started { peer, .. }
        | Fact::Members { peer, .. }
        | Fact::Entry { peer, .. }
        | Fact::Synced { peer, .. }
        | Fact::Purged { peer, .. }
        | Fact::Promised { peer, .. }
        | Fact::Leader { peer, .. }
        | Fact::Vote { peer, .. }
        | Fact::Committed { peer, .. }
        | Fact::Applied { peer, .. }
        | Fact::Installing { peer, .. }
        | Fact::Installed { peer, .. }
        | Fact::Rows { peer, .. }
        | Fact::Removed { peer }
        | Fact::ReadAsked { peer, .. }
        | Fact::ReadServed { peer, .. } => Some(*peer),
        _ => None,
    }
}
