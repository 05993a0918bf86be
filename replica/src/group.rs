//! One raft group of this node: raft-rs's state machine, and everybody who waits for something of it.

use crate::config::{Config, GroupConfig, GroupId, Joint};
use crate::election::timeout_ticks;
use crate::error::{Error, ProposeError, ReadError};
use crate::group_log::GroupLog;
use crate::hibernate::Hibernation;
use crate::inbox::ProposeReply;
use crate::machine::{Machine, Role};
use crate::reads::Reads;
use crate::record::Place;
use crate::shared::GroupStatus;
use crate::storage::GroupStorage;
use nokv_env::{Instant, RngSource};
use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use std::collections::{BTreeMap, VecDeque};

/// Committed entries that one step takes up, in bytes: keeps a far behind group from starving the others.
const APPLY_BYTES: u64 = 8 << 20;
/// Entries that may be proposed but not committed, in bytes.
pub(crate) const UNCOMMITTED_BYTES: u64 = 512 << 20;

/// Who waits for the entry at some index.
pub(crate) struct Waiter<M: Machine> {
    /// The term it was proposed in: an entry of another term at the index is not the one.
    pub(crate) term: u64,
    /// A membership change, which raft may replace by an empty entry.
    pub(crate) is_change: bool,
    pub(crate) reply: ProposeReply<M>,
}

/// A snapshot on its way to a peer.
pub(crate) struct Sending {
    /// The log must keep what follows this index, or the peer needs another snapshot at once.
    pub(crate) index: u64,
    /// When it counts as lost.
    pub(crate) deadline: Instant,
    /// When the peer last fetched a part of it, as far as the deadline knows.
    fetched: Option<Instant>,
    /// When the connection to the peer broke last. What it fetched before says nothing any more.
    doubted: Option<Instant>,
}

impl Sending {
    pub(crate) fn new(index: u64, deadline: Instant) -> Self {
        Self { index, deadline, fetched: None, doubted: None }
    }
}

/// One group.
pub(crate) struct Group<M: Machine> {
    pub(crate) id: GroupId,
    pub(crate) peer: u64,
    pub(crate) raw: RawNode<GroupStorage>,
    /// On which node each peer lives.
    pub(crate) nodes: BTreeMap<u64, u64>,
    /// What the machine has applied.
    pub(crate) applied: Place,
    /// As the machine was told.
    pub(crate) role: Role,
    /// Proposals of this round.
    pub(crate) queued: VecDeque<(M::Proposal, ProposeReply<M>)>,
    /// By index.
    pub(crate) waiters: BTreeMap<u64, Waiter<M>>,
    pub(crate) reads: Reads,
    /// By peer.
    pub(crate) sending: BTreeMap<u64, Sending>,
    /// The commit index that was told to whoever watches.
    pub(crate) told_commit: u64,
    elections: u64,
    /// Ticks that have passed.
    ticks: u64,
    /// Ticks since something happened.
    pub(crate) idle_ticks: u64,
    /// Set while the group does not tick.
    pub(crate) hibernation: Option<Hibernation>,
    /// So many of the next answers to heartbeats are questions: does the leader still know this peer?
    pub(crate) questions: usize,
    /// On a leader: the tick at which each peer answered last. raft's own mark is reset at every election timeout, so
    /// who looks just then would find nobody alive.
    heard: BTreeMap<u64, u64>,
    /// Ticks of silence after which a peer counts as silent: an election timeout.
    patience: u64,
    /// The election timeout, and the (term, elections) it was drawn for.
    timeout: Option<(u64, u64, usize)>,
}

