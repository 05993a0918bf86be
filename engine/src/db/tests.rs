use super::*;
use crate::testing::{Map, World, content, delete, put};
use crate::{Compression, files};
use futures_util::future::join_all;
use nokv_env::OpenMode;
use nokv_env::mem_disk::{CrashMode, DiskFaults};
use std::path::PathBuf;

const SYNC: WriteOptions = WriteOptions { sync: true };
const NO_SYNC: WriteOptions = WriteOptions { sync: false };

fn options() -> Options {
    Options::tiny()
}

fn key(n: usize) -> String {
    format!("key{n:04}")
}

fn filled(world: &World, range: std::ops::Range<usize>) -> (Db, Map) {
    let db = world.open(&options()).unwrap();
    let mut model = Map::new();
    for n in range {
        let value = format!("value {n} ").repeat(20);
        world.run(db.write(put(key(n), value.clone()), NO_SYNC)).unwrap();
        model.insert(key(n).into(), value.into());
    }
    (db, model)
}

#[test]
fn the_newest_value_is_read_from_every_layer() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    for round in 0..6 {
        for n in 0..40 {
            let batch = if (n + round) % 7 == 0 { delete(key(n)) } else { put(key(n), format!("{round}")) };
            world.run(db.write(batch, NO_SYNC)).unwrap();
        }
        if round != 5 {
            world.run(db.flush()).unwrap();
        }
        for n in 0..40 {
            let expected = ((n + round) % 7 != 0).then(|| Bytes::from(format!("{round}")));
            assert_eq!(db.get(Cf(0), key(n).as_bytes()).unwrap(), expected);
        }
    }
    assert_eq!(db.get(Cf(1), key(1).as_bytes()).unwrap(), None);
    assert_eq!(content(&db).unwrap().len(), 34);
}

#[test]
fn families_do_not_mix_and_a_batch_is_one_step() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    let mut batch = WriteBatch::new();
    for cf in [0, 1, 2, 255] {
        batch.put(Cf(cf), "k", format!("in {cf}"));
    }
    batch.put(Cf(1), "k", "twice");
    batch.delete(Cf(2), "k");
    let sequence = world.run(db.write(batch, SYNC)).unwrap();
    assert_eq!((sequence, db.last_sequence()), (1, 1));
    for flushed in [false, true] {
        if flushed {
            world.run(db.flush()).unwrap();
        }
        let get = |cf| db.get(Cf(cf), b"k").unwrap();
        assert_eq!(get(0), Some("in 0".into()));
        assert_eq!(get(1), Some("twice".into()));
        assert_eq!(get(2), None);
        assert_eq!(get(255), Some("in 255".into()));
        assert_eq!(db.snapshot().iter(Cf(255), ..).count(), 1);
        assert_eq!(db.snapshot().iter_rev(Cf(1), ..).count(), 1);
    }
}

#[test]
fn a_snapshot_stands_still() {
    let world = World::new(1);
    let (db, model) = filled(&world, 0..100);
    let snapshot = db.snapshot();
    let mut open_iter = snapshot.iter(Cf(0), ..);
    let first = open_iter.next().unwrap().unwrap();
    for n in 0..100 {
        world.run(db.write(delete(key(n)), NO_SYNC)).unwrap();
        world.run(db.write(put(key(n + 1000), "new"), NO_SYNC)).unwrap();
    }
    world.run(db.flush()).unwrap();
    world.settle();
    let seen: Map = snapshot.iter(Cf(0), ..).map(|item| item.unwrap()).collect();
    assert_eq!(seen, model);
    let rest: Map = std::iter::once(first).chain(open_iter.map(|item| item.unwrap())).collect();
    assert_eq!(rest, model);
    assert_eq!(content(&db).unwrap().len(), 100);
}

