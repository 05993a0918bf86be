//! The engine is a `BTreeMap`, whatever is asked of it in whatever order: through flushes, compactions, collections of its
//! value log, copies, exports, imports, snapshots, reopens with other options, and crashes.
//!
//! A crash may take writes that were not made durable, but only the newest ones: what is found afterwards is the map
//! as it was at some moment between the last durable write and the crash; when only the process died, between the last
//! logged write and the crash.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use bytes::Bytes;
use nokv_engine::{
    Cf, Compression, Db, Error, Iter, Options, Result, Snapshot, WriteBatch, WriteOptions, inspect,
};
use nokv_env::mem_disk::{CrashMode, DiskFaults};
use nokv_proptests::node::Node;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};

type Map = BTreeMap<(u8, Bytes), Bytes>;
type Rows = Vec<(Bytes, Bytes)>;
/// Family, key, length of the value (`None` deletes).
type Change = (u8, u8, Option<u16>);
type Range = (Bound<u8>, Bound<u8>);

const FAMILIES: u8 = 3;
/// Snapshots that are held at once.
const SNAPSHOTS: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    /// Puts and deletes in one batch.
    Write {
        changes: Vec<Change>,
        sync: bool,
    },
    Get {
        cf: u8,
        key: u8,
    },
    MultiGet {
        keys: Vec<(u8, u8)>,
    },
    Scan {
        cf: u8,
        range: Range,
    },
    Prefix {
        cf: u8,
        key: u8,
        len: u8,
    },
    /// An iterator that is pulled at both ends, and skips.
    Walk {
        cf: u8,
        range: Range,
        reverse: bool,
        moves: Vec<Move>,
    },
    TakeSnapshot,
    DropSnapshot,
    Flush,
    Settle,
    /// A copy, which is looked at now and after the next crash.
    Checkpoint,
    /// Rows of the oldest snapshot that is held, or of now, come back in place of what is there.
    ExportAndIngest {
        cf: u8,
        range: Range,
    },
    /// Changes in one table; they join the database or are thrown away.
    Import {
        changes: Vec<Change>,
        adopt: bool,
    },
    /// Keys go, in the families whose bits are set.
    DeleteRange {
        families: u8,
        range: Range,
    },
    /// With the options of that number.
    Reopen {
        options: u8,
    },
    Crash {
        mode: u8,
    },
    CrashSoon {
        ops: u16,
    },
}

#[derive(Debug, Clone)]
enum Move {
    Front,
    Back,
    SkipTo(u8),
}

fn change() -> impl Strategy<Value = Change> {
    (0..FAMILIES, any::<u8>(), proptest::option::weighted(0.7, 0..700_u16))
}

fn range() -> impl Strategy<Value = Range> {
    let bound = || {
        prop_oneof![
            any::<u8>().prop_map(Bound::Included),
            any::<u8>().prop_map(Bound::Excluded),
            Just(Bound::Unbounded)
        ]
    };
    (bound(), bound())
}

fn op() -> impl Strategy<Value = Op> {
    let step =
        prop_oneof![3 => Just(Move::Front), 3 => Just(Move::Back), 1 => any::<u8>().prop_map(Move::SkipTo)];
    let cf = || 0..FAMILIES;
    prop_oneof![
        24 => (vec(change(), 1..6), any::<bool>()).prop_map(|(changes, sync)| Op::Write { changes, sync }),
        3 => (cf(), any::<u8>()).prop_map(|(cf, key)| Op::Get { cf, key }),
        2 => vec((cf(), any::<u8>()), 0..20).prop_map(|keys| Op::MultiGet { keys }),
        3 => (cf(), range()).prop_map(|(cf, range)| Op::Scan { cf, range }),
        1 => (cf(), any::<u8>(), 0..6_u8).prop_map(|(cf, key, len)| Op::Prefix { cf, key, len }),
        2 => (cf(), range(), any::<bool>(), vec(step, 1..30))
            .prop_map(|(cf, range, reverse, moves)| Op::Walk { cf, range, reverse, moves }),
        2 => Just(Op::TakeSnapshot),
        1 => Just(Op::DropSnapshot),
        3 => Just(Op::Flush),
        3 => Just(Op::Settle),
        1 => Just(Op::Checkpoint),
        1 => (cf(), range()).prop_map(|(cf, range)| Op::ExportAndIngest { cf, range }),
        1 => (vec(change(), 1..30), any::<bool>()).prop_map(|(changes, adopt)| Op::Import { changes, adopt }),
        2 => (1..1_u8 << FAMILIES, range()).prop_map(|(families, range)| Op::DeleteRange { families, range }),
        1 => any::<u8>().prop_map(|options| Op::Reopen { options }),
        1 => (0..3_u8).prop_map(|mode| Op::Crash { mode }),
        1 => (1..90_u16).prop_map(|ops| Op::CrashSoon { ops }),
    ]
}

