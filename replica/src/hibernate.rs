//! Groups in which nothing happens hibernate: no ticks and no heartbeats, until something happens.
//!
//! ```text
//!  leader    idle for a while; all it has is committed, applied, and on every peer
//!              │  its last heartbeats say "hibernate"
//!  followers   ├── with exactly that log: stop ticking, do not answer
//!              └── with another log, or missed by the message: stand for election, which wakes the leader
//! ```
//!
//! Whatever happens in a group wakes it: a proposal, a read, any other message. What a group that does not tick cannot
//! see is the death of its leader. So nodes that share hibernating groups send each other a *beat* at every heartbeat
//! interval, one empty batch for all of them; after an election timeout of silence the groups that need the silent node
//! wake, and go on as groups do that have heard nothing for that long. A node's beat says nothing of one group's
//! leadership, and need not: a leader that restarted, lost its office or fell behind is awake, and so are, soon, those
//! it speaks to.
//!
//! One thing would never be heard of: a peer is removed while its node beats, but everything that was sent to the peer
//! itself was lost. So followers wake now and then and ask their leader, by an answer to a heartbeat that it did not
//! send. Who gets none in return stands for election, and learns of it. To stand for election at once would do, but two
//! followers that wake together would elect one of them.
//!
//! Known as quiescence from CockroachDB and as hibernating regions from TiKV.

use crate::config::GroupId;
use crate::core::Core;
use crate::group::Group;
use crate::machine::Machine;
use crate::wire::Incoming;
use nokv_env::RngSource;
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, StateRole};
use std::collections::BTreeSet;

/// What a group that hibernates knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hibernation {
    /// The tick of the driver at which it wakes by itself.
    until: u64,
}

/// What matters here of a message that raft has taken over.
pub(crate) struct News {
    kind: MessageType,
    from: u64,
    term: u64,
    commit: u64,
    says_hibernate: bool,
}

impl News {
    pub(crate) fn of(incoming: &Incoming) -> Self {
        let message = &incoming.message;
        Self {
            kind: message.get_msg_type(),
            from: message.from,
            term: message.term,
            commit: message.commit,
            says_hibernate: incoming.says_hibernate,
        }
    }
}

impl<M: Machine> Core<M> {
    /// Something happens in the group: it ticks, and does not hibernate again for a while.
    pub(crate) fn wake(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.idle_ticks = 0;
        if group.hibernation.take().is_some() {
            self.env.probe("replica.hibernate.woken");
        }
    }

    /// Whether the group needs no tick. Wakes it when it is time, or when a node that it relies on is silent.
    pub(crate) fn hibernates(&mut self, id: GroupId) -> bool {
        let Some(group) = self.groups.get(&id) else { return false };
        let Some(hibernation) = group.hibernation else { return false };
        if self.ticks >= hibernation.until {
            self.env.probe("replica.hibernate.look");
            self.ask_leader(id);
        } else if group.relies_on().any(|node| self.is_silent(node)) {
            self.env.probe("replica.hibernate.silence");
        } else {
            return true;
        }
        self.wake(id);
        false
    }

    fn ask_leader(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.ask(group.raw.raft.leader_id);
        self.touched(id);
    }

    /// A peer that knows no leader and cannot stand for election asks everybody, now and then. It may have restarted and
    /// gone back to a configuration in which it has no vote, while its leader hibernates and believes that it has all.
    pub(crate) fn ask_around(&mut self, id: GroupId) {
        let is_time = self.ticks.is_multiple_of(self.config.election_ticks as u64);
        if self.config.hibernate_after_ticks == 0 || !is_time {
            return;
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        let raft = &group.raw.raft;
        if raft.state != StateRole::Follower || raft.leader_id != 0 || raft.promotable() {
            return;
        }
        let others: Vec<u64> = group.nodes.keys().copied().filter(|peer| *peer != group.peer).collect();
        if others.is_empty() {
            return;
        }
        for peer in others {
            group.ask(peer);
        }
        self.env.probe("replica.hibernate.asked_around");
        self.touched(id);
    }

    /// Nothing came from the node for an election timeout.
    fn is_silent(&self, node: u64) -> bool {
        let heard = self.heard.get(&node).copied().unwrap_or_default();
        self.ticks.saturating_sub(heard) > self.config.election_ticks as u64
    }

    /// Lets a group hibernate that this node leads, if nothing has happened in it for long enough.
    pub(crate) fn hibernate_if_idle(&mut self, id: GroupId) {
        let after = self.config.hibernate_after_ticks;
        let Some(group) = self.groups.get_mut(&id) else { return };
        if after == 0 || group.idle_ticks < after || !group.is_at_rest() {
            return;
        }
        group.hibernation = Some(Hibernation { until: u64::MAX });
        group.raw.ping();
        self.env.probe("replica.hibernate.leader");
        self.touched(id);
        self.publish(id, true);
    }

    /// Goes on as a message says that was just stepped, before anything that it caused is sent.
    pub(crate) fn went_by(&mut self, id: GroupId, news: &News) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if news.says_hibernate && self.config.hibernate_after_ticks > 0 && group.may_hibernate(news) {
            group.raw.raft.msgs.retain(|message| message.get_msg_type() != MessageType::MsgHeartbeatResponse);
            if group.hibernation.is_none() {
                let nap = nap(&self.env.rng, id, self.ticks, self.config.hibernate_ticks_max);
                group.hibernation = Some(Hibernation { until: self.ticks + nap });
                self.env.probe("replica.hibernate.follower");
            }
            return;
        }
        // Heartbeats are no activity, but a follower that gets one has a leader that does not hibernate. Answers to
        // heartbeats of before come late on a busy node; who has a reason to stay awake stands for election.
        let is_activity = match news.kind {
            MessageType::MsgHeartbeat => group.hibernation.is_some(),
            MessageType::MsgHeartbeatResponse => news.says_hibernate && group.hibernation.is_some(),
            _ => true,
        };
        if is_activity {
            self.wake(id);
        }
    }