#[test]
fn ranges_are_respected() {
    let world = World::new(1);
    let (db, model) = filled(&world, 0..300);
    let snapshot = db.snapshot();
    let at = |n| Bytes::from(key(n));
    for (low, high) in [(0, 300), (5, 6), (10, 10), (123, 234), (299, 900)] {
        let expected: Vec<_> = model.range(at(low)..at(high)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let found: Result<Vec<_>> = snapshot.iter(Cf(0), at(low)..at(high)).collect();
        assert_eq!(found.unwrap(), expected);
        let found: Result<Vec<_>> = snapshot.iter_rev(Cf(0), at(low)..at(high)).collect();
        assert_eq!(found.unwrap(), expected.into_iter().rev().collect::<Vec<_>>());
    }
    assert_eq!(snapshot.iter(Cf(0), at(9)..at(3)).count(), 0);
}

#[test]
fn writers_that_meet_share_one_sync() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    let syncs = world.platter.counters().syncs;
    let writes = (0..50).map(|n| db.write(put(key(n), "v"), SYNC));
    let results = world.run(join_all(writes));
    let mut sequences: Vec<_> = results.into_iter().map(|result| result.unwrap()).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=50).collect::<Vec<_>>());
    assert_eq!(world.platter.counters().syncs - syncs, 2, "the first writer, then everybody else");
    assert_eq!(content(&db).unwrap().len(), 50);
}

#[test]
fn a_cancelled_leader_passes_the_lead_on() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    let write = |n: usize| Box::pin(db.write(put(key(n), "v"), SYNC));
    world.run(async {
        let mut writes = [write(0), write(1), write(2), write(3)];
        for write in &mut writes {
            assert!(futures_util::poll!(write).is_pending());
        }
        let [leader, next, cancelled, last] = writes;
        drop(cancelled);
        drop(leader);
        drop(next);
        last.await.unwrap();
        db.write(put(key(4), "v"), SYNC).await.unwrap();
    });
    let found = content(&db).unwrap();
    assert!([0, 3, 4].iter().all(|n| found.contains_key(key(*n).as_bytes())));
}

#[test]
fn compaction_reclaims_space_and_drops_tombstones() {
    let world = World::new(1);
    let (db, model) = filled(&world, 0..1000);
    world.run(db.flush()).unwrap();
    world.settle();
    let stats = db.stats();
    assert!(
        stats.compaction_moves > 0 && stats.levels[0].tables < 2 && stats.levels[1].tables > 0,
        "{stats:?}"
    );
    assert_eq!(content(&db).unwrap(), model);
    for n in 0..1000 {
        world.run(db.write(delete(key(n)), NO_SYNC)).unwrap();
    }
    world.run(db.flush()).unwrap();
    world.pause();
    let stats = db.stats();
    assert!(stats.compactions > 0 && stats.manifest_number > 10, "{stats:?}");
    assert_eq!(
        (stats.entries, stats.levels.iter().map(|level| level.tables).sum::<u64>()),
        (0, 0),
        "{stats:?}"
    );
    db.request_flush();
    world.run(db.close()).unwrap();
    let tables =
        world.platter.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "sst")).count();
    assert_eq!(tables, 0);
}

#[test]
fn a_key_put_and_deleted_between_flushes_leaves_no_trace() {
    let world = World::new(1);
    let db = world.open(&Options { memtable_bytes: 1 << 20, ..options() }).unwrap();
    for n in 0..100 {
        db.apply(put(key(n), "lock")).unwrap();
        db.apply(delete(key(n))).unwrap();
    }
    world.run(db.flush()).unwrap();
    let stats = db.stats();
    assert_eq!((stats.entries, stats.flushed_sequence, stats.flushes), (0, 200, 1));
}

