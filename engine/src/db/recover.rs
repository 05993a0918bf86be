//! Opening, step by step.
//!
//! 1. Take the lock.
//! 2. Find `CURRENT`. A directory without one is new, or a creation that was interrupted, or refused.
//! 3. Add up the manifest.
//! 4. Open its tables.
//! 5. Replay the log from where the manifest says it matters.
//! 6. Write a fresh manifest.
//! 7. Only now remove what nothing refers to: older manifests, log segments below the start, tables that the
//!    manifest could have named and does not, segments of the value log likewise.
//!
//! A read-only open does steps 2 to 5 and changes nothing.

use crate::cache::BlockCache;
use crate::db::queue::Queue;
use crate::db::write::{KIND_BATCH, decode_batch};
use crate::db::{Counters, Inner};
use crate::edit::Catalog;
use crate::error::IoContext;
use crate::files::{self, Kind, WAL_EXTENSION};
use crate::log::{Log, LogOptions, Position};
use crate::manifest::{self, Manifest};
use crate::memtable::Memtable;
use crate::pace::Limiter;
use crate::stats::ReadCounters;
use crate::table::{Pinned, Table, TableContext};
use crate::version::Version;
use crate::view::{View, Views};
use crate::vlog::SegmentMeta;
use crate::vlog::segment::Segment;
use crate::{Error, Options, Result};
use nokv_env::disk::LockGuard;
use nokv_env::task::Stop;
use nokv_env::{Disk, Env, Hooks, Instant, NoHooks, OpenMode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Open tables may keep filters in one part of so many of the memory for blocks.
const PINNED_SHARE: u64 = 8;

/// Opens for reading and writing.
pub(super) fn open(env: &Env, dir: &Path, mut options: Options) -> Result<Arc<Inner>> {
    options.validate()?;
    if env.chance("engine.memtable.small", 0.3) {
        options.memtable_bytes = options.memtable_bytes.min(8 << 10);
    }
    if env.chance("engine.vlog.small", 0.3) {
        options.value_threshold = options.value_threshold.min(48);
        options.value_segment_bytes = options.value_segment_bytes.min(4 << 10);
    }
    if env.chance("engine.background.limited", 0.2) {
        options.background_bytes_per_second = 64 << 10;
    }
    let disk = &*env.disk;
    disk.create_dir_all(dir).at(dir, "create")?;
    let guard = take_lock(disk, dir, &options.lock_owner)?;
    let names = disk.list(dir).at(dir, "list")?;
    if !options.is_owner && names.iter().any(|name| name == files::OWNER_FILE) {
        return Err(Error::Owned { dir: dir.to_owned() });
    }
    let number = match manifest::read_current(disk, dir)? {
        Some(number) => number,
        None => {
            refuse_remains(&env.disk, dir, &names, &options)?;
            create(env, dir, &options)?
        }
    };
    let mut recovery = Recovery::read(env.disk.clone(), env.hooks.clone(), dir, options, number)?;
    let mut log = recovery.replay(Log::open)?;
    if log.torn_bytes() > 0 {
        env.probe("engine.wal.torn_tail");
    }
    let segments = files::segments(disk, dir).at(dir, "list the value log of")?;
    let stale = recovery.stale_files(&names, &segments);
    let manifest = recovery.write_manifest(&names, &segments, number)?;
    for path in stale {
        match disk.remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.at(&path, "remove")?,
        }
    }
    log.purge_below(recovery.catalog.log_start)?;
    Ok(recovery.finish(Some(env.clone()), 0, log, Some(manifest), Some(guard)))
}

/// Opens for reading only.
pub(super) fn open_read_only(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: Options,
    read_at: u64,
) -> Result<Arc<Inner>> {
    options.validate()?;
    let names = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotADatabase { dir: dir.to_owned() });
        }
        names => names.at(dir, "list")?,
    };
    let Some(number) = manifest::read_current(&*disk, dir)? else {
        let evidence = names.into_iter().find(|name| Kind::of(name).is_some());
        let dir = dir.to_owned();
        return Err(match evidence {
            Some(evidence) => Error::MissingCurrent { dir, evidence },
            None => Error::NotADatabase { dir },
        });
    };
    let mut recovery = Recovery::read(disk, Arc::new(NoHooks), dir, options, number)?;
    let log = recovery.replay(Log::open_read_only)?;
    Ok(recovery.finish(None, read_at, log, None, None))
}

fn take_lock(disk: &dyn Disk, dir: &Path, owner: &str) -> Result<Box<dyn LockGuard>> {
    let path = files::lock(dir);
    match disk.lock(&path, owner) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(Error::Locked { path, owner: error.to_string() })
        }
        result => result.at(&path, "lock"),
    }
}

