use super::*;
use crate::mvcc::{self, CF_DEFAULT, CF_LOCK, CF_WRITE, SHORT_VALUE_BYTES_MAX};
use crate::testing::World;
use crate::{Config, Store};
use bytes::Bytes;
use nokv_engine::{Cf, WriteBatch, WriteOptions};
use nokv_env::mem_disk::{CrashMode, DiskFaults, MemDisk};
use nokv_env::{ClockExt, Disk};
use nokv_proto::key::KeyRange;
use nokv_proto::kv::v1::ScanRequest;
use nokv_proto::kv::v1::no_kv_client::NoKvClient;
use nokv_proto::kv::v1::{Context, GetRequest, KvGetRequest};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

type Model = BTreeMap<Bytes, Bytes>;

const DIR: &str = "/s";
const IDS: Ids = Ids { store: 1, region: 1, peer: 101 };

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn tiny() -> Options {
    Options::tiny()
}

/// Keys of all shapes, among them the very bytes that a long value of another key is moved to.
fn model() -> Model {
    let mut model = Model::new();
    for n in 0..40_usize {
        let value = format!("{n} ").repeat([1, 5, 100, 200][n % 4]);
        model.insert(format!("key{n:03}").into(), value.into());
    }
    for length in [0, SHORT_VALUE_BYTES_MAX, SHORT_VALUE_BYTES_MAX + 1, 5000] {
        model.insert(format!("long{length}").into(), vec![7; length].into());
    }
    for key in [&b"\0"[..], b"\0\xff", b"\xff\xff\xff", b"a\0\x01"] {
        model.insert(Bytes::from_static(key), "odd".into());
    }
    let moved_to = mvcc::settled_default_key(b"key002", 1000).unwrap();
    model.insert(moved_to, vec![9; 600].into());
    model
}

/// A stand-alone database that holds `model` in tables, in the memtable, in the log.
fn stand_alone(world: &World, platter: &Arc<MemDisk>, model: &Model) {
    let env = world.env(1, platter);
    world.run(async {
        let db = Db::open(&env, dir(), tiny()).await.unwrap();
        let put = async |key: &Bytes, value: Bytes| {
            let mut batch = WriteBatch::new();
            batch.put(CF_DEFAULT, key.clone(), value);
            db.write(batch, WriteOptions { sync: true }).await.unwrap();
        };
        for (n, key) in model.keys().enumerate() {
            put(key, format!("old {n}").into()).await;
        }
        db.flush().await.unwrap();
        for (n, (key, value)) in model.iter().enumerate() {
            put(key, value.clone()).await;
            if n == model.len() / 2 {
                db.flush().await.unwrap();
            }
        }
        let mut batch = WriteBatch::new();
        batch.put(CF_DEFAULT, Bytes::from_static(b"gone"), Bytes::from_static(b"x"));
        batch.delete(CF_DEFAULT, Bytes::from_static(b"gone"));
        db.write(batch, WriteOptions { sync: true }).await.unwrap();
        db.close().await.unwrap();
    });
}

/// What transactions see in the directory.
fn seen(disk: Arc<dyn Disk>) -> Model {
    let db = Db::open_read_only(disk, dir(), tiny()).unwrap();
    let snapshot = db.snapshot();
    let mut found = Model::new();
    let mut start = Bytes::new();
    loop {
        let request =
            ScanRequest { start_key: start.clone(), limit: 7, version: 5000, ..ScanRequest::default() };
        let page = mvcc::scan(&snapshot, &request, &KeyRange::default(), 0).unwrap();
        let Some(last) = page.kvs.last() else { return found };
        let mut next = last.key.to_vec();
        next.push(0);
        start = next.into();
        found.extend(page.kvs.into_iter().map(|pair| (pair.key, pair.value)));
    }
}

fn migrate(world: &World, platter: &Arc<MemDisk>, ids: Ids) -> Result<Done> {
    let env = world.env(1, platter);
    world.run(async { init(&env, dir(), ids, &tiny()).await })
}

fn files(platter: &Arc<MemDisk>) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let disk = platter.mount();
    platter
        .files()
        .into_iter()
        .map(|(path, _)| (path.clone(), nokv_env::disk::read_all(&*disk, &path).unwrap()))
        .collect()
}

fn config() -> Config {
    let mut config = Config::new(1, DIR, "store1:1", Vec::new());
    config.tick = Duration::from_millis(10);
    config.engine = tiny();
    config
}

