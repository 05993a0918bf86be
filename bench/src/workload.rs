//! The phases: what many threads ask of an engine, and how long each answer took.

use crate::data::{KEY_BYTES, Random, Values, Zipf, hashed_key, ordered_key, shuffled};
use crate::engine::Engine;
use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One thing to measure. They run in this order; a phase finds what the ones before it left, unless it
/// [wants an empty directory](Phase::wants_empty).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it; `title` says more")]
pub enum Phase {
    FillSequential,
    FillRandom,
    ReadRandom,
    ReadMissing,
    Scan,
    Overwrite,
    YcsbA,
    YcsbB,
    YcsbC,
    YcsbD,
    YcsbE,
    YcsbF,
    Delete,
    #[value(name = "durable-1")]
    #[serde(rename = "durable-1")]
    Durable1,
    #[value(name = "durable-8")]
    #[serde(rename = "durable-8")]
    Durable8,
    #[value(name = "durable-64")]
    #[serde(rename = "durable-64")]
    Durable64,
}

/// Pairs that a scan reads.
const SCAN_PAIRS: u64 = 100;
/// Indexes of keys that never were.
const MISSING: u64 = 1 << 40;
/// Where each of the inserting phases takes its new indexes from.
const NEW_OF_D: u64 = 1 << 41;
const NEW_OF_E: u64 = 1 << 42;

impl Phase {
    /// A few words for tables.
    pub fn title(self) -> &'static str {
        match self {
            Phase::FillSequential => "fill sequential",
            Phase::FillRandom => "fill random",
            Phase::ReadRandom => "read random",
            Phase::ReadMissing => "read missing",
            Phase::Scan => "seek + next 100",
            Phase::Overwrite => "overwrite",
            Phase::YcsbA => "YCSB A (read 50, update 50)",
            Phase::YcsbB => "YCSB B (read 95, update 5)",
            Phase::YcsbC => "YCSB C (read)",
            Phase::YcsbD => "YCSB D (read latest 95, insert 5)",
            Phase::YcsbE => "YCSB E (scan 95, insert 5)",
            Phase::YcsbF => "YCSB F (read 50, read-modify-write 50)",
            Phase::Delete => "delete all",
            Phase::Durable1 => "durable put, 1 thread",
            Phase::Durable8 => "durable put, 8 threads",
            Phase::Durable64 => "durable put, 64 threads",
        }
    }

    /// Whether the phase begins with a database of its own.
    pub fn wants_empty(self) -> bool {
        matches!(self, Phase::FillSequential | Phase::FillRandom) || self.is_durable()
    }

    /// Whether later phases go on with what this one leaves.
    pub fn leaves_data(self) -> bool {
        self != Phase::FillSequential && !self.is_durable()
    }

    /// Whether every put waits for the disk.
    pub fn is_durable(self) -> bool {
        matches!(self, Phase::Durable1 | Phase::Durable8 | Phase::Durable64)
    }

    /// Whether the work that it leaves to the background is waited for, and counted.
    pub fn settles(self) -> bool {
        !self.is_durable()
            && !matches!(self, Phase::ReadRandom | Phase::ReadMissing | Phase::Scan | Phase::YcsbC)
    }

    /// Whether every key is written exactly once, so that bytes on disk can be held against bytes of data.
    pub fn writes_all(self) -> bool {
        matches!(self, Phase::FillSequential | Phase::FillRandom | Phase::Overwrite)
    }

    /// Whether the phase means the same when it runs again on what it left.
    pub fn is_repeatable(self) -> bool {
        self != Phase::Delete
    }

    /// Threads that ask.
    pub fn threads(self, usual: usize) -> usize {
        match self {
            Phase::Durable1 => 1,
            Phase::Durable8 => 8,
            Phase::Durable64 => 64,
            _ => usual,
        }
    }
}

/// How much of a phase there is.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Keys in the data set.
    pub keys: u64,
    /// Point operations of the phases that do not go through all keys.
    pub operations: u64,
    /// When such a phase ends in any case.
    pub time: Duration,
    /// Threads, where the phase does not say.
    pub threads: usize,
}

/// What came of a phase.
pub struct Outcome {
    /// Operations done.
    pub operations: u64,
    /// Bytes of keys and values that were put.
    pub put_bytes: u64,
    /// Nanoseconds of each operation.
    pub latency: Histogram<u64>,
}

/// A phase on an engine.
pub struct Run<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// Makes and checks values.
    pub values: &'a Values,
    /// What to do.
    pub phase: Phase,
    /// How much of it.
    pub scale: Scale,
    zipf: Option<Zipf>,
    inserts: Inserts,
}

/// A thread's own things.
struct Worker {
    number: usize,
    random: Random,
    value: Vec<u8>,
    put_bytes: u64,
}

