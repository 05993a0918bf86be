//! A segmented, checksummed log: the engine's write-ahead log and the raft log are both one of these.
//!
//! ```text
//! 00004.wal  header r r r r seal          sealed: every byte must be sound
//! 00005.wal  header r r claim r r 0 0     active: appends go here; a torn tail may follow, and zeros
//! ```
//! [`Log::append`] gathers records in memory, [`Log::sync`] makes them durable with one write and one sync,
//! however many there are. [`Log::roll`] seals the active segment and starts the next; [`Log::purge_below`]
//! removes segments that nobody needs. Neither ever happens implicitly.
//!
//! Invariants:
//! - Segment ids are consecutive. A segment exists only after its predecessor's seal is durable, and is removed
//!   only after the removal of its predecessor is durable. So a hole in the ids is a lost file, never a crash.
//! - Only the newest segment can have a torn tail. It is cut at open and counted ([`Log::torn_bytes`]). Records
//!   that were once durable are never cut: see the claims in `frame`.
//! - What `replay` saw at open is durable when [`Log::open`] returns.
//! - After a failed write or sync the log refuses everything, for ever; unless the disk was full ([`Error::is_disk_full`]):
//!   then what was appended waits in memory, and [`Log::write`], [`Log::sync`] or [`Log::roll`] may be called again, or
//!   [`Log::abandon`].

pub(crate) mod frame;
pub(crate) mod segment;

use crate::error::IoContext;
use crate::{Error, Result};
use frame::{Frame, KIND_RESERVED, KIND_SEAL, Magic};
use nokv_env::{Disk, OpenMode};
use segment::{Found, Segment};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const MAGIC: Magic = *b"NoKV-log";

/// A log that is synced often allocates so many bytes ahead, or a quarter of a segment.
const AHEAD_BYTES: u64 = 256 << 10;

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

/// How many records there are of each kind. Kinds from 7 on are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Records([u64; 8]);

impl Records {
    fn note(&mut self, kind: u8) {
        self.0[usize::from(kind.min(7))] += 1;
    }

    fn add(&mut self, other: &Records) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// Records of `kind`.
    pub fn of(&self, kind: u8) -> u64 {
        self.0[usize::from(kind.min(7))]
    }

    /// Records of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// One file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The segment's id; ids are consecutive.
    pub id: u64,
    /// Bytes, buffered ones included.
    pub bytes: u64,
    /// What is in it.
    pub records: Records,
}

/// A log in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// The segment that takes appends; 0: there is none.
    pub active_segment: u64,
    /// Bytes of it.
    pub active_bytes: u64,
    /// Segments that there are.
    pub segments: u64,
    /// Bytes of them all.
    pub bytes: u64,
    /// Segments that there were and that nobody needed any more. Ids begin at 1 and have no holes, so the oldest that is
    /// left tells.
    pub segments_removed: u64,
    /// What is in the segments that there are.
    pub records: Records,
}

/// What replay is handed: position, kind and payload of a record.
pub type Replay<'a> = dyn FnMut(Position, u8, &[u8]) -> Result<()> + 'a;

/// An open log.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: LogOptions,
    /// Oldest first; without the active one.
    sealed: Vec<SegmentInfo>,
    /// `None` when open for reading only.
    active: Option<Segment>,
    /// What is in the active segment.
    active_records: Records,
    /// The active segment has its seal, durably; its successor could not be made yet.
    is_sealed: bool,
    torn_bytes: u64,
}

/// A moment between two records; see [`Log::abandon`].
#[derive(Debug, Clone, Copy)]
pub struct Mark(Records);

