//! Hooks through which a simulation watches the product and forces its rare branches.
//!
//! Production runs with [`NoHooks`]: every call is empty. Nothing here changes what the product promises;
//! a `chance` point may only choose between behaviours that are both correct.
//!
//! Facts are told where they become true, and are small: numbers, no text where it is hot. Whoever has to work for a
//! fact (hash an entry, walk a log) asks [`Hooks::watching`] first.

/// A member of a raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// "root" (the group of the meta-roots) or "region".
    pub domain: &'static str,
    /// The raft group.
    pub group: u64,
    /// The raft id of the peer.
    pub node: u64,
}

/// What coordinators are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Ids.
    Ids,
    /// Timestamps.
    Timestamps,
    /// Routes; nothing is handed out.
    Routes,
}

/// Something a peer says to another that must stay true after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// "You have my vote."
    Vote {
        /// The term of the vote.
        term: u64,
        /// Who has it.
        candidate: u64,
    },
    /// "Vote for me", which includes the candidate's own vote.
    Candidacy {
        /// The term it wants to lead.
        term: u64,
    },
    /// "I have the log up to here."
    Accept {
        /// The term it says so in.
        term: u64,
        /// The last index it has.
        index: u64,
        /// The term of the entry there; 0 when it is already gone again.
        entry_term: u64,
    },
}

/// A region as somebody knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its id.
    pub id: u64,
    /// Grows when the range changes.
    pub version: u64,
    /// Grows when the members change.
    pub conf_version: u64,
    /// First key.
    pub start: Vec<u8>,
    /// Key behind the last; empty = no end.
    pub end: Vec<u8>,
}

/// Which coordinator's numbers count, as a meta-root has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Authority {
    /// The newest lease generation.
    pub generation: u64,
    /// Whether that generation may serve: neither released nor sealed.
    pub live: bool,
    /// The fence of ids.
    pub ids: u64,
    /// The fence of timestamps.
    pub timestamps: u64,
    /// What that generation goes on above: ids, timestamps, cluster epoch.
    pub inherited: [u64; 3],
    /// The newest generation that was sealed; 0 = none.
    pub sealed: u64,
    /// The most that it may have handed out: ids, timestamps, cluster epoch.
    pub consumed: [u64; 3],
    /// The generation that closed it; 0 = none yet.
    pub closed_by: u64,
}

