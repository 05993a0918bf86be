//! Tables: immutable sorted files. A lookup asks the filter, then walks top index → index block → data block.
//!
//! Blocks and filters are read through the block cache. Of an open table the top index stays in memory, decoded, and as many
//! filters and index blocks as there is room for.
//! Every section is checked against its checksum when it is read.
//!
//! A table that a compaction replaced is marked obsolete. When the last reader lets go of it, its file lands in
//! the [`Graveyard`], and background work removes the file: readers never delete.

mod ahead;
pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod cursor;
pub(crate) mod extent;
pub(crate) mod filter;
pub(crate) mod format;
mod sought;

use crate::cache::{BlockCache, Cached, Part};
use crate::error::IoContext;
use crate::fences::{Fences, prefix};
use crate::key::{compare, split};
use crate::stats::ReadCounters;
use crate::value::Value;
use crate::{Error, Result, files};
use block::{Block, BlockCursor, Malformed};
use bytes::Bytes;
use filter::Filter;
use format::{FOOTER_BYTES, Footer, Handle, TRAILER_BYTES, TableMeta, open_section};
use nokv_env::{Disk, File, Hooks, OpenMode};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

pub(crate) use sought::Sought;

const LACKS: &str = "a block lacks the key that its index promises";
const NO_HANDLE: &str = "an index entry holds no handle";

/// Files of tables and segments that nobody uses any more.
#[derive(Default)]
pub(crate) struct Graveyard(Mutex<Vec<PathBuf>>);

impl Graveyard {
    pub(crate) fn add(&self, file: PathBuf) {
        crate::lock(&self.0).push(file);
    }

    /// Takes the files out.
    pub(crate) fn drain(&self) -> Vec<PathBuf> {
        let mut files = std::mem::take(&mut *crate::lock(&self.0));
        files.sort_unstable();
        files
    }

    pub(crate) fn len(&self) -> usize {
        crate::lock(&self.0).len()
    }
}

/// What all tables of a database share.
#[derive(Clone)]
pub(crate) struct TableContext {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) graveyard: Arc<Graveyard>,
    pub(crate) reads: Arc<ReadCounters>,
    /// See [`crate::Options::readahead_bytes`].
    pub(crate) readahead_bytes: usize,
    pub(crate) hooks: Arc<dyn Hooks>,
    /// Bytes of filters that open tables keep for themselves, and how many they may.
    pub(crate) pinned: Arc<Pinned>,
    /// The first part of a table or segment that could not be read: damaged, or refused by the disk.
    pub(crate) unreadable: Arc<OnceLock<Error>>,
}

/// A budget for what open tables keep in memory, beside the block cache.
pub(crate) struct Pinned {
    used: AtomicU64,
    limit: u64,
}

impl Pinned {
    pub(crate) fn new(limit: u64) -> Self {
        Self { used: AtomicU64::new(0), limit }
    }

    /// Whether there is room for so much more; it counts as used then. Index blocks leave half of it to filters, which
    /// are asked of tables that turn out not to have the key, too.
    fn take(&self, bytes: u64, part: Part) -> bool {
        let limit = if part == Part::Index { self.limit / 2 } else { self.limit };
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl TableContext {
    /// Remembers that something could not be read.
    pub(crate) fn note_unreadable(&self, error: &Error) {
        let _ = self.unreadable.set(error.clone());
    }
}

/// An open table.
pub(crate) struct Table {
    pub(crate) meta: TableMeta,
    file: Arc<dyn File>,
    path: PathBuf,
    /// The top index.
    stretches: Vec<Stretch>,
    /// Of the last keys of the stretches.
    fences: Fences,
    filter: Handle,
    /// The filter, once it was needed and if there was room for it. Otherwise it is looked for in the cache.
    pinned_filter: OnceLock<Filter>,
    context: TableContext,
    obsolete: AtomicBool,
}

/// A run of data blocks with an index block of their own.
struct Stretch {
    /// Its last key, encoded.
    last: Vec<u8>,
    /// Where its index block is, behind its data blocks.
    handle: Handle,
    /// The index block, once it was needed and if there was room for it.
    pinned: OnceLock<Block>,
}

/// What a table knows about a key: the newest version that may be seen.
pub(crate) struct Hit {
    pub(crate) sequence: u64,
    pub(crate) value: Value,
}

impl Table {
    /// Opens the table that `meta` (from the manifest) describes, and checks that the file agrees.
    pub(crate) fn open(context: &TableContext, meta: TableMeta) -> Result<Self> {
        let path = files::table(&context.dir, meta.number);
        let file = context.disk.open(&path, OpenMode::Read);
        let file = match file {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::corrupt(&path, 0, "the table is missing although the manifest names it"));
            }
            other => other.at(&path, "open")?,
        };
        let len = file.len().at(&path, "measure")?;
        if len != meta.bytes {
            let what = format!("the table has {len} bytes, the manifest says {}", meta.bytes);
            return Err(Error::corrupt(&path, len, what));
        }
        Self::read(context, path, file, len, Some(&meta))
    }

