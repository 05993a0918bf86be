//! Where a large job is parted, so that its parts can be done at the same time.
//!
//! ```text
//! inputs      ├──────────────────┬─────────┤  ├──────┬──────────────┤
//! overlapped  ├─────┼─────┼──────┼┼──────┼─────┼─────┼──────┼───────┤
//! parts       ◄──────────────────►◄──────────────────►◄─────────────►
//! ```
//!
//! A border lies between two keys, never between two versions of one: a part sees all that the job has of a
//! key, so parts need nothing from each other, and what they write is apart. Only the parts together are a
//! step of the database.
//!
//! Origin: RocksDB calls them subcompactions.

use crate::Cf;
use crate::compaction::pick::Job;
use crate::key::{InternalKey, Span};
use crate::options::Options;
use crate::table::extent::Extent;
use crate::version::Version;

/// Spans that hold all keys of `job` between them, in order, of about the same number of bytes. One, if the
/// job is small, or is one that cannot be parted.
pub(crate) fn parts(job: &Job, version: &Version, options: &Options) -> Vec<Span> {
    let mut parts = vec![Span::all()];
    let mut extents: Vec<Extent> = job.tables().flat_map(|table| table.extents_at_a_glance()).collect();
    let total: u64 = extents.iter().map(|extent| extent.bytes).sum();
    let count = count(job, version, options, total);
    if count < 2 {
        return parts;
    }
    extents.sort_by(|a, b| a.last.cmp(&b.last));
    let Some(end) = extents.last().map(|extent| extent.last.clone()) else { return parts };
    let mut done = 0;
    for Extent { last, bytes } in extents {
        done += bytes;
        let is_whole = u128::from(done) * u128::from(count) >= u128::from(total) * parts.len() as u128;
        // Behind the last key there is nothing to part from.
        if is_whole && !last.same_user_key(&end) && (parts.len() as u64) < count {
            let border = InternalKey::after(Cf(last.cf), &last.user);
            if let Some(part) = parts.last_mut().filter(|part| part.low < border) {
                part.high = Some(border.clone());
                parts.push(Span { low: border, high: None });
            }
        }
    }
    parts
}

/// How many parts a job of so many bytes is worth: one of less than a table would not be worth a file.
fn count(job: &Job, version: &Version, options: &Options, bytes: u64) -> u64 {
    if job.is_in_place() || job.is_gathering() {
        // Tables are rewritten one by one, to fill a segment of the value log or two, or to be smaller; or become one.
        return 1;
    }
    let most = (options.subcompactions as u64).min(bytes / options.table_bytes);
    // Each part has segments of its own: parts must not make short ones of what is one long one.
    match moving(job, version) {
        0 => most,
        values => most.min(values / options.value_segment_bytes),
    }
}

/// Bytes of values that move while the job is done, at most.
fn moving(job: &Job, version: &Version) -> u64 {
    let moves = version.segments().filter(|(meta, _)| job.collect.contains(&meta.number));
    moves.map(|(_, live)| live).sum()
}
