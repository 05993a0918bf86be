//! The state machine above the log, as the driver sees it.

use crate::config::{GroupConfig, GroupId, Joint};
use crate::error::Fatal;
use bytes::Bytes;
use nokv_env::{BoxFuture, Instant};
use nokv_proto::meta::v1::RegionDescriptor;
use std::collections::BTreeMap;

/// A committed entry.
#[derive(Debug, Clone, Copy)]
pub struct Applied<'a> {
    /// Its place in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// What was proposed. Never empty.
    pub data: &'a Bytes,
}

/// What must be applied in another group of this node before an entry can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// The other group.
    pub group: GroupId,
    /// Up to here. Committed, and in the group's log on this node.
    pub index: u64,
    /// The term of the entry there.
    pub term: u64,
}

/// A committed change of membership, and the membership from here on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfChangeInfo {
    /// Voting peers.
    pub voters: Vec<u64>,
    /// Learning peers.
    pub learners: Vec<u64>,
    /// A transition that this change began; empty otherwise.
    pub joint: Joint,
    /// What changed; empty when this only ends a transition.
    pub changes: Vec<PeerChange>,
    /// What the proposer attached. Empty when this only ends a transition.
    pub context: Bytes,
}

/// One step of a change of membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerChange {
    /// The peer is to vote.
    AddVoter(u64),
    /// The peer is to receive the log without a vote.
    AddLearner(u64),
    /// The peer is to leave.
    Remove(u64),
}

/// A change of membership to propose. One change is made at once; several go through a transition in which both
/// majorities are needed, which ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfChange {
    /// The steps, made together.
    pub changes: Vec<PeerChange>,
    /// Travels to [`Machine::apply_conf_change`] on every replica.
    pub context: Bytes,
    /// For which state of the membership it was decided, in the machine's own count; only [`Machine::admits`] sees it.
    /// 0: for any.
    pub made_for: u64,
}

/// A machine's state at exactly (index, term).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineSnapshot {
    /// Last entry whose effect is in `data`.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Voting peers at `index`.
    pub voters: Vec<u64>,
    /// Learning peers at `index`.
    pub learners: Vec<u64>,
    /// A membership transition under way at `index`.
    pub joint: Joint,
    /// The state in the machine's own format, or what another machine needs to fetch it with.
    pub data: Bytes,
}

/// What a machine says to a snapshot that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// It can be installed now.
    Install,
    /// Its content has yet to be fetched. The driver keeps the message until [`crate::Handle::snapshot_fetched`].
    Wait,
    /// It will not be installed. raft sends another one later.
    Refuse,
}

/// How a receiver is getting on with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetching {
    /// Nothing was heard of it.
    Unknown,
    /// It took a part of it, the last one at this time.
    Took(Instant),
    /// It will not have it. Told once.
    GaveUp,
}

/// This peer's part in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Role {
    /// The peer that leads, if known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// This peer leads.
    pub is_leader: bool,
}

