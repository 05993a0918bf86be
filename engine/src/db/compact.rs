//! The compaction loop: pick, run, install, until no level asks for more.

use crate::compaction::output::{Output, Written};
use crate::compaction::pick::{Cursors, Hull, Job, pick};
use crate::compaction::run::run;
use crate::db::new_files::NewFiles;
use crate::db::{Inner, add};
use crate::edit::Edit;
use crate::error::IoContext;
use crate::key::Span;
use crate::{Error, Result, lock};
use nokv_env::Env;

/// The place of the one compaction that runs.
#[derive(Default)]
pub(super) struct Compacting {
    /// Where it will put its tables. Changes under `manifest`, or when it is done.
    pub(super) running: Option<Hull>,
    /// How many do not want another one to begin.
    holds: usize,
}

/// While it lives no compaction begins.
pub(super) struct Hold<'a>(&'a Inner);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        lock(&self.0.compacting).holds -= 1;
        self.0.compact_work.notify_one();
    }
}

impl Inner {
    /// Keeps compactions from beginning, and waits for the one that runs if it has to do with `spans`.
    pub(super) async fn hold_compactions(&self, spans: &[Span]) -> Result<Hold<'_>> {
        lock(&self.compacting).holds += 1;
        let hold = Hold(self);
        let is_done = || {
            let is_in_the_way = |hull: &Hull| spans.iter().any(|span| hull.overlaps(span));
            match self.check() {
                Ok(()) if lock(&self.compacting).running.as_ref().is_some_and(is_in_the_way) => None,
                checked => Some(checked),
            }
        };
        self.until(is_done).await.map(|()| hold)
    }

    pub(super) async fn compact_loop(&self, env: &Env) -> Result<()> {
        let mut cursors = Cursors::default();
        loop {
            self.compact_work.notified().await;
            while self.check().is_ok() {
                let Some(job) = self.pick(&cursors) else { break };
                let done = self.compact(env, &job).await;
                lock(&self.compacting).running = None;
                self.progress.notify_waiters();
                match done {
                    Err(Error::Closed) => return Ok(()),
                    other => {
                        if self.or_room(env, other).await?.is_none() {
                            continue;
                        }
                    }
                }
                self.took();
                cursors[job.level] = job.inputs.iter().map(|table| table.meta.largest.clone()).max();
                drop(job);
                self.bury()?;
                self.progress.notify_waiters();
                env.tasks.yield_now().await;
            }
            if self.check().is_err() {
                return Ok(());
            }
        }
    }

    /// The next job. Tables that come from outside meanwhile keep out of its way.
    fn pick(&self, cursors: &Cursors) -> Option<Job> {
        let _no_edits = lock(&self.manifest);
        let mut compacting = lock(&self.compacting);
        if compacting.holds > 0 {
            return None;
        }
        let job = pick(&self.view().version, &self.options, cursors)?;
        compacting.running = job.hull();
        Some(job)
    }

    async fn compact(&self, env: &Env, job: &Job) -> Result<()> {
        let begun = env.clock.now();
        let files = NewFiles::new(self);
        let removed = job.tables().map(|table| table.meta.number).collect();
        let written = if job.is_move() {
            add(&self.counters.compaction_moves, 1);
            env.probe("engine.compaction.move");
            Written {
                tables: job.inputs.iter().map(|table| table.meta.clone()).collect(),
                ..Written::default()
            }
        } else {
            self.rewrite(env, job, &files).await?
        };
        let added = written.tables.into_iter().map(|meta| (job.target, meta)).collect();
        let edit = Edit { added, removed, segments_added: written.segments, ..Edit::default() };
        files.join(|| self.install(edit, |_| {}))?;
        self.counters.compaction_time.add(env.clock.now().since(begun));
        Ok(())
    }

    async fn rewrite(&self, env: &Env, job: &Job, files: &NewFiles<'_>) -> Result<Written> {
        let next_file = || files.next_number();
        let version = self.view().version.clone();
        let output =
            Output::new(&self.context, &self.options, self.options.table_bytes, &version, &next_file);
        let output = output.collecting(job.collect.clone());
        let written = run(env, job, &version, output, || self.check().is_err()).await?;
        if !written.tables.is_empty() {
            self.disk().sync_dir(self.dir()).at(self.dir(), "sync")?;
        }
        add(&self.counters.compactions, 1);
        add(&self.counters.compaction_read_bytes, job.tables().map(|table| table.meta.bytes).sum());
        add(&self.counters.compaction_write_bytes, written.bytes());
        add(&self.counters.collected_bytes, written.moved_bytes);
        env.probe("engine.compaction");
        if job.is_collection() {
            add(&self.counters.collections, 1);
            env.probe("engine.vlog.collect");
        } else if written.moved_bytes > 0 {
            env.probe("engine.vlog.collect.passing");
        }
        Ok(written)
    }
}