#[test]
fn what_was_written_stand_alone_is_read_by_transactions() {
    let (world, platter) = (World::default(), MemDisk::new(1));
    let model = model();
    stand_alone(&world, &platter, &model);
    let before = files(&platter);
    let planned = plan(platter.mount(), dir()).unwrap();
    assert_eq!((planned.blockers.len(), planned.rows), (0, model.len() as u64), "{planned:?}");
    assert_eq!(files(&platter), before, "a plan changes nothing");
    assert_eq!(migrate(&world, &platter, IDS).unwrap(), Done::Migrated);
    assert_eq!(seen(platter.mount()), model);
    let state = mode::read(&*platter.mount(), dir()).unwrap();
    assert_eq!((state.mode, Ids::of(&state)), (Mode::Seeded, IDS));
    let snapshot = seed_snapshot::read(&*platter.mount(), dir(), 1).unwrap().unwrap();
    let long = model.values().filter(|value| value.len() > SHORT_VALUE_BYTES_MAX).count();
    assert_eq!(snapshot.entry_count, (model.len() + long) as u64);
    let db = Db::open_read_only(platter.mount(), dir(), tiny()).unwrap();
    assert_eq!(db.snapshot().iter(CF_DEFAULT, ..).count(), long, "no raw row is left");
    assert_eq!(db.snapshot().iter(CF_WRITE, ..).count(), model.len());
    assert_eq!(db.snapshot().iter(CF_LOCK, ..).count(), 0);
    // Again it does nothing; under other ids it is refused.
    let before = files(&platter);
    assert_eq!(migrate(&world, &platter, IDS).unwrap(), Done::Already(Mode::Seeded));
    for other in [Ids { store: 2, ..IDS }, Ids { region: 2, ..IDS }, Ids { peer: 102, ..IDS }] {
        let error = migrate(&world, &platter, other).unwrap_err();
        assert!(error.to_string().ends_with("is seeded already: store=1 region=1 peer=101"), "{error}");
    }
    assert_eq!(files(&platter), before);
}

#[test]
fn a_store_serves_a_migrated_directory_and_goes_on_after_power_losses() {
    let (world, platter) = (World::default(), MemDisk::new(2));
    let model = model();
    stand_alone(&world, &platter, &model);
    migrate(&world, &platter, IDS).unwrap();
    for life in 0..4 {
        let env = world.env(1, &platter);
        let store = world.run(Store::start(env.clone(), config())).unwrap();
        let state = mode::read(&*env.disk, dir()).unwrap();
        assert_eq!((state.mode, state.store_id, state.region_id), (Mode::Cluster, 1, 0));
        world.run(env.clock.sleep(Duration::from_secs(if life == 0 { 0 } else { 2 })));
        if life > 0 {
            let (key, value) = model.iter().nth(life * 7).unwrap();
            let context = Some(Context {
                region_id: 1,
                region_epoch: IDS.region().epoch,
                peer: Some(IDS.region().peers[0]),
                ..Context::default()
            });
            let request = Some(GetRequest { key: key.clone(), version: 0, ..GetRequest::default() });
            let mut client = NoKvClient::new(env.net.connect("store1:1"));
            let reply = world.run(client.kv_get(KvGetRequest { context, request })).unwrap().into_inner();
            assert_eq!(reply.region_error, None);
            assert_eq!(reply.response.unwrap().value, *value);
        }
        platter.crash(CrashMode::PowerLossWorst);
        let raft = store.shared.raft.clone();
        drop(store);
        world.run(raft.stop());
    }
    assert_eq!(seen(platter.mount()), model);
    assert_eq!(migrate(&world, &platter, IDS).unwrap(), Done::Already(Mode::Cluster));
}

#[test]
fn every_operation_of_the_disk_is_a_place_to_crash() {
    let model = model();
    let modes = [CrashMode::PowerLoss, CrashMode::PowerLossWorst, CrashMode::ProcessKill];
    let mut stages = BTreeMap::new();
    let mut crash_at = 1;
    loop {
        let (world, platter) = (World::default(), MemDisk::new(crash_at));
        stand_alone(&world, &platter, &model);
        let at = platter.ops() + crash_at;
        platter.set_faults(DiskFaults { crash_at_op: Some(at), ..DiskFaults::default() });
        let done = migrate(&world, &platter, IDS);
        if done.is_ok() && platter.ops() < at {
            break;
        }
        // The second attempt may crash as well.
        let mut turn = crash_at;
        while let Err(error) = migrate_again(&world, &platter, modes[turn as usize % 3], turn) {
            assert!(error.is_crashed(), "crash at {crash_at}: {error}");
            turn += 7;
        }
        let stage =
            progress::read(&*platter.mount(), dir()).unwrap().map(|checkpoint| checkpoint.stage.name());
        *stages.entry(stage).or_insert(0) += 1;
        assert_eq!(seen(platter.mount()), model, "crash at {crash_at}");
        assert_eq!(mode::read(&*platter.mount(), dir()).unwrap(), IDS.state(Mode::Seeded));
        assert!(seed_snapshot::read(&*platter.mount(), dir(), 1).unwrap().is_some());
        crash_at += 1;
    }
    assert!(crash_at > 60, "a migration has only {crash_at} operations of the disk");
    assert_eq!(stages.keys().collect::<Vec<_>>(), [&Some("seeded-finalized")]);
}