#[test]
fn applied_data_is_durable_when_the_flushed_sequence_says_so() {
    let mut world = World::new(1);
    let db = world.open(&options()).unwrap();
    assert_eq!(db.flushed_sequence(), 0);
    let mut last = 0;
    for n in 0..50 {
        last = db.apply(put(key(n), "v")).unwrap();
    }
    world.run(db.flush()).unwrap();
    assert_eq!((db.flushed_sequence(), last), (50, 50));
    db.apply(put("lost", "v")).unwrap();
    assert_eq!(db.flushed_sequence(), 50);
    drop(db);
    world.crash(CrashMode::PowerLossWorst);
    let db = world.open(&options()).unwrap();
    assert_eq!(content(&db).unwrap().len(), 50);
    assert_eq!((db.last_sequence(), db.flushed_sequence()), (50, 50));
}

#[test]
fn applied_data_is_flushed_without_being_asked() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    for n in 0..1000 {
        db.apply(put(key(n), vec![b'x'; 100])).unwrap();
        world.settle();
    }
    let stats = db.stats();
    assert!(stats.flushed_sequence > 800 && stats.flushes > 5 && stats.wal_bytes == 24, "{stats:?}");
    // Logged writes in between make the log roll with the memtable.
    for n in 0..1000 {
        world.run(db.write(put(key(n), "short"), NO_SYNC)).unwrap();
        db.apply(put(key(n), vec![b'y'; 100])).unwrap();
        world.settle();
    }
    let stats = db.stats();
    assert!(stats.flushed_sequence > 2500 && stats.wal_segments < 4, "{stats:?}");
}

#[test]
fn the_log_of_flushed_data_is_removed() {
    let world = World::new(1);
    let (db, model) = filled(&world, 0..500);
    world.run(db.flush()).unwrap();
    let stats = db.stats();
    assert!(stats.wal_segments == 1 && stats.wal_bytes < 100, "{stats:?}");
    world.run(db.close()).unwrap();
    assert!(matches!(world.run(db.write(put("k", "v"), NO_SYNC)), Err(Error::Closed)));
    let db = world.open(&options()).unwrap();
    assert_eq!(content(&db).unwrap(), model);
}

#[test]
fn the_lock_keeps_others_out() {
    let world = World::new(1);
    let db = world.open(&Options { lock_owner: "pid 7".to_owned(), ..options() }).unwrap();
    let error = world.open(&options()).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Locked { owner, .. } if owner == "pid 7"), "{error}");
    world.run(db.close()).unwrap();
    world.open(&options()).unwrap();
    drop(db);
    world.settle();
}

#[test]
fn without_current_nothing_is_touched() {
    let world = World::new(1);
    let (db, model) = filled(&world, 0..300);
    world.run(db.close()).unwrap();
    let current = files::current(World::dir());
    let name = nokv_env::disk::read_all(&*world.disk, &current).unwrap();
    world.disk.remove_file(&current).unwrap();
    let before = world.platter.files();
    assert!(matches!(world.open(&options()), Err(Error::MissingCurrent { .. })));
    let read_only = Db::open_read_only(world.disk.clone(), World::dir(), options());
    assert!(matches!(read_only, Err(Error::MissingCurrent { .. })));
    let lock_file =
        |files: &[(PathBuf, u64)]| files.iter().filter(|f| f.0 != files::lock(World::dir())).count();
    assert_eq!(lock_file(&before), lock_file(&world.platter.files()));
    nokv_env::disk::write_atomically(&*world.disk, &current, &name).unwrap();
    assert_eq!(content(&world.open(&options()).unwrap()).unwrap(), model);
}

