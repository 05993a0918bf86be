//! Many raft groups on one node behind one driver: the only crate that names raft-rs.
//!
//! Start at [`Driver::start`]: it takes a [`Machine`] (what the log means) and the [`GroupConfig`]s of the groups to
//! host, and gives a [`Handle`]. The meta-root hosts one group with it, a store one for each region.
//!
//! ```text
//!  Handle ──requests──┐                            ┌── Machine::apply, in log order
//!                     ├─> driver: one round ───────┤
//!  peers ──messages───┘     1 take inputs, tick    └── messages to peers (transport)
//!                           2 what every group wants stored: one append, one sync
//!                           3 messages that depend on it  4 apply  5 answer
//! ```
//! The driver is the one place where raft, the disk and the network meet: [`raft_log`] holds entries and hard states of
//! all groups in one log on disk, [`storage`] shows one group's part of it to raft-rs, [`transport`] carries messages
//! between nodes, [`group`] is one group with everybody who waits for it, `round` is the order of things above.
//!
//! What callers may rely on:
//! - Nothing that depends on a vote or an entry leaves the node before that is durable.
//! - An acknowledged proposal is durable on a majority and applied here. A proposal answered with
//!   [`ProposeError::Dropped`] is and stays without effect.
//! - [`Machine::apply`] sees every entry once, in log order, and is told (index, term) to record atomically with it.
//! - Equal inputs give equal runs: no clock, randomness or hash order comes in but through `env`.

pub mod config;
mod digest;
mod driver;
mod election;
pub mod error;
mod group;
pub mod handle;
mod inbox;
pub mod machine;
mod raft_log;
mod reads;
mod record;
mod round;
mod shared;
mod storage;
pub mod transport;
mod wire;

pub use config::{Config, GroupConfig, GroupId, Joint};
pub use driver::Driver;
pub use error::{AdminError, Error, Fatal, ProposeError, ReadError, StepError};
pub use handle::Handle;
pub use machine::{Applied, ConfChange, ConfChangeInfo, Machine, MachineSnapshot, PeerChange, Role};
pub use shared::{Counters, GroupStatus};
pub use transport::{RaftService, Resolver};
