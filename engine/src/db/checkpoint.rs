//! A copy of the whole database that costs no copying.
//!
//! Tables and segments of the value log never change, so the copy shares them: each gets a second name. Only a manifest
//! and an empty log are written.
//!
//! 1. Flush, so that all of it is in tables.
//! 2. Note what the manifest says, and keep the files that it names alive.
//! 3. Link them into `<dir>.tmp`, create a log and, last, a manifest there: all of it durable.
//! 4. Rename `<dir>.tmp` to `<dir>`, durably.
//!
//! Whatever has the name `<dir>` is whole. A crash leaves at most `<dir>.tmp`, which the next attempt replaces.

use crate::db::recover::log_options;
use crate::db::{Db, Inner};
use crate::edit::Catalog;
use crate::error::IoContext;
use crate::log::Log;
use crate::manifest::Manifest;
use crate::{Error, Result, files, lock};
use nokv_env::OpenMode;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are linked between two yields.
const PIECE_FILES: usize = 64;

impl Db {
    /// Makes a copy of the database as it is now, in `dir`, which must not exist and be on the same file system; what is
    /// missing above it is created. The copy is a database of its own: it shares files with this one, so it takes hardly any
    /// space until the two have grown apart, and damage to such a file is damage to both.
    ///
    /// Returns a sequence: the copy has every write up to it and none above. What is written while the copy is made is in
    /// it or not. The copy is durable when this returns; after a crash before that, `dir` holds all of it or is not there.
    ///
    /// Fails with [`Error::ReadOnly`] or [`Error::Closed`] when the database is that, and with [`Error::Io`] when `dir`
    /// exists, lies on another file system, or the disk refuses; the database itself goes on.
    pub async fn checkpoint(&self, dir: &Path) -> Result<u64> {
        let inner = &self.inner;
        inner.flush().await?;
        if inner.disk().exists(dir).at(dir, "look for")? {
            let source = Arc::new(io::ErrorKind::AlreadyExists.into());
            return Err(Error::Io { file: dir.to_owned(), doing: "create", source });
        }
        let draft = draft_of(dir)?;
        let copied = inner.copy_to(&draft).await;
        let done = copied.and_then(|sequence| {
            inner.disk().rename(&draft, dir).at(&draft, "rename")?;
            let parent = dir.parent().unwrap_or(Path::new(""));
            inner.disk().sync_dir(parent).at(parent, "sync")?;
            Ok(sequence)
        });
        if done.is_err() {
            // The error is what the caller has to know of; a draft that stays is replaced by the next one.
            drop(inner.disk().remove_dir_all(&draft));
        }
        done
    }
}

/// Where a copy is built before it gets its name.
fn draft_of(dir: &Path) -> Result<PathBuf> {
    let named = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no directory");
    let mut name = dir.file_name().ok_or_else(named).at(dir, "create")?.to_owned();
    name.push(".tmp");
    Ok(dir.with_file_name(name))
}

impl Inner {
    async fn copy_to(&self, draft: &Path) -> Result<u64> {
        // The view keeps the files of the catalog from being removed.
        let (catalog, _view) = {
            let manifest = lock(&self.manifest);
            let manifest = manifest.as_ref().ok_or(Error::ReadOnly)?;
            (manifest.catalog().clone(), self.view())
        };
        let disk = self.disk();
        if disk.exists(draft).at(draft, "look for")? {
            disk.remove_dir_all(draft).at(draft, "remove")?;
        }
        disk.create_dir_all(draft).at(draft, "create")?;
        let buckets: BTreeSet<u8> = catalog.segments.values().map(|segment| segment.bucket).collect();
        for bucket in &buckets {
            let bucket = files::bucket(draft, *bucket);
            disk.create_dir_all(&bucket).at(&bucket, "create")?;
        }
        let names = |dir: &Path| {
            let tables = catalog.tables.keys().map(|number| files::table(dir, *number));
            let segments = catalog.segments.values();
            let segments = segments.map(|segment| files::segment(dir, segment.bucket, segment.number));
            tables.chain(segments).collect::<Vec<_>>()
        };
        for (index, (from, to)) in names(self.dir()).iter().zip(names(draft)).enumerate() {
            disk.hard_link(from, &to).at(&to, "link")?;
            if index % PIECE_FILES == PIECE_FILES - 1 {
                self.env()?.tasks.yield_now().await;
            }
        }
        for bucket in buckets {
            let bucket = files::bucket(draft, bucket);
            disk.sync_dir(&bucket).at(&bucket, "sync")?;
        }
        let shared = self.context.disk.clone();
        Log::open(shared.clone(), draft, log_options(&self.options), &mut |_, _, _| Ok(()))?;
        let (number, sequence) = (catalog.next_file, catalog.flushed_sequence);
        let catalog = Catalog { log_start: 1, next_file: number + 1, ..catalog };
        let growth_bytes = self.options.manifest_bytes;
        Manifest::create(shared, draft, number, catalog, growth_bytes, OpenMode::CreateNew)?;
        Ok(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Map, World, content, delete, put};
    use crate::{Compression, Options, WriteOptions};
    use bytes::Bytes;
    use nokv_env::mem_disk::{CrashMode, DiskFaults};

    fn copy() -> &'static Path {
        Path::new("/copies/one")
    }

