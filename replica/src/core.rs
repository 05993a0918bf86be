//! All groups of a driver with what they share: the machine, the raft log, the way to other nodes.
//!
//! The loop in `driver` feeds it (`intake`, `offer`), lets it do a `round` and keeps it tidy (`upkeep`).

use crate::config::{Config, GroupId};
use crate::error::{Fatal, ReadError};
use crate::group::{Group, Sending};
use crate::group_log::GroupLog;
use crate::group_set::GroupSet;
use crate::hibernate::says_hibernate;
use crate::inbox::AdminReply;
use crate::machine::{Machine, Role};
use crate::raft_log::RaftLog;
use crate::shared::{Counters, Shared};
use crate::transport::Transport;
use crate::wire::{self, Incoming};
use nokv_env::{Env, Fact};
use raft::eraftpb::{Message, MessageType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why the driver cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Halt {
    /// Votes and entries can no longer be made durable.
    #[error("raft log: {0}")]
    Log(#[from] nokv_engine::Error),
    /// The machine cannot follow its log.
    #[error("{group}: {fatal}")]
    Machine { group: GroupId, fatal: Fatal },
    /// A group that came out of another one's log cannot be hosted.
    #[error("a group born in {parent}: {error}")]
    Born { parent: GroupId, error: String },
}

impl Halt {
    pub(crate) fn machine(group: GroupId) -> impl FnOnce(Fatal) -> Halt {
        move |fatal| Halt::Machine { group, fatal }
    }
}

/// The driver's state.
pub(crate) struct Core<M: Machine> {
    pub(crate) env: Env,
    pub(crate) config: Config,
    pub(crate) machine: M,
    pub(crate) log: RaftLog,
    pub(crate) groups: BTreeMap<GroupId, Group<M>>,
    /// Logs of groups that are not hosted (any more, or yet). Kept: they hold votes.
    pub(crate) orphans: BTreeMap<GroupId, GroupLog>,
    /// Messages with snapshots whose content is being fetched, and the nodes they came from.
    pub(crate) waiting: BTreeMap<GroupId, (u64, Incoming)>,
    /// Groups in which something happened since their last round; nobody looks at the others.
    pub(crate) dirty: GroupSet,
    /// Groups with proposals or reads to take up.
    pub(crate) wanting: GroupSet,
    /// The next turn of the loop has something to do already.
    pub(crate) again: bool,
    pub(crate) transport: Transport,
    pub(crate) shared: Arc<Shared>,
    /// Answered after the next sync.
    pub(crate) after_sync: Vec<AdminReply>,
    /// Ticks since the start.
    pub(crate) ticks: u64,
    /// The tick at which something last came from each node.
    pub(crate) heard: BTreeMap<u64, u64>,
}

impl<M: Machine> Core<M> {
    /// Something happened in a group: it gets a round, and a change of its role is told.
    pub(crate) fn touched(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        self.dirty.insert(id);
        let was = group.role;
        if let Some(role) = group.changed_role() {
            self.role_changed(id, was, role);
        }
        self.tell_commit(id);
    }

    fn role_changed(&mut self, id: GroupId, was: Role, role: Role) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if was.is_leader && !(role.is_leader && role.term == was.term) {
            group.reads.fail(&ReadError::NotLeader { leader: role.leader });
        }
        if role.is_leader && !(was.is_leader && role.term == was.term) {
            tracing::info!(group = %id, peer = group.peer, term = role.term, "became leader");
            self.tell(id, |peer| Fact::Leader { peer, term: role.term });
        }
        self.machine.role_changed(id, role);
    }

    /// Hands a group's messages to the transport.
    pub(crate) fn post(&mut self, id: GroupId, messages: Vec<Message>) {
        for message in messages {
            self.tell_promise(id, &message);
            let Some(group) = self.groups.get_mut(&id) else { return };
            let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            // As when the queue to the node is full.
            if !is_snapshot && self.env.chance("replica.message.drop", 0.003) {
                Counters::add(&self.shared.counters.messages_dropped, 1);
                continue;
            }
            // Whoever has the entry hears with the next message that it is committed.
            let only_tells = message.get_msg_type() == MessageType::MsgAppend && message.entries.is_empty();
            if only_tells && self.env.chance("replica.commit.untold", 0.1) {
                Counters::add(&self.shared.counters.messages_dropped, 1);
                continue;
            }
            if is_snapshot {
                let index = message.get_snapshot().get_metadata().index;
                let deadline = self.env.clock.now() + self.config.snapshot_timeout;
                group.sending.insert(message.to, Sending::new(index, deadline));
                group.raw.store().offer_snapshot(None);
                self.env.probe("replica.snapshot.sent");
            }
            let Some(&node) = group.nodes.get(&message.to) else {
                Counters::add(&self.shared.counters.messages_dropped, 1);
                continue;
            };
            let says_hibernate = says_hibernate(group, &message);
            let region = group.may_be_missing(&message).then(|| self.machine.describe(id)).flatten();
            let envelope = wire::encode(id, &message, region, says_hibernate);
            if is_snapshot {
                self.transport.send_snapshot(node, envelope);
            } else {
                self.transport.send(node, envelope);
            }
        }
    }

    /// Shows a group as it is now.
    pub(crate) fn publish(&self, id: GroupId, fully: bool) {
        if let Some(group) = self.groups.get(&id) {
            self.shared.update_status(id, |status| group.describe(status, fully));
        }
    }
}
