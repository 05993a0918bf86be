//! A table that is written beside the database and joins it as a whole.
//!
//! What is too large for a batch can still come in one step: its changes are written into a table file of its own,
//! anywhere on the same file system, and one edit of the manifest makes them all visible and durable together. Until then
//! nothing of the database knows of them, and a crash leaves a file that nobody names.
//!
//! An import gets one sequence, when it begins. That is right under one condition, which is the caller's to keep:
//! *between [`Db::import`] and [`Db::adopt`] nobody writes a key of the import*. Then everything that the database has
//! of those keys is older, and [`Import::finish`] makes sure that it is in tables: a tombstone of the import may go in a
//! compaction as soon as no table has its key, and must not leave behind a memtable that does.

use crate::compaction::pick::deepest_level;
use crate::db::{Db, Inner};
use crate::edit::Edit;
use crate::error::IoContext;
use crate::key::{Entry, InternalKey};
use crate::table::Table;
use crate::table::builder::TableBuilder;
use crate::table::format::TableMeta;
use crate::value::{NEVER, Value};
use crate::version::Version;
use crate::vlog::SegmentMeta;
use crate::{Cf, Error, Result, files, lock};
use bytes::Bytes;
use nokv_env::Disk;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Changes on their way into a table file. Dropped, it takes the file along.
pub struct Import {
    inner: Arc<Inner>,
    file: Draft,
    builder: TableBuilder,
    sequence: u64,
    entries: u64,
}

/// A finished import that waits for [`Db::adopt`]. Dropped, it takes the file along.
pub struct Imported {
    file: Draft,
    meta: TableMeta,
}

/// A file that goes with its owner unless somebody adopts it.
struct Draft {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Adopted, or not: who has the name now is not this one any more.
        if !self.path.as_os_str().is_empty() {
            drop(self.disk.remove_file(&self.path));
        }
    }
}

impl Db {
    /// Begins an import in `file`, which must not exist, in a directory that does.
    pub fn import(&self, file: &Path) -> Result<Import> {
        let inner = &self.inner;
        inner.check()?;
        let number = inner.next_file_number();
        let disk = inner.context.disk.clone();
        let builder = TableBuilder::create_at(&*disk, file, number, &inner.options)?;
        let file = Draft { disk, path: file.to_owned() };
        Ok(Import { file, builder, sequence: inner.skip_sequence(), entries: 0, inner: inner.clone() })
    }

    /// Makes an import part of the database, durably. A failure in the middle of it poisons the engine; when the disk is
    /// full, nothing has happened, and it may be tried again.
    pub fn adopt(&self, imported: &mut Imported) -> Result<()> {
        let inner = &self.inner;
        inner.check()?;
        let Imported { file, meta } = imported;
        let sequence = meta.sequence_max;
        let home = files::table(inner.dir(), meta.number);
        inner.noted(move_table(inner, &file.path, &home))?;
        let joined = inner.join(vec![meta.clone()], Vec::new(), sequence);
        if let Err(error) = &joined
            && error.is_disk_full()
        {
            inner.refused(error);
            // Out of the way of the next start, which would take it for a leftover while we still need it.
            let back = move_table(inner, &home, &file.path).map_err(|error| error.for_later_callers());
            inner.noted(back)?;
            return joined;
        }
        file.path = PathBuf::new();
        joined
    }
}

fn move_table(inner: &Inner, from: &Path, to: &Path) -> Result<()> {
    inner.disk().rename(from, to).at(from, "rename")?;
    inner.disk().sync_dir(inner.dir()).at(inner.dir(), "sync")
}

impl Import {
    /// Sets `key` to `value`. Keys come in ascending order of (family, key), each once; anything else is a panic.
    pub fn put(&mut self, cf: Cf, key: Bytes, value: Bytes) -> Result<()> {
        self.add(cf, key, Value::Inline(value))
    }

    /// Sets `key` to `value` until a wall-clock time; see [`crate::WriteBatch::put_until`]. Comes in order with the others.
    pub fn put_until(&mut self, cf: Cf, key: Bytes, value: Bytes, unix_millis: u64) -> Result<()> {
        if unix_millis != NEVER {
            self.inner.may_expire()?;
        }
        self.add(cf, key, Value::Inline(value).until(unix_millis))
    }