/// Small enough that a short life reaches several levels and generations of values.
fn options() -> impl Strategy<Value = Options> {
    let tree = (1_usize..8, 1_u64..3, 128_usize..1024, 1_u64..3, 1_usize..4, 2_u64..4);
    let values = (prop_oneof![32_usize..600, Just(usize::MAX)], 1_u64..4, 1_u32..99);
    let rest = (300_u64..4096, prop_oneof![Just(0_u32), Just(10)], any::<bool>(), 1_u64..64, 0_usize..5);
    let background = (1_usize..5, prop_oneof![Just(0), 4096_u64..4_000_000]);
    (tree, values, rest, background).prop_map(|(tree, values, rest, background)| {
        let (memtable, wal, block_bytes, table, level0_tables_compact, level_multiplier) = tree;
        let (value_threshold, segment, value_garbage_percent) = values;
        let (manifest_bytes, bloom_bits_per_key, compress, cache, readahead) = rest;
        Options {
            memtable_bytes: memtable << 10,
            wal_segment_bytes: wal << 12,
            block_bytes,
            table_bytes: table << 12,
            level0_tables_compact,
            level_bytes_base: table << 12,
            level_multiplier,
            block_cache_bytes: cache << 10,
            readahead_bytes: readahead << 10,
            bloom_bits_per_key,
            compression: if compress { Compression::Lz4 } else { Compression::None },
            value_threshold,
            value_segment_bytes: segment << 12,
            value_garbage_percent,
            manifest_bytes,
            subcompactions: background.0,
            background_bytes_per_second: background.1,
            ..Options::tiny()
        }
    })
}

/// A copy that a checkpoint made, or was about to.
struct Copy {
    dir: PathBuf,
    content: Map,
    is_promised: bool,
}

/// A database beside its model.
struct Pair {
    node: Node,
    /// In force, and what else there is to choose from.
    options: Options,
    choices: Vec<Options>,
    /// Writes go through the log. Otherwise they are applied, and only flushes make them durable.
    logged: bool,
    db: Option<Db>,
    /// The map after every write since the last durable one; the first is the durable one.
    states: Vec<Map>,
    /// Which of them the operating system has.
    acknowledged: usize,
    /// Since the last opening.
    lost_power: bool,
    snapshots: VecDeque<(Snapshot, Map)>,
    copy: Option<Copy>,
    counter: u64,
    /// Sequence of the newest batch.
    last_batch: u64,
}

fn dir() -> &'static Path {
    Path::new("/db")
}

/// The harness's own trouble with the disk, which only a crash may make.
fn harness<T>(result: io::Result<T>) -> Result<T> {
    result.map_err(|error| Error::Poisoned(error.to_string()))
}

impl Pair {
    fn new(seed: u64, logged: bool, choices: Vec<Options>) -> Self {
        Self {
            node: Node::new(seed),
            options: choices[0].clone(),
            choices,
            logged,
            db: None,
            states: vec![Map::new()],
            acknowledged: 0,
            lost_power: false,
            snapshots: VecDeque::new(),
            copy: None,
            counter: 0,
            last_batch: 0,
        }
    }

    fn now(&self) -> &Map {
        self.states.last().unwrap()
    }

    fn is_acknowledged(&mut self) {
        self.acknowledged = self.states.len() - 1;
    }

    fn is_durable(&mut self) {
        self.states.drain(..self.states.len() - 1);
        self.acknowledged = 0;
    }

    /// Opens the database if it is not, and checks what is found.
    fn db(&mut self) -> Result<Db> {
        if let Some(db) = &self.db {
            return Ok(db.clone());
        }
        let disk = self.node.disk();
        if harness(disk.exists(&dir().join("CURRENT")))? {
            assert_eq!(inspect::check(&*disk, dir(), true)?.findings, [], "a crash is taken for damage");
        }
        self.judge_copy()?;
        let env = self.node.env();
        let db = self.node.run(Db::open(&env, dir(), self.options.clone()))?;
        let found = content(&db.snapshot())?;
        let at = self.states.iter().rposition(|state| *state == found);
        let at = at.expect("what is found was never a state since the last durable one");
        let is_kept = self.lost_power || !self.logged || at >= self.acknowledged;
        assert!(is_kept, "state {at} is found, the operating system had {}", self.acknowledged);
        self.states = vec![self.states.swap_remove(at)];
        (self.acknowledged, self.lost_power, self.last_batch) = (0, false, 0);
        self.db = Some(db.clone());
        Ok(db)
    }

