//! Rows of a snapshot as table files, for another database to take in.
//!
//! An exported table is an ordinary one (see `table::format`), with live rows only, each under sequence 0: it says what is,
//! not when it was written. Until when a row is there goes along. Values stand in it as they are, so the files need nothing beside them.

use crate::db::{Db, Inner};
use crate::error::IoContext;
use crate::key::{Entry, InternalKey};
use crate::pace::{Pace, Work};
use crate::table::builder::TableBuilder;
use crate::table::format::TableMeta;
use crate::value::Value;
use crate::{Cf, Result, Snapshot, files};
use bytes::Bytes;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};

/// A file that [`Db::export`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedTable {
    /// Where it is.
    pub file: PathBuf,
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// Its first row.
    pub first: (Cf, Bytes),
    /// Its last row.
    pub last: (Cf, Bytes),
}

impl Db {
    /// Writes the rows that `snapshot` has in `range` of each of `families` into tables in `dir`, which is created if it is
    /// missing: `00001.sst` and so on, in order of keys, about [`crate::Options::table_bytes`] each, none for no rows. They
    /// are for [`Db::ingest`]. A file that has such a name already is an error; what a failure interrupts is removed again,
    /// what a crash interrupts is not. The files are durable when this returns. Works on a read-only database too.
    pub async fn export(
        &self,
        snapshot: &Snapshot,
        families: &[Cf],
        range: impl RangeBounds<Bytes> + Clone,
        dir: &Path,
    ) -> Result<Vec<ExportedTable>> {
        let inner = &self.inner;
        let disk = inner.disk();
        disk.create_dir_all(dir).at(dir, "create")?;
        let mut families = families.to_vec();
        families.sort_unstable();
        families.dedup();
        let mut draft = Drafts { inner, dir, builder: None, done: Vec::new(), is_whole: false };
        let relief = || inner.relief();
        let mut pace = inner.env().ok().map(|env| Pace::new(env, &inner.limiter, Work::Other, &relief));
        for cf in families {
            let mut rows = snapshot.iter_uncached(cf, range.clone());
            while let Some((key, value)) = rows.next().transpose()? {
                let bytes = key.len() + value.len() + 16;
                draft.add(cf, key, Value::Inline(value).until(rows.until()))?;
                if let Some(pace) = &mut pace {
                    // Rows are read as they are written: about as many bytes.
                    pace.after(bytes, || 2 * draft.bytes()).await;
                }
            }
        }
        draft.cut()?;
        if let Some(pace) = pace {
            pace.end(2 * draft.bytes());
        }
        disk.sync_dir(dir).at(dir, "sync")?;
        Ok(draft.keep())
    }
}

/// Tables on their way. Dropped, they take their files along unless all of them are whole.
struct Drafts<'a> {
    inner: &'a Inner,
    dir: &'a Path,
    builder: Option<TableBuilder>,
    done: Vec<TableMeta>,
    is_whole: bool,
}

impl Drafts<'_> {
    /// Bytes of all tables so far, about.
    fn bytes(&self) -> u64 {
        let done: u64 = self.done.iter().map(|meta| meta.bytes).sum();
        done + self.builder.as_ref().map_or(0, TableBuilder::bytes)
    }

    fn add(&mut self, cf: Cf, key: Bytes, value: Value) -> Result<()> {
        let builder = match &mut self.builder {
            Some(builder) => builder,
            none => {
                let number = self.done.len() as u64 + 1;
                none.insert(TableBuilder::create(self.inner.disk(), self.dir, number, &self.inner.options)?)
            }
        };
        builder.add(&Entry { key: InternalKey::new(cf, key, 0), value })?;
        if builder.bytes() >= self.inner.options.table_bytes { self.cut() } else { Ok(()) }
    }

    /// Finishes the table at hand.
    fn cut(&mut self) -> Result<()> {
        if let Some(builder) = self.builder.take() {
            let meta = builder.finish();
            if meta.is_err() {
                self.remove(self.done.len() as u64 + 1);
            }
            self.done.push(meta?);
        }
        Ok(())
    }

    fn keep(mut self) -> Vec<ExportedTable> {
        self.is_whole = true;
        let exported = |meta: TableMeta| ExportedTable {
            file: files::table(self.dir, meta.number),
            rows: meta.entries,
            bytes: meta.bytes,
            first: (Cf(meta.smallest.cf), meta.smallest.user),
            last: (Cf(meta.largest.cf), meta.largest.user),
        };
        std::mem::take(&mut self.done).into_iter().map(exported).collect()
    }

    fn remove(&self, number: u64) {
        drop(self.inner.disk().remove_file(&files::table(self.dir, number)));
    }
}

impl Drop for Drafts<'_> {
    fn drop(&mut self) {
        if self.is_whole {
            return;
        }
        // A builder is there only for a file that it created.
        let begun = self.builder.as_ref().map(|_| self.done.len() as u64 + 1);
        self.done.iter().map(|meta| meta.number).chain(begun).for_each(|number| self.remove(number));
    }
}
