//! One file of frames, open for appending: the building block of [`crate::log::Log`] and of the manifest.
//!
//! Appends gather in memory; [`Segment::write`] hands them to the file, [`Segment::sync`] makes them durable.
//! After any failed call nothing is known about the file, so every later call fails too. A full disk is the exception:
//! nothing was durable of what it refused, and the same bytes go to the same place once there is room ([`Segment::write`]
//! again), or are taken back ([`Segment::abandon`]).
//!
//! A file that grows makes every sync write its length as well. Where syncs come often, zeros are written ahead
//! ([`Segment::sync_ahead`]), and most syncs find their place allocated.

use crate::error::IoContext;
use crate::log::frame::{self, End, Frame, Magic};
use crate::{Error, Result};
use nokv_env::{Disk, File, OpenMode, disk};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Growing for more than this at once is worth writing the file's length: zeros would cost as much.
const SMALL_BYTES: u64 = 16 << 10;
/// Zeros are written a page at a time. What is written at once, Linux keeps as one folio, and counts all of it as written
/// again whenever a byte of it changes.
const PIECE_BYTES: u64 = 4 << 10;

/// What a segment file turned out to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Frames up to here.
    Frames(End),
    /// The creation of the file was interrupted: nothing was ever written to it.
    Unborn,
}