    /// Tells the nodes that groups here hibernate with that this one lives.
    pub(crate) fn beat(&mut self) {
        if !self.ticks.is_multiple_of(self.config.heartbeat_ticks as u64) {
            return;
        }
        let hibernating = self.groups.values().filter(|group| group.hibernation.is_some());
        let nodes: BTreeSet<u64> = hibernating.flat_map(|group| group.nodes.values().copied()).collect();
        for node in nodes.into_iter().filter(|node| *node != self.config.node) {
            self.transport.beat(node);
        }
    }
}

/// Ticks that a follower hibernates at the most: between half of `max` and all of it, so that not all wake at once.
fn nap(rng: &RngSource, id: GroupId, now: u64, max: u64) -> u64 {
    let half = (max / 2).max(1);
    half + rng.pure("replica.hibernate", id.0 ^ now.rotate_left(32)) % half
}

impl<M: Machine> Group<M> {
    /// Asks a peer that should lead and may hibernate for a sign of life.
    fn ask(&mut self, peer: u64) {
        let raft = &mut self.raw.raft;
        let mut question = Message {
            to: peer,
            from: self.peer,
            term: raft.term,
            commit: raft.raft_log.committed,
            ..Message::default()
        };
        question.set_msg_type(MessageType::MsgHeartbeatResponse);
        raft.msgs.push(question);
        self.questions += 1;
    }

    /// A leader with nothing to do, whose peers all have all of its log and are known to live.
    fn is_at_rest(&self) -> bool {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        let has = |peer: u64, progress: &raft::Progress| {
            peer == self.peer
                || (progress.matched == last
                    && progress.state != ProgressState::Snapshot
                    && self.is_heard(peer))
        };
        self.is_leader()
            && raft.raft_log.committed == last
            && self.applied.index == last
            && self.queued.is_empty()
            && self.waiters.is_empty()
            && self.sending.is_empty()
            && self.reads.is_idle()
            && raft.pending_read_count() == 0
            && raft.lead_transferee.is_none()
            && !raft.has_pending_conf()
            && raft.prs().iter().all(|(peer, progress)| has(*peer, progress))
            && self.is_of_voters()
    }

    /// Nobody is on its way in or out: a learner's node may die without anybody standing for election.
    fn is_of_voters(&self) -> bool {
        let state = self.conf_state();
        state.learners.is_empty() && state.learners_next.is_empty() && state.voters_outgoing.is_empty()
    }

    /// A follower of who says so that has what the leader had, and not more.
    fn may_hibernate(&self, news: &News) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Follower
            && raft.promotable()
            && (raft.term, raft.leader_id) == (news.term, news.from)
            && raft.raft_log.last_index() == news.commit
            && raft.raft_log.committed == news.commit
            && raft.raft_log.unstable.snapshot.is_none()
    }

    /// The nodes whose death must wake the group: a leader needs to know who is left, followers need their leader.
    fn relies_on(&self) -> impl Iterator<Item = u64> {
        let leader = self.raw.raft.leader_id;
        let all = self.is_leader();
        let others = self.nodes.iter().filter(move |(peer, _)| **peer != self.peer);
        others.filter(move |(peer, _)| all || **peer == leader).map(|(_, node)| *node)
    }
}

/// Whether a message leaves with the word: a leader's heartbeat that is the last one, a follower's question.
pub(crate) fn says_hibernate<M: Machine>(group: &mut Group<M>, message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgHeartbeat => group.hibernation.is_some(),
        MessageType::MsgHeartbeatResponse if group.questions > 0 => {
            group.questions -= 1;
            true
        }
        _ => false,
    }
}
