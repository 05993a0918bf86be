//! Whether a directory can be migrated: a look that changes nothing.

use crate::mode::{self, Mode};
use crate::mvcc::{CF_DEFAULT, settled_default_key};
use crate::{Error, Result, catalog};
use nokv_engine::{Cf, Db, Options};
use nokv_env::Disk;
use nokv_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Room for what is not rows: manifest, log, catalog.
const SPARE_BYTES: u64 = 64 << 20;
/// What a row's records weigh besides key and value, about.
const ROW_BYTES: u64 = 32;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The directory.
    pub workdir: PathBuf,
    /// What it is.
    pub mode: Mode,
    /// What is in the way; nothing: it can be migrated.
    pub blockers: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Regions in the directory's catalog.
    pub local_catalog_regions: usize,
    /// Keys that would be migrated.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Bytes that the disk must have free meanwhile: a copy of the rows in their new form, and the seed snapshot.
    pub bytes_needed: u64,
    /// Bytes that it has.
    pub bytes_free: u64,
    /// The last write that was seen.
    pub(super) sequence: u64,
}

impl Plan {
    /// Whether [`super::init`] would begin.
    pub fn is_eligible(&self) -> bool {
        self.blockers.is_empty()
    }

    fn new(workdir: &Path, mode: Mode) -> Self {
        Self {
            workdir: workdir.to_owned(),
            mode,
            blockers: Vec::new(),
            warnings: Vec::new(),
            local_catalog_regions: 0,
            rows: 0,
            bytes: 0,
            bytes_needed: 0,
            bytes_free: 0,
            sequence: 0,
        }
    }
}

/// Looks at the directory: the manifest, the log and every block of every table are read and checked, and each row is
/// looked at. Takes no lock and changes nothing. A mode file that makes no sense is an error, and so is a disk that refuses.
pub fn plan(disk: Arc<dyn Disk>, workdir: &Path) -> Result<Plan> {
    let state = mode::read(&*disk, workdir)?;
    let mut plan = Plan::new(workdir, state.mode);
    if state.mode != Mode::Standalone {
        let next =
            if state.mode == Mode::Preparing { "; go on with `nokv migrate init` and its ids" } else { "" };
        let ids = format!("store={} region={} peer={}", state.store_id, state.region_id, state.peer_id);
        plan.blockers.push(format!("mode is {}, not standalone ({ids}){next}", state.mode.name()));
    }
    let db = match Db::open_read_only(disk.clone(), workdir, Options::default()) {
        Ok(db) => db,
        Err(error @ nokv_engine::Error::Io { .. }) => return Err(error.into()),
        Err(error) => {
            plan.blockers.push(error.to_string());
            return Ok(plan);
        }
    };
    match catalog::read(&db) {
        Ok(regions) => plan.local_catalog_regions = regions.len(),
        Err(error) => plan.blockers.push(error.to_string()),
    }
    if state.mode == Mode::Standalone {
        look_at_rows(&mut plan, &db)?;
        let io = |source| Error::Io { path: workdir.to_owned(), doing: "ask for free space", source };
        plan.bytes_free = disk.free_space(workdir).map_err(io)?;
        if plan.bytes_free < plan.bytes_needed {
            let (needed, free) = (plan.bytes_needed, plan.bytes_free);
            plan.blockers.push(format!("the disk has {free} bytes free; {needed} are needed meanwhile"));
        }
    }
    Ok(plan)
}

fn look_at_rows(plan: &mut Plan, db: &Db) -> Result<()> {
    plan.sequence = db.last_sequence();
    let torn = db.stats().wal_torn_bytes;
    if torn > 0 {
        plan.warnings.push(format!(
            "the log ends in {torn} bytes of a write that was not finished when the program died; `init` cuts them off"
        ));
    }
    let expiring = db.stats().expiring;
    if expiring > 0 {
        plan.blockers.push(format!(
            "{expiring} rows have an end (some may be replaced or over, and not compacted yet); replicas have clocks of their \
             own, so a store has no such rows: export those that stay into another database, without an end"
        ));
    }
    let snapshot = db.snapshot();
    for cf in (1..=u8::MAX).map(Cf) {
        if let Some(row) = snapshot.iter(cf, ..).next() {
            match row {
                Ok(_) => plan.blockers.push(format!(
                    "family {} holds data; a store uses families of its own, and only family 0 is migrated",
                    cf.0
                )),
                Err(error) => plan.blockers.push(error.to_string()),
            }
        }
    }
    let mut stored = 0;
    for row in snapshot.iter_uncached(CF_DEFAULT, ..) {
        let (key, value) = match row {
            Ok(row) => row,
            Err(error @ nokv_engine::Error::Io { .. }) => return Err(error.into()),
            Err(error) => {
                plan.blockers.push(error.to_string());
                break;
            }
        };
        let problem = if key.is_empty() {
            Some("the empty key has a value; keys of a cluster have at least one byte".to_owned())
        } else if key.len() > KEY_BYTES_MAX {
            Some(format!("a key has {} bytes; a cluster takes {KEY_BYTES_MAX}", key.len()))
        } else if value.len() > VALUE_BYTES_MAX {
            Some(format!("a value has {} bytes; a cluster takes {VALUE_BYTES_MAX}", value.len()))
        } else {
            None
        };
        if let Some(problem) = problem {
            let key = key.get(..64).unwrap_or(&key).escape_ascii();
            plan.blockers.push(format!("key \"{key}\": {problem}"));
            if plan.blockers.len() > 20 {
                plan.blockers.push("and perhaps more".into());
                break;
            }
        }
        plan.rows += 1;
        plan.bytes += (key.len() + value.len()) as u64;
        let twice = u64::from(settled_default_key(&key, value.len()).is_some());
        stored += (1 + twice) * (key.len() as u64 + ROW_BYTES) + value.len() as u64;
    }
    if plan.rows == 0 && plan.blockers.is_empty() {
        plan.warnings.push("the database holds no keys".into());
    }
    plan.bytes_needed = 2 * stored + SPARE_BYTES;
    Ok(())
}
