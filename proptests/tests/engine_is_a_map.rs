//! The engine is a `BTreeMap`, whatever is asked of it in whatever order: through flushes, compactions, collections of its
//! value log, copies, exports, imports, snapshots, reopens with other options, and crashes, by a clock that goes both ways.
//!
//! A crash may take writes that were not made durable, but only the newest ones: what is found afterwards is the map
//! as it was at some moment between the last durable write and the crash; when only the process died, between the last
//! logged write and the crash.
//!
//! A row that has an end is there until then. When the clock goes back to before that, it may be there again, or not: a flush or
//! compaction may have met it meanwhile. It is not there for one snapshot and there for the next, and what it hides stays hidden.

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

type Map = BTreeMap<(u8, Bytes), Row>;
type Rows = Vec<(Bytes, Bytes)>;
/// Family, key, length of the value (`None` deletes), and in how many seconds it ends.
type Change = (u8, u8, Option<u16>, Option<i8>);
type Range = (Bound<u8>, Bound<u8>);

const NEVER: u64 = u64::MAX;
const FAMILIES: u8 = 3;

/// What the model has of a key.
#[derive(Debug, Clone)]
struct Row {
    value: Bytes,
    /// Milliseconds since the Unix epoch, or [`NEVER`].
    until: u64,
    /// It had ended once, by a clock that may have gone back since: whether it is still there nobody knows.
    is_doubtful: bool,
}

impl Row {
    fn new(value: Bytes, until: u64, now: u64) -> Self {
        Self { value, until, is_doubtful: until <= now }
    }
}
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
    /// The wall clock is so many seconds further on.
    MoveClock {
        seconds: i8,
    },
}