/// Without `CURRENT`, accepts only what an interrupted creation can have left: nothing that ever held data.
fn refuse_remains(disk: &Arc<dyn Disk>, dir: &Path, names: &[String], options: &Options) -> Result<()> {
    for name in names {
        let virgin = match Kind::of(name) {
            None => true,
            Some(Kind::Manifest(1)) => is_manifest_virgin(&**disk, dir)?,
            Some(Kind::Wal(1)) => is_log_virgin(disk, dir, options)?,
            Some(_) => false,
        };
        if !virgin {
            return Err(Error::MissingCurrent { dir: dir.to_owned(), evidence: name.clone() });
        }
    }
    Ok(())
}

fn is_manifest_virgin(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    match manifest::read(disk, dir, 1) {
        Ok((catalog, records)) => Ok(records <= 1 && catalog.tables.is_empty()),
        Err(error) if error.is_corrupt() => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_log_virgin(disk: &Arc<dyn Disk>, dir: &Path, options: &Options) -> Result<bool> {
    let mut records = 0;
    let log = Log::open_read_only(disk.clone(), dir, log_options(options), &mut |_, _, _| {
        records += 1;
        Ok(())
    });
    match log {
        Ok(log) => Ok(records == 0 && log.segments().len() == 1),
        Err(error) if error.is_corrupt() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates an empty database: first the log's first segment, then the manifest, last `CURRENT`.
fn create(env: &Env, dir: &Path, options: &Options) -> Result<u64> {
    env.probe("engine.create");
    Log::open(env.disk.clone(), dir, log_options(options), &mut |_, _, _| Ok(()))?;
    let catalog = Catalog { log_start: 1, next_file: 2, ..Catalog::default() };
    Manifest::create(env.disk.clone(), dir, 1, catalog, options.manifest_bytes, OpenMode::Create)?;
    Ok(1)
}

pub(super) fn log_options(options: &Options) -> LogOptions {
    LogOptions { extension: WAL_EXTENSION.to_owned(), segment_bytes: options.wal_segment_bytes }
}

/// What has been recovered so far.
struct Recovery {
    options: Options,
    context: TableContext,
    /// As the manifest says.
    catalog: Catalog,
    version: Version,
    /// Replayed memtables, oldest first; the last one takes writes.
    memtables: Vec<Memtable>,
    sequence: u64,
    next_file: u64,
}

/// Either way to open a log.
type OpenLog =
    fn(Arc<dyn Disk>, &Path, LogOptions, &mut dyn FnMut(Position, u8, &[u8]) -> Result<()>) -> Result<Log>;

impl Recovery {
    /// Adds up the manifest and opens its tables.
    fn read(
        disk: Arc<dyn Disk>,
        hooks: Arc<dyn Hooks>,
        dir: &Path,
        options: Options,
        number: u64,
    ) -> Result<Self> {
        let (catalog, _) = manifest::read_in_force(&*disk, dir, number)?;
        let pinned_bytes = options.block_cache_bytes / PINNED_SHARE;
        let cache_bytes = options.block_cache_bytes - pinned_bytes;
        let reads = Arc::<ReadCounters>::default();
        let context = TableContext {
            disk,
            dir: dir.to_owned(),
            cache: Arc::new(BlockCache::new(cache_bytes, options.block_bytes, reads.clone())),
            pinned: Arc::new(Pinned::new(pinned_bytes)),
            graveyard: Arc::default(),
            reads,
            readahead_bytes: options.readahead_bytes,
            hooks,
            unreadable: Arc::default(),
        };
        let open =
            |(level, meta): &(usize, _)| Ok((*level, Arc::new(Table::open(&context, Clone::clone(meta))?)));
        let tables = catalog.tables.values().map(open).collect::<Result<Vec<_>>>()?;
        let open = |meta: &SegmentMeta| Segment::open(&context, *meta).map(Arc::new);
        let segments = catalog.segments.values().map(open).collect::<Result<Vec<_>>>()?;
        let version = Version::of(tables, segments)
            .map_err(|what| Error::corrupt(&files::manifest(dir, number), 0, what))?;
        let memtables = vec![Memtable::new(catalog.log_start, options.memtable_bytes)];
        let (sequence, next_file) = (catalog.flushed_sequence, catalog.next_file);
        Ok(Self { options, context, catalog, version, memtables, sequence, next_file })
    }

    /// Replays the log into memtables. Records get sequences in their order: writes that were applied without the
    /// log are gone, so the old numbers mean nothing.
    fn replay(&mut self, open: OpenLog) -> Result<Log> {
        let log_start = self.catalog.log_start;
        let (disk, dir) = (self.context.disk.clone(), self.context.dir.clone());
        let start = files::wal(&dir, log_start);
        if !disk.exists(&start).at(&start, "look for")? {
            return Err(Error::corrupt(
                &start,
                0,
                "the log segment is missing although the manifest needs it",
            ));
        }
        let mut segment = log_start;
        open(disk, &dir, log_options(&self.options), &mut |position, kind, payload| {
            if position.segment < log_start {
                return Ok(());
            }
            let batch = decode_batch(payload).filter(|_| kind == KIND_BATCH);
            let batch = batch.ok_or_else(|| {
                let file = files::wal(&dir, position.segment);
                Error::corrupt(&file, position.offset, "the record does not decode")
            })?;
            if position.segment != segment {
                segment = position.segment;
                self.next_memtable(segment);
            }
            self.sequence += 1;
            self.active().insert(batch, self.sequence);
            Ok(())
        })
    }

    /// Starts a new memtable at a segment's begin if the current one is full.
    fn next_memtable(&mut self, segment: u64) {
        if self.active().bytes() >= self.options.memtable_bytes {
            let next = self.active().successor(segment);
            self.memtables.push(next);
        }
    }

    fn active(&self) -> &Memtable {
        &self.memtables[self.memtables.len() - 1]
    }

    /// Files that the manifest in force proves useless. A table with a number that it could not know yet stays: should
    /// the manifest be an old one, that table is somebody's data.
    fn stale_files(&self, names: &[String], segments: &[(u8, u64)]) -> Vec<PathBuf> {
        let is_stale = |name: &&String| match Kind::of(name) {
            Some(Kind::Manifest(_)) => true,
            Some(Kind::Table(number)) => {
                number < self.catalog.next_file && !self.catalog.tables.contains_key(&number)
            }
            Some(Kind::Current | Kind::Wal(_)) => false,
            None => name.as_str() == "CURRENT.tmp",
        };
        let dir = &self.context.dir;
        let is_stale_segment = |(bucket, number): &&(u8, u64)| {
            let is_live = self.catalog.segments.get(number).is_some_and(|meta| meta.bucket == *bucket);
            *number < self.catalog.next_file && !is_live
        };
        let stale_segments = segments.iter().filter(is_stale_segment);
        let stale_segments = stale_segments.map(|(bucket, number)| files::segment(dir, *bucket, *number));
        names.iter().filter(is_stale).map(|name| dir.join(name)).chain(stale_segments).collect()
    }

    /// Writes a fresh manifest with a number above all that exist.
    fn write_manifest(
        &mut self,
        names: &[String],
        segments: &[(u8, u64)],
        in_force: u64,
    ) -> Result<Manifest> {
        let used = names.iter().filter_map(|name| match Kind::of(name) {
            Some(Kind::Table(number) | Kind::Manifest(number)) => Some(number),
            _ => None,
        });
        let used = used.chain(segments.iter().map(|(_, number)| *number));
        let number = used.chain([in_force]).map(|number| number + 1).max().unwrap_or(1).max(self.next_file);
        self.next_file = number + 1;
        let catalog = Catalog { next_file: self.next_file, ..self.catalog.clone() };
        let (disk, dir) = (self.context.disk.clone(), self.context.dir.clone());
        Manifest::create(disk, &dir, number, catalog, self.options.manifest_bytes, OpenMode::CreateNew)
    }

    fn finish(
        self,
        env: Option<Env>,
        read_at: u64,
        log: Log,
        manifest: Option<Manifest>,
        guard: Option<Box<dyn LockGuard>>,
    ) -> Arc<Inner> {
        let mut memtables: Vec<_> = self.memtables.into_iter().rev().map(Arc::new).collect();
        let active = memtables.remove(0);
        for memtable in &memtables {
            memtable.seal(env.as_ref().map_or(Instant(0), |env| env.clock.now()));
        }
        let (version, reads) = (Arc::new(self.version), self.context.reads.clone());
        let view = View { active, immutables: memtables, version, reads };
        let counters = Counters::default();
        counters.torn_bytes.store(log.torn_bytes(), Ordering::Relaxed);
        let background_bytes_per_second = self.options.background_bytes_per_second;
        Arc::new(Inner {
            env,
            options: self.options,
            context: self.context,
            view: Views::new(view),
            visible: AtomicU64::new(self.sequence),
            written: AtomicU64::new(self.sequence),
            flushed: AtomicU64::new(self.catalog.flushed_sequence),
            next_file: AtomicU64::new(self.next_file),
            read_at,
            wal: Mutex::new(Some(log)),
            writer: Mutex::new(self.sequence),
            queue: Mutex::new(Queue::default()),
            manifest: Mutex::new(manifest),
            compacting: Mutex::default(),
            failure: Mutex::new(None),
            disk_full: AtomicBool::new(false),
            flushes_refused: Mutex::default(),
            directory_lock: Mutex::new(guard),
            stop: Stop::new(),
            loops: AtomicU64::new(0),
            flush_work: Notify::new(),
            settle_due: AtomicBool::new(false),
            compact_work: Notify::new(),
            compact_asked: AtomicU64::new(0),
            compact_settled: AtomicU64::new(0),
            limiter: Limiter::new(background_bytes_per_second),
            flush_waiters: AtomicU64::new(0),
            progress: Notify::new(),
            counters,
        })
    }
}
