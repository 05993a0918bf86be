//! Carrying out a job, or a part of one: merge the inputs, keep one version a key, write new tables.
//!
//! Snapshots keep their own tables alive, so the newest version of a key is all that has to be kept. A tombstone
//! is dropped where no deeper level has its key, and kept where tables of level 0 are gathered: others there may have
//! it. A row that has ended is a tombstone: what it hides must stay hidden.

use crate::compaction::output::{Output, Written};
use crate::compaction::pick::Job;
use crate::iter::merge::Newest;
use crate::iter::source::LevelSource;
use crate::iter::{Direction, Source};
use crate::key::{SEQUENCE_MAX, Span};
use crate::pace::Pace;
use crate::table::Table;
use crate::version::Version;
use crate::{Error, Result};
use std::sync::Arc;

/// Merges what the tables of `job` have in `span` into new ones. `version` must hold all levels below the
/// job as they were when it was picked. Returns the new files; see [`Output::finish`] for what of them is
/// durable. Stops with [`Error::Closed`] when `stopped` says so.
pub(crate) async fn run(
    job: &Job,
    span: &Span,
    version: &Version,
    mut output: Output<'_>,
    mut pace: Pace<'_>,
    stopped: impl Fn() -> bool + Send + Sync,
) -> Result<Written> {
    let merge = Merge { job, span, version, stopped: &stopped };
    if job.is_in_place() {
        for table in &job.inputs {
            if job.leaves_nothing(version, table) {
                output.left_out(table.meta.entries);
                continue;
            }
            merge.run(vec![merge.level([table], &pace)], &mut output, &mut pace).await?;
            // What lies between this table and the next is somebody else's.
            output.cut()?;
        }
    } else {
        // What is overlapped is disjoint: one after the other, so that only one of them has blocks in memory.
        let inputs = job.inputs.iter().map(|table| merge.level([table], &pace));
        let sources = inputs.chain([merge.level(&job.overlapped, &pace)]).collect();
        merge.run(sources, &mut output, &mut pace).await?;
    }
    output.cut()?;
    pace.end(output.bytes());
    output.finish()
}

struct Merge<'a> {
    job: &'a Job,
    span: &'a Span,
    version: &'a Version,
    stopped: &'a (dyn Fn() -> bool + Send + Sync),
}

impl Merge<'_> {
    /// What disjoint tables, which come in order, have in the span.
    fn level<'a>(&self, tables: impl IntoIterator<Item = &'a Arc<Table>>, pace: &Pace<'_>) -> Source {
        let has_some = |table: &&Arc<Table>| self.span.overlaps(&table.meta.smallest, &table.meta.largest);
        let tables = tables.into_iter().filter(has_some).cloned().collect();
        let level = LevelSource::new(tables, self.span.clone(), Direction::Forward, false);
        Box::new(level.metered(pace.read_meter()))
    }

    async fn run(&self, sources: Vec<Source>, output: &mut Output<'_>, pace: &mut Pace<'_>) -> Result<()> {
        let Self { job, version, stopped, .. } = self;
        for entry in Newest::new(sources, Direction::Forward, SEQUENCE_MAX) {
            let entry = output.judged(entry?);
            let bytes = entry.table_bytes();
            let (cf, user) = (entry.key.cf, &entry.key.user);
            let dead = entry.value.is_tombstone()
                && !job.is_gathering()
                && !version.covered_below(job.target, cf, user);
            if !dead {
                output.add(entry)?;
            }
            if pace.after(bytes, || output.bytes()).await && stopped() {
                return Err(Error::Closed);
            }
        }
        Ok(())
    }
}