    /// Opens a table that no manifest knows.
    pub(crate) fn open_stray(context: &TableContext, path: &Path) -> Result<Self> {
        let file = context.disk.open(path, OpenMode::Read).at(path, "open")?;
        let len = file.len().at(path, "measure")?;
        Self::read(context, path.to_owned(), file, len, None)
    }

    fn read(
        context: &TableContext,
        path: PathBuf,
        file: Arc<dyn File>,
        len: u64,
        expected: Option<&TableMeta>,
    ) -> Result<Self> {
        if len < FOOTER_BYTES as u64 {
            return Err(Error::corrupt(&path, len, "the file is too short to be a table"));
        }
        let footer_at = len - FOOTER_BYTES as u64;
        let footer = file.read_exact_at(FOOTER_BYTES, footer_at).at(&path, "read")?;
        let footer = Footer::decode(&footer).map_err(|what| Error::corrupt(&path, footer_at, what))?;
        let properties = read_section(&*file, &path, len, footer.properties)?;
        let meta = TableMeta::decode_properties(&properties, len, footer.expires);
        let Some(meta) = meta.filter(|found| expected.is_none_or(|expected| found == expected)) else {
            let what = match expected {
                Some(_) => "the table's properties differ from the manifest's",
                None => "the table's properties do not decode",
            };
            return Err(Error::corrupt(&path, footer.properties.offset, what));
        };
        let top_index = read_section(&*file, &path, len, footer.top_index)?;
        let stretches = Block::parse(top_index).and_then(stretches_of);
        let stretches = stretches.map_err(|what| Error::corrupt(&path, footer.top_index.offset, what))?;
        let fences = Fences::of(stretches.iter().map(|stretch| prefix_of(&stretch.last)));
        let obsolete = AtomicBool::new(false);
        Ok(Self {
            meta,
            file,
            path,
            stretches,
            fences,
            filter: footer.filter,
            pinned_filter: OnceLock::new(),
            context: context.clone(),
            obsolete,
        })
    }

    /// The newest version that is sought.
    pub(crate) fn get(&self, sought: &Sought) -> Result<Option<Hit>> {
        let target = sought.encoded();
        let Some(stretch) = self.stretches.get(self.stretch_at(target)) else { return Ok(None) };
        let fetched;
        let index = match stretch.pinned.get() {
            Some(index) => index,
            None => {
                fetched = self.index_block(stretch, true)?;
                &fetched
            }
        };
        let at = stretch.handle.offset;
        let found = index.find(target).map_err(|what| self.corrupt(at, what))?;
        let found = found.ok_or_else(|| self.corrupt(at, LACKS))?;
        let handle = index.inline(&found).and_then(Handle::decode);
        let handle = handle.ok_or_else(|| self.corrupt(at, NO_HANDLE))?;

        let block = self.block(handle, Part::Data, true)?;
        let found = block.find(target).map_err(|what| self.corrupt(handle.offset, what))?;
        let found = found.ok_or_else(|| self.corrupt(handle.offset, LACKS))?;
        let Some(sequence) = found.sequence else { return Ok(None) };
        let value = block.into_value(&found).map_err(|what| self.corrupt(handle.offset, what))?;
        Ok(Some(Hit { sequence, value }))
    }

    /// Whether the filter admits the key.
    pub(crate) fn may_hold(&self, sought: &Sought) -> Result<bool> {
        if self.filter.len == 0 {
            return Ok(true);
        }
        match self.pinned_filter.get() {
            Some(filter) => Ok(filter.may_hold(sought.hash())),
            None => Ok(self.fetch_filter()?.may_hold(sought.hash())),
        }
    }

    /// The filter from the cache or the file. It is pinned if there is room.
    fn fetch_filter(&self) -> Result<Filter> {
        let offset = self.filter.offset;
        if let Some(Cached::Filter(filter)) = self.context.cache.get(self.meta.number, offset, Part::Filter) {
            return Ok(filter);
        }
        let filter = Filter::parse(self.section(self.filter)?);
        let bytes = filter.bytes() as u64;
        if !self.context.pinned.take(bytes, Part::Filter) {
            self.context.cache.insert(self.meta.number, offset, Cached::Filter(filter.clone()));
        } else if self.pinned_filter.set(filter.clone()).is_err() {
            // Somebody else was faster.
            self.context.pinned.give_back(bytes);
        }
        Ok(filter)
    }

