//! What the driver tells whoever watches it, each at the moment it becomes true.
//!
//! A simulation checks raft's promises with it. Nothing here changes anything, and what costs work is left out when
//! nobody watches.

use crate::config::GroupId;
use crate::core::Core;
use crate::digest;
use crate::group::Group;
use crate::machine::Machine;
use crate::record::Place;
use nokv_env::{Fact, Peer, Promise};
use raft::eraftpb::{Entry, Message, MessageType};

impl<M: Machine> Core<M> {
    /// This node's peer of a group.
    fn peer(&self, group: &Group<M>) -> Peer {
        Peer { domain: self.config.domain, group: group.id.0, node: group.peer }
    }

    /// This node's peer of a group, if it is hosted and somebody watches.
    fn watched(&self, id: GroupId) -> Option<(&Group<M>, Peer)> {
        if !self.env.watching() {
            return None;
        }
        let group = self.groups.get(&id)?;
        Some((group, self.peer(group)))
    }

    /// A group was taken up with what the disk has of it.
    pub(crate) fn tell_started(&mut self, id: GroupId) {
        if !self.env.watching() {
            return;
        }
        let durable = self.machine.durable_index(id);
        let Some((group, peer)) = self.watched(id) else { return };
        let log = group.log();
        let (base, hard) = (log.base(), log.hard);
        self.env.fact(Fact::Started {
            peer,
            base: base.index,
            base_term: base.term,
            last: log.last_index(),
            term: hard.term,
            vote: hard.vote,
            commit: hard.commit,
            applied: group.applied.index.max(group.raw.raft.raft_log.applied),
            durable,
        });
        for entry in log.iter_from(base.index + 1) {
            self.env.fact(written(peer, entry));
        }
        self.tell_synced(id);
        self.tell_members(id);
    }

    /// Entries are about to be written into a group's log.
    pub(crate) fn tell_entries(&self, id: GroupId, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let Some((_, peer)) = self.watched(id) else { return };
        for entry in entries {
            self.env.fact(written(peer, entry));
        }
    }

    /// What was written into a group's log is durable.
    pub(crate) fn tell_synced(&self, id: GroupId) {
        let Some((group, peer)) = self.watched(id) else { return };
        let (last, hard) = (group.log().last_index(), group.log().hard);
        self.env.fact(Fact::Synced { peer, last, term: hard.term, vote: hard.vote });
    }

    /// A group's membership, as it is now.
    pub(crate) fn tell_members(&self, id: GroupId) {
        let Some((group, peer)) = self.watched(id) else { return };
        let state = group.conf_state();
        self.env.fact(Fact::Members { peer, voters: state.voters, outgoing: state.voters_outgoing });
    }

    /// The commit index, when it grew.
    pub(crate) fn tell_commit(&mut self, id: GroupId) {
        if !self.env.watching() {
            return;
        }
        let domain = self.config.domain;
        let Some(group) = self.groups.get_mut(&id) else { return };
        let raft = &group.raw.raft;
        let index = raft.raft_log.committed;
        if index == group.told_commit {
            return;
        }
        group.told_commit = index;
        let entry_term = raft.raft_log.term(index).unwrap_or_default();
        let peer = Peer { domain, group: id.0, node: group.peer };
        self.env.fact(Fact::Committed { peer, index, entry_term, term: raft.term });
    }

    /// A message is about to leave: what does it promise?
    pub(crate) fn tell_promise(&self, id: GroupId, message: &Message) {
        let Some((group, peer)) = self.watched(id) else { return };
        let term = message.term;
        let promise = match message.get_msg_type() {
            MessageType::MsgRequestVote => Promise::Candidacy { term },
            MessageType::MsgRequestVoteResponse if !message.reject => {
                Promise::Vote { term, candidate: message.to }
            }
            MessageType::MsgAppendResponse if !message.reject => {
                let index = message.index;
                let entry_term = group.raw.raft.raft_log.term(index).unwrap_or_default();
                Promise::Accept { term, index, entry_term }
            }
            _ => return,
        };
        self.env.fact(Fact::Promised { peer, promise });
    }

    /// A snapshot is about to be installed, or was.
    pub(crate) fn tell_install(&self, id: GroupId, place: Place, done: bool) {
        let Some((_, peer)) = self.watched(id) else { return };
        let Place { index, term } = place;
        self.env.fact(if done {
            Fact::Installed { peer, index, term }
        } else {
            Fact::Installing { peer, index, term }
        });
    }

    /// An entry was applied.
    pub(crate) fn tell_applied(&self, id: GroupId, entry: &Entry) {
        let Some((_, peer)) = self.watched(id) else { return };
        let digest = digest::entry(entry.term, &entry.data);
        self.env.fact(Fact::Applied { peer, index: entry.index, term: entry.term, digest });
    }

    /// Something that needs no work to tell.
    pub(crate) fn tell(&self, id: GroupId, fact: impl FnOnce(Peer) -> Fact) {
        if let Some((_, peer)) = self.watched(id) {
            self.env.fact(fact(peer));
        }
    }
}

fn written(peer: Peer, entry: &Entry) -> Fact {
    let digest = digest::entry(entry.term, &entry.data);
    Fact::Entry { peer, index: entry.index, term: entry.term, digest }
}