impl<'a> Run<'a> {
    /// Prepares the phase, which may take a second.
    pub fn new(engine: &'a dyn Engine, values: &'a Values, phase: Phase, scale: Scale) -> Self {
        let zipfian = (Phase::YcsbA..=Phase::YcsbF).contains(&phase);
        let first = if phase == Phase::YcsbE { NEW_OF_E } else { NEW_OF_D };
        Self {
            engine,
            values,
            phase,
            scale,
            zipf: zipfian.then(|| Zipf::new(scale.keys)),
            inserts: Inserts::new(first, scale.threads),
        }
    }

    /// Fills caches by a part of the phase, if it only reads. What is measured comes after.
    pub fn warm_up(&self) -> Result<()> {
        if matches!(self.phase, Phase::ReadRandom | Phase::ReadMissing | Phase::Scan) || self.zipf.is_some() {
            let (operations, time) = self.limit();
            // Reads of the same keys with the same popularity; the writes of a mixed phase are not warmed up.
            self.drive(operations / 2, time, 0x5eed, |worker, _| match self.phase {
                Phase::ReadRandom => self.read_random(worker),
                Phase::ReadMissing => self.read_missing(worker),
                Phase::Scan | Phase::YcsbE => self.scan_random(worker, SCAN_PAIRS),
                _ => self.read(self.popular(worker)),
            })?;
        }
        Ok(())
    }

    /// Runs the phase.
    pub fn measure(&self) -> Result<Outcome> {
        let (operations, time) = self.limit();
        self.drive(operations, time, 0, |worker, index| self.step(worker, index))
    }

    fn limit(&self) -> (u64, Duration) {
        let Scale { keys, operations, time, .. } = self.scale;
        match self.phase {
            Phase::FillSequential | Phase::FillRandom | Phase::Overwrite | Phase::Delete => {
                (keys, Duration::MAX)
            }
            Phase::Scan | Phase::YcsbE => ((operations / 10).max(1), time),
            phase if phase.is_durable() => (u64::MAX, time / 2),
            _ => (operations, time),
        }
    }

    fn step(&self, worker: &mut Worker, index: u64) -> Result<()> {
        let percent = |worker: &mut Worker| worker.random.below(100);
        match self.phase {
            Phase::FillSequential => self.put(worker, ordered_key(index), 0),
            Phase::FillRandom => self.put(worker, hashed_key(index), 0),
            Phase::ReadRandom => self.read_random(worker),
            Phase::ReadMissing => self.read_missing(worker),
            Phase::Scan => self.scan_random(worker, SCAN_PAIRS),
            Phase::Overwrite => self.put(worker, hashed_key(shuffled(index, self.scale.keys)), 1),
            Phase::Delete => self.engine.delete(&hashed_key(shuffled(index, self.scale.keys))),
            Phase::Durable1 | Phase::Durable8 | Phase::Durable64 => {
                let key = hashed_key(index);
                self.values.make(&key, 0, &mut worker.value);
                worker.put_bytes += (KEY_BYTES + worker.value.len()) as u64;
                self.engine.put_sync(&key, &worker.value)
            }
            Phase::YcsbA | Phase::YcsbB => {
                let updates = if self.phase == Phase::YcsbA { 50 } else { 5 };
                let chosen = self.popular(worker);
                if percent(worker) < updates {
                    let version = worker.random.next();
                    self.put(worker, hashed_key(chosen), version)
                } else {
                    self.read(chosen)
                }
            }
            Phase::YcsbC => self.read(self.popular(worker)),
            Phase::YcsbD => {
                if percent(worker) < 5 {
                    return self.insert(worker);
                }
                let back = self.zipf.as_ref().map_or(0, |zipf| zipf.rank(&mut worker.random));
                let new = self.inserts.finished();
                // The newest first; beyond all new ones, the data set from its end.
                self.read(
                    new.checked_sub(1 + back).filter(|index| *index >= NEW_OF_D).unwrap_or_else(|| {
                        self.scale.keys.saturating_sub(1 + back - (new - NEW_OF_D).min(back))
                    }),
                )
            }
            Phase::YcsbE => {
                if percent(worker) < 5 {
                    return self.insert(worker);
                }
                let pairs = 1 + worker.random.below(SCAN_PAIRS);
                self.scan(self.popular(worker), pairs)
            }
            Phase::YcsbF => {
                let chosen = self.popular(worker);
                self.read(chosen)?;
                if percent(worker) < 50 {
                    let version = worker.random.next();
                    return self.put(worker, hashed_key(chosen), version);
                }
                Ok(())
            }
        }
    }

    fn popular(&self, worker: &mut Worker) -> u64 {
        self.zipf.as_ref().map_or(0, |zipf| zipf.scrambled(&mut worker.random))
    }

