//! The log is a `Vec`: after any crash it holds a prefix of what was appended, with everything that was synced.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use nokv_engine::log::{Log, LogOptions, Position};
use nokv_engine::{Error, Result};
use nokv_env::Disk;
use nokv_env::mem_disk::{CrashMode, DiskFaults, MemDisk};
use proptest::collection::vec;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Op {
    Append {
        bytes: u16,
    },
    Write,
    Sync,
    Settle,
    Roll,
    /// Removes all segments but so many.
    Purge {
        keep: u8,
    },
    Reopen,
    Crash {
        mode: u8,
    },
    CrashSoon {
        ops: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => prop_oneof![0..50_u16, 4000..9000_u16].prop_map(|bytes| Op::Append { bytes }),
        3 => Just(Op::Write),
        5 => Just(Op::Sync),
        2 => Just(Op::Settle),
        2 => Just(Op::Roll),
        1 => (0..3_u8).prop_map(|keep| Op::Purge { keep }),
        1 => Just(Op::Reopen),
        2 => (0..3_u8).prop_map(|mode| Op::Crash { mode }),
        2 => (1..25_u8).prop_map(|ops| Op::CrashSoon { ops }),
    ]
}

/// A record and the segment it went to.
type Record = (u64, Vec<u8>);

struct Pair {
    platter: Arc<MemDisk>,
    log: Option<Log>,
    /// Appended, in order, and not purged for certain.
    records: Vec<Record>,
    /// So many of them are durable.
    synced: usize,
    /// Segments below may or may not be there.
    purged_below: u64,
    counter: u64,
}

impl Pair {
    fn log(&mut self) -> Result<&mut Log> {
        if self.log.is_none() {
            let mut found = Vec::new();
            let disk: Arc<dyn Disk> = self.platter.mount();
            let options = LogOptions { extension: "log".to_owned(), segment_bytes: 10_000 };
            let mut replay = |position: Position, kind, payload: &[u8]| {
                assert_eq!(kind, 3);
                found.push((position.segment, payload.to_vec()));
                Ok(())
            };
            let log = Log::open(disk, Path::new("/log"), options, &mut replay)?;
            self.check(&found, &log);
            self.synced = found.len();
            self.records = found;
            self.log = Some(log);
        }
        Ok(self.log.as_mut().unwrap())
    }

    /// What is found must be a contiguous piece: from somewhere not above the purge to somewhere not below the sync.
    fn check(&self, found: &[Record], log: &Log) {
        let ids: Vec<u64> = log.segments().iter().map(|segment| segment.id).collect();
        assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
        let first_kept = self.records.iter().position(|(segment, _)| *segment >= ids[0]);
        let first = first_kept.unwrap_or(self.records.len());
        let skipped = self.records[..first].iter().all(|(segment, _)| *segment < self.purged_below);
        assert!(skipped, "a segment was lost that nobody purged");
        assert!(first + found.len() >= self.synced, "{first} + {} < {}", found.len(), self.synced);
        assert!(found.len() <= self.records.len() - first);
        assert!(found == &self.records[first..first + found.len()], "records differ");
    }

    fn step(&mut self, op: &Op) -> Result<()> {
        let len = self.records.len();
        match op {
            Op::Append { bytes } => {
                self.counter += 1;
                let mut payload = self.counter.to_le_bytes().to_vec();
                payload.resize(8 + usize::from(*bytes), self.counter as u8);
                let log = self.log()?;
                let position = log.append(3, &payload);
                assert_eq!(position.segment, log.active_segment());
                self.records.push((position.segment, payload));
            }
            Op::Write => self.log()?.write()?,
            Op::Sync => {
                self.log()?.sync()?;
                self.synced = self.synced.max(len.min(self.records.len()));
            }
            Op::Settle => self.log()?.settle()?,
            Op::Roll => {
                self.log()?.roll()?;
                self.synced = self.synced.max(len.min(self.records.len()));
            }
            Op::Purge { keep } => {
                let log = self.log()?;
                let below = (log.active_segment() + 1).saturating_sub(u64::from(*keep) + 1);
                let active = log.active_segment();
                self.purged_below = self.purged_below.max(below.min(active));
                self.log()?.purge_below(below)?;
            }
            Op::Reopen => {
                self.log()?.sync()?;
                self.synced = self.records.len();
                self.log = None;
            }
            Op::Crash { mode } => self.crash(*mode),
            Op::CrashSoon { ops } => {
                let crash_at_op = Some(self.platter.ops() + u64::from(*ops));
                self.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            }
        }
        Ok(())
    }

    fn crash(&mut self, mode: u8) {
        self.log = None;
        self.platter.set_faults(DiskFaults::default());
        let modes = [CrashMode::PowerLoss, CrashMode::PowerLossWorst, CrashMode::ProcessKill];
        self.platter.crash(modes[usize::from(mode)]);
    }
}

fn run(seed: u64, ops: &[Op]) {
    let platter = MemDisk::new(seed);
    platter.mount().create_dir_all(Path::new("/log")).unwrap();
    let mut pair = Pair { platter, log: None, records: Vec::new(), synced: 0, purged_below: 0, counter: 0 };
    for op in ops {
        if let Err(error) = pair.step(op) {
            let poisoned = matches!(error, Error::Poisoned(_));
            assert!(pair.platter.crashed() && (error.is_crashed() || poisoned), "{op:?}: {error}");
            pair.crash((seed % 3) as u8);
        }
    }
    pair.crash(0);
    pair.log().unwrap();
}

proptest! {
    #[test]
    fn log_survives_crash(seed: u64, ops in vec(op(), 1..60)) {
        run(seed, &ops);
    }
}
