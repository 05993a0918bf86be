//! The value log inside a database.

use crate::testing::{Map, World, content, delete, put};
use crate::{Cf, Db, Error, Options, WriteOptions, files, inspect};
use bytes::Bytes;
use nokv_env::disk;
use nokv_env::mem_disk::{CrashMode, DiskFaults};
use std::path::PathBuf;

const SYNC: WriteOptions = WriteOptions { sync: true };

fn options() -> Options {
    Options {
        value_threshold: 100,
        value_segment_bytes: 8 << 10,
        level0_tables_compact: 1,
        ..Options::tiny()
    }
}

fn key(n: usize) -> String {
    format!("key{n:04}")
}

/// Every third is small; no two rounds write alike.
fn value(n: usize, round: usize) -> Bytes {
    let times = if n.is_multiple_of(3) { 1 } else { 20 + n % 5 };
    format!("{n} in round {round} ").repeat(times).into()
}

/// Writes `keys` once more, deletes every eleventh, and flushes.
fn round(world: &World, db: &Db, model: &mut Map, keys: impl Iterator<Item = usize>, round: usize) {
    for n in keys {
        if (n + round).is_multiple_of(11) {
            world.run(db.write(delete(key(n)), SYNC)).unwrap();
            model.remove(key(n).as_bytes());
        } else {
            world.run(db.write(put(key(n), value(n, round)), SYNC)).unwrap();
            model.insert(key(n).into(), value(n, round));
        }
    }
    world.run(db.flush()).unwrap();
    world.settle();
}

fn segment_files(world: &World) -> Vec<PathBuf> {
    let of = |(bucket, number)| files::segment(World::dir(), bucket, number);
    inspect::segment_files(&*world.disk, World::dir()).unwrap().into_iter().map(of).collect()
}

#[test]
fn large_values_leave_the_tree_and_are_read_from_everywhere() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    let mut model = Map::new();
    assert!(!inspect::has_value_log(&*world.disk, World::dir()).unwrap());
    for n in 0..4 {
        round(&world, &db, &mut model, 0..200, n);
        assert_eq!(content(&db).unwrap(), model);
    }
    let stats = db.stats();
    let live: u64 = stats.buckets.iter().map(|bucket| bucket.live_bytes).sum();
    let referenced: u64 = stats.levels.iter().map(|level| level.value_bytes).sum();
    assert_eq!(live, referenced);
    let large: usize = model.values().map(Bytes::len).filter(|len| *len >= 100).sum();
    assert!(live as usize >= large / 8, "{live} of {large}: they compress, but not to nothing");
    let snapshot = db.snapshot();
    round(&world, &db, &mut model, 0..200, 9);
    assert_eq!(snapshot.get(Cf(0), key(1).as_bytes()).unwrap(), Some(value(1, 3)));
    world.run(db.close()).unwrap();
    drop((db, snapshot));
    let checked = inspect::check(&*world.disk, World::dir(), true).unwrap();
    assert_eq!(checked.findings, []);
    assert!(checked.values > 100, "{checked:?}");
    assert_eq!(content(&world.open(&Options::tiny()).unwrap()).unwrap(), model);
}

#[test]
fn garbage_is_collected_and_its_space_comes_back() {
    let options = Options { compression: crate::Compression::None, ..options() };
    let world = World::new(1);
    let db = world.open(&options).unwrap();
    let mut model = Map::new();
    for n in 0..12 {
        // All once, then four of five again and again: every old segment is mostly garbage soon.
        let keys = (0..400).filter(|key| n == 0 || key % 5 != 0);
        round(&world, &db, &mut model, keys, n);
        assert_eq!(content(&db).unwrap(), model);
    }
    world.settle();
    let stats = db.stats();
    assert!(stats.collected_bytes > 0 && stats.segments_removed > 10, "{stats:?}");
    let all: u64 = stats.buckets.iter().map(|bucket| bucket.bytes).sum();
    let live: u64 = stats.buckets.iter().map(|bucket| bucket.live_bytes).sum();
    assert!(all <= 2 * live + 8 * 24, "{all} bytes for {live} that are alive");
    assert!(stats.buckets[1].segments > 0, "what survived is in the next generation");
    let on_disk: u64 = segment_files(&world)
        .iter()
        .map(|path| disk::read_all(&*world.disk, path).unwrap().len() as u64)
        .sum();
    assert_eq!(on_disk, all, "what nobody points at is gone");
    for n in 0..400 {
        world.run(db.write(delete(key(n)), SYNC)).unwrap();
    }
    world.run(db.flush()).unwrap();
    world.settle();
    assert_eq!(db.stats().buckets.iter().map(|bucket| bucket.segments).sum::<u64>(), 0);
    assert_eq!(segment_files(&world), Vec::<PathBuf>::new());
}