#[derive(Debug, Clone)]
enum Move {
    Front,
    Back,
    SkipTo(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let ends_in = proptest::option::weighted(0.3, -2..100_i8);
    (0..FAMILIES, any::<u8>(), proptest::option::weighted(0.7, 0..700_u16), ends_in)
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
        4 => (-30..60_i8).prop_map(|seconds| Op::MoveClock { seconds }),
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
    /// The clock does not go back behind this: an opening tells states apart by what of them is seen.
    clock_min: u64,
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
        let (node, clock_min) = (Node::new(seed), 1_000_000);
        node.set_clock(clock_min);
        Self {
            node,
            clock_min,
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
        let now = self.node.unix_millis();
        let at = self.states.iter().rposition(|state| fits(state, &found, now));
        let at = at.expect("what is found was never a state since the last durable one");
        let is_kept = self.lost_power || !self.logged || at >= self.acknowledged;
        assert!(is_kept, "state {at} is found, the operating system had {}", self.acknowledged);
        let mut state = self.states.swap_remove(at);
        state.retain(|key, _| found.contains_key(key));
        self.states = vec![state];
        self.clock_min = now;
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
        let now = self.node.unix_millis();
        let copied = Db::open_read_only_at(disk, &copy.dir, self.options.clone(), now)?;
        assert!(fits(&copy.content, &content(&copied.snapshot())?, now), "the copy is another state");
        Ok(())
    }

    /// Runs one operation; an error means that the node went down in it.
    fn step(&mut self, op: &Op) -> Result<()> {
        let db = self.db()?;
        match op {
            Op::Write { changes, sync } => self.write(&db, changes, *sync)?,
            Op::Get { cf, key } => {
                for (snapshot, state) in self.moments(&db)? {
                    let expected = state.get(&(*cf, name(*key))).map(|row| (row.value.clone(), row.until));
                    assert_eq!(snapshot.get_until(Cf(*cf), &name(*key))?, expected);
                    let expected = expected.map(|(value, _)| value);
                    assert_eq!(snapshot.get(Cf(*cf), &name(*key))?, expected);
                }
                let now = self.seen(&db)?.1;
                let expected = now.get(&(*cf, name(*key))).map(|row| &row.value);
                assert_eq!(db.get(Cf(*cf), &name(*key))?.as_ref(), expected);
            }
            Op::MultiGet { keys } => {
                let named: Vec<(Cf, Bytes)> = keys.iter().map(|(cf, key)| (Cf(*cf), name(*key))).collect();
                for (snapshot, state) in self.moments(&db)? {
                    let value = |(cf, key): &(Cf, Bytes)| state.get(&(cf.0, key.clone())).cloned();
                    let expected = named.iter().map(|key| value(key).map(|row| row.value));
                    assert_eq!(snapshot.multi_get(&named)?, expected.collect::<Vec<_>>());
                }
            }
            Op::Scan { cf, range } => {
                let range = named(*range);
                for (snapshot, state) in self.moments(&db)? {
                    same_range(&snapshot, &state, *cf, &range)?;
                }
            }
            Op::Prefix { cf, key, len } => {
                let prefix = name(*key);
                let prefix = &prefix[..prefix.len().min(usize::from(*len))];
                for (snapshot, state) in self.moments(&db)? {
                    let found = snapshot.iter_prefix(Cf(*cf), prefix).collect::<Result<Rows>>()?;
                    let expected = rows(&state, *cf, |key| key.starts_with(prefix));
                    assert_eq!(found, expected);
                }
            }
            Op::Walk { cf, range, reverse, moves } => {
                let range = named(*range);
                for (snapshot, state) in self.moments(&db)? {
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
                self.snapshots.push_back(self.seen(&db)?);
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
            Op::MoveClock { seconds } => self.move_clock(*seconds),
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

    /// Now, with what there is of what may be, and the moments that snapshots hold.
    fn moments(&self, db: &Db) -> Result<Vec<(Snapshot, Map)>> {
        let now = self.seen(db)?;
        Ok(self.snapshots.iter().cloned().chain([now]).collect())
    }

    /// A snapshot of now, and the rows that it must have for as long as it lives.
    fn seen(&self, db: &Db) -> Result<(Snapshot, Map)> {
        let (snapshot, now) = (db.snapshot(), self.node.unix_millis());
        let mut state = self.now().clone();
        state.retain(|_, row| row.until > now);
        if state.values().any(|row| row.is_doubtful) {
            let found = content(&snapshot)?;
            assert!(fits(self.now(), &found, now), "rows that never were");
            state.retain(|key, _| found.contains_key(key));
        }
        Ok((snapshot, state))
    }

    fn look_at_snapshots(&self) -> Result<()> {
        self.snapshots.iter().try_for_each(|(snapshot, state)| {
            let found = content(snapshot)?;
            assert!(fits(state, &found, 0) && found.len() == state.len(), "the snapshot moved");
            Ok(())
        })
    }

    /// Rows whose time has come by then may go, for good.
    fn move_clock(&mut self, seconds: i8) {
        let now = self.node.unix_millis().saturating_add_signed(i64::from(seconds) * 1000);
        let now = now.max(self.clock_min);
        self.node.set_clock(now);
        for row in self.states.iter_mut().flat_map(|state| state.values_mut()) {
            row.is_doubtful |= row.until <= now;
        }
    }

    /// A row of so many bytes that ends in so many seconds.
    fn row(&mut self, len: u16, ends_in: Option<i8>) -> Row {
        let (value, now) = (self.value(len), self.node.unix_millis());
        let until = ends_in.map_or(NEVER, |seconds| now.saturating_add_signed(i64::from(seconds) * 1000));
        Row::new(value, until, now)
    }

    fn write(&mut self, db: &Db, changes: &[Change], sync: bool) -> Result<()> {
        let mut batch = WriteBatch::new();
        let mut state = self.now().clone();
        for (cf, key, value, ends_in) in changes {
            let row = value.map(|len| self.row(len, *ends_in));
            match &row {
                Some(row) => batch.put_until(Cf(*cf), name(*key), row.value.clone(), row.until),
                None => batch.delete(Cf(*cf), name(*key)),
            }
            set(&mut state, (*cf, name(*key)), row);
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
        let (snapshot, from) = match self.snapshots.front() {
            Some(held) => held.clone(),
            None => self.seen(db)?,
        };
        self.counter += 1;
        let out = PathBuf::from(format!("/out/{}", self.counter));
        let tables = self.node.run(db.export(&snapshot, &[Cf(cf)], range.clone(), &out))?;
        let mut exported = from;
        exported.retain(|(family, key), _| *family == cf && range.contains(key));
        assert_eq!(tables.iter().map(|table| table.rows).sum::<u64>(), exported.len() as u64);
        let (mut state, now) = (self.now().clone(), self.node.unix_millis());
        state.extend(exported.into_iter().map(|(key, row)| (key, Row::new(row.value, row.until, now))));
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
        let sorted: BTreeMap<_, _> =
            changes.iter().map(|(cf, key, value, ends_in)| ((*cf, name(*key)), (*value, *ends_in))).collect();
        let mut state = self.now().clone();
        for ((cf, key), (value, ends_in)) in sorted {
            let row = value.map(|len| self.row(len, ends_in));
            match &row {
                Some(row) => import.put_until(Cf(cf), key.clone(), row.value.clone(), row.until)?,
                None => import.delete(Cf(cf), key.clone())?,
            }
            set(&mut state, (cf, key), row);
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

fn set(state: &mut Map, key: (u8, Bytes), row: Option<Row>) {
    match row {
        Some(row) => drop(state.insert(key, row)),
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

/// All of it, forward: values, and until when they are there.
fn content(snapshot: &Snapshot) -> Result<BTreeMap<(u8, Bytes), (Bytes, u64)>> {
    let mut map = BTreeMap::new();
    for cf in 0..FAMILIES {
        let mut iter = snapshot.iter(Cf(cf), ..);
        while let Some((key, value)) = iter.next().transpose()? {
            map.insert((cf, key), (value, iter.until()));
        }
    }
    Ok(map)
}

/// Whether this may be found at `now` if `state` is what was written: everything that has not ended, but for what is doubtful.
fn fits(state: &Map, found: &BTreeMap<(u8, Bytes), (Bytes, u64)>, now: u64) -> bool {
    let is_right = |(key, (value, until)): (&(u8, Bytes), &(Bytes, u64))| {
        state.get(key).is_some_and(|row| row.until > now && (&row.value, &row.until) == (value, until))
    };
    let is_there =
        |(key, row): (&(u8, Bytes), &Row)| row.until <= now || row.is_doubtful || found.contains_key(key);
    found.iter().all(is_right) && state.iter().all(is_there)
}

/// What the model has of a family, of the keys that are wanted.
fn rows(model: &Map, cf: u8, wanted: impl Fn(&Bytes) -> bool) -> Rows {
    let inside = |((family, key), row): (&(u8, Bytes), &Row)| {
        (*family == cf && wanted(key)).then(|| (key.clone(), row.value.clone()))
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
