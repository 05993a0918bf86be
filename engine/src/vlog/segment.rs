//! A segment, open for reading.

use crate::cache::{Cached, Part};
use crate::error::IoContext;
use crate::table::TableContext;
use crate::value::Pointer;
use crate::vlog::SegmentMeta;
use crate::vlog::record::{self, HEADER_BYTES};
use crate::{Error, Result, files};
use bytes::Bytes;
use nokv_env::{File, OpenMode};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An open segment. One that nobody points at any more is marked obsolete; when its last reader lets go of it, the
/// file lands in the graveyard, as that of a table does.
pub(crate) struct Segment {
    pub(crate) meta: SegmentMeta,
    file: Arc<dyn File>,
    path: PathBuf,
    context: TableContext,
    obsolete: AtomicBool,
}

impl Segment {
    /// Opens the segment that `meta` (from the manifest) describes, and checks that the file can be it.
    pub(crate) fn open(context: &TableContext, meta: SegmentMeta) -> Result<Self> {
        let path = files::segment(&context.dir, meta.bucket, meta.number);
        let file = match context.disk.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let what = "the segment of the value log is missing although the manifest names it";
                return Err(Error::corrupt(&path, 0, what));
            }
            other => other.at(&path, "open")?,
        };
        let len = file.len().at(&path, "measure")?;
        if len != meta.bytes || len < HEADER_BYTES as u64 {
            let what = format!("the segment has {len} bytes, the manifest says {}", meta.bytes);
            return Err(Error::corrupt(&path, len, what));
        }
        let header = file.read_exact_at(HEADER_BYTES, 0).at(&path, "read")?;
        record::check_header(meta.number, &header).map_err(|what| Error::corrupt(&path, 0, what))?;
        Ok(Self { meta, file, path, context: context.clone(), obsolete: AtomicBool::new(false) })
    }

    /// The value at `pointer`, which must be one of `key` (family and user key).
    /// What is read is kept in the cache if `fill_cache`.
    pub(crate) fn read(&self, pointer: Pointer, key: &[u8], fill_cache: bool) -> Result<Bytes> {
        self.try_read(pointer, key, fill_cache).inspect_err(|error| self.context.note_unreadable(error))
    }

    fn try_read(&self, pointer: Pointer, key: &[u8], fill_cache: bool) -> Result<Bytes> {
        let Pointer { offset, len, .. } = pointer;
        let corrupt = |what| Error::corrupt(&self.path, offset, what);
        if offset.checked_add(u64::from(len)).is_none_or(|end| end > self.meta.bytes) {
            return Err(corrupt("a pointer leads outside the segment"));
        }
        let (cache, number) = (&self.context.cache, self.meta.number);
        let (found, value) = match cache.get(number, offset, Part::Data) {
            Some(Cached::Record(found, value)) => (found, value),
            _ => {
                let bytes = self.file.read_exact_at(len as usize, offset).at(&self.path, "read")?;
                let (found, value) = record::open((number, offset), bytes).map_err(corrupt)?;
                if fill_cache {
                    cache.insert(number, offset, Cached::Record(found.clone(), value.clone()));
                }
                (found, value)
            }
        };
        if found == key { Ok(value) } else { Err(corrupt("the record is of another key")) }
    }

    /// From now on nothing refers to the segment but readers that already do.
    pub(crate) fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if *self.obsolete.get_mut() {
            self.context.graveyard.add(std::mem::take(&mut self.path));
        }
    }
}
