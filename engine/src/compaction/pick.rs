//! Which tables to merge next. A pure function of the version, the options and where each level was left off.

use crate::key::InternalKey;
use crate::options::Options;
use crate::table::Table;
use crate::version::{LEVELS, Version};
use std::sync::Arc;

/// A compaction to run.
#[derive(Clone)]
pub(crate) struct Job {
    /// Level of `inputs`.
    pub(crate) level: usize,
    /// Tables of `level`.
    pub(crate) inputs: Vec<Arc<Table>>,
    /// Tables of the next level that share keys with the inputs.
    pub(crate) overlapped: Vec<Arc<Table>>,
    /// Merge even where moving would do: there are tombstones to drop.
    rewrite: bool,
}

impl Job {
    /// Level of the outputs.
    pub(crate) fn target(&self) -> usize {
        self.level + 1
    }

    /// Whether the inputs can go down as they are: nothing there to merge with, nor among themselves.
    pub(crate) fn is_move(&self) -> bool {
        let disjoint = |(index, a): (usize, &Arc<Table>)| {
            self.inputs[index + 1..].iter().all(|b| !a.meta.overlaps(&b.meta))
        };
        let to_bottom = self.target() == LEVELS - 1;
        let may_stay = |table: &Arc<Table>| !to_bottom || table.meta.tombstones == 0;
        !self.rewrite
            && self.overlapped.is_empty()
            && self.inputs.iter().all(may_stay)
            && self.inputs.iter().enumerate().all(disjoint)
    }

    /// All tables that are read.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.inputs.iter().chain(&self.overlapped)
    }
}

/// Where the last compaction of each level ended, so that they go round.
pub(crate) type Cursors = [Option<InternalKey>; LEVELS];

/// The most urgent job, if any level is over its target, or some table consists mostly of tombstones.
pub(crate) fn pick(version: &Version, options: &Options, cursors: &Cursors) -> Option<Job> {
    let urgent = (0..LEVELS - 1)
        .map(|level| (level, score(version, options, level)))
        .filter(|(_, score)| *score >= 1.0)
        .max_by(|(a_level, a), (b_level, b)| a.total_cmp(b).then(b_level.cmp(a_level)));
    match urgent {
        Some((level, _)) => {
            let inputs = choose_inputs(version, level, cursors)?;
            Some(with_overlapped(version, level, inputs, false))
        }
        None => tombstone_job(version),
    }
}

/// How many levels are over their target, and how full the fullest is.
pub(crate) fn backlog(version: &Version, options: &Options) -> (u64, f64) {
    let scores = (0..LEVELS - 1).map(|level| score(version, options, level));
    scores.fold((0, 0.0), |(over, most), score| (over + u64::from(score >= 1.0), score.max(most)))
}

/// How far over its target a level is; 1 is at the target.
fn score(version: &Version, options: &Options, level: usize) -> f64 {
    if level == 0 {
        return version.level(0).len() as f64 / options.level0_tables_compact as f64;
    }
    let bytes = version.level_bytes(level);
    // Strictly over, so that a level exactly at its target rests.
    (bytes.saturating_sub(1)) as f64 / target_bytes(options, level) as f64
}

/// Size at which a level starts to spill.
fn target_bytes(options: &Options, level: usize) -> u64 {
    let factor = options.level_multiplier.saturating_pow(level as u32 - 1);
    options.level_bytes_base.saturating_mul(factor)
}

fn choose_inputs(version: &Version, level: usize, cursors: &Cursors) -> Option<Vec<Arc<Table>>> {
    let tables = version.level(level);
    if level == 0 {
        return Some(tables.to_vec());
    }
    let after_cursor = |table: &&Arc<Table>| match &cursors[level] {
        Some(cursor) => table.meta.smallest > *cursor,
        None => true,
    };
    tables.iter().find(after_cursor).or(tables.first()).map(|table| vec![table.clone()])
}

/// A table that is mostly tombstones holds space below it hostage: push it down until they meet.
fn tombstone_job(version: &Version) -> Option<Job> {
    let heavy = |table: &Table| table.meta.tombstones * 2 > table.meta.entries;
    let (level, table) = version.tables().find(|(level, table)| *level < LEVELS - 1 && heavy(table))?;
    let inputs = if level == 0 { version.level(0).to_vec() } else { vec![table.clone()] };
    Some(with_overlapped(version, level, inputs, true))
}

/// Adds what the next level holds between the smallest and the largest input key: outputs may span gaps.
fn with_overlapped(version: &Version, level: usize, inputs: Vec<Arc<Table>>, rewrite: bool) -> Job {
    let smallest = inputs.iter().map(|table| &table.meta.smallest).min();
    let largest = inputs.iter().map(|table| &table.meta.largest).max();
    let inside = |table: &&Arc<Table>| {
        let meta = &table.meta;
        smallest.is_some_and(|low| (meta.largest.cf, &meta.largest.user) >= (low.cf, &low.user))
            && largest.is_some_and(|high| (meta.smallest.cf, &meta.smallest.user) <= (high.cf, &high.user))
    };
    let overlapped = version.level(level + 1).iter().filter(inside).cloned().collect();
    Job { level, inputs, overlapped, rewrite }
}