#[test]
fn reading_only_changes_nothing() {
    let mut world = World::new(1);
    let nothing = Db::open_read_only(world.disk.clone(), World::dir(), options());
    assert!(matches!(nothing, Err(Error::NotADatabase { .. })));
    let (db, model) = filled(&world, 0..300);
    let before = world.platter.files();
    let reader = Db::open_read_only(world.disk.clone(), World::dir(), options()).unwrap();
    assert_eq!(content(&reader).unwrap(), model);
    assert!(matches!(reader.apply(put("k", "v")), Err(Error::ReadOnly)));
    assert!(matches!(world.run(reader.write(put("k", "v"), NO_SYNC)), Err(Error::ReadOnly)));
    assert!(matches!(world.run(reader.flush()), Err(Error::ReadOnly)));
    world.run(reader.close()).unwrap();
    assert_eq!(world.platter.files(), before);
    drop(db);
    world.crash(CrashMode::ProcessKill);
    let reader = Db::open_read_only(world.disk.clone(), World::dir(), options()).unwrap();
    assert_eq!(content(&reader).unwrap(), model);
    assert_eq!(world.platter.files(), before);
}

#[test]
fn an_io_error_poisons_and_acknowledged_data_survives() {
    for at in 1..60 {
        let mut world = World::new(at);
        let db = world.open(&options()).unwrap();
        world.platter.set_faults(DiskFaults {
            sync_error_at: Some(world.platter.counters().syncs + at),
            ..Default::default()
        });
        let mut acknowledged = 0;
        for n in 0..200 {
            match world.run(db.write(put(key(n), vec![b'x'; 200]), SYNC)) {
                Ok(_) => acknowledged = n + 1,
                Err(_) => break,
            }
        }
        world.settle();
        if acknowledged < 200 {
            assert!(db.failed().is_some());
            assert!(matches!(world.run(db.write(put("k", "v"), SYNC)), Err(Error::Poisoned(_))));
            assert!(matches!(db.apply(put("k", "v")), Err(Error::Poisoned(_))));
            assert!(matches!(world.run(db.flush()), Err(Error::Poisoned(_))));
            assert!(content(&db).unwrap().len() >= acknowledged, "reads go on");
        }
        assert_eq!(world.run(db.close()).is_ok(), acknowledged == 200);
        drop(db);
        world.crash(CrashMode::PowerLossWorst);
        let found = content(&world.open(&options()).unwrap()).unwrap();
        assert!(
            found.len() >= acknowledged && found.len() <= acknowledged + 1,
            "{} {acknowledged}",
            found.len()
        );
    }
}

#[test]
fn a_logged_write_does_not_come_back_over_a_later_applied_one() {
    for crash_at in 0.. {
        let mut world = World::new(crash_at);
        let db = world.open(&options()).unwrap();
        world.run(db.write(put("k", "logged"), SYNC)).unwrap();
        db.apply(put("k", "applied")).unwrap();
        let crash_at_op = Some(world.platter.ops() + 1 + crash_at);
        world.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
        let flushed = world.run(db.flush()).is_ok();
        world.settle();
        let crashed = world.platter.crashed();
        world.platter.set_faults(DiskFaults::default());
        drop(db);
        world.crash(CrashMode::ProcessKill);
        let db = world.open(&options()).unwrap();
        let expected = if flushed || db.flushed_sequence() == 2 { "applied" } else { "logged" };
        assert_eq!(db.get(Cf(0), b"k").unwrap(), Some(expected.into()), "crash at {crash_at}");
        if !crashed {
            break;
        }
    }
}

/// A short life: writes, flushes, compactions, a close and a second open. `note` hears what was attempted (and the
/// state then) and what is durable.
fn life(world: &World, options: &Options, logged: bool, note: &mut History) -> Result<()> {
    for session in 0..2 {
        let db = world.open(options)?;
        for n in 0..30 {
            let batch = match n % 5 {
                3 => delete(key(n - 2)),
                4 => put(key(0), format!("{session}.{n}")),
                _ => put(key(n), format!("{session} {n} ").repeat(30)),
            };
            note.attempt(&batch, n);
            if logged {
                let sync = n % 4 == 1;
                world.run(db.write(batch, WriteOptions { sync }))?;
                if sync {
                    note.durable();
                }
            } else {
                db.apply(batch)?;
            }
            if n % 13 == 12 {
                world.run(db.flush())?;
                note.durable();
            }
        }
        world.settle();
        if let Some(failure) = db.failed() {
            return Err(Error::Poisoned(failure));
        }
        if !logged {
            world.run(db.flush())?;
        }
        world.run(db.close())?;
        note.durable();
    }
    Ok(())
}

