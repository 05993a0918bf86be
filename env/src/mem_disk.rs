//! A disk in memory that forgets unsynced bytes. (being written)
/// Placeholder.
pub struct MemDisk;
