//! A store: many key ranges, each replicated by a raft group, with transactions on top.
//!
//! Start at [`Store::start`]. How data walks through the rooms:
//!
//! ```text
//! write   service → admission → machine::propose → raft → apply → mvcc → one engine batch → answer
//! read    service → admission → read (read index) → engine snapshot → mvcc → answer
//! ```
//!
//! - [`mvcc`]: the transaction rules as pure functions from (snapshot, request) to (answer, writes).
//! - `machine`: all regions as one state machine under the raft driver; `apply` what an entry does, `command` how
//!   it is written, `snapshot` how a whole region moves, [`catalog`] what is remembered of regions.
//! - `service`, `admin`: the two gRPC doors; `admission` what is checked there; `one_pc` when one round trip is enough.
//! - `read` how the leader answers reads, `follow` how other replicas do.
//! - `split`, `merge` what becomes of regions that are divided or united; `merging` sees a merge through.
//! - `gc`: old versions are removed through the log, below a safe point that all regions have agreed to.
//! - `auto_split`: regions that outgrow a limit are split by their leader.
//! - `heartbeat`, `operations`, `resolve`, `control`: towards the coordinators; `identity`: of which cluster.
//! - `room`: no new data before the disk is full; `handover`: others lead before the store stops; `observe`: numbers.
//! - [`mode`], [`seed`]: whose directory it is, and its first regions; [`migrate`]: a stand-alone database becomes one;
//!   [`stats`]: a store, or its directory, in numbers.
//!
//! What holds: an acknowledged write is on a majority of disks; apply is a function of the log alone, so replicas are
//! equal; epoch and key range are checked at the door, and again at apply; a read sees everything acknowledged
//! before it began.

mod admin;
mod admission;
mod apply;
mod auto_split;
mod bells;
pub mod catalog;
mod check;
mod command;
mod config;
mod control;
mod error;
mod follow;
mod gc;
mod graves;
mod handover;
mod heartbeat;
mod identity;
mod inspect;
mod machine;
#[cfg(test)]
mod machine_tests;
mod members;
mod membership;
mod merge;
#[cfg(test)]
mod merge_tests;
mod merging;
pub mod migrate;
pub mod mode;
pub mod mvcc;
mod observe;
mod one_pc;
mod operations;
mod pending;
mod publish;
mod read;
mod region;
mod resolve;
mod room;
mod sealed;
pub mod seed;
mod service;
mod slow;
mod snapshot;
mod split;
pub mod stats;
mod status;
mod store;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod testing;
mod topology;
mod traffic;

pub use auto_split::SplitLimits;
pub use config::Config;
pub use error::{Error, Result};
pub use handover::HandedOver;
pub use observe::{CoordinatorContact, DiskObservation, Observation, RegionCounts};
pub use room::Level;
pub use snapshot::file as snapshot_file;
pub use stats::StatsSnapshot;
pub use status::{EngineStatus, RaftStatus, RegionStatus, StoreStatus};
pub use store::Store;
