//! A sweep: many seeds, and what they reached between them.
//!
//! [`Sweep`] keeps a row of numbers and two small sets a run, whatever the run was like, so a million seeds fit in
//! memory. [`Sweep::summary`] turns the rows into a [`Summary`]: plain data that is printed ([`text`]), saved as JSON
//! and shown as a page ([`page`]). Rows are ordered by seed before anything is counted, so equal sweeps give equal
//! summaries however many threads ran them; only what is under `speed` and `slowest` depends on the machine.
//!
//! Some seeds run twice: the second time in the opposite order, on another thread, beside other worlds. The traces
//! must be equal; if not, something leaks past `env`.

pub mod page;
mod shape;
mod summary;
pub mod text;

pub use shape::Shape;
pub use summary::{Ended, Failed, Matrix, Missing, Reached, Speed, Summary};

use crate::Given;
use crate::draw::Draw;
use crate::run::{Failure, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

/// What to sweep over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Share of the seeds that run twice, in percent.
    pub repeat_percent: u64,
    /// What was asked for besides the seeds.
    pub given: Given,
}

impl Asked {
    /// Whether this seed runs twice. A share above zero is at least the first seed.
    pub fn repeats(&self, seed: u64) -> bool {
        let drawn = Draw::new(seed, "sweep/repeat").percent(self.repeat_percent);
        drawn || (self.repeat_percent > 0 && seed == self.seeds.start)
    }
}

/// Small numbers for names.
#[derive(Debug, Default)]
struct Names(BTreeMap<String, usize>);

impl Names {
    fn number(&mut self, name: &str) -> usize {
        let next = self.0.len();
        match self.0.get(name) {
            Some(number) => *number,
            None => *self.0.entry(name.to_owned()).or_insert(next),
        }
    }
}

/// A set of small numbers.
#[derive(Debug, Clone, Default)]
struct Set(Vec<u64>);

impl Set {
    fn insert(&mut self, number: usize) {
        if self.0.len() <= number / 64 {
            self.0.resize(number / 64 + 1, 0);
        }
        self.0[number / 64] |= 1 << (number % 64);
    }

    fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}

/// One run.
#[derive(Debug, Clone)]
struct Row {
    seed: u64,
    trace: u64,
    wall: Duration,
    sim_ns: u64,
    events: u64,
    ops: u64,
    answered: u64,
    faults: u64,
    decisions: u64,
    elections: u64,
    snapshots: u64,
    leases: u64,
    /// Kinds of faults that struck.
    kinds: Set,
    /// Probes and chance points that were reached.
    marks: Set,
}

/// A seed that did not repeat itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mismatch {
    first: u64,
    second: u64,
}

/// Many runs.
#[derive(Debug)]
pub struct Sweep {
    asked: Asked,
    names: Names,
    rows: Vec<Row>,
    failures: BTreeMap<u64, Failure>,
    repeated: BTreeSet<u64>,
    mismatches: BTreeMap<u64, Mismatch>,
}

impl Sweep {
    /// Nothing has run yet.
    pub fn new(asked: Asked) -> Self {
        Self {
            asked,
            names: Names::default(),
            rows: Vec::new(),
            failures: BTreeMap::new(),
            repeated: BTreeSet::new(),
            mismatches: BTreeMap::new(),
        }
    }

    /// What was asked for.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// How many seeds have run.
    pub fn runs(&self) -> u64 {
        self.rows.len() as u64
    }

    /// How many of them failed, or did not repeat themselves.
    pub fn failed(&self) -> u64 {
        let both = self.mismatches.keys().filter(|seed| self.failures.contains_key(seed)).count();
        (self.failures.len() + self.mismatches.len() - both) as u64
    }

    /// Seeds that have to run again, last first.
    pub fn to_repeat(&self) -> Vec<u64> {
        let mut seeds: Vec<u64> = self.rows.iter().map(|row| row.seed).collect();
        seeds.retain(|seed| self.asked.repeats(*seed));
        seeds.sort_unstable();
        seeds.reverse();
        seeds
    }

    /// Takes in a run.
    pub fn add(&mut self, verdict: &Verdict) {
        let mut kinds = Set::default();
        for kind in verdict.struck.keys() {
            kinds.insert(self.names.number(kind));
        }
        let mut marks = Set::default();
        for name in verdict.probes.keys() {
            marks.insert(self.names.number(name));
        }
        if let Some(failure) = &verdict.failure {
            self.failures.insert(verdict.seed, failure.clone());
        }
        self.rows.push(Row {
            seed: verdict.seed,
            trace: verdict.trace,
            wall: verdict.wall.unwrap_or_default(),
            sim_ns: verdict.sim_ns,
            events: verdict.events,
            ops: verdict.ops,
            answered: verdict.answered,
            faults: verdict.faults,
            decisions: verdict.decisions,
            elections: verdict.tally.elections,
            snapshots: verdict.tally.snapshots,
            leases: verdict.tally.leases,
            kinds,
            marks,
        });
    }

    /// Takes in the second run of a seed; false if it was not the same.
    pub fn add_again(&mut self, verdict: &Verdict) -> bool {
        self.repeated.insert(verdict.seed);
        let Some(row) = self.rows.iter().find(|row| row.seed == verdict.seed) else { return true };
        let (first, second) = (row.trace, verdict.trace);
        if first != second || row.events != verdict.events {
            self.mismatches.insert(verdict.seed, Mismatch { first, second });
        }
        first == second && row.events == verdict.events
    }

    /// Forgets what ran beyond the first failure: with several threads that is a matter of luck.
    pub fn end_at_first_failure(&mut self) {
        let Some(&last) = self.failures.keys().next() else { return };
        self.rows.retain(|row| row.seed <= last);
        self.failures.retain(|seed, _| *seed <= last);
    }
}

#[cfg(test)]
mod tests;