impl<M: Machine> Group<M> {
    /// A group whose log was made to fit `group` (see `recover`).
    pub(crate) fn new(config: &Config, group: GroupConfig, log: GroupLog) -> Result<Self, Error> {
        let fault = |what: String| Error::Group { group: group.group, what };
        let settings = raft::Config {
            id: group.peer,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: group.applied_index,
            max_size_per_msg: config.max_message_bytes,
            max_inflight_msgs: config.max_inflight,
            check_quorum: true,
            pre_vote: true,
            // Off: raft-rs 0.7 merges new entries into a waiting empty message without comparing its index. When the
            // next index went back in between (unreachable, a rejection), followers file the entries one too high.
            batch_append: false,
            max_uncommitted_size: UNCOMMITTED_BYTES.max(config.max_message_bytes),
            max_committed_size_per_ready: APPLY_BYTES,
            ..raft::Config::default()
        };
        let applied =
            Place { index: group.applied_index, term: log.term(group.applied_index).unwrap_or_default() };
        let storage = GroupStorage::new(log, conf_state(&group.voters, &group.learners, &group.joint));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw =
            RawNode::new(&settings, storage, &logger).map_err(|error| fault(format!("raft: {error}")))?;
        Ok(Self {
            id: group.group,
            peer: group.peer,
            raw,
            nodes: group.peers,
            applied,
            role: Role::default(),
            queued: VecDeque::new(),
            waiters: BTreeMap::new(),
            reads: Reads::default(),
            sending: BTreeMap::new(),
            told_commit: 0,
            elections: 0,
            ticks: 0,
            idle_ticks: 0,
            hibernation: None,
            questions: 0,
            heard: BTreeMap::new(),
            patience: 0,
            timeout: None,
        })
    }

    pub(crate) fn log(&self) -> &GroupLog {
        &self.raw.store().log
    }

    pub(crate) fn log_mut(&mut self) -> &mut GroupLog {
        &mut self.raw.mut_store().log
    }