    /// A copy is whole or not there, and there if that was promised.
    fn judge_copy(&self) -> Result<()> {
        let Some(copy) = &self.copy else { return Ok(()) };
        let disk = self.node.disk();
        if !harness(disk.exists(&copy.dir))? {
            assert!(!copy.is_promised, "the copy is gone");
            return Ok(());
        }
        let copied = Db::open_read_only(disk, &copy.dir, self.options.clone())?;
        assert_eq!(content(&copied.snapshot())?, copy.content, "the copy is another state");
        Ok(())
    }

    /// Runs one operation; an error means that the node went down in it.
    fn step(&mut self, op: &Op) -> Result<()> {
        let db = self.db()?;
        match op {
            Op::Write { changes, sync } => self.write(&db, changes, *sync)?,
            Op::Get { cf, key } => {
                for (snapshot, state) in self.moments(&db) {
                    let expected = state.get(&(*cf, name(*key)));
                    assert_eq!(snapshot.get(Cf(*cf), &name(*key))?.as_ref(), expected);
                }
                assert_eq!(db.get(Cf(*cf), &name(*key))?.as_ref(), self.now().get(&(*cf, name(*key))));
            }
            Op::MultiGet { keys } => {
                let named: Vec<(Cf, Bytes)> = keys.iter().map(|(cf, key)| (Cf(*cf), name(*key))).collect();
                for (snapshot, state) in self.moments(&db) {
                    let expected = named.iter().map(|(cf, key)| state.get(&(cf.0, key.clone())).cloned());
                    assert_eq!(snapshot.multi_get(&named)?, expected.collect::<Vec<_>>());
                }
            }
            Op::Scan { cf, range } => {
                let range = named(*range);
                for (snapshot, state) in self.moments(&db) {
                    same_range(&snapshot, &state, *cf, &range)?;
                }
            }
            Op::Prefix { cf, key, len } => {
                let prefix = name(*key);
                let prefix = &prefix[..prefix.len().min(usize::from(*len))];
                for (snapshot, state) in self.moments(&db) {
                    let found = snapshot.iter_prefix(Cf(*cf), prefix).collect::<Result<Rows>>()?;
                    let expected = rows(&state, *cf, |key| key.starts_with(prefix));
                    assert_eq!(found, expected);
                }
            }
            Op::Walk { cf, range, reverse, moves } => {
                let range = named(*range);
                for (snapshot, state) in self.moments(&db) {
                    let mut expected = rows(&state, *cf, |key| range.contains(key));
                    let iter = if *reverse {
                        expected.reverse();
                        snapshot.iter_rev(Cf(*cf), range.clone())
                    } else {
                        snapshot.iter(Cf(*cf), range.clone())
                    };
                    walk(iter, expected.into(), *reverse, moves)?;
                }
            }
            Op::TakeSnapshot => {
                if self.snapshots.len() == SNAPSHOTS {
                    self.snapshots.pop_front();
                }
                self.snapshots.push_back((db.snapshot(), self.now().clone()));
            }
            Op::DropSnapshot => drop(self.snapshots.pop_front()),
            Op::Flush => {
                self.node.run(db.flush())?;
                assert!(db.flushed_sequence() >= self.last_batch);
                self.is_durable();
                self.look_at_snapshots()?;
            }
            Op::Settle => {
                self.node.settle();
                self.look_at_snapshots()?;
            }
            Op::Checkpoint => {
                self.counter += 1;
                let dir = PathBuf::from(format!("/copies/{}", self.counter));
                self.copy = Some(Copy { dir: dir.clone(), content: self.now().clone(), is_promised: false });
                self.node.run(db.checkpoint(&dir))?;
                self.is_durable();
                self.copy.as_mut().unwrap().is_promised = true;
                self.judge_copy()?;
            }
            Op::ExportAndIngest { cf, range } => self.export_and_ingest(&db, *cf, &named(*range))?,
            Op::Import { changes, adopt } => self.import(&db, changes, *adopt)?,
            Op::DeleteRange { families, range } => {
                let range = named(*range);
                let families: Vec<u8> = (0..FAMILIES).filter(|cf| families & (1 << cf) != 0).collect();
                let mut state = self.now().clone();
                state.retain(|(cf, key), _| !families.contains(cf) || !range.contains(key));
                self.states.push(state);
                let ranges: Vec<_> = families.iter().map(|cf| (Cf(*cf), range.clone())).collect();
                if self.node.run(db.delete_ranges(&ranges))?.sequence == 0 {
                    // No key can be in the range. Nothing became durable.
                    self.states.pop();
                } else {
                    self.is_durable();
                }
                self.look_at_snapshots()?;
            }
            Op::Reopen { options } => {
                self.snapshots.clear();
                if !self.logged {
                    self.node.run(db.flush())?;
                }
                self.node.run(db.close())?;
                self.is_durable();
                self.db = None;
                self.options = self.choices[usize::from(*options) % self.choices.len()].clone();
            }
            Op::Crash { mode } => {
                drop(db);
                self.crash(*mode);
            }
            Op::CrashSoon { ops } => {
                let crash_at_op = Some(self.node.platter.ops() + u64::from(*ops));
                self.node.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            }
        }
        Ok(())
    }

