//! Taking in tables that were written elsewhere.
//!
//! The rows are copied into tables of this database, under one sequence of its own, and the tables join it in one edit of
//! the manifest: the same step by which an import does (`import`), under the same condition. Copying costs one pass over
//! the rows. In return nothing of the foreign files is trusted longer than that pass, and each row is checked on it.

use crate::cache::BlockCache;
use crate::compaction::output::{Output, Written};
use crate::db::new_files::NewFiles;
use crate::db::{Db, Inner};
use crate::error::IoContext;
use crate::iter::Direction;
use crate::iter::source::TableSource;
use crate::key::{Entry, InternalKey, Span};
use crate::pace::{Pace, Work};
use crate::stats::ReadCounters;
use crate::table::{Pinned, Table, TableContext};
use crate::value::Value;
use crate::version::LEVELS;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Blocks of a foreign file that are kept: the index block that is being walked.
const CACHE_BYTES: u64 = 64 << 10;

/// What [`Db::ingest`] took in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ingested {
    /// Rows of all files.
    pub rows: u64,
    /// Bytes of the files that hold them here.
    pub bytes: u64,
    /// The sequence of all of them; 0 if there were none.
    pub sequence: u64,
}

impl Db {
    /// Takes in the rows of `files`, which [`Db::export`] of any database wrote, all at once: they become visible and
    /// durable together, each in place of what its key had. The files may come in any order but must not share keys; they
    /// are only read. Each table goes to the deepest level where nothing shares its range, so what fills an empty range is
    /// not compacted again.
    ///
    /// The condition, which is the caller's to keep: while this runs nobody writes a key of the files. Other keys may be
    /// written.
    ///
    /// Fails with [`Error::NotIngestible`] for files that share keys or are no exports, with [`Error::Corrupt`] for damaged
    /// ones: in both cases nothing has changed. A failure while the tables join poisons the database, as that of a flush.
    pub async fn ingest(&self, files: &[impl AsRef<Path>]) -> Result<Ingested> {
        let inner = &self.inner;
        inner.check()?;
        let sources = open_all(inner, files)?;
        if sources.is_empty() {
            return Ok(Ingested::default());
        }
        if sources.iter().any(|source| source.table.meta.expiry.is_some()) {
            inner.may_expire()?;
        }
        let sequence = inner.skip_sequence();
        let files = NewFiles::new(inner);
        let written = copy(inner, &files, &sources, sequence).await?;
        inner.disk().sync_dir(inner.dir()).at(inner.dir(), "sync")?;
        // What is older has to be in tables: a later flush must not put it above the rows.
        inner.flush().await?;
        let rows = written.tables.iter().map(|meta| meta.entries).sum();
        let bytes = written.bytes();
        files.join(|| inner.join(written.tables, written.segments, sequence))?;
        Ok(Ingested { rows, bytes, sequence })
    }
}

/// A file to take in.
struct Foreign {
    path: PathBuf,
    table: Arc<Table>,
}

/// The files in order of their keys.
fn open_all(inner: &Inner, files: &[impl AsRef<Path>]) -> Result<Vec<Foreign>> {
    let mut sources = Vec::with_capacity(files.len());
    for file in files {
        let path = file.as_ref().to_owned();
        // Tables of different origin may have one number: none of them shares a cache with another.
        let reads = Arc::<ReadCounters>::default();
        let context = TableContext {
            disk: inner.context.disk.clone(),
            dir: PathBuf::new(),
            cache: Arc::new(BlockCache::new(CACHE_BYTES, inner.options.block_bytes, reads.clone())),
            pinned: Arc::new(Pinned::new(0)),
            graveyard: Arc::default(),
            reads,
            readahead_bytes: inner.options.readahead_bytes,
            hooks: inner.context.hooks.clone(),
            unreadable: Arc::default(),
        };
        let table = Arc::new(Table::open_stray(&context, &path)?);
        let meta = &table.meta;
        if meta.sequence_max != 0 || meta.tombstones != 0 || !meta.references.is_empty() {
            return Err(Error::NotIngestible { file: path, what: "it was not written by an export" });
        }
        sources.push(Foreign { path, table });
    }
    sources.sort_by(|a, b| a.table.meta.smallest.cmp(&b.table.meta.smallest));
    match sources.windows(2).find(|pair| pair[0].table.meta.overlaps(&pair[1].table.meta)) {
        Some(pair) => {
            let what = "its keys and those of another file are not apart";
            Err(Error::NotIngestible { file: pair[1].path.clone(), what })
        }
        None => Ok(sources),
    }
}