    fn put(&self, worker: &mut Worker, key: [u8; KEY_BYTES], version: u64) -> Result<()> {
        self.values.make(&key, version, &mut worker.value);
        worker.put_bytes += (KEY_BYTES + worker.value.len()) as u64;
        self.engine.put(&key, &worker.value)
    }

    fn insert(&self, worker: &mut Worker) -> Result<()> {
        let number = worker.number;
        let index = self.inserts.begin(number);
        self.put(worker, hashed_key(index), 0)?;
        self.inserts.end(number);
        Ok(())
    }

    fn read_random(&self, worker: &mut Worker) -> Result<()> {
        self.read(worker.random.below(self.scale.keys))
    }

    fn read(&self, index: u64) -> Result<()> {
        let key = hashed_key(index);
        let right = Cell::new(true);
        let found = self.engine.get(&key, &mut |value| right.set(self.values.is_right(&key, value)))?;
        ensure!(found, "the value of key {index} is gone");
        ensure!(right.get(), "the value of key {index} is another one");
        Ok(())
    }

    fn read_missing(&self, worker: &mut Worker) -> Result<()> {
        let key = hashed_key(MISSING + worker.random.below(self.scale.keys));
        let found = self.engine.get(&key, &mut |_| {})?;
        ensure!(!found, "a key has a value that nobody wrote");
        Ok(())
    }

    fn scan_random(&self, worker: &mut Worker, pairs: u64) -> Result<()> {
        self.scan(worker.random.below(self.scale.keys), pairs)
    }

    fn scan(&self, from: u64, pairs: u64) -> Result<()> {
        let mut right = true;
        let mut last = hashed_key(from);
        let mut seen = 0;
        let found = self.engine.scan(&last.clone(), pairs as usize, &mut |key, value| {
            right &=
                key.len() == KEY_BYTES && self.values.is_right(key, value) && (seen == 0 || *key > last[..]);
            right &= seen > 0 || *key == last[..];
            last.copy_from_slice(key);
            seen += 1;
        })?;
        ensure!(right && found == seen && found > 0, "a scan from key {from} saw what it should not");
        Ok(())
    }

    /// Calls `step` from all threads until there are enough operations, or time is up.
    fn drive(
        &self,
        operations: u64,
        time: Duration,
        seed: u64,
        step: impl Fn(&mut Worker, u64) -> Result<()> + Sync,
    ) -> Result<Outcome> {
        let threads = self.phase.threads(self.scale.threads);
        let total = Mutex::new(Outcome { operations: 0, put_bytes: 0, latency: histogram() });
        let begun = Instant::now();
        let work = |number: usize| -> Result<()> {
            let random = Random::new(seed + 1 + number as u64 + ((self.phase as u64) << 32));
            let mut worker = Worker { number, random, value: Vec::new(), put_bytes: 0 };
            let mut latency = histogram();
            let mut before = Instant::now();
            let mut index = number as u64;
            while index < operations {
                step(&mut worker, index)?;
                let now = Instant::now();
                latency.saturating_record((now - before).as_nanos() as u64);
                before = now;
                if now - begun >= time {
                    break;
                }
                index += threads as u64;
            }
            let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            total.operations += latency.len();
            total.put_bytes += worker.put_bytes;
            total.latency.add(&latency)?;
            Ok(())
        };
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
                .collect()
        });
        results.into_iter().collect::<Result<()>>()?;
        Ok(total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// 1 ns to 1000 s in steps of a hundredth.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000_000, 2).expect("the bounds are right")
}

/// Hands out new indexes, and knows up to which all of them are written.
struct Inserts {
    next: AtomicU64,
    /// What each thread is writing, or something lower.
    in_flight: Vec<AtomicU64>,
}

impl Inserts {
    fn new(first: u64, threads: usize) -> Self {
        let idle = |_| AtomicU64::new(u64::MAX);
        Self { next: AtomicU64::new(first), in_flight: (0..threads).map(idle).collect() }
    }

    fn begin(&self, thread: usize) -> u64 {
        // Announced before it is taken, so that nobody can see it taken and not announced.
        self.in_flight[thread].store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    fn end(&self, thread: usize) {
        self.in_flight[thread].store(u64::MAX, Ordering::SeqCst);
    }

    /// All new indexes below this one are written.
    fn finished(&self) -> u64 {
        let next = self.next.load(Ordering::SeqCst);
        self.in_flight.iter().fold(next, |finished, index| finished.min(index.load(Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_counts_as_finished_when_all_before_it_do() {
        let inserts = Inserts::new(10, 2);
        assert_eq!(inserts.finished(), 10);
        assert_eq!((inserts.begin(0), inserts.begin(1)), (10, 11));
        inserts.end(1);
        assert_eq!(inserts.finished(), 10);
        inserts.end(0);
        assert_eq!(inserts.finished(), 12);
    }
}
