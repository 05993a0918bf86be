//! The rows of a stand-alone database, made into those of a region.

use crate::catalog::CF_META;
use crate::mvcc::{self, CF_DEFAULT, CF_WRITE};
use crate::{Error, Result};
use bytes::Bytes;
use nokv_engine::{Db, Import, Snapshot};
use nokv_env::Env;
use std::path::Path;

/// Where the table is written before it joins the engine.
const STAGED: &str = "migrate.sst.tmp";

/// Replaces all rows of the default family by those of the same content as transactions see it, and adds `catalog`, sorted by
/// key, in one step.
///
/// Raw and converted keys lie between each other in the default family and may even be the same bytes. In one table that
/// does not matter: what is written wins over what is removed, and nobody ever sees a mixture.
pub(super) async fn convert(env: &Env, db: &Db, workdir: &Path, catalog: &[(Bytes, Bytes)]) -> Result<()> {
    let path = workdir.join(STAGED);
    let io = |source| Error::Io { path: path.clone(), doing: "remove what an earlier attempt left", source };
    if env.disk.exists(&path).map_err(io)? {
        env.disk.remove_file(&path).map_err(io)?;
    }
    let before = db.snapshot();
    let mut table = db.import(&path)?;
    replace_default(&before, &mut table)?;
    for row in before.iter_uncached(CF_DEFAULT, ..) {
        let (key, value) = row?;
        let (key, record) = mvcc::settled(&key, value).write;
        table.put(CF_WRITE, key, record)?;
    }
    for (key, value) in catalog {
        table.put(CF_META, key.clone(), value.clone())?;
    }
    let mut table = table.finish().await?;
    db.adopt(&mut table)?;
    Ok(())
}

/// Removes the raw keys and writes the long values under their new ones: two walks over the same rows, merged.
fn replace_default(before: &Snapshot, table: &mut Import) -> Result<()> {
    let mut raw = before.iter_uncached(CF_DEFAULT, ..).map(|row| row.map(|(key, _)| key)).peekable();
    for row in before.iter_uncached(CF_DEFAULT, ..) {
        let (key, value) = row?;
        let Some(new_key) = mvcc::settled_default_key(&key, value.len()) else { continue };
        remove_below(&mut raw, Some(&new_key), table)?;
        // The same bytes as a raw key: written here, so not removed.
        if raw.peek().is_some_and(|next| next.as_ref().is_ok_and(|next| *next == new_key)) {
            raw.next();
        }
        table.put(CF_DEFAULT, new_key, value)?;
    }
    remove_below(&mut raw, None, table)
}

/// Removes raw keys below `end`, or all that are left.
fn remove_below<I>(raw: &mut std::iter::Peekable<I>, end: Option<&Bytes>, table: &mut Import) -> Result<()>
where
    I: Iterator<Item = nokv_engine::Result<Bytes>>,
{
    let is_below = |next: &nokv_engine::Result<Bytes>| {
        next.as_ref().is_err() || end.is_none_or(|end| next.as_ref().is_ok_and(|key| key < end))
    };
    while let Some(key) = raw.next_if(is_below) {
        table.delete(CF_DEFAULT, key?)?;
    }
    Ok(())
}