/// Copies all rows under `sequence`. What is durable then is what [`Output::finish`] says.
async fn copy(inner: &Inner, files: &NewFiles<'_>, sources: &[Foreign], sequence: u64) -> Result<Written> {
    let next_file = || files.next_number();
    let (options, version) = (&inner.options, inner.view().version.clone());
    let mut output =
        Output::new(&inner.context, options, LEVELS - 1, options.table_bytes, &version, &next_file);
    let relief = || inner.relief();
    let mut pace = Pace::new(inner.env()?, &inner.limiter, Work::Other, &relief);
    for source in sources {
        let meta = &source.table.meta;
        let mut last: Option<InternalKey> = None;
        let mut rows = 0;
        let rows_of = TableSource::new(source.table.clone(), Span::all(), Direction::Forward, true);
        for entry in rows_of.metered(pace.read_meter()) {
            let entry = entry?;
            let key = &entry.key;
            let is_in_order = last.as_ref().is_none_or(|last| last < key && !last.same_user_key(key));
            let is_in_range = (&meta.smallest..=&meta.largest).contains(&key);
            if !is_in_order || !is_in_range || !matches!(entry.value.timeless(), Value::Inline(_)) {
                return Err(Error::corrupt(&source.path, 0, "its rows are not what its properties say"));
            }
            rows += 1;
            let bytes = entry.table_bytes();
            last = Some(key.clone());
            output.add(Entry { key: InternalKey { sequence, ..entry.key }, value: entry.value })?;
            if pace.after(bytes, || output.bytes()).await {
                inner.check()?;
            }
        }
        if rows != meta.entries {
            return Err(Error::corrupt(&source.path, 0, "it has not as many rows as its properties say"));
        }
    }
    output.cut()?;
    pace.end(output.bytes());
    output.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Map, World, content, delete, put};
    use crate::{Cf, Compression, Options, WriteBatch};
    use bytes::Bytes;
    use nokv_env::mem_disk::{CrashMode, DiskFaults};

    fn staging() -> &'static Path {
        Path::new("/staging")
    }

    fn source_dir() -> &'static Path {
        Path::new("/source")
    }

    fn options() -> Options {
        Options { table_bytes: 4 << 10, compression: Compression::None, ..Options::tiny() }
    }

    fn key(n: usize) -> Bytes {
        format!("key{n:04}").into()
    }

    /// Every ninth one belongs into the value log.
    fn rows(numbers: impl Iterator<Item = usize>, what: &str) -> Map {
        let value =
            |n: usize| Bytes::from(format!("{what} {n} ").repeat(if n.is_multiple_of(9) { 40 } else { 8 }));
        numbers.map(|n| (key(n), value(n))).collect()
    }

    fn fill(db: &Db, rows: &Map) {
        for (key, value) in rows {
            db.apply(put(key.clone(), value.clone())).unwrap();
        }
    }

    /// Exports `rows` out of a database that has more than that, and was changed after the snapshot.
    fn exported(world: &World, rows: &Map) -> Vec<PathBuf> {
        let source = world.open_at(source_dir(), &options()).unwrap();
        fill(&source, rows);
        let (first, last) = (rows.keys().next().unwrap(), rows.keys().next_back().unwrap());
        source.apply(put("a", "below")).unwrap();
        source.apply(put("z", "above")).unwrap();
        source.apply(put([first, &b"!"[..]].concat(), "goes")).unwrap();
        world.run(source.flush()).unwrap();
        source.apply(delete([first, &b"!"[..]].concat())).unwrap();
        let snapshot = source.snapshot();
        source.apply(put(first.clone(), "after the snapshot")).unwrap();
        let range = first.clone()..=last.clone();
        let exported = world.run(source.export(&snapshot, &[Cf(0)], range, staging())).unwrap();
        assert_eq!(exported.iter().map(|table| table.rows).sum::<u64>(), rows.len() as u64);
        assert_eq!(exported[0].first, (Cf(0), first.clone()));
        assert_eq!(exported[exported.len() - 1].last, (Cf(0), last.clone()));
        world.run(source.close()).unwrap();
        exported.into_iter().map(|table| table.file).collect()
    }

    /// Tables and segments of the value log that the database has on the disk.
    fn overlay(below: &Map, above: &Map) -> Map {
        below.iter().chain(above).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    #[test]
    fn what_was_exported_is_there_after_it_was_ingested() {
        let mut world = World::new(1);
        let new = rows((100..400).step_by(2), "new");
        let mut files = exported(&world, &new);
        assert!(files.len() > 2, "{files:?}");
        files.reverse();
        let old = rows(0..300, "old");
        let db = world.open(&options()).unwrap();
        fill(&db, &rows(0..200, "older"));
        world.run(db.flush()).unwrap();
        fill(&db, &old);
        let before = db.snapshot();
        let ingested = world.run(db.ingest(&files)).unwrap();
        assert_eq!((ingested.rows, ingested.sequence), (150, db.last_sequence()));
        let expected = overlay(&old, &new);
        assert_eq!(content(&db).unwrap(), expected);
        let seen: Map = before.iter(Cf(0), ..).map(Result::unwrap).collect();
        assert_eq!(seen, old);
        drop(before);
        // Later writes win, also when all is in tables and after a restart.
        db.apply(put(key(100), "last")).unwrap();
        db.apply(delete(key(102))).unwrap();
        world.run(db.flush()).unwrap();
        world.settle();
        drop(db);
        world.crash(CrashMode::PowerLossWorst);
        let mut last = expected;
        last.insert(key(100), "last".into());
        last.remove(&key(102));
        assert_eq!(content(&world.open(&options()).unwrap()).unwrap(), last);
        assert!(files.iter().all(|file| world.disk.exists(file).unwrap()));
    }

    #[test]
    fn several_families_travel_together() {
        let world = World::new(1);
        let source = world.open_at(source_dir(), &options()).unwrap();
        let mut batch = WriteBatch::new();
        for n in 0..100 {
            for cf in [0, 1, 2, 255] {
                batch.put(Cf(cf), key(n), format!("{cf} {n}"));
            }
        }
        source.apply(batch).unwrap();
        let families = [Cf(255), Cf(0), Cf(2), Cf(0)];
        let tables = world.run(source.export(&source.snapshot(), &families, key(10)..key(20), staging()));
        let files: Vec<_> = tables.unwrap().into_iter().map(|table| table.file).collect();
        let db = world.open(&options()).unwrap();
        assert_eq!(world.run(db.ingest(&files)).unwrap().rows, 30);
        for (cf, count) in [(0, 10), (1, 0), (2, 10), (255, 10)] {
            let found = db.snapshot().iter(Cf(cf), ..).map(|row| row.unwrap().1).collect::<Vec<_>>();
            assert_eq!(found.len(), count);
            assert!(found.iter().all(|value| value.starts_with(format!("{cf} ").as_bytes())));
        }
    }

    #[test]
    fn tables_go_as_deep_as_nothing_is_in_their_way() {
        let world = World::new(1);
        // Values stay in tables, so that these come in as they are.
        let options = || Options { value_threshold: usize::MAX, ..options() };
        let files = exported(&world, &rows(100..200, "new"));
        let tables = |db: &Db| db.stats().levels.iter().map(|level| level.tables).collect::<Vec<_>>();
        let empty = world.open_at(Path::new("/empty"), &options()).unwrap();
        world.run(empty.ingest(&files)).unwrap();
        world.settle();
        assert_eq!(tables(&empty), [0, 0, 0, 0, 0, 0, files.len() as u64]);
        // Again: they lie above themselves, in the level that is free.
        world.run(empty.ingest(&files)).unwrap();
        assert_eq!(tables(&empty)[5..], [files.len() as u64, files.len() as u64]);
        // Something at level 0 in the range of all.
        let full =
            world.open_at(Path::new("/full"), &Options { level0_tables_compact: 8, ..options() }).unwrap();
        fill(&full, &rows((0..300).step_by(299), "old"));
        world.run(full.flush()).unwrap();
        world.run(full.ingest(&files)).unwrap();
        assert_eq!(tables(&full), [1 + files.len() as u64, 0, 0, 0, 0, 0, 0]);
    }

    /// Ingests while compactions run, over and over; every version of the tree has to be sound when it is opened again.
    #[test]
    fn compactions_and_ingests_keep_out_of_each_others_way() {
        for seed in 0..12_usize {
            let mut world = World::new(seed as u64);
            let mut sets = Vec::new();
            for set in 0..6 {
                let from = (set * 131 + seed * 37) % 900;
                let new = rows((from..from + 60 + seed * 3).step_by(1 + set % 3), &format!("set {set}"));
                let source = world.open_at(source_dir(), &options()).unwrap();
                fill(&source, &new);
                let dir = format!("/staging/{set}");
                let tables = world.run(source.export(
                    &source.snapshot(),
                    &[Cf(0)],
                    new.keys().next().unwrap().clone()..,
                    Path::new(&dir),
                ));
                let files: Vec<_> = tables.unwrap().into_iter().map(|table| table.file).collect();
                let all: Map = source
                    .snapshot()
                    .iter(Cf(0), new.keys().next().unwrap().clone()..)
                    .map(Result::unwrap)
                    .collect();
                world.run(source.close()).unwrap();
                sets.push((files, all));
            }
            let db = world.open(&options()).unwrap();
            let mut model = Map::new();
            for round in 0..24 {
                let some = rows((round * 67 % 500..1000).step_by(9), &format!("round {round}"));
                fill(&db, &some);
                model.extend(some);
                // The flush begins compactions; they have run for a few steps when the files come.
                world.run(db.flush()).unwrap();
                let (files, new) = &sets[round % sets.len()];
                world.run(db.ingest(files)).unwrap();
                model.extend(new.clone());
                assert_eq!(content(&db).unwrap(), model, "seed {seed}, round {round}");
                if round % 8 == 7 {
                    world.settle();
                }
            }
            drop(db);
            world.crash(CrashMode::PowerLossWorst);
            let db = world.open(&options()).unwrap();
            assert_eq!(content(&db).unwrap(), model, "seed {seed}");
            world.settle();
            assert_eq!(content(&db).unwrap(), model, "seed {seed}");
        }
    }

    #[test]
    fn every_operation_of_an_ingest_is_a_place_to_crash() {
        let (mut before, mut after) = (0, 0);
        let (old, new) = (rows(0..200, "old"), rows(100..300, "new"));
        for at in 1.. {
            let mut world = World::new(at);
            let files = exported(&world, &new);
            let db = world.open(&options()).unwrap();
            fill(&db, &old);
            world.run(db.flush()).unwrap();
            world.settle();
            let crash_at_op = Some(world.platter.ops() + at);
            world.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            let done = world.run(db.ingest(&files));
            let crashed = world.platter.crashed();
            world.platter.set_faults(DiskFaults::default());
            drop(db);
            let modes = [CrashMode::PowerLossWorst, CrashMode::PowerLoss, CrashMode::ProcessKill];
            world.crash(modes[at as usize % 3]);
            let db = world.open(&options()).unwrap();
            let found = content(&db).unwrap();
            if done.is_ok() || found != old {
                after += 1;
                assert_eq!(found, overlay(&old, &new), "crash at {at}");
            } else {
                before += 1;
                // Once more, and no file is left of the first attempt.
                world.run(db.ingest(&files)).unwrap();
                world.settle();
                assert_eq!(content(&db).unwrap(), overlay(&old, &new));
                world.run(db.close()).unwrap();
                drop(db);
                let db = world.open(&options()).unwrap();
                assert!(db.stats().buckets.iter().any(|bucket| bucket.segments > 0));
                world.expect_no_strays(&db);
            }
            if !crashed {
                assert!(done.is_ok());
                break;
            }
        }
        assert!(before > 20 && after >= 2, "{before} before, {after} after");
    }

    #[test]
    fn every_flipped_byte_of_a_file_is_noticed_and_changes_nothing() {
        let world = World::new(1);
        let new = rows(0..20, "new");
        let files = exported(&world, &new);
        assert_eq!(files.len(), 1);
        let len = world.disk.open(&files[0], nokv_env::OpenMode::Read).unwrap().len().unwrap();
        let (mut refused, mut harmless) = (0, 0);
        for offset in 0..len {
            let db = world.open(&options()).unwrap();
            world.platter.flip_bit(&files[0], offset, (offset % 8) as u8);
            let names = world.platter.files();
            match world.run(db.ingest(&files)) {
                Ok(_) => {
                    // Filters of foreign files are not looked at.
                    harmless += 1;
                    assert_eq!(content(&db).unwrap(), new);
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.is_corrupt(), "offset {offset}: {error}");
                    assert_eq!((content(&db).unwrap(), db.failed()), (Map::new(), None));
                    assert_eq!(world.platter.files(), names);
                }
            }
            world.platter.flip_bit(&files[0], offset, (offset % 8) as u8);
            world.run(db.close()).unwrap();
            drop(db);
            world.disk.remove_dir_all(World::dir()).unwrap();
        }
        assert!(harmless < 100 && refused > 1500, "{harmless} harmless of {len}");
    }

    #[test]
    fn what_is_no_export_is_refused() {
        let world = World::new(1);
        let files = exported(&world, &rows(0..50, "new"));
        let db = world.open(&options()).unwrap();
        fill(&db, &rows(0..50, "old"));
        world.run(db.flush()).unwrap();
        let is_refused =
            |files: &[PathBuf]| matches!(world.run(db.ingest(files)), Err(Error::NotIngestible { .. }));
        assert!(is_refused(&[files[0].clone(), files[0].clone()]), "its keys are there twice");
        let names = world.disk.list(World::dir()).unwrap();
        let own = names
            .iter()
            .find(|name| Path::new(name).extension().is_some_and(|extension| extension == "sst"))
            .unwrap();
        assert!(is_refused(&[World::dir().join(own)]), "a table of a database");
        let missing = world.run(db.ingest(&[Path::new("/staging/none.sst")]));
        assert!(matches!(missing, Err(Error::Io { .. })));
        let short = Path::new("/staging/short");
        world.disk.open(short, nokv_env::OpenMode::Create).unwrap().write_at(b"text", 0).unwrap();
        assert!(world.run(db.ingest(&[short])).unwrap_err().is_corrupt());
        let none: [PathBuf; 0] = [];
        assert_eq!(world.run(db.ingest(&none)).unwrap(), Ingested::default());
        assert_eq!(content(&db).unwrap(), rows(0..50, "old"));
        assert_eq!(world.disk.list(World::dir()).unwrap(), names);
    }

    #[test]
    fn an_export_that_fails_leaves_nothing() {
        for at in 1.. {
            let world = World::new(at);
            let db = world.open(&options()).unwrap();
            fill(&db, &rows(0..200, "row"));
            world.disk.create_dir_all(staging()).unwrap();
            let io_error_at_op = Some(world.platter.ops() + at);
            world.platter.set_faults(DiskFaults { io_error_at_op, ..DiskFaults::default() });
            let done = world.run(db.export(&db.snapshot(), &[Cf(0)], .., staging()));
            world.platter.set_faults(DiskFaults::default());
            let left = world.disk.list(staging()).unwrap();
            match done {
                Ok(tables) => {
                    assert!(at > 10 && tables.len() > 2 && tables.len() == left.len(), "{at} {left:?}");
                    // A second one finds its names taken, and leaves the first one's files.
                    assert!(world.run(db.export(&db.snapshot(), &[Cf(0)], .., staging())).is_err());
                    assert_eq!(world.disk.list(staging()).unwrap(), left);
                    break;
                }
                Err(error) => assert!(matches!(error, Error::Io { .. }) && left.is_empty(), "{at} {left:?}"),
            }
        }
    }
}
