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
//! The modules: `driver` is the loop. Each turn it takes in what came (`intake`, from the queues in `inbox`), lets leaders
//! propose and read (`offer`, `reads`) and does a `round`, the order of things above, with `apply` at its end (`absorb`: one
//! group takes another over); `upkeep` keeps the log short, and `hibernate` spares groups in which nothing happens;
//! `import` takes a peer's first snapshot by hand. `group` is one group with everybody who waits for it. `raft_log` holds the log of all groups on
//! disk (bytes in `record`), `group_log` one group's part in memory, `storage` shows that to raft-rs, `recover` fits log
//! and machine together after a start; [`inspect`] looks at a log and leaves it as it is; `observe` shows a driver in numbers; `facts` tells a simulation what happens. [`transport`] carries messages between nodes, `wire` packs them.
//!
//! What callers may rely on:
//! - Nothing that depends on a vote or an entry leaves the node before that is durable.
//! - An acknowledged proposal is durable on a majority and applied here. A proposal answered with
//!   [`ProposeError::Dropped`] is and stays without effect.
//! - [`Machine::apply`] sees every entry once, in log order, and is told (index, term) to record atomically with it.
//! - Equal inputs give equal runs: no clock, randomness or hash order comes in but through `env`.

mod absorb;
mod apply;
pub mod config;
mod core;
mod digest;
mod driver;
mod election;
pub mod error;
mod facts;
mod group;
mod group_log;
mod group_set;
pub mod handle;
mod hibernate;
mod import;
mod inbox;
pub mod inspect;
mod intake;
pub mod machine;
mod observe;
mod offer;
mod raft_log;
mod reads;
mod record;
mod recover;
mod round;
mod shared;
mod storage;
pub mod transport;
mod upkeep;
mod wire;

pub use config::{BIRTH, Config, GroupConfig, GroupId, Joint};
pub use driver::Driver;
pub use error::{AdminError, Error, Fatal, ProposeError, ReadError, StepError};
pub use handle::Handle;
pub use inbox::Marks;
pub use machine::{
    Applied, ConfChange, ConfChangeInfo, Fetching, Machine, MachineSnapshot, Needed, PeerChange, Reception,
    Role,
};
pub use observe::RaftObservation;
pub use shared::{Counters, GroupStatus, LogStatus};
pub use transport::{RaftService, Resolver};