    /// Removes `key`. Comes in order with the keys that are set.
    pub fn delete(&mut self, cf: Cf, key: Bytes) -> Result<()> {
        self.add(cf, key, Value::Tombstone)
    }

    fn add(&mut self, cf: Cf, key: Bytes, value: Value) -> Result<()> {
        self.entries += 1;
        self.builder.add(&Entry { key: InternalKey::new(cf, key, self.sequence), value })
    }

    /// Makes the file durable, and everything older in the database too. There must be something in the import.
    pub async fn finish(self) -> Result<Imported> {
        let Self { inner, file, builder, entries, .. } = self;
        if entries == 0 {
            return Err(Error::InvalidOption("an import must hold something"));
        }
        let meta = builder.finish()?;
        inner.flush().await?;
        Ok(Imported { file, meta })
    }
}

impl Imported {
    /// Bytes of its table.
    pub fn bytes(&self) -> u64 {
        self.meta.bytes
    }
}

impl Inner {
    /// Makes durable tables, and segments of values that they point into, part of the database in one step. Their names
    /// are durable too. Each table goes to the deepest level where nothing is in its way. Their keys have `sequence`, and what was written before that is in tables.
    pub(super) fn join(
        &self,
        tables: Vec<TableMeta>,
        segments_added: Vec<SegmentMeta>,
        sequence: u64,
    ) -> Result<()> {
        self.replace(|_| false, tables, segments_added, sequence).map(drop)
    }

    /// The same, as those tables go that `leaves` names, in the same step. Returns how many went.
    pub(super) fn replace(
        &self,
        leaves: impl Fn(&Table) -> bool,
        tables: Vec<TableMeta>,
        segments_added: Vec<SegmentMeta>,
        sequence: u64,
    ) -> Result<u64> {
        let mut left = 0;
        let edit = |version: &Version| {
            let leaving = version.tables().filter(|(_, table)| leaves(table));
            let removed: BTreeSet<u64> = leaving.map(|(_, table)| table.meta.number).collect();
            left = removed.len() as u64;
            let compacting = lock(&self.compacting);
            let running = compacting.running.as_ref();
            let placed = |meta: TableMeta| (deepest_level(version, &removed, running, &meta), meta);
            let added = tables.into_iter().map(placed).collect();
            Edit { added, removed, segments_added, flushed_sequence: Some(sequence), ..Edit::default() }
        };
        self.noted(self.install_with(edit, |_| {}))?;
        self.took();
        self.flushed.fetch_max(sequence, Ordering::AcqRel);
        self.progress.notify_waiters();
        self.look_for_compact_work();
        Ok(left)
    }