/// All states that were attempted, in order; from `durable` on any may be found after a crash.
struct History {
    states: Vec<Map>,
    durable: usize,
}

impl History {
    fn new() -> Self {
        Self { states: vec![Map::new()], durable: 0 }
    }

    /// One more state. A counter key makes every state unlike all others.
    fn attempt(&mut self, batch: &WriteBatch, _n: usize) {
        let mut state = self.states[self.states.len() - 1].clone();
        for change in &batch.changes {
            match &change.value {
                Some(value) => drop(state.insert(change.key.clone(), value.clone())),
                None => drop(state.remove(&change.key)),
            }
        }
        self.states.push(state);
    }

    fn durable(&mut self) {
        self.durable = self.states.len() - 1;
    }

    fn check(&self, found: &Map) {
        let position = self.states[self.durable..].iter().position(|state| state == found);
        assert!(position.is_some(), "not a state after the last durable one ({})", self.durable);
    }
}

#[test]
fn every_operation_of_the_disk_is_a_place_to_crash() {
    let small =
        Options { memtable_bytes: 1 << 10, wal_segment_bytes: 4 << 10, manifest_bytes: 600, ..options() };
    for (logged, seed) in [(true, 0), (false, 1), (true, 2), (true, 4), (false, 5)] {
        let mut crash_at = 1;
        loop {
            let modes = [CrashMode::PowerLoss, CrashMode::PowerLossWorst, CrashMode::ProcessKill];
            let mut world = World::new(crash_at + seed * 1000);
            let crash_at_op = Some(crash_at);
            world.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            let mut history = History::new();
            let result = life(&world, &small, logged, &mut history);
            assert!(result.is_err() || !world.platter.crashed());
            if result.is_ok() && !world.platter.crashed() && world.platter.ops() < crash_at {
                break;
            }
            let error = result.unwrap_err();
            assert!(error.is_crashed() || matches!(error, Error::Poisoned(_)), "{error}");
            world.crash(modes[(crash_at + seed) as usize % 3]);
            // The second life may crash as well, soon after it began.
            if crash_at % 3 == 0 {
                let crash_at_op = Some(world.platter.ops() + 1 + crash_at % 29);
                world.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
                match world.open(&small) {
                    Ok(db) => drop(db),
                    Err(error) => assert!(error.is_crashed(), "{error}"),
                }
                world.settle();
                world.crash(modes[crash_at as usize / 3 % 3]);
                world.platter.set_faults(DiskFaults::default());
            }
            let db = world.open(&small).unwrap_or_else(|error| panic!("crash at {crash_at}: {error}"));
            history.check(&content(&db).unwrap());
            world.run(db.write(put("alive", "yes"), SYNC)).unwrap();
            world.run(db.flush()).unwrap();
            assert_eq!(db.get(Cf(0), b"alive").unwrap(), Some("yes".into()));
            drop(db);
            crash_at += 1;
        }
        assert!(crash_at > 300, "the life has only {crash_at} operations");
    }
}

