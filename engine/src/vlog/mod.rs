//! The value log: large values outside the tree, so that compactions move keys and not them.
//!
//! It is no log that is replayed. A value is written first where every write goes (log and memtable); when a flush or a
//! compaction writes a table, values of [`crate::Options::value_threshold`] bytes and more go into a *segment* beside
//! it, and the table holds a pointer. A segment is written once, made durable before the manifest names it together
//! with the tables that point into it, and never changed.
//!
//! ```text
//! table 12: k1 → (segment 13, offset 24)   k2 → "small"   k3 → (segment 13, offset 4130)
//! vlog/bucket-000/00013.vlog: header | record of k1 | record of k3
//! ```
//!
//! *Garbage is what no table points at.* Every table knows how many bytes of which segment its pointers take, so what is
//! alive in a segment is a sum over the live tables; nothing has to be remembered apart, and nothing can be wrong
//! after a crash. A segment that nobody points at leaves with the edit that removed the last pointer. One that is
//! mostly garbage is *collected*: the tables that point into it are written again one by one, and take their values
//! along into a new segment. Compactions that pass by anyway do the same.
//!
//! *Buckets are generations.* New values go to bucket 0; what survives a collection goes one bucket up. Values that have
//! lived long die rarely, so they are not copied again and again with the ones that die young.
//!
//! A record repeats its key, and its checksum covers the segment's number and its offset: a pointer that leads to
//! another value's place, or into another file, is noticed.

pub(crate) mod record;
pub(crate) mod segment;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

/// Generations of values.
pub(crate) const BUCKETS: u8 = 4;

/// What is known about a segment without reading it. Stored in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    /// Names the file; one sequence with tables and manifests.
    pub(crate) number: u64,
    pub(crate) bucket: u8,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Records in it.
    pub(crate) values: u64,
}
