//! Which tables to merge next. A pure function of the version, the options and where each level was left off.

use crate::compaction::level0;
use crate::key::{InternalKey, Span};
use crate::options::Options;
use crate::table::Table;
use crate::table::format::TableMeta;
use crate::value::NEVER;
use crate::version::{LEVELS, Version};
use crate::vlog::SegmentMeta;
use crate::vlog::record::HEADER_BYTES;
use std::collections::BTreeSet;
use std::sync::Arc;

/// So many tables at most are written again where they are before level 0 gets its turn.
const IN_PLACE_TABLES_MAX: usize = 16;

/// A compaction to run.
#[derive(Clone)]
pub(crate) struct Job {
    /// Level of `inputs`.
    pub(crate) level: usize,
    /// Tables of `level`.
    pub(crate) inputs: Vec<Arc<Table>>,
    /// Tables of the next level that share keys with the inputs.
    pub(crate) overlapped: Vec<Arc<Table>>,
    /// Level of the outputs: the next one, or the same where tables only give up space or, at level 0, become one.
    pub(crate) target: usize,
    /// Merge even where moving would do: there are tombstones to drop, or values to move.
    rewrite: bool,
    /// Segments of the value log whose values move into new ones.
    pub(crate) collect: BTreeSet<u64>,
    /// What rows that have an end are judged by, milliseconds since the Unix epoch: those that have ended are tombstones.
    pub(crate) now: u64,
    /// It only gives back space, and there was time for it. Otherwise it is urgent.
    pub(crate) is_sinking: bool,
}

/// Where the outputs of a job will be: in this level, between these keys.
pub(crate) struct Hull {
    level: usize,
    smallest: InternalKey,
    largest: InternalKey,
}

impl Hull {
    /// Whether a table of that range might get into the way of the outputs.
    fn meets(&self, level: usize, meta: &TableMeta) -> bool {
        let key = |key: &InternalKey| (key.cf, key.user.clone());
        level == self.level
            && key(&meta.smallest) <= key(&self.largest)
            && key(&self.smallest) <= key(&meta.largest)
    }

    /// Whether the job reads or writes keys of `span`.
    pub(crate) fn overlaps(&self, span: &Span) -> bool {
        span.overlaps(&self.smallest, &self.largest)
    }
}

/// The deepest level for a table that comes from outside, as the tables `leaving` go, and whose keys are newer than all
/// others: nothing that shares its range stays there or above, now or when the compaction that runs is done. Tombstones are
/// kept from the bottom, where nothing takes them away.
pub(crate) fn deepest_level(
    version: &Version,
    leaving: &BTreeSet<u64>,
    running: Option<&Hull>,
    meta: &TableMeta,
) -> usize {
    let is_apart = |table: &Arc<Table>| leaving.contains(&table.meta.number) || !table.meta.overlaps(meta);
    let is_free = |level: &usize| {
        version.level(*level).iter().all(is_apart) && running.is_none_or(|hull| !hull.meets(*level, meta))
    };
    let bottom = if meta.tombstones == 0 { LEVELS - 1 } else { LEVELS - 2 };
    (0..=bottom).take_while(is_free).last().unwrap_or(0)
}

impl Job {
    /// Where its outputs will be.
    pub(crate) fn hull(&self) -> Option<Hull> {
        let smallest = self.tables().map(|table| &table.meta.smallest).min()?.clone();
        let largest = self.tables().map(|table| &table.meta.largest).max()?.clone();
        Some(Hull { level: self.target, smallest, largest })
    }

    /// Whether tables are written again where they are, each for itself.
    pub(crate) fn is_in_place(&self) -> bool {
        self.target == self.level && self.level > 0
    }

    /// Whether small tables of level 0 become one, and stay. What else is there may be older or newer.
    pub(crate) fn is_gathering(&self) -> bool {
        self.target == 0
    }

    /// Whether that is only to move their values.
    pub(crate) fn is_collection(&self) -> bool {
        self.is_in_place() && !self.collect.is_empty()
    }

    /// Whether a table that is written again where it is would leave nothing behind: all of it has ended, and hides nothing.
    pub(crate) fn leaves_nothing(&self, version: &Version, table: &Table) -> bool {
        leaves_nothing(version, self.target, table, self.now)
    }