    /// A sequence that no batch gets.
    pub(super) fn skip_sequence(&self) -> u64 {
        let mut last = lock(&self.writer);
        *last += 1;
        self.visible.store(*last, Ordering::Release);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use crate::testing::{Map, World, content, delete, put};
    use nokv_env::mem_disk::{CrashMode, DiskFaults};

    const STAGED: &str = "/db/staged/import.sst";

    fn key(n: usize) -> Bytes {
        format!("key{n:04}").into()
    }

    fn open(world: &World) -> Db {
        world.disk.create_dir_all(Path::new("/db/staged")).unwrap();
        world.open(&Options::tiny()).unwrap()
    }

    /// Old rows in tables and memtables, then an import that replaces the keys below 100: even ones are set, odd ones go.
    fn begin(world: &World, db: &Db) -> Import {
        for n in 0..120 {
            db.apply(put(key(n), format!("old {n}").repeat(10))).unwrap();
        }
        let mut import = db.import(Path::new(STAGED)).unwrap();
        for n in 0..100 {
            let done = if n % 2 == 0 {
                import.put(Cf(0), key(n), format!("new {n}").into())
            } else {
                import.delete(Cf(0), key(n))
            };
            done.unwrap();
        }
        world.settle();
        import
    }

    fn old() -> Map {
        (0..120).map(|n| (key(n), format!("old {n}").repeat(10).into())).collect()
    }

    fn new() -> Map {
        let mut map: Map = (0..100).step_by(2).map(|n| (key(n), format!("new {n}").into())).collect();
        map.extend(old().split_off(&key(100)));
        map
    }

    #[test]
    fn an_import_is_seen_as_a_whole_and_lasts() {
        let mut world = World::new(1);
        let db = open(&world);
        let import = begin(&world, &db);
        let before = db.snapshot();
        db.apply(put("other", "written meanwhile")).unwrap();
        let mut imported = world.run(import.finish()).unwrap();
        assert_eq!(db.get(Cf(0), &key(1)).unwrap(), old().get(&key(1)).cloned());
        db.adopt(&mut imported).unwrap();
        assert_eq!(before.get(Cf(0), &key(1)).unwrap(), old().get(&key(1)).cloned());
        drop(before);
        let mut expected = new();
        expected.insert("other".into(), "written meanwhile".into());
        assert_eq!(content(&db).unwrap(), expected);
        // Later writes win, before and after the tombstones went in a compaction, and after a restart.
        let newer = |n: usize| (key(n), Bytes::from("newer"));
        db.apply(put(key(1), "newer")).unwrap();
        db.apply(delete(key(2))).unwrap();
        expected.extend([newer(1)]);
        expected.remove(&key(2));
        world.run(db.flush()).unwrap();
        world.settle();
        assert_eq!(content(&db).unwrap(), expected);
        drop(db);
        world.crash(CrashMode::PowerLossWorst);
        let db = open(&world);
        db.apply(put(key(4), "newer")).unwrap();
        expected.extend([newer(4)]);
        assert_eq!(content(&db).unwrap(), expected);
        world.settle();
        assert_eq!(content(&db).unwrap(), expected);
    }

    #[test]
    fn a_crash_leaves_all_of_an_import_or_nothing() {
        let (mut before, mut after) = (0, 0);
        for operations in 0..60 {
            let mut world = World::new(operations);
            let db = open(&world);
            let import = begin(&world, &db);
            world.run(db.flush()).unwrap();
            let at = world.platter.ops() + operations + 1;
            world.platter.set_faults(DiskFaults { crash_at_op: Some(at), ..DiskFaults::default() });
            let done = world.run(import.finish()).and_then(|mut imported| db.adopt(&mut imported));
            world.platter.set_faults(DiskFaults::default());
            drop(db);
            world.crash(CrashMode::PowerLossWorst);
            let found = content(&open(&world)).unwrap();
            if done.is_ok() || found == new() {
                after += 1;
                assert_eq!(found, new());
            } else {
                before += 1;
                assert_eq!(found, old());
            }
        }
        assert!(before > 5 && after > 5, "{before} before, {after} after");
    }

    #[test]
    fn what_is_not_adopted_leaves_no_file() {
        let world = World::new(1);
        let db = open(&world);
        let import = begin(&world, &db);
        assert!(db.import(Path::new(STAGED)).is_err(), "the file is there");
        drop(import);
        let empty = db.import(Path::new(STAGED)).unwrap();
        assert!(world.run(empty.finish()).is_err());
        let mut import = db.import(Path::new(STAGED)).unwrap();
        import.put(Cf(3), key(1), "v".into()).unwrap();
        drop(world.run(import.finish()).unwrap());
        assert!(!world.disk.exists(Path::new(STAGED)).unwrap());
        assert_eq!(content(&db).unwrap(), old());
    }

    #[test]
    fn an_import_does_not_wait_for_what_is_written_meanwhile() {
        let world = World::new(1);
        let db = open(&world);
        let import = begin(&world, &db);
        let mut finish = Box::pin(import.finish());
        let mut imported = world.run(async {
            assert!(futures_util::poll!(&mut finish).is_pending(), "what is older is being flushed");
            db.apply(put("late", "v")).unwrap();
            finish.await.unwrap()
        });
        db.adopt(&mut imported).unwrap();
        let mut expected = new();
        expected.insert("late".into(), "v".into());
        assert_eq!(content(&db).unwrap(), expected);
    }

    #[test]
    fn a_flush_does_not_wait_for_an_import() {
        let world = World::new(1);
        let db = open(&world);
        db.apply(put("k", "v")).unwrap();
        world.run(db.flush()).unwrap();
        let import = db.import(Path::new(STAGED)).unwrap();
        world.run(db.flush()).unwrap();
        drop(import);
        world.run(db.close()).unwrap();
    }
}