    fn options() -> Options {
        Options { compression: Compression::None, ..Options::tiny() }
    }

    fn key(n: usize) -> Bytes {
        format!("key{n:04}").into()
    }

    /// Rows that were logged and rows that were not, large ones among them, in tables of several levels and in memtables.
    fn filled(world: &World) -> (Db, Map) {
        let db = world.open(&options()).unwrap();
        let mut model = Map::new();
        for n in 0..600 {
            let value = Bytes::from(format!("{n} ").repeat(if n % 9 == 0 { 80 } else { 20 }));
            let batch = put(key(n % 400), value.clone());
            if n % 3 == 0 {
                world.run(db.write(batch, WriteOptions { sync: n % 2 == 0 })).unwrap();
            } else {
                db.apply(batch).unwrap();
            }
            model.insert(key(n % 400), value);
            if n % 200 == 100 {
                world.run(db.flush()).unwrap();
                world.settle();
            }
        }
        assert!(db.stats().buckets.iter().any(|bucket| bucket.segments > 0));
        (db, model)
    }

    #[test]
    fn a_copy_is_a_database_of_its_own() {
        let world = World::new(1);
        let (db, model) = filled(&world);
        let sequence = world.run(db.checkpoint(copy())).unwrap();
        assert_eq!(sequence, db.last_sequence());
        // Another one costs a page for each of CURRENT, the manifest and the log.
        let before = world.platter.used_bytes();
        world.run(db.checkpoint(Path::new("/copies/another"))).unwrap();
        assert_eq!(world.platter.used_bytes() - before, 3 * 4096);
        // They part: the original replaces all of its tables, the copy is written to.
        for n in 0..400 {
            db.apply(delete(key(n))).unwrap();
            db.apply(put(key(n + 1000), "later")).unwrap();
        }
        world.run(db.flush()).unwrap();
        world.settle();
        let other = world.open_at(copy(), &options()).unwrap();
        assert_eq!((content(&other).unwrap(), other.last_sequence()), (model.clone(), sequence));
        for n in 0..300 {
            other.apply(put(key(n + 2000), vec![b'x'; 100])).unwrap();
        }
        world.run(other.flush()).unwrap();
        world.settle();
        world.run(other.close()).unwrap();
        drop(other);
        let other = world.open_at(copy(), &options()).unwrap();
        assert_eq!(content(&other).unwrap().len(), model.len() + 300);
        let rest: Map = content(&other).unwrap().into_iter().filter(|(at, _)| *at < key(2000)).collect();
        assert_eq!(rest, model);
        assert_eq!(content(&db).unwrap().len(), 400);
        // A copy of the copy, and of nothing.
        world.run(other.checkpoint(Path::new("/copies/two"))).unwrap();
        let third = world.open_at(Path::new("/copies/two"), &options()).unwrap();
        assert_eq!(content(&third).unwrap(), content(&other).unwrap());
        let empty = world.open_at(Path::new("/empty"), &options()).unwrap();
        world.run(empty.checkpoint(Path::new("/copies/three"))).unwrap();
        let empty = world.open_at(Path::new("/copies/three"), &options()).unwrap();
        assert_eq!(content(&empty).unwrap(), Map::new());
    }