    /// From now on nothing refers to the table but readers that already do.
    pub(crate) fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The number of the first stretch whose last key is at or after the encoded key `target`; beyond all of them if there is
    /// none.
    fn stretch_at(&self, target: &[u8]) -> usize {
        self.fences.before(prefix_of(target), |at| compare(&self.stretches[at].last, target).is_lt())
    }

    /// A stretch's index block. It is pinned if there is room and `fill_cache`.
    fn index_block(&self, stretch: &Stretch, fill_cache: bool) -> Result<Block> {
        if let Some(block) = stretch.pinned.get() {
            return Ok(block.clone());
        }
        let block = self.block(stretch.handle, Part::Index, fill_cache)?;
        let bytes = block.bytes() as u64;
        if fill_cache
            && self.context.pinned.take(bytes, Part::Index)
            && stretch.pinned.set(block.clone()).is_err()
        {
            // Somebody else was faster.
            self.context.pinned.give_back(bytes);
        }
        Ok(block)
    }

    /// The block at `handle`, from the cache if it is there.
    fn block(&self, handle: Handle, part: Part, fill_cache: bool) -> Result<Block> {
        match self.cached(handle, part) {
            Some(block) => Ok(block),
            None => self.decoded(handle, self.section(handle)?, fill_cache),
        }
    }

    fn cached(&self, handle: Handle, part: Part) -> Option<Block> {
        match self.context.cache.get(self.meta.number, handle.offset, part) {
            Some(Cached::Block(block)) => Some(block),
            _ => None,
        }
    }

    /// The block at `handle` of which `body` was read.
    fn decoded(&self, handle: Handle, body: Bytes, fill_cache: bool) -> Result<Block> {
        let block = Block::parse(body).map_err(|what| self.noted(self.corrupt(handle.offset, what)))?;
        if fill_cache {
            self.context.cache.insert(self.meta.number, handle.offset, Cached::Block(block.clone()));
        }
        Ok(block)
    }

    fn section(&self, handle: Handle) -> Result<Bytes> {
        read_section(&*self.file, &self.path, self.meta.bytes, handle).map_err(|error| self.noted(error))
    }

    /// Whoever meets the damage sees an error; whoever runs the engine must hear of it too.
    fn noted(&self, error: Error) -> Error {
        self.context.note_unreadable(&error);
        error
    }

    fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Error::corrupt(&self.path, offset, what)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let indexes = self.stretches.iter().filter_map(|stretch| stretch.pinned.get());
        let pinned =
            indexes.map(Block::bytes).chain(self.pinned_filter.get().map(Filter::bytes)).sum::<usize>();
        if pinned > 0 {
            self.context.pinned.give_back(pinned as u64);
        }
        if *self.obsolete.get_mut() {
            self.context.graveyard.add(std::mem::take(&mut self.path));
        }
    }
}

fn stretches_of(top_index: Block) -> Result<Vec<Stretch>, Malformed> {
    let mut stretches = Vec::new();
    let mut cursor = BlockCursor::new(top_index);
    cursor.first()?;
    while cursor.is_valid() {
        stretches.push(Stretch {
            last: cursor.key().to_vec(),
            handle: handle_at(&cursor)?,
            pinned: OnceLock::new(),
        });
        cursor.advance()?;
    }
    Ok(stretches)
}

/// Where the block is that an entry of an index stands for.
fn handle_at(index: &BlockCursor) -> Result<Handle, Malformed> {
    index.inline().and_then(Handle::decode).ok_or(NO_HANDLE)
}

/// See [`prefix`].
fn prefix_of(encoded: &[u8]) -> u64 {
    match split(encoded).and_then(|(prefixed, _)| prefixed.split_first()) {
        Some((cf, user)) => prefix(*cf, user),
        None => 0,
    }
}

fn read_section(file: &dyn File, path: &Path, file_bytes: u64, handle: Handle) -> Result<Bytes> {
    let end = handle.offset.checked_add(u64::from(handle.len));
    if (handle.len as usize) < TRAILER_BYTES || end.is_none_or(|end| end > file_bytes) {
        return Err(Error::corrupt(path, handle.offset, "a handle points outside the table"));
    }
    let section = file.read_exact_at(handle.len as usize, handle.offset).at(path, "read")?;
    open_section(section).map_err(|what| Error::corrupt(path, handle.offset, what))
}

#[cfg(test)]
mod tests;
