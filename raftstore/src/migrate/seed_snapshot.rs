//! What was migrated, as files beside the database.
//!
//! ```text
//! RAFTSTORE_SNAPSHOTS/region-00000000000000000001/snapshot.json           written last: with it, the snapshot is whole
//!                                                  tables/000001.snapshot   see `crate::snapshot_file`
//! ```
//!
//! Nobody needs it to run. It tells what the region began with, and an operator may remove it when the region has other
//! replicas.

use super::Ids;
use crate::catalog::{Gc, Members, Position};
use crate::snapshot::{Export, Ticket, file};
use crate::{Error, Result, sealed};
use nokv_engine::Db;
use nokv_env::clock::rfc3339;
use nokv_env::{Disk, Env, OpenMode, disk};
use nokv_proto::raft::v1::SnapshotTotal;
use nokv_replica::BIRTH;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The directory of all seed snapshots, in the working directory.
pub const DIRECTORY: &str = "RAFTSTORE_SNAPSHOTS";
const DESCRIPTION: &str = "snapshot.json";
const TABLE: &str = "tables/000001.snapshot";
/// Rows in one part of the file, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The region as it began.
    pub region: Region,
    /// Rows of all families.
    pub entry_count: u64,
    /// Number of tables.
    pub table_count: u64,
    /// Values are in the tables.
    pub inline_values: bool,
    /// The tables.
    pub tables: Vec<Table>,
    /// When, RFC 3339.
    pub created_at: String,
}

/// A region in few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the messages")]
pub struct Region {
    pub id: u64,
    pub epoch: Epoch,
    pub peers: Vec<Peer>,
    pub state: u32,
}

/// A region's epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the messages")]
pub struct Epoch {
    pub version: u64,
    pub conf_version: u64,
}

/// A region's peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the messages")]
pub struct Peer {
    pub store_id: u64,
    pub peer_id: u64,
}

/// A file of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Below the directory of the snapshot.
    pub relative_path: String,
    /// Rows in it.
    pub entry_count: u64,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// CRC-32C of its rows.
    pub rows_crc32c: u32,
}

/// The directory of a region's seed snapshot.
pub fn dir(workdir: &Path, region_id: u64) -> PathBuf {
    workdir.join(DIRECTORY).join(format!("region-{region_id:020}"))
}

/// What the directory holds, if it is whole.
pub fn read(disk: &dyn Disk, workdir: &Path, region_id: u64) -> Result<Option<Description>> {
    let path = dir(workdir, region_id).join(DESCRIPTION);
    let io = |source| Error::Io { path: path.clone(), doing: "read it", source };
    if !disk.exists(&path).map_err(io)? {
        return Ok(None);
    }
    let data = disk::read_all(disk, &path).map_err(io)?;
    sealed::decode(&data).map(Some).map_err(|what| Error::BadMode { path, what })
}

/// Writes the snapshot of a region that was just migrated, unless it is there.
pub(super) fn write(env: &Env, db: &Db, workdir: &Path, ids: Ids) -> Result<()> {
    let disk = &*env.disk;
    let home = dir(workdir, ids.region);
    if read(disk, workdir, ids.region)?.is_some() {
        return Ok(());
    }
    let path = home.join(TABLE);
    let io = |doing| {
        let path = path.clone();
        move |source| Error::Io { path, doing, source }
    };
    let tables = path.parent().unwrap_or(&home);
    disk.create_dir_all(tables).map_err(io("make its directory"))?;
    let out = disk.open(&path, OpenMode::Create).map_err(io("create it"))?;
    out.truncate(0).map_err(io("empty it"))?;
    let mut size_bytes = 0;
    let mut append = |part: &[u8]| {
        out.write_at(part, size_bytes).map_err(io("write it"))?;
        size_bytes += part.len() as u64;
        Ok::<_, Error>(())
    };
    let total = parts(env, db, ids, &mut append)?;
    out.sync_data().map_err(io("sync it"))?;
    disk.sync_dir(tables).map_err(io("sync its directory"))?;
    let nanos = i64::try_from(env.clock.unix_millis()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    let description = Description {
        region: Region {
            id: ids.region,
            epoch: Epoch { version: 1, conf_version: 1 },
            peers: vec![Peer { store_id: ids.store, peer_id: ids.peer }],
            state: 1,
        },
        entry_count: total.rows,
        table_count: 1,
        inline_values: true,
        tables: vec![Table {
            relative_path: TABLE.to_owned(),
            entry_count: total.rows,
            size_bytes,
            rows_crc32c: total.crc32c,
        }],
        created_at: rfc3339(nanos),
    };
    let path = home.join(DESCRIPTION);
    let text = sealed::encode(&description)
        .map_err(|error| Error::BadMode { path: path.clone(), what: error.to_string() })?;
    disk::write_atomically(disk, &path, text.as_bytes()).map_err(|source| Error::Io {
        path,
        doing: "write it",
        source,
    })
}

/// The parts of the file, in order; what their rows add up to.
fn parts(env: &Env, db: &Db, ids: Ids, append: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<SnapshotTotal> {
    let (region, gc) = (ids.region(), Gc::default());
    let at = Position { index: BIRTH.0, term: BIRTH.1 };
    let members = Members::all_vote(&region);
    let ticket = Ticket { id: 0, store_id: ids.store, region: region.clone(), at, gc };
    let export = Export::new(ticket.encode(), members.clone(), db.snapshot(), env.clock.now());
    append(&file::Header { store_id: ids.store, region, at, gc, members }.encode())?;
    let mut chunks = 0;
    for number in 0.. {
        let Some(chunk) = export.chunk(number, CHUNK_BYTES)? else { break };
        if !chunk.rows.is_empty() {
            chunks += 1;
            append(&file::Part::Chunk(chunk.rows).encode())?;
        }
        if let Some(total) = chunk.total {
            let total = SnapshotTotal { chunks, ..total };
            append(&file::Part::End(total).encode())?;
            return Ok(total);
        }
    }
    Ok(SnapshotTotal::default())
}
