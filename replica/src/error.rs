//! What can go wrong, named by who must act.

use crate::config::GroupId;
use std::path::PathBuf;

/// Why a driver could not start, or stopped. The operator acts.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings contradict each other.
    #[error("raft configuration: {0}")]
    Config(String),
    /// The raft log on disk is unusable.
    #[error("raft log: {0}")]
    Log(#[from] nokv_engine::Error),
    /// The raft log lacks entries that the machine has applied: it was lost, replaced or cut. Restore it, or remove the
    /// whole replica and let the group send it a snapshot; going on with it could break promises made to peers.
    #[error("{group}: the raft log in {} ends at {last}, but entries up to {applied} are applied", dir.display())]
    LogBehind {
        /// The group.
        group: GroupId,
        /// The raft log's directory.
        dir: PathBuf,
        /// Last entry in the raft log.
        last: u64,
        /// Last entry applied by the machine.
        applied: u64,
    },
    /// The machine's state is older than the raft log reaches back.
    #[error("{group}: the raft log in {} begins after {first}, but only entries up to {applied} are applied", dir.display())]
    MachineBehind {
        /// The group.
        group: GroupId,
        /// The raft log's directory.
        dir: PathBuf,
        /// Everything up to here was removed from the raft log.
        first: u64,
        /// Last entry applied by the machine.
        applied: u64,
    },
    /// Raft log and machine do not belong together.
    #[error("{group}: the raft log in {} and the applied state disagree: {what}", dir.display())]
    Mismatch {
        /// The group.
        group: GroupId,
        /// The raft log's directory.
        dir: PathBuf,
        /// What differs.
        what: String,
    },
    /// A group was configured in a way raft cannot start with.
    #[error("{group}: {what}")]
    Group {
        /// The group.
        group: GroupId,
        /// What is wrong with it.
        what: String,
    },
    /// The driver stopped.
    #[error("the raft driver stopped: {0}")]
    Stopped(String),
}

impl Error {
    /// Whether this is a simulated node's death rather than a failure to report.
    pub fn is_crashed(&self) -> bool {
        matches!(self, Error::Log(error) if error.is_crashed())
    }
}

/// The machine cannot go on: its state would no longer be what the log says. Stops the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

impl Fatal {
    /// With a reason.
    pub fn new(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

/// Why a proposal was not answered by the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This peer does not lead. Not proposed; ask the leader.
    #[error("not the leader")]
    NotLeader {
        /// The peer that leads, if known.
        leader: Option<u64>,
    },
    /// The group is not on this node. Not proposed.
    #[error("the group is not hosted here")]
    NotHosted,
    /// Another entry took its place: definitely not applied, now and ever.
    #[error("the proposal was dropped by a change of leader")]
    Dropped,
    /// Too much is under way, or leadership is just being handed over. Not proposed; try later.
    #[error("too many proposals are under way")]
    Busy,
    /// The entry is larger than the limit. Not proposed.
    #[error("the entry of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size accepted.
        limit: usize,
    },
    /// A membership change that cannot be made from the present membership. Without effect.
    #[error("the membership change was refused: {0}")]
    Refused(String),
    /// The outcome will not be known here: the node stopped, or skipped the entry by a snapshot. It may be applied or not.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
}

/// Why a read index could not be had. Reads have no effect, so all of these can be retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This peer does not lead, or stopped leading meanwhile.
    #[error("not the leader")]
    NotLeader {
        /// The peer that leads, if known.
        leader: Option<u64>,
    },
    /// The group is not on this node.
    #[error("the group is not hosted here")]
    NotHosted,
    /// Too many requests wait.
    #[error("too many reads are under way")]
    Busy,
    /// The leader could not confirm in time that it still leads.
    #[error("leadership could not be confirmed in time")]
    Timeout,
    /// The node stopped.
    #[error("the node stopped")]
    Stopped,
}

/// Why an administrative request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// This peer does not lead.
    #[error("not the leader")]
    NotLeader {
        /// The peer that leads, if known.
        leader: Option<u64>,
    },
    /// The group is not on this node.
    #[error("the group is not hosted here")]
    NotHosted,
    /// Too many requests wait.
    #[error("too many requests are under way")]
    Busy,
    /// The request makes no sense for the group as it is.
    #[error("refused: {0}")]
    Refused(String),
    /// The node stopped.
    #[error("the node stopped")]
    Stopped,
}

/// Why a batch of raft messages was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The sender speaks of other groups than this driver hosts. Its configuration is wrong.
    #[error("raft messages of domain {got:?} arrived at domain {want:?}")]
    WrongDomain {
        /// The sender's domain.
        got: String,
        /// This driver's domain.
        want: &'static str,
    },
    /// The sender believes that another node lives at this address. Its address book is stale.
    #[error("raft messages for node {got} arrived at node {want}")]
    WrongNode {
        /// Whom the sender wanted.
        got: u64,
        /// Who this is.
        want: u64,
    },
    /// The node stopped.
    #[error("the node stopped")]
    Stopped,
}
