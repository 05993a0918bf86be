//! Writing segments: values in, durable files out.

use crate::error::IoContext;
use crate::options::Compression;
use crate::table::TableContext;
use crate::value::Pointer;
use crate::vlog::record::{self, HEADER_BYTES};
use crate::vlog::{BUCKETS, SegmentMeta};
use crate::{Result, files};
use nokv_env::{File, OpenMode};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes gathered before they go to the file.
const WRITE_BYTES: usize = 512 << 10;

/// A segment under construction. Dropped before [`Draft::finish`], it leaves a file that no manifest names.
struct Draft {
    file: Arc<dyn File>,
    path: PathBuf,
    meta: SegmentMeta,
    /// Not yet in the file.
    buffer: Vec<u8>,
}

impl Draft {
    fn create(context: &TableContext, bucket: u8, number: u64) -> Result<Self> {
        let path = files::segment(&context.dir, bucket, number);
        let dir = files::bucket(&context.dir, bucket);
        context.disk.create_dir_all(&dir).at(&dir, "create")?;
        let file = context.disk.open(&path, OpenMode::CreateNew).at(&path, "create")?;
        let meta = SegmentMeta { number, bucket, bytes: HEADER_BYTES as u64, values: 0 };
        Ok(Self { file, path, meta, buffer: record::header(number).to_vec() })
    }

    fn add(&mut self, key: &[u8], value: &[u8], compression: Compression) -> Result<Pointer> {
        let (segment, offset) = (self.meta.number, self.meta.bytes);
        let len = record::append(&mut self.buffer, (segment, offset), key, value, compression);
        self.meta.bytes += len as u64;
        self.meta.values += 1;
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        // Keys and values are bounded far below 4 GiB.
        Ok(Pointer { segment, offset, len: len as u32 })
    }

    fn write(&mut self) -> Result<()> {
        let at = self.meta.bytes - self.buffer.len() as u64;
        self.file.write_at(&self.buffer, at).at(&self.path, "write")?;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the file's content durable.
    fn finish(mut self) -> Result<SegmentMeta> {
        self.write()?;
        // Nobody knows the file yet: if this fails, it goes.
        self.file.sync_data().at(&self.path, "save")?;
        Ok(self.meta)
    }
}

/// Writes values into as many segments as it takes, at most one at a time in every bucket.
pub(crate) struct ValueWriter<'a> {
    context: &'a TableContext,
    compression: Compression,
    segment_bytes: u64,
    drafts: [Option<Draft>; BUCKETS as usize],
    done: Vec<SegmentMeta>,
    /// Of all records.
    bytes: u64,
}

impl<'a> ValueWriter<'a> {
    /// Segments are cut at `segment_bytes`.
    pub(crate) fn new(context: &'a TableContext, compression: Compression, segment_bytes: u64) -> Self {
        Self { context, compression, segment_bytes, drafts: Default::default(), done: Vec::new(), bytes: 0 }
    }

    /// Bytes of the records that were added.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the value of `key` (family and user key) to `bucket`. New files are numbered by `next_file`.
    pub(crate) fn add(
        &mut self,
        bucket: u8,
        key: &[u8],
        value: &[u8],
        next_file: &dyn Fn() -> u64,
    ) -> Result<Pointer> {
        let slot = &mut self.drafts[usize::from(bucket)];
        let mut draft = match slot.take() {
            Some(draft) => draft,
            None => Draft::create(self.context, bucket, next_file())?,
        };
        let pointer = draft.add(key, value, self.compression)?;
        self.bytes += u64::from(pointer.len);
        if draft.meta.bytes >= self.segment_bytes {
            self.done.push(draft.finish()?);
        } else {
            *slot = Some(draft);
        }
        Ok(pointer)
    }

    /// The finished segments, content and names durable.
    pub(crate) fn finish(mut self) -> Result<Vec<SegmentMeta>> {
        for draft in self.drafts.iter_mut().filter_map(Option::take) {
            self.done.push(draft.finish()?);
        }
        for bucket in 0..BUCKETS {
            if self.done.iter().any(|meta| meta.bucket == bucket) {
                let dir = files::bucket(&self.context.dir, bucket);
                self.context.disk.sync_dir(&dir).at(&dir, "sync")?;
            }
        }
        Ok(self.done)
    }
}
