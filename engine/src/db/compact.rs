//! The compaction loop: pick, run, install, until no level asks for more.

use crate::compaction::pick::{Cursors, Job, pick};
use crate::compaction::run::{Output, run};
use crate::db::{Inner, add};
use crate::edit::Edit;
use crate::error::IoContext;
use crate::table::format::TableMeta;
use crate::{Error, Result};
use nokv_env::Env;

impl Inner {
    pub(super) async fn compact_loop(&self, env: &Env) -> Result<()> {
        let mut cursors = Cursors::default();
        loop {
            self.compact_work.notified().await;
            while self.check().is_ok() {
                let Some(job) = pick(&self.view().version, &self.options, &cursors) else { break };
                match self.compact(env, &job).await {
                    Err(Error::Closed) => return Ok(()),
                    other => other?,
                }
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

    async fn compact(&self, env: &Env, job: &Job) -> Result<()> {
        let begun = env.clock.now();
        let removed = job.tables().map(|table| table.meta.number).collect();
        let tables = if job.is_move() {
            add(&self.counters.compaction_moves, 1);
            env.probe("engine.compaction.move");
            job.inputs.iter().map(|table| table.meta.clone()).collect()
        } else {
            self.rewrite(env, job).await?
        };
        let added = tables.into_iter().map(|meta| (job.target(), meta)).collect();
        self.install(Edit { added, removed, ..Edit::default() }, |_| {})?;
        self.counters.compaction_time.add(env.clock.now().since(begun));
        Ok(())
    }

    async fn rewrite(&self, env: &Env, job: &Job) -> Result<Vec<TableMeta>> {
        let next_file = || self.next_file_number();
        let output = Output::new(&self.context, &self.options, self.options.table_bytes, &next_file);
        let version = self.view().version.clone();
        let tables = run(env, job, &version, output, || self.check().is_err()).await?;
        if !tables.is_empty() {
            self.disk().sync_dir(self.dir()).at(self.dir(), "sync")?;
        }
        add(&self.counters.compactions, 1);
        add(&self.counters.compaction_read_bytes, job.tables().map(|table| table.meta.bytes).sum());
        add(&self.counters.compaction_write_bytes, tables.iter().map(|meta| meta.bytes).sum());
        env.probe("engine.compaction");
        Ok(tables)
    }
}