#[test]
fn every_flipped_byte_is_noticed_or_harmless() {
    let mut world = World::new(1);
    let small = Options { compression: Compression::None, ..options() };
    let db = world.open(&small).unwrap();
    let mut model = Map::new();
    for n in 0..60 {
        let value = format!("{n} ").repeat(20);
        world.run(db.write(put(key(n % 40), value.clone()), SYNC)).unwrap();
        model.insert(key(n % 40).into(), value.into());
        if n % 15 == 14 && n < 50 {
            world.run(db.flush()).unwrap();
        }
    }
    world.settle();
    world.run(db.close()).unwrap();
    drop(db);
    world.crash(CrashMode::ProcessKill);
    for (path, len) in world.platter.files() {
        if path == files::lock(World::dir()) {
            continue;
        }
        for offset in 0..len {
            let bit = (offset % 8) as u8;
            world.platter.flip_bit(&path, offset, bit);
            let read = Db::open_read_only(world.disk.clone(), World::dir(), small.clone());
            match read.and_then(|db| content(&db)) {
                Ok(found) => assert_eq!(found, model, "offset {offset} of {}", path.display()),
                Err(error) => assert!(error.is_corrupt(), "{error}"),
            }
            world.platter.flip_bit(&path, offset, bit);
        }
    }
    assert_eq!(content(&world.open(&small).unwrap()).unwrap(), model);
}

#[test]
fn a_missing_table_or_log_segment_is_named() {
    let world = World::new(1);
    let (db, _) = filled(&world, 0..200);
    world.settle();
    world.run(db.close()).unwrap();
    for extension in ["sst", "wal"] {
        let is_it = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
        let (path, _) = world.platter.files().into_iter().find(|(path, _)| is_it(path)).unwrap();
        let data = nokv_env::disk::read_all(&*world.disk, &path).unwrap();
        world.disk.remove_file(&path).unwrap();
        let error = world.open(&options()).map(|_| ()).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { file, .. } if *file == path), "{error}");
        world.disk.open(&path, OpenMode::Create).unwrap().write_at(&data, 0).unwrap();
    }
    world.open(&options()).unwrap();
}

#[test]
fn pressure_rises_when_nobody_flushes() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    assert_eq!(db.pressure(), Pressure::None);
    let mut seen = vec![Pressure::None];
    while db.pressure() < Pressure::Stop {
        db.apply(put(key(seen.len()), vec![0; 4000])).unwrap();
        seen.push(db.pressure());
    }
    assert!(seen.contains(&Pressure::Slowdown));
    // The write waits for the flushes, which go on while it waits.
    world.run(db.write(put("k", "v"), SYNC)).unwrap();
    assert!(db.pressure() < Pressure::Stop);
}

#[test]
fn everything_may_move_between_threads() {
    fn sent<T: Send>(value: T) -> T {
        value
    }
    let world = World::new(1);
    let env = world.env();
    let db = world.run(sent(Db::open(&env, World::dir(), options()))).unwrap();
    world.run(sent(db.write(put("k", "v"), SYNC))).unwrap();
    assert_eq!(sent(sent(db.snapshot()).iter(Cf(0), ..)).count(), 1);
    world.run(sent(db.flush())).unwrap();
    world.run(sent(sent(db.clone()).close())).unwrap();
}

#[test]
fn a_walk_that_nobody_asked_for_leaves_the_cache_to_others() {
    let world = World::new(1);
    let (db, model) = filled(&world, 0..100);
    world.run(db.flush()).unwrap();
    let (snapshot, before) = (db.snapshot(), db.stats().cache_bytes);
    let walked: Map = snapshot.iter_uncached(Cf(0), ..).map(Result::unwrap).collect();
    assert_eq!((walked, db.stats().cache_bytes), (model.clone(), before));
    let read: Map = snapshot.iter(Cf(0), ..).map(Result::unwrap).collect();
    assert_eq!(read, model);
    assert!(db.stats().cache_bytes > before);
}