#[test]
fn a_snapshot_keeps_segments_that_are_gone_for_others() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    let mut model = Map::new();
    round(&world, &db, &mut model, 0..100, 0);
    let (snapshot, then) = (db.snapshot(), model.clone());
    let mut walk = snapshot.iter(Cf(0), ..);
    let first = walk.next().unwrap().unwrap();
    for n in 1..6 {
        round(&world, &db, &mut model, 0..100, n);
    }
    let mut seen: Map = walk.collect::<Result<_, _>>().unwrap();
    seen.extend([first]);
    assert_eq!(seen, then);
    let files = segment_files(&world).len();
    drop(snapshot);
    round(&world, &db, &mut model, 0..1, 6);
    assert!(segment_files(&world).len() < files);
}

#[test]
fn damage_is_named_and_never_a_wrong_value() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    let mut model = Map::new();
    round(&world, &db, &mut model, 0..12, 0);
    world.run(db.close()).unwrap();
    drop(db);
    let path = segment_files(&world).remove(0);
    let len = disk::read_all(&*world.disk, &path).unwrap().len() as u64;
    let read = || {
        let db = Db::open_read_only(world.disk.clone(), World::dir(), options())?;
        content(&db)
    };
    assert_eq!(read().unwrap(), model);
    for at in 0..len {
        world.platter.flip_bit(&path, at, 3);
        let error = read().unwrap_err();
        assert!(matches!(&error, Error::Corrupt { file, .. } if *file == path), "{at}: {error}");
        let checked = inspect::check(&*world.disk, World::dir(), false).unwrap();
        assert!(checked.findings.iter().all(|finding| finding.file == path && finding.offset <= at));
        assert!(!checked.findings.is_empty(), "{at}");
        world.platter.flip_bit(&path, at, 3);
    }
    world.disk.remove_file(&path).unwrap();
    let error = read().unwrap_err();
    assert!(matches!(&error, Error::Corrupt { file, .. } if *file == path), "{error}");
    assert_eq!(inspect::check(&*world.disk, World::dir(), false).unwrap().findings[0].file, path);
}

#[test]
fn power_loss_at_every_operation_of_flushes_and_collections_loses_nothing() {
    let (mut crashes, mut collected) = (0, 0);
    for operation in 1.. {
        let mut world = World::new(operation);
        let db = world.open(&options()).unwrap();
        let mut model = Map::new();
        for n in 0..4 {
            round(&world, &db, &mut model, 0..40, n);
        }
        // Most values of the rounds die with this one; writing that into tables, and the collection, is interrupted.
        for n in 0..32 {
            world.run(db.write(put(key(n), value(n, 9)), SYNC)).unwrap();
            model.insert(key(n).into(), value(n, 9));
        }
        let at = world.platter.ops() + operation;
        world.platter.set_faults(DiskFaults { crash_at_op: Some(at), ..DiskFaults::default() });
        let flushed = world.run(db.flush());
        world.settle();
        let died = world.platter.ops() >= at;
        world.platter.set_faults(DiskFaults::default());
        collected += db.stats().collected_bytes;
        drop(db);
        world.crash(if operation % 2 == 0 { CrashMode::PowerLossWorst } else { CrashMode::PowerLoss });
        let db = world.open(&options()).unwrap();
        world.settle();
        assert_eq!(content(&db).unwrap(), model, "at {operation}");
        // What a manifest that was lost may have named stays for one more start.
        world.run(db.close()).unwrap();
        drop(db);
        let db = world.open(&options()).unwrap();
        world.settle();
        assert_eq!(content(&db).unwrap(), model, "at {operation}");
        let live = inspect::manifest(&*world.disk, World::dir()).unwrap().unwrap().segments.len();
        assert_eq!(segment_files(&world).len(), live, "at {operation}: what is not live is gone");
        if !died {
            flushed.unwrap();
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 15 && collected > 0, "{crashes} crashes, {collected} bytes collected");
}
