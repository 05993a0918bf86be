//! The store.

mod mvcc;
