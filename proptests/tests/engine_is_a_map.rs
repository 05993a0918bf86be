//! The engine is a `BTreeMap`: through flushes, compactions, snapshots, reopens and crashes.
//!
//! A crash may take writes that were not made durable, but only the newest ones: what is found afterwards is the map
//! as it was at some moment between the last durable write and the crash.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use bytes::Bytes;
use nokv_engine::{Cf, Compression, Db, Options, Result, Snapshot, WriteBatch, WriteOptions};
use nokv_env::mem_disk::{CrashMode, DiskFaults};
use nokv_proptests::node::Node;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

type Map = BTreeMap<(u8, Bytes), Bytes>;

#[derive(Debug, Clone)]
enum Op {
    /// Puts and deletes in one batch: family, key, length of the value (`None` deletes).
    Write {
        changes: Vec<(u8, u8, Option<u16>)>,
        sync: bool,
    },
    Get {
        cf: u8,
        key: u8,
    },
    Scan {
        cf: u8,
        low: Bound<u8>,
        high: Bound<u8>,
    },
    TakeSnapshot,
    Flush,
    Settle,
    Reopen,
    Crash {
        mode: u8,
    },
    CrashSoon {
        ops: u16,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let change = (0..3_u8, any::<u8>(), proptest::option::weighted(0.7, 0..700_u16));
    let bound = || {
        prop_oneof![
            any::<u8>().prop_map(Bound::Included),
            any::<u8>().prop_map(Bound::Excluded),
            Just(Bound::Unbounded)
        ]
    };
    prop_oneof![
        20 => (vec(change, 1..6), any::<bool>()).prop_map(|(changes, sync)| Op::Write { changes, sync }),
        4 => (0..3_u8, any::<u8>()).prop_map(|(cf, key)| Op::Get { cf, key }),
        3 => (0..3_u8, bound(), bound()).prop_map(|(cf, low, high)| Op::Scan { cf, low, high }),
        1 => Just(Op::TakeSnapshot),
        2 => Just(Op::Flush),
        2 => Just(Op::Settle),
        1 => Just(Op::Reopen),
        1 => (0..3_u8).prop_map(|mode| Op::Crash { mode }),
        1 => (1..60_u16).prop_map(|ops| Op::CrashSoon { ops }),
    ]
}

/// A database beside its model.
struct Pair {
    node: Node,
    options: Options,
    /// Writes go through the log. Otherwise they are applied, and only flushes make them durable.
    logged: bool,
    db: Option<Db>,
    /// The map after every write since the last durable one; the first is the durable one.
    states: Vec<Map>,
    snapshot: Option<(Snapshot, Map)>,
    counter: u64,
}

impl Pair {
    fn new(seed: u64, logged: bool) -> Self {
        // Small enough that a short life reaches three levels.
        let options = Options {
            memtable_bytes: 4 << 10,
            table_bytes: 4 << 10,
            level_bytes_base: 4 << 10,
            level_multiplier: 2,
            compression: Compression::None,
            ..Options::tiny()
        };
        let node = Node::new(seed);
        let states = vec![Map::new()];
        Self { node, options, logged, db: None, states, snapshot: None, counter: 0 }
    }

    fn now(&self) -> &Map {
        self.states.last().unwrap()
    }

    fn is_durable(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }

    /// Opens the database if it is not, and checks what is found.
    fn db(&mut self) -> Result<Db> {
        if let Some(db) = &self.db {
            return Ok(db.clone());
        }
        let env = self.node.env();
        let db = self.node.run(Db::open(&env, Path::new("/db"), self.options.clone()))?;
        let found = content(&db.snapshot())?;
        let at = self.states.iter().rposition(|state| *state == found);
        let at = at.expect("what is found was never a state since the last durable one");
        self.states = vec![self.states.swap_remove(at)];
        self.db = Some(db.clone());
        Ok(db)
    }

