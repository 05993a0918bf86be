//! The client library: it knows where keys live, how to try again, and how to commit.
//!
//! Start at [`Client`]. A call walks `client` (front door) → `txn` (timestamps, locks, two-phase commit) →
//! `stores` (one request to one region) → `router` (which region, which store) → `coordinators` (who is asked
//! when the route cache does not know). On the way back every failure passes through `retry`,
//! the pure table that says: same peer again, another peer, a fresh route, or give up.
//!
//! What it promises:
//!
//! - Every call ends at its deadline, and the error then names the last cause.
//! - A write that returned `Ok` is committed; one that returned an error other than
//!   [`ClientError::OutcomeUnknown`] is not, and never will be.
//! - Reads are linearizable ([`Client::get`]) or from one snapshot ([`Txn`], [`Scanner`]).
//!
//! It refuses to know transports, threads and the wall clock; all of these come from `env`.

mod attempt;
mod background;
mod client;
mod config;
mod coordinators;
mod error;
mod retry;
mod router;
mod stores;
mod tso;
mod txn;
mod verify;

pub use client::Client;
pub use config::ClientConfig;
pub use error::ClientError;
pub use nokv_proto::id::Timestamp;
pub use nokv_proto::key::KeyRange;
pub use stores::Staleness;
pub use txn::{Hold, Page, Scanner, Snapshot, Txn};