    fn crash(&mut self, mode: u8) {
        self.db = None;
        self.snapshots.clear();
        self.node.platter.set_faults(DiskFaults::default());
        let modes = [CrashMode::PowerLoss, CrashMode::PowerLossWorst, CrashMode::ProcessKill];
        let mode = modes[usize::from(mode)];
        self.lost_power |= mode != CrashMode::ProcessKill;
        self.node.crash(mode);
    }

    /// Now, and the moments that snapshots hold.
    fn moments(&self, db: &Db) -> Vec<(Snapshot, Map)> {
        let now = (db.snapshot(), self.now().clone());
        self.snapshots.iter().cloned().chain([now]).collect()
    }

    fn look_at_snapshots(&self) -> Result<()> {
        self.snapshots.iter().try_for_each(|(snapshot, state)| {
            assert_eq!(content(snapshot)?, *state, "the snapshot moved");
            Ok(())
        })
    }

    fn write(&mut self, db: &Db, changes: &[Change], sync: bool) -> Result<()> {
        let mut batch = WriteBatch::new();
        let mut state = self.now().clone();
        for (cf, key, value) in changes {
            let value = value.map(|len| self.value(len));
            match &value {
                Some(value) => batch.put(Cf(*cf), name(*key), value.clone()),
                None => batch.delete(Cf(*cf), name(*key)),
            }
            set(&mut state, (*cf, name(*key)), value);
        }
        self.states.push(state);
        if !self.logged {
            self.last_batch = db.apply(batch)?;
            return Ok(());
        }
        self.last_batch = self.node.run(db.write(batch, WriteOptions { sync }))?;
        self.is_acknowledged();
        if sync {
            self.is_durable();
        }
        Ok(())
    }

    fn export_and_ingest(&mut self, db: &Db, cf: u8, range: &(Bound<Bytes>, Bound<Bytes>)) -> Result<()> {
        let (snapshot, from) =
            self.snapshots.front().cloned().unwrap_or_else(|| (db.snapshot(), self.now().clone()));
        self.counter += 1;
        let out = PathBuf::from(format!("/out/{}", self.counter));
        let tables = self.node.run(db.export(&snapshot, &[Cf(cf)], range.clone(), &out))?;
        let exported = rows(&from, cf, |key| range.contains(key));
        assert_eq!(tables.iter().map(|table| table.rows).sum::<u64>(), exported.len() as u64);
        let mut state = self.now().clone();
        state.extend(exported.into_iter().map(|(key, value)| ((cf, key), value)));
        self.states.push(state);
        let files: Vec<&PathBuf> = tables.iter().map(|table| &table.file).collect();
        self.node.run(db.ingest(&files))?;
        if files.is_empty() {
            // Nothing came in, and nothing became durable.
            self.states.pop();
        } else {
            self.is_durable();
        }
        harness(self.node.disk().remove_dir_all(&out))
    }

