//! The meta-root: three nodes that hold what the cluster must never forget.
//!
//! Which stores exist, which regions with which keys and replicas, up to where ids and timestamps may have
//! been handed out, and which coordinator may hand them out now. It is one small raft group; its log of
//! events is the truth, everything else in the cluster is a view of it.
//!
//! Start at [`MetaRoot::start`]. A command walks `service` → raft (`nokv_replica`) → `machine` →
//! [`state::RootState::apply`], a pure function of the log that does all the checking. Readers are served
//! from what a node has applied; `tail` keeps the newest events for those that are a little behind. `lease`
//! judges by a monotonic clock when the coordinator lease may change hands. `workdir`, `file` and
//! `image` are what lies on disk.
//!
//! The meta-root has never heard of user data, of leaders of regions, or of how full a store is.

mod config;
mod digest;
mod error;
mod file;
mod image;
mod lease;
mod machine;
mod node;
mod service;
pub mod state;
mod tail;
mod workdir;

pub use config::Config;
pub use error::Error;
pub use node::{Cursor, MetaRoot, Observation, Status};