/// What the log means. One machine serves all groups of a driver; its methods run in the driver's loop, so they must
/// not block for long.
pub trait Machine: Send + 'static {
    /// What callers hand in.
    type Proposal: Send + 'static;
    /// What they get after it was applied.
    type Reply: Send + 'static;

    /// Called on the leader, right before the entry gets (term, index). `Ok`: the bytes to propose, not empty. `Err`:
    /// the answer, without proposing. After `Ok` the driver may still refuse an entry that is too large; the next
    /// proposal then gets the same index.
    fn propose(
        &mut self,
        group: GroupId,
        term: u64,
        index: u64,
        proposal: Self::Proposal,
    ) -> Result<Bytes, Self::Reply>;

    /// Whether a change of membership may be proposed. Called on the leader when every earlier change is applied, so what
    /// the machine knows of the members is what the change will meet.
    fn admits(&self, group: GroupId, change: &ConfChange) -> Result<(), String> {
        let _ = (group, change);
        Ok(())
    }

    /// Applies a committed entry: a pure function of the log. Must record (index, term) atomically with the effect.
    fn apply(&mut self, group: GroupId, entry: Applied<'_>) -> Result<Self::Reply, Fatal>;

    /// What must be applied in another group of this node before [`Machine::apply`] gets the entry. A pure function of
    /// the log.
    fn needs(&self, group: GroupId, entry: Applied<'_>) -> Option<Needed> {
        let _ = (group, entry);
        None
    }

    /// Groups that the last entry or snapshot took over: they are not hosted here any more. Their logs stay until
    /// [`crate::Handle::remove_group`].
    fn take_absorbed(&mut self) -> Vec<GroupId> {
        Vec::new()
    }

    /// An entry without effect was committed: records the applied position only.
    fn apply_empty(&mut self, group: GroupId, index: u64, term: u64) -> Result<(), Fatal>;

    /// The membership changed. Must record it (joint part included) atomically with (index, term).
    fn apply_conf_change(
        &mut self,
        group: GroupId,
        index: u64,
        term: u64,
        change: ConfChangeInfo,
    ) -> Result<Self::Reply, Fatal>;

    /// A snapshot of the state at exactly the applied (index, term). Large states are not in it: the machine keeps them
    /// for receivers to fetch, and must not do more here than note what there is.
    fn snapshot(&mut self, group: GroupId) -> Result<MachineSnapshot, Fatal>;

    /// A snapshot that was made earlier, of the members as they are now and of `at_least` this index, and that a receiver
    /// may go on to fetch. `None`: a new one is better.
    fn kept_snapshot(&mut self, group: GroupId, at_least: u64) -> Option<MachineSnapshot> {
        let _ = (group, at_least);
        None
    }

    /// Whether this node may bring others up to date. False: they wait for another leader.
    fn may_send_snapshots(&self, group: GroupId) -> bool {
        let _ = group;
        true
    }

    /// A snapshot with this data goes to `peer`; what is known of an earlier one does not matter any more.
    fn sent_snapshot(&mut self, group: GroupId, peer: u64, data: &Bytes) {
        let _ = (group, peer, data);
    }

    /// How `peer` is getting on with the snapshot of the group that was sent to it last.
    fn fetching(&mut self, group: GroupId, peer: u64) -> Fetching {
        let _ = (group, peer);
        Fetching::Unknown
    }

    /// Every receiver has the group's snapshots now.
    fn release_snapshots(&mut self, group: GroupId) {
        let _ = group;
    }

    /// Replaces the state by a snapshot, durably, before the future resolves.
    fn install(&mut self, group: GroupId, snapshot: MachineSnapshot) -> BoxFuture<'_, Result<(), Fatal>>;

    /// The leader or the term changed. Called before any proposal of the new term.
    fn role_changed(&mut self, group: GroupId, role: Role);

    /// Highest index whose effect is durable in the machine. The log may be purged up to it.
    fn durable_index(&mut self, group: GroupId) -> u64;

    /// Called now and then when the raft log holds too much: make the group durable up to its applied index soon,
    /// without blocking.
    fn request_durable(&mut self, group: GroupId);

    /// Messages for a group that is not hosted here arrived, with what the sender, a leader or candidate, says about it.
    /// `Some`: host it, as an empty peer `to_peer` (no voters, index 0) that will get a snapshot. The sender's knowledge
    /// may be old: refuse peers that are known to have left.
    fn create_group(&mut self, region: &RegionDescriptor, to_peer: u64) -> Option<GroupConfig> {
        let _ = (region, to_peer);
        None
    }

    /// What to tell a node that may not host its peer of the group yet; the other side of [`Machine::create_group`].
    fn describe(&self, group: GroupId) -> Option<RegionDescriptor> {
        let _ = group;
        None
    }

    /// Whether the driver may forget the group when it is asked to. False: somebody lives there again.
    fn may_forget(&self, group: GroupId) -> bool {
        let _ = group;
        true
    }

    /// Whether [`Machine::take_born`] has something.
    fn has_born(&self) -> bool {
        false
    }

    /// Groups that entries brought to life, to be hosted here from now on, each applied up to [`crate::BIRTH`]. Before
    /// the future resolves they are durable together with those entries, so the machine names them when the driver
    /// starts again. Were a group's log durable first, a crash and a snapshot of the parent could leave a log with
    /// promises in it and nothing to apply it to.
    fn take_born(&mut self) -> BoxFuture<'_, Result<Vec<GroupConfig>, Fatal>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// A snapshot arrived that raft would take. `snapshot` is what [`Machine::snapshot`] made on another node. After
    /// [`Reception::Wait`] the same one is shown again when it was fetched.
    fn receive(&mut self, group: GroupId, snapshot: &MachineSnapshot) -> Reception {
        let _ = (group, snapshot);
        Reception::Install
    }

    /// A snapshot arrived for which there is no room. Its sender should hear of that: it sends none and no entries while
    /// it believes this one to be on its way.
    fn turn_away(&mut self, group: GroupId, snapshot: &MachineSnapshot) {
        let _ = (group, snapshot);
    }

    /// A snapshot that was received or fetched will not be installed after all: raft knows better.
    fn dismiss(&mut self, group: GroupId) {
        let _ = group;
    }

    /// Proof from outside that this node's peer left the group: its present members, `region`. The machine must remember
    /// durably that the peer is gone, unless it knows better.
    fn retire(&mut self, group: GroupId, region: &RegionDescriptor) -> Result<(), Fatal> {
        let _ = (group, region);
        Ok(())
    }

    /// The group is not hosted any more.
    fn forget(&mut self, group: GroupId) {
        let _ = group;
    }

    /// On which node each peer lives, asked after a membership change or snapshot. `None`: nothing new.
    fn peer_nodes(&self, group: GroupId) -> Option<BTreeMap<u64, u64>> {
        let _ = group;
        None
    }
}
