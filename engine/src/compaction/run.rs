//! Carrying out a job: merge the inputs, keep one version a key, write new tables.
//!
//! Snapshots keep their own tables alive, so the newest version of a key is all that has to be kept. A tombstone
//! is dropped where no deeper level has its key.

use crate::compaction::output::{Output, Written};
use crate::compaction::pick::Job;
use crate::iter::merge::Newest;
use crate::iter::source::LevelSource;
use crate::iter::{Direction, Source};
use crate::key::{SEQUENCE_MAX, Span};
use crate::table::Table;
use crate::version::Version;
use crate::{Error, Result};
use nokv_env::Env;
use std::sync::Arc;

/// Bytes of keys and values between two yields.
const PIECE_BYTES: usize = 256 << 10;

/// Merges the tables of `job` into new ones. `version` must hold all levels below the job as they were when it was
/// picked. Returns the new files; see [`Output::finish`] for what of them is durable. Stops with [`Error::Closed`] when `stopped` says so.
pub(crate) async fn run(
    env: &Env,
    job: &Job,
    version: &Version,
    mut output: Output<'_>,
    stopped: impl Fn() -> bool + Send + Sync,
) -> Result<Written> {
    let mut pace = Pace { env, piece: 0, stopped: &stopped };
    if job.is_collection() {
        for table in &job.inputs {
            merge(vec![read_all([table])], job, version, &mut output, &mut pace).await?;
            // What lies between this table and the next is somebody else's.
            output.cut()?;
        }
    } else {
        // What is overlapped is disjoint: one after the other, so that only one of them has blocks in memory.
        let inputs = job.inputs.iter().map(|table| read_all([table]));
        let sources = inputs.chain([read_all(&job.overlapped)]).collect();
        merge(sources, job, version, &mut output, &mut pace).await?;
    }
    output.finish()
}

/// Lets others run now and then.
struct Pace<'a> {
    env: &'a Env,
    piece: usize,
    stopped: &'a (dyn Fn() -> bool + Send + Sync),
}

impl Pace<'_> {
    async fn after(&mut self, bytes: usize) -> Result<()> {
        self.piece += bytes;
        if self.piece >= PIECE_BYTES {
            self.piece = 0;
            self.env.tasks.yield_now().await;
            if (self.stopped)() {
                return Err(Error::Closed);
            }
        }
        Ok(())
    }
}

/// All entries of disjoint tables, which come in order.
fn read_all<'a>(tables: impl IntoIterator<Item = &'a Arc<Table>>) -> Source {
    let tables = tables.into_iter().cloned().collect();
    Box::new(LevelSource::new(tables, Span::all(), Direction::Forward, false))
}

async fn merge(
    sources: Vec<Source>,
    job: &Job,
    version: &Version,
    output: &mut Output<'_>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    for entry in Newest::new(sources, Direction::Forward, SEQUENCE_MAX) {
        let entry = entry?;
        let bytes = entry.table_bytes();
        let (cf, user) = (entry.key.cf, &entry.key.user);
        let dead = entry.value.is_tombstone() && !version.covered_below(job.target, cf, user);
        if !dead {
            output.add(entry)?;
        }
        pace.after(bytes).await?;
    }
    Ok(())
}
