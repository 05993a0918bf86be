//! Properties against models a child could read, over the same abstractions that the product runs on.
//!
//! `tests/` holds one property a file. Here is what they share: [`node::Node`], a machine with a disk that crashes and
//! an executor of a few lines, on which one component lives, dies and comes back.

pub mod node;
