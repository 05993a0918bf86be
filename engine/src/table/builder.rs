//! Writing a table: entries in order in, one durable file out.

use crate::error::IoContext;
use crate::files;
use crate::key::{self, Entry, InternalKey};
use crate::options::{Compression, Options};
use crate::table::block::BlockBuilder;
use crate::table::filter;
use crate::table::format::{Expiry, Footer, Handle, TRAILER_BYTES, TableMeta, seal_section};
use crate::value::Value;
use crate::{Error, Result};
use nokv_env::{Disk, File, OpenMode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes gathered before they go to the file.
const WRITE_BYTES: usize = 512 << 10;

/// A table under construction. Dropped without [`TableBuilder::finish`], it leaves a file that no manifest names.
pub(crate) struct TableBuilder {
    file: Arc<dyn File>,
    path: PathBuf,
    /// Not yet in the file.
    buffer: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    data: BlockBuilder,
    index: BlockBuilder,
    top_index: BlockBuilder,
    hashes: Vec<u64>,
    block_bytes: usize,
    compression: Compression,
    bloom_bits_per_key: u32,
    number: u64,
    entries: u64,
    tombstones: u64,
    sequence_min: u64,
    sequence_max: u64,
    smallest: Option<InternalKey>,
    /// Bytes of the value log that the pointers take, by segment.
    references: BTreeMap<u64, u64>,
    /// Bytes of all entries, those of values in the value log included.
    entry_bytes: u64,
    /// Of entries that have an end: when, and their bytes.
    ends: Vec<(u64, u64)>,
    /// The encoded key of the last entry, the largest so far.
    last: Vec<u8>,
    /// Scratch: the encoded key.
    encoded: Vec<u8>,
}

impl TableBuilder {
    /// Creates the file of table `number` in `dir`.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, number: u64, options: &Options) -> Result<Self> {
        Self::create_at(disk, &files::table(dir, number), number, options)
    }

    /// Creates the file of table `number` as `path`, to be moved to where it belongs later.
    pub(crate) fn create_at(disk: &dyn Disk, path: &Path, number: u64, options: &Options) -> Result<Self> {
        let path = path.to_owned();
        let file = disk.open(&path, OpenMode::CreateNew).at(&path, "create")?;
        Ok(Self {
            file,
            path,
            buffer: Vec::with_capacity(WRITE_BYTES.min(options.table_bytes as usize) + options.block_bytes),
            written: 0,
            data: BlockBuilder::new(),
            index: BlockBuilder::of_index(),
            top_index: BlockBuilder::new(),
            hashes: Vec::new(),
            block_bytes: options.block_bytes,
            compression: options.compression,
            bloom_bits_per_key: options.bloom_bits_per_key,
            number,
            entries: 0,
            tombstones: 0,
            sequence_min: u64::MAX,
            sequence_max: 0,
            smallest: None,
            references: BTreeMap::new(),
            entry_bytes: 0,
            ends: Vec::new(),
            last: Vec::new(),
            encoded: Vec::new(),
        })
    }

    /// Blocks are compressed like this, and the filter has so many bits a key, whatever the options say.
    pub(crate) fn with(self, compression: Compression, bloom_bits_per_key: u32) -> Self {
        Self { compression, bloom_bits_per_key, ..self }
    }

    /// Adds an entry that sorts behind all before it.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<()> {
        let Entry { key, value } = entry;
        self.encoded.clear();
        key.encode_to(&mut self.encoded);
        assert!(
            self.last.is_empty() || key::compare(&self.last, &self.encoded).is_lt(),
            "{}: {key:?} is out of order",
            self.path.display()
        );
        let prefixed = &self.encoded[..self.encoded.len() - 8];
        let is_same_key = key::split(&self.last).is_some_and(|(last, _)| last == prefixed);
        if self.bloom_bits_per_key > 0 && !is_same_key {
            self.hashes.push(filter::hash(prefixed));
        }
        self.data.add(&self.encoded, value);
        let mut bytes = entry.table_bytes() as u64;
        if let Value::Stored(pointer) = value.timeless() {
            *self.references.entry(pointer.segment).or_default() += u64::from(pointer.len);
            bytes += u64::from(pointer.len);
        }
        self.entry_bytes += bytes;
        if let Value::Until(until) = value {
            self.ends.push((until.unix_millis, bytes));
        }
        self.entries += 1;
        self.tombstones += u64::from(value.is_tombstone());
        self.sequence_min = self.sequence_min.min(key.sequence);
        self.sequence_max = self.sequence_max.max(key.sequence);
        if self.smallest.is_none() {
            self.smallest = Some(key.clone());
        }
        std::mem::swap(&mut self.last, &mut self.encoded);
        if self.data.bytes() >= self.block_bytes {
            self.cut_data_block()?;
        }
        Ok(())
    }

    /// Bytes the table has so far, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.offset() + self.data.bytes() as u64
    }

    /// Writes what is left and makes the file's content durable. The caller syncs the directory before a manifest
    /// names the table.
    pub(crate) fn finish(mut self) -> Result<TableMeta> {
        self.cut_data_block()?;
        self.cut_index_block()?;
        let filter = if self.hashes.is_empty() {
            Handle::default()
        } else {
            let filter = filter::build(&self.hashes, self.bloom_bits_per_key);
            self.put_section(filter, Compression::None)?
        };
        let top_index = self.top_index.finish();
        let top_index = self.put_section(top_index, self.compression)?;
        let (Some(smallest), Some(largest)) = (self.smallest.take(), InternalKey::decode(&self.last)) else {
            return Err(Error::corrupt(&self.path, 0, "a table without entries was finished"));
        };
        let mut meta = TableMeta {
            number: self.number,
            bytes: 0,
            entries: self.entries,
            tombstones: self.tombstones,
            sequence_min: self.sequence_min,
            sequence_max: self.sequence_max,
            smallest,
            largest,
            expiry: Expiry::of(std::mem::take(&mut self.ends), self.entry_bytes),
            references: std::mem::take(&mut self.references),
        };
        let mut properties = Vec::new();
        meta.encode_properties(&mut properties);
        let properties = self.put_section(properties, Compression::None)?;
        let footer = Footer { top_index, filter, properties, expires: meta.expiry.is_some() };
        self.buffer.extend_from_slice(&footer.encode());
        self.write()?;
        // Nobody knows the file yet: if this fails, it goes.
        self.file.sync_data().at(&self.path, "save")?;
        meta.bytes = self.written;
        Ok(meta)
    }

    fn cut_data_block(&mut self) -> Result<()> {
        if self.data.is_empty() {
            return Ok(());
        }
        let last_key = self.data.last_key().to_vec();
        let body = self.data.finish();
        let handle = self.put_section(body, self.compression)?;
        self.index.add_inline(&last_key, &handle.encode());
        if self.index.bytes() >= self.block_bytes {
            self.cut_index_block()?;
        }
        Ok(())
    }

    fn cut_index_block(&mut self) -> Result<()> {
        if self.index.is_empty() {
            return Ok(());
        }
        let last_key = self.index.last_key().to_vec();
        let body = self.index.finish();
        let handle = self.put_section(body, self.compression)?;
        self.top_index.add_inline(&last_key, &handle.encode());
        Ok(())
    }

    fn put_section(&mut self, body: Vec<u8>, compression: Compression) -> Result<Handle> {
        let section = seal_section(body, compression);
        debug_assert!(section.len() >= TRAILER_BYTES);
        let handle = Handle { offset: self.offset(), len: section.len() as u32 };
        self.buffer.extend_from_slice(&section);
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(handle)
    }

    fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn write(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.written).at(&self.path, "write")?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