    fn import(&mut self, db: &Db, changes: &[Change], adopt: bool) -> Result<()> {
        self.counter += 1;
        let staged = PathBuf::from("/staged");
        harness(self.node.disk().create_dir_all(&staged))?;
        let mut import = db.import(&staged.join(format!("{}.sst", self.counter)))?;
        let sorted: BTreeMap<(u8, Bytes), Option<u16>> =
            changes.iter().map(|(cf, key, value)| ((*cf, name(*key)), *value)).collect();
        let mut state = self.now().clone();
        for ((cf, key), value) in sorted {
            let value = value.map(|len| self.value(len));
            match &value {
                Some(value) => import.put(Cf(cf), key.clone(), value.clone())?,
                None => import.delete(Cf(cf), key.clone())?,
            }
            set(&mut state, (cf, key), value);
        }
        let mut imported = self.node.run(import.finish())?;
        self.is_durable();
        if adopt {
            self.states.push(state);
            db.adopt(&mut imported)?;
            self.is_durable();
        }
        Ok(())
    }

    /// No two values are alike.
    fn value(&mut self, len: u16) -> Bytes {
        self.counter += 1;
        Bytes::from(format!("{:08}", self.counter).repeat(1 + usize::from(len) / 8))
    }
}

fn set(state: &mut Map, key: (u8, Bytes), value: Option<Bytes>) {
    match value {
        Some(value) => drop(state.insert(key, value)),
        None => drop(state.remove(&key)),
    }
}

/// Keys of different lengths, many of them prefixes of others.
fn name(n: u8) -> Bytes {
    let text = format!("{n:08b}");
    Bytes::from(text.trim_end_matches('0').to_owned())
}

fn named(range: Range) -> (Bound<Bytes>, Bound<Bytes>) {
    (range.0.map(name), range.1.map(name))
}

/// All of it, forward.
fn content(snapshot: &Snapshot) -> Result<Map> {
    let mut map = Map::new();
    for cf in 0..FAMILIES {
        for item in snapshot.iter(Cf(cf), ..) {
            let (key, value) = item?;
            map.insert((cf, key), value);
        }
    }
    Ok(map)
}

/// What the model has of a family, of the keys that are wanted.
fn rows(model: &Map, cf: u8, wanted: impl Fn(&Bytes) -> bool) -> Rows {
    let inside = |((family, key), value): (&(u8, Bytes), &Bytes)| {
        (*family == cf && wanted(key)).then(|| (key.clone(), value.clone()))
    };
    model.iter().filter_map(inside).collect()
}

fn same_range(snapshot: &Snapshot, model: &Map, cf: u8, range: &(Bound<Bytes>, Bound<Bytes>)) -> Result<()> {
    let expected = rows(model, cf, |key| range.contains(key));
    let forward = snapshot.iter(Cf(cf), range.clone()).collect::<Result<Rows>>()?;
    assert_eq!(forward, expected);
    let mut backward = snapshot.iter_rev(Cf(cf), range.clone()).collect::<Result<Rows>>()?;
    backward.reverse();
    assert_eq!(backward, expected);
    Ok(())
}

/// Pulls at both ends of an iterator and of a list, which are to be the same.
fn walk(mut iter: Iter, mut list: VecDeque<(Bytes, Bytes)>, reverse: bool, moves: &[Move]) -> Result<()> {
    for step in moves {
        let (found, expected) = match step {
            Move::Front => (iter.next(), list.pop_front()),
            Move::Back => (iter.next_back(), list.pop_back()),
            Move::SkipTo(key) => {
                let to = name(*key);
                iter.skip_to(&to);
                let is_before = |at: &(Bytes, Bytes)| if reverse { at.0 > to } else { at.0 < to };
                while list.front().is_some_and(is_before) {
                    list.pop_front();
                }
                continue;
            }
        };
        assert_eq!(found.transpose()?, expected);
    }
    assert_eq!(iter.collect::<Result<Rows>>()?, Rows::from(list));
    Ok(())
}

fn run(seed: u64, logged: bool, choices: Vec<Options>, ops: &[Op]) {
    let mut pair = Pair::new(seed, logged, choices);
    for op in ops {
        if let Err(error) = pair.step(op) {
            assert!(pair.node.platter.crashed(), "{op:?}: {error}");
            pair.crash((seed % 3) as u8);
        }
    }
    pair.crash(0);
    pair.db().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn engine_is_a_map(seed: u64, logged: bool, choices in vec(options(), 1..4), ops in vec(op(), 1..150)) {
        run(seed, logged, choices, &ops);
    }
}

#[test]
fn names_are_apart_and_some_begin_others() {
    let names: BTreeSet<Bytes> = (0..=u8::MAX).map(name).collect();
    assert_eq!(names.len(), 256);
    assert!(names.iter().any(|one| names.iter().any(|other| one != other && other.starts_with(one))));
}