#[test]
fn writers_are_slowed_down_before_they_are_stopped() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    let memtable = options().memtable_bytes;
    let large = |n: usize| put(key(n), vec![b'v'; memtable / 2]);
    world.run(db.write(large(0), NO_SYNC)).unwrap();
    assert_eq!((db.pressure(), db.stats().slowdown_time.count), (Pressure::None, 0));
    // Nobody flushes meanwhile: the executor stands still.
    for n in 0..8 {
        db.apply(large(n)).unwrap();
    }
    assert_eq!(db.pressure(), Pressure::Slowdown);
    world.run(db.write(put(key(9), "small"), NO_SYNC)).unwrap();
    assert_eq!(db.stats().slowdown_time.count, 0, "it is owed");
    for n in 0..8 {
        db.apply(large(n)).unwrap();
    }
    world.run(db.write(large(9), NO_SYNC)).unwrap();
    assert_eq!(db.stats().slowdown_time.count, 1);
    assert!(db.stats().slowdown_time.max <= std::time::Duration::from_millis(100));
    world.run(db.flush()).unwrap();
    assert_eq!(db.pressure(), Pressure::None);
}

#[test]
fn a_full_disk_refuses_writes_and_breaks_nothing() {
    let mut world = World::new(1);
    let (db, mut model) = filled(&world, 0..20);
    world.run(db.flush()).unwrap();
    world.settle();
    let leave = |world: &World, free_space| {
        world.platter.set_faults(DiskFaults { free_space, ..DiskFaults::default() });
    };
    leave(&world, Some(0));
    for sync in [SYNC, NO_SYNC] {
        let refused = world.run(db.write(put("large", "x".repeat(20_000)), sync)).unwrap_err();
        assert!(refused.is_disk_full(), "{refused}");
    }
    assert!(db.is_disk_full());
    assert_eq!((db.failed(), content(&db).unwrap()), (None, model.clone()), "reads go on");
    world.run(db.write(put("small", "fits"), SYNC)).unwrap();
    leave(&world, None);
    world.run(db.write(put("more", "fits"), SYNC)).unwrap();
    assert!(!db.is_disk_full());
    model.extend([("small".into(), "fits".into()), ("more".into(), "fits".into())]);
    assert_eq!(content(&db).unwrap(), model);
    drop(db);
    world.crash(CrashMode::PowerLossWorst);
    assert_eq!(content(&world.open(&options()).unwrap()).unwrap(), model);
}

#[test]
fn a_flush_that_finds_the_disk_full_leaves_no_file_and_keeps_the_rows() {
    let mut world = World::new(1);
    let (db, model) = filled(&world, 0..8);
    let tables = |world: &World| {
        let names = world.disk.list(World::dir()).unwrap();
        names
            .into_iter()
            .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "sst"))
            .collect::<Vec<_>>()
    };
    world.settle();
    let before = tables(&world);
    for n in 0..8 {
        db.apply(put(key(n), format!("value {n} ").repeat(20))).unwrap();
    }
    db.request_flush();
    world.platter.set_faults(DiskFaults { free_space: Some(0), ..DiskFaults::default() });
    world.go_on_for_a_while();
    assert!(db.is_disk_full());
    assert_eq!((db.failed(), tables(&world)), (None, before));
    assert_eq!(content(&db).unwrap(), model);
    assert!(world.run(db.flush()).unwrap_err().is_disk_full(), "who waits for a flush is told");
    world.platter.set_faults(DiskFaults::default());
    world.run(db.flush()).unwrap();
    assert!(!db.is_disk_full());
    drop(db);
    world.crash(CrashMode::PowerLossWorst);
    assert_eq!(content(&world.open(&options()).unwrap()).unwrap(), model);
}

/// Others write while a reader stands still: what it has is not everything up to a sequence that came later.
#[test]
fn a_snapshot_has_everything_up_to_its_sequence() {
    let world = World::new(1);
    let db = world.open(&options()).unwrap();
    db.apply(put("a", "1")).unwrap();
    let view = db.inner.view();
    db.apply(put("b", "2")).unwrap();
    assert_eq!(db.inner.sequence_of(&view), Some(2), "its memtable grows");
    db.request_flush();
    db.apply(put("c", "3")).unwrap();
    assert_eq!(db.inner.sequence_of(&view), None, "it knows of no other memtable");
    assert_eq!((db.snapshot().sequence(), content(&db).unwrap().len()), (3, 3));
}