    /// Whether the inputs can go down as they are: nothing there to merge with, nor among themselves.
    pub(crate) fn is_move(&self) -> bool {
        let disjoint = |(index, a): (usize, &Arc<Table>)| {
            self.inputs[index + 1..].iter().all(|b| !a.meta.overlaps(&b.meta))
        };
        let to_bottom = self.target == LEVELS - 1;
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

/// The most urgent job, if any level is over its target, or some table consists mostly of tombstones, or of rows that have
/// ended at `now`, milliseconds since the Unix epoch. If there is none, the table of number `sinking` goes down.
pub(crate) fn pick(
    version: &Version,
    options: &Options,
    cursors: &Cursors,
    now: u64,
    sinking: Option<u64>,
) -> Option<Job> {
    let job = most_urgent(version, options, cursors, now).or_else(|| sink(version, options, sinking?));
    job.map(|job| Job { now, ..job })
}

fn most_urgent(version: &Version, options: &Options, cursors: &Cursors, now: u64) -> Option<Job> {
    if let Some(job) = ended_job(version, now) {
        return Some(job);
    }
    let urgent = (0..LEVELS - 1)
        .map(|level| (level, score(version, options, level)))
        .filter(|(_, score)| *score >= 1.0)
        .max_by(|(a_level, a), (b_level, b)| a.total_cmp(b).then(b_level.cmp(a_level)));
    match urgent {
        Some((0, _)) if level0::load(version, options).down < 1.0 => Some(gathering(version, options)),
        Some((level, _)) => {
            let inputs = choose_inputs(version, level, cursors)?;
            Some(with_overlapped(version, options, level, inputs, false))
        }
        None => tombstone_job(version, options)
            .or_else(|| expired_job(version, options, now))
            .or_else(|| collection(version, options)),
    }
}

/// When the next table after `now` will be worth a job because of rows that have ended, if any ever is.
pub(crate) fn next_expiry(version: &Version, now: u64) -> Option<u64> {
    let halves = version.tables().filter_map(|(_, table)| table.meta.expiry).map(|expiry| expiry.half);
    halves.filter(|half| *half > now && *half != NEVER).min()
}

/// How many levels are over their target, and how full the fullest is.
pub(crate) fn backlog(version: &Version, options: &Options) -> (u64, f64) {
    let scores = (0..LEVELS - 1).map(|level| score(version, options, level));
    scores.fold((0, 0.0), |(over, most), score| (over + u64::from(score >= 1.0), score.max(most)))
}

/// How far over its target a level is; 1 is at the target.
fn score(version: &Version, options: &Options, level: usize) -> f64 {
    if level == 0 {
        let load = level0::load(version, options);
        return load.down.max(load.gather);
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

/// Small tables of level 0 become one.
fn gathering(version: &Version, options: &Options) -> Job {
    let inputs = level0::gathered(version, options);
    Job { target: 0, overlapped: Vec::new(), ..with_overlapped(version, options, 0, inputs, true) }
}

/// A table that is mostly tombstones holds space below it hostage: push it down until they meet. Those of level 0 go with
/// the others: while somebody deletes, each flush would be one.
fn tombstone_job(version: &Version, options: &Options) -> Option<Job> {
    let heavy = |table: &Table| table.meta.tombstones * 2 > table.meta.entries;
    let is_between = |level: usize| (1..LEVELS - 1).contains(&level);
    let (level, table) = version.tables().find(|(level, table)| is_between(*level) && heavy(table))?;
    Some(with_overlapped(version, options, level, vec![table.clone()], true))
}

/// The table of this number goes down, from level 0 with all others of it.
fn sink(version: &Version, options: &Options, number: u64) -> Option<Job> {
    let is_it = |(level, table): &(usize, &Arc<Table>)| *level < LEVELS - 1 && table.meta.number == number;
    let (level, table) = version.tables().find(is_it)?;
    let inputs = if level == 0 { version.level(0).to_vec() } else { vec![table.clone()] };
    Some(Job { is_sinking: true, ..with_overlapped(version, options, level, inputs, true) })
}

/// Tables of which nothing is left and which hide nothing leave unread, before anything else is done: that takes no room, and
/// on a full disk it may be what makes some.
fn ended_job(version: &Version, now: u64) -> Option<Job> {
    if version.expiring() == 0 {
        return None;
    }
    (1..LEVELS).find_map(|level| {
        let tables = version.level(level).iter();
        let inputs = tables.filter(|table| leaves_nothing(version, level, table, now)).cloned().collect();
        in_place(level, inputs)
    })
}

/// Whether all of a table has ended and hides nothing.
fn leaves_nothing(version: &Version, level: usize, table: &Table, now: u64) -> bool {
    table.meta.is_wholly_expired(now) && !version.overlapped_below(level, &table.meta)
}

/// Writes tables again where they are, if there are any.
fn in_place(level: usize, inputs: Vec<Arc<Table>>) -> Option<Job> {
    let (overlapped, collect) = (Vec::new(), BTreeSet::new());
    let job =
        Job { level, target: level, inputs, overlapped, rewrite: true, collect, now: 0, is_sinking: false };
    (!job.inputs.is_empty()).then_some(job)
}

/// Tables of which half and more has ended give up that space: each is written again where it is, with tombstones in the
/// place of what has ended, or nothing if there is nothing below. What is at level 0 goes down on the way.
fn expired_job(version: &Version, options: &Options, now: u64) -> Option<Job> {
    let is_half_expired = |table: &&Arc<Table>| table.meta.is_half_expired(now);
    let (level, _) = version.tables().find(|(_, table)| is_half_expired(table))?;
    if level == 0 {
        return Some(with_overlapped(version, options, 0, version.level(0).to_vec(), true));
    }
    let tables = version.level(level).iter().filter(is_half_expired);
    in_place(level, tables.take(IN_PLACE_TABLES_MAX).cloned().collect())
}

/// Moves what is alive in segments that are mostly garbage. The table that points at most of it goes first, with others
/// of its level until the values fill a new segment.
fn collection(version: &Version, options: &Options) -> Option<Job> {
    let collect = mostly_garbage(version, options);
    let live = |table: &Table| -> u64 {
        table
            .meta
            .references
            .iter()
            .filter(|(segment, _)| collect.contains(segment))
            .map(|(_, bytes)| bytes)
            .sum()
    };
    let pointing = version.tables().map(|(level, table)| (live(table), level, table));
    let (_, level, _) =
        pointing.max_by_key(|(live, level, _)| (*live, *level)).filter(|(live, ..)| *live > 0)?;
    if level == 0 {
        return Some(with_overlapped(version, options, 0, version.level(0).to_vec(), true));
    }
    let (mut inputs, mut bytes) = (Vec::new(), 0);
    for table in version.level(level).iter().filter(|table| live(table) > 0) {
        inputs.push(table.clone());
        bytes += live(table);
        if bytes >= options.value_segment_bytes || inputs.len() == IN_PLACE_TABLES_MAX {
            break;
        }
    }
    in_place(level, inputs).map(|job| Job { collect, ..job })
}

/// Segments of the value log that hold more garbage than they may.
fn mostly_garbage(version: &Version, options: &Options) -> BTreeSet<u64> {
    let garbage = |(meta, live): &(&SegmentMeta, u64)| {
        let dead = meta.bytes.saturating_sub(HEADER_BYTES as u64 + live);
        u128::from(dead) * 100 > u128::from(meta.bytes) * u128::from(options.value_garbage_percent)
    };
    version.segments().filter(garbage).map(|(meta, _)| meta.number).collect()
}

/// Young segments far below the size they should have: short flushes leave them behind.
fn small(version: &Version, options: &Options) -> impl Iterator<Item = u64> {
    let is_small = |meta: &&SegmentMeta| meta.bucket == 0 && meta.bytes < options.value_segment_bytes / 8;
    version.segments().map(|(meta, _)| meta).filter(is_small).map(|meta| meta.number)
}

/// Adds what the next level holds between the smallest and the largest input key: outputs may span gaps.
fn with_overlapped(
    version: &Version,
    options: &Options,
    level: usize,
    inputs: Vec<Arc<Table>>,
    rewrite: bool,
) -> Job {
    let overlapped = version.overlapped(level + 1, &inputs).cloned().collect();
    let mut collect = mostly_garbage(version, options);
    if level == 0 {
        collect.extend(small(version, options));
    }
    Job { level, target: level + 1, inputs, overlapped, rewrite, collect, now: 0, is_sinking: false }
}