    #[test]
    fn every_operation_of_a_checkpoint_is_a_place_to_crash() {
        let (mut whole, mut nothing) = (0, 0);
        for at in 1.. {
            let mut world = World::new(at);
            let (db, model) = filled(&world);
            let crash_at_op = Some(world.platter.ops() + at);
            world.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            let done = world.run(db.checkpoint(copy()));
            let crashed = world.platter.crashed();
            world.platter.set_faults(DiskFaults::default());
            assert_eq!(done.is_err(), crashed, "{done:?}");
            drop(db);
            let modes = [CrashMode::PowerLossWorst, CrashMode::PowerLoss, CrashMode::ProcessKill];
            world.crash(modes[at as usize % 3]);
            if world.disk.exists(copy()).unwrap() {
                whole += 1;
            } else {
                nothing += 1;
                assert!(done.is_err(), "the copy is gone");
                let db = world.open(&options()).unwrap();
                // What was not flushed is lost, or was logged.
                let found = content(&db).unwrap();
                assert!(found.iter().all(|(key, _)| model.contains_key(key)));
                world.run(db.checkpoint(copy())).unwrap();
                let copied = world.open_at(copy(), &options()).unwrap();
                assert_eq!(content(&copied).unwrap(), found);
                assert!(!world.disk.exists(Path::new("/copies/one.tmp")).unwrap());
                continue;
            }
            for dir in [copy(), World::dir()] {
                let db = world.open_at(dir, &options()).unwrap();
                assert_eq!(content(&db).unwrap(), model, "{} at {at}", dir.display());
            }
            if !crashed {
                break;
            }
        }
        assert!(whole >= 1 && nothing > 20, "{whole} whole, {nothing} nothing");
    }

    #[test]
    fn a_checkpoint_that_fails_leaves_nothing_and_the_database_goes_on() {
        let mut failed = 0;
        for at in 1.. {
            let world = World::new(at);
            let (db, model) = filled(&world);
            world.run(db.flush()).unwrap();
            world.settle();
            let io_error_at_op = Some(world.platter.ops() + at);
            world.platter.set_faults(DiskFaults { io_error_at_op, ..DiskFaults::default() });
            let done = world.run(db.checkpoint(copy()));
            world.platter.set_faults(DiskFaults::default());
            if done.is_ok() {
                break;
            }
            failed += 1;
            assert!(matches!(done, Err(Error::Io { .. })), "{done:?}");
            assert!(!world.disk.exists(Path::new("/copies/one.tmp")).unwrap(), "at {at}");
            assert_eq!(db.failed(), None);
            db.apply(put("k", "v")).unwrap();
            // All but the last sync leave the name free.
            if !world.disk.exists(copy()).unwrap() {
                world.run(db.checkpoint(copy())).unwrap();
                let copied = world.open_at(copy(), &options()).unwrap();
                assert_eq!(content(&copied).unwrap().len(), model.len() + 1);
            }
        }
        assert!(failed > 20, "{failed}");
    }

    #[test]
    fn a_name_that_is_taken_is_refused() {
        let world = World::new(1);
        let (db, _) = filled(&world);
        world.run(db.checkpoint(copy())).unwrap();
        let again = world.run(db.checkpoint(copy())).unwrap_err();
        assert!(
            matches!(&again, Error::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists),
            "{again}"
        );
        world.disk.create_dir_all(Path::new("/taken")).unwrap();
        assert!(world.run(db.checkpoint(Path::new("/taken"))).is_err());
        assert!(world.run(db.checkpoint(Path::new("/"))).is_err());
        world.run(db.close()).unwrap();
        assert!(matches!(world.run(db.checkpoint(Path::new("/late"))), Err(Error::Closed)));
        let reader = Db::open_read_only(world.disk.clone(), World::dir(), options()).unwrap();
        assert!(matches!(world.run(reader.checkpoint(Path::new("/late"))), Err(Error::ReadOnly)));
    }
}