impl Log {
    /// Opens the log in `dir`, creating its first segment when there is none, and hands every record to `replay`,
    /// oldest first. An error of `replay` ends the open. Damage is [`Error::Corrupt`] and changes nothing.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        replay: &mut Replay<'_>,
    ) -> Result<Log> {
        let (mut log, newest) = Self::scan(disk, dir, options, replay)?;
        match newest {
            None => log.create_segment(1, OpenMode::CreateNew)?,
            Some((id, Found::Unborn)) => log.create_segment(id, OpenMode::Create)?,
            Some((id, Found::Frames(end))) => {
                let mut segment = Segment::resume(&*log.disk, &log.path(id), id, end)?;
                log.torn_bytes = end.torn_bytes;
                if !end.sealed {
                    segment.settle()?;
                }
                log.active = Some(segment);
                log.disk.sync_dir(&log.dir).at(&log.dir, "sync")?;
                if end.sealed {
                    log.next_segment(OpenMode::CreateNew)?;
                }
            }
        }
        Ok(log)
    }

    /// Hands every record to `replay` and changes nothing: no cut, no new segment. Appending to such a log panics;
    /// writing and syncing fail.
    pub fn open_read_only(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        replay: &mut Replay<'_>,
    ) -> Result<Log> {
        let (mut log, newest) = Self::scan(disk, dir, options, replay)?;
        if let Some((id, found)) = newest {
            let bytes = match found {
                Found::Frames(end) => {
                    log.torn_bytes = end.torn_bytes;
                    end.offset
                }
                Found::Unborn => 0,
            };
            let records = std::mem::take(&mut log.active_records);
            log.sealed.push(SegmentInfo { id, bytes, records });
        }
        Ok(log)
    }

    /// Reads all segments. The newest one's state is returned, the others are in `sealed`.
    fn scan(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        replay: &mut Replay<'_>,
    ) -> Result<(Log, Option<(u64, Found)>)> {
        let mut log = Log {
            disk,
            dir: dir.to_owned(),
            options,
            sealed: Vec::new(),
            active: None,
            active_records: Records::default(),
            is_sealed: false,
            torn_bytes: 0,
        };
        let ids = segment_ids(&*log.disk, dir, &log.options.extension)?;
        let mut newest = None;
        for (index, &id) in ids.iter().enumerate() {
            let path = log.path(id);
            if index > 0 && ids[index - 1] + 1 != id {
                return Err(Error::corrupt(&log.path(ids[index - 1] + 1), 0, "the log segment is missing"));
            }
            let mut records = Records::default();
            let mut visit = |offset, frame: Frame<'_>| {
                records.note(frame.kind);
                replay(Position { segment: id, offset }, frame.kind, frame.payload)
            };
            let found = segment::read(&*log.disk, &path, MAGIC, id, &mut visit)?;
            if index + 1 == ids.len() {
                log.active_records = records;
                newest = Some((id, found));
            } else {
                log.sealed.push(SegmentInfo { id, bytes: expect_sealed(&path, found)?, records });
            }
        }
        Ok((log, newest))
    }

    /// Adds a record to the buffer. Kinds from 0xf0 on belong to the log itself.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Position {
        assert!(kind < KIND_RESERVED, "record kind {kind:#x} belongs to the log itself");
        assert!(!self.is_sealed, "append to a segment that is sealed");
        let active = self.active.as_mut().expect("append to a log that is open for reading only");
        self.active_records.note(kind);
        Position { segment: active.id(), offset: active.append(kind, payload) }
    }

    /// Hands buffered bytes to the file, without a sync.
    pub fn write(&mut self) -> Result<()> {
        self.writable()?.write()
    }

    /// Where the log is now.
    pub fn mark(&self) -> Mark {
        Mark(self.active_records)
    }

    /// Takes back what was appended since the last write: a full disk refused it. `mark` is from before the first of it.
    /// After a crash it is not there either.
    pub fn abandon(&mut self, mark: Mark) -> Result<()> {
        self.writable()?.abandon()?;
        self.active_records = mark.0;
        Ok(())
    }

    /// Writes and makes everything appended so far durable. After an error the log is poisoned for ever, unless the disk
    /// was full.
    pub fn sync(&mut self) -> Result<()> {
        let step = (self.options.segment_bytes / 4).clamp(1, AHEAD_BYTES);
        self.writable()?.sync_ahead(step)
    }

    /// The last sync before an orderly end: settles as well, and gives back what was allocated ahead.
    pub fn close(&mut self) -> Result<()> {
        self.writable()?.sync()?;
        self.settle()?;
        self.writable()?.give_back()
    }

    /// Notes in the file how much of it is durable, so that later damage of the last record is not taken for a torn
    /// write. A small unsynced write; call it when nothing else is about to be appended.
    pub fn settle(&mut self) -> Result<()> {
        // Of what is sealed the successor is the witness.
        if self.is_sealed {
            return Ok(());
        }
        self.writable()?.settle()
    }

    /// Whether the active segment reached its size.
    pub fn is_full(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.len() >= self.options.segment_bytes)
    }

    /// Whether the active segment holds any record.
    pub fn is_active_occupied(&self) -> bool {
        self.active.as_ref().is_some_and(Segment::is_occupied)
    }

    /// Syncs and seals the active segment, creates the next one and syncs the directory. When the disk was full, it goes on
    /// where it was if it is called again; see [`Log::end_roll`].
    pub fn roll(&mut self) -> Result<()> {
        if self.is_sealed {
            // What is there of the successor is from the last attempt.
            return self.next_segment(OpenMode::Create);
        }
        let active = self.writable()?;
        active.write()?;
        active.append(KIND_SEAL, &[]);
        if let Err(error) = active.sync_exactly() {
            if error.is_disk_full() {
                active.abandon()?;
            }
            return Err(error);
        }
        self.is_sealed = true;
        self.next_segment(OpenMode::CreateNew)
    }

    /// Ends a roll that a full disk broke off, if there is one: a sealed segment takes no records.
    pub fn end_roll(&mut self) -> Result<()> {
        if self.is_sealed { self.roll() } else { Ok(()) }
    }

    /// Id of the segment that takes appends.
    pub fn active_segment(&self) -> u64 {
        match &self.active {
            Some(active) => active.id(),
            None => self.sealed.last().map_or(0, |newest| newest.id),
        }
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.sealed.iter().copied().chain(self.active_info()).collect()
    }

    /// How many segments there are.
    pub fn segment_count(&self) -> usize {
        self.sealed.len() + usize::from(self.active.is_some())
    }

    /// The log in numbers.
    pub fn stats(&self) -> LogStats {
        let active = self.active_info();
        let newest = active.or_else(|| self.sealed.last().copied());
        let mut stats = LogStats {
            active_segment: newest.map_or(0, |newest| newest.id),
            active_bytes: newest.map_or(0, |newest| newest.bytes),
            ..LogStats::default()
        };
        let all = self.sealed.iter().copied().chain(active);
        stats.segments_removed = all.clone().next().map_or(0, |oldest| oldest.id - 1);
        for segment in all {
            stats.segments += 1;
            stats.bytes += segment.bytes;
            stats.records.add(&segment.records);
        }
        stats
    }

    fn active_info(&self) -> Option<SegmentInfo> {
        let records = self.active_records;
        self.active.as_ref().map(|active| SegmentInfo { id: active.id(), bytes: active.len(), records })
    }

    /// Removes the segments with ids below `segment`, oldest first; never the active one.
    pub fn purge_below(&mut self, segment: u64) -> Result<()> {
        self.writable()?;
        while let Some(oldest) = self.sealed.first().copied().filter(|oldest| oldest.id < segment) {
            let path = self.path(oldest.id);
            self.disk.remove_file(&path).at(&path, "remove")?;
            // One at a time: a crash that undoes removals must not leave a hole.
            self.disk.sync_dir(&self.dir).at(&self.dir, "sync")?;
            self.sealed.remove(0);
        }
        Ok(())
    }

    /// Bytes of an unfinished write that were cut at open.
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// Moves the (sealed and synced) active segment to the sealed ones and starts its successor.
    fn next_segment(&mut self, mode: OpenMode) -> Result<()> {
        let active = self.writable()?;
        let (id, bytes) = (active.id(), active.len());
        self.create_segment(id + 1, mode)?;
        self.is_sealed = false;
        let records = std::mem::take(&mut self.active_records);
        self.sealed.push(SegmentInfo { id, bytes, records });
        Ok(())
    }

    fn create_segment(&mut self, id: u64, mode: OpenMode) -> Result<()> {
        let segment = Segment::create(&*self.disk, &self.path(id), MAGIC, id, mode)?;
        self.disk.sync_dir(&self.dir).at(&self.dir, "sync")?;
        self.active = Some(segment);
        Ok(())
    }

    fn writable(&mut self) -> Result<&mut Segment> {
        self.active.as_mut().ok_or(Error::ReadOnly)
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id:05}.{}", self.options.extension))
    }
}

/// Length of a segment that has a successor, if it is whole.
fn expect_sealed(path: &Path, found: Found) -> Result<u64> {
    match found {
        Found::Frames(end) if end.sealed => Ok(end.offset),
        Found::Frames(end) => Err(Error::corrupt(
            path,
            end.offset,
            "the log goes on in the next segment, but here is no sound record and no seal",
        )),
        Found::Unborn => Err(Error::corrupt(path, 0, "the header is not sound")),
    }
}

/// Ids of the segments in `dir`, ascending.
pub(crate) fn segment_ids(disk: &dyn Disk, dir: &Path, extension: &str) -> Result<Vec<u64>> {
    let names = disk.list(dir).at(dir, "list")?;
    let mut ids: Vec<u64> = names.iter().filter_map(|name| parse_number(name, extension)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The number in a name like `00007.wal`.
pub(crate) fn parse_number(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let canonical = digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|id| canonical && *id > 0 && format!("{id:05}") == digits)
}

#[cfg(test)]
mod tests;
