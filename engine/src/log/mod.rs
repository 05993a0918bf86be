//! A segmented, checksummed log. (API skeleton; being filled in)

use crate::Result;
use nokv_env::Disk;
use std::path::Path;
use std::sync::Arc;

/// How a log names and sizes its segments.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// File name extension: segment 7 of extension `wal` is `00007.wal`.
    pub extension: String,
    /// From this size on [`Log::is_full`] asks for a roll.
    pub segment_bytes: u64,
}

/// Where a record starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment's id.
    pub segment: u64,
    /// Byte offset in its file.
    pub offset: u64,
}

/// One file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The segment's id; ids are consecutive.
    pub id: u64,
    /// Bytes, buffered ones included.
    pub bytes: u64,
}

/// An open log.
pub struct Log {
    _private: (),
}

impl Log {
    /// Opens the log in `dir`, creating its first segment when there is none, and hands every record to `replay`.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _dir: &Path,
        _options: LogOptions,
        _replay: &mut dyn FnMut(Position, u8, &[u8]) -> Result<()>,
    ) -> Result<Log> {
        unimplemented!()
    }
    /// Hands every record to `replay`; changes nothing.
    pub fn open_read_only(
        _disk: Arc<dyn Disk>,
        _dir: &Path,
        _options: LogOptions,
        _replay: &mut dyn FnMut(Position, u8, &[u8]) -> Result<()>,
    ) -> Result<Log> {
        unimplemented!()
    }
    /// Adds a record to the buffer. Kinds from 0xf0 belong to the log itself.
    pub fn append(&mut self, _kind: u8, _payload: &[u8]) -> Position {
        unimplemented!()
    }
    /// Hands buffered bytes to the file, without a sync.
    pub fn write(&mut self) -> Result<()> {
        unimplemented!()
    }
    /// Writes and makes everything appended so far durable. After an error the log is poisoned for ever.
    pub fn sync(&mut self) -> Result<()> {
        unimplemented!()
    }
    /// Notes in the file how much of it is durable, so that damage of the last record is not taken for a torn
    /// write. Call it when nothing else is about to be appended; no sync.
    pub fn settle(&mut self) -> Result<()> {
        unimplemented!()
    }
    /// Whether the active segment reached its size.
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }
    /// Syncs and seals the active segment, creates the next one and syncs the directory.
    pub fn roll(&mut self) -> Result<()> {
        unimplemented!()
    }
    /// Id of the segment that takes appends.
    pub fn active_segment(&self) -> u64 {
        unimplemented!()
    }
    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        unimplemented!()
    }
    /// Removes the segments with ids below `segment`; never the active one.
    pub fn purge_below(&mut self, _segment: u64) -> Result<()> {
        unimplemented!()
    }
    /// Bytes of an unfinished write that were cut at open.
    pub fn torn_bytes(&self) -> u64 {
        unimplemented!()
    }
}