/// Reads the segment at `path` and visits its frames; changes nothing.
pub(crate) fn read(
    disk: &dyn Disk,
    path: &Path,
    magic: Magic,
    id: u64,
    visit: &mut dyn FnMut(u64, Frame<'_>) -> Result<()>,
) -> Result<Found> {
    let data = disk::read_all(disk, path).at(path, "read")?;
    if let Err(fault) = frame::check_header(magic, id, &data) {
        return if fault.is_unborn { Ok(Found::Unborn) } else { Err(Error::corrupt(path, 0, fault.what)) };
    }
    frame::scan(path, id, &data, visit).map(Found::Frames)
}

/// A file that takes frames at its end.
pub(crate) struct Segment {
    file: Arc<dyn File>,
    path: PathBuf,
    id: u64,
    /// Bytes handed to the file.
    written: u64,
    /// Frames that follow them.
    buffer: Vec<u8>,
    /// Up to here the file may have zeros behind what was written.
    allocated: u64,
    /// Everything below is on disk for good.
    durable: u64,
    /// The highest claim that a frame carries.
    claimed: u64,
    /// Whether frames other than claims wait for a sync.
    unsynced: bool,
    /// Whether the segment holds anything besides its header and claims.
    occupied: bool,
    failure: Option<Error>,
}

impl Segment {
    /// Creates (or, after an interrupted creation, recreates) the file. Its name is durable only after the caller
    /// synced the directory.
    pub(crate) fn create(
        disk: &dyn Disk,
        path: &Path,
        magic: Magic,
        id: u64,
        mode: OpenMode,
    ) -> Result<Self> {
        let file = disk.open(path, mode).at(path, "create")?;
        file.truncate(0).at(path, "truncate")?;
        file.write_at(&frame::encode_header(magic, id), 0).at(path, "write")?;
        file.sync_data().at(path, "sync")?;
        Ok(Self::new(file, path, id, frame::HEADER_BYTES as u64, false))
    }

    /// Opens a file that was read before, for appending after `end`. Cuts a torn tail.
    ///
    /// What was read may come from a page cache that nobody synced, so this syncs. The sync of a process before us
    /// may even have failed: the cache then calls pages clean that never reached the disk, and a sync does not
    /// write them. So whatever no frame claims to be durable is written once more.
    pub(crate) fn resume(disk: &dyn Disk, path: &Path, id: u64, end: End) -> Result<Self> {
        let file = disk.open(path, OpenMode::Write).at(path, "open")?;
        if end.goes_on {
            file.truncate(end.offset).at(path, "truncate")?;
        }
        let unclaimed = end.offset.saturating_sub(end.claimed) as usize;
        let tail = file.read_exact_at(unclaimed, end.claimed).at(path, "read")?;
        file.write_at(&tail, end.claimed).at(path, "write")?;
        file.sync_data().at(path, "sync")?;
        Ok(Self::new(file, path, id, end.offset, end.offset > frame::HEADER_BYTES as u64))
    }

    fn new(file: Arc<dyn File>, path: &Path, id: u64, written: u64, occupied: bool) -> Self {
        Self {
            file,
            path: path.to_owned(),
            id,
            written,
            buffer: Vec::new(),
            allocated: written,
            durable: written,
            claimed: 0,
            unsynced: false,
            occupied,
            failure: None,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length including what is still in memory.
    pub(crate) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Whether records were ever appended.
    pub(crate) fn is_occupied(&self) -> bool {
        self.occupied
    }

    /// Adds a frame to the buffer; returns where it will stand.
    pub(crate) fn append(&mut self, kind: u8, payload: &[u8]) -> u64 {
        let offset = self.len();
        frame::encode(&mut self.buffer, self.id, offset, Frame { kind, durable: self.durable, payload });
        self.claimed = self.durable;
        if kind != frame::KIND_CLAIM {
            self.unsynced = true;
            self.occupied = true;
        }
        offset
    }

    /// Hands the buffer to the file. On a full disk the frames stay in the buffer, for the next call.
    pub(crate) fn write(&mut self) -> Result<()> {
        self.check()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        match self.file.write_at(&self.buffer, self.written).at(&self.path, "write") {
            Err(error) if error.is_disk_full() => return Err(error),
            result => self.remember(result)?,
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Writes, and makes everything durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.write()?;
        self.sync_file()
    }

    /// The same for one of many syncs: where the file has to grow for a few bytes, it grows to a multiple of `step`.
    pub(crate) fn sync_ahead(&mut self, step: u64) -> Result<()> {
        let is_small = self.len() - self.durable <= step.min(SMALL_BYTES);
        self.write()?;
        if is_small && self.written > self.allocated {
            self.allocate(self.written.next_multiple_of(step))?;
        }
        self.sync_file()
    }

    /// Writes zeros up to `end`, as far as there is room.
    fn allocate(&mut self, end: u64) -> Result<()> {
        self.allocated = end;
        let mut at = self.written;
        while at < end {
            let next = (at + 1).next_multiple_of(PIECE_BYTES).min(end);
            match self
                .file
                .write_at(&[0; PIECE_BYTES as usize][..(next - at) as usize], at)
                .at(&self.path, "write")
            {
                Err(error) if error.is_disk_full() => return Ok(()),
                result => self.remember(result)?,
            }
            at = next;
        }
        Ok(())
    }

    /// Writes, and makes everything durable, without zeros behind it.
    pub(crate) fn sync_exactly(&mut self) -> Result<()> {
        self.write()?;
        self.give_back()?;
        self.sync_file()
    }

    /// Cuts the zeros.
    pub(crate) fn give_back(&mut self) -> Result<()> {
        self.check()?;
        if self.allocated > self.written {
            let cut = self.file.truncate(self.written).at(&self.path, "cut");
            self.remember(cut)?;
            self.allocated = self.written;
        }
        Ok(())
    }

    fn sync_file(&mut self) -> Result<()> {
        if self.unsynced {
            let result = self.file.sync_data().at(&self.path, "sync");
            self.remember(result)?;
            self.unsynced = false;
            self.durable = self.written;
        }
        Ok(())
    }

    /// Takes back the frames that a full disk refused, also from the file, where the first of them may be. Synced, so that
    /// they do not come back after a crash: whoever asked for them was refused.
    pub(crate) fn abandon(&mut self) -> Result<()> {
        self.check()?;
        let cut = self.file.truncate(self.written).at(&self.path, "cut");
        let cut = cut.and_then(|()| self.file.sync_data().at(&self.path, "sync"));
        // From here on also a full disk leaves things unknown.
        self.remember(cut).map_err(|error| error.for_later_callers())?;
        self.buffer.clear();
        self.allocated = self.written;
        (self.durable, self.claimed, self.unsynced) = (self.written, 0, false);
        Ok(())
    }

    /// Writes a claim if the last sync is not claimed by any frame yet. Not synced: it is a witness, not a record.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.check()?;
        if self.claimed < self.durable && self.occupied {
            self.append(frame::KIND_CLAIM, &[]);
        }
        match self.write() {
            // It goes with what is written next.
            Err(error) if error.is_disk_full() => Ok(()),
            written => written,
        }
    }

    fn check(&self) -> Result<()> {
        self.failure.as_ref().map_or(Ok(()), |failure| Err(failure.for_later_callers()))
    }

    fn remember<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failure = Some(error.clone());
        }
        result
    }
}
