//! What leaders take up each turn: all proposals that wait, as one step of raft, and all reads, as one round.

use crate::config::GroupId;
use crate::core::Core;
use crate::error::ProposeError;
use crate::group::{Group, UNCOMMITTED_BYTES, Waiter};
use crate::inbox::ProposeReply;
use crate::machine::Machine;
use crate::shared::Counters;
use raft::eraftpb::{Entry, Message, MessageType};

impl<M: Machine> Core<M> {
    /// Proposes what is queued and begins reads, in all groups where somebody wants that.
    pub(crate) fn offer(&mut self) {
        for id in std::mem::take(&mut self.wanting) {
            self.propose_queued(id);
            self.begin_reads(id);
            let waits = |group: &Group<M>| !group.queued.is_empty() || group.reads.is_gathering();
            if self.groups.get(&id).is_some_and(waits) {
                self.wanting.insert(id);
            }
        }
    }

    fn propose_queued(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.queued.is_empty() {
            return;
        }
        if let Some(refusal) = refusal(group) {
            for (_, reply) in group.queued.drain(..) {
                let _ = reply.send(Err(refusal.clone()));
            }
            return;
        }
        let term = group.raw.raft.term;
        let first = group.raw.raft.raft_log.last_index() + 1;
        let mut bytes = group.raw.raft.uncommitted_size() as u64;
        let mut entries: Vec<Entry> = Vec::new();
        let mut replies: Vec<ProposeReply<M>> = Vec::new();
        while let Some((proposal, reply)) = group.queued.pop_front() {
            if reply.is_closed() {
                continue;
            }
            if group.waiters.len() + replies.len() >= self.config.proposals_max || bytes >= UNCOMMITTED_BYTES
            {
                let _ = reply.send(Err(ProposeError::Busy));
                continue;
            }
            let data = match self.machine.propose(id, term, first + entries.len() as u64, proposal) {
                Ok(data) => data,
                Err(answer) => {
                    let _ = reply.send(Ok(answer));
                    continue;
                }
            };
            if data.len() > self.config.entry_bytes_max || data.is_empty() {
                let limit = self.config.entry_bytes_max;
                let _ = reply.send(Err(ProposeError::TooLarge { bytes: data.len(), limit }));
                continue;
            }
            bytes += data.len() as u64;
            entries.push(Entry { data, ..Entry::default() });
            replies.push(reply);
            if !group.queued.is_empty() && self.env.chance("replica.batch.small", 0.05) {
                self.again = true;
                break;
            }
        }
        if entries.is_empty() {
            return;
        }
        let mut propose = Message { from: group.peer, entries: entries.into(), ..Message::default() };
        propose.set_msg_type(MessageType::MsgPropose);
        if group.raw.step(propose).is_err() {
            for reply in replies {
                let _ = reply.send(Err(ProposeError::Busy));
            }
            return;
        }
        let last = group.raw.raft.raft_log.last_index();
        assert!(last + 1 == first + replies.len() as u64, "{id}: proposals from {first} end at {last}");
        let now = self.env.clock.now();
        for (index, reply) in (first..).zip(replies) {
            if let Some(marks) = reply.marks() {
                marks.append(now);
            }
            group.waiters.insert(index, Waiter { term, is_change: false, reply });
        }
        self.touched(id);
    }

    fn begin_reads(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        // raft would silently drop reads before the first commit of the term; they wait for it here.
        if !group.reads.is_gathering() || !group.is_leader() || !group.raw.raft.commit_to_current_term() {
            return;
        }
        if let Some(round) = group.reads.begin() {
            group.raw.read_index(round.to_be_bytes().to_vec());
            self.env.probe("replica.read.batched");
            Counters::add(&self.shared.counters.read_rounds, 1);
            self.touched(id);
        }
    }
}

/// Why nothing can be proposed now, if so. Found out before the machine is asked for its entries.
fn refusal<M: Machine>(group: &Group<M>) -> Option<ProposeError> {
    let raft = &group.raw.raft;
    if !group.is_leader() {
        return Some(ProposeError::NotLeader { leader: group.leader() });
    }
    if raft.prs().get(group.peer).is_none() {
        return Some(ProposeError::NotLeader { leader: None });
    }
    raft.lead_transferee.is_some().then_some(ProposeError::Busy)
}
