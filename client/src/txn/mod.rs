//! Transactions after Percolator: snapshot reads, buffered writes, two-phase commit through a primary key.
//!
//! A transaction reads at its start timestamp and buffers its writes. To commit, it *prewrites* (locks every
//! key, each lock naming the primary key), takes a commit timestamp, and commits the primary: that one record
//! decides. The other keys follow in the background, and whoever meets one of their locks finds the truth at
//! the primary ([`resolve`]). When all keys live in one region, prewrite and commit are one round trip.
//!
//! Invariants:
//!
//! - The primary's region is prewritten before any other, so a lock without a primary record is a dead one.
//! - A commit timestamp is drawn after the prewrites it covers; the one-round-trip commit draws it before, and
//!   the store takes it only if nobody has read at or above it.
//! - After a commit message may have been executed, the transaction is never rolled back by its own client
//!   without asking the primary first.

mod commit;
mod hold;
mod resolve;
mod snapshot;
mod transaction;

pub(crate) use commit::Commit;
pub use hold::Hold;
pub use snapshot::{Page, Scanner, Snapshot};
pub use transaction::Txn;
