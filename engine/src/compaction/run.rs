//! Carrying out a job: merge the inputs, keep one version a key, write new tables.
//!
//! Snapshots keep their own tables alive, so the newest version of a key is all that has to be kept. A tombstone
//! is dropped where no deeper level has its key.

use crate::compaction::pick::Job;
use crate::iter::merge::Newest;
use crate::iter::source::TableSource;
use crate::iter::{Direction, Source};
use crate::key::{Entry, SEQUENCE_MAX, Span};
use crate::options::Options;
use crate::table::TableContext;
use crate::table::builder::TableBuilder;
use crate::table::format::TableMeta;
use crate::version::Version;
use crate::{Error, Result};
use nokv_env::Env;

/// Bytes of keys and values between two yields.
const PIECE_BYTES: usize = 256 << 10;

/// Writes entries into as many tables as it takes.
pub(crate) struct Output<'a> {
    context: &'a TableContext,
    options: &'a Options,
    next_file: &'a (dyn Fn() -> u64 + Send + Sync),
    table_bytes: u64,
    builder: Option<TableBuilder>,
    done: Vec<TableMeta>,
}

impl<'a> Output<'a> {
    /// Tables are cut at `table_bytes` and numbered by `next_file`.
    pub(crate) fn new(
        context: &'a TableContext,
        options: &'a Options,
        table_bytes: u64,
        next_file: &'a (dyn Fn() -> u64 + Send + Sync),
    ) -> Self {
        Self { context, options, next_file, table_bytes, builder: None, done: Vec::new() }
    }

    /// Adds an entry; at most one version a key comes here, so tables may be cut anywhere.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<()> {
        let mut builder = match self.builder.take() {
            Some(builder) => builder,
            None => {
                let context = self.context;
                TableBuilder::create(&*context.disk, &context.dir, (self.next_file)(), self.options)?
            }
        };
        builder.add(entry)?;
        if builder.bytes() >= self.table_bytes {
            self.done.push(builder.finish()?);
        } else {
            self.builder = Some(builder);
        }
        Ok(())
    }

    /// The finished tables, content durable.
    pub(crate) fn finish(mut self) -> Result<Vec<TableMeta>> {
        if let Some(builder) = self.builder.take() {
            self.done.push(builder.finish()?);
        }
        Ok(self.done)
    }
}

/// Merges the tables of `job` into new ones. `version` must hold all levels below the job as they were when it was
/// picked. Returns the new tables: their content is durable, their names are not yet. Stops with [`Error::Closed`] when `stopped` says so.
pub(crate) async fn run(
    env: &Env,
    job: &Job,
    version: &Version,
    mut output: Output<'_>,
    stopped: impl Fn() -> bool + Send,
) -> Result<Vec<TableMeta>> {
    let source = |table: &std::sync::Arc<crate::table::Table>| {
        Box::new(TableSource::new(table.clone(), Span::all(), Direction::Forward, false)) as Source
    };
    let sources: Vec<Source> = job.tables().map(source).collect();
    let mut piece = 0;
    for entry in Newest::new(sources, Direction::Forward, SEQUENCE_MAX) {
        let entry = entry?;
        piece += entry.key.user.len() + entry.value.as_ref().map_or(0, bytes::Bytes::len) + 16;
        let dead =
            entry.value.is_none() && !version.covered_below(job.target(), entry.key.cf, &entry.key.user);
        if !dead {
            output.add(&entry)?;
        }
        if piece >= PIECE_BYTES {
            piece = 0;
            env.tasks.yield_now().await;
            if stopped() {
                return Err(Error::Closed);
            }
        }
    }
    output.finish()
}