/// The machine is back after a crash: the directory is what it was, or on its way, and the same command goes on.
fn migrate_again(world: &World, platter: &Arc<MemDisk>, mode: CrashMode, turn: u64) -> Result<Done> {
    platter.set_faults(DiskFaults::default());
    platter.crash(mode);
    let state = mode::read(&*platter.mount(), dir()).unwrap();
    let open = Db::open_read_only(platter.mount(), dir(), tiny()).unwrap();
    let regions = catalog::read(&open).unwrap();
    match state.mode {
        Mode::Standalone => assert!(regions.is_empty()),
        Mode::Preparing => {
            let env = world.env(1, platter);
            let start = world.run(Store::start(env, config())).map(|_| ()).unwrap_err();
            assert!(matches!(start, Error::WrongMode { .. }), "{start}");
            let other = migrate(world, platter, Ids { peer: 102, ..IDS }).unwrap_err();
            assert!(matches!(other, Error::AlreadySeeded { .. }), "{other}");
        }
        _ => assert_eq!(regions, [IDS.region()]),
    }
    if turn % 4 == 1 && turn < 200 {
        let at = platter.ops() + 1 + turn % 37;
        platter.set_faults(DiskFaults { crash_at_op: Some(at), ..DiskFaults::default() });
    }
    migrate(world, platter, IDS)
}

#[test]
fn what_cannot_be_migrated_is_named_and_left_alone() {
    let world = World::default();
    let refused = |fill: &dyn Fn(&mut WriteBatch)| {
        let platter = MemDisk::new(3);
        let env = world.env(1, &platter);
        world.run(async {
            let db = Db::open(&env, dir(), tiny()).await.unwrap();
            let mut batch = WriteBatch::new();
            fill(&mut batch);
            db.write(batch, WriteOptions { sync: true }).await.unwrap();
            db.close().await.unwrap();
        });
        let before = files(&platter);
        let error = migrate(&world, &platter, IDS).unwrap_err();
        assert!(matches!(error, Error::NotEligible { .. }), "{error}");
        assert_eq!(files(&platter), before);
        error.to_string()
    };
    let long = vec![b'k'; nokv_proto::limits::KEY_BYTES_MAX + 1];
    let text = refused(&|batch| batch.put(CF_DEFAULT, Bytes::new(), Bytes::new()));
    assert!(text.contains("the empty key has a value"), "{text}");
    let text = refused(&|batch| batch.put(CF_DEFAULT, Bytes::from(long.clone()), Bytes::new()));
    assert!(text.contains("a key has 4097 bytes"), "{text}");
    let text = refused(&|batch| {
        batch.put(CF_DEFAULT, Bytes::from_static(b"k"), vec![0; nokv_proto::limits::VALUE_BYTES_MAX + 1]);
    });
    assert!(text.contains("key \"k\": a value has 4194305 bytes"), "{text}");
    let text = refused(&|batch| batch.put(Cf(9), Bytes::from_static(b"k"), Bytes::new()));
    assert!(text.contains("family 9 holds data"), "{text}");
    let text = refused(&|batch| batch.put_until(CF_DEFAULT, "k", "v", 1));
    assert!(text.contains("1 rows have an end"), "{text}");
    // No database at all: nothing is made of it.
    let platter = MemDisk::new(4);
    platter.mount().create_dir_all(dir()).unwrap();
    assert!(matches!(migrate(&world, &platter, IDS), Err(Error::NotEligible { .. })));
    assert_eq!(platter.files(), []);
    for ids in [Ids { store: 0, ..IDS }, Ids { region: 0, ..IDS }, Ids { peer: FIRST_ALLOCATED_ID, ..IDS }] {
        assert!(matches!(migrate(&world, &platter, ids), Err(Error::Config(_))));
    }
}

#[test]
fn a_store_that_was_seeded_otherwise_is_not_migrated() {
    let (world, platter) = (World::default(), MemDisk::new(5));
    let env = world.env(1, &platter);
    let region = IDS.region();
    world.run(crate::seed::seed_regions(&env, dir(), 1, &[region])).unwrap();
    let error = migrate(&world, &platter, IDS).unwrap_err();
    assert!(matches!(error, Error::NotEligible { .. }), "{error}");
    // And nobody opens a store's directory as a database of his own.
    let open = world.run(Db::open(&env, dir(), tiny())).map(|_| ()).unwrap_err();
    assert!(matches!(open, nokv_engine::Error::Owned { .. }), "{open}");
}
