//! What a driver and its groups are started with.

use crate::error::Error;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A raft group: a region on stores, the one root group on meta-roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// Segments of the raft log from which on it is long.
pub(crate) const SEGMENTS_MAX: usize = 8;

/// Settings of one driver. Start from [`Config::new`].
#[derive(Debug, Clone)]
pub struct Config {
    /// "root" or "region": keeps messages and facts of the two kinds of groups apart.
    pub domain: &'static str,
    /// This node towards the transport: store id or root node id.
    pub node: u64,
    /// Directory of the raft log. Created when missing.
    pub log_dir: PathBuf,
    /// Size from which on a log segment is followed by a new one. Small segments are removed sooner and rolled oftener.
    pub log_segment_bytes: u64,
    /// Length of a raft tick.
    pub tick: Duration,
    /// Ticks without a leader before an election starts; the actual number is drawn between this and twice this.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats; well below `election_ticks`.
    pub heartbeat_ticks: usize,
    /// Ticks without activity after which a group hibernates; 0: never.
    pub hibernate_after_ticks: u64,
    /// Ticks after which a follower that hibernates looks whether it still belongs to its group.
    pub hibernate_ticks_max: u64,
    /// Entries in one append message, in bytes (at least one entry).
    pub max_message_bytes: u64,
    /// Append messages to one follower that may be unacknowledged.
    pub max_inflight: usize,
    /// Applied entries kept for slow followers, a group. Who is further behind gets a snapshot.
    pub log_keep_entries: u64,
    /// Bytes of applied entries kept for slow followers, a group: these entries are in memory.
    pub log_keep_bytes: u64,
    /// Segments of the raft log from which on groups that hold back old ones are pressed to let go.
    pub log_segments_max: usize,
    /// Largest entry that may be proposed. Must fit, with its message, into `nokv_env::net::MESSAGE_BYTES_MAX`.
    pub entry_bytes_max: usize,
    /// Proposals of one group that may wait for their outcome; more are answered with `Busy`.
    pub proposals_max: usize,
    /// Requests (proposals, reads, administration) that may wait for the driver; more are answered with `Busy`.
    pub requests_max: usize,
    /// Batches of raft messages that may wait for the driver; more are dropped.
    pub messages_max: usize,
    /// Bytes of raft messages that may wait for the driver; more are dropped.
    pub messages_bytes_max: u64,
    /// Bytes of raft messages that may wait for one other node; more are dropped.
    pub outgoing_bytes_max: u64,
    /// A stream to a node from which nothing was heard for this long is replaced by a new one.
    pub stall_timeout: Duration,
    /// A snapshot that was not acknowledged after this long is sent again.
    pub snapshot_timeout: Duration,
}

impl Config {
    /// The defaults of a store's or meta-root's driver.
    pub fn new(domain: &'static str, node: u64, log_dir: impl Into<PathBuf>) -> Self {
        Self {
            domain,
            node,
            log_dir: log_dir.into(),
            log_segment_bytes: 64 << 20,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 2,
            hibernate_after_ticks: 0,
            hibernate_ticks_max: 6000,
            max_message_bytes: 1 << 20,
            max_inflight: 256,
            log_keep_entries: 4096,
            log_keep_bytes: 16 << 20,
            log_segments_max: SEGMENTS_MAX,
            entry_bytes_max: 64 << 20,
            proposals_max: 4096,
            requests_max: 8192,
            messages_max: 4096,
            messages_bytes_max: 256 << 20,
            outgoing_bytes_max: 128 << 20,
            stall_timeout: Duration::from_secs(3),
            snapshot_timeout: Duration::from_secs(30),
        }
    }

    /// Whether the settings make sense together.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let fault = if self.node == 0 {
            "the node id is zero"
        } else if self.tick.is_zero() {
            "the tick is zero"
        } else if self.heartbeat_ticks == 0 || self.election_ticks <= self.heartbeat_ticks {
            "election_ticks must be larger than heartbeat_ticks, and both larger than zero"
        } else if self.max_inflight == 0 || self.requests_max == 0 || self.messages_max == 0 {
            "a queue has no room"
        } else if self.entry_bytes_max > nokv_env::net::MESSAGE_BYTES_MAX / 2 {
            "entry_bytes_max does not fit into a message"
        } else {
            return Ok(());
        };
        Err(Error::Config(fault.to_owned()))
    }
}

/// The part of a membership that exists only while a group moves from one configuration to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joint {
    /// Voters of the configuration being left; empty when the group is in no transition.
    pub voters_outgoing: Vec<u64>,
    /// Voters being left that will be learners.
    pub learners_next: Vec<u64>,
    /// The leader ends the transition by itself.
    pub auto_leave: bool,
}

/// One group to host, as the machine recovered it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupConfig {
    /// The group.
    pub group: GroupId,
    /// The raft id of this node's peer in it. Never zero.
    pub peer: u64,
    /// Index of the last entry whose effect is in the machine's durable state; 0 for a group at its beginning.
    pub applied_index: u64,
    /// Term of that entry; 0 when unknown.
    pub applied_term: u64,
    /// Voting peers at `applied_index`. Empty (with no learners): a peer that waits for a snapshot.
    pub voters: Vec<u64>,
    /// Learning peers at `applied_index`.
    pub learners: Vec<u64>,
    /// A membership transition under way at `applied_index`.
    pub joint: Joint,
    /// On which node each peer lives.
    pub peers: BTreeMap<u64, u64>,
    /// The group came out of another one's log (see [`crate::Machine::take_born`]) and began at [`BIRTH`].
    pub born: bool,
}

/// Where the log of a group begins that came out of another group's log: index and term. Every replica begins with the
/// same state there, which no snapshot has to bring.
pub const BIRTH: (u64, u64) = (5, 5);