    pub(crate) fn conf_state(&self) -> ConfState {
        let mut state = self.raw.raft.prs().conf().to_conf_state();
        // They come out of hash sets.
        for peers in
            [&mut state.voters, &mut state.learners, &mut state.voters_outgoing, &mut state.learners_next]
        {
            peers.sort_unstable();
        }
        state
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The peer that leads, if known.
    pub(crate) fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|leader| *leader != 0)
    }

    /// This peer is the only voter: it can lead at once.
    pub(crate) fn is_alone(&self) -> bool {
        let state = self.conf_state();
        state.voters == [self.peer] && state.voters_outgoing.is_empty()
    }

    /// Created by a message, waiting for its first snapshot: it knows no members.
    fn is_blank(&self) -> bool {
        self.log().last_index() == 0 && self.raw.raft.prs().iter().len() == 0
    }

    /// An election may start now. The only voter wins it at once, and raft-rs wants its log to be durable then.
    pub(crate) fn may_campaign(&self) -> bool {
        self.raw.raft.raft_log.unstable_entries().is_empty() || !self.is_alone()
    }

    /// The only voter need not wait for an election timeout.
    pub(crate) fn lead_if_alone(&mut self) {
        if self.is_alone() && self.may_campaign() {
            let _ = self.raw.campaign();
        }
    }

    /// Lets a tick pass. True when there may be something to do.
    pub(crate) fn tick(&mut self, rng: &RngSource, election_ticks: usize) -> bool {
        let term = self.raw.raft.term;
        let ticks = match self.timeout {
            Some((drawn_term, elections, ticks)) if (drawn_term, elections) == (term, self.elections) => {
                ticks
            }
            _ => timeout_ticks(rng, election_ticks, self.id, self.peer, term, self.elections),
        };
        self.timeout = Some((term, self.elections, ticks));
        self.raw.raft.set_randomized_election_timeout(ticks);
        let active = self.raw.tick();
        self.ticks += 1;
        self.idle_ticks += 1;
        self.patience = election_ticks as u64;
        let electing = matches!(self.raw.raft.state, StateRole::PreCandidate | StateRole::Candidate);
        if electing && self.raw.raft.election_elapsed == 0 {
            self.elections += 1;
        }
        active
    }

    /// Takes a message from a peer on `node`.
    pub(crate) fn step(&mut self, node: u64, message: Message) {
        self.nodes.entry(message.from).or_insert(node);
        match message.get_msg_type() {
            MessageType::MsgAppend if self.is_blank() => return self.ask_for_snapshot(&message),
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            _ => {}
        }
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(group = %self.id, %error, "raft message refused");
        }
    }

    /// Notes whose answer has arrived, when it is for this leadership.
    pub(crate) fn hear(&mut self, message: &Message) {
        let is_answer = matches!(
            message.get_msg_type(),
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse
        );
        if is_answer && self.is_leader() && message.term == self.raw.raft.term {
            self.heard.insert(message.from, self.ticks);
        }
    }

    /// Whether a peer answered within the last election timeout.
    pub(crate) fn is_heard(&self, peer: u64) -> bool {
        self.heard.get(&peer).is_some_and(|at| self.ticks - at <= self.patience)
    }

    /// Answers the leader's entries with a wish for a snapshot. A blank peer must not take entries, even from the
    /// first on: the members that the group began with are in no entry.
    fn ask_for_snapshot(&mut self, append: &Message) {
        let mut heartbeat =
            Message { to: append.to, from: append.from, term: append.term, ..Message::default() };
        heartbeat.set_msg_type(MessageType::MsgHeartbeat);
        let stepped = self.raw.step(heartbeat);
        if stepped.is_err() || self.raw.raft.term != append.term {
            return;
        }
        let mut wish = Message {
            to: append.from,
            from: self.peer,
            term: append.term,
            index: append.index,
            reject: true,
            request_snapshot: 1,
            ..Message::default()
        };
        wish.set_msg_type(MessageType::MsgAppendResponse);
        self.raw.raft.msgs.push(wish);
    }

    /// Whether this is a snapshot that brings something. raft ignores the others, but answers where it stands.
    pub(crate) fn would_install(&self, message: &Message) -> bool {
        let (raft, metadata) = (&self.raw.raft, message.get_snapshot().get_metadata());
        message.get_msg_type() == MessageType::MsgSnapshot
            && message.term >= raft.term
            && metadata.index > raft.raft_log.committed
            && !raft.raft_log.match_term(metadata.index, metadata.term)
    }

    /// Whether raft has taken a snapshot that the next round will install.
    pub(crate) fn installs(&self) -> bool {
        self.raw.raft.raft_log.unstable.snapshot.is_some()
    }

    /// The receiver of `message` may not be hosted on its node yet: it never acknowledged anything to this leader, or
    /// it is a voter that a candidate needs. A new voter may be the last one missing for a majority.
    pub(crate) fn may_be_missing(&self, message: &Message) -> bool {
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => true,
            _ => {
                let progress = self.raw.raft.prs().get(message.to);
                self.is_leader() && progress.is_some_and(|progress| progress.matched == 0)
            }
        }
    }

    /// The role, if it is not what the machine was told last.
    pub(crate) fn changed_role(&mut self) -> Option<Role> {
        let role = Role { leader: self.leader(), term: self.raw.raft.term, is_leader: self.is_leader() };
        if role == self.role {
            return None;
        }
        self.role = role;
        Some(role)
    }

    /// The peer is fetching a snapshot: it has until `deadline` for its next part.
    pub(crate) fn notice_fetch(&mut self, peer: u64, fetched: Instant, deadline: Instant) {
        if let Some(sending) = self.sending.get_mut(&peer)
            && sending.fetched.is_none_or(|before| before < fetched)
            && sending.doubted.is_none_or(|doubted| doubted < fetched)
        {
            (sending.fetched, sending.deadline) = (Some(fetched), deadline);
        }
    }

    /// Reports snapshots that were not acknowledged in time as lost; forgets those that arrived. True when all did.
    pub(crate) fn check_sending(&mut self, now: Instant) -> bool {
        self.notice_arrivals();
        let raft = &self.raw.raft;
        let is_over = |peer: u64, sending: &Sending| {
            let progress = raft.prs().get(peer);
            let arriving = progress.is_some_and(|progress| progress.state == ProgressState::Snapshot);
            raft.state != StateRole::Leader || !arriving || now > sending.deadline
        };
        let over = self.sending.iter().filter(|(peer, sending)| is_over(**peer, sending));
        let over: Vec<(u64, u64)> = over.map(|(peer, sending)| (*peer, sending.index)).collect();
        let has = |peer, index| raft.prs().get(peer).is_some_and(|progress| progress.matched >= index);
        let all_arrived = over.iter().all(|(peer, index)| has(*peer, *index));
        for (peer, _) in over {
            self.snapshot_lost(peer);
        }
        self.sending.is_empty() && all_arrived
    }

    /// The acknowledgement of a snapshot may be lost, for instance when the peer restarts right after it installed
    /// it. Its commit index, which comes with every heartbeat, says the same.
    fn notice_arrivals(&mut self) {
        let prs = self.raw.raft.prs();
        let has_arrived = |peer: u64, sending: &Sending| {
            prs.get(peer).is_some_and(|progress| {
                progress.state == ProgressState::Snapshot && progress.committed_index >= sending.index
            })
        };
        let arrived = self.sending.iter().filter(|(peer, sending)| has_arrived(**peer, sending));
        let arrived: Vec<u64> = arrived.map(|(peer, _)| *peer).collect();
        for peer in arrived {
            self.sending.remove(&peer);
            self.raw.report_snapshot(peer, SnapshotStatus::Finish);
        }
    }

    /// The connection to `peer` broke: a snapshot that was handed over there may have died in its queue.
    pub(crate) fn doubt_snapshot(&mut self, peer: u64, now: Instant, deadline: Instant) {
        if let Some(sending) = self.sending.get_mut(&peer) {
            sending.doubted = Some(now);
            sending.deadline = sending.deadline.min(deadline);
        }
    }

    /// A snapshot did not arrive: raft may send another. Without effect if it did arrive.
    pub(crate) fn snapshot_lost(&mut self, peer: u64) {
        self.sending.remove(&peer);
        if self.raw.raft.prs().get(peer).is_some() {
            self.raw.report_snapshot(peer, SnapshotStatus::Failure);
        }
    }

    /// The log must keep what follows this index for snapshots that are on their way.
    pub(crate) fn needed_by_snapshots(&self) -> u64 {
        self.sending.values().map(|sending| sending.index).min().unwrap_or(u64::MAX)
    }

    /// Forgets callers who gave up.
    pub(crate) fn sweep(&mut self) {
        self.waiters.retain(|_, waiter| !waiter.reply.is_closed());
    }

    /// Everything up to `index` was skipped by a snapshot: the outcome of these proposals is not known here.
    pub(crate) fn skip_waiters(&mut self, index: u64) {
        let later = self.waiters.split_off(&(index + 1));
        for waiter in std::mem::replace(&mut self.waiters, later).into_values() {
            let _ = waiter.reply.send(Err(ProposeError::Unknown));
        }
    }

    /// Tells everybody that there will be no answer.
    pub(crate) fn abandon(&mut self, error: &ReadError) {
        self.reads.fail(error);
        for (_, reply) in self.queued.drain(..) {
            let _ = reply.send(Err(ProposeError::Unknown));
        }
        self.skip_waiters(u64::MAX - 1);
    }

    /// Brings a status up to date; its lists only when `fully`.
    pub(crate) fn describe(&self, status: &mut GroupStatus, fully: bool) {
        let raft = &self.raw.raft;
        status.peer = self.peer;
        status.leader = self.leader();
        status.term = raft.term;
        status.is_leader = self.is_leader();
        status.commit = raft.raft_log.committed;
        status.applied = self.applied.index;
        status.first_index = self.log().base().index + 1;
        status.last_index = raft.raft_log.last_index();
        status.proposals = self.waiters.len();
        status.hibernates = self.hibernation.is_some();
        if fully {
            let state = self.conf_state();
            status.in_transition = !state.voters_outgoing.is_empty();
            (status.voters, status.learners) = (state.voters, state.learners);
            let progress: BTreeMap<u64, u64> = raft
                .prs()
                .iter()
                .filter(|_| self.is_leader())
                .map(|(peer, progress)| (*peer, progress.matched))
                .collect();
            let others = progress.iter().filter(|(peer, _)| **peer != self.peer);
            status.matched = others.map(|(peer, matched)| (*peer, *matched)).collect();
            let answers = |peer: &u64| *peer == self.peer || self.is_heard(*peer);
            status.active = progress.keys().copied().filter(answers).collect();
        }
    }
}

/// raft's view of a membership.
pub(crate) fn conf_state(voters: &[u64], learners: &[u64], joint: &Joint) -> ConfState {
    ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        voters_outgoing: joint.voters_outgoing.clone(),
        learners_next: joint.learners_next.clone(),
        auto_leave: joint.auto_leave,
        ..ConfState::default()
    }
}

/// The transitional part of raft's view.
pub(crate) fn joint_of(state: &ConfState) -> Joint {
    Joint {
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
    }
}
