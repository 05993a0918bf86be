//! Where flushes and compactions write to: tables, and beside them the segments of the value log.

use crate::Result;
use crate::key::{Entry, InternalKey};
use crate::options::Options;
use crate::table::TableContext;
use crate::table::builder::TableBuilder;
use crate::table::format::TableMeta;
use crate::value::{Pointer, Value};
use crate::version::Version;
use crate::vlog::writer::ValueWriter;
use crate::vlog::{BUCKETS, SegmentMeta};
use std::collections::BTreeSet;

/// Writes entries into as many tables as it takes, and large values into segments.
pub(crate) struct Output<'a> {
    context: &'a TableContext,
    options: &'a Options,
    next_file: &'a (dyn Fn() -> u64 + Send + Sync),
    table_bytes: u64,
    /// Level of the tables.
    level: usize,
    builder: Option<TableBuilder>,
    tables: Vec<TableMeta>,
    tables_bytes: u64,
    values: ValueWriter<'a>,
    /// Knows the segments that stored values are in.
    version: &'a Version,
    /// Segments whose values are to move.
    collect: BTreeSet<u64>,
    /// Bytes of records that moved.
    moved_bytes: u64,
    /// What rows that have an end are judged by; 0: they are left alone.
    now: u64,
    /// Rows that had ended.
    expired: u64,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) tables: Vec<TableMeta>,
    pub(crate) segments: Vec<SegmentMeta>,
    /// Bytes of records that moved from one segment to another.
    pub(crate) moved_bytes: u64,
    /// Rows that were not written because they had ended.
    pub(crate) expired: u64,
}

impl Written {
    /// Takes what another part of the same work wrote along.
    pub(crate) fn append(&mut self, mut other: Written) {
        self.tables.append(&mut other.tables);
        self.segments.append(&mut other.segments);
        self.moved_bytes += other.moved_bytes;
        self.expired += other.expired;
    }

    /// Bytes of all new files.
    pub(crate) fn bytes(&self) -> u64 {
        let tables = self.tables.iter().map(|meta| meta.bytes);
        tables.chain(self.segments.iter().map(|meta| meta.bytes)).sum()
    }
}

impl<'a> Output<'a> {
    /// Tables are for `level`, and cut at `table_bytes`; files are numbered by `next_file`.
    pub(crate) fn new(
        context: &'a TableContext,
        options: &'a Options,
        level: usize,
        table_bytes: u64,
        version: &'a Version,
        next_file: &'a (dyn Fn() -> u64 + Send + Sync),
    ) -> Self {
        let values = ValueWriter::new(context, options.compression, options.value_segment_bytes);
        let (tables, collect) = (Vec::new(), BTreeSet::new());
        let builder = None;
        Self {
            context,
            options,
            next_file,
            table_bytes,
            level,
            builder,
            tables,
            tables_bytes: 0,
            values,
            version,
            collect,
            moved_bytes: 0,
            now: 0,
            expired: 0,
        }
    }

    /// Takes rows for tombstones that have ended at `now`, milliseconds since the Unix epoch.
    pub(crate) fn expiring(self, now: u64) -> Self {
        Self { now, ..self }
    }

    /// The entry, or a tombstone in its place if it has ended. For what is about to be added, or dropped.
    pub(crate) fn judged(&mut self, mut entry: Entry) -> Entry {
        if entry.value.is_expired(self.now) {
            entry.value = Value::Tombstone;
            self.expired += 1;
        }
        entry
    }

    /// So many rows had ended, and nobody needed to look at them.
    pub(crate) fn left_out(&mut self, rows: u64) {
        self.expired += rows;
    }

    /// Moves the values of these segments into new ones as they come by.
    pub(crate) fn collecting(self, collect: BTreeSet<u64>) -> Self {
        Self { collect, ..self }
    }

    /// Bytes of the files so far, about, and of the values that were read to move them.
    pub(crate) fn bytes(&self) -> u64 {
        let table = self.builder.as_ref().map_or(0, TableBuilder::bytes);
        self.tables_bytes + table + self.values.bytes() + self.moved_bytes
    }

    /// Adds an entry; at most one version a key comes here, so tables may be cut anywhere.
    pub(crate) fn add(&mut self, mut entry: Entry) -> Result<()> {
        entry.value = self.place(&entry.key, entry.value)?;
        let builder = match &mut self.builder {
            Some(builder) => builder,
            none => {
                let context = self.context;
                let number = (self.next_file)();
                let builder = TableBuilder::create(&*context.disk, &context.dir, number, self.options)?;
                let bits = self.options.bloom_bits_at(self.level, self.version.deepest());
                none.insert(builder.with(self.options.compression_at(self.level), bits))
            }
        };
        builder.add(&entry)?;
        if builder.bytes() >= self.table_bytes { self.cut() } else { Ok(()) }
    }

    /// Ends the current table.
    pub(crate) fn cut(&mut self) -> Result<()> {
        if let Some(builder) = self.builder.take() {
            self.end(builder)?;
        }
        Ok(())
    }

    fn end(&mut self, builder: TableBuilder) -> Result<()> {
        let meta = builder.finish()?;
        self.tables_bytes += meta.bytes;
        self.tables.push(meta);
        Ok(())
    }

    /// Puts a value where it belongs. Its end stays with the entry.
    fn place(&mut self, key: &InternalKey, value: Value) -> Result<Value> {
        let expiry = value.expiry();
        let placed = match value.timeless() {
            Value::Inline(value) if value.len() >= self.options.value_threshold => {
                self.store(0, &key.prefixed(), value).map(Value::Stored)
            }
            Value::Stored(pointer) if self.collect.contains(&pointer.segment) => {
                let key = key.prefixed();
                let (bucket, value) = self.version.read_stored(&key, *pointer, false)?;
                self.moved_bytes += u64::from(pointer.len);
                let bucket = (bucket + 1).min(BUCKETS - 1);
                self.store(bucket, &key, &value).map(Value::Stored)
            }
            _ => return Ok(value),
        };
        placed.map(|value| value.until(expiry))
    }

    fn store(&mut self, bucket: u8, key: &[u8], value: &[u8]) -> Result<Pointer> {
        self.values.add(bucket, key, value, &self.next_file)
    }

    /// The finished files. Their content is durable, and the names of segments are; those of tables are not yet.
    pub(crate) fn finish(mut self) -> Result<Written> {
        self.cut()?;
        let segments = self.values.finish()?;
        Ok(Written { tables: self.tables, segments, moved_bytes: self.moved_bytes, expired: self.expired })
    }
}