/// Something a protocol did that invariant checkers want to see at the moment it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A peer begins a life with what its disk has. Its entries follow as [`Fact::Entry`], then [`Fact::Synced`].
    Started {
        /// The peer.
        peer: Peer,
        /// Last index that the log lacks because the machine's durable state has it.
        base: u64,
        /// Its term.
        base_term: u64,
        /// Last index in the log.
        last: u64,
        /// The term.
        term: u64,
        /// The vote in that term; 0 = none.
        vote: u64,
        /// Highest index known to be committed.
        commit: u64,
        /// Highest index whose effect the machine is believed to have.
        applied: u64,
        /// Highest index whose effect the machine has durably, as it says itself.
        durable: u64,
    },
    /// Who votes in a group, as a peer has it from now on.
    Members {
        /// The peer.
        peer: Peer,
        /// Voters.
        voters: Vec<u64>,
        /// Voters of the configuration being left; empty outside of a transition.
        outgoing: Vec<u64>,
    },
    /// An entry was written into a peer's log, replacing what was there and behind; not durable yet.
    Entry {
        /// The peer.
        peer: Peer,
        /// Where.
        index: u64,
        /// The term it was proposed in.
        term: u64,
        /// A hash of the entry.
        digest: u64,
    },
    /// Everything written into a peer's log so far is durable.
    Synced {
        /// The peer.
        peer: Peer,
        /// Last index in the log.
        last: u64,
        /// The term.
        term: u64,
        /// The vote in that term; 0 = none.
        vote: u64,
    },
    /// A peer's log forgot the entries up to `index`.
    Purged {
        /// The peer.
        peer: Peer,
        /// Up to here.
        index: u64,
        /// Highest index whose effect the machine has durably.
        durable: u64,
    },
    /// A promise left the node.
    Promised {
        /// Who promised.
        peer: Peer,
        /// What.
        promise: Promise,
    },
    /// A peer became leader of its group in `term`.
    Leader {
        /// The leader.
        peer: Peer,
        /// The term it leads.
        term: u64,
    },
    /// A peer gave its vote in `term` to `candidate`, durably.
    Vote {
        /// The voter.
        peer: Peer,
        /// The term of the vote.
        term: u64,
        /// Who got the vote.
        candidate: u64,
    },
    /// A peer learned that everything up to `index` is committed.
    Committed {
        /// The peer.
        peer: Peer,
        /// Up to here.
        index: u64,
        /// Term of the entry there.
        entry_term: u64,
        /// The peer's term.
        term: u64,
    },
    /// A peer applied the entry at `index`; `digest` is a hash of the entry.
    Applied {
        /// The applying peer.
        peer: Peer,
        /// Index of the entry.
        index: u64,
        /// Term of the entry.
        term: u64,
        /// Hash of the entry.
        digest: u64,
    },
    /// A peer is about to replace its state by a snapshot, and remembers that durably.
    Installing {
        /// The receiving peer.
        peer: Peer,
        /// Last index in the snapshot.
        index: u64,
        /// Term of that index.
        term: u64,
    },
    /// A peer replaced its state by a snapshot at `index`, durably.
    Installed {
        /// The receiving peer.
        peer: Peer,
        /// Last index in the snapshot.
        index: u64,
        /// Term of that index.
        term: u64,
    },
    /// What a peer's rows add up to, at exactly this applied index. Told of what a snapshot is made of, and of what came
    /// of one.
    Rows {
        /// The peer.
        peer: Peer,
        /// The applied index.
        index: u64,
        /// A hash of the rows.
        digest: u64,
    },
    /// A peer left its node for good: its log and votes are forgotten.
    Removed {
        /// The peer.
        peer: Peer,
    },
    /// A linearizable read arrived.
    ReadAsked {
        /// Where.
        peer: Peer,
        /// Tells the reads of a peer's life apart.
        read: u64,
    },
    /// A linearizable read may look at the state now.
    ReadServed {
        /// Who serves it.
        peer: Peer,
        /// Which read.
        read: u64,
        /// What the peer has applied.
        applied: u64,
        /// The term in which the peer's leadership was confirmed; 0 = unknown.
        term: u64,
    },
    /// A store served a read of a key at a timestamp, as good as its leader's.
    Shown {
        /// The user key.
        key: Vec<u8>,
        /// The read's timestamp.
        version: u64,
    },
    /// A replica applied a commit of a key.
    Written {
        /// The user key.
        key: Vec<u8>,
        /// The commit's timestamp.
        version: u64,
    },
    /// A meta-root applied something that concerns the authority of coordinators.
    Authority {
        /// The meta-root node.
        node: u64,
        /// The applied index.
        index: u64,
        /// What it says from now on.
        now: Authority,
    },
    /// A meta-root applied a change of regions: all of them, from now on.
    Regions {
        /// The meta-root node.
        node: u64,
        /// The applied index.
        index: u64,
        /// By id.
        regions: Vec<Region>,
    },
    /// A peer knows its region like this from now on.
    Region {
        /// The peer.
        peer: Peer,
        /// The region.
        region: Region,
    },
    /// The meta-root group granted lease `generation` to `holder` (seen at apply, once a node).
    Lease {
        /// The meta-root node that applied the grant; 0 = the coordinator heard of its grant.
        node: u64,
        /// The coordinator that holds the lease now.
        holder: String,
        /// Grows with every change of holder.
        generation: u64,
    },
    /// A coordinator handed out `count` numbers from `first`.
    Granted {
        /// Of what.
        duty: Duty,
        /// The lease generation it served under.
        generation: u64,
        /// The lowest.
        first: u64,
        /// How many.
        count: u64,
    },
    /// A client believed a coordinator's reply. Routes have no numbers.
    Accepted {
        /// Tells clients of one node apart.
        client: u64,
        /// Of what.
        duty: Duty,
        /// The lease generation of the reply.
        generation: u64,
        /// The newest generation that is sealed, as the reply says; 0 = none.
        sealed: u64,
        /// The lowest.
        first: u64,
        /// How many.
        count: u64,
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
    /// Whether anybody listens to facts: those that cost work are told only then.
    fn watching(&self) -> bool {
        false
    }
}

/// The hooks of production: none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {}