    /// Runs one operation; an error means that the node went down in it.
    fn step(&mut self, op: &Op) -> Result<()> {
        let db = self.db()?;
        match op {
            Op::Write { changes, sync } => {
                let (batch, state) = self.batch(changes);
                self.states.push(state);
                if !self.logged {
                    db.apply(batch)?;
                } else {
                    self.node.run(db.write(batch, WriteOptions { sync: *sync }))?;
                    if *sync {
                        self.is_durable();
                    }
                }
            }
            Op::Get { cf, key } => {
                let found = db.get(Cf(*cf), &name(*key))?;
                assert_eq!(found.as_ref(), self.now().get(&(*cf, name(*key))));
            }
            Op::Scan { cf, low, high } => {
                let range = (low.map(name), high.map(name));
                same_range(&db.snapshot(), self.now(), *cf, &range)?;
                if let Some((snapshot, state)) = &self.snapshot {
                    same_range(snapshot, state, *cf, &range)?;
                }
            }
            Op::TakeSnapshot => self.snapshot = Some((db.snapshot(), self.now().clone())),
            Op::Flush => {
                self.node.run(db.flush())?;
                assert_eq!(db.flushed_sequence(), db.last_sequence());
                self.is_durable();
            }
            Op::Settle => self.node.settle(),
            Op::Reopen => {
                self.snapshot = None;
                if !self.logged {
                    self.node.run(db.flush())?;
                }
                self.node.run(db.close())?;
                self.is_durable();
                self.db = None;
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
        (self.db, self.snapshot) = (None, None);
        self.node.platter.set_faults(DiskFaults::default());
        let modes = [CrashMode::PowerLoss, CrashMode::PowerLossWorst, CrashMode::ProcessKill];
        self.node.crash(modes[usize::from(mode)]);
    }

    /// The batch of these changes, and the map after it.
    fn batch(&mut self, changes: &[(u8, u8, Option<u16>)]) -> (WriteBatch, Map) {
        let (mut batch, mut state) = (WriteBatch::new(), self.now().clone());
        for (cf, key, value) in changes {
            self.counter += 1;
            match value {
                Some(len) => {
                    let value = Bytes::from(format!("{:08}", self.counter).repeat(1 + usize::from(*len) / 8));
                    batch.put(Cf(*cf), name(*key), value.clone());
                    state.insert((*cf, name(*key)), value);
                }
                None => {
                    batch.delete(Cf(*cf), name(*key));
                    state.remove(&(*cf, name(*key)));
                }
            }
        }
        (batch, state)
    }
}

/// Keys of different lengths, many of them prefixes of others.
fn name(n: u8) -> Bytes {
    let text = format!("{n:08b}");
    Bytes::from(text.trim_end_matches('0').to_owned())
}

fn content(snapshot: &Snapshot) -> Result<Map> {
    let mut map = Map::new();
    for cf in 0..3 {
        for item in snapshot.iter(Cf(cf), ..) {
            let (key, value) = item?;
            map.insert((cf, key), value);
        }
    }
    Ok(map)
}

fn same_range(snapshot: &Snapshot, model: &Map, cf: u8, range: &(Bound<Bytes>, Bound<Bytes>)) -> Result<()> {
    use std::ops::RangeBounds;
    let inside = |((family, key), value): (&(u8, Bytes), &Bytes)| {
        (*family == cf && range.contains(key)).then(|| (key.clone(), value.clone()))
    };
    let expected: Vec<_> = model.iter().filter_map(inside).collect();
    let forward = snapshot.iter(Cf(cf), range.clone()).collect::<Result<Vec<_>>>()?;
    assert_eq!(forward, expected);
    let mut backward = snapshot.iter_rev(Cf(cf), range.clone()).collect::<Result<Vec<_>>>()?;
    backward.reverse();
    assert_eq!(backward, expected);
    Ok(())
}

fn run(seed: u64, logged: bool, ops: &[Op]) {
    let mut pair = Pair::new(seed, logged);
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
    #[test]
    fn engine_is_a_map(seed: u64, logged: bool, ops in vec(op(), 1..150)) {
        run(seed, logged, &ops);
    }
}
